"""JSON-RPC over the Unix socket `comms/moonraker.sock`: framing, the socket file, limits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import socket
import stat

import pytest

from moonfast.errors import StartError
from moonfast.transports import unix
from tests.wire.fake_klippy import ETX
from tests.wire.running import make_data_folder, running, start_server, until

INFO = json.dumps({"jsonrpc": "2.0", "method": "server.info", "id": 7}).encode()


async def test_answers_and_notifies() -> None:
    async with running() as served:
        client = await served.unix_client()
        assert (await client.call("server.info"))["websocket_count"] == 0
        assert await client.call("server.websocket.id") == {"websocket_id": await client.identify()}
        status = await client.subscribe({"gcode_move": ["speed"]})
        assert status["status"] == {"gcode_move": {"speed": 25.0}}
        served.klippy.push({"gcode_move": {"speed": 30.0}})
        served.klippy.respond("// hello")
        assert await client.wait_for("notify_gcode_response") == ["// hello"]
        assert client.of("notify_status_update") == [[{"gcode_move": {"speed": 30.0}}, served.klippy.eventtime]]


async def test_any_cut_of_the_stream() -> None:
    random_ = random.Random(1)
    async with running() as served:
        reader, writer = await asyncio.open_unix_connection(served.unix_path)
        data = b"".join(INFO.replace(b"7", b"%d" % number) + ETX for number in range(30))
        start = 0
        while start < len(data):
            end = start + random_.randrange(1, 60)
            writer.write(data[start:end])
            await asyncio.sleep(0)
            start = end
        answers = [json.loads((await reader.readuntil(ETX))[:-1]) for _ in range(30)]
        assert [answer["id"] for answer in answers] == list(range(30))
        writer.write(b"no json" + ETX + b"" + ETX + INFO + ETX)
        errors = [json.loads((await reader.readuntil(ETX))[:-1]) for _ in range(3)]
        assert [answer.get("error", {}).get("code") for answer in errors] == [-32700, -32700, None]
        writer.close()


async def test_the_socket_file() -> None:
    before = os.umask(0)
    try:
        async with running() as served:
            mode = os.stat(served.unix_path).st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o660
        assert not os.path.exists(served.unix_path)
    finally:
        os.umask(before)


async def test_a_socket_that_was_left_behind_is_replaced() -> None:
    data_path = make_data_folder()
    path = os.path.join(data_path, "comms", "moonraker.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server, _ = await start_server(data_path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(INFO + ETX)
    assert json.loads((await reader.readuntil(ETX))[:-1])["id"] == 7
    writer.close()
    await server.stop()
    await asyncio.to_thread(shutil.rmtree, data_path)


@pytest.mark.parametrize("is_folder", [False, True])
async def test_what_is_no_socket_is_left_alone(is_folder: bool) -> None:
    data_path = make_data_folder()
    path = os.path.join(data_path, "comms", "moonraker.sock")
    if is_folder:
        os.mkdir(path)
    else:
        with open(path, "w") as stream:
            stream.write("precious")
    with pytest.raises(StartError, match=r"moonraker\.sock"):
        await start_server(data_path)
    assert os.path.exists(path)
    await asyncio.to_thread(shutil.rmtree, data_path)


async def test_a_message_that_is_too_large(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(unix, "MAX_MESSAGE_BYTES", 10_000)
    async with running() as served:
        other = await served.unix_client()
        reader, writer = await asyncio.open_unix_connection(served.unix_path)
        writer.write(INFO + ETX + INFO + b" " * 9_000 + ETX)
        for _ in range(2):
            assert json.loads((await reader.readuntil(ETX))[:-1])["id"] == 7
        with caplog.at_level(logging.WARNING):
            writer.write(b"x" * 10_001)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readuntil(ETX)
        assert len([record for record in caplog.records if "Unix socket" in record.message]) == 1
        writer.close()
        assert await other.call("server.info")
        await until(lambda: len(served.server.hub.connections) == 1)


async def test_a_large_message_and_a_large_answer() -> None:
    async with running() as served:
        client = await served.unix_client()
        served.klippy.objects["configfile"] = {"config": "x" * 2_000_000}
        text = "y" * 3_000_000
        answer = await client.call("printer.objects.query", {"objects": {"configfile": None}, "ignored": text})
        assert len(answer["status"]["configfile"]["config"]) == 2_000_000


async def test_one_connection_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "MAX_CONNECTIONS", 2)
    async with running() as served:
        clients = [await served.unix_client() for _ in range(2)]
        assert await clients[1].call("server.info")
        reader, writer = await asyncio.open_unix_connection(served.unix_path)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
        await clients[0].close()
        await until(lambda: len(served.server.hub.connections) == 1)
        assert await (await served.unix_client()).call("server.info")


async def test_the_server_stops() -> None:
    async with running() as served:
        client = await served.unix_client()
        await client.identify()
        await served.server.stop()
        await client.closed()
        with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
            await asyncio.open_unix_connection(served.unix_path)
