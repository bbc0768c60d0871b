"""Reading whole files without filling the memory, the page cache of a small board included."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO

PIECE_BYTES = 1024 * 1024


def pieces(file: FileIO, *, is_last_use: bool) -> Iterator[memoryview]:
    """Yield the file from its place on; each piece is overwritten by the next. OSError: it cannot be read.

    After its last use, what was read is dropped from the page cache.
    """
    view = memoryview(bytearray(PIECE_BYTES))
    while size := file.readinto(view):
        yield view[:size]
        if is_last_use:
            _forget(file, size)


def whole_lines(file: FileIO, *, is_last_use: bool) -> Iterator[memoryview]:
    """As `pieces`, but each ends with a line; the last line gets an end if it has none.

    Only a line longer than PIECE_BYTES is cut.
    """
    buffer = bytearray(PIECE_BYTES)
    view = memoryview(buffer)
    kept = 0
    is_cut = False
    while size := file.readinto(view[kept:]):
        filled = kept + size
        end = buffer.rfind(b"\n", 0, filled) + 1
        if end == 0 and filled == PIECE_BYTES:
            end = filled
        if end:
            is_cut = buffer[end - 1] != ord("\n")
            yield view[:end]
        kept = filled - end
        view[:kept] = view[end:filled]
        if is_last_use:
            _forget(file, size)
    if kept or is_cut:
        buffer[kept] = ord("\n")
        yield view[: kept + 1]


def is_unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether two looks saw the same file with the same contents."""
    return (before.st_dev, before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_dev,
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    )


def _forget(file: FileIO, size: int) -> None:
    """Drop the `size` bytes that were read last from the page cache."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), file.tell() - size, size, os.POSIX_FADV_DONTNEED)
