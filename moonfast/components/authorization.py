"""Logins: accounts, tokens and the API key, over HTTP and JSON-RPC.

Who a caller is says `access/gate.py`, for every request; this is where accounts are made, used and ended. Whatever ends
tokens does so before the answer goes out; connections that were opened with them stay open, as what their address is
worth. Source: specification, "Authorization".
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from moonfast.access import passwords
from moonfast.access.attempts import Attempts
from moonfast.access.gate import Gate, Proof
from moonfast.access.tokens import ACCESS, ACCESS_S, REFRESH, make
from moonfast.access.trusted import TrustedClients
from moonfast.access.users import API_USER, RESERVED, SOURCE, TRUSTED_USER, Users
from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.component import Component
from moonfast.components.ldap import Ldap
from moonfast.config.sections import AuthorizationConfig
from moonfast.errors import BadRequest, Unauthorized
from moonfast.vocab import DELETE, GET, POST, Access, Transport

log = logging.getLogger(__name__)

T = TypeVar("T")

DAY_S = 24 * 3600.0
RESOLVE_S = 60.0
"""Between two looks which addresses the names in `trusted_clients` have."""
LDAP = "ldap"
WAYS = Transport.ALL & ~Transport.MQTT
WRONG = "Invalid username or password"
"""One text for both: it tells nobody which names exist."""


class UserName(TypedDict):
    username: str


class Login(TypedDict):
    username: str
    token: str
    refresh_token: str
    source: str
    action: str


class Refreshed(TypedDict):
    username: str
    token: str
    source: str
    action: str


class Done(TypedDict):
    username: str
    action: str


class UserInfo(TypedDict):
    username: str
    source: str
    created_on: float


class UserList(TypedDict):
    users: list[UserInfo]


class AccessInfo(TypedDict):
    default_source: str
    available_sources: list[str]
    login_required: bool
    trusted: bool


CREATED = notification("user_created", UserName, "There is a new user.")
DELETED = notification("user_deleted", UserName, "A user was deleted, and so is logged out.")
LOGGED_OUT = notification("user_logged_out", UserName, "A user has logged out, everywhere.")


class Authorization(Component):
    def __init__(
        self, config: AuthorizationConfig, users: Users, gate: Gate, trusted: TrustedClients, ldap: Ldap | None
    ) -> None:
        self._config, self._users, self._gate, self._trusted = config, users, gate, trusted
        self._ldap = ldap
        self._sources = [SOURCE, LDAP] if ldap is not None else [SOURCE]
        self._default_source = config.default_source if config.default_source in self._sources else SOURCE
        if self._default_source != config.default_source:
            self.warnings = [
                "[authorization] default_source is 'ldap', but there is no section [ldap] that works: add it"
            ]
        self._attempts = Attempts(config.max_login_attempts)
        self._hashing = asyncio.Lock()  # one at a time: each takes 16 MiB
        self._started_at = time.time()

    async def start(self) -> None:
        await self._users.load()
        self._gate.changed()
        if self._trusted.names:
            self.spawn(self._resolve_names())

    # logins

    @endpoint(POST, "/access/login", access=Access.OPEN, transports=WAYS)
    async def login(self, call: Call, username: str, password: str, source: str | None = None) -> Login:
        """Log in with name and password. The token lasts an hour, the refresh token for `login_timeout` days.

        On a WebSocket the connection is that of this user from then on. Error 400: name or password are wrong; 401: too
        many logins from this address have failed, `reason` is "too_many_attempts".
        """
        source = self._default_source if source is None else source
        if source not in self._sources:
            raise BadRequest(f"There is no source of users '{source}': use one of {', '.join(self._sources)}")
        self._check_name(username)
        now = time.monotonic()
        self._attempts.check(call.address, now)
        try:
            await self._check(username, password, source)
        except BadRequest:
            self._attempts.failed(call.address, now)
            raise
        self._attempts.succeeded(call.address)
        record = self._users.get(username)
        if record is None:  # deleted meanwhile
            raise BadRequest(WRONG)
        if source == SOURCE and self._config.rehash_passwords and not passwords.is_strong(record["password"]):
            await self._users.set_password(username, *await self._hash(password), keeps_tokens=True)
        return await self._log_in(call, username, "user_logged_in")

    @endpoint(POST, "/access/logout", transports=WAYS)
    async def logout(self, call: Call) -> Done:
        """Log out: all tokens of this user end. Error 400: the caller is not logged in."""
        name = call.user
        if name is None:
            raise BadRequest(f"Invalid log out request for user {_shown(call)}")
        await self._users.end_tokens(name)
        self.emit_soon(LOGGED_OUT, {"username": name})
        self._assess_soon()
        return {"username": name, "action": "user_logged_out"}

    @endpoint(POST, "/access/refresh_jwt", access=Access.OPEN, transports=WAYS)
    async def refresh_jwt(self, call: Call, refresh_token: str) -> Refreshed:
        """Return a new token. Error 401: the refresh token is not valid, or not any more."""
        name = self._users.user_of(refresh_token, REFRESH)
        record = None if name is None else self._users.get(name)
        if name is None or record is None:
            raise Unauthorized("the refresh token is not valid, or not any more: log in again", "invalid_token")
        token = make(await self._users.token_key(name), name, ACCESS, time.time(), ACCESS_S)
        return {"username": name, "token": token, "source": record["source"], "action": "user_jwt_refresh"}

    # accounts

    @endpoint(GET, "/access/user", transports=WAYS)
    def get_user(self, call: Call) -> UserInfo:
        """Return who the caller is; `_TRUSTED_USER_` and `_API_KEY_USER_` are callers without an account."""
        record = None if call.user is None else self._users.get(call.user)
        if record is None:
            return {"username": _shown(call), "source": SOURCE, "created_on": self._started_at}
        return _info(record)

    @endpoint(POST, "/access/user", transports=WAYS)
    async def post_user(self, call: Call, username: str, password: str) -> Login:
        """Make an account and log in to it. Error 400: there is one of this name, or name or password cannot be."""
        self._check_name(username)
        if self._users.get(username) is not None:
            raise BadRequest(f"User {username} already exists")
        _check_password(password, "password")
        await self._users.add(username, *await self._hash(password))
        self.emit_soon(CREATED, {"username": username})
        self._assess_soon()
        return await self._log_in(call, username, "user_created")

    @endpoint(DELETE, "/access/user", transports=WAYS)
    async def delete_user(self, call: Call, username: str) -> Done:
        """Delete an account, and with it its tokens. Error 400: there is none, or it is the caller's own."""
        self._check_name(username)
        if username == call.user:
            raise BadRequest(f"Cannot delete logged in user {username}")
        if self._users.get(username) is None:
            raise BadRequest(f"No registered user: {username}")
        await self._users.remove(username)
        self.emit_soon(DELETED, {"username": username})
        self._assess_soon()
        return {"username": username, "action": "user_deleted"}

    @endpoint(GET, "/access/users/list", transports=WAYS)
    def list_users(self, call: Call) -> UserList:
        """Return all accounts."""
        return {"users": [_info(record) for record in self._users.all()]}

    @endpoint(POST, "/access/user/password", transports=WAYS)
    async def set_password(self, call: Call, password: str, new_password: str) -> Done:
        """Change the caller's own password; all tokens end. Error 400: it is wrong, or the caller is not logged in."""
        name = call.user
        record = None if name is None else self._users.get(name)
        if name is None or record is None:
            raise BadRequest(f"Cannot reset the password of {_shown(call)}: log in first")
        if record["source"] != SOURCE:
            raise BadRequest(f"The password of a user of '{record['source']}' is changed there")
        _check_password(new_password, "new_password")
        now = time.monotonic()
        self._attempts.check(call.address, now)
        if not await self._is_right(name, password):
            self._attempts.failed(call.address, now)
            raise BadRequest("Invalid Password")
        await self._users.set_password(name, *await self._hash(new_password))
        self._assess_soon()
        return {"username": name, "action": "user_password_reset"}

    # for those who cannot log in

    @endpoint(GET, "/access/oneshot_token", transports=WAYS)
    def oneshot_token(self, call: Call) -> str:
        """Return a token for one request, `?token=...`, within 5 seconds and from the same address."""
        return self._gate.oneshot(call)

    @endpoint(GET, "/access/api_key", transports=WAYS)
    def get_api_key(self, call: Call) -> str:
        """Return the API key, for the header `X-Api-Key`."""
        return self._users.api_key

    @endpoint(POST, "/access/api_key", transports=WAYS)
    async def post_api_key(self, call: Call) -> str:
        """Make a new API key, which is valid instead of the old one at once."""
        key = await self._users.new_api_key()
        self._assess_soon()
        return key

    @endpoint(GET, "/access/info", access=Access.OPEN, transports=WAYS)
    def info(self, call: Call) -> AccessInfo:
        """Return how to log in, and whether the caller has to."""
        return {
            "default_source": self._default_source,
            "available_sources": self._sources,
            "login_required": self._gate.demands_login,
            "trusted": call.address is None or self._trusted.serves(call.address),
        }

    # steps

    async def _check(self, username: str, password: str, source: str) -> None:
        """BadRequest: this is not the user's password, there."""
        record = self._users.get(username)
        if record is not None and record["source"] != source:
            raise BadRequest(f"User {username} is one of '{record['source']}': log in there")
        if source == SOURCE:
            if not await self._is_right(username, password):
                raise BadRequest(WRONG)
            return
        assert self._ldap is not None
        await self._ldap.check(username, password)
        if self._users.get(username) is None:  # the directory's users have an account here from their first login
            await self._users.add(username, "", "", LDAP)
            self.emit_soon(CREATED, {"username": username})
            self._assess_soon()

    def _check_name(self, username: str) -> None:
        if username in RESERVED:
            raise BadRequest(f"Invalid Request for user {username}")

    async def _log_in(self, call: Call, name: str, action: str) -> Login:
        """Make the tokens; a lasting connection is this user's from now on."""
        record = self._users.get(name)
        if record is None:
            raise BadRequest(WRONG)
        key, now = await self._users.token_key(name), time.time()
        if call.transport in Transport.CONNECTIONS and call.address is not None:
            self._gate.admit(call, Proof(name, key))
        return {
            "username": name,
            "token": make(key, name, ACCESS, now, ACCESS_S),
            "refresh_token": make(key, name, REFRESH, now, self._config.login_timeout * DAY_S),
            "source": record["source"],
            "action": action,
        }

    def _assess_soon(self) -> None:
        """Connections learn what they may no more behind the answer and its notification; requests at once."""
        asyncio.get_running_loop().call_soon(self._gate.changed)

    async def _is_right(self, name: str, password: str) -> bool:
        """Check a password; it takes as long for a name that does not exist."""
        record = self._users.get(name)
        stored, salt = (record["password"], str(record.get("salt"))) if record is not None else passwords.NOBODYS
        if len(password.encode()) > passwords.MAX_PASSWORD_BYTES:
            return False
        return await self._slowly(passwords.is_right, password, stored, salt)

    async def _hash(self, password: str) -> tuple[str, str]:
        return await self._slowly(passwords.new_hash, password)

    async def _slowly(self, function: Callable[..., T], *arguments: Any) -> T:
        async with self._hashing:
            return await asyncio.to_thread(function, *arguments)

    async def _resolve_names(self) -> None:
        """Find the addresses of the names in `trusted_clients`, again and again."""
        loop = asyncio.get_running_loop()
        failed: set[str] = set()
        while True:
            for name in self._trusted.names:
                try:
                    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
                except OSError as exc:
                    if name not in failed:
                        failed.add(name)
                        log.warning("[authorization] trusted_clients: '%s' has no address now: %s", name, exc.strerror)
                    continue  # what it had stays: a name server that is away for a moment locks nobody out
                failed.discard(name)
                if self._trusted.resolved(name, [str(item[4][0]) for item in found]):
                    self._gate.changed()
            await asyncio.sleep(RESOLVE_S)


def _info(record: dict[str, Any]) -> UserInfo:
    return {
        "username": record["username"],
        "source": record.get("source", SOURCE),
        "created_on": record.get("created_on", 0.0),
    }


def _shown(call: Call) -> str:
    """What a caller without an account is called."""
    return API_USER if isinstance(call.proof, Proof) and call.proof.user == API_USER else TRUSTED_USER


def _check_password(password: str, argument: str) -> None:
    if not 0 < len(password.encode()) <= passwords.MAX_PASSWORD_BYTES:
        raise BadRequest(f"Argument '{argument}' must be a text of 1 to {passwords.MAX_PASSWORD_BYTES} bytes")
