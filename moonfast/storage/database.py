"""The one store of the server: namespaces of JSON values in an LMDB environment.

Everything but the writing of transactions happens on the event loop, so nothing here needs a lock:

    put, update     -> queue + overlay            committed within COMMIT_INTERVAL_S, or at once from COMMIT_BYTES on
    save, save_all  -> queue + overlay, waiter    committed in the next turn of the loop together with all that waits,
                                                  then `env.sync(True)`, then the waiters go on
    get, keys, ...  <- overlay, then a short read transaction: what was written is seen at once

One thread takes a batch at a time and commits it as one transaction. While it works, new changes gather for the next
batch. Commits are made without syncing the page that makes them valid (`metasync=False`): a crash of the machine can
lose the last second of background writes, but neither the integrity of the store nor a save that has returned.

A commit that fails leaves the store as it was. Its saves raise, and what they wrote is taken back. Its background
writes are kept and tried again with growing pauses, up to PENDING_LIMIT_BYTES; saves go on without them meanwhile.

What concerns the whole store (a copy, compacting, restoring) runs in the same thread while no commit does. A new store
is written beside the old one and takes its place by renaming: a crash leaves the one or the other.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import lmdb

from moonfast import codec
from moonfast.errors import ApiError, InsufficientStorage, InternalError, StartError, Unavailable
from moonfast.storage import records
from moonfast.storage.check import Damage, check
from moonfast.storage.store_file import copy_into

log = logging.getLogger(__name__)

STORE_NAME = "moonfast.lmdb"
LOCK_NAME = "moonfast.lock"
DATA_NAME, STAGED_NAME = "data.mdb", "data.new"  # the store, and the one that is to take its place
COMMIT_INTERVAL_S = 1.0
COMMIT_BYTES = 1024 * 1024  # LMDB keeps the pages of the largest commit allocated
PENDING_LIMIT_BYTES = 16 * 1024 * 1024  # background writes that wait for a commit
RETRY_S, MAX_RETRY_S = 2.0, 60.0  # pause after a failed commit: doubled each time
MAP_START_BYTES = 8 * 1024 * 1024
MAP_LIMIT_BYTES = 1024**3 if sys.maxsize > 2**32 else 256 * 1024**2  # address space, taken as it is needed
_MAX_READERS = 8

_DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
_FEW_BYTES = 1024 * 1024  # with less disk space than that a failed write is put down to it
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED, _OPEN, _DAMAGED = b"", b"open\n", b"damaged\n"  # what the lock file says, also when the process is gone
_ABSENT: Any = object()

Records = dict[bytes, bytes | None]  # name -> record, None: deleted
Make = Callable[[Path], None]
"""Writes a store into a file; runs in the thread. ApiError: it cannot."""
T = TypeVar("T")


class _Change:
    """What belongs together in the queue: a save, or all background writes between two saves."""

    __slots__ = ("is_flush", "items", "number", "size_bytes", "waiter")

    def __init__(self, *, is_flush: bool = False) -> None:
        self.number = -1  # in the order in which they were made
        self.items: Records = {}
        self.size_bytes = 0
        self.waiter: asyncio.Future[None] | None = None  # None: written in the background
        self.is_flush = is_flush

    def merge(self, items: Records) -> None:
        for name in items.keys() & self.items.keys():
            self.drop(name)
        self.items.update(items)
        self.size_bytes += _size(items)

    def drop(self, name: bytes) -> None:
        record = self.items.pop(name, _ABSENT)
        if record is not _ABSENT:
            self.size_bytes -= _size({name: record})


class Database:
    """The store in `folder`, between `start()` and `stop()`. All methods belong to the event loop's thread.

    `first` makes the store of a folder that has none, False: out of nothing. `warnings` are for users.
    """

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self, folder: Path, *, map_limit_bytes: int = MAP_LIMIT_BYTES, first: Callable[[Path], bool] | None = None
    ) -> None:
        self.damaged: str | None = None  # where a store that could not be read was moved to at the start
        self.was_cut_off = False  # the last process that had the store did not close it
        self._first = first
        self.folder, self._path = folder, folder / STORE_NAME
        self._map_limit_bytes = map_limit_bytes
        self._env: lmdb.Environment | None = None
        self._lock = -1
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._overlay: Records = {}  # all that is queued or being written, the newest of each name
        self._queue: list[_Change] = []
        self._writing: list[_Change] = []
        self._timer: asyncio.Handle | None = None
        self._is_urgent = False  # a save's commit is due in the next turn of the loop
        self._next_number = 0
        self._last_handed_over = -1  # the highest number of a change that the thread was given
        self._failures = 0  # of the last commits, in a row
        self._is_warned = False
        self._is_damaged = False
        self._turn = asyncio.Lock()  # one at a time does something with the whole store
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_held = False  # no commit may begin
        self._idle: asyncio.Future[None] | None = None  # waits for the end of the present commit
        self._is_replaced = False  # what is written now belongs to contents that are gone

    async def start(self) -> None:
        """Open or create the store. StartError: the folder cannot be written, or another process has the store."""
        self._loop = asyncio.get_running_loop()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            try:
                self._check()
                self._make_first()
                self._env = self._open()
            except (*_DAMAGE, Damage) as exc:
                self._move_aside(exc)
                self._env = self._open()
            self._mark(_OPEN)
        except (OSError, lmdb.Error) as exc:
            self._release_lock()
            raise StartError(
                f"The database in the data folder cannot be opened: {_reason(exc)}. Make the folder 'database' "
                "writable for the user of this server, check for free disk space, and start again."
            ) from exc

    async def stop(self) -> None:
        """Commit everything and close."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._env is None:
            self._release_lock()
            return
        while self._queue or self._writing:
            try:
                await self.flush()
            except ApiError as exc:
                log.error("The last changes of the database are lost: %s", exc)
                break
        while waiters := [change.waiter for change in (*self._writing, *self._queue) if change.waiter is not None]:
            await asyncio.wait(waiters)
        env, self._env = self._env, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        for leftover in (self._queue, self._writing, self._overlay):
            leftover.clear()
        env.close()
        if not self._is_damaged:
            self._mark(_CLOSED)
        self._release_lock()

    def namespace(self, name: str) -> Namespace:
        """A namespace, which exists from its first key to its last. BadRequest: the name is empty or too long."""
        return Namespace(self, name)

    def namespaces(self) -> list[str]:
        """The namespaces that hold something."""
        found = {records.namespace_of(name) for name, record in self._overlay.items() if record is not None}
        with self._reading() as txn, txn.cursor() as cursor:
            has_more = cursor.first()
            while has_more:
                name = cursor.key()
                namespace = records.namespace_of(name)
                if self._overlay.get(name, _ABSENT) is None and namespace not in found:
                    has_more = cursor.next()  # deleted, but not yet there: look at the next key of the same namespace
                    continue
                found.add(namespace)
                has_more = cursor.set_range(records.end(records.prefix(namespace)))
        return sorted(found)

    async def flush(self) -> None:
        """Write everything to the disk. ApiError: it cannot be."""
        if not self._is_replaced:
            await self._commit_now(_Change(is_flush=True))

    # The store as a whole

    @property
    def size_bytes(self) -> int:
        return (self._path / DATA_NAME).stat().st_size

    async def copy(self, target: Path) -> None:
        """Write a copy without gaps, as one file, with all that was written before. ApiError: it cannot be."""
        await self.flush()
        await self._unbroken(self._copy(target))

    async def compact(self) -> tuple[int, int]:
        """Give back the space of what was deleted; the size before and after. ApiError: it cannot be."""
        await self.flush()
        before = self.size_bytes
        await self._unbroken(self._swap(None))
        return before, self.size_bytes

    async def replace(self, make: Make) -> None:
        """Put the store that `make` writes in the place of this one. ApiError: it cannot be, and nothing has changed.

        From then on background writes are dropped and saves refused: whoever writes knows the old contents only, until
        it is built anew with the next `start`.
        """
        await self._unbroken(self._swap(make))

    async def _copy(self, target: Path) -> None:
        async with self._held():
            await self._in_thread(partial(copy_into, self._opened(), target))

    async def _swap(self, make: Make | None) -> None:
        staged = self._path / STAGED_NAME
        async with self._held():
            env = self._opened()
            await self._in_thread(partial(copy_into, env, staged) if make is None else partial(make, staged))
            if make is not None:
                self._forget_changes()
            self._env = None
            env.close()
            try:
                staged.replace(self._path / DATA_NAME)
            finally:
                self._env = self._open()
            await self._in_thread(partial(_sync_folder, self._path))  # before anything is written into the new one

    def _forget_changes(self) -> None:
        self._is_replaced = True
        for change in self._queue:
            if change.waiter is not None and not change.waiter.done():
                change.waiter.set_exception(_replaced())
        self._queue.clear()
        self._overlay.clear()

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        """Let no commit begin; the present one ends first."""
        async with self._turn:
            self._is_held = True
            try:
                while self._writing:
                    self._idle = self._loop.create_future()
                    await self._idle
                yield
            finally:
                self._is_held = False
                self._continue()

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Go on to the end even if nobody waits for it any more."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Run something in the thread, while no commit runs. ApiError: it failed."""
        done: asyncio.Future[None] = self._loop.create_future()

        def run() -> None:
            failure: Exception | None = None
            try:
                work()
            except Exception as exc:  # task edge: who waits must hear of it
                failure = exc
            self._loop.call_soon_threadsafe(settle, failure)

        def settle(failure: Exception | None) -> None:
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

        self._start_thread()
        self._jobs.put(run)
        try:
            await done
        except (OSError, lmdb.Error) as exc:
            raise self._error_of(exc) from exc

    # What a namespace is made of

    def record(self, name: bytes) -> bytes | None:
        record: bytes | None = self._overlay.get(name, _ABSENT)
        if record is _ABSENT:
            with self._reading() as txn:
                record = txn.get(name)
        return record

    def records_of(self, names: Iterable[bytes]) -> list[bytes | None]:
        """Many records in one look."""
        with self._reading() as txn:
            found = ((name, self._overlay.get(name, _ABSENT)) for name in names)
            return [txn.get(name) if record is _ABSENT else record for name, record in found]

    def names(self, prefix: bytes) -> list[bytes]:
        """The names that begin with `prefix`, in order."""
        end = records.end(prefix)
        found = []
        with self._reading() as txn, txn.cursor() as cursor:
            if cursor.set_range(prefix):
                for name in cursor.iternext(keys=True, values=False):
                    if name >= end:
                        break
                    found.append(name)
        pending = {name: record for name, record in self._overlay.items() if name.startswith(prefix)}
        if pending:
            found = [name for name in found if name not in pending]
            found.extend(name for name, record in pending.items() if record is not None)
            found.sort()
        return found

    def write_behind(self, items: Records) -> None:
        """Queue changes that belong together. InsufficientStorage: too much waits already; nothing is changed."""
        self._opened()
        if self._is_replaced:
            return
        pending = sum(change.size_bytes for change in (*self._writing, *self._queue) if change.waiter is None)
        if pending + _size(items) > PENDING_LIMIT_BYTES and any(record is not None for record in items.values()):
            raise InsufficientStorage(
                "The database cannot be written at present and too much is waiting already: free disk space"
            )
        if self._queue and self._queue[-1].waiter is None and self._queue[-1].number > self._last_handed_over:
            change = self._queue[-1]
        else:
            change = self._append(_Change())
        change.merge(items)
        self._overlay.update(items)
        if not self._writing:
            self._continue()

    async def write_now(self, items: Records) -> None:
        """Write changes to the disk, all or none. ApiError: they cannot be, and are taken back."""
        self._opened()
        if self._is_replaced:
            raise _replaced()
        change = _Change()
        change.merge(items)
        self._overlay.update(items)
        await self._commit_now(change)

    def report_damage(self, exc: Exception) -> InternalError:
        """Note that a read found damage, so that the next start moves the store aside."""
        if not self._is_damaged:
            self._is_damaged = True
            log.error("The database is damaged (%s). It is set aside at the next start.", exc)
            self._mark(_DAMAGED)
        return InternalError("The database is damaged. Restart the server: it sets the damaged one aside")

    # Commits

    def _append(self, change: _Change) -> _Change:
        change.number = self._next_number
        self._next_number += 1
        self._queue.append(change)
        return change

    def _continue(self) -> None:
        """Begin the next commit, now or after a pause, if there is anything to commit."""
        is_large = not self._failures and sum(change.size_bytes for change in self._queue) >= COMMIT_BYTES
        if is_large or any(change.waiter is not None for change in self._queue):
            self._commit_soon()
        elif self._queue and self._timer is None:
            doubled = RETRY_S * 2 ** min(self._failures - 1, 10) if self._failures else COMMIT_INTERVAL_S
            pause = min(doubled, MAX_RETRY_S)
            self._timer = self._loop.call_later(pause, self._commit, True)

    def _commit_soon(self) -> None:
        if not self._is_urgent:
            self._is_urgent = True
            self._loop.call_soon(self._commit, False)  # what is saved in this turn of the loop shares the commit

    async def _commit_now(self, change: _Change) -> None:
        self._opened()
        change.waiter = self._loop.create_future()
        self._append(change)
        if not self._writing:
            self._commit_soon()
        await change.waiter

    def _commit(self, everything: bool) -> None:
        """Hand the next batch to the thread. After a failure background writes wait for their own time."""
        self._is_urgent = False
        everything = everything or not self._failures or any(change.is_flush for change in self._queue)
        if everything and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing or self._is_held or self._env is None:
            return  # the end of the present commit begins the next one
        self._writing = [change for change in self._queue if everything or change.waiter is not None]
        self._queue = [] if everything else [change for change in self._queue if change.waiter is None]
        if self._writing:
            self._last_handed_over = self._writing[-1].number
            self._hand_over(self._env)

    def _hand_over(self, env: lmdb.Environment) -> None:
        items: Records = {}
        for change in self._writing:
            items.update(change.items)
        self._start_thread()
        self._jobs.put(partial(self._write, env, items, any(change.waiter is not None for change in self._writing)))

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="database", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """Do jobs until told to end. Runs in the thread."""
        while (job := self._jobs.get()) is not None:
            job()
            del job  # with the environment, which would be held open

    def _write(self, env: lmdb.Environment, items: Records, must_sync: bool) -> None:
        """Commit a batch. Runs in the thread."""
        failure: Exception | None = None
        try:
            if items:
                with env.begin(write=True) as txn:
                    for name, record in items.items():
                        if record is None:
                            txn.delete(name)
                        else:
                            txn.put(name, record)
            if must_sync:
                env.sync(True)
        except Exception as exc:  # task edge: those who wait must hear of it
            failure = exc
        self._loop.call_soon_threadsafe(self._done, failure)

    def _done(self, failure: Exception | None) -> None:
        if self._env is None:
            return  # stopped after a failure
        if isinstance(failure, lmdb.MapFullError) and self._grow(self._env):
            self._hand_over(self._env)
            return
        batch, self._writing = self._writing, []
        if failure is None:
            self._succeeded(batch)
        else:
            self._failed(batch, failure)
        self._continue()
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _grow(self, env: lmdb.Environment) -> bool:
        """Double the map. Reads are short and on the loop, as this is, and the thread waits: no transaction is open."""
        size = env.info()["map_size"]
        if size >= self._map_limit_bytes:
            return False
        try:
            env.set_mapsize(min(2 * size, self._map_limit_bytes))
        except (lmdb.Error, OSError, MemoryError):  # no address space of that size
            return False
        return True

    def _succeeded(self, batch: list[_Change]) -> None:
        waiting = [change for change in self._queue if change.number < batch[-1].number]  # since an earlier failure
        for change in batch:
            for name, record in change.items.items():
                if self._overlay.get(name, _ABSENT) is record:
                    del self._overlay[name]
                for older in waiting:
                    if older.number < change.number:
                        older.drop(name)
            if change.waiter is not None and not change.waiter.done():
                change.waiter.set_result(None)
        if not waiting:
            self._failures = 0
            if self._is_warned:
                self._is_warned = False
                log.info("The database can be written again")

    def _failed(self, batch: list[_Change], failure: Exception) -> None:
        if isinstance(failure, lmdb.PanicError):
            self._reopen()
        error = self._error_of(failure)
        behind = [change for change in batch if change.waiter is None]
        if not self._is_warned:
            self._is_warned = True
            log.warning("%s. It is tried again until it succeeds." if behind else "%s", error)
        if behind:
            self._failures += 1
        again: list[_Change] = []
        for change in batch:
            if change.waiter is None:
                continue
            if behind and not change.is_flush:
                again.append(change)  # perhaps the background writes are what does not fit
            elif not change.waiter.done():
                change.waiter.set_exception(error)
        self._queue = _joined(sorted((*behind, *again, *self._queue), key=lambda change: change.number))
        self._overlay.clear()
        for change in self._queue:
            self._overlay.update(change.items)

    def _error_of(self, failure: Exception) -> ApiError:
        if isinstance(failure, lmdb.MapFullError):
            return InsufficientStorage(
                f"The database has reached its limit of {self._map_limit_bytes // 1024**2} MiB: "
                "delete old entries, then try again"
            )
        code = failure.errno if isinstance(failure, OSError) else getattr(failure, "code", 0)
        if code in _DISK_FULL or isinstance(failure, lmdb.DiskError) or self._is_disk_full():
            return InsufficientStorage("The disk is full, the database cannot be written: delete files, then try again")
        if isinstance(failure, _DAMAGE):
            return self.report_damage(failure)
        if not self._is_warned:
            log.error("Writing the database failed", exc_info=failure)
        return InternalError("The database cannot be written: see the log, check the disk, then try again")

    def _is_disk_full(self) -> bool:
        """LMDB reports a write that was cut short for want of space as an input/output error."""
        try:
            info = os.statvfs(self.folder)
        except OSError:
            return False
        return info.f_bavail * info.f_frsize < _FEW_BYTES

    # Opening and closing

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        try:
            with self._opened().begin() as txn:
                yield txn
        except _DAMAGE as exc:
            raise self.report_damage(exc) from exc

    def _opened(self) -> lmdb.Environment:
        if self._env is None:
            raise Unavailable("The database is not open")
        return self._env

    def _check(self) -> None:
        """Damage: the store must not be opened. All of it is looked through if the last process did not close it."""
        said = os.pread(self._lock, len(_DAMAGED), 0)
        self.was_cut_off = said != _CLOSED
        if not self._path.is_dir():
            if os.path.lexists(self._path):
                raise Damage("it is not a folder")
        elif said == _DAMAGED:
            raise Damage("a read found damage")
        elif (self._path / DATA_NAME).exists():
            check(self._path / DATA_NAME, is_thorough=said != _CLOSED)

    def _make_first(self) -> None:
        """Make the store from what there was before, if this is the first start."""
        staged = self._path / STAGED_NAME
        with suppress(FileNotFoundError):
            staged.unlink()
        if self._first is None or (self._path / DATA_NAME).exists():
            return
        self._path.mkdir(exist_ok=True)
        if self._first(staged):
            staged.replace(self._path / DATA_NAME)
            _sync_folder(self._path)
            _sync_folder(self.folder)

    def _mark(self, state: bytes) -> None:
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, state, 0)
            if state:
                os.fdatasync(self._lock)
        except OSError:  # a full disk; without the mark only a check is left out
            log.debug("The state of the database cannot be noted", exc_info=True)

    def _open(self) -> lmdb.Environment:
        is_new = not (self._path / DATA_NAME).exists()
        env = lmdb.open(
            os.fspath(self._path),
            map_size=min(MAP_START_BYTES, self._map_limit_bytes),
            metasync=False,
            max_readers=_MAX_READERS,
            max_spare_txns=1,
            mode=0o600,  # password hashes are in it
        )
        if is_new:  # its files must be found after a crash of the machine, as what is saved in them must
            for folder in (self._path, self.folder):
                _sync_folder(folder)
        return env

    def _reopen(self) -> None:
        """LMDB refuses an environment whose last commit broke off halfway, until it is opened anew."""
        assert self._env is not None
        self._env.close()
        try:
            self._env = self._open()
        except (OSError, lmdb.Error):
            log.exception("The database cannot be opened again")

    def _move_aside(self, exc: Exception) -> None:
        target = self._path.with_name(f"{STORE_NAME}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while target.exists():
            target = target.with_name(f"{target.name.partition('+')[0]}+{number}")
            number += 1
        self._path.rename(target)
        self.damaged = os.fspath(target)
        log.warning(
            "The database was damaged (%s). It was moved to '%s' in the folder 'database', and an empty one was made. "
            "Restore a backup to have the old contents back.",
            _reason(exc),
            target.name,
        )

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release_lock()
            raise StartError(
                "The database is in use by another process: stop the other server on this data folder, then start again"
            ) from None

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Namespace:
    """JSON values by key. Methods that write take any value that `codec.encode` takes and raise TypeError for others.

    `put`, `delete`, `update` and `clear` are for what the server itself notes: they return at once and are on the disk
    about a second later. `save`, `remove`, `save_all` and `drop` are for what a user asked for: on return it is on the
    disk, and an ApiError (507 for want of space) says that nothing was changed.
    """

    __slots__ = ("_database", "_prefix", "name")

    def __init__(self, database: Database, name: str) -> None:
        self.name = name
        self._database, self._prefix = database, records.prefix(name)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key. InternalError: the store is damaged."""
        text = self.raw(key)
        return default if text is None else self._decode(text)

    def raw(self, key: str) -> bytes | None:
        """The value of a key as JSON text."""
        name = records.name_of(self._prefix, key)
        record = self._read(name)
        return None if record is None else records.text_of(name, record)

    def raws(self, keys: Iterable[str]) -> list[bytes | None]:
        """The same for many keys."""
        names = [records.name_of(self._prefix, key) for key in keys]
        found = self._database.records_of(names)
        return [None if text is None else records.text_of(name, text) for name, text in zip(names, found, strict=True)]

    def __contains__(self, key: str) -> bool:
        return self._read(records.name_of(self._prefix, key)) is not None

    def __len__(self) -> int:
        """Counts: not for use in loops."""
        return len(self._names())

    def keys(self) -> list[str]:
        """All keys, in the order of their UTF-8."""
        return [
            records.key_of(self._prefix, name, self._read(name) if records.is_cut(name) else None)
            for name in self._names()
        ]

    def items(self) -> Iterator[tuple[str, Any]]:
        """All keys as of now, each with its value as of the moment it is reached, if it still has one."""
        for name in self._names():
            record = self._read(name)
            if record is not None:
                text = records.text_of(name, record)
                yield records.key_of(self._prefix, name, record), self._decode(text)

    def put(self, key: str, value: Any) -> None:
        self._database.write_behind(self._packed({key: value}))

    def delete(self, key: str) -> bool:
        """Delete a key; False: it was not there."""
        if key not in self:
            return False
        self._database.write_behind(self._packed({}, (key,)))
        return True

    def update(self, items: Mapping[str, Any], delete: Iterable[str] = ()) -> None:
        """Delete some keys and then set others, in one transaction."""
        self._database.write_behind(self._packed(items, delete))

    def clear(self) -> None:
        self._database.write_behind(dict.fromkeys(self._names()))

    async def save(self, key: str, value: Any) -> None:
        await self._database.write_now(self._packed({key: value}))

    async def remove(self, key: str) -> bool:
        """Delete a key; False: it was not there."""
        if key not in self:
            return False
        await self._database.write_now(self._packed({}, (key,)))
        return True

    async def save_text(self, key: str, text: bytes) -> None:
        """Save a value that is JSON text already."""
        name = records.name_of(self._prefix, key)
        await self._database.write_now({name: records.pack(name, key, text)})

    async def save_all(self, items: Mapping[str, Any], delete: Iterable[str] = ()) -> None:
        """Delete some keys and then set others, in one transaction."""
        await self._database.write_now(self._packed(items, delete))

    async def drop(self) -> None:
        await self._database.write_now(dict.fromkeys(self._names()))

    def _packed(self, items: Mapping[str, Any], delete: Iterable[str] = ()) -> Records:
        packed: Records = {records.name_of(self._prefix, key): None for key in delete}
        for key, value in items.items():
            name = records.name_of(self._prefix, key)
            packed[name] = records.pack(name, key, codec.encode(value))
        return packed

    def _names(self) -> list[bytes]:
        return self._database.names(self._prefix)

    def _read(self, name: bytes) -> bytes | None:
        return self._database.record(name)

    def _decode(self, text: bytes) -> Any:
        try:
            return codec.decode(text)
        except codec.DecodeError as exc:
            raise self._database.report_damage(exc) from exc


def _replaced() -> Unavailable:
    return Unavailable("The database has been restored and the server restarts: try again then")


def _sync_folder(folder: Path) -> None:
    """Make what was created or renamed in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(items: Records) -> int:
    return sum(len(name) + (0 if record is None else len(record)) for name, record in items.items())


def _joined(changes: Iterable[_Change]) -> list[_Change]:
    """Make one of neighbouring background writes, so that retries do not pile up."""
    joined: list[_Change] = []
    for change in changes:
        if joined and joined[-1].waiter is None and change.waiter is None:
            joined[-1].merge(change.items)
        else:
            joined.append(change)
    return joined


def _reason(exc: Exception) -> str:
    code = exc.errno if isinstance(exc, OSError) else getattr(exc, "code", 0)
    if isinstance(exc, Damage):
        return str(exc)
    return os.strerror(code) if code and code > 0 else type(exc).__name__
