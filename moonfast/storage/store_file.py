"""A store as one file, as backups are and as a new store is before it takes the place of the old one.

It is LMDB's own file format, so that a backup is read again as fast as it was written, and `check` can look through it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb

from moonfast import codec
from moonfast.storage import records

MAP_LIMIT_BYTES = 256 * 1024**2  # of a store that is written in one go
ROWS_AT_ONCE = 1000  # in one transaction: its pages are held in memory
_COPY_BYTES = 1024 * 1024

Row = tuple[str, str, Any]  # namespace, key, value


def copy_into(env: lmdb.Environment, target: Path) -> None:
    """Write all that has been committed into a file, without gaps. OSError, lmdb.Error: there is no such file then."""
    with _Complete(target) as descriptor:
        env.copyfd(descriptor, compact=True)


def copy_file(source: Path, target: Path) -> None:
    """OSError: there is no such file then."""
    with open(source, "rb", buffering=0) as stream, _Complete(target) as descriptor:
        while piece := stream.read(_COPY_BYTES):
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view) :]


def write(target: Path, rows: Iterable[Row]) -> int:
    """Write a store that holds just these rows, and say how many. OSError, lmdb.Error: there is no such file then."""
    count = 0
    with suppress(FileNotFoundError):
        target.unlink()
    try:
        env = lmdb.open(os.fspath(target), subdir=False, lock=False, map_size=MAP_LIMIT_BYTES, sync=False, mode=0o600)
        try:
            batch: dict[bytes, bytes] = {}
            for namespace, key, value in rows:
                name = records.name_of(records.prefix(namespace), key)
                batch[name] = records.pack(name, key, codec.encode(value))
                count += 1
                if len(batch) >= ROWS_AT_ONCE:
                    _put(env, batch)
            _put(env, batch)
            env.sync(True)
        finally:
            env.close()
    except BaseException:
        with suppress(FileNotFoundError):
            target.unlink()
        raise
    return count


def open_to_read(path: Path, max_databases: int = 0) -> lmdb.Environment:
    """Open a file that `check` has found sound. Nothing is written, not even a lock."""
    return lmdb.open(os.fspath(path), subdir=False, lock=False, readonly=True, create=False, max_dbs=max_databases)


def rows(env: lmdb.Environment) -> Iterator[Row]:
    """All that is in a store."""
    with env.begin() as txn, txn.cursor() as cursor:
        for name, record in cursor.iternext():
            namespace = records.namespace_of(name)
            key = records.key_of(records.prefix(namespace), name, record)
            yield namespace, key, codec.decode(records.text_of(name, record))


def _put(env: lmdb.Environment, batch: dict[bytes, bytes]) -> None:
    with env.begin(write=True) as txn:
        for name, record in batch.items():
            txn.put(name, record)
    batch.clear()


class _Complete:
    """A file that is on the disk when it is left, or not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def __exit__(self, kind: object, *_: object) -> None:
        is_whole = False
        try:
            if kind is None:
                os.fsync(self._descriptor)
                is_whole = True
        finally:
            os.close(self._descriptor)
            if not is_whole:
                with suppress(FileNotFoundError):
                    self._path.unlink()
