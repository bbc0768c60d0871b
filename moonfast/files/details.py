"""What only reading a whole gcode file tells: where each layer begins, progress, objects, bounds, tools.

    metadata of a file is new -> wanted() -> queue -> WholeFilePass -> database -> fields of the metadata

Kept by the content of the file, not by its name: copies and renamed files have theirs at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moonfast import speedups
from moonfast.files.metadata import Metadata
from moonfast.files.whole_file import WholeFilePass
from moonfast.storage.database import Database

log = logging.getLogger(__name__)

NAMESPACE = "gcode_details"
KEPT_WITH_METADATA = ("bounds", "used_tools")
"""Small ones, which every reader of the metadata gets."""
FALLBACKS = {"layer_count": "layer_count", "object_height": "max_z"}
"""Fields of the metadata that are filled from here if the slicer has not written them."""


class Details:
    """One file after the other; everything but the reading happens on the loop."""

    def __init__(self, database: Database, whole: WholeFilePass, metadata: Metadata) -> None:
        self._records = database.namespace(NAMESPACE)
        self._whole, self._metadata = whole, metadata
        self._queue: dict[str, asyncio.Future[None]] = {}  # by name, the first one is being read
        self._task: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for future in self._queue.values():
            future.cancel()
        self._queue.clear()

    def get(self, content_key: str) -> dict[str, Any] | None:
        """What is known of a content: what `FilePass.finish` and `WholeFilePass.run` give, tools as `used_tools`."""
        found: dict[str, Any] | None = self._records.get(content_key)
        return found

    def wanted(self, relative: str) -> asyncio.Future[None]:
        """Put a file that has metadata into the queue; done when it has been read, or cannot be."""
        future = self._queue.get(relative)
        if future is None:
            future = self._queue[relative] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="file details")
        return future

    def forget_others(self, known: Iterable[str], content_keys: Iterable[str]) -> None:
        """Drop what no file has any more: of `known`, all but `content_keys`."""
        gone = set(known).difference(content_keys)
        if gone:
            self._records.update({}, gone)

    def known(self) -> list[str]:
        """Every content that something is known of."""
        return self._records.keys()

    async def _work(self) -> None:
        try:
            while self._queue:
                relative = next(iter(self._queue))
                try:
                    await self._read(relative)
                except Exception:  # task edge: one file must not keep the others waiting
                    log.exception("'%s' could not be read to its end", relative)
                future = self._queue.pop(relative)
                if not future.done():
                    future.set_result(None)
        finally:
            self._task = None

    async def _read(self, relative: str) -> None:
        tree = self._metadata.tree
        key = self._metadata.content_key(relative)
        while key is not None and tree is not None:
            found = self._records.get(key)
            if found is None:
                has_speedups = speedups.IMPLEMENTATION == "speedups"  # without, motion takes too long
                found = await self._whole.run(Path(tree.path(relative)), want_motion=has_speedups)
            before, key = key, self._metadata.content_key(relative)
            if key == before:
                if found is not None:
                    self._keep(relative, key, found)
                return

    def _keep(self, relative: str, key: str, found: dict[str, Any]) -> None:
        if key not in self._records:
            found["used_tools"] = found.pop("tools")
            self._records.put(key, found)
        fields = {name: found[name] for name in KEPT_WITH_METADATA}
        fallbacks = {name: found[other] for name, other in FALLBACKS.items() if found[other]}
        self._metadata.complete(relative, key, fields, fallbacks)
