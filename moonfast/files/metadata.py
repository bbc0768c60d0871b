"""Metadata of gcode files: which files wait to be scanned, and what is stored of those that were.

    a file appears or changes -> wanted() -> queue -> prepare -> read() in a worker -> thumbnails -> database

A record begins with the size and the time of the file it was made from: a record of another state of the file counts
as none. A file whose time has changed but not its content keeps its record, with job and pictures.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from moonfast.codec import decode, encode
from moonfast.files import thumbnails
from moonfast.files.thumbnails import Thumbnails
from moonfast.files.tree import GCODE_EXTENSIONS, Entry, Tree
from moonfast.files.workers import Workers
from moonfast.fingerprint import fingerprint
from moonfast.storage.database import Database

if TYPE_CHECKING:
    from moonfast.files.slicers import Scan

log = logging.getLogger(__name__)

NAMESPACE = "gcode_metadata"
SCANNED = tuple(item for item in GCODE_EXTENSIONS if item != ".ufp")
KEPT = ("uuid", "job_id", "print_start_time", "file_processors")
"""What a record keeps when its file is scanned again."""
CONTENT_KEY = b'"content_key":"'
NAMES_AT_ONCE = 100
"""Records looked at before the loop may do something else."""

Record = dict[str, Any]


class Found(NamedTuple):
    """What a worker read of a file."""

    size: int
    modified: float
    content_key: str
    scan: Scan


class Metadata:
    """Metadata of one root. Everything but the reading of files happens on the loop.

    `prepare` gets a file before it is read and returns the names of the processors that have rewritten it.
    """

    def __init__(self, database: Database, workers: Workers, prepare: Callable[[str], Awaitable[list[str]]]) -> None:
        self._workers, self._prepare = workers, prepare
        self._records = database.namespace(NAMESPACE)
        self._thumbnails = Thumbnails()
        self._queue: deque[str] = deque()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._from_ufp: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None
        self.tree: Tree | None = None
        self.on_scanned: Callable[[str], None] = lambda relative: None

    async def stop(self) -> None:
        """Scan nothing more."""
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
        await self._thumbnails.close()

    # reading

    def raw(self, relative: str, entry: Entry) -> bytes | None:
        """The record of a file as JSON, None if there is none of its present state."""
        record = self._records.raw(relative)
        if record is not None and record.startswith(_begin(entry.size, entry.modified)):
            return record
        return None

    def get(self, relative: str) -> Record | None:
        """The record whatever state of the file it is of."""
        record: Record | None = self._records.get(relative)
        return record

    def _names(self) -> list[str]:
        return self._records.keys()

    def content_key(self, relative: str) -> str | None:
        """What names the content of a file that has been scanned."""
        record = self._records.raw(relative)
        return None if record is None else _content_key(record)

    async def content_keys(self) -> set[str]:
        """Those of all files."""
        found = set()
        for count, relative in enumerate(self._names()):
            if key := self.content_key(relative):
                found.add(key)
            if count % NAMES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def ready(self, relative: str) -> None:
        """Wait until a file that is in the queue has been scanned."""
        future = self._waiting.get(relative)
        if future is not None:
            await asyncio.shield(future)

    # scanning

    def wanted(self, relative: str, *, from_ufp: bytes | None = None) -> asyncio.Future[None]:
        """Put a file into the queue; done when it has been scanned, or cannot be."""
        if from_ufp is not None:
            self._from_ufp[relative] = from_ufp
        future = self._waiting.get(relative)
        if future is None:
            future = self._waiting[relative] = asyncio.get_running_loop().create_future()
            self._queue.append(relative)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="metadata")
        return future

    async def _work(self) -> None:
        try:
            while self._queue:
                relative = self._queue.popleft()
                try:
                    await self._scan(relative)
                except Exception:  # task edge: one file must not keep the others waiting
                    log.exception("The metadata of '%s' could not be read", relative)
                future = self._waiting.pop(relative, None)
                if future is not None and not future.done():
                    future.set_result(None)
                self.on_scanned(relative)
        finally:
            self._task = None

    async def _scan(self, relative: str) -> None:
        tree = self.tree
        if tree is None:
            return
        path = tree.path(relative)
        picture = self._from_ufp.pop(relative, None)
        processors = await self._prepare(relative)
        found = await self._workers.quick(read, path)
        if found is None:
            return
        old = self.get(relative) or {}
        is_same = old.get("content_key") == found.content_key
        entries = await self._thumbnails.write(
            Path(path), found.scan.thumbnails, picture, earlier=old.get("thumbnails") or (), is_unchanged=is_same
        )
        self._records.put(relative, _record(found, old if is_same else {}, entries, processors))

    def complete(self, relative: str, content_key: str, fields: Record, fallbacks: Record) -> None:
        """Add what was found later to the record of a file, if it has still this content. What it has of `fallbacks`
        stays."""
        record = self.get(relative)
        if record is None or record.get("content_key") != content_key:
            return
        completed = {**record, **fields, **{key: value for key, value in fallbacks.items() if key not in record}}
        if completed != record:
            self._records.put(relative, completed)
            self.on_scanned(relative)

    def started(self, relative: str, job_id: str, start_time: float) -> Record | None:
        """Note that a file is printed; its record from before, without what only this server needs."""
        record = self.get(relative)
        if record is None:
            return None
        self._records.put(relative, {**record, "job_id": job_id, "print_start_time": start_time})
        self.on_scanned(relative)
        return {key: value for key, value in record.items() if key != "content_key"}

    # what happens to files

    async def moved(self, old_path: str, new_path: str, old: str, new: str) -> None:
        """A file, or a folder, has another name now: `old` and `new` inside of the root."""
        await self._carry(old_path, new_path, old, new, is_move=True)

    async def copied(self, old_path: str, new_path: str, old: str, new: str) -> None:
        """A file, or all in a folder, has a copy."""
        await self._carry(old_path, new_path, old, new, is_move=False)

    async def _carry(self, old_path: str, new_path: str, old: str, new: str, *, is_move: bool) -> None:
        record = self.get(old)
        if record is not None:
            if replaced := self.get(new):
                await self._workers.quick(thumbnails.remove, Path(new_path), replaced.get("thumbnails") or ())
            act = thumbnails.move if is_move else thumbnails.copy
            entries = await self._workers.quick(act, Path(old_path), Path(new_path), record.get("thumbnails") or ())
            if "thumbnails" in record:
                record["thumbnails"] = entries
            if not is_move:
                record |= {"uuid": str(uuid4()), "job_id": None, "print_start_time": None}
            self._records.update({new: record}, (old,) if is_move else ())
            return
        below = {key: self._records.get(key) for key in self._names() if key.startswith(old + "/")}
        if below:  # a folder: its pictures have come along
            renamed = {new + key[len(old) :]: value for key, value in below.items()}
            self._records.update(renamed, below if is_move else ())

    async def deleted(self, path: str, relative: str) -> None:
        """A file, or a folder, is gone: so is what was stored of it."""
        record = self.get(relative)
        if record is not None:
            self._records.delete(relative)
            if record.get("thumbnails"):
                await self._workers.quick(thumbnails.remove, Path(path), record["thumbnails"])
        gone = [key for key in self._names() if key.startswith(relative + "/")]
        if gone:
            self._records.update({}, gone)

    def forget_others(self, files: Iterable[str]) -> None:
        """Drop the records of files that are not there any more, after a look at the whole root."""
        gone = set(self._names()).difference(files)
        if gone:
            self._records.update({}, gone)


def is_scanned(name: str) -> bool:
    """Whether a file has metadata, by its name."""
    return name.lower().endswith(SCANNED)


def read(path: str) -> Found | None:
    """Read the head and the tail of a file and make sense of them; in a worker thread. None: it cannot be read."""
    from moonfast.files.slicers import HEAD_BYTES, TAIL_BYTES, scan_parts  # the tables are for those who add files

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        head = os.pread(descriptor, min(size, HEAD_BYTES), 0)
        tail = os.pread(descriptor, min(size, TAIL_BYTES), max(size - TAIL_BYTES, 0)) if size > HEAD_BYTES else head
    except OSError:
        return None
    finally:
        os.close(descriptor)
    key = fingerprint([str(size).encode(), head, tail])
    return Found(size, status.st_mtime_ns / 1e9, key, scan_parts(head, tail, size))


def _begin(size: int, modified: float) -> bytes:
    """How the record of a file in this state begins."""
    return b'{"size":%d,"modified":%b,' % (size, encode(modified))


def _content_key(record: bytes) -> str | None:
    """Look into a record without decoding all of it."""
    begin = record.rfind(CONTENT_KEY) + len(CONTENT_KEY)
    end = record.find(b'"', begin)
    return record[begin:end].decode("ascii", "replace") if begin >= len(CONTENT_KEY) and end > begin else None


def _record(found: Found, old: Record, entries: list[dict[str, Any]], processors: list[str]) -> Record:
    record: Record = {"size": found.size, "modified": found.modified, "uuid": str(uuid4())}
    record["file_processors"] = processors
    record |= found.scan.fields
    if entries:
        record["thumbnails"] = entries
    record |= {"print_start_time": None, "job_id": None, "content_key": found.content_key}  # fingerprints: hex digits
    return record | {key: old[key] for key in KEPT if key in old}


def with_name(record: bytes, relative: str) -> bytes:
    """A record as clients get it: with the name of the file."""
    return b'%b,"filename":%b}' % (record[:-1], encode(relative))


def pictures(record: bytes, relative: str) -> list[dict[str, Any]]:
    """The thumbnails of a record, their paths as inside of the root (specification: "Get gcode thumbnails")."""
    folder = relative.rpartition("/")[0]
    found = []
    for item in decode(record).get("thumbnails") or ():
        path = str(item.get("relative_path", ""))
        found.append(
            {
                "width": item.get("width"),
                "height": item.get("height"),
                "size": item.get("size"),
                "thumbnail_path": f"{folder}/{path}" if folder else path,
            }
        )
    return found
