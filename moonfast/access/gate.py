"""Who a caller is: what it presents counts before what its address is worth.

    nothing presented    -> its address: trusted, or not; with `force_logins` nobody is as soon as there is a user
    a token or the key   -> that user; if it is not valid, nobody, whatever the address is worth
    a blank one          -> nothing presented

A lasting connection keeps what it was given as a `Proof`. When accounts change, `on_change` is called, and the owner of
the connections has each of them assessed again. Source: specification, "Authorization".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from moonfast.access.secrets import is_same
from moonfast.access.tokens import OneShots
from moonfast.access.trusted import TrustedClients
from moonfast.access.users import API_USER, RESERVED, TRUSTED_USER, Users
from moonfast.api.call import Call
from moonfast.api.params import from_query
from moonfast.errors import Unauthorized

CREDENTIALS = frozenset(("authorization", "x-api-key"))
"""Headers; there are the query arguments `access_token` and `token`, too."""
LOGIN_FIRST = "Log in, or send an API key"
BAD_TOKEN = "the access token is not valid, or not any more: log in again"
BAD_ONESHOT = "the one-shot token is not valid: it works once, within 5 seconds, from the address that asked for it"
BAD_KEY = "the API key is wrong: read the present one with GET /access/api_key"
BAD_CREDENTIAL = "what this connection has identified itself with is not valid: connect again"
NO_KEY = "API keys are switched off: set enable_api_key in the section [authorization]"


class Proof(NamedTuple):
    """What a caller has shown: whose it was, and the secret it was checked against."""

    user: str
    secret: bytes


class Gate:
    def __init__(
        self, trusted: TrustedClients, users: Users, *, force_logins: bool = False, uses_api_key: bool = True
    ) -> None:
        self._trusted, self._users = trusted, users
        self._force_logins, self._uses_api_key = force_logins, uses_api_key
        self._oneshots = OneShots()
        self.epoch = 0  # another one: what an address is worth may be something else now
        self.on_change: Callable[[], None] = lambda: None

    @property
    def demands_login(self) -> bool:
        """Trusted addresses have to log in, too."""
        return self._force_logins and len(self._users) > 0

    def refusal(self, address: str | None) -> str | None:
        """Why a caller of this address that presents nothing may use only what is open; None: it may use all.

        Without an address it is on this machine, and the file system has let it in.
        """
        if address is None:
            return None
        return LOGIN_FIRST if self.demands_login else self._trusted.refusal(address)

    def examine(self, call: Call, headers: Mapping[str, str], query: str) -> None:
        """Let one request be whom it shows to be; if that is not valid, it may use only what is open."""
        try:
            arguments = from_query(query) if "token=" in query else {}
            proof = self.proof(call.address, headers, arguments)
        except Unauthorized as exc:
            call.withdraw(exc.remedy)
            call.reason = exc.reason
        else:
            if proof is not None:
                call.grant(_name(proof), proof)

    def proof(self, address: str | None, headers: Mapping[str, str], arguments: Mapping[str, Any]) -> Proof | None:
        """What a request presents; None: nothing. Unauthorized: it is not valid."""
        scheme, _, token = headers.get("authorization", "").strip().partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""  # another scheme is a proxy's in front of us
        token = token or str(arguments.get("access_token", "")).strip()
        if token:
            return self.by_token(token)
        if key := headers.get("x-api-key", "").strip():
            return self.by_key(key)
        if oneshot := str(arguments.get("token", "")).strip():
            found = self._oneshots.take(oneshot, address, time.monotonic())
            if not isinstance(found, Proof) or not self.holds(found):
                raise Unauthorized(BAD_ONESHOT, "invalid_token")
            return found
        return None

    def by_token(self, token: str) -> Proof:
        user = self._users.user_of(token)
        key = None if user is None else self._users.key_of(user)
        if user is None or key is None:
            raise Unauthorized(BAD_TOKEN, "invalid_token")
        return Proof(user, key)

    def by_key(self, key: str) -> Proof:
        if not self._uses_api_key:
            raise Unauthorized(NO_KEY, "api_key_disabled")
        own = self._users.api_key.encode()
        if not own or not is_same(key.encode(), own):
            raise Unauthorized(BAD_KEY, "invalid_api_key")
        return Proof(API_USER, own)

    def oneshot(self, call: Call) -> str:
        """A token for one request that may what this one may."""
        return self._oneshots.make(call.address, call.proof or Proof(TRUSTED_USER, b""), time.monotonic())

    def holds(self, proof: object) -> bool:
        """Whether what was shown earlier still counts."""
        if not isinstance(proof, Proof):
            return False
        if proof.user == TRUSTED_USER:
            return not self.demands_login
        if proof.user == API_USER:
            return self._uses_api_key and is_same(proof.secret, self._users.api_key.encode())
        key = self._users.key_of(proof.user)
        return key is not None and is_same(proof.secret, key)

    # lasting connections

    def admit(self, call: Call, proof: Proof) -> None:
        """Let a lasting connection be this user from now on."""
        call.grant(_name(proof), proof)
        self.on_change()

    def expel(self, call: Call) -> None:
        """What a lasting connection has shown was not valid: its address does not count any more either."""
        call.withdraw(BAD_CREDENTIAL)
        call.reason = "invalid_credential"
        self.on_change()

    def assess(self, call: Call) -> None:
        """Look again what a lasting connection may."""
        if call.proof is not None and self.holds(call.proof):
            return
        if call.refusal != BAD_CREDENTIAL:
            call.withdraw(self.refusal(call.address))

    def changed(self) -> None:
        """Accounts or the key have changed."""
        self.epoch += 1
        self.on_change()


def _name(proof: Proof) -> str | None:
    """The account that a proof is of; the key and trusted addresses are of none."""
    return None if proof.user in RESERVED else proof.user
