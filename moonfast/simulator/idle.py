"""idle_timeout: what the printer is busy with, and heaters off after a long rest.

    Idle --work--> Printing --quiet for READY_AFTER_S--> Ready --quiet for timeout_s--> Idle (heaters and motors off)
                      ^------------------work----------------+

Nothing ticks here: `advance` finds out what should have happened since it was last called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .clock import Clock

READY_AFTER_S = 0.5
TIMEOUT_S = 600.0


class IdleTimeout:
    """Watches the work. `is_busy` says whether a command or a print runs, `busy_until` when all motion ends."""

    def __init__(self, clock: Clock, is_busy: Callable[[], bool], busy_until: Callable[[], float]) -> None:
        self._clock, self._is_busy, self._busy_until = clock, is_busy, busy_until
        self._began = self._last_work = clock.now()
        self.state = "Idle"
        self.timeout_s = TIMEOUT_S

    def touch(self) -> None:
        """Take note of work that begins now."""
        now = self._clock.now()
        if self.state != "Printing":
            self.state, self._began = "Printing", now
        self._last_work = now

    def advance(self) -> bool:
        """Bring the state up to date. Return True once when the printer has rested for `timeout_s`."""
        now = self._clock.now()
        if self._is_busy() or self._busy_until() > now:
            self.touch()
            return False
        quiet = now - max(self._last_work, self._busy_until())
        if self.state == "Printing" and quiet >= READY_AFTER_S:
            self.state = "Ready"
        if self.state == "Ready" and quiet >= self.timeout_s:
            self.state = "Idle"
            return True
        return False

    def status(self) -> dict[str, Any]:
        printing = self._clock.now() - self._began if self.state == "Printing" else 0.0
        return {"state": self.state, "printing_time": printing, "idle_timeout": self.timeout_s}
