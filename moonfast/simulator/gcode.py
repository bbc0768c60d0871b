"""The gcode interpreter: parses lines as Klipper does and runs a useful set of commands.

Source: Klipper docs/G-Codes.md; how lines and their parameters are taken apart: klippy/gcode.py.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable

from .heaters import Heater
from .printer import READY, Printer, Status
from .sdcard import GcodeError, SdCard

_WORD = re.compile(r"([A-Z_]+|[A-Z*])")
_TRADITIONAL = re.compile(r"[GM][0-9]+(?:\.[0-9]+)?$")

Handler = Callable[["Line"], Awaitable[None]]


class Line:
    """One command with its parameters."""

    def __init__(self, text: str) -> None:
        self.text = text
        first, _, self.rest = text.partition(" ")
        match = re.match(r"([GMT])\s*([0-9]+(?:\.[0-9]+)?)(.*)$", text, re.IGNORECASE)
        self.is_traditional = match is not None
        if match is not None:
            self.name = match[1].upper() + match[2]
            self.rest = match[3].strip()
            self.params = _letters(self.rest.partition(";")[0])
        else:
            self.name = first.upper()
            self.params = {}

    def read_extended(self) -> None:
        """Parameters as NAME=value, quoted as for a shell."""
        lexer = shlex.shlex(self.rest, posix=True)
        lexer.whitespace_split, lexer.commenters = True, "#;"
        try:
            pairs = [item.split("=", 1) for item in lexer]
            self.params = {key.upper(): value for key, value in pairs}
        except ValueError:
            raise GcodeError(f"Malformed command '{self.text}'") from None

    def text_of(self, name: str, default: str | None = None) -> str:
        value = self.params.get(name, default)
        if value is None:
            raise GcodeError(f"Error on '{self.text}': missing {name}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.params.get(name)
        if value is None and default is not None:
            return default
        try:
            return float(self.text_of(name))
        except ValueError:
            raise GcodeError(f"Error on '{self.text}': unable to parse {value}") from None


def _letters(text: str) -> dict[str, str]:
    parts = _WORD.split(text.upper())
    return {parts[index]: parts[index + 1].strip() for index in range(1, len(parts) - 1, 2)}


class Interpreter:
    """Runs scripts, one at a time. `say` prints to the console; the other callables are Klippy's own."""

    def __init__(
        self,
        printer: Printer,
        gcodes_dir: str,
        *,
        say: Callable[[str], None],
        shut_down: Callable[[str], None],
        restart: Callable[[], None],
        call_remote: Callable[[str, dict[str, str]], None],
    ) -> None:
        self.printer = printer
        self.card = SdCard(printer, gcodes_dir, self.run_line_alone, lambda text: say(f"!! {text}"))
        self._say, self._shut_down, self._restart, self._call_remote = say, shut_down, restart, call_remote
        self._turn = asyncio.Lock()
        self._is_absolute = self._is_absolute_e = True
        self._speed = 25.0  # mm/s
        self._speed_factor = self._extrude_factor = 1.0
        self._offset = [0.0, 0.0, 0.0, 0.0]  # G92
        self._homing_origin = [0.0, 0.0, 0.0, 0.0]
        self._commands: dict[str, tuple[Handler, str]] = self._table()
        printer.gcode = self.status
        printer.job = self.card.status
        printer.is_busy = lambda: self._turn.locked() or self.card.is_active
        printer.commands = {name: {"help": text} if text else {} for name, (_, text) in self._commands.items()}

    def help(self) -> dict[str, str]:
        return {name: text for name, (_, text) in self._commands.items() if text}

    async def run_script(self, script: str) -> None:
        """Run all lines of a client's script. GcodeError: one failed; it has been printed, too."""
        for line in script.split("\n"):
            command = Line(_without_comment(line)) if line.strip() else None
            if command is not None and command.name == "M112":  # passes every queue
                self._shut_down("Shutdown due to M112 command")
        async with self._turn:
            try:
                for line in script.split("\n"):
                    await self._run_line(line)
            except GcodeError as exc:
                self._say(f"!! {exc}")
                raise

    async def run_line_alone(self, line: str) -> None:
        """Run one line of the file that is printed."""
        async with self._turn:
            await self._run_line(line)

    async def _run_line(self, text: str) -> None:
        text = text.strip()
        if not _without_comment(text):
            return
        line = Line(text)
        found = self._commands.get(line.name)
        if found is None:
            self._say(f'// Unknown command:"{line.name}"')
            return
        printer = self.printer
        if printer.state != "ready" and line.name not in ("RESTART", "FIRMWARE_RESTART", "M112", "STATUS", "HELP"):
            raise GcodeError(printer.state_message)
        if not line.is_traditional and line.name not in ("ECHO",):
            line.read_extended()
        await found[0](line)
        if printer.state == "shutdown" and line.name != "M112":
            raise GcodeError(printer.state_message)

    def status(self) -> Status:
        """gcode_move."""
        position = list(self.printer.toolhead.position)
        shown = [value - self._offset[index] - self._homing_origin[index] for index, value in enumerate(position)]
        return {
            "speed_factor": self._speed_factor,
            "speed": self._speed * 60.0,
            "extrude_factor": self._extrude_factor,
            "absolute_coordinates": self._is_absolute,
            "absolute_extrude": self._is_absolute_e,
            "homing_origin": list(self._homing_origin),
            "position": [round(value, 4) for value in position],
            "gcode_position": [round(value, 4) for value in shown],
        }

    def _table(self) -> dict[str, tuple[Handler, str]]:
        def plain(action: Callable[[Line], None]) -> Handler:
            async def run(line: Line) -> None:
                action(line)

            return run

        return {
            "G0": (self._move, ""),
            "G1": (self._move, ""),
            "G4": (self._dwell, ""),
            "G28": (self._home, ""),
            "G90": (plain(lambda line: self._set_modes(True, None)), ""),
            "G91": (plain(lambda line: self._set_modes(False, None)), ""),
            "G92": (plain(self._set_origin), ""),
            "M82": (plain(lambda line: self._set_modes(None, True)), ""),
            "M83": (plain(lambda line: self._set_modes(None, False)), ""),
            "M18": (self._motors_off, ""),
            "M84": (self._motors_off, ""),
            "M104": (self._set_temperature(self.printer.extruder, False), ""),
            "M109": (self._set_temperature(self.printer.extruder, True), ""),
            "M140": (self._set_temperature(self.printer.bed, False), ""),
            "M190": (self._set_temperature(self.printer.bed, True), ""),
            "M105": (plain(self._report_temperatures), ""),
            "M106": (plain(lambda line: self._set_fan(line.number("S", 255.0) / 255.0)), ""),
            "M107": (plain(lambda line: self._set_fan(0.0)), ""),
            "M110": (plain(lambda line: None), ""),
            "M112": (plain(lambda line: self._shut_down("Shutdown due to M112 command")), ""),
            "M114": (plain(self._report_position), ""),
            "M115": (plain(lambda line: self._say("// FIRMWARE_VERSION:simulated FIRMWARE_NAME:Klipper")), ""),
            "M117": (plain(lambda line: setattr(self.printer, "message", line.rest or None)), ""),
            "M118": (plain(lambda line: self._say(f"echo: {line.rest}")), ""),
            "M220": (plain(lambda line: self._set_factor("_speed_factor", line)), ""),
            "M221": (plain(lambda line: self._set_factor("_extrude_factor", line)), ""),
            "M400": (self._drain, ""),
            "M73": (plain(self._set_progress), ""),
            "M20": (plain(self._list_files), ""),
            "M23": (plain(lambda line: self.card.load(line.rest)), ""),
            "M24": (plain(lambda line: self.card.start()), ""),
            "M25": (plain(lambda line: self.card.pause()), ""),
            "M27": (plain(self._report_card), ""),
            "ECHO": (plain(lambda line: self._say(line.rest)), ""),
            "STATUS": (plain(lambda line: self._say(f"// {READY}")), "Report the printer status"),
            "HELP": (plain(self._list_help), "Report the list of available extended G-Code commands"),
            "RESTART": (plain(lambda line: self._restart()), "Reload config file and restart host software"),
            "FIRMWARE_RESTART": (plain(lambda line: self._restart()), "Restart firmware, host, and reload config"),
            "RESPOND": (plain(self._respond), "Echo the message prepended with a prefix"),
            "PAUSE": (plain(self._pause), "Pauses the current print"),
            "RESUME": (plain(self._resume), "Resumes the print from a pause"),
            "CANCEL_PRINT": (plain(self._cancel), "Cancel the current print"),
            "CLEAR_PAUSE": (plain(lambda line: setattr(self.printer, "is_paused", False)), "Clears the pause state"),
            "SDCARD_PRINT_FILE": (plain(self._print_file), "Loads a SD file and starts the print"),
            "SDCARD_RESET_FILE": (plain(lambda line: self.card.reset()), "Clears a loaded SD File"),
            "SET_HEATER_TEMPERATURE": (plain(self._set_heater), "Sets a heater temperature"),
            "TURN_OFF_HEATERS": (plain(self._heaters_off), "Turn off all heaters"),
            "TEMPERATURE_WAIT": (self._wait_for_sensor, "Wait for a temperature on a sensor"),
            "SET_FAN_SPEED": (plain(lambda line: self._set_fan(line.number("SPEED"))), "Sets the speed of a fan"),
            "SET_PIN": (plain(self._set_pin), "Set the value of an output pin"),
            "SET_GCODE_OFFSET": (plain(self._set_gcode_offset), "Set a virtual offset to g-code positions"),
            "SET_PRINT_STATS_INFO": (plain(self._set_layers), "Pass slicer info like layer act and total to klipper"),
            "SET_DISPLAY_TEXT": (
                plain(lambda line: setattr(self.printer, "message", line.params.get("MSG") or None)),
                "Set or clear the display message",
            ),
            "SET_VELOCITY_LIMIT": (plain(self._set_limits), "Set printer velocity limits"),
            "QUERY_ENDSTOPS": (plain(self._query_endstops), "Report on the status of each endstop"),
            "EXCLUDE_OBJECT_DEFINE": (plain(self._define_object), "Provides a summary of an object"),
            "EXCLUDE_OBJECT_START": (plain(self._start_object), "Marks the beginning the current object"),
            "EXCLUDE_OBJECT_END": (plain(self._end_object), "Marks the end the current object"),
            "EXCLUDE_OBJECT": (plain(self._exclude_object), "Cancel moves inside a specified objects"),
            "BED_MESH_CLEAR": (plain(lambda line: None), "Clear the Mesh so no z-adjustment is made"),
            "CALL_REMOTE_METHOD": (plain(self._remote), "Call a remote method, as macros do"),
            "PRINT_START": (self._macro("G28"), "G-Code macro"),
            "PRINT_END": (self._macro("TURN_OFF_HEATERS\nM107\nM84"), "G-Code macro"),
        }

    # motion

    async def _move(self, line: Line) -> None:
        head = self.printer.toolhead
        end = list(head.position)
        for index, axis in enumerate("XYZE"):
            if axis in line.params:
                value = line.number(axis)
                if index == 3:
                    value *= self._extrude_factor
                is_absolute = self._is_absolute and (index < 3 or self._is_absolute_e)
                end[index] = (
                    value + self._offset[index] + self._homing_origin[index] if is_absolute else end[index] + value
                )
        if "F" in line.params:
            speed = line.number("F") / 60.0
            if speed <= 0.0:
                raise GcodeError(f"Invalid speed in '{line.text}'")
            self._speed = speed
        target = (end[0], end[1], end[2], end[3])
        if end[3] > head.position[3] and not self.printer.can_extrude:
            raise GcodeError("Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details")
        if self.printer.current_object in self.printer.excluded:
            return
        refusal = head.refuses(target)
        if refusal is not None:
            raise GcodeError(refusal)
        head.queue(target, self._speed * self._speed_factor)
        await head.throttle()

    async def _dwell(self, line: Line) -> None:
        self.printer.toolhead.dwell(max(0.0, line.number("P", 0.0)) / 1000.0)
        await self.printer.toolhead.drain()

    async def _home(self, line: Line) -> None:
        axes = [axis for axis in "XYZ" if axis in line.params] or list("XYZ")
        for axis in axes:
            await self.printer.toolhead.home(axis.lower())

    async def _drain(self, line: Line) -> None:
        await self.printer.toolhead.drain()

    async def _motors_off(self, line: Line) -> None:
        await self.printer.toolhead.drain()
        self.printer.toolhead.disable()

    def _set_modes(self, is_absolute: bool | None, is_absolute_e: bool | None) -> None:
        self._is_absolute = self._is_absolute if is_absolute is None else is_absolute
        self._is_absolute_e = self._is_absolute_e if is_absolute_e is None else is_absolute_e

    def _set_origin(self, line: Line) -> None:
        position = self.printer.toolhead.position
        for index, axis in enumerate("XYZE"):
            if axis in line.params or not line.params:
                self._offset[index] = position[index] - line.number(axis, 0.0)

    def _set_gcode_offset(self, line: Line) -> None:
        for index, axis in enumerate("XYZE"):
            if axis in line.params:
                self._homing_origin[index] = line.number(axis)
            elif f"{axis}_ADJUST" in line.params:
                self._homing_origin[index] += line.number(f"{axis}_ADJUST")

    def _set_factor(self, name: str, line: Line) -> None:
        setattr(self, name, max(0.01, line.number("S", 100.0) / 100.0))

    def _set_limits(self, line: Line) -> None:
        head = self.printer.toolhead
        head.max_velocity = line.number("VELOCITY", head.max_velocity)
        head.max_accel = line.number("ACCEL", head.max_accel)

    # heat

    def _set_temperature(self, heater: Heater, waits: bool) -> Handler:
        async def run(line: Line) -> None:
            self._set_target(heater, line.number("S", 0.0))
            if waits and heater.target:
                await self._wait(heater, heater.target - 1.0, heater.target + 1.0)

        return run

    def _set_target(self, heater: Heater, target: float) -> None:
        if target and not heater.min_temp <= target <= heater.max_temp:
            raise GcodeError(
                f"Requested temperature ({target:.1f}) out of range ({heater.min_temp:.1f}:{heater.max_temp:.1f})"
            )
        heater.target = target

    async def _wait(self, heater: Heater, low: float, high: float) -> None:
        while self.printer.state == "ready":
            self.printer.advance()
            if low <= heater.temperature <= high:
                return
            self._report_temperatures(None)
            await self.printer.clock.sleep(1.0)

    def _heater(self, name: str) -> Heater:
        heaters = {heater.name: heater for heater in (self.printer.extruder, self.printer.bed)}
        if name not in heaters:
            raise GcodeError(f"The value '{name}' is not valid for HEATER. Options: 'heater_bed', 'extruder'")
        return heaters[name]

    def _set_heater(self, line: Line) -> None:
        self._set_target(self._heater(line.text_of("HEATER")), line.number("TARGET", 0.0))

    def _heaters_off(self, line: Line) -> None:
        self.printer.extruder.target = self.printer.bed.target = 0.0

    async def _wait_for_sensor(self, line: Line) -> None:
        heater = self._heater(line.text_of("SENSOR"))
        await self._wait(heater, line.number("MINIMUM", -1e6), line.number("MAXIMUM", 1e6))

    def _report_temperatures(self, line: Line | None) -> None:
        bed, extruder = self.printer.bed, self.printer.extruder
        self._say(f"B:{bed.temperature:.1f} /{bed.target:.1f} T0:{extruder.temperature:.1f} /{extruder.target:.1f}")

    def _set_fan(self, speed: float) -> None:
        self.printer.fan_speed = min(1.0, max(0.0, speed))

    # console

    def _report_position(self, line: Line) -> None:
        position = self.status()["gcode_position"]
        self._say(" ".join(f"{axis}:{value:.3f}" for axis, value in zip("XYZE", position, strict=True)))

    def _list_help(self, line: Line) -> None:
        self._say("\n".join(f"// {name:<10}: {text}" for name, text in sorted(self.help().items())))

    def _respond(self, line: Line) -> None:
        prefixes = {"echo": "echo:", "error": "!!", "command": "//"}
        prefix = line.params.get("PREFIX") or prefixes.get(line.params.get("TYPE", "echo").lower(), "echo:")
        self._say(f"{prefix} {line.params.get('MSG', '')}")

    def _set_progress(self, line: Line) -> None:
        self.printer.display_progress = min(1.0, max(0.0, line.number("P", 0.0) / 100.0))

    def _set_pin(self, line: Line) -> None:
        if line.text_of("PIN") != "caselight":
            raise GcodeError(f"The value '{line.text_of('PIN')}' is not valid for PIN. Options: 'caselight'")
        self.printer.caselight = line.number("VALUE")

    def _query_endstops(self, line: Line) -> None:
        self._say(" ".join(f"{axis}:{state}" for axis, state in self.query_endstops().items()))

    def query_endstops(self) -> dict[str, str]:
        position = self.printer.toolhead.position
        states = {axis: "TRIGGERED" if position[index] <= 0.0 else "open" for index, axis in enumerate("xyz")}
        self.printer.endstops = {f"stepper_{axis}": state for axis, state in states.items()}
        return self.printer.endstops

    def _remote(self, line: Line) -> None:
        arguments = {key.lower(): value for key, value in line.params.items() if key != "METHOD"}
        self._call_remote(line.text_of("METHOD"), arguments)

    # print

    def _print_file(self, line: Line) -> None:
        self.card.load(line.text_of("FILENAME"))
        self.printer.is_paused = False
        self.printer.display_progress = None
        self.printer.objects, self.printer.excluded, self.printer.current_object = [], [], None
        self.card.start()

    def _list_files(self, line: Line) -> None:
        names = "\n".join(f"{name} {size}" for name, size in self.card.list_files())
        self._say(f"Begin file list\n{names}\nEnd file list")

    def _report_card(self, line: Line) -> None:
        if self.card.path is None:
            self._say("Not SD printing.")
        else:
            self._say(f"SD printing byte {self.card.position}/{self.card.size}")

    def _pause(self, line: Line) -> None:
        if self.printer.is_paused:
            self._say("Print already paused")
            return
        self.card.pause()
        self.printer.is_paused = True

    def _resume(self, line: Line) -> None:
        if not self.printer.is_paused:
            self._say("Print is not paused, resume aborted")
            return
        self.printer.is_paused = False
        if self.card.path is not None:
            self.card.start()

    def _cancel(self, line: Line) -> None:
        self.card.cancel()
        self.printer.is_paused = False

    def _set_layers(self, line: Line) -> None:
        current, total = self.card.layers
        if "TOTAL_LAYER" in line.params:
            total = int(line.number("TOTAL_LAYER"))
        if "CURRENT_LAYER" in line.params:
            current = int(line.number("CURRENT_LAYER"))
        self.card.layers = (current, total)

    def _define_object(self, line: Line) -> None:
        if "RESET" in line.params:
            self.printer.objects = []
        if "NAME" in line.params:
            self.printer.objects = [*self.printer.objects, {"name": line.params["NAME"].upper()}]

    def _start_object(self, line: Line) -> None:
        self.printer.current_object = line.text_of("NAME").upper()

    def _end_object(self, line: Line) -> None:
        self.printer.current_object = None

    def _exclude_object(self, line: Line) -> None:
        if "RESET" in line.params:
            self.printer.excluded = []
        elif "NAME" in line.params:
            self.printer.excluded = [*self.printer.excluded, line.params["NAME"].upper()]

    def _macro(self, script: str) -> Handler:
        async def run(line: Line) -> None:
            for text in script.split("\n"):
                await self._run_line(text)

        return run


def _without_comment(line: str) -> str:
    return line.partition(";")[0].strip()
