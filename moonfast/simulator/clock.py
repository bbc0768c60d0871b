"""The simulated printer's clock, so that an hour of printing can pass in a second.

All durations of the printer's world (heating, motion, waiting, start-up) are in its own seconds. Only the pushes to
subscribers follow the real clock: they stand for network load, not for physics.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Klippy's monotonic clock, running `scale` times as fast as the real one."""

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0.0:
            raise ValueError(f"time scale must be above 0, not {scale!r}")
        self.scale = scale
        self._started = time.monotonic()
        self._sleepers: set[asyncio.Future[None]] = set()

    def now(self) -> float:
        """Return Klippy's `eventtime`, in seconds; it begins at the monotonic time of the machine."""
        return self._started + (time.monotonic() - self._started) * self.scale

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of the printer's time, or until `interrupt`, whichever comes first."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(max(0.0, seconds) / self.scale, _finish, done)
        self._sleepers.add(done)
        try:
            await done
        finally:
            timer.cancel()
            self._sleepers.discard(done)

    def interrupt(self) -> None:
        """Wake everybody who sleeps: the printer shut down, waiting has no sense any more."""
        for done in self._sleepers:
            _finish(done)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
