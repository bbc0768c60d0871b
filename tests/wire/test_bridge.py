"""`/klippysocket`: messages to Klippy and back, on a Klippy connection of its own."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from moonfast.transports import hub, websocket
from tests.wire.fake_klippy import ETX, FakeKlippy
from tests.wire.raw import CONT, PING, PONG, TEXT, close_frame, frame, open_raw, raw_socket
from tests.wire.running import running, until

PATH = "/klippysocket"


def request(number: int, method: str = "info") -> bytes:
    return json.dumps({"id": number, "method": method, "params": {}}).encode()


async def test_passes_messages_both_ways() -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        await client.send(frame(request(1)) + frame(request(2, "objects/list")))
        assert (await client.recv_json())["result"]["state"] == "ready"
        assert (await client.recv_json())["id"] == 2
        await until(lambda: len(served.klippy.peers) == 2)
        own, bridge = served.klippy.peers
        assert own is served.klippy.peer
        template = {"response_template": {"method": "mine", "key": 5}, "objects": {"toolhead": ["homed_axes"]}}
        await client.send_json({"id": 3, "method": "objects/subscribe", "params": template})
        assert (await client.recv_json())["id"] == 3
        served.klippy.push({"toolhead": {"homed_axes": "xyz"}})
        update = await client.recv_json("mine")
        assert update["key"] == 5
        assert update["params"]["status"] == {"toolhead": {"homed_axes": "xyz"}}
        bridge.transport.write(b'{"half":')
        await asyncio.sleep(0.01)
        bridge.transport.write(b"1}" + ETX + b'{"next":2}' + ETX)
        assert (await client.recv()).payload == b'{"half":1}'
        assert (await client.recv()).payload == b'{"next":2}'


async def test_is_a_websocket_like_any_other() -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        text = request(1)
        await client.send(frame(text[:5], TEXT, fin=False) + frame(b"p", PING) + frame(text[5:], CONT))
        assert {(await client.recv()).opcode, (await client.recv()).opcode} == {PONG, TEXT}
        assert served.server.hub.websocket_count == 1
        assert not served.server.hub.connections  # no notifications of the server's
        await client.send(close_frame(1000))
        assert (await client.recv()).code == 1000
        assert await client.end()
        await until(lambda: len(served.klippy.peers) == 1)  # its connection to Klippy has ended, too


async def test_ends_with_klippy() -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        await client.send(frame(request(1)))
        await client.recv()
        await served.klippy.drop()
        assert (await client.recv()).code == 1001
        await client.send(close_frame(1001))
        assert await client.end()


async def test_is_closed_without_klippy() -> None:
    klippy = FakeKlippy()
    async with running(klippy=klippy, is_ready=False) as served:
        await klippy.close()
        os.unlink(served.klippy_path)
        async with raw_socket(served.port, PATH) as client:
            await client.send(frame(request(1)))
            assert (await client.recv()).code == 1013
            await client.send(close_frame(1013))
            assert await client.end()  # at once, though it was not read while Klippy was being reached


@pytest.mark.parametrize("payload", [b'{"id": 1}\x03{"id": 2}', b"\x03"])
async def test_a_message_must_not_become_two(payload: bytes) -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        await client.send(frame(request(1)))
        await client.recv()
        count = len(served.klippy.requests)
        await client.send(frame(payload))
        assert (await client.recv()).code == 1008
        await client.send(close_frame(1008))
        assert await client.end()
        assert len(served.klippy.requests) == count


async def test_a_klippy_that_does_not_read_holds_the_client_back() -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        await client.send(frame(request(1)))
        await client.recv()
        served.klippy.peers[1].transport.pause_reading()
        text = json.dumps({"id": 2, "method": "gcode/script", "params": {"script": "x" * 100_000}}).encode()
        sending = asyncio.get_running_loop().create_task(client.send(frame(text) * 400))
        await asyncio.sleep(0.1)
        assert not sending.done()  # 40 MB do not pile up in between
        served.klippy.peers[1].transport.resume_reading()
        await sending
        for _ in range(400):
            assert (await client.recv_json())["id"] == 2


async def test_klippy_goes_while_the_client_is_held_back() -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        await client.send(frame(request(1)))
        await client.recv()
        served.klippy.peers[1].transport.pause_reading()
        text = json.dumps({"id": 2, "method": "gcode/script", "params": {"script": "x" * 100_000}}).encode()
        sending = asyncio.get_running_loop().create_task(client.send(frame(text) * 400))
        await asyncio.sleep(0.05)
        await served.klippy.drop()
        assert (await client.recv()).code == 1001
        await sending
        await client.send(close_frame(1001))
        assert await client.end()


async def test_a_client_that_goes_at_once() -> None:
    async with running() as served:
        for _ in range(10):
            client = await open_raw(served.port, PATH)
            client.writer.transport.abort()
        await until(lambda: served.server.hub.websocket_count == 0 and len(served.klippy.peers) == 1)


async def test_a_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TICK_S", 0.02)
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.1)
    async with running() as served, raw_socket(served.port, PATH, receive_bytes=4096) as client:
        await client.send(frame(request(1)))
        await client.recv()
        bridge = served.klippy.peers[1]
        for _ in range(40):
            bridge.transport.write(b'"' + b"x" * 1_000_000 + b'"' + ETX)
            await asyncio.sleep(0)
        await until(lambda: len(served.klippy.peers) == 1 and served.server.hub.websocket_count == 0)
        assert served.server.klippy.is_connected  # the server's own link is another one


async def test_bytes_that_are_no_utf8_are_replaced() -> None:
    async with running() as served, raw_socket(served.port, PATH) as client:
        await client.send(frame(request(1)))
        await client.recv()
        served.klippy.peers[1].transport.write(b'"\xff"' + ETX + b'"good"' + ETX)
        assert await client.recv() == (TEXT, '"\ufffd"'.encode(), True)
        assert await client.recv() == (TEXT, b'"good"', True)
