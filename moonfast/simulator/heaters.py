"""Heaters with thermal inertia.

A body of temperature T, heated with power p (0 to 1), loses heat in proportion to its distance from the ambient air:

    tau * dT/dt = ambient + rise * p - T

The controller is proportional with the exact holding power added, p = hold + gain * (target - T), cut to 0..1. In each
of its three regions (full power, controlled, off) the equation is linear, so a step of any length is computed exactly:
nobody has to tick while nobody looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

AMBIENT_C = 21.05
HOST_C = 45.0  # the computer's own sensor
SETTLED_K = 1.0  # a wait for a temperature ends this close to the target, as with Klipper's PID control


@dataclass(slots=True)
class Heater:
    """One heater. Temperatures in degrees Celsius, `rise` in kelvin above ambient at full power, `tau_s` in seconds."""

    name: str
    rise: float
    tau_s: float
    gain: float
    max_temp: float
    min_temp: float = 0.0
    temperature: float = AMBIENT_C
    target: float = 0.0
    is_enabled: bool = True  # False after a shutdown: no power, whatever the target

    @property
    def _hold(self) -> float:
        return (self.target - AMBIENT_C) / self.rise

    @property
    def power(self) -> float:
        if not self.is_enabled or self.target <= 0.0:
            return 0.0
        return min(1.0, max(0.0, self._hold + self.gain * (self.target - self.temperature)))

    @property
    def is_settled(self) -> bool:
        return abs(self.target - self.temperature) <= SETTLED_K

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        while seconds > 0.0:
            goal, tau, edge = self._region()
            gap = self.temperature - goal
            if edge is not None and gap * (edge - goal) > 0.0 and abs(edge - goal) < abs(gap):
                until_edge = tau * math.log(gap / (edge - goal))
                if until_edge <= seconds:
                    self.temperature = edge
                    seconds -= until_edge
                    continue
            self.temperature = goal + gap * math.exp(-seconds / tau)
            return

    def _region(self) -> tuple[float, float, float | None]:
        """Return where the temperature is heading, how fast (time constant), and where the next region begins."""
        if not self.is_enabled or self.target <= 0.0:
            return AMBIENT_C, self.tau_s, None
        full_below = self.target - (1.0 - self._hold) / self.gain
        off_above = self.target + self._hold / self.gain
        if self.temperature < full_below:
            return AMBIENT_C + self.rise, self.tau_s, full_below
        if self.temperature > off_above:
            return AMBIENT_C, self.tau_s, off_above
        return self.target, self.tau_s / (1.0 + self.gain * self.rise), None
