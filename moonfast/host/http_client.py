"""Asks other HTTP servers: a camera, a plug, a feed of news.

The requests are few, so each has a thread for itself; the library for it is imported with the first. When its time is
over its connection is closed, so that a server that sends a byte now and then holds neither the caller nor the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from moonfast.codec import DecodeError, decode

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from urllib.parse import SplitResult

MayAsk = Callable[[str], bool]
"""Whether an IP address may be asked."""

THREADS = 2
"""Requests at once of one client; others wait."""
MAX_BYTES = 1024 * 1024


class RequestError(Exception):
    """The other server cannot be asked, or did not answer as it should; in words for users."""


class Response(NamedTuple):
    """What was answered. Names of headers are in lower case; of several with one name the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. RequestError: it is none."""
        try:
            return decode(self.body)
        except DecodeError:
            raise RequestError("the answer is not JSON") from None


class HttpClient:
    """Keeps the number of threads low: one client for everything that may wait for one another."""

    def __init__(self, places: int = THREADS) -> None:
        self._places = asyncio.Semaphore(places)

    async def get(
        self, url: str, *, timeout_s: float, max_bytes: int = MAX_BYTES, may_ask: MayAsk | None = None
    ) -> Response:
        """Ask with GET; see `request`."""
        return await self.request("GET", url, timeout_s=timeout_s, max_bytes=max_bytes, may_ask=may_ask)

    async def request(
        self,
        verb: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int = MAX_BYTES,
        follow: int = 0,
        may_ask: MayAsk | None = None,
    ) -> Response:
        """The answer, with `max_bytes` of its body at most. RequestError: none in time, or the URL is none.

        A user and password in the URL are sent as Basic credentials. `follow` redirects are followed, and only to the
        same scheme, host and port, with GET. `may_ask` decides on the address that the host's name stands for.
        """
        async with self._places:
            loop = asyncio.get_running_loop()
            request = _Request(verb, url, dict(headers or {}), body, timeout_s, max_bytes, follow, may_ask, loop)
            timer = loop.call_later(timeout_s, request.give_up)
            try:
                # a daemon: the server does not wait for others when it ends
                threading.Thread(target=request.work, name="http client", daemon=True).start()
                return await request.answer
            finally:
                timer.cancel()


class _Request:
    def __init__(
        self,
        verb: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        timeout_s: float,
        max_bytes: int,
        follow: int,
        may_ask: MayAsk | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._verb, self._url, self._headers, self._body = verb, url, headers, body
        self._timeout_s, self._max_bytes, self._follow, self._loop = timeout_s, max_bytes, follow, loop
        self._may_ask = may_ask
        self._connection: HTTPConnection | None = None
        self._is_over = False
        self.answer: asyncio.Future[Response] = loop.create_future()

    def give_up(self) -> None:
        """The time is over."""
        self._is_over = True
        self._tell(RequestError("no answer in time"))
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)  # the thread wakes up

    def work(self) -> None:
        """Blocking, in the thread."""
        try:
            found: Response | RequestError = self._ask_and_follow()
        except RequestError as exc:
            found = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, found)

    def _tell(self, found: Response | RequestError) -> None:
        if self.answer.done():  # nobody waits any more
            return
        if isinstance(found, RequestError):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)

    def _ask_and_follow(self) -> Response:
        from urllib.parse import urljoin

        url = _split(self._url)
        for _ in range(self._follow + 1):
            found = self._ask(url)
            target = found.headers.get("location")
            if found.status not in (301, 302, 303, 307, 308) or target is None or not self._follow:
                return found
            asked = url
            url = _split(urljoin(asked.geturl(), target))
            if (url.scheme, url.hostname, url.port) != (asked.scheme, asked.hostname, asked.port):
                raise RequestError("the answer is a redirect to another server, which is not followed")
            url = url._replace(netloc=asked.netloc)  # with its credentials
            self._verb, self._body = "GET", None
        raise RequestError("too many redirects")

    def _ask(self, url: SplitResult) -> Response:
        from base64 import b64encode
        from http.client import HTTPConnection, HTTPException, HTTPSConnection
        from urllib.parse import unquote

        headers = {"User-Agent": "moonfast", "Accept": "*/*", "Connection": "close", **self._headers}
        if url.username is not None:
            login = f"{unquote(url.username)}:{unquote(url.password or '')}"
            headers.setdefault("Authorization", "Basic " + b64encode(login.encode()).decode())
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        if self._is_over:
            raise RequestError("no answer in time")
        self._connection = connection = kind(url.hostname or "", url.port, timeout=self._timeout_s)
        if self._may_ask is not None:
            connection._create_connection = self._connect  # type: ignore[attr-defined]
        try:
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request(self._verb, target, self._body, headers)
            response = connection.getresponse()
            body = response.read(self._max_bytes) if self._max_bytes else b""
            if response.length and len(body) < self._max_bytes:
                raise RequestError("the answer was cut short")
            return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        except (OSError, HTTPException, ValueError) as exc:
            raise RequestError(f"no answer ({getattr(exc, 'strerror', None) or type(exc).__name__})") from None
        finally:
            connection.close()

    def _connect(self, address: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
        """Connect to the first address of a host that may be asked: names are looked up once, not again after it."""
        assert self._may_ask is not None
        for *_, found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            if self._may_ask(str(found[0])):
                return socket.create_connection((str(found[0]), int(found[1])), timeout, source)
        raise RequestError("an address of this network that the configuration does not name")


def _split(text: str) -> SplitResult:
    from urllib.parse import urlsplit

    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        raise RequestError("the address cannot be read") from None
    if url.scheme not in ("http", "https") or not host:
        raise RequestError("only http:// and https:// addresses can be asked")
    return url
