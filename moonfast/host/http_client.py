"""Requests to other servers: bounded in time and size, never redirected, and never in the way of the loop.

Each one has a thread for itself; the library for it is imported with the first. When its time is over its connection is
closed, so that a server that sends a byte now and then holds neither the caller nor the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.client import HTTPConnection

THREADS = 2
"""Requests at once; others wait."""
MAX_BYTES = 1024 * 1024

Answer = tuple[int, bytes]


class RequestError(Exception):
    """The other server cannot be asked, or did not answer as it should; in words for users."""


class HttpClient:
    def __init__(self) -> None:
        self._places = asyncio.Semaphore(THREADS)

    async def get(self, url: str, *, timeout_s: float, max_bytes: int = MAX_BYTES) -> Answer:
        """Status and body of a GET, `max_bytes` of it at most. RequestError: no answer in time, or the URL is none."""
        async with self._places:
            loop = asyncio.get_running_loop()
            request = _Request(url, timeout_s, max_bytes, loop)
            timer = loop.call_later(timeout_s, request.give_up)
            try:
                # a daemon: the server does not wait for others when it ends
                threading.Thread(target=request.work, name="http client", daemon=True).start()
                return await request.answer
            finally:
                timer.cancel()


class _Request:
    def __init__(self, url: str, timeout_s: float, max_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._url, self._timeout_s, self._max_bytes, self._loop = url, timeout_s, max_bytes, loop
        self._connection: HTTPConnection | None = None
        self.answer: asyncio.Future[Answer] = loop.create_future()

    def give_up(self) -> None:
        """The time is over."""
        self._tell(RequestError("no answer in time"))
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)  # the thread wakes up

    def work(self) -> None:
        """Blocking, in the thread."""
        try:
            found: Answer | RequestError = self._get()
        except RequestError as exc:
            found = exc
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, found)

    def _tell(self, found: Answer | RequestError) -> None:
        if self.answer.done():  # nobody waits any more
            return
        if isinstance(found, RequestError):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)

    def _get(self) -> Answer:
        from base64 import b64encode
        from http.client import HTTPConnection, HTTPException, HTTPSConnection
        from urllib.parse import unquote, urlsplit

        try:
            url = urlsplit(self._url)
            host, port = url.hostname, url.port
        except ValueError:
            raise RequestError("the address cannot be read") from None
        if url.scheme not in ("http", "https") or not host:
            raise RequestError("only http:// and https:// addresses can be asked")
        headers = {"User-Agent": "moonfast", "Accept": "*/*", "Connection": "close"}
        if url.username is not None:
            login = f"{unquote(url.username)}:{unquote(url.password or '')}"
            headers["Authorization"] = "Basic " + b64encode(login.encode()).decode()
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        self._connection = connection = kind(host, port, timeout=self._timeout_s)
        try:
            connection.request("GET", (url.path or "/") + (f"?{url.query}" if url.query else ""), headers=headers)
            response = connection.getresponse()
            return response.status, response.read(self._max_bytes) if self._max_bytes else b""
        except (OSError, HTTPException, ValueError) as exc:
            raise RequestError(f"no answer ({getattr(exc, 'strerror', None) or type(exc).__name__})") from None
        finally:
            connection.close()
