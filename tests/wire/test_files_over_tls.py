"""Uploads and downloads over HTTPS, where the kernel cannot send files by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.wire.running import Running, free_port, running, until
from tests.wire.site import Client
from tests.wire.test_start_stop import descriptors
from tests.wire.test_tls import client_context, make_pair
from tests.wire.test_uploads import FORM, file, form, head

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")


class Place:
    def __init__(self, served: Running, port: int) -> None:
        self.served, self.port = served, port
        self.gcodes = Path(served.data_path, "gcodes")
        self.clients: list[Client] = []

    async def connect(self, receive_bytes: int | None = None) -> Client:
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, ssl=client_context(), server_hostname="x")
        self.clients.append(Client(reader, writer))
        return self.clients[-1]


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    make_pair(folder, "printer")
    port = free_port()
    config = f"[server]\nssl_port: {port}\nssl_certificate_path: {folder}/cert.pem\nssl_key_path: {folder}/key.pem\n"
    async with running(config) as served:
        here = Place(served, port)
        try:
            yield here
        finally:
            for client in here.clients:
                client.writer.transport.abort()


async def test_there_and_back(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    async with place(tmp_path) as here:
        client = await here.connect()
        stored = await client.post("/server/files/upload", FORM, form(file("a.gcode", content)))
        assert stored.status == 201
        assert stored.headers["location"] == "https://x/server/files/gcodes/a.gcode"
        whole = await client.get("/server/files/gcodes/a.gcode")
        assert whole.body == content
        part = await client.get("/server/files/gcodes/a.gcode", "Range: bytes=1000000-1999999\r\n")
        assert (part.status, part.body) == (206, content[1_000_000:2_000_000])
        several = await client.get("/server/files/gcodes/a.gcode", "Range: bytes=0-9,2500000-\r\n")
        assert several.status == 206
        assert content[:10] in several.body
        assert content[2_500_000:] in several.body
        size = await client.get("/server/files/gcodes/a.gcode", method="HEAD")
        assert size.headers["content-length"] == str(len(content))
        assert (await client.get("/server/info")).status == 200


async def test_slow_readers_hold_nothing_up(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        (here.gcodes / "large.gcode").write_bytes(bytes(20_000_000))
        slow = await here.connect(receive_bytes=4096)
        slow.send("GET /server/files/gcodes/large.gcode HTTP/1.1\r\nHost: x\r\n\r\n")
        other = await here.connect()
        for _ in range(20):
            assert (await other.get("/server/info")).status == 200
        assert (await slow.read()).body == bytes(20_000_000)


async def test_clients_that_go_away_leave_nothing_open(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        (here.gcodes / "large.gcode").write_bytes(bytes(20_000_000))
        client = await here.connect()
        assert (await client.get("/server/info")).status == 200
        before = descriptors()
        for _ in range(5):
            reader = await here.connect(receive_bytes=4096)
            reader.send("GET /server/files/gcodes/large.gcode HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.reader.readexactly(1000)
            writer = await here.connect()
            body = form(file("lost.gcode", bytes(2_000_000)))
            writer.send(head(len(body)) + body[:1_000_000])
            await until(lambda: any(".moonfast" in path.name for path in here.gcodes.iterdir()))
            reader.writer.transport.abort()
            writer.writer.transport.abort()
            await until(lambda: [path.name for path in here.gcodes.iterdir()] == ["large.gcode"])
        await until(lambda: descriptors() == before)
