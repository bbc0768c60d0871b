"""One upload on its way to the disk: a part file near its target, written in a thread, renamed when it is whole.

    transport -> write -> pending bytes -> _write in a worker -> part file -> finish -> rename by the caller

At most PENDING_BYTES wait for the disk; then the socket is not read. Nothing is left behind if the upload fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moonfast.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    InsufficientStorage,
    InternalError,
    PayloadTooLarge,
    UnprocessableContent,
)
from moonfast.files.roots import PART_PREFIX, PART_SUFFIX, READ, Location, Roots, split
from moonfast.files.workers import Workers
from moonfast.speedups import kernel

if TYPE_CHECKING:
    import hashlib

log = logging.getLogger(__name__)

WRITE_BYTES = 256 * 1024
"""Handed to the disk at once."""
PENDING_BYTES = 384 * 1024
ALLOCATE_BYTES = 1024 * 1024
"""From this size on the place on the disk is taken before the first byte comes."""
MAX_VALUE_BYTES = 8192


class Upload:
    """An `api.upload.UploadSink` that keeps the file and the fields of one form."""

    def __init__(self, roots: Roots, workers: Workers, length: int | None, max_bytes: int) -> None:
        self._roots, self._workers = roots, workers
        self._expected_bytes, self._max_bytes = length or 0, max_bytes
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self.part: str | None = None
        self.is_full = False
        self.on_drained: Callable[[], None] = lambda: None
        self.on_failed: Callable[[ApiError], None] = lambda error: None
        self._descriptor = -1
        self._hash: Any = None
        self._pending = bytearray()  # one piece, however small those are that come
        self._job: asyncio.Future[None] | None = None
        self._error: ApiError | None = None
        self._is_aborted = False

    # api.upload.UploadSink

    def field(self, name: str, value: bytes) -> None:
        if len(value) > MAX_VALUE_BYTES:
            raise BadRequest(f"The field '{name[:40]}' is longer than {MAX_VALUE_BYTES} bytes")
        try:
            self.fields[name] = value.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise BadRequest(f"The field '{name[:40]}' is not UTF-8") from None

    def begin_file(self, field: str, filename: str) -> None:
        if self.filename is not None:
            raise BadRequest("The form holds more than one file: send one request for each")
        if not filename.strip("/"):
            raise BadRequest("The file has no name: give 'filename' in its part of the form")
        self.filename = filename
        if "checksum" in self.fields:
            self._hash = _sha256()

    def write(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._pending += data
        self.size += len(data)
        if self.size > self._max_bytes:
            limit = self._max_bytes // (1024 * 1024)
            raise PayloadTooLarge(f"The file is larger than {limit} MiB: raise max_upload_size in the section [server]")
        if len(self._pending) >= WRITE_BYTES and self._job is None:
            self._begin_job()
        self.is_full = len(self._pending) >= PENDING_BYTES

    def abort(self) -> None:
        """Forget everything, also on the disk."""
        self._is_aborted = True
        self._pending.clear()
        if self._job is None:
            self._remove()

    # for the handler

    @property
    def rate(self) -> float:
        """MB per second since the upload began."""
        return self.size / 1e6 / max(self._loop.time() - self._began, 1e-6)

    def target(self) -> Location:
        """Where the file is to go. ApiError: it may not go there, or there is none."""
        if self.filename is None:
            raise BadRequest("There is no file in the form")
        root_name = self.fields.get("root", "gcodes") or "gcodes"
        root = self._roots.get(root_name)
        if root is None:
            raise BadRequest(f"Invalid root '{root_name}': upload to one of {', '.join(self._roots.names())}")
        parts = [*split(self.fields.get("path", "")), *split(self.filename)]
        location = self._roots.inside(root, parts, True)
        if not root.is_writable:
            raise BadRequest(f"The root '{root_name}' is read-only: upload to another one")
        return location

    async def finish(self) -> str:
        """Wait until all is on its way to the disk, check the sum; the path of the part file, the caller's now."""
        while self._error is None and (self._pending or self._job is not None or self._descriptor < 0):
            if self._job is None:
                self._begin_job()
            assert self._job is not None
            await asyncio.wait([self._job])
            await asyncio.sleep(0)  # for _written
        if self._error is not None:
            raise self._error
        self._find_part()
        assert self.part is not None
        descriptor, self._descriptor = self._descriptor, -1
        wanted = self.fields.get("checksum", "").lower()
        digest = await self._workers.quick(_close, descriptor, self.size, wanted != "" and self._hash is None)
        if wanted:
            found = self._hash.hexdigest() if self._hash is not None else digest
            if wanted != found:
                self._remove()
                raise UnprocessableContent(
                    f"The checksum does not match: the file that arrived has {found}. Upload it again."
                )
        return self.part

    # writing

    def _near(self, root_name: str, path: str, filename: str) -> str:
        """The folder of the target, as far as it is there and known already: from there a rename costs nothing."""
        root = self._roots.get(root_name)
        if root is None or not root.is_writable:  # `target` will tell, when all fields are known
            root = self._roots.get("gcodes")
        if root is None:
            raise BadRequest("There is no root to upload to")
        parts = [*split(path), *split(filename)[:-1]]
        while True:
            try:
                location = self._roots.inside(root, parts, READ)
            except ApiError:
                parts = parts[:-1]
                if not parts:
                    return root.path
                continue
            if not parts or os.path.isdir(location.path):
                return location.path
            parts = parts[:-1]

    def _begin_job(self) -> None:
        piece, self._pending = self._pending, bytearray()
        self._job = self._workers.quick(self._write, piece, self.size - len(piece))
        self._job.add_done_callback(self._written)

    def _write(self, piece: bytearray, at: int) -> None:
        """In a worker thread; one at a time."""
        if self._descriptor < 0:
            folder = self._near(self.fields.get("root", "gcodes"), self.fields.get("path", ""), self.filename or "")
            self.part = f"{folder}/{PART_PREFIX}{os.urandom(8).hex()}{PART_SUFFIX}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self.part, flags, 0o644)
            if self._expected_bytes >= ALLOCATE_BYTES:
                _allocate(self._descriptor, self._expected_bytes)
        if self._hash is not None:
            self._hash.update(piece)
        view = memoryview(piece)
        while view:
            count = os.pwrite(self._descriptor, view, at)
            at += count
            view = view[count:]

    def _written(self, job: asyncio.Future[None]) -> None:
        self._job = None
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self._error = _as_api_error(error)
            self._pending.clear()
        if self._is_aborted or self._error is not None or job.cancelled():
            self._remove()
            if self._error is not None and not self._is_aborted:
                self.on_failed(self._error)
            return
        if len(self._pending) >= WRITE_BYTES:
            self._begin_job()
        if self.is_full and len(self._pending) < PENDING_BYTES:
            self.is_full = False
            self.on_drained()

    def _find_part(self) -> None:
        """The folder of the part file may have been moved while the file came."""
        with contextlib.suppress(OSError):
            self.part = os.readlink(f"/proc/self/fd/{self._descriptor}")

    def _remove(self) -> None:
        if self._descriptor >= 0:
            self._find_part()
            os.close(self._descriptor)
            self._descriptor = -1
        if self.part is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.part)


def _close(descriptor: int, size: int, wants_sum: bool) -> str:
    """Cut off what was allocated too much; the SHA-256 of the whole file if that is wanted."""
    try:
        os.ftruncate(descriptor, size)
        if not wants_sum:
            return ""
        found = _sha256()
        at = 0
        while piece := os.pread(descriptor, WRITE_BYTES, at):
            found.update(piece)
            at += len(piece)
        return found.hexdigest()
    finally:
        os.close(descriptor)


def _sha256() -> hashlib._Hash:
    import hashlib  # needs half a megabyte: only for those who send a sum

    return hashlib.sha256()


def _allocate(descriptor: int, size: int) -> None:
    """Take the room on the disk now, if the file system can. OSError ENOSPC: there is not enough.

    Where the file system cannot, posix_fallocate(3) would write zeros instead.
    """
    try:
        kernel.allocate(descriptor, size)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _as_api_error(error: BaseException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return InsufficientStorage("The disk is full: delete files and upload again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return Forbidden("The folder cannot be written to: give the user of this server the right to")
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return BadRequest("The folder was deleted while the file came: upload it again")
    log.error("An upload could not be written", exc_info=error)
    return InternalError("The upload could not be written: see the server's log")
