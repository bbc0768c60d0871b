"""What each printer object tells of itself (Klipper docs/Status_Reference.md)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from .heaters import HOST_C, Heater
from .motion import Limits
from .printer import Printer, Status
from .settings import MACROS, PINS, config, settings

HOTEND_FAN_C = 50.0
SENSORS = ("heater_bed", "temperature_sensor host", "temperature_sensor chamber", "extruder")


class Objects:
    """The printer objects by name. `gcode_move` and `job` (print_stats, virtual_sdcard) are the interpreter's part."""

    def __init__(
        self,
        printer: Printer,
        commands: Callable[[], Status],
        gcode_move: Callable[[], Status],
        job: Callable[[], tuple[Status, Status]],
        gcodes_dir: str,
    ) -> None:
        self._config = config(gcodes_dir)
        self._settings = settings(self._config)
        self._printer, self._job = printer, job
        self._began = time.monotonic()
        self._system_second, self._system = -1, Status()
        mesh = printer.mesh
        self._objects: dict[str, Callable[[], Status]] = {
            "gcode": lambda: {"commands": commands()},
            "webhooks": lambda: {"state": printer.state, "state_message": printer.state_message},
            "configfile": self._configfile,
            "mcu": self._mcu,
            "heaters": lambda: {
                "available_heaters": ["heater_bed", "extruder"],
                "available_sensors": list(SENSORS),
                "available_monitors": [],
            },
            "heater_bed": lambda: _heater(printer.bed),
            "fan": lambda: {"speed": printer.fan_speed, "rpm": None},
            "temperature_host host": lambda: {"temperature": HOST_C},
            "temperature_sensor host": lambda: _sensor(HOST_C, (HOST_C, HOST_C)),
            "temperature_sensor chamber": lambda: _sensor(printer.chamber, printer.chamber_range),
            "heater_fan hotend": lambda: {"speed": float(_needs_fan(printer.extruder)), "rpm": None},
            "gcode_move": gcode_move,
            "print_stats": lambda: job()[0],
            "virtual_sdcard": lambda: job()[1],
            "pause_resume": lambda: {"is_paused": printer.is_paused},
            "display_status": self._display,
            "exclude_object": lambda: {
                "objects": printer.objects,
                "excluded_objects": printer.excluded,
                "current_object": printer.current_object,
            },
            "bed_mesh": mesh.status,
            "idle_timeout": printer.idle.status,
            **{f"gcode_macro {name}": Status for name in MACROS},
            **{f"output_pin {name}": lambda: {"value": printer.caselight} for name in PINS},
            "query_endstops": lambda: {"last_query": printer.endstops},
            "stepper_enable": lambda: {"steppers": dict(printer.toolhead.enabled)},
            "motion_report": self._motion,
            "toolhead": self._toolhead,
            "extruder": lambda: (
                _heater(printer.extruder)
                | {
                    "can_extrude": printer.can_extrude,
                    "pressure_advance": printer.pressure_advance,
                    "smooth_time": 0.04,
                    "motion_queue": None,
                }
            ),
            "system_stats": self._system_stats,
            "manual_probe": lambda: {
                "is_active": False,
                "z_position": None,
                "z_position_lower": None,
                "z_position_upper": None,
            },
        }

    def names(self) -> list[str]:
        return list(self._objects)

    def status(self, name: str) -> Status | None:
        """The fields of one object, None if there is none of this name. The values are not changed later."""
        found = self._objects.get(name)
        return None if found is None else found()

    def _configfile(self) -> Status:
        pending = self._printer.pending
        return {
            "config": self._config,
            "settings": self._settings,
            "warnings": [],
            "save_config_pending": bool(pending),
            "save_config_pending_items": dict(pending),
        }

    def _display(self) -> Status:
        progress = self._printer.m73_progress
        if progress is None:
            progress = self._job()[1]["progress"]
        return {"progress": progress, "message": self._printer.message}

    def _motion(self) -> Status:
        head = self._printer.toolhead
        return {
            "live_position": [round(value, 4) for value in head.live],
            "live_velocity": round(head.live_velocity, 3),
            "live_extruder_velocity": round(head.live_extruder_velocity, 3),
            "steppers": ["extruder", "stepper_x", "stepper_y", "stepper_z"],
            "trapq": ["extruder", "toolhead"],
        }

    def _toolhead(self) -> Status:
        head, limits = self._printer.toolhead, Limits()
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
            "minimum_cruise_ratio": head.minimum_cruise_ratio,
            "square_corner_velocity": head.square_corner_velocity,
            "extra_axes": {"extruder": 3},
        }

    def _mcu(self) -> Status:
        """Counters of the link to the micro-controller, renewed once a second as Klipper does."""
        seconds = int(time.monotonic() - self._began)
        return {
            "mcu_version": "simulated",
            "mcu_build_versions": "simulated",
            "mcu_constants": {"ADC_MAX": 4095, "CLOCK_FREQ": 50_000_000, "MCU": "simulated", "PWM_MAX": 32768},
            "last_stats": {
                "mcu_awake": 0.003,
                "mcu_task_avg": 1.8e-05,
                "mcu_task_stddev": 1.8e-05,
                "bytes_write": 1800 + 12 * seconds,
                "bytes_read": 6500 + 124 * seconds,
                "bytes_retransmit": 9,
                "bytes_invalid": 0,
                "send_seq": 165 + 2 * seconds,
                "receive_seq": 165 + 2 * seconds,
                "retransmit_seq": 2,
                "srtt": 0.0,
                "rttvar": 0.0,
                "rto": 0.025,
                "ready_bytes": 0,
                "upcoming_bytes": 0,
                "freq": 50_000_000,
            },
        }

    def _system_stats(self) -> Status:
        second = int(time.monotonic())
        if second != self._system_second:
            self._system_second = second
            self._system = {
                "sysload": round(os.getloadavg()[0], 2),
                "cputime": round(time.process_time(), 3),
                "memavail": os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024,
            }
        return self._system


def _needs_fan(heater: Heater) -> bool:
    return heater.target > 0.0 or heater.temperature > HOTEND_FAN_C


def _heater(heater: Heater) -> Status:
    return {
        "temperature": round(heater.temperature, 2),
        "target": round(heater.target, 2),
        "power": round(heater.power, 4),
    }


def _sensor(temperature: float, measured: tuple[float, float]) -> Status:
    return {"temperature": temperature, "measured_min_temp": measured[0], "measured_max_temp": measured[1]}
