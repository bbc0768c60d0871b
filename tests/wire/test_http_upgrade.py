"""How a connection becomes a WebSocket: checks, hand-over, and what came behind the request."""

from __future__ import annotations

import asyncio
from typing import Any

from moonfast.errors import Forbidden
from moonfast.transports.upgrade import Upgrade
from moonfast.vocab import Transport
from tests.wire.site import KEY, UPGRADE, EchoSocket, serving
from tests.wire.test_http import until

REQUEST = f"GET /websocket?name=abc HTTP/1.1\r\nHost: x:7125\r\n{UPGRADE}\r\n"


async def test_upgrade() -> None:
    async with serving() as served:
        opened: list[EchoSocket] = []

        def factory(upgrade: Upgrade) -> EchoSocket:
            opened.append(EchoSocket(upgrade))
            return opened[-1]

        served.site.websockets["/websocket"] = factory
        for connection in ("Upgrade", "keep-alive, upgrade"):
            client = await served.client()
            assert (await client.get("/who")).status == 200
            request = REQUEST.replace("Connection: Upgrade", f"Connection: {connection}")
            answer = await client.ask(
                request.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
            )
            assert answer.status == 101
            assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
            assert answer.headers["connection"].lower() == "upgrade"
            assert "sec-websocket-extensions" not in answer.headers
            client.send(b"\x81\x00GET / HTTP/1.1\r\n\r\n")
            assert await client.reader.readexactly(25) == b"echo:\x81\x00GET / HTTP/1.1\r\n\r\n"
            call = opened[-1].upgrade.call
            assert (call.transport, call.address, call.host, call.is_secure) == (
                Transport.WEBSOCKET,
                "127.0.0.1",
                "x:7125",
                False,
            )
            assert opened[-1].upgrade.path == "/websocket"
            assert not served.site.connections  # the hub counts it from now on


async def test_bytes_behind_the_request_and_every_cut() -> None:
    async with serving() as served:
        data = f"GET /echo?a=1 HTTP/1.1\r\nHost: x\r\n\r\n{REQUEST}".encode() + b"\x81\x00frames"
        for cut in range(0, len(data), 3):
            client = await served.client()
            client.send(data[:cut])
            await asyncio.sleep(0.0005)
            client.send(data[cut:])
            assert (await client.read()).json == {"result": {"a": "1"}}
            assert (await client.read()).status == 101
            received = b""
            while len(received.replace(b"echo:", b"")) < 8:
                received += await asyncio.wait_for(client.reader.read(100), 5)
            assert received.replace(b"echo:", b"") == b"\x81\x00frames"


async def test_upgrade_waits_for_the_answers_before_it() -> None:
    async with serving() as served:
        client = await served.client()
        client.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST + "early")
        await until(lambda: served.handlers.laters)
        client.send(" bird")
        await asyncio.sleep(0.02)
        served.handlers.laters[0].resolve("x" * 5_000_000)  # more than the socket takes at once
        assert len((await client.read()).json["result"]) == 5_000_000
        assert (await client.read()).status == 101
        received = b""
        while len(received.replace(b"echo:", b"")) < 10:
            received += await asyncio.wait_for(client.reader.read(100), 5)
        assert received.replace(b"echo:", b"") == b"early bird"


async def test_refused_upgrades() -> None:
    async with serving() as served:
        client = await served.client()
        other_key = "dGhlIHNhbXBsZSBub25j"
        for change, status in (
            (("GET", "POST"), 426),
            (("Upgrade: websocket", "Upgrade: h2c"), 426),
            (("Upgrade: websocket\r\n", ""), 426),
            (("Connection: Upgrade\r\n", ""), 426),
            (("Version: 13", "Version: 8"), 426),
            (("Sec-WebSocket-Version: 13\r\n", ""), 426),
            ((KEY, other_key), 400),
            ((KEY, "!" + KEY[1:]), 400),
            ((f"Sec-WebSocket-Key: {KEY}\r\n", ""), 400),
            (("Host: x", "Origin: http://evil.test\r\nHost: x"), 403),
            (("Host: x", "Origin: null\r\nHost: x"), 403),
            (("Host: x", "X-Forwarded-For: 203.0.113.1\r\nHost: x"), 401),
            (("/websocket", "/nothing"), 404),
            (("/websocket", "/who"), 200),
        ):
            answer = await client.ask(REQUEST.replace(*change))
            expected = (405, 426) if change[0] == "GET" else (status,)
            assert answer.status in expected, change
            assert ("sec-websocket-version" in answer.headers) == (answer.status == 426)
            assert (await client.get("/who")).status == 200  # still HTTP
        answer = await client.get("/websocket")
        assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")
        old = await served.client()
        assert (await old.ask(REQUEST.replace("HTTP/1.1", "HTTP/1.0"))).status == 426
        own = REQUEST.replace("Host: x", "Origin: http://ui.allowed.test\r\nHost: x")
        assert (await client.ask(own)).status == 101


async def test_no_room_and_a_maker_that_refuses() -> None:
    rooms = [False, True]
    async with serving(has_room=lambda call: rooms[0]) as served:
        client = await served.client()
        answer = await client.ask(REQUEST)
        assert answer.status == 503
        assert "max_websocket_connections" in answer.json["error"]["message"]
        rooms.pop(0)

        def refuse(upgrade: Upgrade) -> Any:
            raise Forbidden("not now")

        served.site.websockets["/websocket"] = refuse
        answer = await client.ask(REQUEST)
        assert (answer.status, answer.json["error"]["message"]) == (403, "not now")
        assert (await client.get("/who")).status == 200
