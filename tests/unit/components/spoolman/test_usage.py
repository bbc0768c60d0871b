"""Filament is counted once: over retractions, several extruders, lost answers and crashes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonfast.components.spoolman.usage import MAX_EXTRUDERS, MAX_SPOOLS, RECORD, Ledger, Meter, Sent
from moonfast.errors import InsufficientStorage
from moonfast.state.status import Status
from moonfast.storage.database import Database, Namespace


class Toolhead:
    """The status as the meter reads it."""

    def __init__(self) -> None:
        self.position: bytes | None = None
        self.extruder: bytes | None = b'"extruder"'

    def field(self, name: str, field: str) -> bytes | None:
        assert name == "toolhead"
        return {"position": self.position, "extruder": self.extruder}[field]

    def at(self, position: float, extruder: str = "extruder") -> None:
        self.position, self.extruder = json.dumps([1.0, 2, 3, position, 7.0]).encode(), json.dumps(extruder).encode()


def meter() -> tuple[Toolhead, Meter]:
    toolhead = Toolhead()
    return toolhead, Meter(cast(Status, toolhead))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(-100, 100)), max_size=40))
def test_only_growth_beyond_the_highest_counts(moves: list[tuple[str, int]]) -> None:
    toolhead, found = meter()
    total = 0.0
    seen: dict[str, list[int]] = {}
    for extruder, position in moves:
        toolhead.at(position, extruder)
        total += found.used()
        seen.setdefault(extruder, []).append(position)
    assert total == sum(max(positions) - positions[0] for positions in seen.values())


@pytest.mark.parametrize(
    "position", [None, b"", b"null", b"[]", b"[1,2,3]", b"[1,2,3,null]", b'[1,2,3,"x"]', b'{"a":1}', b"[1,2,3,]"]
)
def test_positions_that_are_none(position: bytes | None) -> None:
    toolhead, found = meter()
    toolhead.at(5.0)
    found.used()
    toolhead.position = position
    assert found.used() == 0.0
    toolhead.at(6.0)
    assert found.used() == 1.0


def test_a_position_after_a_restart_is_the_first() -> None:
    toolhead, found = meter()
    toolhead.at(5.0)
    found.used()
    found.forget()
    toolhead.at(50.0)
    assert found.used() == 0.0
    toolhead.position = b"[ 0.0, 0.0, 0.0, 51.0 ]"
    assert found.used() == 1.0


def test_there_are_only_so_many_extruders() -> None:
    toolhead, found = meter()
    for number in range(MAX_EXTRUDERS + 1):
        toolhead.at(0.0, f"e{number}")
        found.used()
    toolhead.at(9.0, f"e{MAX_EXTRUDERS}")
    assert found.used() == 0.0
    toolhead.at(9.0, "e0")
    assert found.used() == 9.0


class Crash(Exception):
    """The server ends at this point."""


Tick = tuple[float, str]


@settings(max_examples=60, deadline=None)
@given(
    ticks=st.lists(
        st.tuples(
            st.floats(0.5, 50.0),
            st.sampled_from(["fine", "lost request", "lost answer", "crash before", "crash after", "crash early"]),
        ),
        max_size=12,
    )
)
def test_nothing_is_counted_twice(ticks: list[Tick], tmp_path_factory: pytest.TempPathFactory) -> None:
    """What Spoolman has counted is what was used, less what a crash took before it was kept."""
    counted, used, lost = 0.0, 0.0, 0.0

    async def settle(ledger: Ledger) -> None:
        if ledger.sent is not None:
            if ledger.sent.has_arrived(counted):
                ledger.arrived()
            else:
                ledger.take_back()

    async def tick(ledger: Ledger, outcome: str) -> None:
        nonlocal counted
        await settle(ledger)
        for spool_id in ledger.unsent:
            sent = await ledger.send(spool_id, counted)
            if outcome == "crash before":
                raise Crash
            if outcome != "lost request":
                counted += sent.length
            if outcome == "crash after":
                raise Crash
            if outcome == "fine":
                ledger.arrived()
            if ledger.sent is not None:
                return

    async def live(folder: Path) -> None:
        nonlocal used, lost
        database = Database(folder)
        await database.start()
        ledger = Ledger(database.namespace("moonraker"))
        await ledger.activate(3)
        for length, outcome in ticks:
            before = sum(ledger.waiting.values())
            ledger.add(length)
            used += length
            try:
                if outcome == "crash early":
                    lost += length
                    assert sum(ledger.waiting.values()) == pytest.approx(before + length)
                    raise Crash
                await tick(ledger, outcome)
            except Crash:
                ledger = Ledger(database.namespace("moonraker"))  # knows what the database does
                ledger.load()
        await tick(ledger, "fine")
        assert ledger.waiting == {}
        await database.stop()

    asyncio.run(live(tmp_path_factory.mktemp("store")))
    assert counted == pytest.approx(used - lost)


@pytest.mark.parametrize(
    ("before", "now", "arrived"),
    [(10.0, 10.0, False), (10.0, 14.0, True), (10.0, 13.99, True), (None, 10.0, True), (10.0, None, True)],
)
def test_when_a_report_has_arrived(before: float | None, now: float | None, arrived: bool) -> None:
    assert Sent(3, 4.0, before).has_arrived(now) is arrived


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"spool_id": "x", "pending": [], "sent": []},
        {"spool_id": True, "pending": {"x": 1.0, "-1": 2.0, "3": "y"}, "sent": {"spool_id": 3, "length": -1.0}},
    ],
)
async def test_a_record_that_is_damaged_is_left_out(tmp_path: Path, record: Any) -> None:
    database = Database(tmp_path)
    await database.start()
    database.namespace("moonraker").put(RECORD, record)
    ledger = Ledger(database.namespace("moonraker"))
    ledger.load()
    assert (ledger.spool_id, ledger.waiting, ledger.sent) == (None, {}, None)
    await database.stop()


async def test_only_so_many_spools_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(tmp_path)
    await database.start()
    ledger = Ledger(database.namespace("moonraker"))
    for spool_id in range(MAX_SPOOLS + 1):
        await ledger.activate(spool_id)
        ledger.add(1.0)
    assert list(ledger.waiting) == list(range(MAX_SPOOLS))
    assert f"what spool {MAX_SPOOLS} gives is not counted" in caplog.text
    await database.stop()


class Full:
    """A database without space."""

    def put(self, key: str, value: Any) -> None:
        raise InsufficientStorage("full")

    async def save(self, key: str, value: Any) -> None:
        raise InsufficientStorage("full")


async def test_what_cannot_be_kept_changes_nothing() -> None:
    ledger = Ledger(cast(Namespace, Full()))
    with pytest.raises(InsufficientStorage):
        await ledger.activate(3)
    assert ledger.spool_id is None
    ledger.spool_id = 3
    ledger.add(2.0)
    with pytest.raises(InsufficientStorage):
        await ledger.send(3, 0.0)
    assert (ledger.unsent, ledger.waiting, ledger.sent) == ([3], {3: 2.0}, None)
