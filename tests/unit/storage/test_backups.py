"""Backups hold all that was saved; restoring brings it back and nothing else; nothing is lost on the way."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from moonfast.errors import BadRequest, InsufficientStorage, NotFound, Unavailable
from moonfast.storage import backups as module
from moonfast.storage import database
from moonfast.storage.backups import AUTOMATIC_KEPT, AUTOMATIC_PERIOD_S, Backups
from moonfast.storage.store_file import copy_file
from tests.unit.storage.moonraker_files import FLUIDD, UNREADABLE, make_foreign, make_legacy, make_sqlite


@asynccontextmanager
async def opened(data_path: Path, **options: Any) -> AsyncIterator[Backups]:
    backups = Backups(data_path, **options)
    await backups.start()
    try:
        yield backups
    finally:
        await backups.database.stop()


async def test_a_backup_comes_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        await notes.save("a", 1)
        notes.put("behind", 2)
        path = await backups.make("mine.db")
        assert path == tmp_path / "backup" / "database" / "mine.db"
        assert path.stat().st_mode & 0o777 == 0o600
        await notes.save("a", 3)
        notes.put("later", 4)
        await backups.restore("mine.db")
        assert dict(notes.items()) == {"a": 1, "behind": 2}
        notes.put("late", 5)  # of components that still know the old contents
        assert "late" not in notes
        with pytest.raises(Unavailable, match="restarts"):
            await notes.save("late", 6)
        await backups.database.flush()
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        assert dict(notes.items()) == {"a": 1, "behind": 2}
        (kept,) = (name for name in backups.names() if name.startswith("moonfast-automatic-"))
        await notes.save("b", 1)
        await backups.restore(kept)
        assert dict(notes.items()) == {"a": 3, "behind": 2, "later": 4}


async def test_the_store_can_be_written_after_a_backup_that_cannot_be_used(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        await notes.save("a", 1)
        path = await backups.make("mine.db")
        data = path.read_bytes()
        for content in (data[:-4096], b"", b"text", data[:4096] + bytes(4096) + data[8192:]):
            path.write_bytes(content)
            if content and len(content) == len(data):
                path.write_bytes(content[:8192] + os.urandom(len(data) - 8192))
            with pytest.raises(BadRequest, match=r"mine\.db"):
                await backups.restore("mine.db")
            await notes.save("a", len(content))
            assert notes.get("a") == len(content)
        make_foreign(path)
        with pytest.raises(BadRequest, match="-bit system"):
            await backups.restore("mine.db")
        assert not list((tmp_path / "database").glob("*/*.new"))


async def test_names(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        for name in ("", ".", "..", "../x.db", "a/b.db", "/x", ".hidden", "a\nb", "a\0b", "x" * 201):
            for refused in (backups.make(name), backups.restore(name)):
                with pytest.raises(BadRequest, match="Invalid name"):
                    await refused
            with pytest.raises(BadRequest, match="Invalid name"):
                backups.delete(name)
        with pytest.raises(BadRequest, match="does not exist"):
            await backups.restore("none.db")
        with pytest.raises(NotFound):
            backups.delete("none.db")
        assert backups.names() == []
        made = [(await backups.make()).name for _ in range(3)]
        assert made == sorted(set(made)) == backups.names()
        await backups.make(made[0])
        assert backups.names() == made
        backups.delete(made[1])
        assert backups.names() == [made[0], made[2]]


async def test_there_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BACKUPS", 2)
    async with opened(tmp_path) as backups:
        await backups.make("a.db")
        await backups.make("b.db")
        with pytest.raises(InsufficientStorage, match="delete some"):
            await backups.make("c.db")
        await backups.make("b.db")


async def test_automatic_ones_are_few_and_those_of_users_stay(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        assert backups.seconds_to_next() == 0.0
        await backups.make("moonfast-user.db")
        made = [(await backups.make_automatic()).name for _ in range(AUTOMATIC_KEPT + 3)]
        assert backups.names() == [*made[3:], "moonfast-user.db"]
        assert AUTOMATIC_PERIOD_S - 60 < backups.seconds_to_next() <= AUTOMATIC_PERIOD_S
        os.utime(backups.folder / made[-1], (0, 0))
        assert backups.seconds_to_next() == 0.0
        os.utime(backups.folder / made[-1], (2**33, 2**33))  # the clock was wrong then
        assert backups.seconds_to_next() == 0.0


async def test_restoring_the_oldest_automatic_one(tmp_path: Path) -> None:
    """The backup of what is replaced must not push out the very file that is wanted."""
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        for number in range(AUTOMATIC_KEPT):
            await notes.save("a", number)
            await backups.make_automatic()
        await backups.restore(backups.names()[0])
        assert notes.get("a") == 0


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(env: object, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        await notes.save("a", 1)
        monkeypatch.setattr(database, "copy_into", fails)
        for work in (backups.make("x.db"), backups.database.compact()):
            with pytest.raises(InsufficientStorage):
                await work
        assert backups.names() == []
        await notes.save("a", 2)
        assert notes.get("a") == 2
        (tmp_path / "backup" / "database").rmdir()
        (tmp_path / "backup" / "database").write_bytes(b"in the way")
        with pytest.raises(InsufficientStorage):
            await backups.make("x.db")


async def test_compact_while_others_write(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        for number in range(200):
            await notes.save_all({f"{number}": "x" * 8000})
        notes.update({}, [f"{number}" for number in range(190)])
        stop = False

        async def write() -> int:
            number = 0
            while not stop:
                number += 1
                notes.put("behind", number)
                await notes.save("saved", number)
                assert notes.get("saved") == notes.get("behind") == number
            return number

        writer = asyncio.create_task(write())
        before, after = await backups.database.compact()
        for _ in range(5):
            await asyncio.gather(backups.database.compact(), backups.make("while.db"), notes.save("x", 1))
        stop = True
        last = await writer
        assert after < before / 2
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        assert (notes.get("saved"), notes.get("behind"), notes.get("x")) == (last, last, 1)
        assert notes.get("199") == "x" * 8000
        assert backups.fault_of(backups.folder / "while.db") is None


async def test_a_backup_that_is_given_up_and_stop_wait_for_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        await backups.database.namespace("notes").save("a", "x" * 100_000)
        asking = asyncio.create_task(backups.database.copy(tmp_path / "copy"))
        while not backups.database._is_held:
            await asyncio.sleep(0)
        asking.cancel()
    assert backups.fault_of(tmp_path / "copy") is None
    assert (tmp_path / "copy").stat().st_size > 100_000
    with pytest.raises(Unavailable):
        await backups.database.compact()


async def test_changes_that_wait_when_the_store_is_replaced_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        notes = backups.database.namespace("notes")
        await notes.save("a", 1)
        await backups.make("mine.db")
        is_made = threading.Event()

        def make(target: Path) -> None:
            assert is_made.wait(10)
            copy_file(backups.folder / "mine.db", target)

        replacing = asyncio.create_task(backups.database.replace(make))
        while not backups.database._is_held:
            await asyncio.sleep(0)
        saving = asyncio.create_task(notes.save("a", 2))
        notes.put("b", 3)
        await asyncio.sleep(0.01)
        assert not saving.done()
        assert dict(notes.items()) == {"a": 2, "b": 3}
        is_made.set()
        await replacing
        with pytest.raises(Unavailable, match="restarts"):
            await saving
        assert dict(notes.items()) == {"a": 1}


async def test_a_damaged_store_names_the_newest_good_backup(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        await backups.database.namespace("notes").save("a", 1)
        for age, name in enumerate(("bad.db", "good.db", "old.db")):
            path = await backups.make(name)
            os.utime(path, (1e9 - age, 1e9 - age))
        (backups.folder / "bad.db").write_bytes(b"x" * 9000)
    data = tmp_path / "database" / "moonfast.lmdb" / "data.mdb"
    data.write_bytes(b"y" * 9000)
    make_sqlite(tmp_path / "database" / "moonraker-sql.db")
    async with opened(tmp_path) as backups:
        assert backups.database.namespaces() == []  # years-old settings are no replacement
        (warning,) = backups.warnings
        assert "filename=good.db, or" in warning
        assert "moonfast.lmdb.damaged-" in warning
        await backups.restore("good.db")
        assert backups.database.namespace("notes").get("a") == 1
    async with opened(tmp_path) as backups:
        assert backups.warnings == []
    data.write_bytes(b"y" * 9000)
    for name in backups.names():
        backups.delete(name)
    async with opened(tmp_path) as backups:
        assert "no backup" in backups.warnings[0]


@pytest.mark.parametrize(("name", "make"), [("moonraker-sql.db", make_sqlite), ("data.mdb", make_legacy)])
async def test_first_start_takes_over_what_moonraker_left(name: str, make: Any, tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    source = make(tmp_path / "database" / name)
    original = source.read_bytes()
    async with opened(tmp_path) as backups:
        fluidd = backups.database.namespace("fluidd")
        assert {key: fluidd.get(key) for key in FLUIDD} == FLUIDD
        assert f"{UNREADABLE} values" in backups.warnings[0]
        await fluidd.save("t", "changed")
    assert source.read_bytes() == original
    async with opened(tmp_path) as backups:
        assert backups.database.namespace("fluidd").get("t") == "changed"  # once only
        assert backups.warnings == []


async def test_what_moonraker_left_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    make_foreign(tmp_path / "database" / "data.mdb")
    async with opened(tmp_path) as backups:
        assert backups.database.namespaces() == []
        assert "-bit system" in backups.warnings[0]
        assert "moonfast db import" in backups.warnings[0]


async def test_backups_of_moonraker_can_be_restored(tmp_path: Path) -> None:
    async with opened(tmp_path) as backups:
        await backups.make("mine.db")
        make_sqlite(backups.folder / "sqldb-backup-20260101-000000.db")
        await backups.restore("sqldb-backup-20260101-000000.db")
        assert backups.database.namespace("fluidd").get("q") == -7
