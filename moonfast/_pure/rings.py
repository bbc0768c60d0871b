"""Rings of fixed capacity, of numbers and of messages: the twin of moonfast/_speedups/rings.pyx."""

from __future__ import annotations

import math
from collections import deque


def _check_capacity(capacity: int) -> None:
    if capacity < 1:
        raise ValueError(f"the capacity of a ring is at least 1, not {capacity}")


class SeriesRing:
    """The newest `capacity` samples of one sensor, rounded to `decimals` (0 to 15) when they are appended."""

    def __init__(self, capacity: int, decimals: int = 2) -> None:
        _check_capacity(capacity)
        if not 0 <= decimals <= 15:
            raise ValueError(f"decimals are 0 to 15, not {decimals}")
        self._decimals = decimals
        self._values: deque[float | None] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._values)

    def append(self, value: float | None) -> None:
        """Add the newest sample; None, NaN and the infinities are a missing sample."""
        self._values.append(self._rounded(value))

    def fill(self, value: float | None) -> None:
        """Replace all samples by `capacity` times this one."""
        self._values.extend([self._rounded(value)] * (self._values.maxlen or 0))

    def values(self) -> list[float | None]:
        """Return the samples, oldest first; a missing one is None."""
        return list(self._values)

    def json(self) -> bytes:
        """Return the samples as a JSON array, oldest first, in the shortest form; a missing one is null."""
        return b"[%s]" % ",".join("null" if value is None else repr(value) for value in self._values).encode()

    def _rounded(self, value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return round(float(value), self._decimals) + 0.0  # + 0.0: never "-0.0"


class MessageRing:
    """The newest `capacity` messages, each the bytes of a JSON value."""

    def __init__(self, capacity: int) -> None:
        _check_capacity(capacity)
        self.nbytes = 0  # bytes of the messages held
        self._messages: deque[bytes] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._messages)

    def append(self, message: bytes) -> None:
        """Add the newest message; the oldest goes when the ring is full."""
        if len(self._messages) == self._messages.maxlen:
            self.nbytes -= len(self._messages[0])
        self._messages.append(message)
        self.nbytes += len(message)

    def tail(self, count: int | None = None) -> list[bytes]:
        """Return the newest `count` messages (None: all), oldest first."""
        messages = list(self._messages)
        if count is None:
            return messages
        return messages[max(len(messages) - count, 0) :] if count > 0 else []

    def json(self, count: int | None = None) -> bytes:
        """Return the newest `count` messages (None: all) as a JSON array, oldest first."""
        return b"[%s]" % b",".join(self.tail(count))
