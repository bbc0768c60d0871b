"""Requests to other servers: bounded in time and size, never redirected, and never in the way of the loop.

Each one has a thread for itself; the library for it is imported with the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

THREADS = 2
"""Requests at once; others wait."""
MAX_BYTES = 1024 * 1024


class RequestError(Exception):
    """The other server cannot be asked, or did not answer as it should; in words for users."""


class HttpClient:
    def __init__(self) -> None:
        self._places = asyncio.Semaphore(THREADS)

    async def get(self, url: str, *, timeout_s: float, max_bytes: int = MAX_BYTES) -> tuple[int, bytes]:
        """Status and body of a GET, `max_bytes` of it at most. RequestError: no answer, or the URL is none."""
        async with self._places:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
            arguments = (loop, answer, url, timeout_s, max_bytes)
            # a daemon: the server does not wait for others when it ends
            threading.Thread(target=_work, args=arguments, name="http client", daemon=True).start()
            return await answer


def _work(
    loop: asyncio.AbstractEventLoop,
    answer: asyncio.Future[tuple[int, bytes]],
    url: str,
    timeout_s: float,
    max_bytes: int,
) -> None:
    def tell(found: tuple[int, bytes] | RequestError) -> None:
        if answer.done():  # nobody waits any more
            return
        if isinstance(found, RequestError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    try:
        found: tuple[int, bytes] | RequestError = _get(url, timeout_s, max_bytes)
    except RequestError as exc:
        found = exc
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell, found)


def _get(url: str, timeout_s: float, max_bytes: int) -> tuple[int, bytes]:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:  # what it leads to was not asked for
            return None

    if not url.lower().startswith(("http://", "https://")):
        raise RequestError("only http:// and https:// addresses can be asked")
    try:
        request = Request(url, headers={"User-Agent": "moonfast", "Accept": "*/*"})
        with build_opener(Stay, ProxyHandler({})).open(request, timeout=timeout_s) as response:
            return response.status, response.read(max_bytes) if max_bytes else b""
    except HTTPError as exc:
        with exc:
            return exc.code, b""
    except (OSError, HTTPException, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise RequestError(f"no answer ({getattr(reason, 'strerror', None) or type(exc).__name__})") from None
