"""RFC 6455 against the real server: what a client may do, and what it may not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from moonfast.transports import hub, websocket
from tests.wire.fake_klippy import FakeKlippy
from tests.wire.raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_frame, frame, open_raw, raw_socket
from tests.wire.running import running, until

INFO = json.dumps({"jsonrpc": "2.0", "method": "server.info", "id": 7}).encode()


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings and time limits of a second and more, in hundredths of one."""
    monkeypatch.setattr(hub, "TICK_S", 0.02)
    monkeypatch.setattr(websocket, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.3)


async def test_answers_a_client_library() -> None:
    async with running() as served:
        client = await served.client()
        assert not client.connection.protocol.extensions  # permessage-deflate was offered, and declined
        info = await client.call("server.info")
        assert (info["klippy_connected"], info["klippy_state"], info["websocket_count"]) == (True, "ready", 1)
        pong = await client.connection.ping(b"12345")
        await pong
        await client.close()
        assert client.close_code == 1000
        await until(lambda: served.server.hub.websocket_count == 0)


async def test_many_requests_at_once_are_all_answered() -> None:
    async with running() as served:
        client = await served.client()
        futures = [await client.start_call("printer.info") for _ in range(3000)]  # more than may be in flight
        answers = await asyncio.gather(*futures)
        assert len(answers) == 3000


async def test_a_message_in_fragments_with_control_frames_between() -> None:
    async with running() as served, raw_socket(served.port) as client:
        await client.send(frame(INFO[:10], TEXT, fin=False) + frame(b"one", PING))
        assert await client.recv() == (PONG, b"one", True)
        await client.send(frame(b"", CONT, fin=False) + frame(b"unasked", PONG) + frame(b"", PING))
        assert await client.recv() == (PONG, b"", True)
        await client.send(frame(INFO[10:], CONT))
        assert (await client.recv()).json["id"] == 7


async def test_any_cut_of_the_stream() -> None:
    async with running() as served, raw_socket(served.port) as client:
        data = frame(INFO, BINARY) + frame(b"x" * 125, PING) + frame(INFO[:3], TEXT, fin=False) + frame(INFO[3:], CONT)
        await client.send_bytewise(data)
        assert (await client.recv()).json["id"] == 7  # binary is taken as text
        assert await client.recv() == (PONG, b"x" * 125, True)
        assert (await client.recv()).json["id"] == 7


async def test_pipelined_frames_are_answered_in_order() -> None:
    async with running() as served, raw_socket(served.port) as client:
        requests = [json.dumps({"jsonrpc": "2.0", "method": "server.info", "id": number}) for number in range(50)]
        await client.send(b"".join(frame(text.encode()) for text in requests))
        assert [(await client.recv()).json["id"] for _ in range(50)] == list(range(50))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(INFO, mask=None), 1002),
        (frame(INFO, rsv=4), 1002),
        (frame(INFO, rsv=2), 1002),
        (frame(INFO, rsv=1), 1002),
        (frame(INFO, 3), 1002),
        (frame(INFO, 11), 1002),
        (frame(b"x" * 126, PING), 1002),
        (frame(b"", PING, fin=False), 1002),
        (frame(b"x", CONT), 1002),
        (frame(b"x", TEXT, fin=False) + frame(b"y", TEXT), 1002),
        (frame(b"\x03", CLOSE), 1002),
        (close_frame(999), 1002),
        (close_frame(1005), 1002),
        (close_frame(1000, b"\xff"), 1007),
        (frame(b"\xce\xba\xff"), 1007),
        (frame(b"\xed\xa0", TEXT, fin=False), 1007),
        (frame(b"\xf4\x90", TEXT, fin=False), 1007),
        (frame(b"\xce", TEXT), 1007),
        (b"\x81\xff\xff" + bytes(7) + b"mask", 1002),
        (b"\x82\xff" + struct.pack(">Q", 16 * 1024 * 1024 + 1) + b"mask", 1009),
    ],
)
async def test_violations_are_closed_with_their_code(data: bytes, code: int) -> None:
    async with running() as served, raw_socket(served.port) as client:
        await client.send(frame(INFO) + data + frame(INFO))
        assert (await client.recv()).json["id"] == 7  # what was right before is still answered
        assert (await client.recv()).code == code
        assert await client.end()
        await client.close()
        await until(lambda: served.server.hub.websocket_count == 0)


async def test_a_message_that_is_too_large_is_refused_while_it_is_sent() -> None:
    async with running() as served:
        client = await served.client()
        with contextlib.suppress(ConnectionClosed):
            await client.connection.send("x" * (17 * 1024 * 1024))
        assert await client.closed() == 1009


async def test_what_follows_on_a_violation_does_not_reset_the_connection() -> None:
    async with running() as served, raw_socket(served.port) as client:
        await client.send(b"\x82\xff" + struct.pack(">Q", 17 * 1024 * 1024) + b"mask")
        await asyncio.sleep(0.01)
        for _ in range(17):
            await client.send(bytes(1024 * 1024))
        assert (await client.recv()).code == 1009
        assert await client.end()


async def test_a_message_of_the_largest_size() -> None:
    async with running() as served:
        client = await served.client()
        text = "x" * (16 * 1024 * 1024 - 200)
        assert await client.call("server.info", {"ignored": text})


async def test_the_limit_counts_all_fragments() -> None:
    async with running() as served, raw_socket(served.port) as client:
        await client.send(frame(b"x" * 1000, TEXT, fin=False))
        await client.send(b"\x80\xff" + struct.pack(">Q", 16 * 1024 * 1024 - 999) + b"mask")
        assert (await client.recv()).code == 1009


@pytest.mark.parametrize(
    ("code", "answer"), [(1000, 1000), (1001, 1001), (3000, 3000), (4999, 4999), (1014, 1014), (None, None)]
)
async def test_the_client_closes(code: int | None, answer: int | None) -> None:
    async with running() as served, raw_socket(served.port) as client:
        await client.send(close_frame(code, b"" if code is None else "adiós".encode()) + frame(INFO))
        assert (await client.recv()).code == answer
        assert await client.end()
        await until(lambda: not served.server.hub.connections)


async def test_answers_before_the_close_still_arrive() -> None:
    async with running() as served, raw_socket(served.port) as client:
        await client.send(frame(INFO) + close_frame(1000))
        assert (await client.recv()).json["id"] == 7
        assert (await client.recv()).code == 1000
        assert await client.end()


async def test_the_server_closes_and_waits_for_the_answer() -> None:
    async with running() as served, raw_socket(served.port) as client:
        connection = await _only_connection(served)
        connection.close(1001, "test")
        assert (await client.recv()) == (CLOSE, b"\x03\xe9test", True)
        await client.send(frame(INFO) + frame(b"late", PING))  # on its way already: read, and not answered
        await asyncio.sleep(0.01)
        assert served.server.hub.websocket_count == 1
        await client.send(close_frame(1001))
        assert await client.end()


@pytest.mark.usefixtures("quick_clock")
async def test_a_close_that_is_not_answered_ends_in_time() -> None:
    async with running() as served, raw_socket(served.port) as client:
        connection = await _only_connection(served)
        connection.close(1001, "test")
        connection.close(1001, "twice")
        assert (await client.recv()).code == 1001
        await client.end()
        await until(lambda: not served.server.hub.connections)


@pytest.mark.usefixtures("quick_clock")
async def test_pings_and_a_peer_that_answers_them() -> None:
    async with running() as served, raw_socket(served.port) as client:
        for _ in range(8):  # longer than the time after which a silent peer is given up
            assert (await client.recv()).opcode == PING
            await client.send(frame(b"", PONG))
        assert await client.call("server.info")


@pytest.mark.usefixtures("quick_clock")
async def test_a_peer_that_answers_no_ping_is_given_up() -> None:
    async with running() as served, raw_socket(served.port) as client:
        for _ in range(3):
            assert (await client.recv()).opcode == PING
        with contextlib.suppress(EOFError, ConnectionError):
            while (await client.recv()).opcode == PING:
                pass
        await until(lambda: not served.server.hub.connections)


@pytest.mark.usefixtures("quick_clock")
async def test_a_client_whose_requests_are_held_back_is_not_given_up() -> None:
    klippy = FakeKlippy()
    klippy.silent.add("gcode/help")
    async with running(klippy=klippy) as served:
        client = await served.client()
        futures = [await client.start_call("printer.gcode.help") for _ in range(1200)]
        await until(lambda: len(klippy.asked("gcode/help")) >= 999)
        await asyncio.sleep(0.5)  # more than three pings that the server does not read the answer to
        assert not client.is_closed
        klippy.silent.clear()
        for peer, request_id in klippy.unanswered:
            peer.send({"id": request_id, "result": {"G28": "Home"}})
        assert len(await asyncio.gather(*futures)) == 1200


async def test_a_peer_that_vanishes() -> None:
    async with running() as served:
        client = await open_raw(served.port)
        await until(lambda: served.server.hub.websocket_count == 1)
        await client.send(frame(INFO, fin=False))
        client.writer.transport.abort()
        await until(lambda: not served.server.hub.connections and served.server.hub.websocket_count == 0)
        half = await open_raw(served.port)  # half-closed counts as gone
        half.writer.write_eof()
        assert await half.end()
        await half.close()
        await until(lambda: not served.server.hub.connections)


async def test_one_connection_too_many_is_refused() -> None:
    async with running("[server]\nmax_websocket_connections: 3") as served:
        clients = await served.clients(2)
        async with raw_socket(served.port, "/klippysocket"):
            with pytest.raises(InvalidStatus) as refused:
                await served.client()
            assert refused.value.response.status_code == 503
            assert b"max_websocket_connections" in refused.value.response.body
            assert (await served.http("GET", "/server/info"))[1]["result"]["websocket_count"] == 3
        await until(lambda: served.server.hub.websocket_count == 2)
        assert await clients[0].call("server.info")
        assert await (await served.client()).call("server.info")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1"}, 101),
        ({"Origin": "http://mainsail.local"}, 101),
    ],
)
async def test_pages_of_strangers_are_refused(headers: dict[str, str], status: int) -> None:
    async with running("[authorization]\ncors_domains: *.local") as served:
        if status == 101:
            await served.client(additional_headers=headers)
        else:
            with pytest.raises(InvalidStatus) as refused:
                await connect(served.url, additional_headers=headers)
            assert refused.value.response.status_code == status


async def _only_connection(served: Any) -> Any:
    await until(lambda: len(served.server.hub.connections) == 1)
    return next(iter(served.server.hub.connections.values()))
