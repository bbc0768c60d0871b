"""What is there: roots, lists of files, folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import Raw, encode
from moonfast.errors import BadRequest
from moonfast.files.metadata import is_scanned
from moonfast.files.roots import Location, Root, is_part
from moonfast.files.service import GCODES, FileService
from moonfast.files.tree import Entry, Look, Tree, folder_json, join, scan, walk
from moonfast.vocab import GET


class RootInfo(TypedDict):
    name: str
    path: str
    permissions: str


class ListingApi:
    def __init__(self, files: FileService) -> None:
        self._files = files

    @endpoint(GET, "/server/files/list")
    async def list_files(self, call: Call, root: str = GCODES) -> Raw:
        """Return all files of a root, `path`, `modified`, `size` and `permissions` of each.

        Of the root `gcodes` only files that can be printed. Error 400: there is no such root.
        """
        found = self._files.roots.get(root)
        if found is None:
            raise BadRequest(f"Invalid root '{root}': use one of {', '.join(self._files.roots.names())}")
        tree = self._files.watcher.trees.get(root)
        if tree is None:
            return Raw((await self._read_tree(found)).listing())
        await self._files.watcher.filled(tree)
        await self._files.watcher.settle(tree)
        if not self._files.watcher.is_told(tree):
            await self._files.watcher.look_again(tree, "", below=True)
        return Raw(tree.listing())

    async def _read_tree(self, root: Root) -> Tree:
        """A root that is not watched, as it is now."""
        tree = Tree(root, self._files.roots.permissions)
        for listed in await self._files.workers.quick(walk, root.path, "", lambda relative, path: None):
            tree.merge(listed)
        return tree

    @endpoint(GET, "/server/files/roots")
    def list_roots(self, call: Call) -> list[RootInfo]:
        """Return name, path and permissions of every root."""
        return [
            {"name": item.name, "path": item.path, "permissions": item.permissions} for item in self._files.roots.all()
        ]

    @endpoint(GET, "/server/files/directory")
    async def list_directory(self, call: Call, path: str = GCODES, extended: bool = False) -> Raw:
        """Return the folders and files in one folder, and the room on its disk.

        `extended`: gcode files come with their metadata. Error 400: there is no such folder.
        """
        location = self._files.roots.locate(path)
        inside = await self._folder_json(location, extended)
        usage = await self._files.workers.quick(_disk_usage, location.path)
        root = {"name": location.root.name, "permissions": location.root.permissions}
        return Raw(b'{%b,"disk_usage":%b,"root_info":%b}' % (inside, encode(usage), encode(root)))

    async def _folder_json(self, location: Location, extended: bool) -> bytes:
        tree = self._files.watcher.trees.get(location.root.name)
        if tree is not None:
            await self._files.watcher.filled(tree)
            await self._files.watcher.settle(tree)
            folder = tree.folder(location.relative)
            if folder is not None:
                if not self._files.watcher.is_told(tree, folder):
                    await self._files.watcher.look_again(tree, location.relative)
                if extended not in folder.json:
                    folder.json[extended] = folder_json(
                        folder.entries.values(),
                        self._record_of(location.relative) if extended and tree.root.name == GCODES else None,
                    )
                return folder.json[extended]
        if not await self._files.workers.quick(os.path.isdir, location.path):
            raise BadRequest(f"Directory does not exist ({location.name})")
        entries = self._entries(location, await self._files.workers.quick(scan, location.path))
        return folder_json(entries, None)

    def _record_of(self, folder: str) -> Callable[[Entry], bytes | None]:
        def find(entry: Entry) -> bytes | None:
            return self._files.metadata.raw(join(folder, entry.name), entry) if is_scanned(entry.name) else None

        return find

    def _entries(self, location: Location, looks: list[Look]) -> list[Entry]:
        found = []
        for item in looks:
            if item.seen is not None and not is_part(item.name):
                real = f"{location.real}/{item.name}"
                real = os.path.realpath(real) if item.seen.is_link else real
                found.append(Entry(item.name, item.seen, self._files.roots.permissions(location.root, real)))
        return found


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
