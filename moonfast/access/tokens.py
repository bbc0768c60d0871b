"""Tokens: signed ones that say who a user is, and secret ones that can be used once.

A signed token is a JSON Web Token (RFC 7519) with HS256 (RFC 7515, RFC 7518 section 3.2): three parts in base64url. The
algorithm is never taken from the token. Its key is the user's own, so that a new key ends all tokens of this user.
Source of the claims: specification, "Login User".
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import NamedTuple

from moonfast.access.secrets import is_same
from moonfast.codec import DecodeError, decode, encode

ISSUER = "Moonraker"
ACCESS, REFRESH = "access", "refresh"
"""What a token is for."""
ACCESS_S = 3600.0
MAX_TOKEN_BYTES = 4096
ONESHOT_S = 5.0
MAX_ONESHOTS = 1000
"""Tokens for one use that wait at once; then the oldest ends early."""
_HEADER = b'{"alg":"HS256","typ":"JWT"}'


class Claims(NamedTuple):
    """What a token says, not checked yet. `signed` is the part that the signature is of."""

    username: str
    kind: str
    expires: float
    signed: bytes
    signature: bytes


def make(key: bytes, username: str, kind: str, now: float, lifetime_s: float) -> str:
    """A token of a user that ends `lifetime_s` from now, in seconds since 1970."""
    claims = {"iss": ISSUER, "iat": now, "exp": now + lifetime_s, "username": username, "token_type": kind}
    signed = b"%b.%b" % (_encoded(_HEADER), _encoded(encode(claims)))
    return (b"%b.%b" % (signed, _encoded(_sign(key, signed)))).decode("ascii")


def read(token: str) -> Claims | None:
    """Take a token apart; None: it is none of ours."""
    if len(token) > MAX_TOKEN_BYTES or not token.isascii():
        return None
    signed, _, signature = token.encode("ascii").rpartition(b".")
    header, _, body = signed.partition(b".")
    try:
        kind, claims, mark = decode(_decoded(header)), decode(_decoded(body)), _decoded(signature)
    except (DecodeError, binascii.Error, ValueError):
        return None
    if not isinstance(kind, dict) or kind.get("alg") != "HS256" or not isinstance(claims, dict):
        return None
    username, use, expires = claims.get("username"), claims.get("token_type"), claims.get("exp")
    if claims.get("iss") != ISSUER or not isinstance(username, str) or not isinstance(use, str):
        return None
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        return None
    return Claims(username, use, float(expires), signed, mark)


def is_signed(claims: Claims, key: bytes) -> bool:
    return is_same(_sign(key, claims.signed), claims.signature)


def _sign(key: bytes, data: bytes) -> bytes:
    import hmac  # needs half a megabyte: only where there are logins

    return hmac.digest(key, data, "sha256")


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    """ValueError: it is not base64url; the library would take the letters of base64, too."""
    if b"+" in text or b"/" in text:
        raise ValueError("not base64url")
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


class _OneShot(NamedTuple):
    expires: float
    address: str | None
    holder: object


class OneShots:
    """Tokens for one use within ONESHOT_S, from the address that has asked for them. Times are of a steady clock."""

    def __init__(self) -> None:
        self._waiting: dict[str, _OneShot] = {}

    def make(self, address: str | None, holder: object, now: float) -> str:
        """A new token, which stands for `holder`."""
        for token in [token for token, item in self._waiting.items() if item.expires <= now]:
            del self._waiting[token]
        if len(self._waiting) >= MAX_ONESHOTS:
            del self._waiting[next(iter(self._waiting))]
        token = base64.b32encode(os.urandom(20)).decode("ascii")
        self._waiting[token] = _OneShot(now + ONESHOT_S, address, holder)
        return token

    def take(self, token: str, address: str | None, now: float) -> object | None:
        """Whom it stands for; None: it is not valid, or not any more."""
        found = self._waiting.pop(token, None)
        if found is None or found.expires <= now or (found.address is not None and found.address != address):
            return None
        return found.holder
