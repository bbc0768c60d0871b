"""Light strips against one in software, over HTTP and over a serial port."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from typing import Any

import pytest

from tests.wire.power.plugs import Plug, serving
from tests.wire.running import Client, RpcError, free_port, running, until


class Strip(Plug):
    """WLED's JSON API, as far as it is used: what it was told, and what it would not have understood."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[dict[str, Any]] = []

    def answer(self, verb: str, path: str, query: dict[str, str], headers: dict[str, str], body: Any) -> Any:
        if (verb, path) != ("POST", "/json/state") or set(body) - {"on", "bri", "ps", "tt", "seg"}:
            return self.refuse(f"{verb} {path} {body}")
        if set(body.get("seg", {})) - {"col", "fx", "sx", "ix", "i"}:
            return self.refuse(str(body))
        self.states.append(body)
        return {"success": True}


async def control(client: Client, **arguments: Any) -> Any:
    return (await client.call("machine.wled.post_strip", {"strip": "case", **arguments}))["case"]


async def test_a_strip_over_http() -> None:
    async with serving(Strip) as strip:
        assert isinstance(strip, Strip)
        text = f"[wled case]\naddress: 127.0.0.1:{strip.port}\ninitial_red: 1\ninitial_green: 0\nchain_count: 3\n"
        async with running(text) as served:
            client = await served.client()
            await until(lambda: strip.states)
            assert strip.states == [{"on": True, "seg": {"col": [[255, 0, 128, 0]], "fx": 0}, "tt": 0}]
            info = (await client.call("machine.wled.strips"))["strips"]["case"]
            assert info == {
                "strip": "case",
                "status": "on",
                "chain_count": 3,
                "preset": -1,
                "brightness": -1,
                "intensity": -1,
                "speed": -1,
                "error": None,
            }
            found = await control(client, action="on", preset=3, brightness=200, intensity=50, speed=180)
            assert (found["preset"], found["brightness"], found["intensity"], found["speed"]) == (3, 200, 50, 180)
            assert strip.states[-1] == {"on": True, "ps": 3, "bri": 200, "seg": {"ix": 50, "sx": 180}}
            assert (await control(client, action="control", brightness=10))["brightness"] == 10
            assert strip.states[-1] == {"bri": 10}
            assert (await client.call("machine.wled.toggle", {"case": None}))["case"]["status"] == "off"
            assert strip.states[-1] == {"on": False}
            found = await client.call("machine.wled.on", {"case": None, "nosuch": None})
            assert (found["case"]["status"], found["nosuch"]) == ("on", {"error": "strip_not_found"})
            assert (await client.call("machine.wled.status", {"case": None}))["case"]["status"] == "on"
            assert (await client.call("machine.wled.get_strip", {"strip": "case"}))["case"]["status"] == "on"
            for wrong in (
                {"action": "blink"},
                {"action": "on", "brightness": 0},
                {"action": "on", "speed": 256},
                {"strip": "nosuch", "action": "on"},
            ):
                with pytest.raises(RpcError) as caught:
                    await control(client, **wrong)
                assert caught.value.code == 400
            assert strip.wrong == []


async def test_macros() -> None:
    async with serving(Strip) as strip:
        assert isinstance(strip, Strip)
        async with running(f"[wled case]\naddress: 127.0.0.1:{strip.port}\nchain_count: 3\n") as served:
            await until(lambda: strip.states)

            def call(method: str, **arguments: Any) -> None:
                served.klippy.peer.send({"method": method, "params": {"strip": "case", **arguments}})

            call("set_wled", red=1, index=1, transmit=0)
            call("set_wled", green=1, blue=0.5, index=3, transmit=1)
            await until(lambda: len(strip.states) == 2)
            assert strip.states[-1]["seg"] == {"i": [0, [255, 0, 0, 0], 2, [0, 255, 128, 0]]}
            call("set_wled", white=1, index=-1)
            await until(lambda: len(strip.states) == 3)
            assert strip.states[-1]["seg"] == {"col": [[0, 0, 0, 255]], "fx": 0}
            call("set_wled", index="x")
            call("set_wled_state", state=False)
            await until(lambda: strip.states[-1] == {"on": False})
            call("set_wled_state", state=True, preset=7)
            await until(lambda: strip.states[-1] == {"on": True, "ps": 7})
            call("set_wled_state", brightness=20, preset=-1)
            await until(lambda: strip.states[-1] == {"bri": 20})
            assert strip.wrong == []


async def test_one_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    text = f"[wled case]\naddress: 127.0.0.1:{free_port()}\n[wled bad]\ntype: serial\n[wled worse]\ntype: radio\n"
    async with running(text) as served:
        client = await served.client()
        for _ in range(3):
            assert (await control(client, action="on"))["error"] is not None
        assert sum("cannot be reached" in item.message for item in caplog.records) == 1
        warnings = "\n".join((await client.call("server.info"))["warnings"])
        assert "[wled bad]" in warnings
        assert "[wled worse]" in warnings


async def test_a_strip_at_a_serial_port() -> None:
    pytest.importorskip("serial")
    leader, follower = pty.openpty()
    try:
        async with running(f"[wled case]\ntype: serial\nserial: {os.ttyname(follower)}\ninitial_preset: 4\n") as served:
            client = await served.client()
            text = await asyncio.to_thread(os.read, leader, 4096)
            assert json.loads(text) == {"on": True, "ps": 4}
            assert (await control(client, action="off"))["status"] == "off"
            assert json.loads(await asyncio.to_thread(os.read, leader, 4096)) == {"on": False}
    finally:
        os.close(leader)
        os.close(follower)
