"""The files of users: the endpoints, and how roots, trees, operations, uploads and metadata work together.

A change that a request makes is looked at before its reply goes out (`Watcher.sync`) and told of right after; a change
that others make is told of when the watcher sees it. A gcode file is told of when its metadata is there, or after
ANNOUNCE_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from urllib.parse import quote

from moonfast.api.call import Call, FileAnswer, HttpAnswer
from moonfast.api.endpoint import endpoint, notification, rpc_method
from moonfast.api.upload import Received, UploadSink
from moonfast.codec import Raw, decode, encode
from moonfast.component import Component
from moonfast.config.options import Option, Section
from moonfast.config.sections import ServerConfig
from moonfast.data_path import Options
from moonfast.errors import ApiError, BadRequest, Forbidden, MethodNotAllowed, NotFound, PayloadTooLarge
from moonfast.files import operations, ufp
from moonfast.files.metadata import Metadata, is_scanned, pictures, with_name
from moonfast.files.operations import Claims
from moonfast.files.roots import READ, WRITE, Location, Root, Roots, is_below, is_part
from moonfast.files.tree import (
    CREATE,
    DELETE,
    MODIFY,
    MOVE,
    Change,
    Entry,
    Look,
    Tree,
    folder_json,
    join,
    scan,
    walk,
)
from moonfast.files.upload import Upload
from moonfast.files.watcher import Watcher
from moonfast.files.whole_file import WholeFilePass
from moonfast.files.workers import Workers
from moonfast.klippy.api import quoted
from moonfast.klippy.session import Klippy
from moonfast.state.job import Job
from moonfast.storage.database import Database
from moonfast.vocab import DELETE as DELETE_VERB
from moonfast.vocab import GET, POST, Transport

log = logging.getLogger(__name__)

ANNOUNCE_S = 2.0
"""A gcode file is told of after this time even if its metadata is not there yet."""
PRINT_TIMEOUT_S = 10.0
FORM_BYTES = 1024 * 1024
"""What the fields of a form may add to the size of the file in it."""
RESERVED = ("database", "certs", "systemd", "comms", "backup")
RESERVED_FILES = ("moonraker.asvc", ".moonraker.uuid", ".moonfast.lock", "moonraker.secrets")
MAX_ZIP_ITEMS = 10_000
GCODES = "gcodes"
PROGRAM = str(Path(__file__).resolve().parent.parent)


class FileManagerConfig(Section, name="file_manager"):
    enable_object_processing: Annotated[
        bool, Option(doc="Add lines to uploaded files with which single objects of a print can be cancelled.")
    ] = False
    file_system_observer: Annotated[
        Literal["inotify", "none"],
        Option(doc="How changes made by others are noticed. With `none` folders are looked at when they are listed."),
    ] = "inotify"
    enable_observer_warnings: Annotated[bool, Option(doc="Warn when changes of files cannot be noticed.")] = True
    enable_inotify_warnings: Annotated[
        bool, Option(doc="Older name.", deprecated="it is called 'enable_observer_warnings' now.")
    ] = True
    enable_config_write_access: Annotated[bool, Option(doc="Let clients change the files of the root `config`.")] = True
    check_klipper_config_path: Annotated[
        bool, Option(doc="Warn if Klipper reads its configuration from another folder than `config`.")
    ] = True
    queue_gcode_uploads: Annotated[
        bool, Option(doc="Put uploads that are to be printed into the job queue while the printer is busy.")
    ] = False
    default_metadata_parser_timeout: Annotated[
        float, Option(above=0.0, unit="s", doc="Not used: metadata is read in milliseconds.")
    ] = 20.0


class Item(TypedDict):
    root: str
    path: str
    modified: float
    size: int
    permissions: str


class SourceItem(TypedDict):
    root: str
    path: str


class FileChange(TypedDict):
    action: str
    item: Item
    source_item: NotRequired[SourceItem]


class RootInfo(TypedDict):
    name: str
    path: str
    permissions: str


class ZipAnswer(TypedDict):
    destination: Item
    action: str


class Picture(TypedDict):
    width: int
    height: int
    size: int
    thumbnail_path: str


CHANGED = notification(
    "filelist_changed",
    FileChange,
    "A file or a folder of a root has changed: `create_file`, `create_dir`, `delete_file`, `delete_dir`, `move_file`, "
    "`move_dir`, `modify_file`, or the root itself is another folder now: `root_update`.",
)


class FileManager(Component):
    """Everything about files; see the module's text."""

    def __init__(
        self,
        config: FileManagerConfig,
        server: ServerConfig,
        options: Options,
        database: Database,
        klippy: Klippy,
        job: Job,
    ) -> None:
        self._config, self._options, self._klippy, self._job = config, options, klippy, job
        self._max_upload_bytes = server.max_upload_size * 1024 * 1024
        self.roots = Roots()
        self._workers = Workers()
        self._claims = Claims()
        self._watcher = Watcher(
            self._workers, self.roots, self._changed, observes=config.file_system_observer == "inotify"
        )
        self._metadata = Metadata(database, self._workers)
        self._whole = WholeFilePass()
        self._announcing: dict[str, asyncio.TimerHandle] = {}
        self._klippy_log = f"{options.data_path}/logs/klippy.log"
        self._own_warnings: list[str] = []
        self._is_started = False

    # life

    async def start(self) -> None:
        data = self._options.data_path
        for name in RESERVED:
            self.roots.reserve(name, f"{data}/{name}")
        for name in RESERVED_FILES:
            self.roots.reserve(name, f"{data}/{name}")
        self.roots.reserve("moonfast", PROGRAM, is_readable=True)
        self.roots.on_update = self._root_updated
        self._watcher.start()
        await self._workers.quick(_remove_parts, [f"{data}/{GCODES}", f"{data}/config"])
        self.roots.add("config", f"{data}/config", self._config.enable_config_write_access)
        self.roots.add("logs", f"{data}/logs")
        self.roots.add(GCODES, f"{data}/{GCODES}", True)
        self._is_started = True
        self.spawn(self._first_look())
        self._klippy.on_identified.append(self._klippy_identified)

    async def stop(self) -> None:
        for handle in self._announcing.values():
            handle.cancel()
        if self._klippy_identified in self._klippy.on_identified:
            self._klippy.on_identified.remove(self._klippy_identified)
        await self._watcher.stop()
        await self._metadata.stop()
        await self._whole.stop()
        self._workers.stop()

    @property
    def warnings(self) -> list[str]:
        """For users; they change while the server runs."""
        observer = self._watcher.warnings if self._config.enable_observer_warnings else []
        return [*observer, *self._own_warnings]

    async def _first_look(self) -> None:
        """After the start: records of files that are gone go too."""
        tree = self._watcher.trees[GCODES]
        await self._watcher.filled(tree)
        self._metadata.forget_others(path for path, _ in tree.files())

    def _root_updated(self, root: Root) -> None:
        if root.is_writable:
            tree = self._watcher.add(root)
            if root.name == GCODES:
                self._metadata.tree = tree
        if self._is_started:
            item = {"path": "", "root": root.name, "modified": 0.0, "size": 0, "permissions": root.permissions}
            self.emit(CHANGED, {"action": "root_update", "item": item})

    def _klippy_identified(self) -> None:
        """Klipper has told its folders: its documentation and examples become roots."""
        info = self._klippy.info
        self._own_warnings.clear()
        klipper = info.get("klipper_path")
        if isinstance(klipper, str) and os.path.isabs(klipper):
            self.roots.reserve("klipper", klipper, is_readable=True)
            for name, folder in (("config_examples", "config"), ("docs", "docs")):
                if os.path.isdir(f"{klipper}/{folder}"):
                    self.roots.add(name, f"{klipper}/{folder}")
        python = info.get("python_path")
        if isinstance(python, str) and os.path.isabs(python):
            environment = os.path.dirname(os.path.dirname(python))
            if len(Path(environment).parts) > 2 and "env" in os.path.basename(environment):
                self.roots.reserve("klippy-env", environment)
        log_file = info.get("log_file")
        if isinstance(log_file, str) and os.path.isabs(log_file):
            self._klippy_log = log_file
        config_file = info.get("config_file")
        config = self.roots.get("config")
        is_checked = self._config.check_klipper_config_path and isinstance(config_file, str)
        if is_checked and config is not None and not is_below(os.path.realpath(str(config_file)), config.real):
            self._own_warnings.append(
                f"Klipper's configuration file '{config_file}' is not in the folder '{config.path}': clients cannot "
                "edit it. Start Klipper with a file in this folder."
            )
        self.spawn(self._check_gcode_path())

    async def _check_gcode_path(self) -> None:
        """Compare the folder that Klipper prints from with the root."""
        try:
            answer = await self._klippy.request(
                "objects/query", {"objects": {"configfile": ["config"]}}, timeout_s=30.0
            )
        except ApiError:
            return
        found: Any = decode(answer)
        for key in ("status", "configfile", "config", "virtual_sdcard", "path"):
            found = found.get(key) if isinstance(found, dict) else None
        root = self.roots.get(GCODES)
        if isinstance(found, str) and root is not None and _resolved(found) != root.real:
            self._own_warnings.append(
                f"Klipper prints files from '{found}', but uploads go to '{root.path}': set 'path' in its section "
                "[virtual_sdcard] to this folder."
            )

    # what clients are told

    def _changed(self, tree: Tree, changes: list[Change]) -> None:
        """The watcher has seen what others have done."""
        for change in changes:
            if tree.root.name == GCODES:
                self._follow(tree, change)
            elif self._watcher.has_been_filled(tree):
                self._announce(tree, change)

    def _follow(self, tree: Tree, change: Change) -> None:
        """Keep the metadata true, then tell of the change."""
        entry, relative = change.entry, change.relative
        is_new = change.kind in (CREATE, MODIFY)
        is_first = not self._watcher.has_been_filled(tree)
        if is_new and not entry.is_dir and is_scanned(relative):
            if self._metadata.raw(relative, entry) is None:
                future = self._metadata.wanted(relative)
                if not is_first:
                    self._announce_later(tree, change, future)
                return
        elif is_new and not entry.is_dir and relative.lower().endswith(".ufp") and not is_first:
            self.spawn(self._unpack_found(tree, relative))
            return
        elif change.kind == DELETE:
            self.spawn(self._metadata.deleted(tree.path(relative), relative))
        elif change.kind == MOVE and change.source is not None:
            source = tree.path(change.source)
            self.spawn(self._metadata.moved(source, tree.path(relative), change.source, relative))
        if not is_first:
            self._announce(tree, change)

    def _announce_later(self, tree: Tree, change: Change, future: asyncio.Future[None]) -> None:
        """Tell of a gcode file when its metadata is there, or after a time."""

        def tell(*_: object) -> None:
            handle = self._announcing.pop(change.relative, None)
            if handle is not None:
                handle.cancel()
                self._announce(tree, change)

        earlier = self._announcing.pop(change.relative, None)
        if earlier is not None:
            earlier.cancel()
        self._announcing[change.relative] = asyncio.get_running_loop().call_later(ANNOUNCE_S, tell)
        future.add_done_callback(tell)

    def _announce(self, tree: Tree, change: Change) -> None:
        entry, kind = change.entry, "dir" if change.entry.is_dir else "file"
        is_gone = change.kind == DELETE
        item = _gone(tree.root, change.relative) if is_gone else _item(tree.root, change.relative, entry)
        told: dict[str, Any] = {"action": f"{change.kind}_{kind}", "item": item}
        if change.source is not None:
            told["source_item"] = {"path": change.source, "root": tree.root.name}
        self.emit(CHANGED, told)

    def _tell_soon(self, told: dict[str, Any]) -> None:
        """Tell of what a request has done, behind its reply."""
        asyncio.get_running_loop().call_soon(self.emit, CHANGED, told)

    # reading

    @endpoint(GET, "/server/files/list")
    async def list_files(self, call: Call, root: str = GCODES) -> Raw:
        """Return all files of a root, `path`, `modified`, `size` and `permissions` of each.

        Of the root `gcodes` only files that can be printed. Error 400: there is no such root.
        """
        found = self.roots.get(root)
        if found is None:
            raise BadRequest(f"Invalid root '{root}': use one of {', '.join(self.roots.names())}")
        tree = self._watcher.trees.get(root)
        if tree is None:
            return Raw((await self._read_tree(found)).listing())
        await self._watcher.filled(tree)
        await self._watcher.settle(tree)
        if not self._watcher.is_told(tree):
            await self._watcher.look_again(tree, "", below=True)
        return Raw(tree.listing())

    async def _read_tree(self, root: Root) -> Tree:
        """A root that is not watched, as it is now."""
        tree = Tree(root, self.roots.permissions)
        for listed in await self._workers.quick(walk, root.path, "", lambda relative, path: None):
            tree.merge(listed)
        return tree

    @endpoint(GET, "/server/files/roots")
    def list_roots(self, call: Call) -> list[RootInfo]:
        """Return name, path and permissions of every root."""
        return [{"name": item.name, "path": item.path, "permissions": item.permissions} for item in self.roots.all()]

    @endpoint(GET, "/server/files/directory")
    async def list_directory(self, call: Call, path: str = GCODES, extended: bool = False) -> Raw:
        """Return the folders and files in one folder, and the room on its disk.

        `extended`: gcode files come with their metadata. Error 400: there is no such folder.
        """
        location = self.roots.locate(path)
        inside = await self._folder_json(location, extended)
        usage = await self._workers.quick(_disk_usage, location.path)
        root = {"name": location.root.name, "permissions": location.root.permissions}
        return Raw(b'{%b,"disk_usage":%b,"root_info":%b}' % (inside, encode(usage), encode(root)))

    async def _folder_json(self, location: Location, extended: bool) -> bytes:
        tree = self._watcher.trees.get(location.root.name)
        if tree is not None:
            await self._watcher.filled(tree)
            await self._watcher.settle(tree)
            folder = tree.folder(location.relative)
            if folder is not None:
                if not self._watcher.is_told(tree, folder):
                    await self._watcher.look_again(tree, location.relative)
                if extended not in folder.json:
                    folder.json[extended] = folder_json(
                        folder.entries.values(),
                        self._record_of(location.relative) if extended and tree.root.name == GCODES else None,
                    )
                return folder.json[extended]
        if not await self._workers.quick(os.path.isdir, location.path):
            raise BadRequest(f"Directory does not exist ({location.name})")
        entries = self._entries(location, await self._workers.quick(scan, location.path))
        return folder_json(entries, None)

    def _record_of(self, folder: str) -> Callable[[Entry], bytes | None]:
        def find(entry: Entry) -> bytes | None:
            return self._metadata.raw(join(folder, entry.name), entry) if is_scanned(entry.name) else None

        return find

    def _entries(self, location: Location, looks: list[Look]) -> list[Entry]:
        found = []
        for item in looks:
            if item.seen is not None and not is_part(item.name):
                real = f"{location.real}/{item.name}"
                real = os.path.realpath(real) if item.seen.is_link else real
                found.append(Entry(item.name, item.seen, self.roots.permissions(location.root, real)))
        return found

    @endpoint(GET, "/server/files/metadata")
    async def read_metadata(self, call: Call, filename: str) -> Raw:
        """Return what is known of a gcode file; `filename` is relative to the root `gcodes`.

        A file that is being scanned is waited for. Error 404: there is no such file, or nothing is known of it.
        """
        found = await self._find_metadata(filename)
        if found is None:
            raise NotFound(f"Metadata not available for <{filename}>")
        return Raw(with_name(*found))

    async def _find_metadata(self, filename: str) -> tuple[bytes, str] | None:
        """The record of a gcode file and its path, None if there is none."""
        location = self._gcode(filename)
        tree = self._metadata.tree
        if location is None or tree is None:
            return None
        relative = location.relative
        await self._watcher.filled(tree)
        entry = tree.entry(relative)
        if entry is None:  # just made, and not seen yet
            entry, _ = await self._watcher.sync(tree, relative)
        if entry is None or entry.is_dir or not is_scanned(relative):
            return None
        record = self._metadata.raw(relative, entry)
        if record is None:
            entry, _ = await self._watcher.sync(tree, relative)
            await asyncio.shield(self._metadata.wanted(relative))
            entry = tree.entry(relative)
            record = self._metadata.raw(relative, entry) if entry is not None else None
            if record is not None:
                self._metadata_changed(relative)
        return None if record is None else (record, relative)

    def _gcode(self, filename: str) -> Location | None:
        root = self.roots.get(GCODES)
        try:
            return None if root is None else self.roots.locate(f"{GCODES}/{filename}")
        except ApiError:
            return None

    def _metadata_changed(self, relative: str) -> None:
        tree = self._metadata.tree
        folder = tree.folder(relative.rpartition("/")[0]) if tree is not None else None
        if folder is not None:
            folder.json.pop(True, None)

    @endpoint(POST, "/server/files/metascan")
    async def scan_again(self, call: Call, filename: str) -> Raw:
        """Read the metadata of a gcode file anew and return it. Error 404: there is no such file."""
        location, tree = self._gcode(filename), self._metadata.tree
        if location is None or tree is None:
            raise NotFound(f"File '{filename}' does not exist")
        entry, _ = await self._watcher.sync(tree, location.relative)
        if entry is None or entry.is_dir or not is_scanned(location.relative):
            raise NotFound(f"File '{filename}' does not exist")
        await self._metadata.ready(location.relative)
        await asyncio.shield(self._metadata.wanted(location.relative))
        self._metadata_changed(location.relative)
        entry = tree.entry(location.relative)
        record = self._metadata.raw(location.relative, entry) if entry is not None else None
        if record is None:
            raise NotFound(f"File '{filename}' cannot be read, or changed just now: try again")
        return Raw(with_name(record, location.relative))

    @endpoint(GET, "/server/files/thumbnails")
    async def list_thumbnails(self, call: Call, filename: str) -> list[Picture]:
        """Return the pictures of a gcode file; their paths are relative to the root `gcodes`."""
        found = await self._find_metadata(filename)
        return [] if found is None else pictures(*found)  # type: ignore[return-value]

    # transfers

    @endpoint(GET, "/server/files/klippy.log", transports=Transport.HTTP)
    def klippy_log(self, call: Call) -> FileAnswer:
        """Download Klipper's log."""
        return FileAnswer(self._klippy_log, "klippy.log")

    @endpoint(GET, "/server/files/moonraker.log", transports=Transport.HTTP)
    def server_log(self, call: Call) -> FileAnswer:
        """Download the log of this server."""
        if self._options.log_file is None:
            raise NotFound("There is no log file: the server was started without one")
        return FileAnswer(self._options.log_file, "moonraker.log")

    @endpoint(GET, "/server/files/{root}/{path}", transports=Transport.HTTP)
    def download(self, call: Call, root: str, path: str) -> FileAnswer:
        """Download a file. Error 404: there is no such file; 403: it is a folder, or not for clients."""
        found = self.roots.get(root)
        if found is None:
            raise NotFound("Not Found")
        location = self.roots.locate(f"{root}/{path}")
        if is_part(os.path.basename(location.path)):
            raise NotFound("Not Found")
        return FileAnswer(location.path, os.path.basename(location.path))

    def receive(self, length: int | None) -> UploadSink:
        """Take in an upload."""
        if length is not None and length > self._max_upload_bytes + FORM_BYTES:
            raise self._too_large()
        return Upload(self.roots, self._workers, length, self._max_upload_bytes)

    def _too_large(self) -> PayloadTooLarge:
        limit = self._max_upload_bytes // (1024 * 1024)
        return PayloadTooLarge(f"The file is larger than {limit} MiB: raise max_upload_size in the section [server]")

    @endpoint(POST, "/server/files/upload", transports=Transport.HTTP, is_wrapped=False, receiver="receive")
    async def upload(self, call: Call, form: Received) -> HttpAnswer:
        """Upload a file as multipart/form-data, with the fields `root`, `path`, `checksum` (SHA-256) and `print`.

        Status 201, the address of the file is in `Location`. Error 403: the file is being printed; 413: it is too
        large; 422: the checksum does not match; 507: the disk is full.
        """
        assert isinstance(form, Upload)
        try:
            answer, location = await self._store(form)
        except BaseException:
            form.abort()
            raise
        log.info("Uploaded %s: %d bytes, %.1f MB/s", location.name, form.size, form.rate)
        address = f"/server/files/{location.root.name}/{quote(location.relative)}"
        scheme = "https" if call.is_secure else "http"
        return HttpAnswer(encode(answer), status=201, headers=(("Location", f"{scheme}://{call.host}{address}"),))

    async def _store(self, form: Upload) -> tuple[dict[str, Any], Location]:
        """Put an uploaded file into its place."""
        location = form.target()
        self._check_unlocked(location)
        part = await form.finish()
        is_package = location.root.name == GCODES and location.relative.lower().endswith(".ufp")
        package = location
        if is_package:
            name = location.relative[: -len(".ufp")] + ".gcode"
            location = self.roots.locate(f"{GCODES}/{name}", WRITE)
            self._check_unlocked(location)
        tree = self._watcher.trees[location.root.name]
        async with self._claims.of(location.real):
            with self._watcher.hold(location.path, package.path):
                picture = await self._workers.long(_take, part, location, package if is_package else None)
                is_gcode = location.root.name == GCODES and is_scanned(location.relative)
                if is_gcode and self._config.enable_object_processing:
                    await self._process(location)
                entry, _ = await self._watcher.sync(tree, location.relative)
        if entry is None:
            raise BadRequest("The file was deleted while it was stored: upload it again")
        if is_gcode:
            await self._wait_for_metadata(location.relative, picture)
        answer: dict[str, Any] = {
            "action": "create_file",
            "item": _item(location.root, location.relative, entry),
        }
        self._tell_soon(dict(answer))
        if location.root.name == GCODES and is_gcode:
            wants_print = form.fields.get("print", "").lower() == "true"
            answer["print_started"] = wants_print and await self._print(location.relative)
            answer["print_queued"] = False
        return answer, location

    async def _process(self, location: Location) -> None:
        try:
            await self._whole.add_objects(Path(location.real))
        except OSError as exc:
            log.warning("The objects in '%s' could not be marked: %s", location.name, exc.strerror)

    async def _wait_for_metadata(self, relative: str, picture: bytes | None) -> None:
        future = self._metadata.wanted(relative, from_ufp=picture)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_S):
                await asyncio.shield(future)
        self._metadata_changed(relative)

    async def _unpack_found(self, tree: Tree, relative: str) -> None:
        """Somebody else has put a package into the folder."""
        package = self.roots.locate(f"{GCODES}/{relative}", WRITE)
        target = self.roots.locate(f"{GCODES}/{relative[:-4]}.gcode", WRITE)
        try:
            async with self._claims.of(target.real, package.real):
                with self._watcher.hold(target.path, package.path):
                    picture = await self._workers.long(ufp.unpack, Path(package.path), Path(target.path))
                    await self._workers.quick(operations.delete_file, package.path)
                    await self._watcher.sync(tree, relative)
                    entry, _ = await self._watcher.sync(tree, target.relative)
        except ApiError as exc:
            log.warning("%s", exc.message)
            return
        if entry is not None:
            await self._wait_for_metadata(target.relative, picture)
            self._announce(tree, Change(CREATE, target.relative, entry))

    async def _print(self, relative: str) -> bool:
        """Start a print; False: the printer is busy or not ready."""
        if self._job.is_active or not self._klippy.is_connected:
            return False
        script = {"script": f'SDCARD_PRINT_FILE FILENAME="{quoted(relative)}"'}
        try:
            await self._klippy.request("gcode/script", script, timeout_s=PRINT_TIMEOUT_S)
        except ApiError as exc:
            log.warning("The uploaded file '%s' could not be printed: %s", relative, exc.message)
            return False
        return True

    # changing

    @endpoint(POST, "/server/files/directory")
    async def make_directory(self, call: Call, path: str) -> FileChange:
        """Make a folder. Error 400: it is there already, or the folder around it is not."""
        location = self._writable(path)
        tree = self._watcher.trees[location.root.name]
        async with self._claims.of(location.real):
            with self._watcher.hold(location.path):
                await self._workers.quick(operations.make_folder, location.path)
                entry, _ = await self._watcher.sync(tree, location.relative)
        return self._done("create_dir", location, entry)

    @endpoint(DELETE_VERB, "/server/files/directory")
    async def delete_directory(self, call: Call, path: str, force: bool = False) -> FileChange:
        """Delete a folder. Error 400: it is not empty and `force` is not set; 403: a file in it is being printed."""
        location = self._writable(path)
        if not location.relative:
            raise BadRequest("Cannot delete root directory")
        if not await self._workers.quick(os.path.isdir, location.path):
            raise BadRequest(f"Directory does not exist ({location.name})")
        self._check_unlocked(location)
        tree = self._watcher.trees[location.root.name]
        async with self._claims.of(location.real):
            with self._watcher.hold(location.path):
                await self._workers.long(operations.delete_folder, location.path, force=force)
                await self._watcher.sync(tree, location.relative)
        if location.root.name == GCODES:
            await self._metadata.deleted(location.path, location.relative)
        return self._done("delete_dir", location, None)

    @endpoint(DELETE_VERB, "/server/files/{root}/{path}", transports=Transport.HTTP)
    async def delete_over_http(self, call: Call, root: str, path: str) -> FileChange:
        """Delete a file. Error 403: it is being printed, or not for clients; 404: there is no such root."""
        if self.roots.get(root) is None:
            raise NotFound("Not Found")
        return await self._delete_file(f"{root}/{path}")

    @rpc_method("server.files.delete_file", transports=Transport.ALL & ~Transport.HTTP)
    async def delete_file(self, call: Call, path: str) -> FileChange:
        """Delete the file at `path`, "root/folder/name". Error 400: there is none; 403: it is being printed."""
        return await self._delete_file(path)

    async def _delete_file(self, path: str) -> FileChange:
        location = self._writable(path)
        if not location.relative or not await self._workers.quick(_is_file, location.path):
            raise BadRequest(f"Invalid file path: {location.name}")
        self._check_unlocked(location)
        tree = self._watcher.trees[location.root.name]
        async with self._claims.of(location.real):
            with self._watcher.hold(location.path):
                await self._workers.quick(operations.delete_file, location.path)
                await self._watcher.sync(tree, location.relative)
        if location.root.name == GCODES:
            await self._metadata.deleted(location.path, location.relative)
        return self._done("delete_file", location, None)

    @endpoint(POST, "/server/files/move")
    async def move(self, call: Call, source: str, dest: str) -> FileChange:
        """Move or rename a file or a folder, also into another root. Into a folder that is there it is moved as it is.

        Error 400: the source is not there, or the destination cannot be; 403: it is being printed.
        """
        old, new = await self._pair(source, dest, WRITE)
        if not old.relative:
            raise BadRequest("Cannot move a root directory")
        self._check_unlocked(old)
        self._check_unlocked(new)
        old_tree, new_tree = self._watcher.trees.get(old.root.name), self._watcher.trees[new.root.name]
        async with self._claims.of(old.real, new.real):
            with self._watcher.hold(old.path, new.path):
                await self._workers.long(operations.move, old.path, new.path)
                if old_tree is not None and old_tree is new_tree:
                    old_tree.move(old.relative, new.relative)
                if old_tree is not None:
                    await self._watcher.sync(old_tree, old.relative)
                entry, changes = await self._watcher.sync(new_tree, new.relative)
        if old.root.name == GCODES and new.root.name == GCODES:
            await self._metadata.moved(old.path, new.path, old.relative, new.relative)
        elif old.root.name == GCODES:
            await self._metadata.deleted(old.path, old.relative)
        self._scan_new(new_tree, changes)
        action = "move_dir" if entry is not None and entry.is_dir else "move_file"
        return self._done(action, new, entry, {"path": old.relative, "root": old.root.name})

    @endpoint(POST, "/server/files/copy")
    async def copy(self, call: Call, source: str, dest: str) -> FileChange:
        """Copy a file or a folder, also into another root. A file in the destination's place is replaced."""
        old, new = await self._pair(source, dest, READ)
        self._check_unlocked(new)
        new_tree = self._watcher.trees[new.root.name]
        is_dir = await self._workers.quick(os.path.isdir, old.path)
        act = operations.copy_folder if is_dir else operations.copy_file
        async with self._claims.of(old.real, new.real):
            with self._watcher.hold(new.path):
                await self._workers.long(act, old.path, new.path)
                entry, changes = await self._watcher.sync(new_tree, new.relative)
                if old.root.name == GCODES and new.root.name == GCODES:
                    await self._metadata.copied(old.path, new.path, old.relative, new.relative)
        self._scan_new(new_tree, changes)
        return self._done("create_dir" if is_dir else "create_file", new, entry)

    async def _pair(self, source: str, dest: str, access: bool) -> tuple[Location, Location]:
        """Where something comes from and goes to; into a folder that is there it goes under its own name."""
        new = self.roots.locate(dest)
        if not new.root.is_writable:
            raise BadRequest(f"Destination path is read-only: {new.root.name}")
        new = self.roots.locate(dest, WRITE)
        old = self.roots.locate(source, access)
        if not await self._workers.quick(os.path.lexists, old.path):
            raise BadRequest(f"'{old.name}' does not exist")
        if access is WRITE and not old.root.is_writable:
            raise BadRequest(f"Source path is read-only: {old.root.name}")
        if old.path != new.path and await self._workers.quick(os.path.isdir, new.path):
            new = self.roots.locate(f"{new.name}/{os.path.basename(old.path)}", WRITE)
        return old, new

    def _scan_new(self, tree: Tree, changes: list[Change]) -> None:
        """Read the metadata of gcode files that have none yet."""
        if tree.root.name != GCODES:
            return
        for change in changes:
            is_file = change.kind != DELETE and not change.entry.is_dir and is_scanned(change.relative)
            if is_file and self._metadata.raw(change.relative, change.entry) is None:
                self._metadata.wanted(change.relative)

    @endpoint(POST, "/server/files/zip")
    async def zip_items(
        self, call: Call, items: list[str], dest: str | None = None, store_only: bool = False
    ) -> ZipAnswer:
        """Pack files and folders into an archive; without `dest` it goes into the root `config`, with the date as name.

        `store_only`: nothing is compressed. Error 400: an item is not there, or the destination cannot be written.
        """
        if not items or len(items) > MAX_ZIP_ITEMS:
            raise BadRequest(f"Argument 'items' must name 1 to {MAX_ZIP_ITEMS} files or folders")
        name = dest or time.strftime("config/collection-%Y%m%d-%H%M%S.zip")
        location = self.roots.locate(name)
        if not location.root.is_writable or not location.relative:
            raise BadRequest(f"Destination Root '{location.root.name}' is read-only")
        location = self.roots.locate(name, WRITE)
        sources = []
        for item in dict.fromkeys(items):
            found = self.roots.locate(item)
            if not await self._workers.quick(os.path.exists, found.path):
                raise BadRequest(f"There is no file or folder '{found.name}'")
            sources.append((found.path, found.name))
        tree = self._watcher.trees[location.root.name]
        started = time.monotonic()
        async with self._claims.of(location.real):
            with self._watcher.hold(location.path):
                await self._workers.long(operations.zip_files, location.path, sources, store_only=store_only)
                entry, _ = await self._watcher.sync(tree, location.relative)
        if entry is None:
            raise BadRequest("The archive was deleted while it was written: try again")
        spent = max(time.monotonic() - started, 1e-6)
        log.info("Packed %s: %d bytes, %.1f MB/s", location.name, entry.size, entry.size / 1e6 / spent)
        destination = _item(location.root, location.relative, entry)
        self._tell_soon({"action": "create_file", "item": destination})
        return {"destination": destination, "action": "zip_files"}

    def _writable(self, path: str) -> Location:
        location = self.roots.locate(path, WRITE)
        if not location.root.is_writable:
            raise MethodNotAllowed(("GET", "HEAD"))
        return location

    def _check_unlocked(self, location: Location) -> None:
        """Forbidden: the file is being printed, or the folder holds it."""
        if not self._job.is_active or location.root.name != GCODES:
            return
        name = self._job.stats.get("filename")
        if not isinstance(name, str) or not name:
            return
        printed = os.path.realpath(f"{location.root.path}/{name}")
        if printed == location.real or printed.startswith(location.real + "/"):
            raise Forbidden(f"'{location.name}' is being printed: wait for the end of the print, or cancel it")

    def _done(
        self, action: str, location: Location, entry: Entry | None, source: SourceItem | None = None
    ) -> FileChange:
        """The answer to a request that changed something, which is told to everyone too."""
        item = _gone(location.root, location.relative)
        if entry is not None:
            item = _item(location.root, location.relative, entry)
        answer: FileChange = {"action": action, "item": item}
        if source is not None:
            answer["source_item"] = source
        self._tell_soon(dict(answer))
        return answer


def _item(root: Root, relative: str, entry: Entry) -> Item:
    return {
        "path": relative,
        "root": root.name,
        "modified": entry.modified,
        "size": entry.size,
        "permissions": entry.permissions,
    }


def _gone(root: Root, relative: str) -> Item:
    return {"path": relative, "root": root.name, "modified": 0.0, "size": 0, "permissions": ""}


def _resolved(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _is_file(path: str) -> bool:
    return os.path.islink(path) or os.path.isfile(path)


def _disk_usage(path: str) -> dict[str, int]:
    """Bytes in all, in use, and free for this user."""
    try:
        found = os.statvfs(path)
    except OSError:
        return {"total": 0, "used": 0, "free": 0}
    unit = found.f_frsize
    return {
        "total": found.f_blocks * unit,
        "used": (found.f_blocks - found.f_bfree) * unit,
        "free": found.f_bavail * unit,
    }


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


def _remove_parts(folders: list[str]) -> None:
    """Remove what an upload or a copy left behind when the server was killed."""
    for top in folders:
        for folder, _, files in os.walk(top):
            for name in files:
                if is_part(name):
                    with contextlib.suppress(OSError):
                        os.unlink(f"{folder}/{name}")
