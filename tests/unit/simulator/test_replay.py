"""The replay of a captured session."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from moonfast.simulator.replay import ReplayedKlippy, load_tape, sections

from .client import Client, connect

PUSH, SAID = "process_status_update", "process_gcode_response"


def tape(count: int = 3) -> dict[str, Any]:
    """A print of `count` pushes, one line of the console after each."""
    events: list[Any] = []
    for number in range(1, count + 1):
        status = {"toolhead": {"print_time": float(number)}, "fan": {"speed": number / 10}}
        events.append([number / 100, {"method": PUSH, "params": {"eventtime": 100.0 + number, "status": status}}])
        events.append([number / 100, {"method": SAID, "params": {"response": f"// {number}"}}])
    initial = {"eventtime": 100.0, "status": {"toolhead": {"print_time": 0.0, "homed_axes": ""}, "fan": {"speed": 0.0}}}
    return {
        "replies": {"info": {"result": {"state": "ready"}}, "bad": {"error": {"message": "as recorded"}}},
        "print": {"initial": {"result": initial}, "events": events},
    }


@contextlib.asynccontextmanager
async def replay(folder: Path, **options: Any) -> AsyncIterator[tuple[ReplayedKlippy, Client]]:
    path = folder / "klippy.sock"
    klippy = ReplayedKlippy(str(path), options.pop("tape", tape()), **({"speed": 0.0} | options))
    await klippy.start()
    client = await connect(path)
    try:
        yield klippy, client
    finally:
        client.close()
        await klippy.stop()


async def test_what_is_subscribed_to_is_played_in_order(tmp_path: Path) -> None:
    async with replay(tmp_path) as (klippy, client):
        assert await client.ask("info") == {"state": "ready"}
        assert (await client.ask("bad"))["message"] == "as recorded"
        assert "nosuch" in (await client.ask("nosuch"))["message"]
        await client.ask("gcode/subscribe_output", response_template={"method": "said"})
        first = await client.ask(
            "objects/subscribe", objects={"toolhead": ["print_time"]}, response_template={"method": "status"}
        )
        assert first == {"eventtime": 100.0, "status": {"toolhead": {"print_time": 0.0}}}
        await client.until(lambda item: item["params"].get("response") == "// 3")
        pushed = [item["params"] for item in client.pushed]
        assert [item["status"] for item in pushed if "status" in item] == [
            {"toolhead": {"print_time": number}} for number in (1.0, 2.0, 3.0)
        ]
        assert [item["response"] for item in pushed if "response" in item] == ["// 1", "// 2", "// 3"]
        assert klippy.finished.is_set()
        assert klippy.requests["info"] == 1
        late = await client.ask("objects/query", objects={"fan": None})
        assert late == {"eventtime": 103.0, "status": {"fan": {"speed": 0.3}}}


async def test_a_repetition_goes_on_in_time(tmp_path: Path) -> None:
    async with replay(tmp_path, repeats=True, speed=10.0) as (_, client):
        await client.ask("objects/subscribe", objects={"toolhead": ["print_time"]}, response_template={})
        await client.until(lambda item: item["params"]["eventtime"] > 108.0)
        times = [item["params"]["eventtime"] for item in client.pushed]
        assert times == sorted(times)
        assert [item["params"]["status"]["toolhead"]["print_time"] for item in client.pushed[:5]] == [
            1.0,
            2.0,
            3.0,
            0.0,
            1.0,
        ]


def test_what_cannot_be_played_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tape.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a tape"):
        load_tape(path)
    path.write_text(json.dumps(tape() | {"folder": "{data}/gcodes"}))
    assert load_tape(path, '/a "b"')["folder"] == '/a "b"/gcodes'
    assert sections(tape()) == ["print"]
    with pytest.raises(ValueError, match="no section 'idle'; it has: print"):
        ReplayedKlippy("x", tape(), section="idle")
    with pytest.raises(ValueError, match="speed"):
        ReplayedKlippy("x", tape(), speed=-1.0)
