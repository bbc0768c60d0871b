"""Files on their way: uploads, downloads, and what is printed as soon as it has been uploaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moonfast.api.call import Call, FileAnswer, HttpAnswer
from moonfast.api.endpoint import endpoint
from moonfast.api.upload import Received, UploadSink
from moonfast.codec import encode
from moonfast.data_path import Options
from moonfast.errors import ApiError, BadRequest, NotFound, PayloadTooLarge
from moonfast.files import operations, ufp
from moonfast.files.metadata import is_scanned
from moonfast.files.roots import WRITE, Location, is_part
from moonfast.files.service import GCODES, FileService, described
from moonfast.files.upload import Upload
from moonfast.klippy.session import Klippy
from moonfast.state.job import Job
from moonfast.vocab import GET, POST, Transport

log = logging.getLogger(__name__)

PRINT_TIMEOUT_S = 10.0
FORM_BYTES = 1024 * 1024
"""What the fields of a form may add to the size of the file in it."""


class TransferApi:
    def __init__(self, files: FileService, options: Options, klippy: Klippy, job: Job, max_upload_bytes: int) -> None:
        self._files, self._options, self._klippy, self._job = files, options, klippy, job
        self._max_upload_bytes = max_upload_bytes
        # where files go that cannot be printed at once
        self.queue: Callable[[str, str | None], Awaitable[bool]] | None = None
        self.klippy_log_path = f"{options.data_path}/logs/klippy.log"

    @endpoint(GET, "/server/files/klippy.log", transports=Transport.HTTP)
    def klippy_log(self, call: Call) -> FileAnswer:
        """Download Klipper's log."""
        return FileAnswer(self.klippy_log_path, "klippy.log")

    @endpoint(GET, "/server/files/moonraker.log", transports=Transport.HTTP)
    def server_log(self, call: Call) -> FileAnswer:
        """Download the log of this server."""
        if self._options.log_file is None:
            raise NotFound("There is no log file: the server was started without one")
        return FileAnswer(self._options.log_file, "moonraker.log")

    @endpoint(GET, "/server/files/{root}/{path}", transports=Transport.HTTP)
    def download(self, call: Call, root: str, path: str) -> FileAnswer:
        """Download a file. Error 404: there is no such file; 403: it is a folder, or not for clients."""
        found = self._files.roots.get(root)
        if found is None:
            raise NotFound("Not Found")
        location = self._files.roots.locate(f"{root}/{path}")
        if is_part(os.path.basename(location.path)):
            raise NotFound("Not Found")
        return FileAnswer(location.path, os.path.basename(location.path))

    def receive(self, length: int | None) -> UploadSink:
        """Take in an upload."""
        if length is not None and length > self._max_upload_bytes + FORM_BYTES:
            raise self._too_large()
        return Upload(self._files.roots, self._files.workers, length, self._max_upload_bytes)

    def _too_large(self) -> PayloadTooLarge:
        limit = self._max_upload_bytes // (1024 * 1024)
        return PayloadTooLarge(f"The file is larger than {limit} MiB: raise max_upload_size in the section [server]")

    @endpoint(POST, "/server/files/upload", transports=Transport.HTTP, is_wrapped=False, receiver="receive")
    async def upload(self, call: Call, form: Received) -> HttpAnswer:
        """Upload a file as multipart/form-data, with the fields `root`, `path`, `checksum` (SHA-256) and `print`.

        Status 201, the address of the file is in `Location`. Error 403: the file is being printed; 413: it is too
        large; 422: the checksum does not match; 507: the disk is full.
        """
        return await self.store(call, form, "/server/files")

    async def store(self, call: Call, form: Received, base: str) -> HttpAnswer:
        """Put an uploaded file into its place; its address begins with `base`."""
        assert isinstance(form, Upload)
        try:
            answer, location = await self._place(call, form)
        except BaseException:
            form.abort()
            raise
        log.info("Uploaded %s: %d bytes, %.1f MB/s", location.name, form.size, form.rate)
        address = f"{base}/{location.root.name}/{quote(location.relative)}"
        scheme = "https" if call.is_secure else "http"
        return HttpAnswer(encode(answer), status=201, headers=(("Location", f"{scheme}://{call.host}{address}"),))

    async def _place(self, call: Call, form: Upload) -> tuple[dict[str, Any], Location]:
        """Put an uploaded file into its place."""
        files, location = self._files, form.target()
        files.check_unlocked(location)
        package = location
        is_package = location.root.name == GCODES and ufp.is_package(location.relative)
        if is_package:
            location = files.roots.locate(f"{GCODES}/{ufp.unpacked_name(location.relative)}", WRITE)
        tree = files.watcher.trees[location.root.name]
        async with files.claims.of(location.real):
            files.check_unlocked(location)
            part = await form.finish()
            with files.watcher.hold(location.path, package.path):
                picture = await files.workers.long(_take, part, location, package if is_package else None)
                stored, _ = await files.watcher.sync(tree, location.relative)
        if stored is None:
            raise BadRequest("The file was deleted while it was stored: upload it again")
        is_gcode = location.root.name == GCODES and is_scanned(location.relative)
        entry = await files.scanned(location.relative, picture) if is_gcode else stored
        answer: dict[str, Any]
        if entry is None:  # stored, and then moved or deleted by somebody, of which clients have been told already
            answer = {"action": "create_file", "item": described(location.root, location.relative, stored)}
        else:
            answer = {**files.done("create_file", location, entry)}
        if is_gcode:
            wants_print = entry is not None and form.fields.get("print", "").lower() == "true"
            is_started = answer["print_started"] = wants_print and await self.print(location.relative, call.user)
            waits = wants_print and not is_started and self.queue is not None
            answer["print_queued"] = waits and await self.queue(location.relative, call.user)  # type: ignore[misc]
        return answer, location

    async def print(self, relative: str, user: str | None) -> bool:
        """Start a print; False: the printer is busy or not ready."""
        if self._job.is_active or not self._klippy.is_connected:
            return False
        try:
            await self._klippy.print_file(relative, user=user, timeout_s=PRINT_TIMEOUT_S)
        except ApiError as exc:
            log.warning("The file '%s' could not be printed: %s", relative, exc.message)
            return False
        return True


def _take(part: str, location: Location, package: Location | None) -> bytes | None:
    """Put a part file into its place; a package is unpacked, and its picture returned. In a worker thread."""
    operations.make_folders(location.folder)
    if os.path.isdir(location.path):
        raise BadRequest(f"There is a folder '{location.name}' already: give the file another name")
    if package is None:
        operations.move(part, location.real)  # a link in its place leads to where the file belongs
        return None
    picture = ufp.unpack(Path(part), Path(location.real), os.path.basename(package.path))
    os.unlink(part)
    return picture
