"""The life of the link: steps, states, notifications, faults."""

from __future__ import annotations

import asyncio
import json
import logging
import os

import pytest

from moonfast.klippy import connection, session
from moonfast.vocab import KlippyState

from .fake import FakeKlippy, Refused, until
from .world import World, world


async def test_goes_through_all_steps_until_ready() -> None:
    async with world() as (here, fake):
        methods = [name for name, _ in fake.requests]
        assert methods[:2] == ["info", "list_endpoints"]
        assert methods.index("gcode/subscribe_output") < methods.index("objects/subscribe")
        assert fake.asked("info")[0]["client_info"] == {"program": "Moonfast", "version": "v0"}
        assert here.told == ["notify_klippy_ready"]
        assert here.klippy.is_connected
        assert here.klippy.missing_requirements == []
        assert here.klippy.info["state"] == "ready"
        assert here.klippy.peer is not None
        assert here.klippy.peer.pid == os.getpid()
        assert fake.subscribed["extruder"] == ["temperature", "target", "power"]
        assert fake.subscribed["print_stats"] is None


async def test_missing_sections_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async with world(ready=False) as (here, fake):
        del fake.objects["display_status"]
        await until(lambda: here.klippy.state is KlippyState.READY)
        assert here.klippy.missing_requirements == ["display_status"]
        assert "[display_status]" in caplog.text


async def test_states_before_ready_are_shown_and_followed() -> None:
    async with world(ready=False) as (here, fake):
        fake.objects["webhooks"] = {"state": "startup", "state_message": "wait"}
        await until(lambda: here.klippy.state is KlippyState.STARTUP)
        assert here.told == []
        fake.push(webhooks={"state": "error", "state_message": "bad config"})
        await until(lambda: here.klippy.state is KlippyState.ERROR)
        assert here.klippy.info["state_message"] == "bad config"
        fake.push(webhooks={"state": "ready", "state_message": "Printer is ready"})
        await until(lambda: here.klippy.state is KlippyState.READY)
        assert here.told == ["notify_klippy_ready"]


async def test_a_clone_that_does_not_tell_its_state_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "POLL_S", 0.02)
    async with world(ready=False) as (here, fake):
        fake.objects["webhooks"] = {"state": "startup", "state_message": ""}
        await until(lambda: here.klippy.state is KlippyState.STARTUP)
        fake.objects["webhooks"] = {"state": "ready", "state_message": ""}
        await until(lambda: here.klippy.state is KlippyState.READY)


async def test_shutdown_is_announced_once() -> None:
    async with world() as (here, fake):
        fake.push(webhooks={"state": "shutdown", "state_message": "MCU"})
        fake.push(webhooks={"state": "shutdown", "state_message": "MCU again"})
        await until(lambda: here.klippy.state is KlippyState.SHUTDOWN)
        await until(lambda: here.klippy.info["state_message"] == "MCU again")
        await asyncio.sleep(0.02)
        assert here.told == ["notify_klippy_ready", "notify_klippy_shutdown"]


async def test_disconnect_ends_everything_and_the_link_comes_back() -> None:
    async with world() as (here, fake):
        client = here.client()
        await here.ask("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=client)
        waits = here.call("printer.gcode.help")
        fake.methods["gcode/help"] = lambda params: None
        waits = here.call("printer.gcode.help")
        await fake.drop()
        await until(lambda: here.klippy.state is KlippyState.DISCONNECTED)
        with pytest.raises(Exception, match="Klippy Disconnected") as caught:
            await waits
        assert caught.value.status == 503  # type: ignore[attr-defined]
        assert here.told == ["notify_klippy_ready", "notify_klippy_disconnected"]
        assert client.group is None
        assert here.status.table.names() == []
        assert here.table.by_path("/printer/extra/path") is None
        assert (await here.error("printer.info")).status == 503
        assert (
            await here.error("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=client)
        ).status == 503
        await until(lambda: here.klippy.state is KlippyState.READY)
        assert here.told[2:] == ["notify_klippy_ready"]
        assert fake.subscribed.get("toolhead") is None
        assert "toolhead" not in fake.subscribed


async def test_endpoints_of_klippy_come_and_pass_on() -> None:
    async with world() as (here, fake):
        fake.methods["extra/path"] = lambda params: {"echo": params}
        assert await here.ask("printer.extra.path", {"a": 1}) == {"echo": {"a": 1}}
        for reserved in ("list_endpoints", "gcode/subscribe_output", "register_remote_method"):
            assert here.table.by_path(f"/printer/{reserved}") is None
        verbs = here.table.by_path("/printer/extra/path")
        assert verbs is not None
        assert set(verbs) == {"GET", "POST"}


async def test_odd_endpoints_do_no_harm() -> None:
    async with world(ready=False) as (here, fake):
        fake.methods["list_endpoints"] = lambda params: {
            "endpoints": ["a/b", "a.b", "a/b", "", 5, None, "/", "info", "\u00fc/x y", "print/start", "gcode.script"]
        }
        await until(lambda: here.klippy.state is KlippyState.READY)
        fake.methods["a/b"] = lambda params: {"it": "is"}
        assert await here.ask("printer.a.b") == {"it": "is"}
        await here.ask("printer.print.start", {"filename": "x"})
        assert fake.asked("gcode/script")
        await fake.drop()
        await until(lambda: here.klippy.state is KlippyState.DISCONNECTED)
        assert not [item for item in here.table if item.is_remote]
        await until(lambda: here.klippy.state is KlippyState.READY)
        assert await here.ask("printer.a.b") == {"it": "is"}


async def test_endpoints_that_klippy_adds_while_it_starts() -> None:
    async with world(ready=False) as (here, fake):
        fake.objects["webhooks"] = {"state": "startup", "state_message": ""}
        await until(lambda: here.klippy.state is KlippyState.STARTUP)
        fake.methods["list_endpoints"] = lambda params: {"endpoints": ["info", "late/one"]}
        fake.push(webhooks={"state": "ready"})
        await until(lambda: here.klippy.state is KlippyState.READY)
        assert here.table.by_path("/printer/late/one") is not None


async def test_gcode_responses_reach_everyone_and_the_store() -> None:
    async with world() as (here, fake):
        fake.send({"method": "process_gcode_response", "params": {"response": "// ü\nline 2"}})
        fake.send({"method": "process_gcode_response", "params": {"response": 5}})
        fake.send({"method": "process_gcode_response"})
        await until(lambda: len(here.told) > 1)
        name, _, payload = here.told[1].partition(" ")
        assert name == "notify_gcode_response"
        assert json.loads(payload) == "// ü\nline 2"
        entries = (await here.ask("server.gcode_store"))["gcode_store"]
        assert [(item["message"], item["type"]) for item in entries] == [("// ü\nline 2", "response")]


@pytest.mark.parametrize(
    "junk",
    [
        b"no json\x03",
        b"\x03",
        b"[1,2]\x03",
        b'{"method": "process_status_update", "params": {"status": {"toolhead": {"x": \xff}}}}\x03',
        b'{"method": "process_status_update", "params": 5}\x03',
        b'{"method": "process_status_update", "params": {"eventtime": null, "status": null}}\x03',
        b'{"method": 5}\x03',
        b'{"method": "process_gcode_response", "params": null}\x03',
        b'{"id": 99999, "result": {}}\x03',
        b'{"id": "x", "result": {}}\x03',
        b'{"id": {}, "result": {}}\x03',
        b"{}\x03",
        b'{"method": "nobody", "params": {"a": 1}}\x03',
        b'{"method": "\\ud800"}\x03',
        b'{"method": "process_gcode_response", "params": {"response": "\\ud800"}}\x03',
        b'{"method": "process_status_update", "params": {"status": {"print_stats": {"f": "\\ud800"}}}}\x03',
    ],
)
async def test_junk_does_not_harm_the_link(junk: bytes) -> None:
    async with world() as (here, fake):
        fake.send_bytes(junk)
        assert (await here.ask("printer.info"))["state"] == "ready"
        fake.push(print_stats={"filename": "a.gcode", "f": ""})
        await until(lambda: here.status.table.field("print_stats", "filename") == b'"a.gcode"')
        assert fake.connections == 1


async def test_broken_reply_fails_its_request_only() -> None:
    async with world() as (here, fake):
        fake.methods["gcode/help"] = lambda params: None
        later = here.call("printer.gcode.help")
        await until(lambda: fake.asked("gcode/help"))
        number = here.klippy._requests._last_id
        fake.send_bytes(b'{"id": %d, "result": {"a": "\xff"}}\x03' % number)
        with pytest.raises(Exception, match="not readable"):
            await later
        assert fake.connections == 1


async def test_too_much_junk_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as (here, fake):
        fake.send_bytes(b"junk\x03" * (session.MAX_BROKEN + 1))
        await until(lambda: here.klippy.state is KlippyState.DISCONNECTED)
        assert caplog.text.count("not JSON") == 2  # the first one, and why the link was closed
        await until(lambda: here.klippy.state is KlippyState.READY)


async def test_nan_becomes_null() -> None:
    async with world() as (here, fake):
        client = here.client()
        await here.ask("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=client)
        fake.send_bytes(
            b'{"method":"process_status_update","params":{"eventtime":4.0,"status":{"toolhead":{"v":NaN,"w":-Infinity}}}}\x03'
        )
        await until(lambda: client.updates)
        assert client.updates == [{"toolhead": {"v": None, "w": None}}]
        fake.methods["gcode/help"] = lambda params: {"a": float("nan")}
        assert await here.ask("printer.gcode.help") == {"a": None}


async def test_klippy_that_answers_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "STEP_TIMEOUT_S", 0.05)
    monkeypatch.setattr(connection, "RETRY_S", 0.01)
    async with world(ready=False) as (here, fake):
        answer, fake.methods["info"] = fake.methods["info"], lambda params: None
        await until(lambda: fake.connections == 3)
        assert caplog.text.count("did not answer 'info'") == 1
        assert here.told == []
        fake.methods["info"] = answer
        await until(lambda: here.klippy.state is KlippyState.READY)


async def test_klippy_without_gcode_output_is_served() -> None:
    def refuse(params: object) -> None:
        raise Refused("unknown")

    async with world(ready=False) as (here, fake):
        fake.methods["gcode/subscribe_output"] = refuse
        fake.methods["register_remote_method"] = refuse
        here.klippy.methods.register("m", lambda params: None)
        await until(lambda: here.klippy.state is KlippyState.READY)


async def test_clone_that_sends_nulls() -> None:
    async with world(ready=False) as (here, fake):
        fake.objects["heaters"] = {"available_sensors": ["extruder", None, 5, "gone"], "available_monitors": None}
        fake.objects["extruder"] = {"temperature": 20.0, "target": None}
        answer = fake.methods["objects/subscribe"]
        fake.methods["objects/subscribe"] = lambda params: {
            **answer(params),
            "status": {**answer(params)["status"], "idle_timeout": None},
        }
        await until(lambda: here.klippy.state is KlippyState.READY)
        store = await here.ask("server.temperature_store", {"include_monitors": True})
        assert set(store) == {"extruder"}
        assert set(store["extruder"]) == {"temperatures"}


async def test_remote_methods_are_announced_and_called(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[dict[str, object]] = []

    def fails(params: dict[str, object]) -> None:
        raise RuntimeError("oh")

    async with world(ready=False) as (here, fake):
        here.klippy.methods.register("early", calls.append)
        await until(lambda: here.klippy.state is KlippyState.READY)
        here.klippy.methods.register("fails", fails)
        await until(lambda: len(fake.asked("register_remote_method")) == 2)
        assert {params["remote_method"] for params in fake.asked("register_remote_method")} == {"early", "fails"}
        for name in ("early", "fails", "unknown"):
            fake.send({"method": name, "params": {"a": 1}})
        fake.send_bytes(b'{"method": "early", "params": {"a": "\\ud800"}}\x03')
        fake.send({"method": "early"})
        await until(lambda: len(calls) == 2)
        assert calls == [{"a": 1}, {}]
        assert "'fails' failed" in caplog.text
        await fake.drop()
        await until(lambda: len(fake.asked("register_remote_method")) == 4)
        assert fake.connections == 2


async def test_starts_and_stops_often_and_leaves_nothing() -> None:
    tasks = asyncio.all_tasks()
    async with world() as (_, fake):
        path = fake.writer.get_extra_info("sockname") if fake.writer else ""
        for _ in range(20):
            other = World(path)
            other.klippy.start()
            await until(lambda other=other: other.klippy.state is KlippyState.READY)  # type: ignore[misc]
            await other.klippy.stop()
            other.temperatures.pause()
            assert len(other.klippy._requests) == 0
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == tasks


async def test_stop_in_the_middle_of_a_step() -> None:
    async with world(ready=False) as (here, fake):
        fake.methods["info"] = lambda params: None
        await until(lambda: fake.asked("info"))
        await here.klippy.stop()
        assert here.klippy.state is KlippyState.DISCONNECTED


async def test_messages_cut_anywhere_arrive(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with world() as (here, fake):
        text = json.dumps(
            {
                "method": "process_status_update",
                "params": {"eventtime": 9.0, "status": {"print_stats": {"filename": "ü"}}},
            }
        ).encode()
        for byte in text + b"\x03":
            fake.send_bytes(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: b"\\u00fc" in (here.status.table.field("print_stats", "filename") or b""))
        assert caplog.text == ""


def test_fake_is_complete() -> None:
    assert set(session.OWN_OBJECTS) <= set(FakeKlippy().objects)
