"""The simulated machine: its objects, and what each of them tells (Klipper docs/Status_Reference.md)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from .clock import Clock
from .heaters import AMBIENT_C, Heater
from .motion import Limits, Move, Toolhead

Status = dict[str, Any]

HOST_C = 45.0
MIN_EXTRUDE_C = 170.0
MACROS = ("PRINT_START", "PRINT_END")
CONFIG: dict[str, dict[str, str]] = {
    "printer": {"kinematics": "cartesian", "max_velocity": "300", "max_accel": "3000", "max_z_velocity": "15"},
    "stepper_x": {"position_max": "235", "microsteps": "16", "rotation_distance": "40"},
    "stepper_y": {"position_max": "235", "microsteps": "16", "rotation_distance": "40"},
    "stepper_z": {"position_max": "250", "microsteps": "16", "rotation_distance": "8"},
    "extruder": {"nozzle_diameter": "0.4", "filament_diameter": "1.75", "max_temp": "290", "min_extrude_temp": "170"},
    "heater_bed": {"max_temp": "120"},
    "fan": {},
    "heater_fan hotend": {"heater": "extruder"},
    "temperature_sensor host": {"sensor_type": "temperature_host"},
    "temperature_sensor chamber": {},
    "virtual_sdcard": {"path": "~/printer_data/gcodes"},
    "pause_resume": {},
    "display_status": {},
    "respond": {},
    "exclude_object": {},
    "bed_mesh": {},
    "idle_timeout": {},
    "output_pin caselight": {"pwm": "True"},
    "gcode_macro PRINT_START": {"gcode": "G28\n"},
    "gcode_macro PRINT_END": {"gcode": "TURN_OFF_HEATERS\nM84\n"},
}


class Printer:
    """Everything that changes. Objects are made anew by a restart; the heaters keep their temperature."""

    def __init__(self, clock: Clock, before: Printer | None = None) -> None:
        self.clock = clock
        self.state, self.state_message = "startup", STARTING
        self.toolhead = Toolhead(clock)
        self.toolhead.on_move = self._moved
        self.extruder = Heater("extruder", rise=320.0, tau_s=140.0, gain=0.08, max_temp=290.0)
        self.bed = Heater("heater_bed", rise=110.0, tau_s=300.0, gain=0.15, max_temp=120.0)
        if before is not None:
            self.extruder.temperature, self.bed.temperature = before.extruder.temperature, before.bed.temperature
        self.fan_speed = self.caselight = 0.0
        self.message: str | None = None
        self.display_progress: float | None = None
        self.is_paused = False
        self.endstops: dict[str, str] = {}
        self.objects: list[Status] = []  # of exclude_object
        self.excluded: list[str] = []
        self.current_object: str | None = None
        self.extruded_mm = 0.0
        self.has_worked = False
        self.is_busy: Callable[[], bool] = lambda: False
        self.gcode: Callable[[], Status] = dict  # the interpreter's part of the status
        self.commands: Status = {}
        self.job: Callable[[], tuple[Status, Status]] = lambda: ({}, {})  # print_stats, virtual_sdcard
        self._last = clock.now()
        self._status: dict[str, Callable[[], Status]] = {
            "gcode": lambda: {"commands": self.commands},
            "webhooks": lambda: {"state": self.state, "state_message": self.state_message},
            "configfile": _configfile,
            "mcu": lambda: {"mcu_version": "simulated", "mcu_constants": {"MCU": "simulated"}, "last_stats": {}},
            "heaters": lambda: {
                "available_heaters": ["heater_bed", "extruder"],
                "available_sensors": [
                    "heater_bed",
                    "temperature_sensor host",
                    "temperature_sensor chamber",
                    "extruder",
                ],
                "available_monitors": [],
            },
            "heater_bed": lambda: _heater(self.bed),
            "fan": lambda: {"speed": self.fan_speed, "rpm": None},
            "temperature_host host": lambda: {"temperature": HOST_C},
            "temperature_sensor host": lambda: _sensor(HOST_C),
            "temperature_sensor chamber": lambda: _sensor(
                round(AMBIENT_C + (self.bed.temperature - AMBIENT_C) * 0.2, 2)
            ),
            "heater_fan hotend": lambda: {"speed": 1.0 if self.extruder.temperature > 50.0 else 0.0, "rpm": None},
            "gcode_move": lambda: self.gcode(),
            "print_stats": lambda: self.job()[0],
            "virtual_sdcard": lambda: self.job()[1],
            "pause_resume": lambda: {"is_paused": self.is_paused},
            "display_status": self._display,
            "exclude_object": lambda: {
                "objects": self.objects,
                "excluded_objects": self.excluded,
                "current_object": self.current_object,
            },
            "bed_mesh": lambda: {"profile_name": "", "mesh_min": [0.0, 0.0], "mesh_max": [0.0, 0.0], "profiles": {}},
            "idle_timeout": self._idle_timeout,
            **{f"gcode_macro {name}": dict for name in MACROS},
            "output_pin caselight": lambda: {"value": self.caselight},
            "query_endstops": lambda: {"last_query": self.endstops},
            "stepper_enable": lambda: {"steppers": dict(self.toolhead.enabled)},
            "motion_report": self._motion,
            "toolhead": self._toolhead,
            "extruder": lambda: (
                _heater(self.extruder)
                | {"can_extrude": self.can_extrude, "pressure_advance": 0.0, "smooth_time": 0.04, "motion_queue": None}
            ),
            "system_stats": _system_stats,
            "manual_probe": lambda: {
                "is_active": False,
                "z_position": None,
                "z_position_lower": None,
                "z_position_upper": None,
            },
        }

    @property
    def can_extrude(self) -> bool:
        return self.extruder.temperature >= MIN_EXTRUDE_C

    def names(self) -> list[str]:
        return list(self._status)

    def advance(self) -> None:
        """Bring everything that moves by itself up to now."""
        now = self.clock.now()
        for heater in (self.extruder, self.bed):
            heater.advance(now - self._last)
        self._last = now
        self.toolhead.advance()

    def status(self, name: str) -> Status | None:
        """The fields of one object, None if there is none of this name."""
        found = self._status.get(name)
        return None if found is None else found()

    def shut_down(self, reason: str) -> None:
        """Everything off, now."""
        self.state, self.state_message = "shutdown", f"{reason}\n{SHUTDOWN_ADVICE}"
        for heater in (self.extruder, self.bed):
            heater.is_enabled = False
        self.toolhead.halt()
        self.toolhead.disable()
        self.clock.interrupt()

    def _moved(self, move: Move) -> None:
        self.extruded_mm += move.end[3] - move.start[3]

    def _display(self) -> Status:
        stats, card = self.job()
        progress = self.display_progress
        if progress is None:
            progress = card.get("progress", 0.0) if stats.get("state") in ("printing", "paused") else 0.0
        return {"progress": progress, "message": self.message}

    def _idle_timeout(self) -> Status:
        is_printing = self.is_busy() or self.toolhead.is_moving
        self.has_worked = self.has_worked or is_printing
        state = "Printing" if is_printing else "Ready" if self.has_worked else "Idle"
        return {"state": state, "printing_time": 0.0, "idle_timeout": 600.0}

    def _motion(self) -> Status:
        head = self.toolhead
        return {
            "live_position": [round(value, 4) for value in head.live],
            "live_velocity": round(head.live_velocity, 3),
            "live_extruder_velocity": round(head.live_extruder_velocity, 3),
            "steppers": ["extruder", "stepper_x", "stepper_y", "stepper_z"],
            "trapq": ["extruder", "toolhead"],
        }

    def _toolhead(self) -> Status:
        head, limits = self.toolhead, Limits()
        return {
            "homed_axes": "".join(sorted(head.homed)),
            "axis_minimum": [*limits.minimum, 0.0],
            "axis_maximum": [*limits.maximum, 0.0],
            "print_time": round(head.print_time, 6),
            "stalls": 0,
            "estimated_print_time": round(head.clock_time(), 6),
            "extruder": "extruder",
            "position": [round(value, 4) for value in head.position],
            "max_velocity": head.max_velocity,
            "max_accel": head.max_accel,
            "minimum_cruise_ratio": 0.5,
            "square_corner_velocity": 5.0,
        }


STARTING = "Printer is not ready\nThe klippy host software is attempting to connect.  Please\nretry in a few moments.\n"
READY = "Printer is ready"
SHUTDOWN_ADVICE = (
    'Once the underlying issue is corrected, use the\n"FIRMWARE_RESTART" command to reset the firmware, reload the\n'
    "config, and restart the host software.\nPrinter is shutdown\n"
)
ERROR_ADVICE = (
    'Once the underlying issue is corrected, use the "RESTART"\ncommand to reload the config and restart the host '
    "software.\nPrinter is halted\n"
)


def _heater(heater: Heater) -> Status:
    return {
        "temperature": round(heater.temperature, 2),
        "target": round(heater.target, 2),
        "power": round(heater.power, 4),
    }


def _sensor(temperature: float) -> Status:
    return {"temperature": temperature, "measured_min_temp": AMBIENT_C, "measured_max_temp": temperature}


def _configfile() -> Status:
    settings = {name.lower(): options for name, options in CONFIG.items()}
    return {
        "config": CONFIG,
        "settings": settings,
        "warnings": [],
        "save_config_pending": False,
        "save_config_pending_items": {},
    }


def _system_stats() -> Status:
    return {"sysload": round(os.getloadavg()[0], 2), "cputime": round(time.process_time(), 3), "memavail": 400_000}
