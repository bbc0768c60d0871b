"""Twin of moonfast/_speedups/framing.pyx: Klippy's byte stream split at 0x03."""

from __future__ import annotations

from moonfast.errors import FramingError

MAX_BYTES = 20 * 1024 * 1024
ETX = b"\x03"


class Framer:
    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        self._max_bytes = max_bytes
        self._tail: list[bytes] = []
        self._tail_bytes = 0

    @property
    def pending_bytes(self) -> int:
        return self._tail_bytes

    def feed(self, data: bytes) -> list[bytes]:
        completed: list[bytes] = []
        *ends, rest = data.split(ETX)
        for part in ends:
            self._take(part, completed)
            completed.append(b"".join(self._tail))
            self._tail, self._tail_bytes = [], 0
        self._take(rest, completed)
        return completed

    def _take(self, part: bytes, completed: list[bytes]) -> None:
        if self._tail_bytes + len(part) > self._max_bytes:
            self.clear()
            raise FramingError(f"a message is longer than {self._max_bytes} bytes", completed)
        if part:
            self._tail.append(part)
            self._tail_bytes += len(part)

    def clear(self) -> None:
        self._tail, self._tail_bytes = [], 0


def frame_message(text: bytes) -> bytes:
    if ETX in text:
        raise FramingError("a message must not contain the byte 0x03")
    return text + ETX
