"""The endpoints: their arguments, and what Klippy is asked."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.api.params import from_query
from moonfast.errors import ApiError, BadRequest
from moonfast.klippy import api
from moonfast.klippy.session import quoted

from .fake import Refused, until
from .world import world


def as_klipper_reads(script: str) -> list[tuple[str, dict[str, str]]]:
    """Commands and parameters as Klipper's gcode parser finds them (klippy/gcode.py of 0.12 and later)."""
    found = []
    for line in script.split("\n"):
        line = line.strip()
        bare = line.partition(";")[0]
        parts = re.split("([A-Z_]+|[A-Z*])", bare.upper())
        command = parts[1] + parts[2].strip() if len(parts) >= 3 else ""
        rest = line[len(command) :]
        lexer = shlex.shlex(rest[1:] if rest[:1].isspace() else rest, posix=True)
        lexer.whitespace_split = True
        lexer.commenters = "#;"
        found.append((command, dict((key.upper(), value) for key, value in (item.split("=", 1) for item in lexer))))
    return found


def start_script(name: str) -> str:
    return f'SDCARD_PRINT_FILE FILENAME="{quoted(name)}"'


NAMES = st.text(
    st.one_of(st.sampled_from("\"'\\#;= *\t/ab\u00e4\u2028\x85\x0b\U0001f600"), st.characters(codec="utf-8")),
    min_size=1,
).filter(lambda name: not set(name) & set("\n\r\0") and name.removeprefix("/") != "")


@given(NAMES)
def test_any_file_name_survives_klippers_parser(name: str) -> None:
    assert as_klipper_reads(start_script(name)) == [("SDCARD_PRINT_FILE", {"FILENAME": name.removeprefix("/")})]


@pytest.mark.parametrize(
    "name",
    ['a"b.gcode', "a#b.gcode", "a;b.gcode", "a\\b.gcode", "a\\", "\u00fc \u4e2d.gcode", "x' y", "a*7", "N5", "a=b"],
)
def test_such_file_names_survive(name: str) -> None:
    assert as_klipper_reads(start_script(name)) == [("SDCARD_PRINT_FILE", {"FILENAME": name})]


@pytest.mark.parametrize("name", ["a\nM112", "a\r", "\0", "", "/"])
def test_such_file_names_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="filename"):
        quoted(name)


async def test_print_endpoints() -> None:
    async with world() as (here, fake):
        assert await here.ask("printer.print.start", {"filename": 'sub/a "b".gcode'}) == "ok"
        assert fake.asked("gcode/script") == [{"script": 'SDCARD_PRINT_FILE FILENAME="sub/a \\"b\\".gcode"'}]
        for method in ("pause", "resume", "cancel"):
            assert await here.ask(f"printer.print.{method}") == "ok"
            assert len(fake.asked(f"pause_resume/{method}")) == 1
        error = await here.error("printer.print.start", {})
        assert error.status == 400
        assert "filename" in error.message


async def test_every_endpoint_answers_503_without_klippy() -> None:
    async with world() as (here, fake):
        client = here.client()
        await here.klippy.stop()
        fake.requests.clear()
        methods = [
            "info",
            "emergency_stop",
            "restart",
            "firmware_restart",
            "objects.list",
            "objects.query",
            "objects.subscribe",
            "query_endstops.status",
            "gcode.script",
            "gcode.help",
            "print.start",
            "print.pause",
            "print.resume",
            "print.cancel",
        ]
        for method in methods:
            arguments = {"objects": {}, "script": "G28", "filename": "a"}
            error = await here.error(f"printer.{method}", arguments, client=client)
            assert (error.status, error.message) == (503, "Klippy Host not connected"), method
        assert (await here.ask("server.gcode_store"))["gcode_store"] == []
        refused = here.klippy.refuse_unknown("/printer/gcode/anything")
        assert refused is not None
        assert refused.status == 503
        assert here.klippy.refuse_unknown("/server/anything") is None


async def test_errors_of_klippy_are_passed_on() -> None:
    def refuse(params: object) -> None:
        raise Refused("Must home axis first: 1.0 0.0 <b>\n")

    async with world() as (here, fake):
        fake.methods["gcode/script"] = refuse
        error = await here.error("printer.gcode.script", {"script": "G1 X5"})
        assert (error.status, error.message) == (400, "Must home axis first: 1.0 0.0 <b>\n")


async def test_scripts_are_commands_in_the_store() -> None:
    async with world() as (here, fake):
        assert await here.ask("printer.gcode.script", {"script": "G28\nG1 X5 ; \u00fc"}) == "ok"
        assert fake.asked("gcode/script") == [{"script": "G28\nG1 X5 ; \u00fc"}]
        entries = (await here.ask("server.gcode_store"))["gcode_store"]
        assert [(item["message"], item["type"]) for item in entries] == [("G28\nG1 X5 ; \u00fc", "command")]


@pytest.mark.parametrize("method", ["printer.restart", "printer.firmware_restart", "script"])
async def test_a_restart_that_drops_the_link_is_a_success(method: str) -> None:
    async with world() as (here, fake):
        name = "gcode/script" if method == "script" else f"gcode/{method.partition('.')[2]}"
        fake.methods[name] = lambda params: None
        if method == "script":
            later = here.call("printer.gcode.script", {"script": "G28\nfirmware_restart "})
        else:
            later = here.call(method)
        await until(lambda: fake.asked(name))
        await fake.drop()
        assert bytes(await later) == b'"ok"'


async def test_query_forms() -> None:
    async with world() as (here, fake):
        expected = {"toolhead": fake.objects["toolhead"], "extruder": {"target": 0.0, "temperature": 20.5}}
        forms: list[tuple[dict[str, Any], bool]] = [
            (from_query("toolhead&extruder=target,temperature"), True),
            (from_query("toolhead=&extruder=target,%20temperature,"), True),
            ({"objects": {"toolhead": None, "extruder": ["target", "temperature"]}}, True),
            ({"objects": {"toolhead": None, "extruder": ["target", "temperature"]}}, False),
            ({"toolhead": None, "extruder": ["target", "temperature"]}, True),
        ]
        for arguments, http in forms:
            answer = await here.ask("printer.objects.query", arguments, http=http)
            assert answer["status"] == expected
        assert (await here.ask("printer.objects.list"))["objects"] == list(fake.objects)


async def test_subscribe_over_http_is_for_the_connection_named() -> None:
    async with world() as (here, fake):
        client = here.client()
        arguments = from_query(f"connection_id={client.uid}&toolhead&extruder=target")
        answer = await here.ask("printer.objects.subscribe", arguments, http=True)
        assert answer["status"] == {"toolhead": fake.objects["toolhead"], "extruder": {"target": 0.0}}
        fake.push(extruder={"target": 5.0})
        await until(lambda: client.updates)
        await here.ask("printer.objects.subscribe", {"connection_id": client.uid}, http=True)
        assert client.group is None
        for bad in ("x", 99, None, [1]):
            error = await here.error("printer.objects.subscribe", {"connection_id": bad, "toolhead": ""}, http=True)
            assert error.status == 400
        error = await here.error("printer.objects.subscribe", {"toolhead": ""}, http=True)
        assert error.status == 400
        assert "connection_id" in error.message


@pytest.mark.parametrize(
    "objects",
    [
        5,
        "toolhead",
        ["toolhead"],
        None,
        {"toolhead": "position"},
        {"toolhead": [1]},
        {"toolhead": {"a": 1}},
        {f"o{number}": None for number in range(api.MAX_OBJECTS + 1)},
        {"a": ["x"] * (api.MAX_FIELDS + 1)},
        {"a" * (api.MAX_NAMES_CHARACTERS + 1): None},
    ],
)
async def test_bad_subscriptions_are_refused(objects: object) -> None:
    async with world() as (here, fake):
        fake.requests.clear()
        error = await here.error("printer.objects.subscribe", {"objects": objects}, client=here.client())
        assert error.status == 400
        assert "'objects'" in error.message
        assert len(error.message) < 200
        assert fake.requests == []


async def test_a_subscription_without_objects_is_refused() -> None:
    async with world() as (here, _):
        with pytest.raises(ApiError, match="objects"):
            await here.ask("printer.objects.subscribe", {}, client=here.client())
