"""What all endpoints of files work with: roots, trees, metadata, and what clients are told of changes.

A change that a request makes is looked at before its reply goes out (`Watcher.sync`) and told of right after; a change
that others make is told of when the watcher sees it. A gcode file is told of when its metadata is there, or after
ANNOUNCE_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from moonfast.api.endpoint import notification
from moonfast.component import Emit
from moonfast.errors import ApiError, Forbidden, MethodNotAllowed
from moonfast.files import operations, ufp
from moonfast.files.details import Details
from moonfast.files.metadata import Metadata, is_scanned
from moonfast.files.operations import Claims
from moonfast.files.pieces import is_unchanged
from moonfast.files.roots import WRITE, Location, Root, Roots, is_below
from moonfast.files.tree import CREATE, DELETE, MODIFY, MOVE, Change, Entry, Tree
from moonfast.files.watcher import Watcher
from moonfast.files.whole_file import WholeFilePass
from moonfast.files.workers import Workers
from moonfast.state.job import Job
from moonfast.storage.database import Database

log = logging.getLogger(__name__)

GCODES = "gcodes"
ANNOUNCE_S = 2.0
"""A gcode file is told of after this time even if its metadata is not there yet."""

PROCESSING_ATTEMPTS = 3
"""A file that is written to while a processor reads it is given to it again."""

Processor = Callable[[Path], Awaitable[bool]]
"""Rewrites a gcode file before its metadata is read, atomically; whether it did."""


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


CHANGED = notification(
    "filelist_changed",
    FileChange,
    "A file or a folder of a root has changed: `create_file`, `create_dir`, `delete_file`, `delete_dir`, `move_file`, "
    "`move_dir`, `modify_file`, or the root itself is another folder now: `root_update`.",
)


class FileService:
    """Belongs to the file manager, which starts and stops it. `spawn` runs a coroutine beside the server."""

    def __init__(
        self,
        database: Database,
        job: Job,
        emit: Emit,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        *,
        observes: bool,
        reads_whole_files: bool,
    ) -> None:
        self._job, self._emit, self._spawn = job, emit, spawn
        self.roots = Roots()
        self.workers = Workers()
        self.claims = Claims()
        self.watcher = Watcher(self.workers, self.roots, self._changed, observes=observes)
        self.whole = WholeFilePass()
        self.metadata = Metadata(database, self.workers, self._prepare)
        self.details = Details(database, self.whole, self.metadata) if reads_whole_files else None
        self.metadata.on_scanned = self._scanned
        self.processors: dict[str, Processor] = {}
        self._announcing: dict[str, asyncio.TimerHandle] = {}
        self._is_told_of_roots = False

    def start(self) -> None:
        """Begin to watch; roots that are added from now on are watched, and told of from `tell_of_roots` on."""
        self.roots.on_update = self._root_updated
        self.watcher.start()

    def tell_of_roots(self) -> None:
        """The roots that every server has are there: later ones are news."""
        self._is_told_of_roots = True
        self._spawn(self._first_look())

    async def stop(self) -> None:
        for handle in self._announcing.values():
            handle.cancel()
        self._announcing.clear()
        await self.watcher.stop()
        await self.metadata.stop()
        if self.details is not None:
            await self.details.stop()
        await self.whole.stop()
        await self.workers.stop()

    async def _first_look(self) -> None:
        """After the start: what is stored of files that are gone goes too."""
        tree = self.watcher.trees[GCODES]
        await self.watcher.filled(tree)
        self.metadata.forget_others(path for path, _ in tree.files())
        if self.details is not None:
            known = self.details.known()
            self.details.forget_others(known, await self.metadata.content_keys())

    def _root_updated(self, root: Root) -> None:
        if root.is_writable:
            tree = self.watcher.add(root)
            if root.name == GCODES:
                self.metadata.tree = tree
        if self._is_told_of_roots:
            item = {"path": "", "root": root.name, "modified": 0.0, "size": 0, "permissions": root.permissions}
            self._emit(CHANGED, {"action": "root_update", "item": item})

    # what requests ask before they change something

    def writable(self, path: str) -> Location:
        """A place that clients may change. MethodNotAllowed: its root is for reading only."""
        location = self.roots.locate(path, WRITE)
        if not location.root.is_writable:
            raise MethodNotAllowed(("GET", "HEAD"))
        return location

    def check_unlocked(self, location: Location) -> None:
        """Forbidden: the file is being printed, or the folder holds it."""
        if self._is_printed(location):
            raise Forbidden(f"'{location.name}' is being printed: wait for the end of the print, or cancel it")

    def _is_printed(self, location: Location) -> bool:
        if not self._job.is_active or location.root.name != GCODES:
            return False
        name = self._job.stats.get("filename")
        if not isinstance(name, str) or not name:
            return False
        printed = os.path.realpath(f"{location.root.path}/{name}")
        return printed == location.real or printed.startswith(location.real + "/")

    # what clients are told

    def done(
        self, action: str, location: Location, entry: Entry | None, source: SourceItem | None = None
    ) -> FileChange:
        """Tell everyone what a request has done, behind its reply, which is returned. `entry`: None if it is gone."""
        item = gone(location.root, location.relative)
        if entry is not None:
            item = described(location.root, location.relative, entry)
        answer: FileChange = {"action": action, "item": item}
        if source is not None:
            answer["source_item"] = source
        asyncio.get_running_loop().call_soon(self._emit, CHANGED, dict(answer))
        return answer

    def _changed(self, tree: Tree, changes: list[Change]) -> None:
        """The watcher has seen what others have done."""
        for change in changes:
            if tree.root.name == GCODES:
                self._follow(tree, change)
            elif self.watcher.has_been_filled(tree):
                self._announce(tree, change)

    def _follow(self, tree: Tree, change: Change) -> None:
        """Keep the metadata true, then tell of the change."""
        entry, relative = change.entry, change.relative
        is_new = change.kind in (CREATE, MODIFY)
        is_first = not self.watcher.has_been_filled(tree)
        if is_new and not entry.is_dir and is_scanned(relative):
            if self.metadata.raw(relative, entry) is None:
                future = self.metadata.wanted(relative)
                if not is_first:
                    self._announce_later(tree, change, future)
                return
        elif is_new and not entry.is_dir and ufp.is_package(relative) and not is_first:
            self._spawn(self._unpack_found(tree, relative))
            return
        elif change.kind == DELETE:
            self._spawn(self.metadata.deleted(tree.path(relative), relative))
        elif change.kind == MOVE and change.source is not None:
            source = tree.path(change.source)
            self._spawn(self.metadata.moved(source, tree.path(relative), change.source, relative))
        if not is_first:
            self._announce(tree, change)
        if change.kind == MOVE and change.source is not None:
            self.carry(tree, change.source, relative)

    def _announce_later(self, tree: Tree, change: Change, future: asyncio.Future[None]) -> None:
        """Tell of a gcode file when its metadata is there, or after a time."""

        def tell(*_: object) -> None:
            handle = self._announcing.pop(change.relative, None)
            if handle is not None:
                handle.cancel()
                now = tree.entry(change.relative)  # a processor may have rewritten it
                if now is not None:
                    self._announce(tree, change._replace(entry=now))

        earlier = self._announcing.pop(change.relative, None)
        if earlier is not None:
            earlier.cancel()
        self._announcing[change.relative] = asyncio.get_running_loop().call_later(ANNOUNCE_S, tell)
        future.add_done_callback(tell)

    def carry(self, tree: Tree, old: str, new: str) -> None:
        """A file or a folder has moved: what waits to be announced is announced where it is now."""
        for relative in [key for key in self._announcing if is_below(key, old)]:
            self._announcing.pop(relative).cancel()
            moved = new + relative[len(old) :]
            entry = tree.entry(moved)
            if entry is not None:
                self._announce_later(tree, Change(CREATE, moved, entry), self.metadata.wanted(moved))

    def _announce(self, tree: Tree, change: Change) -> None:
        entry, kind = change.entry, "dir" if change.entry.is_dir else "file"
        is_gone = change.kind == DELETE
        item = gone(tree.root, change.relative) if is_gone else described(tree.root, change.relative, entry)
        told: dict[str, Any] = {"action": f"{change.kind}_{kind}", "item": item}
        if change.source is not None:
            told["source_item"] = {"path": change.source, "root": tree.root.name}
        self._emit(CHANGED, told)

    async def _unpack_found(self, tree: Tree, relative: str) -> None:
        """Somebody else has put a package into the folder."""
        package = self.roots.locate(f"{GCODES}/{relative}", WRITE)
        target = self.roots.locate(f"{GCODES}/{ufp.unpacked_name(relative)}", WRITE)
        try:
            async with self.claims.of(target.real, package.real):
                self.check_unlocked(target)
                with self.watcher.hold(target.path, package.path):
                    picture = await self.workers.long(ufp.unpack, Path(package.path), Path(target.path))
                    await self.workers.quick(operations.delete_file, package.path)
                    await self.watcher.sync(tree, relative)
                    await self.watcher.sync(tree, target.relative)
        except ApiError as exc:
            log.warning("%s", exc.message)
            return
        entry = await self.scanned(target.relative, picture)
        if entry is not None:
            self._announce(tree, Change(CREATE, target.relative, entry))

    # metadata

    async def scanned(self, relative: str, picture: bytes | None = None) -> Entry | None:
        """Wait for the metadata of a gcode file that has just been stored, and return the file as it is then.

        Without processors for ANNOUNCE_S at most; with them until they are done. `picture`: from a package.
        """
        future = self.metadata.wanted(relative, from_ufp=picture)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if self.processors else ANNOUNCE_S):
                await asyncio.shield(future)
        tree = self.metadata.tree
        return None if tree is None else tree.entry(relative)

    def scan_new(self, tree: Tree, changes: list[Change]) -> None:
        """Read the metadata of gcode files that have none yet."""
        if tree.root.name != GCODES:
            return
        for change in changes:
            is_file = change.kind != DELETE and not change.entry.is_dir and is_scanned(change.relative)
            if is_file and self.metadata.raw(change.relative, change.entry) is None:
                self.metadata.wanted(change.relative)

    async def _prepare(self, relative: str) -> list[str]:
        """Let the processors rewrite a file; the names of those that did. None touches what is being printed."""
        tree = self.metadata.tree
        if not self.processors or tree is None:
            return []
        location = self.roots.locate(f"{GCODES}/{relative}", WRITE)
        done = []
        async with self.claims.of(location.real):
            with self.watcher.hold(location.path):
                for name, process in self.processors.items():
                    try:
                        if not self._is_printed(location) and await self._processed(process, Path(location.real)):
                            done.append(name)
                    except Exception as exc:  # component edge: the file is as it was, and has metadata all the same
                        log.warning("%s could not work on '%s': %s", name, location.name, exc)
                await self.watcher.sync(tree, relative)
        return done

    async def _processed(self, process: Processor, path: Path) -> bool:
        """Let one processor rewrite a file; again, if the file changed meanwhile and was left as it was."""
        for _ in range(PROCESSING_ATTEMPTS):
            before = await self.workers.quick(path.stat)
            if await process(path):
                return True
            if is_unchanged(before, await self.workers.quick(path.stat)):
                break
        return False

    def _scanned(self, relative: str) -> None:
        """There is another record of a file: listings made before are out of date."""
        tree = self.metadata.tree
        folder = tree.folder(relative.rpartition("/")[0]) if tree is not None else None
        if folder is not None:
            folder.json.pop(True, None)
        if self.details is not None:
            self.details.wanted(relative)


def described(root: Root, relative: str, entry: Entry) -> Item:
    """A file or a folder as clients get it."""
    return {
        "path": relative,
        "root": root.name,
        "modified": entry.modified,
        "size": entry.size,
        "permissions": entry.permissions,
    }


def gone(root: Root, relative: str) -> Item:
    """The same for one that is not there any more."""
    return {"path": relative, "root": root.name, "modified": 0.0, "size": 0, "permissions": ""}
