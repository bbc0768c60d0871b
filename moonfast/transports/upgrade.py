"""The opening handshake of a WebSocket, on the server's side (RFC 6455 section 4.2)."""

from __future__ import annotations

import binascii
from collections.abc import Mapping

from moonfast.api.call import Call
from moonfast.errors import ApiError, BadRequest
from moonfast.speedups import wsframe
from moonfast.transports.response import STATUS_LINES

VERSION = "13"


class UpgradeRequired(ApiError):
    """A plain request, or another version of the protocol, on a path that speaks WebSocket only."""

    status = 426


class Upgrade:
    """Who wants a WebSocket."""

    __slots__ = ("call", "path")

    def __init__(self, path: str, call: Call) -> None:
        self.path, self.call = path, call


def check(method: str, version: str, headers: Mapping[str, str]) -> str:
    """Return the client's key. UpgradeRequired, BadRequest: this is no opening handshake."""
    tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
    if method != "GET" or version != "1.1" or "upgrade" not in tokens:
        raise UpgradeRequired("This path speaks WebSocket: connect with a WebSocket client")
    if "websocket" not in {item.strip().lower() for item in headers.get("upgrade", "").split(",")}:
        raise UpgradeRequired("This path speaks WebSocket: connect with a WebSocket client")
    if headers.get("sec-websocket-version", "").strip() != VERSION:
        raise UpgradeRequired(f"Use version {VERSION} of the WebSocket protocol")
    key = headers.get("sec-websocket-key", "").strip()
    try:
        is_key = len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except (binascii.Error, ValueError):
        is_key = False
    if not is_key:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def accepted(key: str) -> bytes:
    """The response that opens the WebSocket. No extension is offered: permessage-deflate costs more than it saves."""
    return b"%bUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % (
        STATUS_LINES[101],
        wsframe.accept_key(key.encode("ascii")),
    )
