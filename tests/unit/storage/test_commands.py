from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from moonfast import cli
from moonfast.storage.backups import Backups
from tests.unit.storage.moonraker_files import UNREADABLE, make_legacy, make_sqlite


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    (tmp_path / "database").mkdir()
    return tmp_path


def db(data_path: Path, *arguments: str) -> int:
    return cli.main(["db", "-d", str(data_path), *arguments])


def value(data_path: Path, namespace: str, key: str) -> object:
    async def read() -> object:
        backups = Backups(data_path, imports=False)
        await backups.start()
        found = backups.database.namespace(namespace).get(key)
        await backups.database.stop()
        return found

    return asyncio.run(read())


def test_import(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert db(data_path, "import") == 1
    assert "name the file" in capsys.readouterr().err
    make_legacy(data_path / "database" / "data.mdb")
    assert db(data_path, "import") == 0
    assert f"{UNREADABLE} values" in capsys.readouterr().err
    assert value(data_path, "fluidd", "q") == -7
    other = make_sqlite(data_path / "other.db")
    assert db(data_path, "import", str(other)) == 1
    assert "--replace" in capsys.readouterr().err
    assert db(data_path, "import", "--replace", str(other)) == 0
    assert value(data_path, "authorized_users", "anna")
    assert len(list((data_path / "backup" / "database").iterdir())) == 1


def test_export_keeps_what_is_there(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = make_sqlite(data_path / "database" / "moonraker-sql.db")
    journal = data_path / "database" / "moonraker-sql.db-journal"
    assert db(data_path, "import") == 0
    before = original.read_bytes()
    journal.write_bytes(b"journal")
    assert db(data_path, "export") == 1
    assert original.read_bytes() == before
    assert db(data_path, "export", "--replace") == 0
    assert (data_path / "database" / "moonraker-sql.db.old").read_bytes() == before
    assert not journal.exists()
    with closing(sqlite3.connect(original)) as connection:
        assert connection.execute("SELECT job_id FROM job_history").fetchall() == [(42,)]
    assert db(data_path, "export", str(data_path / "nowhere" / "x.db")) == 1
    assert "No such file" in capsys.readouterr().err


def test_dump_and_restore(data_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    make_sqlite(data_path / "database" / "moonraker-sql.db")
    assert db(data_path, "import") == 0
    dump = data_path / "dump.txt"
    assert db(data_path, "dump", str(dump)) == 0
    assert dump.stat().st_mode & 0o777 == 0o600
    assert db(data_path, "dump", str(dump)) == 1  # nothing is overwritten
    capsysbinary.readouterr()
    assert db(data_path, "dump", "-") == 0
    assert capsysbinary.readouterr().out == dump.read_bytes()
    second = data_path / "second"
    (second / "database").mkdir(parents=True)
    assert db(second, "restore", str(dump)) == 0
    assert value(second, "fluidd", "t") == "héllo"
    assert db(data_path, "restore", str(dump)) == 0
    (backup,) = (data_path / "backup" / "database").iterdir()
    assert db(data_path, "restore", backup.name) == 0
    assert db(data_path, "restore", "none.db") == 1


def test_check(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert db(data_path, "check") == 0
    make_sqlite(data_path / "database" / "moonraker-sql.db")
    assert db(data_path, "import") == 0
    folder = data_path / "backup" / "database"
    folder.mkdir(parents=True, exist_ok=True)
    capsys.readouterr()
    assert db(data_path, "check") == 0
    assert capsys.readouterr().out == "database: sound\n"
    (folder / "bad.db").write_bytes(b"x" * 9000)
    assert db(data_path, "check") == 1
    assert "bad.db: page 0 does not describe a store" in capsys.readouterr().out
    assert (data_path / "database" / "moonfast.lmdb").is_dir()


@pytest.mark.parametrize("command", [["import"], ["export"], ["dump", "-"], ["restore", "x.db"]])
def test_not_while_a_server_runs(command: list[str], data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sqlite(data_path / "x.db")
    make_legacy(data_path / "database" / "data.mdb")

    async def run() -> int:
        backups = Backups(data_path)
        await backups.start()
        try:
            arguments = [str(data_path / "x.db") if item == "x.db" else item for item in command]
            return await asyncio.to_thread(db, data_path, *arguments)
        finally:
            await backups.database.stop()

    assert asyncio.run(run()) == 1
    assert "in use by another process" in capsys.readouterr().err


def test_wrong_usage(data_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["db"], ["db", "nonsense"], ["db", "dump"]):
        with pytest.raises(SystemExit) as info:
            cli.main(arguments)
        assert info.value.code == 2
    assert cli.main(["db", "check", "-d", str(data_path / "nowhere")]) == 1
    assert "no data folder" in capsys.readouterr().err
