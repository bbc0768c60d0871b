"""What others do in the folders: every change is told, once, and nothing is told of what has not happened."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from moonfast.files import watcher as watcher_module
from moonfast.files.roots import PART_PREFIX, PART_SUFFIX, Roots
from moonfast.files.tree import Change, Tree
from moonfast.files.watcher import MANY_NAMES, MODIFY_INTERVAL_S, SETTLE_S, Watcher, is_blind
from moonfast.files.workers import Workers
from moonfast.host import inotify
from tests.wire.running import until

QUIET_S = 4 * SETTLE_S


class Watched:
    """A watcher of one root, and what it has told."""

    def __init__(self, top: Path, *, observes: bool = True) -> None:
        self.top, self.told = top, list[tuple[str, ...]]()
        self.workers, self.roots = Workers(), Roots(str(top.parent))
        self.watcher = Watcher(self.workers, self.roots, self._changed, observes=observes)
        self.batches = 0

    def _changed(self, tree: Tree, changes: list[Change]) -> None:
        self.batches += 1
        if self.watcher.has_been_filled(tree):
            for change in changes:
                place = f"{tree.root.name}/{change.relative}".removeprefix("top/")
                self.told.append((change.kind, place) if change.source is None else (change.kind, change.source, place))

    async def add(self, top: Path, name: str) -> Tree:
        tree = self.watcher.add(self.roots.add(name, str(top), True))
        await self.watcher.filled(tree)
        return tree

    @property
    def tree(self) -> Tree:
        return self.watcher.trees["top"]

    def seen(self) -> set[str]:
        return {path for path, _ in self.tree.files()}

    async def tells(self, *wanted: tuple[str, ...]) -> None:
        """Wait for exactly these, in any order."""
        with suppress(TimeoutError):
            await until(lambda: len(self.told) >= len(wanted))
        await asyncio.sleep(QUIET_S)
        assert sorted(self.told) == sorted(wanted)
        self.told.clear()


@asynccontextmanager
async def watched(top: Path, *, observes: bool = True) -> AsyncIterator[Watched]:
    top.mkdir(exist_ok=True)
    here = Watched(top, observes=observes)
    here.watcher.start()
    await here.add(top, "top")
    try:
        yield here
    finally:
        await here.watcher.stop()
        await here.workers.stop()


async def test_single_changes(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        file = here.top / "a.txt"
        file.write_text("1")
        await here.tells(("create", "a.txt"))
        file.write_text("22")
        await here.tells(("modify", "a.txt"))
        file.rename(here.top / "b.txt")
        await here.tells(("move", "a.txt", "b.txt"))
        (here.top / "b.txt").unlink()
        await here.tells(("delete", "b.txt"))
        (here.top / "d").mkdir()
        await here.tells(("create", "d"))
        (here.top / "d").rename(here.top / "e")
        await here.tells(("move", "d", "e"))
        (here.top / "e" / "x").write_text("watched under its new name")
        await here.tells(("create", "e/x"))
        shutil.rmtree(here.top / "e")
        await until(lambda: ("delete", "e") in here.told)


async def test_a_file_is_told_of_when_it_is_closed(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        with (here.top / "a").open("w") as file:
            file.write("half")
            file.flush()
            await asyncio.sleep(QUIET_S)
            assert here.told == []
            file.write(" and whole")
        await here.tells(("create", "a"))
        with (here.top / "b").open("w"):
            (here.top / "b").unlink()
        await asyncio.sleep(QUIET_S)
        assert here.told == []  # it has never been there for anyone


@pytest.mark.parametrize("make", [os.symlink, os.link])
async def test_links_are_never_closed(tmp_path: Path, make: object) -> None:
    async with watched(tmp_path / "top") as here:
        (here.top / "a").write_text("x")
        await here.tells(("create", "a"))
        make(str(here.top / "a"), str(here.top / "b"))  # type: ignore[operator]
        await here.tells(("create", "b"))


async def test_written_over_and_over(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        file = here.top / "log"
        file.write_text("")
        await here.tells(("create", "log"))
        loop = asyncio.get_running_loop()
        end, count = loop.time() + 2.2 * MODIFY_INTERVAL_S, 0
        while loop.time() < end:
            count += 1
            file.write_text("x" * count)
            await asyncio.sleep(0.01)
        await asyncio.sleep(MODIFY_INTERVAL_S + QUIET_S)
        assert set(here.told) == {("modify", "log")}
        assert 2 <= len(here.told) <= 4
        entry = here.tree.entry("log")
        assert entry is not None
        assert entry.size == count  # the last state is known


async def test_a_storm_is_looked_at_in_pieces(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        count = MANY_NAMES + 500

        def storm() -> None:
            for number in range(count):
                (here.top / f"{number}.txt").write_text("x")

        await asyncio.to_thread(storm)
        await until(lambda: len(here.told) >= count)
        await asyncio.sleep(QUIET_S)
        made = [item for item in here.told if item[0] == "create"]  # on a busy machine some are seen before their end
        assert len(made) == len(set(made)) == count
        assert here.batches < count / 10
        here.told.clear()
        await asyncio.to_thread(shutil.rmtree, here.top, ignore_errors=True)
        await until(lambda: here.seen() == set())
        assert {kind for kind, *_ in here.told} == {"delete"}
        assert len(here.told) == len(set(here.told))


async def test_trees_come_and_go(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "one" / "two"
    outside.mkdir(parents=True)
    (outside / "x").write_text("x")
    (outside / ".hidden").mkdir()
    async with watched(tmp_path / "top") as here:
        (tmp_path / "outside").rename(here.top / "in")
        made = [("create", "in"), ("create", "in/one"), ("create", "in/one/two")]
        await here.tells(*made, ("create", "in/one/two/x"), ("create", "in/one/two/.hidden"))
        (here.top / "in" / "one" / "two" / "y").write_text("deep inside it is watched")
        await here.tells(("create", "in/one/two/y"))
        (here.top / "in").rename(tmp_path / "away")
        await here.tells(("delete", "in"))
        assert list(here.tree.top.children) == []
        (tmp_path / "away" / "one" / "z").write_text("nobody's business")
        await asyncio.sleep(QUIET_S)
        assert here.told == []
        assert len(here.watcher._by_watch) == 1


async def test_made_and_used_in_the_same_breath(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        wanted = []
        for number in range(30):
            deep = here.top / f"{number}" / "a" / "b"
            deep.mkdir(parents=True)
            (deep / "x").write_text("x")
            wanted += [("create", name) for name in (f"{number}", f"{number}/a", f"{number}/a/b", f"{number}/a/b/x")]
        await here.tells(*wanted)


async def test_the_queue_overflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has thrown notices away, among them that a file was closed: all is looked at again."""
    async with watched(tmp_path / "top") as here:
        (here.top / "gone").write_text("x")
        (here.top / "open").touch()
        await here.tells(("create", "gone"), ("create", "open"))
        queue = here.watcher._queue
        assert queue is not None
        read = queue.read

        def lossy() -> list[inotify.Event]:
            events = read()
            kept = [event for event in events if event.name == "late" and event.mask & inotify.CREATE]
            return [*kept, inotify.Event(-1, inotify.OVERFLOW, 0, "")] if events else []

        monkeypatch.setattr(queue, "read", lossy)
        (here.top / "gone").unlink()
        (here.top / "new").mkdir()
        (here.top / "new" / "x").write_text("x")
        (here.top / "late").write_text("closed, but nobody has said so")
        await here.tells(("delete", "gone"), ("create", "new"), ("create", "new/x"), ("create", "late"))


async def test_a_real_overflow(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 50_000:
        pytest.skip("the kernel's queue is too long")
    async with watched(tmp_path / "top") as here:
        names = [here.top / f"{number}" for number in range(100)]
        for number in range(most):  # each makes two notices and the loop does not read meanwhile
            names[number % 100].touch()
        await until(lambda: here.seen() == {path.name for path in names})
        await asyncio.sleep(QUIET_S)
        assert len(here.told) == len(set(here.told)) == 100


async def test_no_more_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit is reached: one warning, and the folders that are not watched are looked at from time to time."""
    monkeypatch.setattr(watcher_module, "POLL_S", 0.1)
    watch = inotify.Inotify.watch

    def limited(self: inotify.Inotify, path: str) -> int:
        if os.path.basename(path).startswith("blind"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return watch(self, path)

    monkeypatch.setattr(inotify.Inotify, "watch", limited)
    for name in ("blind1", "blind2", "seen"):
        (tmp_path / "top" / name).mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        async with watched(tmp_path / "top") as here:
            assert len(here.watcher.warnings) == 1
            assert "fs.inotify.max_user_watches" in here.watcher.warnings[0]
            assert not here.watcher.is_told(here.tree)
            assert here.watcher.is_told(here.tree, here.tree.folder("seen"))
            for name in ("blind1", "blind2", "seen"):
                (here.top / name / "x").write_text("x")
            await here.tells(("create", "blind1/x"), ("create", "blind2/x"), ("create", "seen/x"))
            (here.top / "blind1" / "x").write_text("changed")
            (here.top / "blind2" / "x").unlink()
            await here.tells(("modify", "blind1/x"), ("delete", "blind2/x"))
    assert len(caplog.records) == 1


async def test_no_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_instance(self: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(inotify.Inotify, "__init__", no_instance)
    monkeypatch.setattr(watcher_module, "POLL_S", 0.1)
    async with watched(tmp_path / "top") as here:
        assert len(here.watcher.warnings) == 1
        (here.top / "d").mkdir()
        (here.top / "d" / "x").write_text("x")
        await here.tells(("create", "d"), ("create", "d/x"))


async def test_without_notices_a_listing_looks(tmp_path: Path) -> None:
    async with watched(tmp_path / "top", observes=False) as here:
        (here.top / "d").mkdir()
        (here.top / "d" / "x").write_text("x")
        assert here.seen() == set()
        await here.watcher.look_again(here.tree, "")
        assert here.seen() == {"d/x"}
        (here.top / "d" / "y").write_text("y")
        await here.watcher.look_again(here.tree, "")
        assert here.seen() == {"d/x"}
        await here.watcher.look_again(here.tree, "", below=True)
        assert here.seen() == {"d/x", "d/y"}
        assert here.watcher.warnings == []  # it was asked for


async def test_loops_and_hidden_folders(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "loop").symlink_to(top / "a")
    (top / "self").symlink_to(top)
    (top / "nowhere").symlink_to(top / "nothing")
    for name in (".git", ".thumbs", ".other"):
        (top / name).mkdir()
        (top / name / "x").write_text("x")
    (top / f"{PART_PREFIX}1{PART_SUFFIX}").write_text("not whole")
    async with watched(top) as here:
        assert here.seen() == {".other/x"}
        names = set(here.tree.top.entries)
        assert names == {"a", "self", ".git", ".thumbs", ".other"}
        (top / ".git" / "y").write_text("y")
        (top / ".thumbs" / "y").write_text("y")
        (top / f"{PART_PREFIX}2{PART_SUFFIX}").write_text("not whole")
        (top / "a" / "b" / "again").symlink_to(top)
        await here.tells(("create", "a/b/again"))
        (top / f"{PART_PREFIX}2{PART_SUFFIX}").rename(top / "whole")
        await here.tells(("create", "whole"))


async def test_two_ways_to_one_folder(tmp_path: Path) -> None:
    """A link to another folder of the root: what happens there is told under both names."""
    top = tmp_path / "top"
    (top / "real").mkdir(parents=True)
    (top / "link").symlink_to(top / "real")
    async with watched(top) as here:
        (top / "real" / "x").write_text("x")
        await here.tells(("create", "real/x"), ("create", "link/x"))
        (top / "link").unlink()
        await here.tells(("delete", "link"))
        (top / "real" / "x").unlink()
        await here.tells(("delete", "real/x"))


async def test_a_storm_delays_no_other_root(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        quiet = tmp_path / "quiet"
        quiet.mkdir()
        await here.add(quiet, "quiet")
        stop = threading.Event()

        def storm() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                (here.top / f"{number % 5000}").write_text(str(number))

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            await until(lambda: len(here.told) > 100)
            loop = asyncio.get_running_loop()
            for number in range(5):
                began = loop.time()
                (quiet / f"{number}").write_text("x")
                await until(lambda number=number: ("create", f"quiet/{number}") in here.told)
                assert loop.time() - began < 1.0
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)


async def test_what_is_held_is_told_later(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        with here.watcher.hold(str(here.top / "a")):
            (here.top / "a").write_text("x")
            (here.top / "ab").write_text("not below it")
            await here.tells(("create", "ab"))
        await until(lambda: ("create", "a") in here.told)


async def test_sync_tells_only_of_the_rest(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        (here.top / "d" / "e").mkdir(parents=True)
        (here.top / "d" / "e" / "mine").write_text("x")
        (here.top / "d" / "other").write_text("x")
        entry, changes = await here.watcher.sync(here.tree, "d/e/mine")
        assert entry is not None
        assert [change.relative for change in changes] == ["d/e/mine"]
        await here.tells(("create", "d"), ("create", "d/e"), ("create", "d/other"))
        entry, changes = await here.watcher.sync(here.tree, "d/e/mine")
        assert entry is not None
        assert changes == []
        shutil.rmtree(here.top / "d" / "e")
        entry, changes = await here.watcher.sync(here.tree, "d/e")
        assert entry is None
        await asyncio.sleep(QUIET_S)
        assert here.told == []


async def test_a_listing_knows_what_has_just_happened(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        for number in range(50):
            (here.top / f"{number}").write_text("x")
            await here.watcher.settle(here.tree)
            assert f"{number}" in here.seen()


async def test_the_root_itself_goes_and_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher_module, "POLL_S", 0.1)
    async with watched(tmp_path / "top") as here:
        (here.top / "a").write_text("x")
        await here.tells(("create", "a"))
        shutil.rmtree(here.top)
        await here.tells(("delete", "a"))
        here.top.mkdir()
        (here.top / "b").write_text("x")
        await here.tells(("create", "b"))
        (here.top / "c").write_text("x")
        await here.tells(("create", "c"))


async def test_another_folder_for_a_root(tmp_path: Path) -> None:
    async with watched(tmp_path / "top") as here:
        other = tmp_path / "other"
        other.mkdir()
        (other / "x").write_text("x")
        await here.add(other, "top")
        assert here.seen() == {"x"}
        (here.top / "old").write_text("x")
        (other / "new").write_text("x")
        await here.tells(("create", "new"))
        assert len(here.watcher._by_watch) == 1


async def test_nothing_is_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    tasks = asyncio.all_tasks()
    async with watched(tmp_path / "top") as here:
        (here.top / "a").write_text("x")
        await asyncio.sleep(SETTLE_S)  # it is being looked at
    assert len(os.listdir("/proc/self/fd")) == before
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", False),
        ("/net/prints/a", True),
        ("/net/printsnot", False),
        ("/my disk/a", True),
        ("/net/prints/sub", False),
    ],
)
def test_file_systems_without_notices(tmp_path: Path, path: str, answer: bool) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "23 22 0:5 / /net/prints rw - nfs4 server:/prints rw\n"
        "24 22 0:6 / /my\\040disk rw shared:3 - cifs //nas/disk rw\n"
        "25 23 0:7 / /net/prints/sub rw - ext4 /dev/sdb1 rw\n"
    )
    assert is_blind(path, str(mounts)) is answer
    assert not is_blind(path, str(tmp_path / "missing"))
