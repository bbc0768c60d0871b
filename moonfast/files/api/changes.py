"""Folders are made, files moved, copied, packed and deleted."""

from __future__ import annotations

import logging
import os
import time
from typing import TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, rpc_method
from moonfast.errors import BadRequest, NotFound
from moonfast.files import operations
from moonfast.files.roots import READ, WRITE, Location
from moonfast.files.service import GCODES, FileChange, FileService, Item
from moonfast.vocab import DELETE, POST, Transport

log = logging.getLogger(__name__)

MAX_ZIP_ITEMS = 10_000


class ZipAnswer(TypedDict):
    destination: Item
    action: str


class ChangesApi:
    def __init__(self, files: FileService) -> None:
        self._files = files

    @endpoint(POST, "/server/files/directory")
    async def make_directory(self, call: Call, path: str) -> FileChange:
        """Make a folder. Error 400: it is there already, or the folder around it is not."""
        location = self._files.writable(path)
        tree = self._files.watcher.trees[location.root.name]
        async with self._files.claims.of(location.real):
            with self._files.watcher.hold(location.path):
                await self._files.workers.quick(operations.make_folder, location.path)
                entry, _ = await self._files.watcher.sync(tree, location.relative)
        return self._files.done("create_dir", location, entry)

    @endpoint(DELETE, "/server/files/directory")
    async def delete_directory(self, call: Call, path: str, force: bool = False) -> FileChange:
        """Delete a folder. Error 400: it is not empty and `force` is not set; 403: a file in it is being printed."""
        location = self._files.writable(path)
        if not location.relative:
            raise BadRequest("Cannot delete root directory")
        if not await self._files.workers.quick(os.path.isdir, location.path):
            raise BadRequest(f"Directory does not exist ({location.name})")
        tree = self._files.watcher.trees[location.root.name]
        async with self._files.claims.of(location.real):
            self._files.check_unlocked(location)
            with self._files.watcher.hold(location.path):
                await self._files.workers.long(operations.delete_folder, location.path, force=force)
                await self._files.watcher.sync(tree, location.relative)
        if location.root.name == GCODES:
            await self._files.metadata.deleted(location.path, location.relative)
        return self._files.done("delete_dir", location, None)

    @endpoint(DELETE, "/server/files/{root}/{path}", transports=Transport.HTTP)
    async def delete_over_http(self, call: Call, root: str, path: str) -> FileChange:
        """Delete a file. Error 403: it is being printed, or not for clients; 404: there is no such root."""
        if self._files.roots.get(root) is None:
            raise NotFound("Not Found")
        return await self._delete_file(f"{root}/{path}")

    @rpc_method("server.files.delete_file", transports=Transport.ALL & ~Transport.HTTP)
    async def delete_file(self, call: Call, path: str) -> FileChange:
        """Delete the file at `path`, "root/folder/name". Error 400: there is none; 403: it is being printed."""
        return await self._delete_file(path)

    async def _delete_file(self, path: str) -> FileChange:
        location = self._files.writable(path)
        if not location.relative or not await self._files.workers.quick(_is_file, location.path):
            raise BadRequest(f"Invalid file path: {location.name}")
        tree = self._files.watcher.trees[location.root.name]
        async with self._files.claims.of(location.real):
            self._files.check_unlocked(location)
            with self._files.watcher.hold(location.path):
                await self._files.workers.quick(operations.delete_file, location.path)
                await self._files.watcher.sync(tree, location.relative)
        if location.root.name == GCODES:
            await self._files.metadata.deleted(location.path, location.relative)
        return self._files.done("delete_file", location, None)

    @endpoint(POST, "/server/files/move")
    async def move(self, call: Call, source: str, dest: str) -> FileChange:
        """Move or rename a file or a folder, also into another root. Into a folder that is there it is moved as it is.

        Error 400: the source is not there, or the destination cannot be; 403: it is being printed.
        """
        old, new = await self._pair(source, dest, WRITE)
        if not old.relative:
            raise BadRequest("Cannot move a root directory")
        old_tree, new_tree = self._files.watcher.trees.get(old.root.name), self._files.watcher.trees[new.root.name]
        async with self._files.claims.of(old.real, new.real):
            self._files.check_unlocked(old)
            self._files.check_unlocked(new)
            with self._files.watcher.hold(old.path, new.path):
                await self._files.workers.long(operations.move, old.path, new.path)
                if old_tree is not None and old_tree is new_tree:
                    old_tree.move(old.relative, new.relative)
                if old_tree is not None:
                    await self._files.watcher.sync(old_tree, old.relative)
                entry, changes = await self._files.watcher.sync(new_tree, new.relative)
        if old.root.name == GCODES and new.root.name == GCODES:
            await self._files.metadata.moved(old.path, new.path, old.relative, new.relative)
        elif old.root.name == GCODES:
            await self._files.metadata.deleted(old.path, old.relative)
        self._files.scan_new(new_tree, changes)
        if old_tree is not None and old_tree is new_tree:
            self._files.carry(new_tree, old.relative, new.relative)
        action = "move_dir" if entry is not None and entry.is_dir else "move_file"
        return self._files.done(action, new, entry, {"path": old.relative, "root": old.root.name})

    @endpoint(POST, "/server/files/copy")
    async def copy(self, call: Call, source: str, dest: str) -> FileChange:
        """Copy a file or a folder, also into another root. A file in the destination's place is replaced."""
        old, new = await self._pair(source, dest, READ)
        new_tree = self._files.watcher.trees[new.root.name]
        is_dir = await self._files.workers.quick(os.path.isdir, old.path)
        act = operations.copy_folder if is_dir else operations.copy_file
        async with self._files.claims.of(old.real, new.real):
            self._files.check_unlocked(new)
            with self._files.watcher.hold(new.path):
                await self._files.workers.long(act, old.path, new.path)
                entry, changes = await self._files.watcher.sync(new_tree, new.relative)
                if old.root.name == GCODES and new.root.name == GCODES:
                    await self._files.metadata.copied(old.path, new.path, old.relative, new.relative)
        self._files.scan_new(new_tree, changes)
        return self._files.done("create_dir" if is_dir else "create_file", new, entry)

    async def _pair(self, source: str, dest: str, access: bool) -> tuple[Location, Location]:
        """Where something comes from and goes to; into a folder that is there it goes under its own name."""
        new = self._files.roots.locate(dest)
        if not new.root.is_writable:
            raise BadRequest(f"Destination path is read-only: {new.root.name}")
        new = self._files.roots.locate(dest, WRITE)
        old = self._files.roots.locate(source, access)
        if not await self._files.workers.quick(os.path.lexists, old.path):
            raise BadRequest(f"'{old.name}' does not exist")
        if access is WRITE and not old.root.is_writable:
            raise BadRequest(f"Source path is read-only: {old.root.name}")
        if old.path != new.path and await self._files.workers.quick(os.path.isdir, new.path):
            new = self._files.roots.locate(f"{new.name}/{os.path.basename(old.path)}", WRITE)
        return old, new

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
        location = self._files.roots.locate(name)
        if not location.root.is_writable or not location.relative:
            raise BadRequest(f"Destination Root '{location.root.name}' is read-only")
        location = self._files.roots.locate(name, WRITE)
        sources = []
        for item in dict.fromkeys(items):
            found = self._files.roots.locate(item)
            if not await self._files.workers.quick(os.path.exists, found.path):
                raise BadRequest(f"There is no file or folder '{found.name}'")
            sources.append((found.path, found.name))
        tree = self._files.watcher.trees[location.root.name]
        started = time.monotonic()
        async with self._files.claims.of(location.real):
            self._files.check_unlocked(location)
            with self._files.watcher.hold(location.path):
                await self._files.workers.long(operations.zip_files, location.path, sources, store_only=store_only)
                entry, _ = await self._files.watcher.sync(tree, location.relative)
        if entry is None:
            raise BadRequest("The archive was deleted while it was written: try again")
        spent = max(time.monotonic() - started, 1e-6)
        log.info("Packed %s: %d bytes, %.1f MB/s", location.name, entry.size, entry.size / 1e6 / spent)
        return {"destination": self._files.done("create_file", location, entry)["item"], "action": "zip_files"}


def _is_file(path: str) -> bool:
    return os.path.islink(path) or os.path.isfile(path)
