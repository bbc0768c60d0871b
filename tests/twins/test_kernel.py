"""Calls of the kernel: what they do, and the errors of the kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

ALL = 0xFFF
GB = 1 << 30


def test_a_queue_of_notices(impl: Any, tmp_path: Path) -> None:
    queue = impl.kernel.inotify_init(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        path = os.fsencode(tmp_path / "ü")
        os.mkdir(path)
        watch = impl.kernel.inotify_add_watch(queue, path, ALL)
        assert impl.kernel.inotify_add_watch(queue, path, ALL) == watch
        (tmp_path / "ü" / "file").write_text("x")
        assert b"file" in os.read(queue, 4096)
        assert not os.get_inheritable(queue)
        impl.kernel.inotify_rm_watch(queue, watch)
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            impl.kernel.inotify_rm_watch(queue, watch)
        assert caught.value.errno == errno.EINVAL
        for bad, number in ((b"/nothing/here", errno.ENOENT), (b"x" * 5000, errno.ENAMETOOLONG)):
            with pytest.raises(OSError, match=os.strerror(number)) as caught:
                impl.kernel.inotify_add_watch(queue, bad, ALL)
            assert caught.value.errno == number
    finally:
        os.close(queue)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        impl.kernel.inotify_add_watch(queue, path, ALL)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        impl.kernel.inotify_init(1)


def test_room_on_the_disk(impl: Any, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as stream:
        try:
            impl.kernel.allocate(stream.fileno(), 3_000_000)
        except OSError as exc:
            if exc.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                pytest.skip("this file system cannot")
            raise
        found = os.fstat(stream.fileno())
        assert found.st_size == 0
        assert found.st_blocks * 512 >= 3_000_000
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            impl.kernel.allocate(stream.fileno(), 0)
        with pytest.raises(OSError, match=r".") as caught:
            impl.kernel.allocate(stream.fileno(), 1 << 62)
        assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        impl.kernel.allocate(-1, GB)
