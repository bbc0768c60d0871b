"""One sample a second of every heater and sensor, so that a plot is not empty after a reload.

Source: specification, "Request Cached Temperature Data"; Klipper docs/Status_Reference.md, "heaters".
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import Raw, encode
from moonfast.speedups import rings
from moonfast.vocab import GET

PERIOD_S = 1.0
FIELDS = ("temperature", "target", "power", "speed")


class _Sensor:
    """The series of one sensor: of each field it has been seen to have."""

    __slots__ = ("is_monitor", "json", "key", "series")

    def __init__(self, name: str, is_monitor: bool) -> None:
        self.key = encode(name) + b":"
        self.is_monitor = is_monitor
        self.series: dict[str, rings.SeriesRing] = {}
        self.json: bytes | None = None  # of this tick

    def text(self) -> bytes:
        if self.json is None:
            pieces = (b'"%bs":%b' % (field.encode(), ring.json()) for field, ring in self.series.items())
            self.json = self.key + b"{" + b",".join(pieces) + b"}"
        return self.json


class TemperatureStore:
    """Samples `read(sensor, field)`, which gives a raw JSON value or None, while there are sensors."""

    def __init__(self, capacity: int, read: Callable[[str, str], bytes | None]) -> None:
        self._capacity, self._read = capacity, read
        self._sensors: dict[str, _Sensor] = {}
        self._answers: dict[bool, Raw] = {}  # include_monitors -> the answer of this tick
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer goes off

    def start(self, sensors: list[str], monitors: list[str]) -> None:
        """Sample these from now on. Series of sensors that were there before go on."""
        old = self._sensors
        self._sensors = {}
        for name in dict.fromkeys(sensors + monitors):
            self._sensors[name] = old.get(name) or _Sensor(name, name not in sensors)
        self._answers.clear()
        for name, sensor in self._sensors.items():
            for field in FIELDS:
                self._sample(name, sensor, field)
        if self._timer is None and self._sensors:
            loop = asyncio.get_running_loop()
            self._due = math.ceil(loop.time() / PERIOD_S) * PERIOD_S  # timers of a whole second wake the loop once
            self._timer = loop.call_at(self._due, self._tick)

    def pause(self) -> None:
        """Klippy is gone: keep what there is, sample no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = max(self._due + PERIOD_S, loop.time())
        self._timer = loop.call_at(self._due, self._tick)
        self._answers.clear()
        for name, sensor in self._sensors.items():
            sensor.json = None
            for field in FIELDS:
                ring = sensor.series.get(field)
                if ring is None:
                    self._sample(name, sensor, field)
                else:
                    ring.append(_number(self._read(name, field)))

    def _sample(self, name: str, sensor: _Sensor, field: str) -> None:
        """Begin a series, full of zeros, when the sensor turns out to have the field."""
        value = self._read(name, field)
        if value is None or value == b"null" or field in sensor.series:
            return  # null is what Klippy answers for a field that an object does not have
        sensor.json = None
        ring = sensor.series[field] = rings.SeriesRing(self._capacity)
        ring.fill(0.0)
        ring.append(_number(value))

    @endpoint(GET, "/server/temperature_store")
    def list_series(self, call: Call, include_monitors: bool = False) -> Raw:
        """Return one sample a second of every sensor, oldest first.

        `temperatures`, and `targets`, `powers` and `speeds` where a sensor has them. Before the first sample there are
        zeros; a sensor that gives no value has null.

        `include_monitors` adds what Klipper lists as temperature monitors, such as drivers that report theirs.
        """
        answer = self._answers.get(include_monitors)
        if answer is None:
            texts = [item.text() for item in self._sensors.values() if include_monitors or not item.is_monitor]
            answer = self._answers[include_monitors] = Raw(b"{" + b",".join(texts) + b"}")
        return answer


def _number(raw: bytes | None) -> float | None:
    """A raw JSON number; anything else, null too, is a missing sample."""
    try:
        value = float(raw or b"")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
