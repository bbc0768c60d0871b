"""Stores as Moonraker writes them, made value by value: bytes and tables are those found in files that it had made."""

from __future__ import annotations

import base64
import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import lmdb

SCHEMA = """
CREATE TABLE table_registry (name TEXT NOT NULL PRIMARY KEY, prototype TEXT NOT NULL, version INT);
CREATE TABLE namespace_store (namespace TEXT NOT NULL, key TEXT NOT NULL, value record NOT NULL,
    PRIMARY KEY (namespace, key));
CREATE TABLE authorized_users (username TEXT PRIMARY KEY NOT NULL, password TEXT NOT NULL, created_on REAL NOT NULL,
    salt TEXT NOT NULL, source TEXT NOT NULL, jwt_secret TEXT, jwk_id TEXT, groups pyjson);
CREATE TABLE job_history (job_id INTEGER PRIMARY KEY ASC, user TEXT NOT NULL, filename TEXT, status TEXT NOT NULL,
    start_time REAL NOT NULL, end_time REAL, print_duration REAL NOT NULL, total_duration REAL NOT NULL,
    filament_used REAL NOT NULL, metadata pyjson, auxiliary_data pyjson NOT NULL, instance_id TEXT NOT NULL);
CREATE TABLE job_totals (provider TEXT NOT NULL, field TEXT NOT NULL, maximum REAL, total REAL,
    instance_id TEXT NOT NULL, PRIMARY KEY (provider, field, instance_id));
"""
KEY = "ce39f10d46504f408aea0d9b4e9a5360"
HASH = "2553f6ebf225051e508ce5e0cf9a03ceb568f525ff40e3730b27638e7f9e81ce"
RECORDS = {
    ("moonraker", "instance_id"): b"s35f95d174bc24c8cb87330c38febfc26",
    ("moonraker", "file_manager"): b'{"metadata_version":3}',
    ("database", "database_version"): b"q" + struct.pack("q", 2),
    ("gcode_metadata", "a.gcode"): b'{"size":3}',
    ("fluidd", "t"): "shéllo".encode(),
    ("fluidd", "f"): b"d\x00\x00\x00\x00\x00\x00\xf8?",
    ("fluidd", "q"): b"q" + struct.pack("q", -7),
    ("fluidd", "b"): b"?\x01",
    ("fluidd", "l"): b"[1,2]",
    ("fluidd", "a.b"): b'{"e":""}',
    ("fluidd", "bad"): b"x?",
    ("fluidd", "cut"): b"q\x01",
    ("webcams", "6d3c3b3e-1111-4111-8111-111111111111"): b'{"name":"cam"}',
}
FLUIDD = {"t": "héllo", "f": 1.5, "q": -7, "b": True, "l": [1, 2], "a.b": {"e": ""}}
UNREADABLE = 2


def make_sqlite(path: Path, jobs: int = 1) -> Path:
    """A moonraker-sql.db of Moonraker 0.11 with an account, an API key and jobs numbered from 42."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(SCHEMA)
        connection.executemany(
            "INSERT INTO namespace_store VALUES (?, ?, ?)", [(*name, record) for name, record in RECORDS.items()]
        )
        users = [
            ("_API_KEY_USER_", KEY, 1795472921.5, "", "moonraker", None, None, b'["admin"]'),
            ("anna", HASH, 1795472926.5, "c602e0", "moonraker", "dcfb1a", "hVu9", b'["admin"]'),
        ]
        connection.executemany("INSERT INTO authorized_users VALUES (?, ?, ?, ?, ?, ?, ?, ?)", users)
        for number in range(42, 42 + jobs):
            row = (number, "anna", "a.gcode", "completed", 1.5, 9.0, 5.0, 7.5, 12.25, b'{"size":3}', b"[]", "default")
            connection.execute("INSERT INTO job_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        totals = [
            ("history", "total_jobs", None, 1.0, "default"),
            ("history", "longest_job", 7.5, None, "default"),
            ("spoolman", "used", 2.0, 3.0, "default"),
        ]
        connection.executemany("INSERT INTO job_totals VALUES (?, ?, ?, ?, ?)", totals)
    return path


def make_legacy(path: Path, map_size: int = 1024**2, fillers: int = 0) -> Path:
    """The LMDB file of Moonraker 0.8 and before: a named database for each namespace.

    `fillers`: so many records more of 4 KB, the last of which are deleted again, as in a store that was large once.
    """
    records = dict(RECORDS)
    records["moonraker", "database"] = b'{"database_version":1}'
    records["moonraker", "history"] = b'{"job_totals":{"total_jobs":1},"aux_totals":[]}'
    records["fluidd", "null"] = b"\0"
    records["authorized_users", "_API_KEY_USER_"] = b'{"username":"_API_KEY_USER_","api_key":"%b"}' % KEY.encode()
    records["authorized_users", "anna"] = b'{"username":"anna","password":"%b"}' % HASH.encode()
    records["history", "00002A"] = b'{"filename":"a.gcode","status":"completed","start_time":1.5}'
    with closing(lmdb.open(os.fspath(path), subdir=False, lock=False, max_dbs=100, map_size=map_size)) as env:
        for (namespace, key), record in records.items():
            with env.begin(write=True, db=env.open_db(namespace.encode())) as txn:
                txn.put(key.encode(), record)
        for number in range(fillers):
            with env.begin(write=True, db=env.open_db(b"fillers")) as txn:
                txn.put(b"%06d" % number, b"s" + b"x" * 4096)
        for number in range(fillers // 2, fillers):
            with env.begin(write=True, db=env.open_db(b"fillers")) as txn:
                txn.delete(b"%06d" % number)
    return path


def make_foreign(path: Path) -> Path:
    """The beginning of a file from a system of the other word size: the magic number lies elsewhere."""
    at = 12 if struct.calcsize("P") == 8 else 16
    path.write_bytes(bytes(at) + struct.pack("=II", 0xBEEFC0DE, 1) + bytes(16384))
    return path


def text_line(key: bytes, value: bytes) -> bytes:
    """A line of dbtool.py, which gives the sizes of the base64."""
    texts = base64.b64encode(key), base64.b64encode(value)
    return b"+%d,%d:%b->%b\n" % (*map(len, texts), *texts)


def make_text(path: Path, legacy: Path) -> Path:
    """What `dbtool.py backup` of Moonraker 0.11 makes of an older store: the same bytes."""
    with closing(lmdb.open(os.fspath(legacy), subdir=False, lock=False, readonly=True, max_dbs=100)) as env:
        with env.begin() as txn:
            names = [name for name, _ in txn.cursor()]
        lines = [text_line(b"MOONRAKER_DATABASE_START", b"namespace_count=%d" % len(names))]
        for name in names:
            with env.begin(db=env.open_db(name, create=False)) as txn:
                pairs = list(txn.cursor())
            lines.append(text_line(b"namespace_" + name, b"entries=%d" % len(pairs)))
            lines.extend(text_line(*pair) for pair in pairs)
    path.write_bytes(b"".join(lines))
    return path
