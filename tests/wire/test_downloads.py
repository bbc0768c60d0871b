"""Downloads on a real socket (RFC 9110 sections 13 and 14): the bytes that were asked for, and nothing kept."""

from __future__ import annotations

import asyncio
import email
import email.policy
import gzip
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.transports.file_response import MAX_RANGES, read_ranges
from tests.wire.running import Running, running, until
from tests.wire.site import Client, Response

CONTENT = random.Random(5).randbytes(3_000_000)
LATER = "Fri, 01 Jan 2100 00:00:00 GMT"
EARLIER = "Thu, 01 Jan 1970 00:00:10 GMT"


class Place:
    client: Client

    def __init__(self, served: Running) -> None:
        self.served, self.clients = served, list[Client]()
        self.gcodes = Path(served.data_path, "gcodes")

    async def connect(self, receive_bytes: int = 0) -> Client:
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.served.port))
        self.clients.append(Client(*await asyncio.open_connection(sock=sock)))
        return self.clients[-1]

    async def get(self, name: str, headers: str = "", method: str = "GET") -> Response:
        return await self.client.get(f"/server/files/gcodes/{name}", headers, method)

    def opened(self) -> list[str]:
        """Files of the root that this process has open."""
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue
            if target.startswith(str(self.gcodes)) and os.path.isfile(target.removesuffix(" (deleted)")):
                found.append(target)
        return found


@asynccontextmanager
async def place(content: bytes = CONTENT) -> AsyncIterator[Place]:
    async with running() as served:
        here = Place(served)
        (here.gcodes / "a.bin").write_bytes(content)
        here.client = await here.connect()
        try:
            yield here
            await until(lambda: not here.opened())
        finally:
            for client in here.clients:
                await client.close()


async def test_a_whole_file() -> None:
    async with place() as here:
        answer = await here.get("a.bin")
        assert (answer.status, answer.body) == (200, CONTENT)
        headers = answer.headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["accept-ranges"] == "bytes"
        assert headers["content-disposition"] == "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"
        alone = await here.get("a.bin", method="HEAD")
        assert (alone.status, alone.body) == (200, b"")
        del headers["date"], alone.headers["date"]
        assert alone.headers == headers
        (here.gcodes / "empty.gcode").touch()
        empty = await here.get("empty.gcode")
        assert (empty.status, empty.body, empty.headers["content-type"]) == (200, b"", "text/plain")
        names = await here.client.get("/server/files/list?root=gcodes")
        assert names.status == 200


@pytest.mark.parametrize(
    "name", ["ü ö.gcode", 'a"b\\c.gcode', "100%.gcode", "a?b#c.gcode", "deep/er/a b.gcode", "a+b&c"]
)
async def test_names(name: str) -> None:
    async with place() as here:
        path = here.gcodes / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
        answer = await here.get(quote(name))
        assert (answer.status, answer.body) == (200, b"content")
        told = email.message_from_string(f"Content-Disposition: {answer.headers['content-disposition']}\n")
        assert told.get_filename() is not None
        assert answer.headers["content-disposition"].endswith("''" + quote(path.name, safe=""))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=1000000-", 1_000_000, 2_999_999),
        ("bytes=-7", 2_999_993, 2_999_999),
        ("bytes=-9000000", 0, 2_999_999),
        ("bytes=2999999-9999999999", 2_999_999, 2_999_999),
        ("Bytes = 5-9", 5, 9),
        ("bytes=5-9, 9999999-", 5, 9),
    ],
)
async def test_a_range(asked: str, first: int, last: int) -> None:
    async with place() as here:
        answer = await here.get("a.bin", f"Range: {asked}\r\n")
        assert (answer.status, answer.body) == (206, CONTENT[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{last}/3000000"


@pytest.mark.parametrize("asked", ["bytes=3000000-", "bytes=-0", "bytes=99999999-999999999"])
async def test_no_such_range(asked: str) -> None:
    async with place() as here:
        answer = await here.get("a.bin", f"Range: {asked}\r\n")
        assert (answer.status, answer.body) == (416, b"")
        assert answer.headers["content-range"] == "bytes */3000000"
        assert (await here.get("a.bin")).body == CONTENT


@pytest.mark.parametrize(
    "asked", ["lines=1-2", "bytes", "bytes=", "bytes=x-y", "bytes=9-5", "bytes=--1", "bytes=1-2-3"]
)
async def test_ranges_that_mean_nothing(asked: str) -> None:
    async with place() as here:
        answer = await here.get("a.bin", f"Range: {asked}\r\n")
        assert answer.status in (200, 416)
        assert answer.body == (CONTENT if answer.status == 200 else b"")


async def test_several_ranges() -> None:
    async with place() as here:
        answer = await here.get("a.bin", "Range: bytes=0-9, 500000-1500000, -5\r\n")
        assert answer.status == 206
        text = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.body
        parts = [part for part in email.message_from_bytes(text, policy=email.policy.HTTP).iter_parts()]
        assert [part["content-range"] for part in parts] == [
            "bytes 0-9/3000000",
            "bytes 500000-1500000/3000000",
            "bytes 2999995-2999999/3000000",
        ]
        boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
        contents = [part.partition(b"\r\n\r\n")[2][:-2] for part in answer.body.split(b"--" + boundary)[1:-1]]
        assert contents == [CONTENT[:10], CONTENT[500_000:1_500_001], CONTENT[-5:]]
        many = ",".join(f"{i}-{i}" for i in range(MAX_RANGES + 1))
        assert (await here.get("a.bin", f"Range: bytes={many}\r\n")).body == CONTENT
        assert (await here.get("a.bin")).body == CONTENT


@given(st.text("bytes=0123456789-, x", max_size=40), st.integers(0, 1000))
def test_ranges_lie_in_the_file(text: str, size: int) -> None:
    for header in (text, "bytes=" + text):
        for first, last in read_ranges(header, size) or ():
            assert 0 <= first <= last < size


async def test_conditions() -> None:
    async with place() as here:
        path = here.gcodes / "a.bin"
        answer = await here.get("a.bin")
        etag, modified = answer.headers["etag"], answer.headers["last-modified"]
        for asked, status in (
            (f"If-None-Match: {etag}\r\n", 304),
            (f'If-None-Match: "x", W/{etag}\r\n', 304),
            ("If-None-Match: *\r\n", 304),
            ('If-None-Match: "x"\r\n', 200),
            (f'If-None-Match: "x"\r\nIf-Modified-Since: {LATER}\r\n', 200),  # the first one counts
            (f"If-Modified-Since: {modified}\r\n", 304),
            (f"If-Modified-Since: {LATER}\r\n", 304),
            (f"If-Modified-Since: {EARLIER}\r\n", 200),
            ("If-Modified-Since: never\r\n", 200),
            (f"Range: bytes=0-3\r\nIf-Range: {etag}\r\n", 206),
            (f"Range: bytes=0-3\r\nIf-Range: {modified}\r\n", 206),
            ('Range: bytes=0-3\r\nIf-Range: "x"\r\n', 200),
            (f"Range: bytes=0-3\r\nIf-Range: {EARLIER}\r\n", 200),
        ):
            answer = await here.get("a.bin", asked)
            assert answer.status == status, asked
            assert answer.body == {304: b"", 200: CONTENT, 206: CONTENT[:4]}[status], asked
            assert answer.headers["etag"] == etag
        path.write_bytes(b"other")
        answer = await here.get("a.bin", f"If-None-Match: {etag}\r\n")
        assert (answer.status, answer.body) == (200, b"other")
        assert answer.headers["etag"] != etag


async def test_packed_beside_the_file() -> None:
    async with place(b"as it is") as here:
        packed = gzip.compress(b"as it is")
        (here.gcodes / "a.bin.gz").write_bytes(packed)
        answer = await here.get("a.bin", "Accept-Encoding: br, gzip;q=0.5\r\n")
        assert (answer.body, answer.headers["content-encoding"], answer.headers["vary"]) == (
            packed,
            "gzip",
            "Accept-Encoding",
        )
        for header in ("", "Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: br\r\n"):
            assert (await here.get("a.bin", header)).body == b"as it is"
        assert (await here.get("a.bin", "Accept-Encoding: gzip\r\nRange: bytes=0-1\r\n")).body == b"as"
        os.utime(here.gcodes / "a.bin.gz", (1, 1))  # it was made of an older state
        assert (await here.get("a.bin", "Accept-Encoding: gzip\r\n")).body == b"as it is"


async def test_what_there_is_not() -> None:
    async with place() as here:
        (here.gcodes / "folder").mkdir()
        (here.gcodes / ".moonfast-x.part").write_bytes(b"half")
        os.mkfifo(here.gcodes / "pipe")
        (here.gcodes / "out").symlink_to("/etc/passwd")
        Path(here.served.data_path, "database", "secret").write_bytes(b"secret")
        for target, statuses in (
            ("gcodes/none", (404,)),
            ("gcodes/a.bin/below", (404,)),
            ("nowhere/a.bin", (404,)),
            ("gcodes/folder", (403,)),
            ("gcodes/.moonfast-x.part", (404,)),
            ("gcodes/pipe", (403,)),
            ("gcodes/out", (400, 403)),
            ("gcodes/../config/moonraker.conf", (400, 404, 405)),
            ("gcodes/%2e%2e/database/secret", (400, 403, 404, 405)),
            ("gcodes/..%2fdatabase/secret", (400, 403, 404, 405)),
            ("gcodes/%252e%252e/database/secret", (404,)),
            ("gcodes//etc/passwd", (404,)),
            ("gcodes/%2fetc/passwd", (404,)),
            ("gcodes/a.bin%00", (400, 404)),
            ("gcodes/%ff", (400, 404)),
        ):
            answer = await here.client.get(f"/server/files/{target}")
            assert answer.status in statuses, (target, answer.status)
            assert b"secret" not in answer.body.replace(b"secret'", b"")
            if answer.headers.get("connection") == "close":
                here.client = await here.connect()


async def test_the_file_is_cut_short_meanwhile() -> None:
    async with place(bytes(30_000_000)) as here:
        client = await here.connect(receive_bytes=4096)
        client.send("GET /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        os.truncate(here.gcodes / "a.bin", 1_000_000)
        assert len(await client.at_end()) < 30_000_000  # the end of the connection tells that it is not whole
        assert (await here.get("a.bin")).body == bytes(1_000_000)


async def test_the_file_is_replaced_meanwhile() -> None:
    async with place(b"1" * 30_000_000) as here:
        client = await here.connect(receive_bytes=4096)
        client.send("GET /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        (here.gcodes / "b").write_bytes(b"2" * 1000)
        os.rename(here.gcodes / "b", here.gcodes / "a.bin")
        assert await client.reader.readexactly(30_000_000) == b"1" * 30_000_000


async def test_the_client_goes_away() -> None:
    async with place(bytes(30_000_000)) as here:
        for _ in range(5):
            client = await here.connect(receive_bytes=4096)
            client.send("GET /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            assert here.opened()
            client.writer.transport.abort()
        await until(lambda: not here.opened())


async def test_slow_readers_hold_nothing_up() -> None:
    async with place(bytes(30_000_000)) as here:
        slow = [await here.connect(receive_bytes=4096) for _ in range(20)]
        for client in slow:
            client.send("GET /server/files/gcodes/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
        watcher = await here.served.client()
        assert (await watcher.call("server.info"))["klippy_connected"]
        assert len((await here.get("a.bin")).body) == 30_000_000
        assert here.served.server.hub.pump.queued_bytes == 0
        for client in slow:
            client.writer.transport.abort()


async def test_answers_come_in_order() -> None:
    async with place() as here:
        for target in ("/server/files/gcodes/a.bin", "/server/info", "/server/files/gcodes/none") * 3:
            here.client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(3):
            assert (await here.client.read()).body == CONTENT
            assert (await here.client.read()).json["result"]["klippy_connected"]
            assert (await here.client.read()).status == 404


async def test_logs() -> None:
    async with running() as served:
        client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
        Path(served.data_path, "logs", "klippy.log").write_bytes(b"Start printer\n")
        answer = await client.get("/server/files/klippy.log")
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"Start printer\n", "text/plain")
        answer = await client.get("/server/files/moonraker.log")
        assert answer.status == 404
        assert "log file" in answer.json["error"]["message"]
        await client.close()
