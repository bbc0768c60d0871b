"""The kernel's notices of what happens in folders: inotify(7), as they come from its queue."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import NamedTuple

from moonfast.speedups import kernel

ATTRIB, CLOSE_WRITE = 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
OVERFLOW, IGNORED, IS_DIR = 0x4000, 0x8000, 0x40000000
ONLY_DIR = 0x01000000

WANTED = ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | ONLY_DIR
"""Not IN_MODIFY: a file that is written to is looked at when it is closed."""

READ_BYTES = 8192
"""Read at once: at most some 250 events, so that a storm is taken in slices."""

_HEAD = struct.Struct("iIII")


class Event(NamedTuple):
    """One notice. `watch` is the descriptor of the folder, `name` that of what lies in it."""

    watch: int
    mask: int
    cookie: int  # the same for both halves of a move
    name: str


class Inotify:
    """One queue of the kernel. OSError: the kernel has none left (fs.inotify.max_user_instances)."""

    def __init__(self) -> None:
        self.fd = kernel.inotify_init(os.O_NONBLOCK | os.O_CLOEXEC)

    def watch(self, path: str) -> int:
        """Watch a folder; the descriptor. Watching it again gives the same. OSError ENOSPC: the limit is reached."""
        return kernel.inotify_add_watch(self.fd, os.fsencode(path), WANTED)

    def unwatch(self, watch: int) -> None:
        """Watch a folder no more; no error if it is gone."""
        with contextlib.suppress(OSError):
            kernel.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[Event]:
        """The next events, READ_BYTES at most; none if nothing has happened."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return []
        events, at = [], 0
        while at < len(data):
            watch, mask, cookie, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            events.append(Event(watch, mask, cookie, os.fsdecode(name)))
        return events

    def close(self) -> None:
        """Give the queue back, with all watches."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
