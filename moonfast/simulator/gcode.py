"""The gcode interpreter: runs scripts and lines of files, one command at a time.

The commands themselves are in gcode_motion, gcode_heat, gcode_job and gcode_console. Source: Klipper docs/G-Codes.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .gcode_console import ConsoleCommands, Host, scripts
from .gcode_heat import HeatCommands
from .gcode_job import JobCommands
from .gcode_lines import GcodeError, Handler, Line, Table, without_comment
from .gcode_motion import MotionCommands
from .printer import Printer, Status
from .sdcard import SdCard

ALWAYS = (
    "M110",
    "M112",
    "M115",
    "RESTART",
    "FIRMWARE_RESTART",
    "ECHO",
    "STATUS",
    "HELP",
    "M105",
    "M114",
    "GET_POSITION",
    "M118",
    "RESPOND",
)
"""Commands that run whatever the printer's state."""
RAW = ("ECHO",)
"""Extended commands whose text is not taken apart."""


class Interpreter:
    """Runs gcode on a printer; the card prints files through it."""

    def __init__(self, printer: Printer, gcodes_dir: str, host: Host) -> None:
        self.printer, self._host = printer, host
        self._turn = asyncio.Lock()
        self.card = SdCard(printer, gcodes_dir, self._run_line_of_file, host.say, self._end_file)
        self.motion = MotionCommands(printer, host.say)
        self._table: Table = {
            **ConsoleCommands(printer, host, self.help).table(),
            **HeatCommands(printer, host.say).table(),
            **self.motion.table(),
            **JobCommands(printer, self.card, host.say).table(),
            **{name: (self._macro(script), "G-Code macro") for name, script in scripts().items()},
        }
        self._commands = {name: {"help": text} if text else {} for name, (_, text) in self._table.items()}
        self._always = {name: self._commands[name] for name in ALWAYS}
        printer.is_busy = lambda: self._turn.locked() or self.card.is_active

    def help(self) -> dict[str, str]:
        return {name: text for name, (_, text) in self._table.items() if text}

    def commands(self) -> Status:
        """The commands that would be run now, with their help texts."""
        return self._commands if self.printer.state == "ready" else self._always

    async def run_script(self, script: str) -> None:
        """Run all lines of a client's script. GcodeError: one failed; it has been printed, too."""
        lines = script.split("\n")
        if any(Line(without_comment(line)).name == "M112" for line in lines):  # passes every queue
            self._host.shutdown("Shutdown due to M112 command")
        async with self._turn:
            try:
                for line in lines:
                    await self._run_line(line)
            except GcodeError as exc:
                self._report(exc)
                raise

    async def _run_line_of_file(self, line: str, goes_on: Callable[[], bool]) -> bool:
        async with self._turn:
            if not goes_on():
                return False
            await self._run_line(line)
            return True

    async def _run_line(self, text: str) -> None:
        text = text.strip()
        if not without_comment(text):
            return
        line, printer = Line(text), self.printer
        found = self._table.get(line.name)
        if printer.state != "ready" and line.name not in ALWAYS:
            raise GcodeError(printer.state_message)
        if found is None:
            self._host.say(f'// Unknown command:"{line.name}"')
            return
        if not line.is_traditional and line.name not in RAW:
            line.read_extended()
        state = printer.state
        await found[0](line)
        if printer.state != state and line.name != "M112":
            raise GcodeError(printer.state_message)

    def _macro(self, script: str) -> Handler:
        async def run(line: Line) -> None:
            for text in script.split("\n"):
                await self._run_line(text)

        return run

    def _report(self, exc: GcodeError) -> None:
        """Print an error as Klipper does: all of it if it has several lines, then the first as an error."""
        lines = str(exc).strip().split("\n")
        if len(lines) > 1:
            self._host.say("\n".join(f"// {line.strip()}" for line in lines))
        self._host.say(f"!! {lines[0].strip()}")

    def _end_file(self, exc: GcodeError) -> None:
        """A line of the file failed: report it, and do what Klipper's on_error_gcode does by default."""
        self._report(exc)
        self.printer.switch_heaters_off()
