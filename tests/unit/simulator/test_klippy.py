"""The simulated Klippy, asked over its socket as the server asks it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.simulator.gcode_lines import Line
from moonfast.simulator.heaters import Heater

from .client import connect, printer, ready

PRINT = """\
M104 S200
G28
M109 S200
SET_PRINT_STATS_INFO TOTAL_LAYER=2
G90
M82
G92 E0
;LAYER:1
SET_PRINT_STATS_INFO CURRENT_LAYER=1
G1 X100 Y100 Z0.2 F6000
G1 X150 E5 F3000
SET_PRINT_STATS_INFO CURRENT_LAYER=2
G1 Y150 E10 ; done
PRINT_END
"""


def states(message: dict[str, Any]) -> Any:
    return message.get("params", {}).get("status", {}).get("print_stats", {}).get("state")


async def test_info_and_lists(tmp_path: Path) -> None:
    async with printer(tmp_path) as (klippy, client):
        info = await client.ask("info", client_info={"program": "test"})
        assert info["state"] == "ready"
        assert info["state_message"] == "Printer is ready"
        endpoints = (await client.ask("list_endpoints"))["endpoints"]
        objects = (await client.ask("objects/list"))["objects"]
        assert {"gcode/script", "objects/subscribe", "pause_resume/pause"} <= set(endpoints)
        assert {"toolhead", "extruder", "virtual_sdcard", "print_stats", "webhooks", "configfile"} <= set(objects)
        answer = await client.ask("objects/query", objects=dict.fromkeys(objects))
        assert set(answer["status"]) == set(objects)
        assert (await client.ask("nosuch"))["message"] == "webhooks: No registered callback for path 'nosuch'"
        assert klippy.requests["info"] >= 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "Missing Argument [objects]"),
        ({"objects": "x"}, "Invalid Argument Type [objects]"),
        ({"objects": {"toolhead": "position"}}, "Invalid argument"),
        ({"objects": {"toolhead": [1]}}, "Invalid argument"),
    ],
)
async def test_bad_queries(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    async with printer(tmp_path) as (_, client):
        assert (await client.ask("objects/query", **params))["message"] == message


async def test_unknown_objects_and_fields(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        answer = await client.ask("objects/query", objects={"nosuch": None, "toolhead": ["nosuch", "position"]})
        assert answer["status"] == {"nosuch": {}, "toolhead": {"nosuch": None, "position": [0.0, 0.0, 0.0, 0.0]}}


async def test_only_changes_are_pushed(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        await client.ask("objects/subscribe", objects={"fan": None, "output_pin caselight": None})
        await client.run("M106 S255")
        message = await client.until(lambda message: "status" in message.get("params", {}))
        assert message["params"]["status"] == {"fan": {"speed": 1.0}}


async def test_heating_takes_time_and_ends(tmp_path: Path) -> None:
    async with printer(tmp_path) as (klippy, client):
        await client.ask("gcode/subscribe_output", response_template={"key": 5})
        assert await client.run("M190 S60") == {}
        status = (await client.ask("objects/query", objects={"heater_bed": None}))["status"]["heater_bed"]
        assert abs(status["temperature"] - 60.0) < 2.0
        assert status["target"] == 60.0
        assert any(item.get("key") == 5 and item["params"]["response"].startswith("B:") for item in client.pushed)
        assert klippy.printer.extruder.target == 0.0


async def test_console_output(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        await client.ask("gcode/subscribe_output")
        assert await client.run('M118 Grüße ✓\nNOSUCH\nRESPOND TYPE=command MSG="action:prompt hi"') == {}
        said = [item["params"]["response"] for item in client.pushed]
        assert said == ["echo: Grüße ✓", '// Unknown command:"NOSUCH"', "// action:prompt hi"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("G1 X5", "Must home axis first: 5.000 0.000 0.000 [0.000]"),
        ("G28\nG1 X999", "Move out of range: 999.000 0.000 0.000 [0.000]"),
        ("G1 E5", "Extrude below minimum temp\nSee the 'min_extrude_temp' config option for details"),
        ("M104 S999", "Requested temperature (999.0) out of range (0.0:290.0)"),
        ("SET_PIN PIN=nosuch VALUE=1", "The value 'nosuch' is not valid for PIN. Options: 'caselight'"),
        ('SDCARD_PRINT_FILE FILENAME="nosuch"', "Unable to open file"),
        ('SDCARD_PRINT_FILE FILENAME="../../etc/passwd"', "Unable to open file"),
        ('M117\nRESPOND MSG="open', "Malformed command 'RESPOND MSG=\"open'"),
    ],
)
async def test_commands_that_fail(tmp_path: Path, script: str, message: str) -> None:
    async with printer(tmp_path) as (_, client):
        await client.ask("gcode/subscribe_output")
        assert (await client.run(script))["message"] == message
        assert client.pushed[-1]["params"]["response"] == f"!! {message.splitlines()[0]}"


async def test_a_print_from_beginning_to_end(tmp_path: Path) -> None:
    (tmp_path / "a b.gcode").write_text(PRINT)
    async with printer(tmp_path) as (_, client):
        await client.ask("objects/subscribe", objects={"print_stats": None, "virtual_sdcard": None})
        assert await client.run('SDCARD_PRINT_FILE FILENAME="a b.gcode"') == {}
        assert (await client.run('SDCARD_PRINT_FILE FILENAME="a b.gcode"'))["message"] == "SD busy"
        await client.until(lambda message: states(message) == "complete")
        status = (await client.ask("objects/query", objects={"print_stats": None, "virtual_sdcard": None}))["status"]
        assert status["print_stats"]["filename"] == "a b.gcode"
        assert status["print_stats"]["filament_used"] == pytest.approx(10.0)
        assert status["print_stats"]["info"] == {"total_layer": 2, "current_layer": 2}
        assert 0.0 < status["print_stats"]["print_duration"] < status["print_stats"]["total_duration"]
        assert status["virtual_sdcard"]["progress"] == 1.0
        assert not status["virtual_sdcard"]["is_active"]


async def test_pause_resume_and_cancel(tmp_path: Path) -> None:
    (tmp_path / "x.gcode").write_text("G28\n" + "G4 P5000\n" * 1000)
    async with printer(tmp_path) as (_, client):
        await client.ask("objects/subscribe", objects={"print_stats": ["state"], "pause_resume": None})
        await client.run("SDCARD_PRINT_FILE FILENAME=x.gcode")
        assert await client.ask("pause_resume/pause") == {}
        await client.until(lambda message: states(message) == "paused")
        client.pushed.clear()
        assert await client.ask("pause_resume/resume") == {}
        await client.until(lambda message: states(message) == "printing")
        assert await client.ask("pause_resume/cancel") == {}
        await client.until(lambda message: states(message) == "cancelled")


async def test_a_print_that_fails(tmp_path: Path) -> None:
    (tmp_path / "x.gcode").write_text("G1 X5\n")
    async with printer(tmp_path) as (_, client):
        await client.ask("gcode/subscribe_output")
        await client.ask("objects/subscribe", objects={"print_stats": None})
        await client.run("SDCARD_PRINT_FILE FILENAME=x.gcode")
        message = await client.until(lambda message: states(message) == "error")
        assert message["params"]["status"]["print_stats"]["message"].startswith("Must home axis first")
        assert any(item.get("params", {}).get("response", "").startswith("!! Must home") for item in client.pushed)


@pytest.mark.parametrize("how", ["emergency_stop", "M112"])
async def test_shutdown_and_restart(tmp_path: Path, how: str) -> None:
    async with printer(tmp_path) as (klippy, client):
        await client.ask("objects/subscribe", objects={"webhooks": None})
        waiting = await connect(tmp_path / "klippy.sock")
        long = asyncio.create_task(waiting.run("M190 S60\nG4 P1000000"))
        await asyncio.sleep(0.05)
        await (client.ask(how) if how == "emergency_stop" else client.run(how))
        assert (await client.ask("info"))["state"] == "shutdown"
        assert "shutdown" in (await long)["message"].lower()
        assert "Printer is shutdown" in (await client.run("G28"))["message"]
        assert await client.ask("gcode/firmware_restart") == {}
        await client.until_closed()
        again = await ready(tmp_path / "klippy.sock")
        assert await again.run("M118 x") == {}
        assert klippy.printer.state == "ready"
        again.close()
        waiting.close()


async def test_remote_methods(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        await client.ask("register_remote_method", remote_method="lamp", response_template={"method": "lamp"})
        assert await client.run("CALL_REMOTE_METHOD METHOD=lamp STATE=on") == {}
        assert {"method": "lamp", "params": {"state": "on"}} in client.pushed
        assert await client.run("CALL_REMOTE_METHOD METHOD=nosuch") == {}  # only logged, as in Klippy


async def test_garbage_is_ignored(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        for garbage in (
            b"notjson\x03",
            b"[]\x03",
            b'{"id":1}\x03',
            b'{"id":2,"method":"info","params":[1]}\x03',
            b"5\x03",
        ):
            client._writer.write(garbage)
        assert (await client.ask("info"))["state"] == "ready"


async def test_error_at_startup(tmp_path: Path) -> None:
    async with printer(tmp_path) as (klippy, client):
        klippy.error("Section 'bogus' is not a valid config section")
        info = await client.ask("info")
        assert info["state"] == "error"
        assert "bogus" in info["state_message"]


@given(st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), min_size=1))
def test_quoted_names_survive(name: str) -> None:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    line = Line(f'SDCARD_PRINT_FILE FILENAME="{escaped}"')
    line.read_extended()
    assert line.params == {"FILENAME": name}


@given(
    st.just(0.0) | st.floats(30.0, 290.0),
    st.floats(21.1, 200.0),
    st.lists(st.floats(0.001, 600.0), min_size=1, max_size=20),
)
def test_steps_of_a_heater_may_have_any_length(target: float, start: float, steps: list[float]) -> None:
    one = Heater("a", rise=320.0, tau_s=140.0, gain=0.08, max_temp=290.0, temperature=start, target=target)
    many = Heater("b", rise=320.0, tau_s=140.0, gain=0.08, max_temp=290.0, temperature=start, target=target)
    one.advance(sum(steps))
    for step in steps:
        many.advance(step)
    assert one.temperature == pytest.approx(many.temperature, abs=0.01)
    assert 0.0 <= one.power <= 1.0


async def test_the_bed_mesh(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        assert (await client.run("BED_MESH_PROFILE SAVE=a"))["message"].endswith("the bed has not been probed")
        assert await client.run("G28\nBED_MESH_CALIBRATE") == {}
        mesh = (await client.ask("objects/query", objects={"bed_mesh": None}))["status"]["bed_mesh"]
        assert mesh["profile_name"] == "default"
        assert [len(mesh["probed_matrix"]), len(mesh["probed_matrix"][0])] == [5, 5]
        assert set(mesh["profiles"]) == {"default"}
        dump = await client.ask("bed_mesh/dump_mesh")
        assert dump["current_mesh"]["probed_matrix"] == mesh["probed_matrix"]
        assert await client.run("BED_MESH_CLEAR\nBED_MESH_PROFILE REMOVE=default") == {}
        mesh = (await client.ask("objects/query", objects={"bed_mesh": None}))["status"]["bed_mesh"]
        assert (mesh["profile_name"], mesh["probed_matrix"], mesh["profiles"]) == ("", [[]], {})
        assert (await client.run("BED_MESH_PROFILE LOAD=default"))["message"] == "bed_mesh: Unknown profile [default]"


async def test_an_excluded_object_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "two.gcode").write_text(
        "EXCLUDE_OBJECT_DEFINE NAME=a CENTER=5,5 POLYGON=[[0,0],[9,0],[9,9]]\nEXCLUDE_OBJECT_DEFINE NAME=b\nG28\n"
        "EXCLUDE_OBJECT NAME=a\nEXCLUDE_OBJECT_START NAME=a\nG1 X50 F60000\nEXCLUDE_OBJECT_END NAME=a\n"
        "EXCLUDE_OBJECT_START NAME=b\nG1 Y20 F60000\nEXCLUDE_OBJECT_END NAME=b\n"
    )
    async with printer(tmp_path) as (_, client):
        await client.ask("objects/subscribe", objects={"print_stats": ["state"]}, response_template={})
        assert await client.run("SDCARD_PRINT_FILE FILENAME=two.gcode") == {}
        await client.until(lambda item: item["params"]["status"].get("print_stats") == {"state": "complete"})
        status = (await client.ask("objects/query", objects={"exclude_object": None, "gcode_move": None}))["status"]
        assert status["exclude_object"]["objects"] == [
            {"name": "A", "center": [5.0, 5.0], "polygon": [[0, 0], [9, 0], [9, 9]]},
            {"name": "B"},
        ]
        assert status["exclude_object"]["excluded_objects"] == ["A"]
        assert status["gcode_move"]["position"][:2] == [0.0, 20.0]


async def test_moves_are_dumped_to_who_asks(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        assert "not valid" in (await client.ask("motion_report/dump_trapq", name="nosuch"))["message"]
        await client.ask("motion_report/dump_trapq", name="toolhead", response_template={"method": "moves"})
        await client.ask("motion_report/dump_stepper", name="stepper_x", response_template={"method": "steps"})
        assert await client.run("G28\nG1 X10 Y10 F6000\nM400") == {}
        steps = await client.until(lambda item: item["method"] == "steps")
        moves = await client.until(lambda item: item["method"] == "moves" and item["params"]["data"][-1][4][0] < 10)
        assert sum(row[1] for row in steps["params"]["data"]) * steps["params"]["step_distance"] == pytest.approx(10.0)
        _, duration, velocity, _, start, direction = moves["params"]["data"][-1]
        assert [start[axis] + duration * velocity * direction[axis] for axis in range(2)] == pytest.approx([10.0, 10.0])


async def test_a_long_rest_turns_the_heaters_off(tmp_path: Path) -> None:
    async with printer(tmp_path) as (_, client):
        await client.ask("objects/subscribe", objects={"idle_timeout": None, "extruder": ["target"]})
        assert await client.run("SET_IDLE_TIMEOUT TIMEOUT=20\nM104 S200") == {}
        rested = await client.until(
            lambda item: item["params"]["status"].get("idle_timeout", {}).get("state") == "Idle"
        )
        assert rested["params"]["eventtime"] > 20.0
        found = await client.ask("objects/query", objects={"extruder": ["target"]})
        assert found["status"] == {"extruder": {"target": 0.0}}
