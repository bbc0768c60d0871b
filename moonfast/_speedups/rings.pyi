"""Rings of fixed capacity, of numbers and of messages."""

from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class SeriesRing:
    """The newest `capacity` samples of one sensor, rounded to `decimals` (0 to 15) when they are appended.

    ValueError: no capacity, decimals out of range.
    """

    def __new__(cls, capacity: int, decimals: int = 2) -> Self: ...
    def __len__(self) -> int: ...
    def append(self, value: float | None) -> None:
        """Add the newest sample; None, NaN and the infinities are a missing sample."""
    def fill(self, value: float | None) -> None:
        """Replace all samples by `capacity` times this one."""
    def values(self) -> list[float | None]:
        """Return the samples, oldest first; a missing one is None."""
    def json(self) -> bytes:
        """Return the samples as a JSON array, oldest first, in the shortest form; a missing one is null."""

@disjoint_base
class MessageRing:
    """The newest `capacity` messages, each the bytes of a JSON value. ValueError: no capacity."""

    def __new__(cls, capacity: int) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Bytes of the messages held."""
    def append(self, message: bytes) -> None:
        """Add the newest message; the oldest goes when the ring is full."""
    def tail(self, count: int | None = None) -> list[bytes]:
        """Return the newest `count` messages (None: all), oldest first."""
    def json(self, count: int | None = None) -> bytes:
        """Return the newest `count` messages (None: all) as a JSON array, oldest first."""
