"""[notifier] with the real Apprise, against a web server of the tests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from moonfast.components import notifier
from moonfast.components.notifier import MAX_WAITING
from moonfast.data_path import Options
from moonfast.host import shell
from moonfast.vocab import KlippyState
from tests.wire.running import RpcError, make_options, restarted, running, until

PRINT = {"print_stats": {"state": "printing", "filename": "cube.gcode"}}


class Hook:
    """Takes what the service `json://` of Apprise sends. `status` is what it answers."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.status = 200
        self.is_mute = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.001)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.rstrip().split("\r\n")[1:])
                self.asked.append(head.split("\r\n")[0].rpartition(" ")[0])
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if self.is_mute:
                    await reader.read()
                if body:
                    self.received.append(json.loads(body))
                writer.write(f"HTTP/1.1 {self.status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
                await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def said(self) -> list[tuple[str, str]]:
        return [(item["title"], item["message"]) for item in self.received]


@contextlib.asynccontextmanager
async def hook() -> AsyncIterator[tuple[Hook, int]]:
    made = Hook()
    port = await made.listen()
    try:
        yield made, port
    finally:
        await made.close()


async def test_events_of_a_job_are_told() -> None:
    async with hook() as (web, port):
        config = f"""
[notifier phone]
url: json://127.0.0.1:{port}/x
events: started, complete
title: {{event_name}}
body: {{event_args[0].state}} then {{event_args[1].state}}: {{event_args[1].filename}}{{event_message}}

[notifier all]
url: json://127.0.0.1:{port}/x
events: *
"""
        async with running(config) as served:
            served.klippy.push(PRINT)
            await until(lambda: len(web.received) == 2)
            served.klippy.push({"print_stats": {"state": "paused"}})
            served.klippy.push({"print_stats": {"state": "complete"}})
            await until(lambda: len(web.received) == 5)
        assert web.said() == [
            ("started", "standby then printing: cube.gcode"),
            ("", "all"),
            ("", "all"),
            ("complete", "paused then complete: cube.gcode"),
            ("", "all"),
        ]


async def test_a_macro_tells_something_and_secrets_are_known() -> None:
    async with hook() as (web, port):
        config = (
            "\n[notifier phone]\nurl: json://127.0.0.1:{secrets.hook.port}/x\nevents: gcode\nbody: {event_message}\n"
        )
        async with running(config) as first:
            with open(os.path.join(first.data_path, "moonraker.secrets"), "w") as stream:
                stream.write(f"[hook]\nport: {port}\n")
            async with restarted(first) as served:
                await served.wait_state(KlippyState.READY)
                registered = [
                    params
                    for params in served.klippy.asked("register_remote_method")
                    if params["remote_method"] == "notify"
                ]
                template = registered[-1]["response_template"]
                for arguments in (
                    {"name": "nobody", "message": "x"},
                    {"message": "x"},
                    {"name": "phone", "message": "Filament { change }"},
                ):
                    served.klippy.peer.send({**template, "params": arguments})
                await until(lambda: web.received)
                assert web.said() == [("", "Filament { change }")]
                client = await served.client()
                (shown,) = (await client.call("server.notifiers.list"))["notifiers"]
                assert shown["url"] == "json://127.0.0.1:{secrets.hook.port}/x"


async def test_attachments_go_along_and_missing_ones_do_not_stop_it() -> None:
    async with hook() as (web, port):
        config = f"""
[notifier phone]
url: json://127.0.0.1:{port}/x
events: started
body: *it* runs
body_format: markdown
attach:
    http://127.0.0.1:{port}/picture.txt
    /no/such/{{event_args[1].filename}}
    {{event_message}}
"""
        async with running(config) as served:
            served.klippy.push(PRINT)
            await until(lambda: web.received)
        assert web.asked == ["GET /picture.txt", "POST /x"]
        (sent,) = web.received
        assert [base64.b64decode(item["base64"]) for item in sent["attachments"]] == [b"ok"]


async def test_the_test_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_debug(data_path: str) -> Options:
        return dataclasses.replace(make_options(data_path), debug=True)

    monkeypatch.setattr("tests.wire.running.make_options", with_debug)
    async with hook() as (web, port):
        config = f"""
[notifier good]
url: json://127.0.0.1:{port}/x
events: error
body: {{event_name}} {{event_args[1].filename}}

[notifier unknown]
url: nothing://x
events: error

[notifier failing]
url: json://127.0.0.1:{port}/x
events: error
body: {{event_args[5].filename}}
"""
        async with running(config) as served:
            client = await served.client()
            answer = await client.call("debug.notifiers.test", {"name": "good"})
            assert answer["status"] == "success"
            assert answer["stats"]["filename"] == "notifier_test.gcode"
            assert web.said() == [("", "test notifier_test.gcode")]
            web.status = 500
            for name, fault in (
                ("good", "500"),
                ("unknown", "not one that Apprise knows"),
                ("failing", "[notifier failing] body: the template failed"),
            ):
                with pytest.raises(RpcError) as caught:
                    await client.call("debug.notifiers.test", {"name": name})
                assert caught.value.code == 503
                assert fault in caught.value.message
            with pytest.raises(RpcError) as caught:
                await client.call("debug.notifiers.test", {"name": "x"})
            assert caught.value.code == 400


async def test_the_test_is_not_there_without_the_flag() -> None:
    async with running("\n[notifier a]\nurl: json://x\nevents: *\n") as served:
        assert (await served.http("POST", "/debug/notifiers/test", {"name": "a"}))[0] == 404


async def test_a_wrong_section_does_not_stop_the_others() -> None:
    config = """
[notifier no_url]
events: *

[notifier no_events]
url: json://x

[notifier template]
url: json://x
events: *
body: {% if %}

[notifier format]
url: json://x
events: *
body_format: pdf

[notifier odd]
url: json://x
events: finished

[notifier good]
url: json://x
events: paused,resumed
"""
    async with running(config) as served:
        client = await served.client()
        listed = (await client.call("server.notifiers.list"))["notifiers"]
        assert [item["name"] for item in listed] == ["odd", "good"]
        assert listed[1]["events"] == ["paused", "resumed"]
        info = await client.call("server.info")
        assert info["failed_components"] == []
        for name in ("no_url", "no_events", "template", "format", "odd"):
            assert any(f"[notifier {name}]" in warning for warning in info["warnings"]), name


async def test_a_service_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifier, "TIMEOUT_S", 1.5)
    async with hook() as (web, port):
        web.is_mute = True
        async with running(f"\n[notifier phone]\nurl: json://127.0.0.1:{port}/x\nevents: *\n") as served:
            served.klippy.push(PRINT)
            await until(lambda: "did not take it within 1.5 s" in caplog.text)
            assert not children()


async def test_the_server_stops_while_it_sends() -> None:
    async with hook() as (web, port):
        web.is_mute = True
        async with running(f"\n[notifier phone]\nurl: json://127.0.0.1:{port}/x\nevents: *\n") as served:
            served.klippy.push(PRINT)
            await until(lambda: web.asked)
        assert not children()


async def test_too_many_are_dropped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gate = asyncio.Event()
    bodies: list[str] = []

    async def run(program: Sequence[str], *, timeout_s: float, given: bytes) -> shell.Ended:
        bodies.append(json.loads(given)["body"])
        await gate.wait()
        return shell.Ended(0, '{"is_sent": true, "faults": []}', "")

    monkeypatch.setattr(shell, "run", run)
    async with running("\n[notifier a]\nurl: json://x\nevents: paused, resumed\nbody: {event_name}\n") as served:
        served.klippy.push(PRINT)
        states = ["paused", "printing"] * MAX_WAITING
        for state in states:
            served.klippy.push({"print_stats": {"state": state}})
        await until(lambda: f"{MAX_WAITING} notifications wait" in caplog.text)
        assert bodies == ["paused"]  # one at a time
        gate.set()
        await until(lambda: len(bodies) >= MAX_WAITING)
        await asyncio.sleep(0.05)
        assert len(bodies) <= MAX_WAITING + 1


async def test_without_apprise_the_section_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "find_spec", lambda name: None)
    async with running("\n[notifier a]\nurl: json://x\nevents: *\n") as served:
        client = await served.client()
        info = await client.call("server.info")
        assert info["failed_components"] == ["notifier"]


async def test_the_library_is_not_imported_by_the_server() -> None:
    code = (
        "import sys, moonfast.components.notifier as n; sys.exit('apprise' in sys.modules or 'jinja2' in sys.modules)"
    )
    ended = await shell.run((sys.executable, "-c", code), timeout_s=20.0)
    assert ended.is_good, ended.errors


def children() -> list[str]:
    """Programs that were begun here and still run."""
    with open(f"/proc/self/task/{os.getpid()}/children") as stream:
        return [pid for pid in stream.read().split() if b"notify_child" in command_line(pid)]


def command_line(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read()
    except OSError:
        return b""
