"""The gcode store and the temperature store."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import pytest

from moonfast.api.call import INTERNAL
from moonfast.codec import encode
from moonfast.state import gcode_store, temperature_store
from moonfast.state.gcode_store import MAX_MESSAGE_BYTES, GcodeStore
from moonfast.state.temperature_store import TemperatureStore


def entries(store: GcodeStore, count: int | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(store.list_entries(INTERNAL, count))["gcode_store"]
    return found


def test_entries_are_kept_in_order_with_their_time() -> None:
    store = GcodeStore(3, clock=lambda: 1700000000.1234)
    assert entries(store) == []
    store.add_command("G28\nG1")
    store.add_response(encode("// \u00fc\x01"))
    assert entries(store) == [
        {"message": "G28\nG1", "time": 1700000000.123, "type": "command"},
        {"message": "// \u00fc\x01", "time": 1700000000.123, "type": "response"},
    ]
    for number in range(5):
        store.add_response(b'"%d"' % number)
    assert [item["message"] for item in entries(store)] == ["2", "3", "4"]


def test_count() -> None:
    store = GcodeStore(10)
    for number in range(5):
        store.add_command(str(number))
    assert [item["message"] for item in entries(store, 2)] == ["3", "4"]
    assert len(entries(store, 100)) == 5
    assert entries(store, 0) == []
    assert entries(store, -3) == []


@pytest.mark.parametrize("character", ["x", "\u00fc", "\U0001f600", "\x01"])
def test_a_long_entry_is_cut_between_characters(character: str) -> None:
    store = GcodeStore(2)
    store.add_command(character * MAX_MESSAGE_BYTES * 2)
    store.add_response(encode(character * MAX_MESSAGE_BYTES * 2))
    for item in entries(store):
        assert item["message"].endswith(character + " ...")
        assert len(item["message"].encode()) <= MAX_MESSAGE_BYTES


def test_a_long_response_that_is_no_text() -> None:
    store = GcodeStore(1)
    store.add_response(b'"\\ud800' + b"x" * MAX_MESSAGE_BYTES + b'"')
    assert len(entries(store)) == 1
    assert gcode_store._cut("short") == "short"


class Sensors:
    def __init__(self) -> None:
        self.fields: dict[tuple[str, str], bytes] = {
            ("extruder", "temperature"): b"20.456",
            ("extruder", "target"): b"0.0",
            ("extruder", "power"): b"0",
            ("fan", "temperature"): b"30.0",
            ("fan", "speed"): b"1e-05",
            ("tmc", "temperature"): b"40",
        }

    def read(self, sensor: str, field: str) -> bytes | None:
        return self.fields.get((sensor, field))


def series(store: TemperatureStore, monitors: bool = False) -> dict[str, dict[str, list[float | None]]]:
    found: dict[str, dict[str, list[float | None]]] = json.loads(store.list_series(INTERNAL, monitors))
    return found


@pytest.fixture
def sensors(monkeypatch: pytest.MonkeyPatch) -> Sensors:
    monkeypatch.setattr(temperature_store, "PERIOD_S", PERIOD_S)
    return Sensors()


PERIOD_S = 0.05


async def tick() -> None:
    """Wait until a moment after the next tick, which comes at a whole number of periods."""
    now = asyncio.get_running_loop().time()
    await asyncio.sleep(math.ceil(now / PERIOD_S) * PERIOD_S - now + PERIOD_S / 4)


async def test_only_fields_that_a_sensor_has_and_zeros_before_the_first_sample(sensors: Sensors) -> None:
    store = TemperatureStore(4, sensors.read)
    assert series(store) == {}
    store.start(["extruder", "fan"], ["tmc"])
    assert series(store) == {
        "extruder": {"temperatures": [0, 0, 0, 20.46], "targets": [0, 0, 0, 0], "powers": [0, 0, 0, 0]},
        "fan": {"temperatures": [0, 0, 0, 30], "speeds": [0, 0, 0, 0]},
    }
    assert series(store, monitors=True)["tmc"] == {"temperatures": [0, 0, 0, 40]}
    store.pause()


async def test_samples_follow_and_the_answer_is_made_once_a_tick(sensors: Sensors) -> None:
    store = TemperatureStore(4, sensors.read)
    await tick()
    store.start(["extruder"], [])
    first = store.list_series(INTERNAL)
    assert store.list_series(INTERNAL) is first
    sensors.fields["extruder", "temperature"] = b"null"
    await tick()
    assert series(store)["extruder"]["temperatures"] == [0, 0, 20.46, None]
    sensors.fields["extruder", "temperature"] = b"21"
    sensors.fields["extruder", "speed"] = b"0.5"
    await tick()
    found = series(store)["extruder"]
    assert found["temperatures"] == [0, 20.46, None, 21]
    assert found["speeds"] == [0, 0, 0, 0.5]
    store.pause()


async def test_nothing_ticks_while_there_is_no_printer(sensors: Sensors) -> None:
    store = TemperatureStore(3, sensors.read)
    await tick()
    store.start(["extruder"], [])
    store.pause()
    before = series(store)
    await tick()
    await tick()
    assert series(store) == before
    store.pause()
    sensors.fields["extruder", "temperature"] = b"50"
    store.start(["extruder", "fan"], [])
    store.start(["extruder", "fan"], [])
    await tick()
    found = series(store)
    assert found["extruder"]["temperatures"] == [0, 20.46, 50]
    assert set(found) == {"extruder", "fan"}
    store.start([], [])
    assert series(store) == {}
    store.pause()


async def test_null_is_no_field(sensors: Sensors) -> None:
    sensors.fields["fan", "target"] = b"null"
    store = TemperatureStore(2, sensors.read)
    store.start(["fan", "unknown"], [])
    assert set(series(store)["fan"]) == {"temperatures", "speeds"}
    assert series(store)["unknown"] == {}
    store.pause()


async def test_ticks_do_not_pile_up_when_the_loop_was_busy(sensors: Sensors) -> None:
    store = TemperatureStore(50, sensors.read)
    store.start(["extruder"], [])
    time.sleep(0.2)  # a busy loop is the point
    await asyncio.sleep(0.03)
    samples = series(store)["extruder"]["temperatures"]
    assert len(samples) - samples.count(0) <= 5
    await asyncio.sleep(0.3)
    samples = series(store)["extruder"]["temperatures"]
    assert len(samples) - samples.count(0) > 5  # it goes on
    store.pause()
