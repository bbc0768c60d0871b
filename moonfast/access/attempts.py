"""Failed logins: an address that guesses is made to wait, longer each time; nobody else is."""

from __future__ import annotations

from moonfast.errors import Unauthorized

FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 3600.0
MAX_ADDRESSES = 1024
"""Remembered at once; then the one that failed longest ago is forgotten."""


class Attempts:
    """Counts by address; times are those of a steady clock. `limit` None: nobody has to wait."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._failed: dict[str, tuple[int, float]] = {}  # count, and until when the address has to wait

    def check(self, address: str | None, now: float) -> None:
        """Unauthorized: this address has to wait."""
        until = self._failed.get(address or "", (0, 0.0))[1]
        if now < until:
            wait = f"too many failed logins from this address: try again in {until - now:.0f} seconds"
            raise Unauthorized(wait, "too_many_attempts")

    def failed(self, address: str | None, now: float) -> None:
        """A login from this address has failed."""
        if self._limit is None:
            return
        count = self._failed.pop(address or "", (0, 0.0))[0] + 1
        over = count - self._limit
        wait = min(FIRST_WAIT_S * 2.0 ** min(over, 16), LONGEST_WAIT_S) if over >= 0 else 0.0
        if len(self._failed) >= MAX_ADDRESSES:
            del self._failed[next(iter(self._failed))]
        self._failed[address or ""] = (count, now + wait)

    def succeeded(self, address: str | None) -> None:
        self._failed.pop(address or "", None)
