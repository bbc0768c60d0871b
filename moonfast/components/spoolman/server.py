"""Talks to a Spoolman server: its REST interface, and the WebSocket on which it tells of changes.

Source: Spoolman's own description of its interface, below `/api/v1` of every Spoolman.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from moonfast.codec import DecodeError, decode, encode
from moonfast.errors import BadRequest, ConfigError, PayloadTooLarge, StartError
from moonfast.host.http_client import HttpClient, RequestError, Response

log = logging.getLogger(__name__)

VERBS = ("GET", "POST", "PATCH", "PUT", "DELETE")
TIMEOUT_S = 10.0
RETRY_S, MAX_RETRY_S = 2.0, 60.0
"""Pause before connecting again: doubled each time, up to the second."""
MAX_BODY, MAX_ANSWER = 64 * 1024, 4 * 1024 * 1024
MAX_PATH, MAX_QUERY = 500, 4000  # characters
MAX_MESSAGE = 256 * 1024
"""Bytes of one message on the WebSocket."""

_PART = re.compile(r"[\w .~:@!$&'()*+,=-]+")  # of a path; no '%', which would be an escape within an escape


class SpoolmanServer:
    """`address` is the option `server` of [spoolman]. ConfigError: it is no address."""

    def __init__(self, address: str) -> None:
        try:
            parts = urlsplit(address.strip())
            is_usable = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
            )
            parts.port  # noqa: B018  (ValueError: it is none)
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ConfigError(
                "is not the address of a server.",
                section="spoolman",
                option="server",
                remedy="Write it like http://192.168.0.123:7912.",
            )
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api')}/api"
        self._shown = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        self._http = HttpClient()
        self.is_connected = False

    async def ask(self, verb: str, path: str, query: str = "", body: Any = None) -> Response:
        """One request; `path` and `query` as `checked_path` and `checked_query` make them. RequestError: no answer."""
        content = None if body is None else encode(body)
        if content is not None and len(content) > MAX_BODY:
            raise PayloadTooLarge(f"The body of a request to Spoolman may have {MAX_BODY} bytes at most")
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        url = f"{self._base}{path}?{query}" if query else f"{self._base}{path}"
        answer = await self._http.request(
            verb, url, headers=headers, body=content, timeout_s=TIMEOUT_S, max_bytes=MAX_ANSWER
        )
        if len(answer.body) >= MAX_ANSWER:
            raise RequestError(f"an answer of more than {MAX_ANSWER} bytes: ask for less")
        return answer

    async def spool(self, spool_id: int) -> Any:
        """What Spoolman knows of a spool, None if there is none of this number. RequestError: it does not say."""
        answer = await self.ask("GET", f"/v1/spool/{spool_id}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise RequestError(f"status {answer.status}")
        return answer.json()

    async def use(self, spool_id: int, length: float) -> int:
        """Report filament that was used, in mm; the status of the answer. RequestError: none came."""
        return (await self.ask("PUT", f"/v1/spool/{spool_id}/use", body={"use_length": length})).status

    async def listen(self, on_connection: Callable[[bool], None], on_deleted: Callable[[int], None]) -> None:
        """Stay connected, for ever. StartError: the package for it is not installed."""
        connect, closed = _library()
        url = "ws" + self._base.removeprefix("http") + "/v1/spool"
        pause, is_warned = RETRY_S, False
        while True:
            fault = "it ended the connection"
            try:
                async with connect(
                    url, open_timeout=TIMEOUT_S, close_timeout=0.2, max_size=MAX_MESSAGE, proxy=None
                ) as link:
                    log.info("Spoolman at %s is connected", self._shown)
                    pause, is_warned, self.is_connected = RETRY_S, False, True
                    on_connection(True)
                    async for message in link:
                        self._take(message, on_deleted)
            except (OSError, TimeoutError, ValueError, closed) as exc:  # ValueError: a host that cannot be a name
                fault = getattr(exc, "strerror", None) or type(exc).__name__
            if self.is_connected:
                self.is_connected = False
                on_connection(False)
            if not is_warned:
                log.warning("Spoolman at %s is not connected (%s): trying again", self._shown, fault)
                is_warned = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_S)

    @staticmethod
    def _take(message: str | bytes, on_deleted: Callable[[int], None]) -> None:
        try:
            event = decode(message if isinstance(message, bytes) else message.encode())
        except DecodeError:
            log.debug("Spoolman sent something that is not JSON")
            return
        if not isinstance(event, dict) or event.get("resource") != "spool" or event.get("type") != "deleted":
            return
        spool = event.get("payload")
        if isinstance(spool, dict) and isinstance(spool.get("id"), int):
            on_deleted(spool["id"])


def _library() -> tuple[Any, type[Exception]]:
    """What connects, and the error of connections. It is imported here: it takes memory."""
    try:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException
    except ImportError:
        raise StartError("needs the package websockets: install it with `pip install 'moonfast[spoolman]'`") from None
    return connect, WebSocketException


def check_library() -> None:
    """StartError: the package for WebSockets is not installed."""
    _library()


def checked_path(path: str) -> str:
    """A path of the interface, encoded anew. BadRequest: it may lead elsewhere, be it when it is decoded twice."""
    try:
        parts = unquote(path, errors="strict").removesuffix("/").split("/") if len(path) <= MAX_PATH else []
    except UnicodeDecodeError:
        parts = []
    is_good = parts[:2] == ["", "v1"] and len(parts) > 2 and "%2f" not in path.lower()
    if not is_good or not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts[2:]):
        raise BadRequest("The path must be one of Spoolman's interface, like /v1/spool/1")
    return "/".join(quote(part) for part in parts)


def checked_query(query: str) -> str:
    """A query string. BadRequest: it is none."""
    if len(query) > MAX_QUERY or "#" in query or not query.isprintable():
        raise BadRequest("The query must be that of an address, like a=1&b=2")
    return quote(query.removeprefix("?"), safe="%!$&'()*+,-./:;=?@_~")
