"""Twin of moonfast/_speedups/kernel.pyx: calls of the kernel, by way of the C library."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

_KEEP_SIZE = 1
_libc = ctypes.CDLL(None, use_errno=True)


def inotify_init(flags: int) -> int:
    return _checked(_function("inotify_init1")(flags))


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    return _checked(_function("inotify_add_watch")(fd, path, ctypes.c_uint32(mask)))


def inotify_rm_watch(fd: int, watch: int) -> None:
    _checked(_function("inotify_rm_watch")(fd, watch))


def allocate(fd: int, size: int) -> None:
    function = getattr(_libc, "fallocate64", None) or _function("fallocate")
    _checked(function(fd, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)))


def _function(name: str) -> Any:
    try:
        return getattr(_libc, name)
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
