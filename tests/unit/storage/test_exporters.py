"""The way back: tables with what Moonraker expects in them. That it starts from them was tried with Moonraker 0.11."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from moonfast.storage import exporters
from moonfast.storage.importers import Problems, from_sqlite
from tests.unit.storage.moonraker_files import HASH, RECORDS, make_sqlite


def table(path: Path, name: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {name}").fetchall()


def test_there_and_back(tmp_path: Path) -> None:
    """What came from Moonraker goes back as it was, but for what Moonraker makes anew."""
    source, target = make_sqlite(tmp_path / "moonraker-sql.db", jobs=3), tmp_path / "back.db"
    assert exporters.to_sqlite(from_sqlite(source, Problems()), target) == []
    for name in ("authorized_users", "job_history", "job_totals"):
        assert sorted(table(target, name)) == sorted(table(source, name)), name
    kept = {(*name, record) for name, record in RECORDS.items() if name[0] not in ("database", "gcode_metadata")}
    assert set(table(target, "namespace_store")) == {row for row in kept if row[1] not in ("bad", "cut")}
    assert {row[0] for row in table(target, "table_registry")} == {
        "namespace_store",
        "authorized_users",
        "job_history",
        "job_totals",
    }
    assert target.stat().st_mode & 0o777 == 0o600


def test_what_records_lack_is_filled_in(tmp_path: Path) -> None:
    rows = [
        ("authorized_users", "eva", {"password": "scrypt$1", "groups": None}),
        ("authorized_users", "ldap", {"password": "", "source": "ldap"}),
        ("authorized_users", "anna", {"password": HASH, "source": "moonraker"}),
        ("history", "000001", {"end_time": None, "user": None}),
        ("history", "no id", {"status": "completed"}),
        ("moonraker", "history", {"job_totals": {"total_jobs": 2, "longest_print": 5}, "aux_totals": [3, {}]}),
        ("fluidd", "nothing", None),
        ("moonraker", "database", {"unsafe_shutdowns": 1}),
    ]
    assert exporters.to_sqlite(rows, tmp_path / "x.db") == ["eva"]
    users = table(tmp_path / "x.db", "authorized_users")
    assert [(row[0], row[4], row[7]) for row in users] == [
        ("eva", "moonraker", b'["admin"]'),
        ("ldap", "ldap", b'["admin"]'),
        ("anna", "moonraker", b'["admin"]'),
    ]
    assert table(tmp_path / "x.db", "job_history") == [
        (1, "No User", "", "interrupted", 0.0, None, 0.0, 0.0, 0.0, b"{}", b"[]", "default")
    ]
    assert table(tmp_path / "x.db", "job_totals") == [
        ("history", "total_jobs", None, 2.0, "default"),
        ("history", "longest_print", 5.0, None, "default"),
    ]
    assert table(tmp_path / "x.db", "namespace_store") == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    def rows() -> Any:
        yield "a", "b", 1
        raise OSError(28, "No space left on device")

    target = tmp_path / "x.db"
    target.write_bytes(b"old")
    with pytest.raises(OSError):
        exporters.to_sqlite(rows(), target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
