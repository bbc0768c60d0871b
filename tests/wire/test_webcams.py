"""Cameras: from the configuration, from clients, and whether they can be reached."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moonfast.components import webcam
from tests.wire.peer import peer
from tests.wire.running import Client, RpcError, free_port, restarted, running

CONFIG = "[webcam door]\nstream_url: /webcam/?action=stream\nrotation: 90\n"


async def post(client: Client, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await client.call("server.webcams.post_item", params))["webcam"]
    return found


async def refused(client: Client, method: str, **params: Any) -> int:
    with pytest.raises(RpcError) as caught:
        await client.call(f"server.webcams.{method}", params)
    return caught.value.code  # type: ignore[no-any-return]


async def names(client: Client) -> list[str]:
    return [item["name"] for item in (await client.call("server.webcams.list"))["webcams"]]


async def test_changes_stay_over_a_restart() -> None:
    async with running(CONFIG) as served:
        client = await served.client()
        made = await post(client, name="bed", stream_url="http://cam/1", extra_data={"x": [1]})
        changed = await post(client, uid=made["uid"], name="top", enabled=False)
        assert changed == {**made, "name": "top", "enabled": False}
        await client.wait_for("notify_webcams_changed", 2)
        async with restarted(served) as later:
            client = await later.client()
            assert await names(client) == ["door", "top"]
            assert (await client.call("server.webcams.get_item", {"name": "top"}))["webcam"] == changed


async def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam, "MAX_WEBCAMS", 2)
    async with running(CONFIG) as served:
        client = await served.client()
        uid = (await post(client, name="bed", stream_url="http://cam/1"))["uid"]
        for params in (
            {"name": "door", "stream_url": "http://cam"},  # it is the configuration's
            {"uid": uid, "name": "door"},
            {"name": "", "stream_url": "http://cam"},
            {"name": "x" * 3000, "stream_url": "http://cam"},
            {"uid": uid, "stream_url": ""},
            {"uid": uid, "target_fps": 0},
            {"uid": uid, "rotation": 91},
            {"uid": uid, "extra_data": "text"},
            {"name": "third", "stream_url": "http://cam"},  # there is no room
        ):
            assert await refused(client, "post_item", **params) == 400, params
        assert await refused(client, "post_item", uid="unknown", name="x", stream_url="y") == -32601
        assert await refused(client, "get_item") == 400
        assert await refused(client, "delete_item", name="door") == 400
        assert await names(client) == ["door", "bed"]


async def test_cameras_of_old_front_ends() -> None:
    async with running() as served:
        space = served.server._database.namespace("webcams")
        old = {"name": "old", "service": "uv4l", "urlStream": "/s", "flipX": True, "targetFps": 20, "rotation": "x"}
        await space.save_all({"1": old, "2": {"no": "name"}, "3": "text"})
        async with restarted(served) as later:
            client = await later.client()
            (found,) = (await client.call("server.webcams.list"))["webcams"]
            assert (found["name"], found["stream_url"], found["flip_horizontal"]) == ("old", "/s", True)
            assert (found["target_fps"], found["rotation"], found["uid"]) == (20, 0, "1")


async def test_whether_a_camera_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam, "TEST_TIMEOUT_S", 0.3)
    async with running() as served, peer() as cam:
        client = await served.client()
        monkeypatch.setattr(webcam, "LOCAL_SERVER", cam.url)
        cam.put("/endless", b"x" * 5_000_000)
        cam.put("/moved", status="302 Found", headers=f"Location: {cam.url}/secret\r\n")
        cam.put("/broken", status="500 Oops")
        cam.answers["/silent"] = None
        cam.answers["/garbage"] = b"\0\xff\r\n\r\n"
        cases = {
            "/endless": True,
            f"{cam.url}/endless": True,
            "/moved": True,  # something answers; what it leads to is not asked
            "/broken": False,
            "/silent": False,
            "/garbage": False,
            "/none": False,
            f"http://127.0.0.1:{free_port()}/": False,
            "file:///etc/passwd": False,
            "ftp://127.0.0.1/": False,
            "http://[": False,
        }
        for number, (url, expected) in enumerate(cases.items()):
            await post(client, name=f"cam{number}", stream_url=url, snapshot_url=url)
            found = await client.call("server.webcams.test", {"name": f"cam{number}"})
            assert (found["stream_reachable"], found["snapshot_reachable"]) == (expected, expected), url
        assert "/secret" not in cam.asked


async def test_slow_cameras_hold_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam, "TEST_TIMEOUT_S", 0.3)
    async with running() as served, peer() as cam:
        client, other = await served.clients(2)
        cam.answers["/silent"] = None
        await post(client, name="slow", stream_url=f"{cam.url}/silent", snapshot_url=f"{cam.url}/silent")
        waiting = [await client.start_call("server.webcams.test", {"name": "slow"}) for _ in range(3)]
        async with asyncio.timeout(1):
            for _ in range(10):
                await other.call("server.info")
        for future in waiting:
            assert (await future)["stream_reachable"] is False


async def test_a_camera_that_sends_a_byte_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam, "TEST_TIMEOUT_S", 0.4)
    async with running() as served, peer() as cam:
        client = await served.client()
        cam.dripping["/drip"] = False
        await post(client, name="drip", stream_url=f"{cam.url}/drip", snapshot_url=f"{cam.url}/drip")
        async with asyncio.timeout(5):
            for _ in range(3):
                assert (await client.call("server.webcams.test", {"name": "drip"}))["stream_reachable"] is False
        async with asyncio.timeout(5):
            while cam.writers:  # and nobody is kept waiting there
                await asyncio.sleep(0.01)


async def test_addresses_of_the_network_are_for_those_whom_the_configuration_names() -> None:
    async with peer() as cam:
        own = f"\n[webcam own]\nstream_url: {cam.put('/own', b'x').replace('127.0.0.1', 'localhost')}\n"
        text = "[authorization]\ntrusted_clients:\n    127.0.0.2\n"
        async with running(text + own) as served:
            client = await served.unix_client()
            for number, host in enumerate(("127.0.0.1", "localhost", "0", "[::ffff:127.0.0.1]")):
                url = cam.put("/hidden", b"x").replace("127.0.0.1", host)
                await post(client, name=f"cam{number}", stream_url=url, snapshot_url=url)
                found = await client.call("server.webcams.test", {"name": f"cam{number}"})
                assert (found["stream_reachable"], found["snapshot_reachable"]) == (False, False), url
            assert (await client.call("server.webcams.test", {"name": "own"}))["stream_reachable"] is True
            assert cam.asked == ["/own"]
