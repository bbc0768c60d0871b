"""Reads the stores that users bring: Moonraker's SQLite file, its older LMDB store, text dumps, and backups.

Nothing is written to them: an SQLite file is opened as a copy, since opening one that was not closed in order writes.
What comes out are rows of this server's store. On the way, history and accounts, which Moonraker keeps in tables of
their own, become namespaces:

    authorized_users    username -> the columns of the table; the API key is at API_KEY_USER, as `api_key`, too
    history             job id, at least six hexadecimal digits -> the job as the API shows it
    moonraker.history   {"job_totals": {field: value}, "aux_totals": [{provider, field, maximum, total}]}

Left behind are `database` (notes of that program about its file) and `gcode_metadata` (read from the files again).

Formats, as files made by Moonraker show them: a value is a letter and its bytes, in the byte order of the machine;
`q` integer of 8 bytes, `d` double, `?` boolean, `s` text, NUL null; or it is JSON text, which begins with { or [.

A text dump of Moonraker's dbtool.py, as that program writes it for an older store, is lines `+KEY SIZE,VALUE SIZE:
KEY->VALUE` without the blanks. Both are base64, the sizes count its characters. Heads are among them:

    MOONRAKER_DATABASE_START -> namespace_count=N    the first line
    namespace_NAME -> entries=N                      then the N values of this namespace, bytes as above
"""

from __future__ import annotations

import binascii
import logging
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import lmdb

from moonfast import codec
from moonfast.errors import BadRequest
from moonfast.storage import store_file
from moonfast.storage.check import Damage, ForeignWordSize, check
from moonfast.storage.store_file import Row

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger(__name__)

LEFT_BEHIND = frozenset(("database", "gcode_metadata"))
USERS, HISTORY, MOONRAKER, TOTALS = "authorized_users", "history", "moonraker", "history"
API_KEY_USER = "_API_KEY_USER_"
NO_USER = "No User"  # of jobs that nobody is known to have started
JOB_DEFAULTS: dict[str, Any] = {
    "auxiliary_data": [],
    "user": NO_USER,
    "job_id": "",
    "status": "interrupted",
    "start_time": 0.0,
    "end_time": None,
    "print_duration": 0.0,
    "total_duration": 0.0,
    "filament_used": 0.0,
}
DUMP_FORMAT = "moonfast dump 1"
MAX_NAMESPACES = 200  # of a legacy store; Moonraker allows 100
MAX_DUMP_LINE_BYTES = 64 * 1024**2
SIDE_FILES = ("-journal", "-wal", "-shm")  # what SQLite needs to finish or undo what was being written
_TEXT_HEAD = b"MOONRAKER_DATABASE_START"
_TEXT_START = b"+32,"  # and the size of a value: the head in base64 has 32 characters
_TEXT_LINE = re.compile(rb"\+(\d{1,9}),(\d{1,9}):([A-Za-z0-9+/=]*)->([A-Za-z0-9+/=]*)\r?\n?")
_SQLITE = b"SQLite format 3\0"
_NUMBERS = {b"q": struct.Struct("q"), b"d": struct.Struct("d"), b"?": struct.Struct("?")}


class Problems:
    """Counts what cannot be read, so that one bad value does not cost all the others."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, namespace: str, key: str) -> None:
        self.count += 1
        log.warning("The value '%s' in '%s' cannot be read and is left out", key, namespace)


def kind_of(path: Path) -> str:
    """What a file is: "Moonraker", "old Moonraker", "dump", "text" (of dbtool.py) or "backup". BadRequest: none."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(64)
        if start.startswith(_SQLITE):
            return "Moonraker"
        if start.startswith(b'{"format":"'):
            return "dump"
        if start.startswith(_TEXT_START):
            return "text"
        check(path, is_thorough=True, has_databases=True)
        if not start:
            raise Damage("it is empty")
        with closing(store_file.open_to_read(path)) as env, env.begin() as txn, txn.cursor() as cursor:
            return "old Moonraker" if cursor.first() and b"\0" not in cursor.key() else "backup"
    except ForeignWordSize as exc:
        raise BadRequest(
            f"'{path.name}' cannot be used: {exc}. On the old system, run `moonfast db dump` and restore its output "
            "here; or start Moonraker 0.9 or later there once and bring its moonraker-sql.db"
        ) from None
    except (Damage, lmdb.Error) as exc:
        raise BadRequest(f"'{path.name}' cannot be used: {exc if isinstance(exc, Damage) else 'no store'}") from None
    except OSError as exc:
        raise BadRequest(f"'{path.name}' cannot be read: {exc.strerror}") from None


def stage(source: Path, target: Path) -> int:
    """Make a store of this server out of any file that `kind_of` knows; how many values had to be left out.

    BadRequest: it cannot be used. OSError, lmdb.Error: `target` cannot be written.
    """
    kind = kind_of(source)
    if kind == "backup":
        store_file.copy_file(source, target)
        return 0
    problems = Problems()
    found = {"Moonraker": from_sqlite, "old Moonraker": from_legacy, "dump": from_dump, "text": from_text}[kind](
        source, problems
    )
    store_file.write(target, found)
    return problems.count


def from_sqlite(path: Path, problems: Problems) -> Iterator[Row]:
    """BadRequest: it is damaged, or cannot be read."""
    import sqlite3  # one megabyte: only for this

    with tempfile.TemporaryDirectory(prefix="import-", dir=path.parent) as folder:
        copy = os.path.join(folder, "copy.db")
        try:
            for suffix in ("", *SIDE_FILES):
                if not suffix or os.path.exists(f"{path}{suffix}"):
                    shutil.copyfile(f"{path}{suffix}", copy + suffix)
            with closing(sqlite3.connect(copy)) as connection:
                connection.row_factory = sqlite3.Row
                if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise BadRequest(f"'{path.name}' is damaged: bring a backup of it")
                tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                for table, read in _TABLES.items():
                    if table in tables:
                        yield from read(connection.execute(f"SELECT * FROM {table}"), problems)
        except sqlite3.Error:
            raise BadRequest(f"'{path.name}' cannot be read: it is damaged, or no database of Moonraker") from None


def from_legacy(path: Path, problems: Problems) -> Iterator[Row]:
    """The file has been checked."""
    with closing(store_file.open_to_read(path, MAX_NAMESPACES)) as env:
        with env.begin() as txn, txn.cursor() as cursor:
            names = list(cursor.iternext(keys=True, values=False))
        for name in names:
            namespace = name.decode("utf-8", "replace")
            if namespace in LEFT_BEHIND:
                continue
            database = env.open_db(name, create=False)
            with env.begin(db=database) as txn, txn.cursor() as cursor:
                for key_bytes, record in cursor:
                    key = key_bytes.decode("utf-8", "replace")
                    yield from _legacy_row(namespace, key, record, problems)


def _legacy_row(namespace: str, key: str, record: bytes, problems: Problems) -> Iterator[Row]:
    """The row of one value of an older store; none, if it is a note of that program, or cannot be read."""
    try:
        value = decode_value(record)
    except ValueError:
        problems.note(namespace, key)
        return
    if (namespace, key) != (MOONRAKER, "database"):
        yield namespace, key, _completed(namespace, key, value)


def from_text(path: Path, problems: Problems) -> Iterator[Row]:
    """A dump of dbtool.py. BadRequest: it is damaged, or was cut short."""
    with open(path, "rb") as stream:
        for _ in range(_head(path, stream, _TEXT_HEAD, b"namespace_count=")[1]):
            name, count = _head(path, stream, b"namespace_", b"entries=")
            namespace = name.decode("utf-8", "replace")
            for _ in range(count):
                key, record = _pair(path, stream)
                if namespace not in LEFT_BEHIND and namespace:
                    yield from _legacy_row(namespace, key.decode("utf-8", "replace"), record, problems)
        if stream.read(MAX_DUMP_LINE_BYTES).strip():
            raise _not_whole(path)


def _head(path: Path, stream: BinaryIO, start: bytes, unit: bytes) -> tuple[bytes, int]:
    """What follows `start` in the key of a head, and how many of `unit` are announced."""
    key, value = _pair(path, stream)
    digits = value.removeprefix(unit)
    if not key.startswith(start) or digits == value or not digits.isdigit() or len(digits) > 9:
        raise _not_whole(path)
    return key.removeprefix(start), int(digits)


def _pair(path: Path, stream: BinaryIO) -> tuple[bytes, bytes]:
    """Key and value of the next line."""
    found = _TEXT_LINE.fullmatch(stream.readline(MAX_DUMP_LINE_BYTES))
    if found is None or [int(size) for size in found.group(1, 2)] != [len(text) for text in found.group(3, 4)]:
        raise _not_whole(path)
    try:
        return binascii.a2b_base64(found[3], strict_mode=True), binascii.a2b_base64(found[4], strict_mode=True)
    except binascii.Error:
        raise _not_whole(path) from None


def _not_whole(path: Path) -> BadRequest:
    return BadRequest(f"'{path.name}' is not complete: make the dump again")


def from_dump(path: Path, problems: Problems) -> Iterator[Row]:
    """Lines of JSON, see `exporters.dump`. BadRequest: it is of another format, or was cut short."""
    with open(path, "rb") as stream:
        header = _line(stream.readline(MAX_DUMP_LINE_BYTES))
        if header.get("format") != DUMP_FORMAT:
            raise BadRequest(f"'{path.name}' is a dump of another version: restore it with the program that made it")
        count = 0
        while line := stream.readline(MAX_DUMP_LINE_BYTES):
            item = _line(line)
            if "count" in item:
                if item["count"] != count:
                    break
                return
            if not (isinstance(item.get("namespace"), str) and isinstance(item.get("key"), str) and "value" in item):
                break
            count += 1
            yield item["namespace"], item["key"], item["value"]
    raise _not_whole(path)


def decode_value(record: bytes) -> Any:
    """A value of Moonraker's store. ValueError: it is none."""
    kind = record[:1]
    if kind in (b"{", b"["):
        return codec.decode(record)
    if kind == b"s":
        return record[1:].decode("utf-8")
    if kind == b"\0":
        return None
    if kind in _NUMBERS:
        try:
            return _NUMBERS[kind].unpack(record[1:])[0]
        except struct.error:
            raise ValueError from None
    raise ValueError


def encode_value(value: Any) -> bytes:
    """A value as Moonraker stores it."""
    if value is None:
        return b"\0"
    if isinstance(value, bool):
        return b"?" + _NUMBERS[b"?"].pack(value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return b"q" + _NUMBERS[b"q"].pack(value)
    if isinstance(value, int | float):
        return b"d" + _NUMBERS[b"d"].pack(float(value))
    return b"s" + value.encode("utf-8") if isinstance(value, str) else codec.encode(value)


def _line(line: bytes) -> dict[str, Any]:
    try:
        item = codec.decode(line)
    except codec.DecodeError:
        item = None
    return item if isinstance(item, dict) else {}


def _completed(namespace: str, key: str, value: Any) -> Any:
    """What older records lack."""
    if not isinstance(value, dict):
        return value
    if namespace == USERS and key == API_KEY_USER:
        secret = value.get("api_key") or value.get("password") or ""
        return {**value, "username": key, "api_key": secret, "password": secret}
    return _job(key, value) if namespace == HISTORY else value


def _job(key: str, found: dict[str, Any]) -> dict[str, Any]:
    """A job in the order in which history writes its records: what it looks for first comes first."""
    metadata = found.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    first = {name: metadata[name] for name in ("size", "modified") if name in metadata}
    job = {"filename": found.get("filename") or "", "metadata": {**first, **metadata}, **JOB_DEFAULTS}
    job.update((name, found[name]) for name in JOB_DEFAULTS if found.get(name) is not None)
    return {**job, "job_id": key}


def _from_namespaces(rows: Iterator[sqlite3.Row], problems: Problems) -> Iterator[Row]:
    for row in rows:
        namespace, key, record = row["namespace"], row["key"], row["value"]
        if namespace in LEFT_BEHIND or not namespace:
            continue
        try:
            yield namespace, key, decode_value(record if isinstance(record, bytes) else str(record).encode())
        except ValueError:
            problems.note(namespace, key)


def _from_users(rows: Iterator[sqlite3.Row], problems: Problems) -> Iterator[Row]:
    for row in rows:
        name = row["username"]
        try:
            yield USERS, name, _completed(USERS, name, _columns(row, ("groups",)))
        except ValueError:
            problems.note(USERS, name)


def _from_history(rows: Iterator[sqlite3.Row], problems: Problems) -> Iterator[Row]:
    for row in rows:
        key = f"{row['job_id']:06X}"
        try:
            job = _columns(row, ("metadata", "auxiliary_data"))
        except ValueError:
            problems.note(HISTORY, key)
            continue
        yield HISTORY, key, _completed(HISTORY, key, job)


def _from_totals(rows: Iterator[sqlite3.Row], problems: Problems) -> Iterator[Row]:
    own: dict[str, float] = {}
    others: list[dict[str, Any]] = []
    for row in rows:
        if row["provider"] == "history":
            own[row["field"]] = (row["total"] if row["maximum"] is None else row["maximum"]) or 0.0
        else:
            others.append({name: row[name] for name in ("provider", "field", "maximum", "total")})
    if own or others:
        yield MOONRAKER, TOTALS, {"job_totals": own, "aux_totals": others}


_TABLES = {
    "namespace_store": _from_namespaces,
    "authorized_users": _from_users,
    "job_history": _from_history,
    "job_totals": _from_totals,
}


def _columns(row: sqlite3.Row, json_columns: tuple[str, ...]) -> dict[str, Any]:
    """A row as an object. ValueError: a column that should hold JSON does not."""
    values = dict(row)
    for name in json_columns:
        if values.get(name) is not None:
            values[name] = codec.decode(values[name])
    return values
