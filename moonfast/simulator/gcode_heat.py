"""Commands for what is warm, blows or shines: heaters, fan, output pins."""

from __future__ import annotations

from collections.abc import Callable

from .gcode_lines import GcodeError, Handler, Line, Table, plain
from .heaters import HOST_C, SETTLED_K, Heater
from .printer import Printer
from .settings import PINS

REPORT_S = 1.0  # between two lines of temperatures while a command waits
ENDLESS_C = 1e6


class HeatCommands:
    """M104, M109, M140, M190 and their extended forms; fan and pins."""

    def __init__(self, printer: Printer, say: Callable[[str], None]) -> None:
        self._printer, self._say = printer, say
        self._heaters = {heater.name: heater for heater in (printer.bed, printer.extruder)}

    def table(self) -> Table:
        printer = self._printer
        return {
            "M104": (self._set_temperature(printer.extruder, False), ""),
            "M109": (self._set_temperature(printer.extruder, True), ""),
            "M140": (self._set_temperature(printer.bed, False), ""),
            "M190": (self._set_temperature(printer.bed, True), ""),
            "M105": (plain(lambda line: self._report()), ""),
            "M106": (plain(lambda line: self._set_fan(line.number("S", 255.0) / 255.0)), ""),
            "M107": (plain(lambda line: self._set_fan(0.0)), ""),
            "SET_HEATER_TEMPERATURE": (plain(self._set_heater), "Sets a heater temperature"),
            "TURN_OFF_HEATERS": (plain(lambda line: printer.switch_heaters_off()), "Turn off all heaters"),
            "TEMPERATURE_WAIT": (self._wait_for_sensor, "Wait for a temperature on a sensor"),
            "SET_FAN_SPEED": (plain(lambda line: self._set_fan(line.number("SPEED"))), "Sets the speed of a fan"),
            "SET_PIN": (plain(self._set_pin), "Set the value of an output pin"),
        }

    def _set_temperature(self, heater: Heater, waits: bool) -> Handler:
        async def run(line: Line) -> None:
            self._set_target(heater, line.number("S", 0.0))
            if waits and heater.target:
                await self._wait(lambda: heater.temperature, heater.target - SETTLED_K, heater.target + SETTLED_K)

        return run

    def _set_target(self, heater: Heater, target: float) -> None:
        if target and not heater.min_temp <= target <= heater.max_temp:
            raise GcodeError(
                f"Requested temperature ({target:.1f}) out of range ({heater.min_temp:.1f}:{heater.max_temp:.1f})"
            )
        self._printer.advance()  # up to now the old target counts
        heater.target = target

    async def _wait(self, temperature: Callable[[], float], low: float, high: float) -> None:
        while self._printer.state == "ready":
            self._printer.advance()
            self._printer.idle.touch()
            if low <= temperature() <= high:
                return
            self._report()
            await self._printer.clock.sleep(REPORT_S)

    def _set_heater(self, line: Line) -> None:
        name = line.text_of("HEATER")
        if name not in self._heaters:
            options = ", ".join(f"'{option}'" for option in self._heaters)
            raise GcodeError(f"The value '{name}' is not valid for HEATER. Options: {options}")
        self._set_target(self._heaters[name], line.number("TARGET", 0.0))

    async def _wait_for_sensor(self, line: Line) -> None:
        printer = self._printer
        sensors: dict[str, Callable[[], float]] = {
            "extruder": lambda: printer.extruder.temperature,
            "heater_bed": lambda: printer.bed.temperature,
            "temperature_sensor chamber": lambda: printer.chamber,
            "temperature_sensor host": lambda: HOST_C,
        }
        name = line.text_of("SENSOR")
        if name not in sensors:
            raise GcodeError(f"Unknown sensor '{name}'")
        low, high = line.number("MINIMUM", -ENDLESS_C), line.number("MAXIMUM", ENDLESS_C)
        if (low, high) == (-ENDLESS_C, ENDLESS_C):
            raise GcodeError("Error on 'TEMPERATURE_WAIT': missing MINIMUM or MAXIMUM.")
        await self._wait(sensors[name], low, high)

    def _report(self) -> None:
        self._printer.advance()
        bed, extruder = self._printer.bed, self._printer.extruder
        self._say(f"B:{bed.temperature:.1f} /{bed.target:.1f} T0:{extruder.temperature:.1f} /{extruder.target:.1f}")

    def _set_fan(self, speed: float) -> None:
        self._printer.fan_speed = min(1.0, max(0.0, speed))

    def _set_pin(self, line: Line) -> None:
        name = line.text_of("PIN")
        if name not in PINS:
            options = ", ".join(f"'{option}'" for option in PINS)
            raise GcodeError(f"The value '{name}' is not valid for PIN. Options: {options}")
        value = line.number("VALUE")
        if not 0.0 <= value <= 1.0:
            bound = "minimum of 0.0" if value < 0.0 else "maximum of 1.0"
            raise GcodeError(f"Error on '{line.text}': VALUE must have {bound}")
        self._printer.caselight = value
