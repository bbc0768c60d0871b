"""The store against a dict, its promises about the disk, and what it does when the disk fails it."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonfast.errors import InsufficientStorage, InternalError, StartError, Unavailable
from moonfast.storage import database
from moonfast.storage.database import Database


@asynccontextmanager
async def opened(folder: Path, **options: Any) -> AsyncIterator[Database]:
    store = Database(folder, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


def transactions(store: Database) -> int:
    assert store._env is not None
    return store._env.info()["last_txnid"]


# Contents

KEYS = st.sampled_from(["a", "b", "c.d", "", "é", "\udc80", "f/" + "x" * 600 + "1", "f/" + "x" * 600 + "2"])
NAMES = st.sampled_from(["jobs", "jobs2", "j\x00bs", "ÿ"])
VALUES = st.none() | st.integers(-5, 5) | st.text(max_size=5) | st.lists(st.integers(0, 9), max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "save"]), NAMES, KEYS, VALUES),
        st.tuples(st.sampled_from(["delete", "remove"]), NAMES, KEYS),
        st.tuples(
            st.sampled_from(["update", "save_all"]), NAMES, st.dictionaries(KEYS, VALUES, max_size=4), st.sets(KEYS)
        ),
        st.tuples(st.sampled_from(["clear", "drop"]), NAMES),
        st.tuples(st.sampled_from(["flush", "turn", "reopen"])),
    ),
    max_size=25,
)


def compare(store: Database, model: dict[str, dict[str, Any]]) -> None:
    assert store.namespaces() == sorted(name for name, content in model.items() if content)
    for name, content in model.items():
        space = store.namespace(name)
        assert len(space) == len(content)
        assert dict(space.items()) == content
        keys = space.keys()
        assert sorted(keys) == sorted(content)
        short = [key for key in keys if len(key) < 500]
        assert short == sorted(short)
        for key in ("a", "absent", *content):
            assert space.get(key, "nothing") == content.get(key, "nothing")
            assert (key in space) == (key in content)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_behaves_like_a_dict(steps: list[Any]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            model: dict[str, dict[str, Any]] = {name: {} for name in ("jobs", "jobs2", "j\x00bs", "ÿ")}
            store = Database(Path(folder))
            await store.start()
            for kind, *rest in steps:
                if kind == "reopen":
                    await store.stop()
                    store = Database(Path(folder))
                    await store.start()
                elif kind == "flush":
                    await store.flush()
                elif kind == "turn":
                    await asyncio.sleep(0)
                else:
                    space, content = store.namespace(rest[0]), model[rest[0]]
                    result = getattr(space, kind)(*rest[1:])
                    if asyncio.iscoroutine(result):
                        result = await result
                    if kind in ("put", "save"):
                        content[rest[1]] = rest[2]
                    elif kind in ("delete", "remove"):
                        assert result == (rest[1] in content)
                        content.pop(rest[1], None)
                    elif kind in ("update", "save_all"):
                        for key in rest[2]:
                            content.pop(key, None)
                        content.update(rest[1])
                    else:
                        content.clear()
                compare(store, model)
            await store.stop()

    asyncio.run(run())


async def test_raw_is_json_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        space.put("k", {"ä": [1, None]})
        assert space.raw("k") == '{"ä":[1,null]}'.encode()
        await store.flush()
        assert space.raw("k") == '{"ä":[1,null]}'.encode()
        assert space.raw("absent") is None


async def test_a_value_that_is_no_json_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        with pytest.raises(TypeError):
            space.update({"good": 1, "bad": object()})
        with pytest.raises(TypeError):
            await space.save("bad", object())
        assert space.keys() == []


async def test_items_go_on_when_their_keys_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        await space.save_all({f"{number:03}": number for number in range(100)})
        seen = []
        for key, value in space.items():
            space.delete(f"{value + 1:03}")
            seen.append(key)
        assert seen == [f"{number:03}" for number in range(0, 100, 2)]


# Commits


async def test_saves_at_the_same_time_share_a_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        before = transactions(store)
        await asyncio.gather(*(space.save(f"k{number}", number) for number in range(8)))
        assert transactions(store) - before == 1
        tasks = [asyncio.create_task(space.save(f"k{number}", -number)) for number in range(4)]
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)  # the first commit is under way
        await asyncio.gather(*tasks, *(space.save(f"l{number}", number) for number in range(4)))
        assert transactions(store) - before <= 3


async def test_background_writes_are_committed_once_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "COMMIT_INTERVAL_S", 0.1)
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        before = transactions(store)
        for number in range(50):
            space.put("counter", number)
            space.put(f"k{number}", number)
            await asyncio.sleep(0.005)
        assert 1 <= transactions(store) - before <= 4
        await asyncio.sleep(0.2)
        assert not store._overlay
        assert space.get("counter") == 49


async def test_many_background_writes_do_not_wait_for_the_interval(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        before = transactions(store)
        store.namespace("a").put("large", "x" * database.COMMIT_BYTES)
        async with asyncio.timeout(0.9):
            while transactions(store) == before:
                await asyncio.sleep(0.01)


async def test_what_is_being_written_can_be_read_and_changed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        task = asyncio.create_task(space.save("k", 1))
        for number in range(2, 50):
            await asyncio.sleep(0)
            space.put("k", number)
            assert space.get("k") == number
        await task
        assert space.get("k") == 49
        assert space.delete("k")
        assert "k" not in space
        assert store.namespaces() == []


async def test_a_cancelled_save_harms_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        task = asyncio.create_task(space.save("k", 1))
        await asyncio.sleep(0)
        task.cancel()
        await space.save("l", 2)
        assert space.get("l") == 2


async def test_stop_commits_and_leaves_nothing(tmp_path: Path) -> None:
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(5):
        async with opened(tmp_path) as store:
            store.namespace("a").put(str(number), number)
    assert len(os.listdir("/proc/self/fd")) == files
    assert threading.active_count() == threads
    async with opened(tmp_path) as store:
        assert threading.active_count() == threads  # reading needs no thread
        assert store.namespace("a").keys() == list("01234")
    with pytest.raises(Unavailable):
        store.namespace("a").put("k", 1)
    with pytest.raises(Unavailable):
        await store.namespace("a").save("k", 1)
    with pytest.raises(Unavailable):
        store.namespace("a").get("k")


# No space


async def test_the_map_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAP_START_BYTES", 128 * 1024)
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        await space.save("large", "x" * 900_000)  # three doublings at once
        for number in range(20):
            space.put(f"k{number}", "y" * 50_000)
            await asyncio.sleep(0)
        await store.flush()
        assert len(space.get("large")) == 900_000
        assert len(space) == 21


async def test_at_the_limit_the_old_value_stays(tmp_path: Path) -> None:
    async with opened(tmp_path, map_limit_bytes=1024 * 1024) as store:
        space = store.namespace("a")
        await space.save("k", "old")
        results = await asyncio.gather(
            space.save("k", "x" * 2_000_000), space.save("l", "small"), return_exceptions=True
        )
        assert all(isinstance(result, InsufficientStorage) for result in results)
        assert "1 MiB" in str(results[0])
        assert (space.get("k"), space.get("l")) == ("old", None)
        await space.save("l", "small")
        space.put("k", "new")
    async with opened(tmp_path, map_limit_bytes=1024 * 1024) as store:
        assert dict(store.namespace("a").items()) == {"k": "new", "l": "small"}


async def test_background_writes_that_do_not_fit_do_not_stop_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "RETRY_S", 0.05)
    async with opened(tmp_path, map_limit_bytes=1024 * 1024) as store:
        space = store.namespace("a")
        space.update({"k": "x" * 2_000_000, "l": 1})
        with pytest.raises(InsufficientStorage):
            await store.flush()
        await space.save("l", 2)
        space.put("m", 3)
        await space.save("m", 4)
        space.put("m", 5)
        assert (len(space.get("k")), space.get("l"), space.get("m")) == (2_000_000, 2, 5)
        await asyncio.sleep(0.2)  # retries
        assert len(store._queue) <= 2
        await space.remove("k")  # what did not fit is gone
        await store.flush()
        assert dict(space.items()) == {"l": 2, "m": 5}
        assert not store._overlay
    assert len([entry for entry in caplog.records if entry.levelno >= logging.WARNING]) == 1


async def test_background_writes_have_a_bound(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        large = "x" * (database.PENDING_LIMIT_BYTES // 3)
        for key in "abc":
            space.put(key, large[:-100])
        with pytest.raises(InsufficientStorage):
            space.put("d", large)
        assert "d" not in space
        assert space.delete("a")
        await store.flush()
        space.put("d", large)


class Coded(lmdb.Error):
    def __init__(self, code: int) -> None:
        super().__init__("mdb_txn_commit")
        self.code = code  # type: ignore[misc]


class Failing:
    """An environment whose commits fail."""

    def __init__(self, env: lmdb.Environment, failure: Exception) -> None:
        self._env, self._failure = env, failure
        self.is_failing = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, write: bool = False) -> Any:
        if write and self.is_failing:
            raise self._failure
        return self._env.begin(write=write)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (OSError(28, "No space left on device"), InsufficientStorage),
        (Coded(28), InsufficientStorage),
        (lmdb.DiskError("mdb_txn_commit"), InsufficientStorage),
        (Coded(5), InternalError),
        (lmdb.PanicError("mdb_txn_begin"), InternalError),
        (lmdb.CorruptedError("mdb_put"), InternalError),
    ],
)
async def test_a_failed_commit_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, error: type[Exception]
) -> None:
    monkeypatch.setattr(database, "RETRY_S", 0.02)
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        await space.save("k", "old")
        assert store._env is not None
        env: Any = store._env
        store._env = failing = Failing(env, failure)  # type: ignore[assignment]
        space.put("background", 1)
        results = await asyncio.gather(space.save("k", "new"), space.remove("k"), return_exceptions=True)
        if not isinstance(failure, lmdb.PanicError):  # that one is mended by opening the store again
            assert [type(result) for result in results] == [error, error]
            assert space.get("k") == "old"
        failing.is_failing = False
        async with asyncio.timeout(5):
            while store._overlay:
                await asyncio.sleep(0.01)
        assert space.get("background") == 1


FAILING_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "save"]), st.sampled_from("abc"), st.integers(0, 99)),
        st.tuples(st.just("delete"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["fail", "work", "turn", "retry", "flush"])),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(FAILING_STEPS)
def test_nothing_is_lost_or_mixed_up_while_commits_fail(steps: list[Any]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Database(Path(folder))
            await store.start()
            env: Any = store._env
            store._env = failing = Failing(env, OSError(28, "No space left on device"))  # type: ignore[assignment]
            failing.is_failing = False
            space, model = store.namespace("a"), dict[str, int]()
            for kind, *rest in steps:
                if kind in ("fail", "work"):
                    failing.is_failing = kind == "fail"
                elif kind == "turn":
                    await asyncio.sleep(0)
                elif kind == "retry":
                    store._commit(everything=True)
                elif kind == "put":
                    space.put(*rest)
                    model[rest[0]] = rest[1]
                elif kind == "delete":
                    assert space.delete(*rest) == (model.pop(rest[0], None) is not None)
                else:
                    try:
                        await (store.flush() if kind == "flush" else space.save(*rest))
                    except InsufficientStorage:
                        assert failing.is_failing
                    else:
                        assert not store._overlay or kind == "save"
                        if kind == "save":
                            model[rest[0]] = rest[1]
                assert dict(space.items()) == model
            failing.is_failing = False
            await store.stop()
            async with opened(Path(folder)) as again:
                assert dict(again.namespace("a").items()) == model

    asyncio.run(run())


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the kernel cuts writes short in the same way."""
    program = """
import asyncio, resource, sys
from pathlib import Path
from moonfast.errors import ApiError
from moonfast.storage import database
database.RETRY_S = 0.02
async def main():
    store = database.Database(Path(sys.argv[1]))
    await store.start()
    space = store.namespace("a")
    await space.save_all({"k": "old", **{f"f{n}": "x" * 1000 for n in range(100)}})
    size = (Path(sys.argv[1]) / "moonfast.lmdb/data.mdb").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 65536, -1))
    space.put("background", "x" * 200_000)
    for turn in range(3):
        try:
            await space.save("k", "x" * 300_000)
        except ApiError as exc:
            print(exc.status)
        assert space.get("k") == "old"
        await space.save("small", turn)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    while store._overlay:
        await asyncio.sleep(0.01)
    print(space.get("k"), space.get("small"), len(space.get("background")))
    await store.stop()
asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", program, os.fspath(tmp_path)], capture_output=True, text=True, timeout=30
    )
    lines = run.stdout.splitlines()
    assert lines[3:] == ["old 2 200000"], run.stderr
    assert set(lines[:3]) <= {"500", "507"}


# Damage


@pytest.mark.parametrize("kind", ["noise", "short", "file"])
async def test_a_damaged_store_is_set_aside(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path) as store:
        await store.namespace("a").save_all({str(number): "x" * 500 for number in range(100)})
        assert store.damaged is None
    path = tmp_path / "moonfast.lmdb"
    if kind == "noise":
        (path / "data.mdb").write_bytes(random.Random(1).randbytes(50_000))
    elif kind == "short":
        os.truncate(path / "data.mdb", 30_000)
    else:
        path.rename(tmp_path / "away")
        path.write_text("not a folder")
    for turn in range(2):
        async with opened(tmp_path) as store:
            if turn == 0:
                assert store.damaged is not None
                assert Path(store.damaged).parent == tmp_path
                assert Path(store.damaged).name.startswith("moonfast.lmdb.damaged-")
                assert Path(store.damaged).exists()
                assert store.namespaces() == []
                await store.namespace("a").save("k", 1)
            else:
                assert store.damaged is None
                assert store.namespace("a").get("k") == 1
    assert len([entry for entry in caplog.records if entry.levelno >= logging.WARNING]) == 1


async def test_after_a_crash_all_pages_are_looked_at(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.namespace("a").save_all({str(number): "x" * 500 for number in range(100)})
    data = tmp_path / "moonfast.lmdb" / "data.mdb"
    content = data.read_bytes()
    data.write_bytes(content[:8192] + bytes(len(content) - 8192))
    (tmp_path / "moonfast.lock").write_bytes(b"open\n")
    async with opened(tmp_path) as store:
        assert store.damaged is not None


async def test_damage_found_by_a_read_is_told_and_remembered(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.namespace("a").save("k", 1)
        assert store._env is not None
        with store._env.begin(write=True) as txn:
            txn.put(b"a\x00k", b"{no json")
        with pytest.raises(InternalError, match="damaged"):
            store.namespace("a").get("k")
    async with opened(tmp_path) as store:
        assert store.damaged is not None
    async with opened(tmp_path) as store:
        assert store.damaged is None


# Processes


async def test_a_second_opener_is_refused(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from pathlib import Path
from moonfast.errors import StartError
from moonfast.storage.database import Database
try:
    asyncio.run(Database(Path(sys.argv[1])).start())
except StartError as exc:
    print(exc)
"""
    async with opened(tmp_path):
        with pytest.raises(StartError, match="in use by another process"):
            await Database(tmp_path).start()
        run = subprocess.run([sys.executable, "-c", program, os.fspath(tmp_path)], capture_output=True, text=True)
        assert "in use by another process" in run.stdout, run.stderr
    async with opened(tmp_path):
        pass


async def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Database(tmp_path / "file")
    with pytest.raises(StartError, match="writable"):
        await store.start()
    await store.stop()


SAVER = """
import asyncio, sys
from pathlib import Path
from moonfast.storage.database import Database
async def main():
    store = Database(Path(sys.argv[1]))
    await store.start()
    assert store.damaged is None
    spaces = [store.namespace(f"n{i}") for i in range(3)]
    async def count(i):
        number = spaces[i].get("counter", 0)
        while True:
            number += 1
            spaces[i].put(f"note{number % 50}", "x" * (number % 7 * 700))
            await spaces[i].save("counter", number)
            sys.stdout.write(f"{i} {number}\\n")
            sys.stdout.flush()
    await asyncio.gather(*map(count, range(3)))
asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    chance = random.Random()
    acknowledged = {}
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", SAVER, os.fspath(tmp_path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(chance.random() * 0.1)
            child.kill()
            for line in [first, *child.stdout.readlines()]:
                if line.endswith(b"\n"):
                    saver, number = map(int, line.split())
                    acknowledged[saver] = number
        async with opened(tmp_path) as store:
            assert store.damaged is None
            for saver, number in acknowledged.items():
                assert number <= store.namespace(f"n{saver}").get("counter") <= number + 1
    assert max(acknowledged.values()) > 10


async def test_many_values_in_one_look(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        space = store.namespace("a")
        long = "x" * 600
        await space.save_all({"b": 1, long: 2, "gone": 3})
        space.put("c", 4)
        space.delete("gone")
        assert space.raws(["c", "none", long, "gone", "b"]) == [b"4", None, b"2", None, b"1"]
        assert space.raws([]) == []
