"""What is known of gcode files."""

from __future__ import annotations

import asyncio
from typing import TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import Raw, decode, encode
from moonfast.errors import ApiError, NotFound
from moonfast.files.metadata import is_scanned, pictures, with_name
from moonfast.files.roots import Location
from moonfast.files.service import GCODES, FileService
from moonfast.vocab import GET, POST


class Picture(TypedDict):
    width: int
    height: int
    size: int
    thumbnail_path: str


class MetadataApi:
    def __init__(self, files: FileService) -> None:
        self._files = files

    @endpoint(GET, "/server/files/metadata")
    async def read_metadata(self, call: Call, filename: str, details: bool = False) -> Raw:
        """Return what is known of a gcode file; `filename` is relative to the root `gcodes`.

        A file that is being scanned is waited for. `details`: with what only reading the whole file tells, if that is
        switched on: `layers` ([offset in bytes, height in mm] where each begins), `progress` ([offset, percent,
        minutes left] of each M73), `objects` (`name`, `center` and `polygon`) and `max_z`. Without, `bounds` of the
        motion and `used_tools` come as soon as they are known. Error 404: there is no such file, or nothing is known
        of it.
        """
        found = await self._find_metadata(filename)
        if found is None:
            raise NotFound(f"Metadata not available for <{filename}>")
        if details and self._files.details is not None:
            return await self._with_details(*found)
        return Raw(with_name(*found))

    async def _with_details(self, record: bytes, relative: str) -> Raw:
        files = self._files
        assert files.details is not None
        key = files.metadata.content_key(relative)
        known = files.details.get(key) if key is not None else None
        if known is None and key is not None and not files.whole.is_paused:
            await asyncio.shield(files.details.wanted(relative))
            known = files.details.get(key)
        return Raw(encode({**(known or {}), **decode(record), "filename": relative}))

    async def _find_metadata(self, filename: str) -> tuple[bytes, str] | None:
        """The record of a gcode file and its path, None if there is none."""
        location = self._gcode(filename)
        tree = self._files.metadata.tree
        if location is None or tree is None:
            return None
        relative = location.relative
        await self._files.watcher.filled(tree)
        entry = tree.entry(relative)
        if entry is None:  # just made, and not seen yet
            entry, _ = await self._files.watcher.sync(tree, relative)
        if entry is None or entry.is_dir or not is_scanned(relative):
            return None
        record = self._files.metadata.raw(relative, entry)
        if record is None:
            entry, _ = await self._files.watcher.sync(tree, relative)
            await asyncio.shield(self._files.metadata.wanted(relative))
            entry = tree.entry(relative)
            record = self._files.metadata.raw(relative, entry) if entry is not None else None
        return None if record is None else (record, relative)

    def _gcode(self, filename: str) -> Location | None:
        root = self._files.roots.get(GCODES)
        try:
            return None if root is None else self._files.roots.locate(f"{GCODES}/{filename}")
        except ApiError:
            return None

    def _metadata_changed(self, relative: str) -> None:
        tree = self._files.metadata.tree
        folder = tree.folder(relative.rpartition("/")[0]) if tree is not None else None
        if folder is not None:
            folder.json.pop(True, None)

    @endpoint(POST, "/server/files/metascan")
    async def scan_again(self, call: Call, filename: str) -> Raw:
        """Read the metadata of a gcode file anew and return it. Error 404: there is no such file."""
        location, tree = self._gcode(filename), self._files.metadata.tree
        if location is None or tree is None:
            raise NotFound(f"File '{filename}' does not exist")
        entry, _ = await self._files.watcher.sync(tree, location.relative)
        if entry is None or entry.is_dir or not is_scanned(location.relative):
            raise NotFound(f"File '{filename}' does not exist")
        await self._files.metadata.ready(location.relative)
        await asyncio.shield(self._files.metadata.wanted(location.relative))
        entry = tree.entry(location.relative)
        record = self._files.metadata.raw(location.relative, entry) if entry is not None else None
        if record is None:
            raise NotFound(f"File '{filename}' cannot be read, or changed just now: try again")
        return Raw(with_name(record, location.relative))

    @endpoint(GET, "/server/files/thumbnails")
    async def list_thumbnails(self, call: Call, filename: str) -> list[Picture]:
        """Return the pictures of a gcode file; their paths are relative to the root `gcodes`."""
        found = await self._find_metadata(filename)
        return [] if found is None else pictures(*found)  # type: ignore[return-value]
