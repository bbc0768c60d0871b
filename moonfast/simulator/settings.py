"""The configuration that the simulated printer claims to have been started with."""

from __future__ import annotations

from typing import Any

from .motion import Limits

LIMITS = Limits()
MIN_EXTRUDE_C = 170.0
EXTRUDER_MAX_C = 290.0
BED_MAX_C = 120.0
PINS = ("caselight",)
MACROS = {
    "PRINT_START": "G28",
    "PRINT_END": "TURN_OFF_HEATERS\nM107\nM84",
    "CALL_REMOTE_METHOD": "{action_call_remote_method(params.METHOD, **arguments)}",
}

_AXES = {
    f"stepper_{axis}": {
        "step_pin": f"gpio{index * 4 + 1}",
        "dir_pin": f"gpio{index * 4 + 2}",
        "enable_pin": f"!gpio{index * 4 + 3}",
        "microsteps": "16",
        "rotation_distance": "8" if axis == "z" else "40",
        "endstop_pin": f"gpio{index * 4 + 4}",
        "position_endstop": "0",
        "position_max": f"{LIMITS.maximum[index]:g}",
    }
    for index, axis in enumerate("xyz")
}
Config = dict[str, dict[str, str]]
_CONFIG: Config = {
    "mcu": {"serial": "/tmp/klipper_host_mcu"},
    "printer": {"kinematics": "cartesian", "max_velocity": "300", "max_accel": "3000", "max_z_velocity": "15"},
    **_AXES,
    "extruder": {
        "nozzle_diameter": "0.4",
        "filament_diameter": "1.75",
        "sensor_type": "EPCOS 100K B57560G104F",
        "control": "pid",
        "min_temp": "0",
        "max_temp": f"{EXTRUDER_MAX_C:g}",
        "min_extrude_temp": f"{MIN_EXTRUDE_C:g}",
    },
    "heater_bed": {
        "sensor_type": "EPCOS 100K B57560G104F",
        "control": "pid",
        "min_temp": "0",
        "max_temp": f"{BED_MAX_C:g}",
    },
    "fan": {"pin": "gpio20"},
    "heater_fan hotend": {"pin": "gpio21", "heater": "extruder", "heater_temp": "50.0"},
    "temperature_sensor host": {"sensor_type": "temperature_host", "min_temp": "0", "max_temp": "100"},
    "temperature_sensor chamber": {"sensor_type": "EPCOS 100K B57560G104F"},
    "pause_resume": {},
    "display_status": {},
    "exclude_object": {},
    "respond": {},
    "gcode_arcs": {"resolution": "1.0"},
    "bed_mesh": {"mesh_min": "10,10", "mesh_max": "220,220", "probe_count": "5,5"},
    "idle_timeout": {"timeout": "600"},
    **{f"output_pin {name}": {"pin": "gpio30", "pwm": "True"} for name in PINS},
    **{f"gcode_macro {name}": {"gcode": script} for name, script in MACROS.items()},
}


def _setting(text: str) -> Any:
    """An option as Klipper shows it in `settings`: parsed, as far as its text tells the type."""
    if text in ("True", "False"):
        return text == "True"
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return text


def config(gcodes_dir: str) -> Config:
    """The configuration file: section -> option -> text."""
    return {**_CONFIG, "virtual_sdcard": {"path": gcodes_dir}}


def settings(config: Config) -> dict[str, dict[str, Any]]:
    return {
        name.lower(): {option: _setting(text) for option, text in options.items()} for name, options in config.items()
    }
