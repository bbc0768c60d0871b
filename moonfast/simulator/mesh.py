"""bed_mesh: a bed that is not quite flat, probed on request, and its stored profiles."""

from __future__ import annotations

import math
from typing import Any

from .gcode_lines import GcodeError, Line

MINIMUM = (10.0, 10.0)
MAXIMUM = (220.0, 220.0)
COUNT = 5  # probed points along each axis
BETWEEN = 2  # interpolated points between two probed ones, as with Klipper's default mesh_pps

Matrix = list[list[float]]


def height(x: float, y: float) -> float:
    """Height of the bed above z = 0 at a point, in mm."""
    return round(0.08 * math.sin(x / 70.0) + 0.05 * math.cos(y / 55.0) - 0.0004 * (x - y), 4)


def point(column: int, row: int, count: int = COUNT) -> tuple[float, float]:
    """The coordinates of a point of a grid of `count` times `count` points, in mm."""
    x = MINIMUM[0] + (MAXIMUM[0] - MINIMUM[0]) * column / (count - 1)
    y = MINIMUM[1] + (MAXIMUM[1] - MINIMUM[1]) * row / (count - 1)
    return x, y


def _grid(count: int) -> Matrix:
    return [[height(*point(column, row, count)) for column in range(count)] for row in range(count)]


class BedMesh:
    """The mesh in use and the stored ones."""

    def __init__(self, profiles: dict[str, dict[str, Any]]) -> None:
        self.profiles = profiles
        self.name = ""
        self.probed: Matrix = [[]]
        self.mesh: Matrix = [[]]

    def calibrated(self, name: str) -> None:
        """Take over what has been probed, and store it."""
        self.name, self.probed = name, _grid(COUNT)
        self.mesh = _grid((COUNT - 1) * (BETWEEN + 1) + 1)
        self.save(name)

    def clear(self) -> None:
        self.name, self.probed, self.mesh = "", [[]], [[]]

    def save(self, name: str) -> None:
        if self.probed == [[]]:
            raise GcodeError(f"Unable to save to profile [{name}], the bed has not been probed")
        self.profiles = {**self.profiles, name: {"points": self.probed, "mesh_params": self.parameters()}}

    def load(self, name: str) -> None:
        if name not in self.profiles:
            raise GcodeError(f"bed_mesh: Unknown profile [{name}]")
        self.name, self.probed = name, self.profiles[name]["points"]
        self.mesh = _grid((COUNT - 1) * (BETWEEN + 1) + 1)

    def remove(self, name: str) -> None:
        if name not in self.profiles:
            raise GcodeError(f"No profile named [{name}] to remove")
        self.profiles = {key: value for key, value in self.profiles.items() if key != name}

    def profile(self, line: Line) -> bool:
        """Run BED_MESH_PROFILE. Return whether the stored profiles changed."""
        for word, action in (("LOAD", self.load), ("SAVE", self.save), ("REMOVE", self.remove)):
            if word in line.params:
                if not line.params[word].strip():
                    raise GcodeError(f"Value for parameter '{word}' must be specified")
                action(line.params[word])
                return word != "LOAD"
        raise GcodeError(f"Invalid syntax '{line.text}'")

    @staticmethod
    def parameters() -> dict[str, Any]:
        return {
            "min_x": MINIMUM[0],
            "max_x": MAXIMUM[0],
            "min_y": MINIMUM[1],
            "max_y": MAXIMUM[1],
            "x_count": COUNT,
            "y_count": COUNT,
            "mesh_x_pps": BETWEEN,
            "mesh_y_pps": BETWEEN,
            "algo": "lagrange",
            "tension": 0.2,
        }

    def status(self) -> dict[str, Any]:
        return {
            "profile_name": self.name,
            "mesh_min": list(MINIMUM) if self.name else [0.0, 0.0],
            "mesh_max": list(MAXIMUM) if self.name else [0.0, 0.0],
            "probed_matrix": self.probed,
            "mesh_matrix": self.mesh,
            "profiles": self.profiles,
        }

    def dump(self) -> dict[str, Any]:
        """The answer to bed_mesh/dump_mesh (Klipper docs/API_Server.md)."""
        current = {}
        if self.name:
            current = {
                "name": self.name,
                "probed_matrix": self.probed,
                "mesh_matrix": self.mesh,
                "mesh_params": self.parameters(),
            }
        points = [point(column, row) for row in range(COUNT) for column in range(COUNT)]
        return {
            "current_mesh": current,
            "profiles": self.profiles,
            "calibration": {"points": [list(item) for item in points], "config": {"probe_count": [COUNT, COUNT]}},
        }
