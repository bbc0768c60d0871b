"""Files over HTTPS: the same bytes as without, nothing kept of clients that go away or do not read."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import shutil
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.wire.running import Running, free_port, running, until
from tests.wire.site import Client
from tests.wire.test_downloads import CONTENT, LATER
from tests.wire.test_downloads import Place as Downloads
from tests.wire.test_start_stop import descriptors
from tests.wire.test_tls import client_context, make_pair
from tests.wire.test_uploads import FORM, GCODE, field, file, form, head

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")


class Place(Downloads):
    """A server that is asked over TLS, and its gcode folder."""

    def __init__(self, served: Running, port: int) -> None:
        super().__init__(served)
        self.port = port

    async def connect(self, receive_bytes: int = 0) -> Client:
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        made = await asyncio.open_connection(sock=sock, ssl=client_context(), server_hostname="one")
        self.clients.append(Client(*made))
        return self.clients[-1]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.gcodes.rglob("*") if path.is_file()}


@asynccontextmanager
async def place(folder: Path, content: bytes = CONTENT) -> AsyncIterator[Place]:
    make_pair(folder, "one")
    port = free_port()
    paths = f"ssl_certificate_path: {folder}/cert.pem\nssl_key_path: {folder}/key.pem\n"
    async with running(f"ssl_port: {port}\n{paths}") as served:
        here = Place(served, port)
        (here.gcodes / "a.bin").write_bytes(content)
        here.client = await here.connect()
        try:
            yield here
            await until(lambda: not here.opened())
        finally:
            for client in here.clients:
                client.writer.transport.abort()


async def test_whole_and_ranges(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answer = await here.get("a.bin")
        assert (answer.status, answer.body) == (200, CONTENT)
        for asked, first, last in (("0-0", 0, 0), ("100-2000000", 100, 2_000_000), ("-5", 2_999_995, 2_999_999)):
            part = await here.get("a.bin", f"Range: bytes={asked}\r\n")
            assert (part.status, part.body) == (206, CONTENT[first : last + 1])
        several = await here.get("a.bin", "Range: bytes=0-9,200000-900000\r\n")
        assert several.status == 206
        assert CONTENT[:10] in several.body
        assert CONTENT[200_000:900_001] in several.body
        assert (await here.get("a.bin", "Range: bytes=3000000-\r\n")).status == 416
        assert (await here.get("a.bin", f"If-Modified-Since: {LATER}\r\n")).status == 304
        assert (await here.get("a.bin", f"If-None-Match: {answer.headers['etag']}\r\n")).status == 304
        assert (await here.get("none.bin")).status == 404
        here.client.send("HEAD /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await here.client.read(is_head=True)).headers["content-length"] == str(len(CONTENT))
        (here.gcodes / "empty.bin").touch()
        assert (await here.get("empty.bin")).body == b""


async def test_answers_come_in_order(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        for target in ("/server/files/gcodes/a.bin", "/server/info") * 3:
            here.client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(3):
            assert (await here.client.read()).body == CONTENT
            assert (await here.client.read()).json["result"]["klippy_connected"]


async def test_clients_that_do_not_read(tmp_path: Path) -> None:
    async with place(tmp_path, bytes(30_000_000)) as here:
        slow = [await here.connect(receive_bytes=4096) for _ in range(8)]
        gc.collect()
        tracemalloc.start()
        try:
            for client in slow:
                client.reader._limit = 1024  # type: ignore[attr-defined]  # a client that reads no more than it asks for
                client.send("GET /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: len(here.opened()) == len(slow))
            watcher = await here.served.client()
            for _ in range(20):
                assert (await watcher.call("server.info"))["klippy_connected"]
                await asyncio.sleep(0.02)
            assert tracemalloc.get_traced_memory()[1] < len(slow) * 1_500_000
        finally:
            tracemalloc.stop()
        assert len(here.opened()) == len(slow)
        for client in slow:
            client.writer.transport.abort()
        await until(lambda: not here.opened())


async def test_clients_that_go_away(tmp_path: Path) -> None:
    async with place(tmp_path, bytes(30_000_000)) as here:
        (here.gcodes / "whole.gcode").write_bytes(GCODE)
        await asyncio.sleep(0.3)  # it has been looked at
        before = descriptors()
        for number in range(6):
            client = await here.connect(receive_bytes=4096)
            client.send("GET /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            assert here.opened()
            if number % 2:
                client.writer.transport.abort()
            else:
                client.writer.close()
            client = await here.connect()
            content = bytes(2_000_000)
            client.send(head(len(content) + 1000) + form(file("half.gcode", content))[:-1_000_000])
            await client.writer.drain()
            await until(lambda: any(name.endswith(".part") for name in here.files()))
            client.writer.transport.abort()
        await until(lambda: set(here.files()) == {"a.bin", "whole.gcode"} and not here.opened())
        await until(lambda: descriptors() == before)


async def test_uploads(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        content = random.Random(3).randbytes(5_000_000)
        checksum = field("checksum", hashlib.sha256(content).hexdigest())
        body = form(checksum, file("b.bin", content))
        answer = await here.client.post("/server/files/upload", FORM, body)
        assert answer.status == 201, answer.body
        assert answer.headers["location"] == "https://x/server/files/gcodes/b.bin"
        assert here.files()["b.bin"] == content
        assert (await here.get("b.bin")).body == content
        here.client.send(head(None))
        for at in range(0, len(body), 70_000):
            piece = body[at : at + 70_000]
            here.client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        here.client.send(b"0\r\n\r\n")
        assert (await here.client.read()).status == 201
        wrong = form(field("checksum", "0" * 64), file("c.bin", content))
        assert (await here.client.post("/server/files/upload", FORM, wrong)).status == 422
        assert set(here.files()) == {"a.bin", "b.bin"}


async def test_many_at_once(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        contents = {f"{number}.bin": random.Random(number).randbytes(700_000) for number in range(8)}

        async def there_and_back(name: str, content: bytes) -> None:
            client = await here.connect()
            answer = await client.post("/server/files/upload", FORM, form(file(name, content)))
            assert answer.status == 201, answer.body
            assert (await client.get(f"/server/files/gcodes/{name}")).body == content

        await asyncio.gather(*(there_and_back(*item) for item in contents.items()))
        assert here.files() == {"a.bin": CONTENT, **contents}
