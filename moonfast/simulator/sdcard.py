"""Prints a file of the gcodes folder, line by line, as Klipper's virtual_sdcard does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from .printer import Printer, Status

CHUNK_BYTES = 8192


class GcodeError(Exception):
    """A command that failed; the text is shown to the user."""


class SdCard:
    """The current file and the job's statistics. `run_line` runs one line; `on_error` is told why a print ended."""

    def __init__(
        self,
        printer: Printer,
        folder: str,
        run_line: Callable[[str], Awaitable[None]],
        on_error: Callable[[str], None],
    ) -> None:
        self._printer, self._folder, self._run_line, self._on_error = printer, folder, run_line, on_error
        self._file: BinaryIO | None = None
        self._task: asyncio.Task[None] | None = None
        self._must_pause = False
        self.path: str | None = None
        self.size = self.position = 0
        self._reset_stats()

    def _reset_stats(self) -> None:
        self.state, self.filename, self.message = "standby", "", ""
        self.layers: tuple[int | None, int | None] = (None, None)  # current, total
        self._started: float | None = None
        self._ended: float | None = None
        self._pauses = 0.0
        self._paused_at: float | None = None
        self._first_extrusion: float | None = None
        self._extruded_before = self._printer.extruded_mm

    @property
    def is_active(self) -> bool:
        """Lines are being run."""
        return self._task is not None

    def list_files(self) -> list[tuple[str, int]]:
        """Names and sizes of what can be printed."""
        found = []
        for base, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.lower().endswith((".gcode", ".g", ".gco")):
                    path = os.path.join(base, name)
                    found.append((os.path.relpath(path, self._folder), os.path.getsize(path)))
        return sorted(found)

    def load(self, name: str) -> None:
        """Open a file; GcodeError: it is not there, or a print runs."""
        if self.is_active:
            raise GcodeError("SD busy")
        self.reset()
        root = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(root, name.lstrip("/")))
        try:
            if os.path.commonpath((root, path)) != root:
                raise OSError
            self._file = open(path, "rb")  # noqa: SIM115  (stays open for the whole print)
        except OSError:
            raise GcodeError("Unable to open file") from None
        self.path, self.size = path, os.fstat(self._file.fileno()).st_size
        self.filename = name.lstrip("/")

    def start(self) -> None:
        """Begin, or go on after a pause."""
        if self._file is None:
            raise GcodeError("SD print not loaded")
        if self.is_active and not self._must_pause:
            raise GcodeError("SD busy")
        now = self._printer.clock.now()
        if self._started is None:
            self._started = now
            self._extruded_before = self._printer.extruded_mm
        if self._paused_at is not None:
            self._pauses += now - self._paused_at
            self._paused_at = None
        self._must_pause = False
        self.state = "printing"
        if self.is_active:
            return  # the line before the pause has not ended yet: just go on behind it
        self._task = asyncio.get_running_loop().create_task(self._print(), name="simulated print")

    def pause(self) -> None:
        """Stop after the present line."""
        if self.is_active:
            self._must_pause = True
        if self.state == "printing":
            self.state, self._paused_at = "paused", self._printer.clock.now()

    def cancel(self) -> None:
        """Give the print up."""
        self.pause()
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.state in ("printing", "paused"):
            self._end("cancelled", "")

    def reset(self) -> None:
        """Forget the file and its statistics."""
        self.cancel()
        self.path, self.size, self.position = None, 0, 0
        self._reset_stats()

    async def stop(self) -> None:
        """The printer goes away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._file is not None:
            self._file.close()
            self._file = None

    def fail(self, message: str) -> None:
        """The printer shut down in the middle of a print."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.state in ("printing", "paused"):
            self._end("error", message)

    async def _print(self) -> None:
        file, rest = self._file, b""
        assert file is not None
        file.seek(self.position)
        try:
            while not self._must_pause:
                chunk = file.read(CHUNK_BYTES)
                if not chunk and not rest:
                    await self._printer.toolhead.drain()
                    self._end("complete", "")
                    file.close()
                    self._file = None
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                if not chunk:
                    lines, rest = [rest], b""
                for line in lines:
                    if self._must_pause:
                        break
                    await self._run_line(line.decode("utf-8", "replace"))
                    self.position = min(self.size, self.position + len(line) + 1)
                    if self._first_extrusion is None and self._printer.extruded_mm > self._extruded_before:
                        self._first_extrusion = self._printer.clock.now()
                await self._printer.toolhead.throttle()
                await asyncio.sleep(0)
        except GcodeError as exc:
            if self.state == "printing":
                self._end("error", str(exc))
                self._on_error(str(exc))
        finally:
            self._task = None

    def _end(self, state: str, message: str) -> None:
        self.state, self.message, self._ended = state, message, self._printer.clock.now()
        if self._paused_at is not None:
            self._pauses += self._ended - self._paused_at
            self._paused_at = None

    def status(self) -> tuple[Status, Status]:
        """print_stats and virtual_sdcard."""
        now = self._printer.clock.now() if self._ended is None else self._ended
        total = now - self._started if self._started is not None else 0.0
        paused = self._pauses + (now - self._paused_at if self._paused_at is not None else 0.0)
        printing = 0.0 if self._first_extrusion is None else max(0.0, now - self._first_extrusion - paused)
        used = self._printer.extruded_mm - self._extruded_before if self._started is not None else 0.0
        return {
            "filename": self.filename,
            "total_duration": total,
            "print_duration": printing,
            "filament_used": max(0.0, used),
            "state": self.state,
            "message": self.message,
            "info": {"total_layer": self.layers[1], "current_layer": self.layers[0]},
        }, {
            "file_path": self.path,
            "progress": self.position / self.size if self.size else 0.0,
            "is_active": self.is_active,
            "file_position": self.position,
            "file_size": self.size,
        }
