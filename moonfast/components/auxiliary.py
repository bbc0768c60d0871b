"""What other components add to a job: a value that is followed while it prints, and totals over all jobs.

Source: Moonraker's documentation, "[sensor]", `history_field`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

Strategy = Literal["basic", "delta", "accumulate", "average", "maximum", "minimum", "collect"]
MAX_COLLECTED = 100
"""Values of one job that are kept; then the oldest go."""


class AuxiliaryField:
    """One value of a job. Whoever registers it calls `track` with each new reading.

    `strategy`: basic keeps the last reading, delta is the last less the first, collect keeps different ones in a list;
    the others say what they do. `reset` is called when a job begins, and gives the reading to begin with.
    """

    def __init__(
        self,
        provider: str,
        name: str,
        description: str,
        strategy: Strategy = "basic",
        *,
        units: str | None = None,
        reset: Callable[[], Any] | None = None,
        excludes_paused: bool = False,
        reports_total: bool = False,
        reports_maximum: bool = False,
        precision: int | None = None,
    ) -> None:
        self.provider, self.name, self.description, self.units = provider, name, description, units
        self.strategy, self.excludes_paused, self.precision = strategy, excludes_paused, precision
        self.reports_total, self.reports_maximum = reports_total, reports_maximum
        self._reset = reset
        self._first: float | None = None
        self._count = 0
        self._value: Any = None
        self.is_tracked = False  # a job goes on

    def begin(self) -> None:
        """A job has begun."""
        self._first, self._count = None, 0
        self._value = [] if self.strategy == "collect" else None
        self.is_tracked = True
        if self._reset is not None and (value := self._reset()) is not None:
            self.track(value)

    def track(self, reading: Any) -> None:
        """Take a reading; ignored while no job goes on. What is no number is only taken by basic and collect."""
        if not self.is_tracked:
            return
        if self.strategy == "basic":
            self._value = reading
            return
        if self.strategy == "collect":
            if reading not in self._value:
                self._value = [*self._value[1 - MAX_COLLECTED :], reading]
            return
        if isinstance(reading, bool) or not isinstance(reading, int | float) or not math.isfinite(reading):
            return
        value = self._value
        self._count += 1
        if self.strategy == "delta":
            self._first = reading if self._first is None else self._first
            self._value = reading - self._first
        elif self.strategy == "accumulate":
            self._value = reading if value is None else value + reading
        elif self.strategy == "average":
            self._value = reading if value is None else value + (reading - value) / self._count
        elif self.strategy == "maximum":
            self._value = reading if value is None else max(value, reading)
        else:
            self._value = reading if value is None else min(value, reading)

    @property
    def value(self) -> Any:
        """What was found in the present job, or in the last one."""
        if self.precision is not None and isinstance(self._value, float):
            return round(self._value, self.precision)
        return self._value

    def as_dict(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "name": self.name,
            "value": self.value,
            "description": self.description,
            "units": self.units,
        }

    def add_to(self, total: dict[str, Any]) -> dict[str, Any]:
        """The totals of this field with the job that has ended."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return total
        if self.reports_total:
            total = {**total, "total": (total.get("total") or 0) + value}
        if self.reports_maximum:
            total = {**total, "maximum": max(total.get("maximum") or value, value)}
        return total
