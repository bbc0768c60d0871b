"""The kernel's notices, from the kernel itself."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from moonfast.host import inotify
from moonfast.host.inotify import READ_BYTES, Event, Inotify


@pytest.fixture
def queue() -> Iterator[Inotify]:
    made = Inotify()
    yield made
    made.close()


def names(events: list[Event], mask: int) -> list[str]:
    return [event.name for event in events if event.mask & mask]


def test_what_is_told(queue: Inotify, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    watch = queue.watch(str(tmp_path))
    assert queue.read() == []
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").rename(tmp_path / "b é")
    (tmp_path / "b é").unlink()
    (tmp_path / "d").rename(tmp_path / "e")
    events = queue.read()
    assert {event.watch for event in events} == {watch}
    assert names(events, inotify.CREATE) == ["a"]
    assert names(events, inotify.CLOSE_WRITE) == ["a"]
    assert names(events, inotify.MOVED_FROM) == ["a", "d"]
    assert names(events, inotify.MOVED_TO) == ["b é", "e"]
    assert names(events, inotify.DELETE) == ["b é"]
    assert names(events, inotify.IS_DIR) == ["d", "e"]
    cookies = [event.cookie for event in events if event.cookie]
    assert cookies[0] == cookies[1] != cookies[2] == cookies[3]
    assert queue.read() == []


@pytest.mark.parametrize("name", ["x" * 255, "a b'\"%\n", "日本", os.fsdecode(b"\xff\xfe")])
def test_names(queue: Inotify, tmp_path: Path, name: str) -> None:
    queue.watch(str(tmp_path))
    (tmp_path / name).mkdir()
    assert names(queue.read(), inotify.CREATE) == [name]


def test_the_same_watch(queue: Inotify, tmp_path: Path) -> None:
    first = queue.watch(str(tmp_path))
    assert queue.watch(str(tmp_path)) == first
    other = tmp_path / "d"
    other.mkdir()
    assert queue.watch(str(other)) != first


def test_only_folders(queue: Inotify, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for path, number in (("a", errno.ENOTDIR), ("missing", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            queue.watch(str(tmp_path / path))
        assert caught.value.errno == number


def test_unwatched(queue: Inotify, tmp_path: Path) -> None:
    watch = queue.watch(str(tmp_path))
    queue.unwatch(watch)
    queue.unwatch(watch)  # no error
    (tmp_path / "a").write_text("x")
    assert [(event.watch, event.mask) for event in queue.read()] == [(watch, inotify.IGNORED)]


def test_a_folder_that_goes(queue: Inotify, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    watch = queue.watch(str(tmp_path / "d"))
    (tmp_path / "d").rmdir()
    assert queue.read()[-1] == Event(watch, inotify.IGNORED, 0, "")


def test_a_storm_comes_in_slices(queue: Inotify, tmp_path: Path) -> None:
    queue.watch(str(tmp_path))
    for number in range(1000):
        (tmp_path / f"{number}").mkdir()
    found: list[str] = []
    reads = 0
    while events := queue.read():
        reads += 1
        assert len(events) <= READ_BYTES // struct.calcsize("iIII")
        found += names(events, inotify.CREATE)
    assert found == [f"{number}" for number in range(1000)]
    assert reads > 2


def test_the_queue_is_given_back(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    queue = Inotify()
    queue.watch(str(tmp_path))
    queue.close()
    queue.close()
    assert os.listdir("/proc/self/fd") == before
