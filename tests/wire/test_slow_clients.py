"""Clients that read slowly, or not at all: bounded memory, whole frames in order, nobody else disturbed."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from moonfast.speedups import fanout
from moonfast.transports import hub, unix, websocket
from tests.wire.raw import CLOSE, PING, TEXT, Frame, RawSocket, close_frame, frame, raw_socket
from tests.wire.running import Client, Running, running, until

CAP_BYTES = 200_000
BUFFER_BYTES = 4096
"""Of the sockets at both ends: what a client does not read is soon the server's to keep."""


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections with a small cap and a small SO_SNDBUF; time limits in hundredths of a second."""

    def attach(pump: fanout.Pump, transport: asyncio.Transport) -> fanout.Outbox:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        transport.set_write_buffer_limits(high=0, low=0)
        return fanout.Outbox(pump, transport, sock.fileno(), CAP_BYTES)

    monkeypatch.setattr(websocket, "attach_outbox", attach)
    monkeypatch.setattr(unix, "attach_outbox", attach)
    monkeypatch.setattr(hub, "TICK_S", 0.05)
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT_S", 0.5)


async def stalled(served: Running, objects: Any = None) -> tuple[RawSocket, Any]:
    """A client that has subscribed and reads no more, and the server's side of it."""
    before = set(served.server.hub.connections)
    client = await served.raw(receive_bytes=BUFFER_BYTES)
    await client.call("server.info")
    if objects is not None:
        await client.call("printer.objects.subscribe", {"objects": objects})
    (uid,) = set(served.server.hub.connections) - before
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    return client, served.server.hub.connections[uid]


def resume(client: RawSocket) -> None:
    client.reader._transport.resume_reading()  # type: ignore[attr-defined]


async def push_until(served: Running, condition: Callable[[], object], witnesses: Sequence[Client] = ()) -> int:
    """Push large updates of a counter until something holds, at the pace of the witnesses; how many it took."""
    for number in range(3000):
        if condition():
            return number
        served.klippy.push({"toolhead": {"count": number, "filling": f"{number}" * 500}})
        for witness in witnesses:
            await witness.wait_for("notify_status_update", number + 1)
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


async def test_missed_updates_arrive_merged() -> None:
    async with running() as served:
        witness = await served.client()
        await witness.subscribe({"toolhead": None, "gcode_move": None})
        slow, connection = await stalled(served, {"toolhead": None, "gcode_move": ["speed"]})
        await push_until(served, lambda: connection.outbox.behind)
        held = connection.outbox.queued_bytes
        for number in range(300):
            served.klippy.push({"toolhead": {"n": number, f"f{number % 7}": number}, "gcode_move": {"speed": number}})
            await asyncio.sleep(0)
        served.klippy.push({"gcode_move": {"gcode_position": [1]}})  # not in its filter
        await until(lambda: "gcode_position" in witness.of("notify_status_update")[-1][0].get("gcode_move", ()))
        assert connection.outbox.queued_bytes == held  # nothing piles up, however much happens

        resume(slow)
        known: dict[str, dict[str, Any]] = {}
        times = []
        while known.get("gcode_move") != {"speed": 299}:
            status, when = (await slow.recv_json("notify_status_update"))["params"]
            times.append(when)
            for name, fields in status.items():
                known.setdefault(name, {}).update(fields)
        assert times == sorted(set(times))
        complete = {**served.klippy.objects["toolhead"]}
        for field in ("position", "homed_axes"):  # never changed: they were in the first reply
            del complete[field]
        assert known == {"toolhead": complete, "gcode_move": {"speed": 299}}
        assert len(times) < len(witness.of("notify_status_update")) / 2
        served.klippy.push({"toolhead": {"n": -1}})  # and it goes on as before
        assert (await slow.recv_json("notify_status_update"))["params"][0] == {"toolhead": {"n": -1}}
        await slow.close()


async def test_others_get_every_update_meanwhile() -> None:
    async with running() as served:
        witnesses = await served.clients(3)
        for witness in witnesses:
            await witness.subscribe({"toolhead": None})
        slow = [await stalled(served, {"toolhead": None}) for _ in range(5)]
        count = await push_until(served, lambda: all(connection.outbox.behind for _, connection in slow), witnesses)
        for witness in witnesses:
            await witness.wait_for("notify_status_update", count)
            counts = [status["toolhead"]["count"] for status, _ in witness.of("notify_status_update")]
            assert counts == list(range(count))
        for client, _ in slow:
            await client.close()


async def test_gcode_responses_are_kept_until_the_cap_then_the_client_is_closed() -> None:
    async with running() as served:
        witness = await served.client()
        slow, connection = await stalled(served)
        sent = held = 0
        while connection.outbox.queued_bytes or held < CAP_BYTES // 2:  # until the queue is dropped
            held = max(held, connection.outbox.queued_bytes)
            served.klippy.respond(f"{sent} " + "x" * 2000)
            sent += 1
            await witness.wait_for("notify_gcode_response", sent)
        assert CAP_BYTES - 3000 < held <= CAP_BYTES
        assert served.server.hub.pump.queued_bytes == 0
        resume(slow)
        received = [await slow.recv()]
        while received[-1].opcode != CLOSE:
            received.append(await slow.recv())
        assert received[-1].code == 1013
        assert await slow.end()
        texts = [item.json["params"][0] for item in received if item.opcode == TEXT]
        assert texts
        assert [int(text.split()[0]) for text in texts] == list(range(len(texts)))  # no gap before the end
        await until(lambda: connection.uid not in served.server.hub.connections)


async def test_the_total_cap_takes_the_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    make_pump = fanout.Pump
    monkeypatch.setattr(hub.fanout, "Pump", lambda call_soon: make_pump(call_soon, CAP_BYTES // 2))
    async with running() as served:
        small = [(await stalled(served))[1] for _ in range(3)]
        _, large = await stalled(served)
        for connection in (*small, large):
            while not connection.outbox.blocked:
                connection.send(b'"%b"' % (b"x" * 1000))
        for connection in small:
            connection.send(b'"%b"' % (b"s" * 10_000))
        for _ in range(60):
            large.send(b'"%b"' % (b"l" * 1_000))
        assert large.outbox.queued_bytes > 60_000  # less than may be its own
        large.send(b'"%b"' % (b"l" * 20_000))
        assert large.outbox.queued_bytes == 0
        assert all(connection.outbox.queued_bytes > 10_000 for connection in small)
        await until(lambda: large.uid not in served.server.hub.connections)
        assert len(served.server.hub.connections) == 3


async def test_a_reply_larger_than_the_cap_is_sent() -> None:
    async with running() as served, raw_socket(served.port, receive_bytes=BUFFER_BYTES) as client:
        served.klippy.objects["configfile"] = {"config": "x" * (CAP_BYTES * 3)}
        answer = await client.call("printer.objects.query", {"objects": {"configfile": None}})
        assert len(answer["result"]["status"]["configfile"]["config"]) == CAP_BYTES * 3


async def test_frames_never_interleave() -> None:
    random_ = random.Random(7)
    async with running() as served, raw_socket(served.port, receive_bytes=BUFFER_BYTES) as client:
        await client.call("printer.objects.subscribe", {"objects": {"toolhead": None}})
        unix_client = await served.unix_client()
        await unix_client.call("server.info")
        got: dict[str, list[int]] = {"gcode": [], "status": [], "reply": [], "pong": []}

        async def produce() -> None:
            for number in range(150):
                served.klippy.respond(f"{number} " + "g" * random_.choice((1, 10, 3000, 9000)))
                served.klippy.push({"toolhead": {"n": number, "filling": "s" * random_.choice((1, 300, 5000))}})
                await client.send_json({"jsonrpc": "2.0", "method": "server.info", "id": number})
                await client.send(frame(b"%d" % number, PING))
                await asyncio.sleep(random_.choice((0, 0, 0.002)))
                await until(lambda number=number: number - len(got["gcode"]) < 8)  # it stays below the cap

        producing = asyncio.get_running_loop().create_task(produce())
        while min(map(len, (got["gcode"], got["reply"], got["pong"]))) < 150 or got["status"][-1] < 149:
            found = await client.recv()
            if random_.random() < 0.2:
                await asyncio.sleep(0.002)
            _sort_in(found, got)
        await producing
        assert got["gcode"] == got["reply"] == got["pong"] == list(range(150))
        assert got["status"] == sorted(set(got["status"]))
        await unix_client.wait_for("notify_gcode_response", 150)
        assert [int(text.split()[0]) for (text,) in unix_client.of("notify_gcode_response")] == list(range(150))


def _sort_in(found: Frame, got: dict[str, list[int]]) -> None:
    if found.opcode != TEXT:
        if found.payload:
            got["pong"].append(int(found.payload))
        return
    message = found.json
    if "id" in message:
        got["reply"].append(message["id"])
    elif message["method"] == "notify_gcode_response":
        got["gcode"].append(int(message["params"][0].split()[0]))
    elif message["method"] == "notify_status_update":
        got["status"].append(message["params"][0]["toolhead"]["n"])


async def test_klippy_is_read_whatever_the_clients_do() -> None:
    async with running() as served:
        slow = [(await stalled(served, {"toolhead": None}))[0] for _ in range(3)]
        witness = await served.client()
        for number in range(500):
            served.klippy.push({"toolhead": {"count": number, "filling": "x" * 10_000}})
        served.klippy.respond("end")
        await witness.wait_for("notify_gcode_response")
        assert served.klippy.peer.transport.get_write_buffer_size() == 0
        assert served.server.hub.pump.queued_bytes <= 3 * CAP_BYTES
        for client in slow:
            await client.close()


async def test_a_stalled_unix_client_is_cut_off() -> None:
    async with running() as served:
        witness = await served.client()
        reader, writer = await asyncio.open_unix_connection(served.unix_path)
        await until(lambda: len(served.server.hub.connections) == 2)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(1, 101):
            served.klippy.respond("x" * 5000)
            await witness.wait_for("notify_gcode_response", number)
        await until(lambda: len(served.server.hub.connections) == 1)
        assert await witness.call("server.info")
        writer.close()


async def test_the_server_stops_though_nobody_reads() -> None:
    async with running() as served:
        slow = [(await stalled(served, {"toolhead": None}))[0] for _ in range(3)]
        await push_until(served, lambda: all(item.outbox.behind for item in served.server.hub.connections.values()))
        await served.server.stop()
        assert not served.server.hub.connections
        for client in slow:
            await client.close()


async def test_a_client_that_only_closes_slowly() -> None:
    async with running() as served:
        slow, connection = await stalled(served, {"toolhead": None})
        await push_until(served, lambda: connection.outbox.behind)
        await slow.send(close_frame(1000))
        await until(lambda: connection.uid not in served.server.hub.connections)  # though it never reads the answer
        await slow.close()
