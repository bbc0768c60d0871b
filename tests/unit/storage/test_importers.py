"""What users bring from Moonraker arrives whole, and their files stay as they are."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.errors import BadRequest
from moonfast.storage import exporters, importers, store_file
from moonfast.storage.importers import Problems, decode_value, encode_value, kind_of, stage
from tests.unit.storage.moonraker_files import (
    FLUIDD,
    HASH,
    KEY,
    UNREADABLE,
    make_foreign,
    make_legacy,
    make_sqlite,
    make_text,
    text_line,
)

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def contents(path: Path) -> dict[str, dict[str, Any]]:
    """What is in a file of this server."""
    found: dict[str, dict[str, Any]] = {}
    with closing(store_file.open_to_read(path)) as env:
        for namespace, key, value in store_file.rows(env):
            found.setdefault(namespace, {})[key] = value
    return found


def imported(source: Path, folder: Path) -> tuple[dict[str, dict[str, Any]], int]:
    before = {path.name: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    target = folder / "new"
    lost = stage(source, target)
    after = {path.name: path.read_bytes() for path in source.parent.iterdir() if path.is_file() and path != target}
    assert after == before
    return contents(target), lost


@given(JSON)
def test_values_come_back(value: Any) -> None:
    back = decode_value(encode_value(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("record", [b"", b"x", b"q123", b"?", b"{", b"[1", b"s\xff", b"d1234567"])
def test_what_is_no_value(record: bytes) -> None:
    with pytest.raises(ValueError):
        decode_value(record)


def test_sqlite(tmp_path: Path) -> None:
    found, lost = imported(make_sqlite(tmp_path / "moonraker-sql.db"), tmp_path)
    assert lost == UNREADABLE
    assert set(found) == {"moonraker", "fluidd", "webcams", "authorized_users", "history"}
    assert found["fluidd"] == FLUIDD
    assert found["webcams"] == {"6d3c3b3e-1111-4111-8111-111111111111": {"name": "cam"}}
    assert found["authorized_users"]["anna"] == {
        "username": "anna",
        "password": HASH,
        "created_on": 1795472926.5,
        "salt": "c602e0",
        "source": "moonraker",
        "jwt_secret": "dcfb1a",
        "jwk_id": "hVu9",
        "groups": ["admin"],
    }
    assert found["authorized_users"]["_API_KEY_USER_"]["api_key"] == KEY
    assert found["history"] == {
        "00002A": {
            "job_id": "00002A",
            "user": "anna",
            "filename": "a.gcode",
            "status": "completed",
            "start_time": 1.5,
            "end_time": 9.0,
            "print_duration": 5.0,
            "total_duration": 7.5,
            "filament_used": 12.25,
            "metadata": {"size": 3},
            "auxiliary_data": [],
        }
    }
    assert found["moonraker"] == {
        "instance_id": "35f95d174bc24c8cb87330c38febfc26",
        "file_manager": {"metadata_version": 3},
        "history": {
            "job_totals": {"total_jobs": 1.0, "longest_job": 7.5},
            "aux_totals": [{"provider": "spoolman", "field": "used", "maximum": 2.0, "total": 3.0}],
        },
    }


def test_sqlite_that_was_not_closed_in_order(tmp_path: Path) -> None:
    """What was being written when the machine lost power is undone, in a copy."""
    path = make_sqlite(tmp_path / "moonraker-sql.db")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("DELETE FROM job_history")
        for number in range(2000):
            connection.execute("INSERT INTO namespace_store VALUES ('half', ?, ?)", (f"k{number}", b"s" + b"x" * 500))
        for name in ("moonraker-sql.db", "moonraker-sql.db-journal"):
            shutil.copyfile(tmp_path / name, crashed / name)
        connection.execute("ROLLBACK")
    assert (crashed / "moonraker-sql.db").stat().st_size > path.stat().st_size
    found, _ = imported(crashed / "moonraker-sql.db", tmp_path)
    assert "half" not in found
    assert list(found["history"]) == ["00002A"]


def test_sqlite_of_an_older_version_has_fewer_tables(tmp_path: Path) -> None:
    path = make_sqlite(tmp_path / "moonraker-sql.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE job_history")
        connection.execute("DROP TABLE job_totals")
    found, _ = imported(path, tmp_path)
    assert "history" not in found
    assert "history" not in found["moonraker"]


def test_many_jobs(tmp_path: Path) -> None:
    found, _ = imported(make_sqlite(tmp_path / "moonraker-sql.db", jobs=2500), tmp_path)
    assert len(found["history"]) == 2500
    assert found["history"]["0009ED"]["job_id"] == "0009ED"


def test_legacy(tmp_path: Path) -> None:
    path = make_legacy(tmp_path / "data.mdb")
    assert kind_of(path) == "old Moonraker"
    found, lost = imported(path, tmp_path)
    assert lost == UNREADABLE
    assert set(found) == {"moonraker", "fluidd", "webcams", "authorized_users", "history"}
    assert found["fluidd"] == {**FLUIDD, "null": None}
    assert set(found["moonraker"]) == {"instance_id", "file_manager", "history"}
    assert found["authorized_users"]["_API_KEY_USER_"] == {
        "username": "_API_KEY_USER_",
        "api_key": KEY,
        "password": KEY,
    }
    assert found["history"] == {
        "00002A": {
            **importers.JOB_DEFAULTS,
            "filename": "a.gcode",
            "metadata": {},
            "job_id": "00002A",
            "status": "completed",
            "start_time": 1.5,
        }
    }


@pytest.mark.parametrize("map_size", [512 * 1024, 200 * 1024**2, 8 * 1024**3])
def test_legacy_of_any_size_of_map(tmp_path: Path, map_size: int) -> None:
    path = make_legacy(tmp_path / "data.mdb", map_size=map_size, fillers=30)
    os.truncate(path, -(-path.stat().st_size // 65536) * 65536)  # some systems write whole pieces of the map
    found, lost = imported(path, tmp_path)
    assert lost == UNREADABLE
    assert found["fluidd"] == {**FLUIDD, "null": None}
    assert found["fillers"] == {f"{number:06}": "x" * 4096 for number in range(15)}


def test_text_of_dbtool(tmp_path: Path) -> None:
    legacy = make_legacy(tmp_path / "data.mdb")
    path = make_text(tmp_path / "dump.txt", legacy)
    assert path.read_bytes().startswith(b"+32,24:TU9PTlJBS0VSX0RBVEFCQVNFX1NUQVJU->bmFtZXNwYWNlX2NvdW50PTc=\n+36,12:")
    assert kind_of(path) == "text"
    found = imported(path, tmp_path)
    (tmp_path / "other").mkdir()
    assert found == imported(legacy, tmp_path / "other")
    (tmp_path / "new").unlink()
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # was carried over by way of Windows
    assert imported(path, tmp_path) == found


HEAD = text_line(b"MOONRAKER_DATABASE_START", b"namespace_count=1")
SPACE = text_line(b"namespace_a", b"entries=1")
VALUE = text_line(b"k", b"[1]")


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        HEAD + SPACE,
        HEAD + SPACE + VALUE[:-3],
        HEAD + VALUE + VALUE,
        HEAD + SPACE + VALUE + VALUE,
        HEAD + SPACE + VALUE.replace(b"+4,", b"+5,"),
        HEAD + SPACE + b"+4,4:a=b=->WzFd\n",
        HEAD + text_line(b"namespace_a", b"entries=-1"),
        HEAD + text_line(b"namespace_a", b"entries=" + b"9" * 5000),
        text_line(b"MOONRAKER_DATABASE_STOP!", b"namespace_count=1") + SPACE + VALUE,
        b"+32,",
    ],
)
def test_text_that_is_not_whole(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dump.txt"
    path.write_bytes(text)
    with pytest.raises(BadRequest, match="not complete"):
        stage(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_text_without_a_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "dump.txt"
    path.write_bytes((HEAD + SPACE + VALUE).rstrip())
    assert imported(path, tmp_path) == ({"a": {"k": [1]}}, 0)


def test_jobs_are_written_as_history_reads_them(tmp_path: Path) -> None:
    """It finds name, size and time of the file at the beginning of the record, and times behind all that is nested."""
    path = make_sqlite(tmp_path / "moonraker-sql.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        metadata = b'{"start_time":1,"modified":2.5,"size":3,"slicer":"x"}'
        connection.execute("UPDATE job_history SET metadata = ?, auxiliary_data = ?", (metadata, b'[{"end_time":7}]'))
    stage(path, tmp_path / "new")
    with closing(store_file.open_to_read(tmp_path / "new")) as env, env.begin() as txn:
        record = txn.get(b"history\x0000002A")
    assert record.startswith(b'{"filename":"a.gcode","metadata":{"size":3,"modified":2.5,"start_time":1,"slicer":"x"},')
    assert record[record.rfind(b'"start_time":') :].startswith(b'"start_time":1.5,"end_time":9.0')


@pytest.mark.parametrize("make", [make_sqlite, make_legacy])
def test_damaged(make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "store")
    data = bytearray(path.read_bytes())
    for at in range(2 * 4096, len(data), 4096):
        data[at : at + 64] = os.urandom(64)
    path.write_bytes(data)
    with pytest.raises(BadRequest, match="'store'"):
        stage(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_other_word_size_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"-bit system.*moonfast db dump"):
        kind_of(make_foreign(tmp_path / "data.mdb"))


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(5000)])
def test_no_store(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match="'store'"):
        stage(path, tmp_path / "new")
    with pytest.raises(BadRequest, match="cannot be read"):
        stage(tmp_path, tmp_path / "new")


ROWS = [("a", "k", {"x": [1, None]}), ("a", "l", "é"), ("\x01\x00b", "x" * 700, 2.5)]


def test_dump_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "dump.txt"
    with open(path, "wb") as stream:
        assert exporters.dump([*ROWS, ("gcode_metadata", "\udc80", 1)], stream) == 3
    assert kind_of(path) == "dump"
    found, lost = imported(path, tmp_path)
    assert lost == 0
    assert found == {"a": {"k": {"x": [1, None]}, "l": "é"}, "\x01\x00b": {"x" * 700: 2.5}}


@pytest.mark.parametrize(
    "lines",
    [
        b'{"format":"moonfast dump 2"}\n{"count":0}\n',
        b'{"format":"moonfast dump 1"}\n',
        b'{"format":"moonfast dump 1"}\n{"count":1}\n',
        b'{"format":"moonfast dump 1"}\n{"namespace":"a","key":"b"}\n{"count":1}\n',
        b'{"format":"moonfast dump 1"}\n{"namespace":"a","key":"b","val\n{"count":1}\n',
        b'{"format":"moonfast dump 1"}\n{"namespace":"","key":"b","value":1}\n{"count":1}\n',
    ],
)
def test_dump_that_is_not_whole(lines: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dump.txt"
    path.write_bytes(lines)
    with pytest.raises(BadRequest):
        stage(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "MAP_LIMIT_BYTES", 128 * 1024)
    with pytest.raises(lmdb.MapFullError):
        stage(make_sqlite(tmp_path / "moonraker-sql.db", jobs=2500), tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moonraker-sql.db"]


def test_problems_are_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    problems = Problems()
    problems.note("fluidd", "bad")
    assert problems.count == 1
    assert "'bad' in 'fluidd'" in caplog.text
    assert {"database", "gcode_metadata"} == importers.LEFT_BEHIND
