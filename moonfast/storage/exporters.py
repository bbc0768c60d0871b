"""Writes what is stored for others: a file that Moonraker 0.11 starts from, and text that any machine can read.

The tables are those that Moonraker makes in a new file; see `importers` for what becomes of history and accounts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

from moonfast import codec
from moonfast.storage.importers import (
    API_KEY_USER,
    DUMP_FORMAT,
    HISTORY,
    LEFT_BEHIND,
    MOONRAKER,
    NO_USER,
    TOTALS,
    USERS,
    encode_value,
)
from moonfast.storage.store_file import Row

INSTANCE = "default"
OWN_NOTES = ((MOONRAKER, "database"),)  # about the store of this server
MAXIMA = ("longest_job", "longest_print")  # totals that are not sums
_MOONRAKER_HASH = re.compile(r"[0-9a-f]{64}\Z")  # PBKDF2 with SHA-256
_TABLES = {
    "namespace_store": """(
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value record NOT NULL,
    PRIMARY KEY (namespace, key)
)""",
    "authorized_users": """(
    username TEXT PRIMARY KEY NOT NULL,
    password TEXT NOT NULL,
    created_on REAL NOT NULL,
    salt TEXT NOT NULL,
    source TEXT NOT NULL,
    jwt_secret TEXT,
    jwk_id TEXT,
    groups pyjson
)""",
    "job_history": """(
    job_id INTEGER PRIMARY KEY ASC,
    user TEXT NOT NULL,
    filename TEXT,
    status TEXT NOT NULL,
    start_time REAL NOT NULL,
    end_time REAL,
    print_duration REAL NOT NULL,
    total_duration REAL NOT NULL,
    filament_used REAL NOT NULL,
    metadata pyjson,
    auxiliary_data pyjson NOT NULL,
    instance_id TEXT NOT NULL
)""",
    "job_totals": """(
    provider TEXT NOT NULL,
    field TEXT NOT NULL,
    maximum REAL,
    total REAL,
    instance_id TEXT NOT NULL,
    PRIMARY KEY (provider, field, instance_id)
)""",
}
_REGISTRY = """(
    name TEXT NOT NULL PRIMARY KEY,
    prototype TEXT NOT NULL,
    version INT
)"""


def to_sqlite(rows: Iterable[Row], target: Path) -> list[str]:
    """Write `target`, replacing it; the users whose passwords Moonraker cannot check.

    OSError: it cannot be written, and nothing has changed.
    """
    import sqlite3  # one megabyte: only for this

    part = target.with_name(f"{target.name}.part")
    with suppress(FileNotFoundError):
        part.unlink()
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(part)) as connection, connection:
            strange = _fill(connection, rows)
        os.replace(part, target)
    except sqlite3.Error as exc:
        raise OSError(f"SQLite: {exc}") from exc
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return strange


def dump(rows: Iterable[Row], stream: BinaryIO) -> int:
    """Write lines of JSON: the format, each value with its namespace and key, the number of values."""
    count = 0
    stream.write(codec.encode({"format": DUMP_FORMAT}) + b"\n")
    for namespace, key, value in rows:
        try:
            line = codec.encode({"namespace": namespace, "key": key, "value": value})
        except UnicodeEncodeError:
            continue  # metadata of a file whose name is no text: read from the file again
        stream.write(line + b"\n")
        count += 1
    stream.write(codec.encode({"count": count}) + b"\n")
    return count


def _fill(connection: Any, rows: Iterable[Row]) -> list[str]:
    connection.execute(f"CREATE TABLE table_registry {_REGISTRY}")
    for name, columns in _TABLES.items():
        connection.execute(f"CREATE TABLE {name} {columns}")
        connection.execute("INSERT INTO table_registry VALUES (?, ?, ?)", (name, f"{name} {columns}", 1))
    strange = []
    for namespace, key, value in rows:
        if namespace == USERS and isinstance(value, dict):
            user = _user(key, value)
            if key != API_KEY_USER and user[4] == "moonraker" and not _MOONRAKER_HASH.match(user[1]):
                strange.append(key)
            _insert(connection, "authorized_users", user)
        elif namespace == HISTORY and isinstance(value, dict):
            with suppress(ValueError):  # a key that is no job id: nothing that Moonraker could show
                _insert(connection, "job_history", _job(int(key, 16), value))
        elif (namespace, key) == (MOONRAKER, TOTALS) and isinstance(value, dict):
            for total in _totals(value):
                _insert(connection, "job_totals", total)
        elif (
            namespace not in LEFT_BEHIND and (namespace, key) not in OWN_NOTES and value is not None
        ):  # Moonraker stores no null
            _insert(connection, "namespace_store", (namespace, key, encode_value(value)))
    return strange


def _insert(connection: Any, table: str, values: tuple[Any, ...]) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)


def _user(name: str, record: dict[str, Any]) -> tuple[Any, ...]:
    groups = record.get("groups")
    return (
        name,
        _text(record.get("api_key") or record.get("password")),
        _number(record.get("created_on")),
        _text(record.get("salt")),
        _text(record.get("source")) or "moonraker",
        record.get("jwt_secret"),
        record.get("jwk_id"),
        codec.encode(["admin"] if groups is None else groups),
    )


def _job(number: int, job: dict[str, Any]) -> tuple[Any, ...]:
    end_time = job.get("end_time")
    return (
        number,
        _text(job.get("user")) or NO_USER,
        _text(job.get("filename")),
        _text(job.get("status")) or "interrupted",
        _number(job.get("start_time")),
        None if end_time is None else _number(end_time),
        _number(job.get("print_duration")),
        _number(job.get("total_duration")),
        _number(job.get("filament_used")),
        codec.encode(job.get("metadata") or {}),
        codec.encode(job.get("auxiliary_data") or []),
        INSTANCE,
    )


def _totals(record: dict[str, Any]) -> Iterable[tuple[Any, ...]]:
    own, others = record.get("job_totals"), record.get("aux_totals")
    for field, value in (own if isinstance(own, dict) else {}).items():
        number = _number(value)
        yield (HISTORY, field, number, None, INSTANCE) if field in MAXIMA else (HISTORY, field, None, number, INSTANCE)
    for item in others if isinstance(others, list) else ():
        if isinstance(item, dict) and item.get("provider") and item.get("field"):
            yield item["provider"], item["field"], item.get("maximum"), item.get("total"), INSTANCE


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
