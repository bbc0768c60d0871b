"""The file manager: which folders clients see, and the endpoints that work in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from moonfast.codec import decode
from moonfast.component import Component
from moonfast.config.options import Option, Section
from moonfast.config.sections import ServerConfig
from moonfast.data_path import Options
from moonfast.errors import ApiError
from moonfast.files.api.changes import ChangesApi
from moonfast.files.api.listing import ListingApi
from moonfast.files.api.metadata import MetadataApi
from moonfast.files.api.transfers import TransferApi
from moonfast.files.roots import Roots, is_below, is_part
from moonfast.files.service import GCODES, FileService, Processor
from moonfast.files.tree import is_gcode
from moonfast.klippy.session import Klippy
from moonfast.state.job import Job
from moonfast.storage.database import Database

RESERVED = ("database", "certs", "systemd", "comms", "backup")
RESERVED_FILES = ("moonraker.asvc", ".moonraker.uuid", ".moonfast.lock", "moonraker.secrets")
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
    scan_whole_files: Annotated[
        bool,
        Option(
            doc="Read new gcode files to their end, when nothing else is to do, to know layers, objects and bounds."
        ),
    ] = True
    scan_while_printing: Annotated[
        bool, Option(doc="Do so while Klipper prints, too. Else these files wait until the print has ended.")
    ] = False
    default_metadata_parser_timeout: Annotated[
        float, Option(above=0.0, unit="s", doc="Not used: metadata is read in milliseconds.")
    ] = 20.0


class FileManager(Component):
    """Everything about files. Other components add roots with `roots.add`, and processors of gcode files."""

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
        self._files = FileService(
            database,
            job,
            self.emit,
            self.spawn,
            observes=config.file_system_observer == "inotify",
            reads_whole_files=config.scan_whole_files,
        )
        self.transfers = TransferApi(self._files, options, klippy, job, server.max_upload_size * 1024 * 1024)
        self.parts = (ListingApi(self._files), MetadataApi(self._files), self.transfers, ChangesApi(self._files))
        self._own_warnings: list[str] = []
        if config.enable_object_processing:
            self.add_processor("object_processing", self._files.whole.add_objects)

    @property
    def roots(self) -> Roots:
        return self._files.roots

    @property
    def warnings(self) -> list[str]:  # type: ignore[override]
        observer = self._files.watcher.warnings if self._config.enable_observer_warnings else []
        return [*observer, *self._own_warnings]

    def add_processor(self, name: str, process: Processor) -> None:
        """Let every new gcode file go through `process` before its metadata is read. `name` comes with the metadata."""
        self._files.processors[name] = process

    # for jobs

    def job_started(self, relative: str, job_id: str, start_time: float) -> dict[str, Any] | None:
        """Note that a gcode file is printed; its metadata until now, None if it has none."""
        return self._files.metadata.started(relative, job_id, start_time)

    def is_there(self, relative: str, size: object, modified: object) -> bool:
        """Whether a gcode file is there and the same as it was: size in bytes, modified in seconds since 1970."""
        tree = self._files.watcher.trees.get(GCODES)
        entry = tree.entry(relative) if tree is not None else None
        return entry is not None and not entry.is_dir and entry.size == size and entry.modified == modified

    async def has_gcode(self, relative: str) -> bool:
        """Whether there is a gcode file that clients may use."""
        try:
            location = self.roots.locate(f"{GCODES}/{relative}")
        except ApiError:
            return False
        return is_gcode(relative) and await self._files.workers.quick(os.path.isfile, location.path)

    def queue_uploads(self, queue: Callable[[str, str | None], Awaitable[bool]]) -> None:
        """Give uploads that are to be printed to `queue` while the printer is busy, and who has sent them, if the
        configuration says so.
        """
        if self._config.queue_gcode_uploads:
            self.transfers.queue = queue

    # life

    async def start(self) -> None:
        data, roots = self._options.data_path, self.roots
        for name in (*RESERVED, *RESERVED_FILES):
            roots.reserve(name, f"{data}/{name}")
        roots.reserve("moonfast", PROGRAM, is_readable=True)
        self._files.start()
        await self._files.workers.quick(_remove_parts, [f"{data}/{GCODES}", f"{data}/config"])
        roots.add("config", f"{data}/config", self._config.enable_config_write_access)
        roots.add("logs", f"{data}/logs")
        roots.add(GCODES, f"{data}/{GCODES}", True)
        self._files.tell_of_roots()
        self._klippy.on_identified.append(self._klippy_identified)
        self._klippy.on_disconnected.append(self._follow_job)
        self._job.listeners.append(self._follow_job)

    async def stop(self) -> None:
        self._klippy.on_identified.remove(self._klippy_identified)
        self._klippy.on_disconnected.remove(self._follow_job)
        self._job.listeners.remove(self._follow_job)
        await self._files.stop()

    def _follow_job(self, *_: object) -> None:
        """While Klipper prints, the machine is its own."""
        if self._job.is_active and not self._config.scan_while_printing:
            self._files.whole.pause()
        else:
            self._files.whole.resume()

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
            self.transfers.klippy_log_path = log_file
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


def _resolved(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def _remove_parts(folders: list[str]) -> None:
    """Remove what an upload or a copy left behind when the server was killed."""
    for top in folders:
        for folder, _, files in os.walk(top):
            for name in files:
                if is_part(name):
                    with contextlib.suppress(OSError):
                        os.unlink(f"{folder}/{name}")
