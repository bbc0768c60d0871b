"""Prints a file of the gcodes folder, line by line: virtual_sdcard and print_stats.

    standby --start--> printing <--pause/start--> paused
    printing --end of file--> complete      --failed command--> error
    printing, paused --cancel--> cancelled  any --reset--> standby

A shutdown leaves a print "paused", as Klipper does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import BinaryIO

from .gcode_lines import GcodeError
from .printer import Printer, Status

CHUNK_BYTES = 8192

LINE_LIMIT_BYTES = 1024 * 1024  # a longer line is cut

RunLine = Callable[[str, Callable[[], bool]], Awaitable[bool]]


class SdCard:
    """The current file and the job's statistics.

    `run_line` runs one line when its turn comes, unless the callable given with it then says no, and returns whether
    it ran. `say` prints to the console; `on_error` is told of the command that ended a print.
    """

    def __init__(
        self,
        printer: Printer,
        folder: str,
        run_line: RunLine,
        say: Callable[[str], None],
        on_error: Callable[[GcodeError], None],
    ) -> None:
        self._printer, self._folder = printer, folder
        self._run_line, self._say, self._on_error = run_line, say, on_error
        self._file: BinaryIO | None = None
        self._path = ""
        self._task: asyncio.Task[None] | None = None
        self._must_pause = False
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
        self._used = 0.0  # mm of filament up to the last start
        self._extruded_at_start: float | None = None  # the extruder's counter then; None: not printing

    @property
    def is_active(self) -> bool:
        """Lines are being run."""
        return self._task is not None and not self._must_pause

    @property
    def is_loaded(self) -> bool:
        """There is a file, printing or not."""
        return self._file is not None

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
        name = name.lstrip("/")
        root = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(root, name))
        try:
            if os.path.commonpath((root, path)) != root:
                raise OSError
            self._file = open(path, "rb")  # noqa: SIM115  (stays open for the whole print)
        except (OSError, ValueError):
            raise GcodeError("Unable to open file") from None
        self._path, self.size, self.filename = path, os.fstat(self._file.fileno()).st_size, name
        self._say(f"File opened:{name} Size:{self.size}")
        self._say("File selected")

    def seek(self, position: int) -> None:
        """Go on from another place (M26)."""
        if self.is_active:
            raise GcodeError("SD busy")
        self.position = min(max(0, position), self.size)

    def start(self) -> None:
        """Begin, or go on after a pause."""
        if self._file is None:
            raise GcodeError("SD print not loaded")
        if self.is_active:
            raise GcodeError("SD busy")
        now = self._printer.clock.now()
        if self._started is None:
            self._started = now
        if self._paused_at is not None:
            self._pauses += now - self._paused_at
            self._paused_at = None
        self._extruded_at_start = self._printer.extruded_mm
        self._must_pause = False
        self.state = "printing"
        self._printer.idle.touch()
        if self._task is None:  # otherwise the line before the pause has not ended yet: just go on behind it
            self._task = asyncio.get_running_loop().create_task(self._print(), name="simulated print")

    def pause(self) -> None:
        """Stop after the present line."""
        if self._task is not None:
            self._must_pause = True
        if self.state == "printing":
            self.state, self._paused_at = "paused", self._printer.clock.now()
            self._count_filament()

    def cancel(self) -> None:
        """Give the print up."""
        self.pause()
        self._close()
        self.size = self.position = 0
        if self.state == "paused":
            self._end("cancelled", "")

    def reset(self) -> None:
        """Forget the file and its statistics."""
        self.cancel()
        self._reset_stats()

    async def stop(self) -> None:
        """Klippy ends, and the print with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _print(self) -> None:
        try:
            while (file := self._file) is not None and not self._must_pause:
                await self._print_some(file)
                await asyncio.sleep(0)  # a file of comments alone must not keep the loop for itself
        finally:
            self._task = None

    async def _print_some(self, file: BinaryIO) -> None:
        """Run the lines of the next part of the file."""

        def goes_on() -> bool:
            return not self._must_pause and self._file is file

        try:
            lines = self._next_lines(file)
            if not lines:
                await self._printer.toolhead.drain()
                if goes_on():
                    self._close()
                    self._say("Done printing file")
                    self._end("complete", "")
            for line in lines:
                if await self._run_line(line.decode("utf-8", "replace"), goes_on) and self._file is file:
                    self.position += len(line)
                    self._note_extrusion()
                if not goes_on():
                    break
        except (GcodeError, OSError) as exc:
            if self._file is file and self.state == "printing":
                self._must_pause = True
                self._end("error", str(exc))
                self._on_error(exc if isinstance(exc, GcodeError) else GcodeError(f"Unable to read file: {exc}"))

    def _next_lines(self, file: BinaryIO) -> list[bytes]:
        """Read whole lines from the present position, with their ends."""
        file.seek(self.position)
        data = file.read(CHUNK_BYTES)
        while b"\n" not in data and len(data) < LINE_LIMIT_BYTES and (more := file.read(CHUNK_BYTES)):
            data += more
        return data[: data.rfind(b"\n") + 1 or len(data)].splitlines(keepends=True)

    def _note_extrusion(self) -> None:
        if self._extruded_at_start is None or self._first_extrusion is not None:
            return
        if self._printer.extruded_mm != self._extruded_at_start:
            self._first_extrusion = self._printer.clock.now()

    def _count_filament(self) -> None:
        if self._extruded_at_start is not None:
            self._used += self._printer.extruded_mm - self._extruded_at_start
            self._extruded_at_start = None

    def _end(self, state: str, message: str) -> None:
        self.state, self.message, self._ended = state, message, self._printer.clock.now()
        self._count_filament()
        if self._paused_at is not None:
            self._pauses += self._ended - self._paused_at
            self._paused_at = None

    def status(self) -> tuple[Status, Status]:
        """print_stats and virtual_sdcard."""
        now = self._printer.clock.now() if self._ended is None else self._ended
        total = now - self._started if self._started is not None else 0.0
        paused = self._pauses + (now - self._paused_at if self._paused_at is not None else 0.0)
        printing = 0.0 if self._first_extrusion is None else max(0.0, now - self._first_extrusion - paused)
        since_start = 0.0 if self._extruded_at_start is None else self._printer.extruded_mm - self._extruded_at_start
        return {
            "filename": self.filename,
            "total_duration": total,
            "print_duration": printing,
            "filament_used": max(0.0, self._used + since_start),
            "state": self.state,
            "message": self.message,
            "info": {"total_layer": self.layers[1], "current_layer": self.layers[0]},
        }, {
            "file_path": self._path if self._file is not None else None,
            "progress": self.position / self.size if self.size else 0.0,
            "is_active": self.is_active,
            "file_position": self.position,
            "file_size": self.size,
        }
