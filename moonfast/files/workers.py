"""The threads in which files are read and written: the loop never waits for a disk.

Two kinds, so that what takes long (a copy, a zip) never delays what is quick (looking at a folder, writing the next
piece of an upload).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

QUICK_THREADS = 2
LONG_THREADS = 1


class Workers:
    """Threads are made when first needed, and end with `stop`."""

    def __init__(self) -> None:
        self._quick: ThreadPoolExecutor | None = None
        self._long: ThreadPoolExecutor | None = None

    def quick(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run what takes milliseconds."""
        if self._quick is None:
            self._quick = ThreadPoolExecutor(QUICK_THREADS, "files")
        return _run(self._quick, function, *args, **kwargs)

    def long(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run what may take minutes."""
        if self._long is None:
            self._long = ThreadPoolExecutor(LONG_THREADS, "files-long")
        return _run(self._long, function, *args, **kwargs)

    async def stop(self) -> None:
        """End all threads; what has not begun is dropped, what runs is waited for, and so is who waits for it."""
        for executor in (self._quick, self._long):
            if executor is not None:
                await asyncio.to_thread(executor.shutdown, wait=True, cancel_futures=True)
        self._quick = self._long = None


def _run(
    executor: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]:
    future = executor.submit(function, *args, **kwargs)
    return asyncio.wrap_future(future, loop=asyncio.get_running_loop())
