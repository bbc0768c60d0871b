"""The life of the link to Klippy as clients see it: what it does right, what it does wrong, and how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import replace
from typing import Any

import pytest

from moonfast.klippy import connection, session
from moonfast.vocab import KlippyState
from tests.wire.fake_klippy import ETX, NO_ANSWER, FakeKlippy, Refused
from tests.wire.raw import WAIT_S
from tests.wire.running import RpcError, Running, running, until


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for Klippy more often than once in a quarter of a second."""
    monkeypatch.setattr(connection, "RETRY_S", 0.02)
    monkeypatch.setattr(connection, "MAX_RETRY_S", 0.05)


def life(client: Any) -> list[str]:
    """The notifications of Klippy's state, in order."""
    return [name.removeprefix("notify_klippy_") for name in client.methods() if name.startswith("notify_klippy_")]


async def again(served: Running) -> None:
    """Wait for the next connection to Klippy that gets as far as ready."""
    await served.wait_state(KlippyState.READY)


# how it begins


async def test_the_steps_of_a_connection() -> None:
    async with running() as served:
        asked = [
            method for method, _ in served.klippy.requests if method not in ("objects/query", "register_remote_method")
        ]
        assert asked[:4] == ["info", "list_endpoints", "gcode/subscribe_output", "objects/subscribe"]
        assert served.klippy.asked("info")[0]["client_info"]["program"] == "Moonfast"
        client = await served.client()
        assert await client.call("printer.extra.path", {"a": 1}) == "ok"  # what Klippy offers is an endpoint
        assert served.klippy.requests[-1] == ("extra/path", {"a": 1})
        info = await client.call("server.info")
        assert (info["klippy_state"], info["missing_klippy_requirements"]) == ("ready", [])


async def test_klippy_comes_later() -> None:
    klippy = FakeKlippy()
    async with running(klippy=klippy, is_ready=False) as served:
        await klippy.close()
        await until(lambda: not served.server.klippy.is_connected)
        client = await served.client()
        with pytest.raises(RpcError, match="Klippy Host not connected") as refused:
            await client.call("printer.info")
        assert refused.value.code == 503
        with pytest.raises(RpcError, match="Klippy Host not connected"):
            await client.call("printer.extra.path")
        status, answer = await served.http("GET", "/printer/info")
        assert (status, answer["error"]["message"]) == (503, "Klippy Host not connected")
        await _listen_again(served)
        await client.wait_for("notify_klippy_ready")
        assert (await client.call("printer.info"))["state"] == "ready"


async def test_startup_then_error_then_ready() -> None:
    klippy = FakeKlippy()
    klippy.objects["webhooks"] = {"state": "startup", "state_message": "Printer is not ready"}
    async with running(klippy=klippy, is_ready=False) as served:
        client = await served.client()
        await served.wait_state(KlippyState.STARTUP)
        assert (await client.call("server.info"))["klippy_connected"] is True
        klippy.set_state("error", "mcu 'mcu': Unable to connect")
        await served.wait_state(KlippyState.ERROR)
        assert (await client.call("printer.info"))["state_message"] == "mcu 'mcu': Unable to connect"
        assert not client.messages
        klippy.set_state("ready", "Printer is ready")
        await client.wait_for("notify_klippy_ready")
        assert life(client) == ["ready"]


async def test_a_clone_that_does_not_push_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "POLL_S", 0.02)
    klippy = FakeKlippy()
    klippy.objects["webhooks"]["state"] = "startup"
    async with running(klippy=klippy, is_ready=False) as served:
        await served.wait_state(KlippyState.STARTUP)
        klippy.objects["webhooks"]["state"] = "ready"
        await again(served)


@pytest.mark.parametrize(
    "heaters",
    [
        {"available_sensors": ["extruder"], "available_monitors": None},
        {"available_sensors": None, "available_monitors": None},
        {"available_sensors": None},
        {"available_sensors": ["extruder", "not there", 5], "available_monitors": ["nor this"]},
        {},
        None,
    ],
)
async def test_clones_that_send_null_for_a_list(heaters: Any) -> None:
    klippy = FakeKlippy()
    klippy.objects["heaters"] = heaters
    klippy.handlers["objects/query"] = lambda params: {
        "eventtime": 1.0,
        "status": {name: klippy.objects.get(name, {}) for name in params["objects"]},
    }
    async with running(klippy=klippy) as served:
        client = await served.client()
        store = await client.call("server.temperature_store")
        has_sensor = bool(heaters and heaters.get("available_sensors"))
        assert list(store) == (["extruder"] if has_sensor else [])


async def test_clones_that_send_null_for_objects() -> None:
    klippy = FakeKlippy()
    klippy.handlers["objects/list"] = lambda params: {"objects": None}
    klippy.handlers["list_endpoints"] = lambda params: {"endpoints": None}
    async with running(klippy=klippy) as served:
        client = await served.client()
        assert (await client.call("server.info"))["missing_klippy_requirements"] == [
            "virtual_sdcard",
            "display_status",
            "pause_resume",
        ]
        assert await client.call("printer.objects.list") == {"objects": None}
        klippy.peer.send({"method": "process_status_update", "params": {"eventtime": 1, "status": {"toolhead": None}}})
        klippy.peer.send({"method": "process_status_update", "params": None})
        klippy.peer.send({"method": "process_gcode_response", "params": {"response": None}})
        assert await client.subscribe({"toolhead": None})


async def test_a_clone_that_does_not_tell_gcode_responses() -> None:
    klippy = FakeKlippy()

    def refuse(params: dict[str, Any]) -> Any:
        raise Refused("webhooks: No registered callback for path 'gcode/subscribe_output'")

    klippy.handlers["gcode/subscribe_output"] = refuse
    async with running(klippy=klippy):
        pass


# how it goes on


async def test_requests_and_errors_pass_through() -> None:
    async with running() as served:
        client = await served.client()

        def run(params: dict[str, Any]) -> Any:
            if params["script"] == "BAD":
                raise Refused('Unknown command:"BAD"\n<second line>')
            return {}

        served.klippy.handlers["gcode/script"] = run
        assert await client.call("printer.gcode.script", {"script": "G28"}) == "ok"
        with pytest.raises(RpcError) as failed:
            await client.call("printer.gcode.script", {"script": "BAD"})
        assert (failed.value.code, failed.value.message) == (400, 'Unknown command:"BAD"\n<second line>')
        status, answer = await served.http("POST", "/printer/gcode/script?script=BAD")
        assert (status, answer["error"]["code"]) == (400, 400)
        served.klippy.handlers["gcode/help"] = lambda params: NO_ANSWER
        slow = await client.start_call("printer.gcode.help")
        assert (await client.call("printer.info"))["state"] == "ready"  # a slow call holds up no other
        assert not slow.done()


async def test_an_http_connection_ends_with_klippys_answer() -> None:
    async with running() as served:
        site = served.server._site
        site.limits = replace(site.limits, linger_s=1000.0, idle_s=1000.0)  # what is not closed at once stays open
        async with asyncio.timeout(WAIT_S):
            assert (await served.http("GET", "/printer/info"))[0] == 200  # with "Connection: close"


async def test_gcode_responses_reach_everyone_in_order() -> None:
    async with running() as served:
        clients = [*await served.clients(3), await served.unix_client()]
        await clients[3].identify()
        texts = [f'// line {number} \u00fc "quoted" \\n' for number in range(200)]
        for text in texts:
            served.klippy.respond(text)
        for client in clients:
            await client.wait_for("notify_gcode_response", 200)
            assert client.of("notify_gcode_response") == [[text] for text in texts]
        store = (await clients[0].call("server.gcode_store"))["gcode_store"]
        assert [entry["message"] for entry in store] == texts


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_json_does_not_have_become_null(word: str) -> None:
    async with running() as served:
        client = await served.client()
        await client.subscribe({"toolhead": None})
        served.klippy.send_bytes(
            b'{"method": "process_status_update", "params": {"eventtime": 1e-05, "status": '
            b'{"toolhead": {"position": [1.0, %b, 1e-05], "max": %b}}}}\x03' % (word.encode(), word.encode())
        )
        update = await client.wait_for("notify_status_update")
        assert update == [{"toolhead": {"position": [1.0, None, 1e-05], "max": None}}, 1e-05]
        assert (await client.subscribe({"toolhead": ["max"]}))["status"] == {"toolhead": {"max": None}}
        served.klippy.handlers["objects/query"] = lambda params: {"status": {"toolhead": {"max": float(word)}}}
        assert await client.call("printer.objects.query", {"objects": {"toolhead": None}}) == {
            "status": {"toolhead": {"max": None}}
        }


async def test_any_cut_of_what_klippy_sends() -> None:
    async with running() as served:
        client = await served.client()
        await client.subscribe({"gcode_move": ["speed"]})
        messages = [
            {
                "method": "process_status_update",
                "params": {"eventtime": float(n), "status": {"gcode_move": {"speed": n}}},
            }
            for n in range(40)
        ]
        data = b"".join(json.dumps(message).encode() + ETX for message in messages)
        for start in range(0, len(data), 17):
            served.klippy.send_bytes(data[start : start + 17])
            await asyncio.sleep(0)
        await client.wait_for("notify_status_update", 40)
        assert [update[1] for update in client.of("notify_status_update")] == [float(n) for n in range(40)]


async def test_shutdown_and_restart() -> None:
    async with running() as served:
        client, other = await served.clients(2)
        served.klippy.set_state("shutdown", "Emergency stop")
        await client.wait_for("notify_klippy_shutdown")
        assert (await client.call("server.info"))["klippy_state"] == "shutdown"

        def drop(params: dict[str, Any]) -> Any:
            served.klippy.objects["webhooks"] = {"state": "ready", "state_message": "Printer is ready"}
            served.klippy.peer.transport.abort()
            return NO_ANSWER

        served.klippy.handlers["gcode/firmware_restart"] = drop
        assert await client.call("printer.firmware_restart") == "ok"  # dropping the link is how Klippy says yes
        await client.wait_for("notify_klippy_ready")
        await other.wait_for("notify_klippy_ready")
        assert life(client) == life(other) == ["shutdown", "disconnected", "ready"]


@pytest.mark.parametrize("script", ["RESTART", "  firmware_restart \n", "G28\nRESTART"])
async def test_a_script_that_restarts(script: str) -> None:
    async with running() as served:
        client = await served.client()

        def drop(params: dict[str, Any]) -> Any:
            served.klippy.peer.transport.abort()
            return NO_ANSWER

        served.klippy.handlers["gcode/script"] = drop
        assert await client.call("printer.gcode.script", {"script": script}) == "ok"
        with pytest.raises(RpcError, match="Klippy"):
            await client.call("printer.gcode.script", {"script": "G28"})


# how it ends


async def test_requests_in_flight_when_klippy_goes() -> None:
    async with running() as served:
        client, unix = await served.client(), await served.unix_client()
        await client.subscribe({"toolhead": None})
        served.klippy.silent |= {"gcode/script", "info", "objects/subscribe"}
        waiting = [
            await client.start_call("printer.gcode.script", {"script": "G28"}),
            await client.start_call("printer.info"),
            await unix.start_call("printer.objects.subscribe", {"objects": {"gcode_move": None}}),
        ]
        over_http = asyncio.get_running_loop().create_task(served.http("GET", "/printer/info"))
        await until(lambda: len(served.klippy.unanswered) == 4)
        served.klippy.silent.clear()
        await served.klippy.drop()
        for future in waiting:
            with pytest.raises(RpcError, match="Klippy Disconnected") as failed:
                await future
            assert failed.value.code == 503
        status, answer = await over_http
        assert (status, answer["error"]["message"]) == (503, "Klippy Disconnected")
        await client.wait_for("notify_klippy_ready")
        assert life(client) == ["disconnected", "ready"]
        served.klippy.push({"toolhead": {"homed_axes": "x"}})
        await client.call("printer.info")
        assert not client.of("notify_status_update")  # subscriptions ended with the connection
        assert (await client.subscribe({"toolhead": ["homed_axes"]}))["status"]["toolhead"] == {"homed_axes": "x"}


async def test_it_comes_back_time_and_again() -> None:
    async with running() as served:
        client = await served.client()
        for number in range(1, 6):
            await served.klippy.drop()
            await client.wait_for("notify_klippy_ready", number)
        assert life(client) == ["disconnected", "ready"] * 5
        assert served.klippy.connections == 6


async def test_half_a_message_then_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as served:
        client = await served.client()
        served.klippy.send_bytes(b'{"method": "process_gcode_response", "params": {"response": "ha')
        await client.call("server.info")
        served.klippy.peer.transport.close()
        await client.wait_for("notify_klippy_ready")
        assert life(client) == ["disconnected", "ready"]
        assert not client.of("notify_gcode_response")


async def test_garbage_now_and_then_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as served:
        client = await served.client()
        with caplog.at_level(logging.WARNING):
            for garbage in (
                b"",
                b"no json",
                b"\xff\xfe",
                b"[1, 2]",
                b'"text"',
                b'{"method": 5}',
                b'{"id": {}}',
                b"{" * 99,
            ):
                served.klippy.send_bytes(garbage + ETX)
            served.klippy.send_bytes(b'{"method": "process_status_update", "params": {"status": [1]}}' + ETX)
            served.klippy.send_bytes(b'{"method": "process_status_update", "params": 7}' + ETX)
            served.klippy.send_bytes(b'{"id": 999999, "result": {}}' + ETX)
            served.klippy.respond("still here")
            await client.wait_for("notify_gcode_response")
        assert len([record for record in caplog.records if "not JSON" in record.message]) == 1
        assert served.klippy.connections == 1


async def test_garbage_and_nothing_else(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as served:
        client = await served.client()
        served.klippy.send_bytes((b"garbage" + ETX) * 200)
        await client.wait_for("notify_klippy_ready")
        assert life(client) == ["disconnected", "ready"]


async def test_a_broken_answer_is_an_error_for_who_waits() -> None:
    async with running() as served:
        client = await served.client()

        def broken(params: dict[str, Any]) -> Any:
            request_id = served.server.klippy._requests._last_id
            served.klippy.send_bytes(b'{"id": %d, "result": {"x": "\xff"}}\x03' % request_id)
            return NO_ANSWER

        served.klippy.handlers["gcode/help"] = broken
        with pytest.raises(RpcError, match="not readable") as failed:
            await client.call("printer.gcode.help")
        assert failed.value.code == 503


async def test_a_message_over_the_limit(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(connection, "MAX_MESSAGE_BYTES", 20_000)
    async with running() as served:
        client = await served.client()
        served.klippy.respond("x" * 19_000)
        await client.wait_for("notify_gcode_response")
        with caplog.at_level(logging.WARNING):
            served.klippy.respond("last words")
            served.klippy.respond("x" * 21_000)
            await client.wait_for("notify_klippy_ready")
        assert client.of("notify_gcode_response")[1:] == [["last words"]]
        assert life(client) == ["disconnected", "ready"]
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def test_a_klippy_that_says_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(session, "STEP_TIMEOUT_S", 0.15)
    klippy = FakeKlippy()
    klippy.is_mute = True
    async with running(klippy=klippy, is_ready=False) as served:
        client = await served.client()
        await until(lambda: klippy.peers)
        with pytest.raises(RpcError, match="Klippy") as failed:
            await client.call("printer.info")
        assert failed.value.code == 503
        await until(lambda: klippy.connections >= 3)  # it goes on trying
        assert len([record for record in caplog.records if "Klippy's connection was closed" in record.message]) == 1
        assert not life(client)
        klippy.is_mute = False
        await client.wait_for("notify_klippy_ready")


@pytest.mark.parametrize("method", ["list_endpoints", "gcode/subscribe_output", "objects/subscribe", "objects/list"])
async def test_a_klippy_that_stops_answering_on_the_way(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STEP_TIMEOUT_S", 0.05)
    klippy = FakeKlippy()
    klippy.silent.add(method)
    async with running(klippy=klippy, is_ready=False) as served:
        client = await served.client()
        await until(lambda: klippy.connections >= 2)
        klippy.silent.clear()
        await client.wait_for("notify_klippy_ready")
        assert life(client)[-1] == "ready"


async def test_a_program_that_is_not_klippy(caplog: pytest.LogCaptureFixture) -> None:
    klippy = FakeKlippy()
    klippy.is_mute = True
    klippy.greeting = (b"SSH-2.0-OpenSSH_9.2\r\n" + ETX) * 150
    async with running(klippy=klippy, is_ready=False) as served:
        client = await served.client()
        await until(lambda: klippy.connections >= 3)
        assert (await client.call("server.info"))["klippy_connected"] is False
        assert len([record for record in caplog.records if "Klippy's connection was closed" in record.message]) == 1
        klippy.greeting, klippy.is_mute = b"", False
        await client.wait_for("notify_klippy_ready")


async def test_emergency_stop_passes_what_waits() -> None:
    async with running() as served:
        client = await served.client()
        served.klippy.peer.transport.pause_reading()
        scripts = [
            await client.start_call("printer.gcode.script", {"script": f"M117 {number:03}" + "x" * 100_000})
            for number in range(60)
        ]
        over_http = asyncio.get_running_loop().create_task(served.http("GET", "/printer/info"))
        await client.call("server.info")
        stop = await client.start_call("printer.emergency_stop")
        await client.call("server.info")
        served.klippy.requests.clear()
        served.klippy.peer.transport.resume_reading()
        assert await stop == "ok"
        assert await asyncio.gather(*scripts) == ["ok"] * 60
        assert (await over_http)[0] == 200
        asked = [method for method, _ in served.klippy.requests]
        # before it there is only what the kernel had taken already, and one message that it had taken a part of
        assert asked.index("emergency_stop") < 10
        numbers = [int(params["script"][5:8]) for params in served.klippy.asked("gcode/script")]
        assert numbers == sorted(numbers)  # all others keep their order


async def test_a_klippy_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_UNSENT_BYTES", 500_000)
    async with running() as served:
        client = await served.client()
        served.klippy.peer.transport.pause_reading()
        futures = [await client.start_call("printer.gcode.script", {"script": "x" * 100_000}) for _ in range(20)]
        for outcome in await asyncio.gather(*futures, return_exceptions=True):
            assert isinstance(outcome, RpcError)
            assert outcome.code == 503
        await client.wait_for("notify_klippy_ready")


async def _listen_again(served: Running) -> None:
    os.unlink(served.klippy_path)
    await served.klippy.listen(served.klippy_path)
