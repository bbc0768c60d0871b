"""Commands that move the head, and the coordinates they are given in (gcode_move)."""

from __future__ import annotations

from collections.abc import Callable

from .gcode_lines import GcodeError, Line, Table, plain
from .mesh import COUNT, point
from .motion import Position, arc_points
from .printer import Printer, Status

PROBE_SPEED = 120.0  # mm/s, between the points of a bed mesh


class MotionCommands:
    """G0 to G3, G28, coordinate systems, limits, endstops, bed mesh."""

    def __init__(self, printer: Printer, say: Callable[[str], None]) -> None:
        self._printer, self._head, self._say = printer, printer.toolhead, say
        self._is_absolute = self._is_absolute_e = True
        self._speed = 25.0  # mm/s
        self._speed_factor = self._extrude_factor = 1.0
        self._offset = [0.0, 0.0, 0.0, 0.0]  # G92
        self._homing_origin = [0.0, 0.0, 0.0, 0.0]  # SET_GCODE_OFFSET
        self._saved: dict[str, Status] = {}

    def table(self) -> Table:
        return {
            "G0": (self._move, ""),
            "G1": (self._move, ""),
            "G2": (self._arc, ""),
            "G3": (self._arc, ""),
            "G4": (self._dwell, ""),
            "G17": (plain(lambda line: None), ""),  # the XY plane is the only one there is
            "G21": (plain(lambda line: None), ""),  # millimetres as well
            "G28": (self._home, ""),
            "G90": (plain(lambda line: self._set_modes(True, None)), ""),
            "G91": (plain(lambda line: self._set_modes(False, None)), ""),
            "G92": (plain(self._set_origin), ""),
            "M82": (plain(lambda line: self._set_modes(None, True)), ""),
            "M83": (plain(lambda line: self._set_modes(None, False)), ""),
            "M18": (self._motors_off, ""),
            "M84": (self._motors_off, ""),
            "M114": (plain(self._report_position), ""),
            "M204": (plain(self._set_acceleration), ""),
            "M220": (plain(self._set_speed_factor), ""),
            "M221": (plain(self._set_extrude_factor), ""),
            "M400": (self._drain, ""),
            "GET_POSITION": (plain(self._tell_position), "Return information on the current location of the toolhead"),
            "SAVE_GCODE_STATE": (plain(self._save), "Save G-Code coordinate state"),
            "RESTORE_GCODE_STATE": (self._restore, "Restore a previously saved G-Code state"),
            "SET_GCODE_OFFSET": (self._set_gcode_offset, "Set a virtual offset to g-code positions"),
            "SET_VELOCITY_LIMIT": (plain(self._set_limits), "Set printer velocity limits"),
            "SET_PRESSURE_ADVANCE": (plain(self._set_pressure_advance), "Set pressure advance parameters"),
            "QUERY_ENDSTOPS": (plain(self._tell_endstops), "Report on the status of each endstop"),
            "BED_MESH_CALIBRATE": (self._probe_bed, "Perform Mesh Bed Leveling"),
            "BED_MESH_PROFILE": (plain(self._use_mesh), "Bed Mesh Persistent Storage management"),
            "BED_MESH_CLEAR": (
                plain(lambda line: self._printer.mesh.clear()),
                "Clear the Mesh so no z-adjustment is made",
            ),
        }

    def status(self) -> Status:
        """gcode_move."""
        position = self._head.position
        return {
            "speed_factor": self._speed_factor,
            "speed": self._speed * 60.0,
            "extrude_factor": self._extrude_factor,
            "absolute_coordinates": self._is_absolute,
            "absolute_extrude": self._is_absolute_e,
            "homing_origin": list(self._homing_origin),
            "position": [round(value, 4) for value in position],
            "gcode_position": [round(value, 4) for value in self._gcode_position()],
            "axis_map": {"X": 0, "Y": 1, "Z": 2, "E": 3},
        }

    def _gcode_position(self) -> list[float]:
        position = [
            value - self._offset[index] - self._homing_origin[index] for index, value in enumerate(self._head.position)
        ]
        position[3] /= self._extrude_factor
        return position

    def query_endstops(self) -> dict[str, str]:
        position = self._head.position
        states = {axis: "TRIGGERED" if position[index] <= 0.0 else "open" for index, axis in enumerate("xyz")}
        self._printer.endstops = {f"stepper_{axis}": state for axis, state in states.items()}
        return self._printer.endstops

    # moves

    def _target(self, line: Line) -> Position:
        """Where a line wants to go; takes over its speed."""
        end = list(self._head.position)
        for index, axis in enumerate("XYZE"):
            if axis not in line.params:
                continue
            value = line.number(axis)
            if index == 3:
                value *= self._extrude_factor
            if self._is_absolute and (index < 3 or self._is_absolute_e):
                end[index] = value + self._offset[index] + self._homing_origin[index]
            else:
                end[index] += value
        if "F" in line.params:
            speed = line.number("F") / 60.0
            if speed <= 0.0:
                raise GcodeError(f"Invalid speed in '{line.text}'")
            self._speed = speed
        return (end[0], end[1], end[2], end[3])

    async def _go(self, target: Position, speed: float) -> None:
        head = self._head
        if target[3] != head.position[3] and not self._printer.is_warm():
            raise GcodeError("Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details")
        refusal = head.refuses(target)
        if refusal is not None:
            raise GcodeError(refusal)
        head.queue(target, speed)
        await head.throttle()

    def _is_excluded(self) -> bool:
        return self._printer.current_object is not None and self._printer.current_object in self._printer.excluded

    async def _move(self, line: Line) -> None:
        target = self._target(line)
        if not self._is_excluded():
            await self._go(target, self._speed * self._speed_factor)

    async def _arc(self, line: Line) -> None:
        start, target = self._head.position, self._target(line)
        if not self._is_absolute:
            raise GcodeError("G2/G3 does not support relative move mode")
        if "R" in line.params:
            raise GcodeError("G2/G3 does not support R moves")
        if "I" not in line.params and "J" not in line.params:
            raise GcodeError("G2/G3 requires IJ parameters")
        if self._is_excluded():
            return
        center = (start[0] + line.number("I", 0.0), start[1] + line.number("J", 0.0))
        for point_ in arc_points(start, target, center, line.name == "G2"):
            await self._go(point_, self._speed * self._speed_factor)
            if self._printer.state != "ready":
                return

    async def _dwell(self, line: Line) -> None:
        self._head.dwell(max(0.0, line.number("P", 0.0)) / 1000.0)
        self._printer.idle.touch()
        await self._head.drain()

    async def _home(self, line: Line) -> None:
        axes = [axis for axis in "XYZ" if axis in line.params] or list("XYZ")
        for axis in axes:
            await self._head.home(axis.lower())
            self._offset["XYZ".index(axis)] = 0.0

    async def _drain(self, line: Line) -> None:
        await self._head.drain()

    async def _motors_off(self, line: Line) -> None:
        await self._head.drain()
        self._head.disable()

    # coordinates

    def _set_modes(self, is_absolute: bool | None, is_absolute_e: bool | None) -> None:
        self._is_absolute = self._is_absolute if is_absolute is None else is_absolute
        self._is_absolute_e = self._is_absolute_e if is_absolute_e is None else is_absolute_e

    def _set_origin(self, line: Line) -> None:
        for index, axis in enumerate("XYZE"):
            if axis in line.params or not line.params:
                value = line.number(axis, 0.0) * (self._extrude_factor if axis == "E" else 1.0)
                self._offset[index] = self._head.position[index] - value - self._homing_origin[index]

    async def _set_gcode_offset(self, line: Line) -> None:
        before = list(self._homing_origin)
        for index, axis in enumerate("XYZE"):
            if axis in line.params:
                self._homing_origin[index] = line.number(axis)
            elif f"{axis}_ADJUST" in line.params:
                self._homing_origin[index] += line.number(f"{axis}_ADJUST")
        if line.whole("MOVE", 0):
            moved = [self._head.position[index] + self._homing_origin[index] - before[index] for index in range(4)]
            await self._go((moved[0], moved[1], moved[2], moved[3]), line.number("MOVE_SPEED", self._speed))

    def _save(self, line: Line) -> None:
        self._saved[line.text_of("NAME", "default")] = {
            "modes": (self._is_absolute, self._is_absolute_e),
            "offset": list(self._offset),
            "homing_origin": list(self._homing_origin),
            "speed": (self._speed, self._speed_factor, self._extrude_factor),
            "position": self._head.position,
        }

    async def _restore(self, line: Line) -> None:
        name = line.text_of("NAME", "default")
        if name not in self._saved:
            raise GcodeError(f"Unknown g-code state: {name}")
        state = self._saved[name]
        self._is_absolute, self._is_absolute_e = state["modes"]
        self._homing_origin = list(state["homing_origin"])
        self._speed, self._speed_factor, self._extrude_factor = state["speed"]
        # the extruder goes on where it is: what was extruded since does not count
        moved = self._head.position[3] - state["position"][3]
        self._offset = [*state["offset"][:3], state["offset"][3] + moved]
        if line.whole("MOVE", 0):
            x, y, z, _ = state["position"]
            await self._go((x, y, z, self._head.position[3]), line.number("MOVE_SPEED", self._speed))

    def _report_position(self, line: Line) -> None:
        self._say(" ".join(f"{axis}:{value:.3f}" for axis, value in zip("XYZE", self._gcode_position(), strict=True)))

    def _tell_position(self, line: Line) -> None:
        def xyz(values: list[float] | Position, axes: str = "XYZ", digits: int = 6) -> str:
            return " ".join(f"{axis}:{value:.{digits}f}" for axis, value in zip(axes, values, strict=False))

        position = self._head.position
        steps = (80, 80, 400)  # a millimetre, of 16 microsteps
        mcu = " ".join(f"stepper_{axis}:{round(position[i] * steps[i])}" for i, axis in enumerate("xyz"))
        stepper = " ".join(f"stepper_{axis}:{position[i]:.6f}" for i, axis in enumerate("xyz"))
        self._say(
            f"// mcu: {mcu}\n// stepper: {stepper}\n// kinematic: {xyz(position)}\n"
            f"// toolhead: {xyz(position, 'XYZE')}\n// gcode: {xyz(self._gcode_position(), 'XYZE')}\n"
            f"// gcode base: {xyz(self._offset, 'XYZE')}\n// gcode homing: {xyz(self._homing_origin)}"
        )

    # limits

    def _set_speed_factor(self, line: Line) -> None:
        self._speed_factor = max(0.01, line.number("S", 100.0) / 100.0)

    def _set_extrude_factor(self, line: Line) -> None:
        factor = max(0.01, line.number("S", 100.0) / 100.0)
        shown = self._gcode_position()[3]
        self._extrude_factor = factor
        self._offset[3] = self._head.position[3] - self._homing_origin[3] - shown * factor

    def _set_limits(self, line: Line) -> None:
        head = self._head
        head.max_velocity = self._above_zero(line, "VELOCITY", head.max_velocity)
        head.max_accel = self._above_zero(line, "ACCEL", head.max_accel)
        head.square_corner_velocity = line.number("SQUARE_CORNER_VELOCITY", head.square_corner_velocity)
        head.minimum_cruise_ratio = line.number("MINIMUM_CRUISE_RATIO", head.minimum_cruise_ratio)
        if not line.params:
            self._say(
                f"// max_velocity: {head.max_velocity:.6f}\n// max_accel: {head.max_accel:.6f}\n"
                f"// minimum_cruise_ratio: {head.minimum_cruise_ratio:.6f}\n"
                f"// square_corner_velocity: {head.square_corner_velocity:.6f}"
            )

    def _set_acceleration(self, line: Line) -> None:
        if "S" in line.params:
            self._head.max_accel = self._above_zero(line, "S", 0.0)
        elif "P" in line.params and "T" in line.params:
            self._head.max_accel = min(self._above_zero(line, "P", 0.0), self._above_zero(line, "T", 0.0))
        else:
            self._say(f'Invalid M204 command "{line.text}"')

    @staticmethod
    def _above_zero(line: Line, name: str, default: float) -> float:
        if name not in line.params:
            return default
        value = line.number(name)
        if not value > 0.0:
            raise GcodeError(f"Error on '{line.text}': {name} must be above 0.0")
        return value

    def _set_pressure_advance(self, line: Line) -> None:
        self._printer.pressure_advance = line.number("ADVANCE", self._printer.pressure_advance)
        self._say(f"// pressure_advance: {self._printer.pressure_advance:.6f}")

    # endstops and bed mesh

    def _tell_endstops(self, line: Line) -> None:
        self._say(" ".join(f"{axis.removeprefix('stepper_')}:{state}" for axis, state in self.query_endstops().items()))

    async def _probe_bed(self, line: Line) -> None:
        printer = self._printer
        printer.mesh.clear()
        z = 5.0
        for row in range(COUNT):
            for column in range(COUNT):
                x, y = point(column if row % 2 == 0 else COUNT - 1 - column, row)
                await self._go((x, y, z, self._head.position[3]), PROBE_SPEED)
                if printer.state != "ready":
                    return
        await self._head.drain()
        name = line.text_of("PROFILE", "default")
        printer.mesh.calibrated(name)
        self._note_profile(name)
        self._say("// Mesh Bed Leveling Complete")
        self._say(
            f"// Bed Mesh state has been saved to profile [{name}]\n// for the current session.  The SAVE_CONFIG "
            "command will\n// update the printer config file and restart the printer."
        )

    def _use_mesh(self, line: Line) -> None:
        if self._printer.mesh.profile(line):
            self._note_profile(line.params.get("SAVE", line.params.get("REMOVE", "")))

    def _note_profile(self, name: str) -> None:
        self._printer.pending = {**self._printer.pending, f"bed_mesh {name}": {"version": "1"}}
