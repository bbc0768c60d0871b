"""HTTP on a real socket: malformed requests, limits of size and time, and what a refusal leaves behind."""

from __future__ import annotations

import asyncio
import logging

import pytest

from moonfast.transports import http
from moonfast.transports.http import Limits
from tests.wire.site import serving
from tests.wire.test_http import until

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
BEHIND = b"GET /echo?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

MALFORMED = [
    b"garbage\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /echo\r\n\r\n",
    b"GET /echo HTTP/0.9\r\nHost: x\r\n\r\n",
    b"GET /echo HTTP/2.0\r\nHost: x\r\n\r\n",
    b"GET /echo HTTP/1.7\r\nHost: x\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xfc HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET ftp://x/echo HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /echo HTTP/1.1\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: x/y\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: u@x\r\n\r\n",
    GET + b"Origin: http://a.test\r\nOrigin: http://b.test\r\n\r\n",
    GET + b"A b: c\r\n\r\n",
    GET + b"A : c\r\n\r\n",
    GET + b"A: b\r\n folded\r\n\r\n",
    GET + b" A: b\r\n\r\n",
    GET + b": b\r\n\r\n",
    GET + b"A: b\x00c\r\n\r\n",
    GET + b"A: b\rc\r\n\r\n",
    GET + b"A: b\n\r\n",
    GET + b"\xe4: b\r\n\r\n",
    POST + b"Content-Length: abc\r\n\r\n",
    POST + b"Content-Length: +5\r\n\r\n12345",
    POST + b"Content-Length: -5\r\n\r\n12345",
    POST + b"Content-Length: 5, 5\r\n\r\n12345",
    POST + b"Content-Length:\r\n\r\n12345",
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345",
    POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: identity\r\n\r\n",
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
]


@pytest.mark.parametrize("request_", MALFORMED, ids=[str(index) for index in range(len(MALFORMED))])
async def test_malformed_requests_end_the_connection(request_: bytes) -> None:
    async with serving() as served:
        client = await served.client()
        answer = await client.ask(request_ + BEHIND)
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert answer.json["error"]["code"] == 400
        assert await client.at_end() == b""
        assert served.handlers.count == 0
        client = await served.client()  # behind a good request: that one is answered
        client.send(GET + b"\r\n" + request_ + BEHIND)
        assert [(await client.read()).status, (await client.read()).status] == [200, 400]
        assert await client.at_end() == b""
        assert served.handlers.count == 1


async def test_sizes() -> None:
    limits = Limits(target_bytes=1000, head_bytes=4000, body_bytes=10_000)
    async with serving(limits=limits) as served:

        async def status_of(*pieces: bytes) -> int:
            client = await served.client()
            for piece in pieces:
                client.send(piece)
                await asyncio.sleep(0.001)
            answer = await client.read()
            if answer.headers.get("connection") == "close":
                assert await client.at_end() == b""
            return answer.status

        def of(size: int) -> bytes:
            return b'{"a":"%b"}' % (b"x" * (size - 8))

        kind = b"Content-Type: application/json\r\n"
        assert await status_of(b"GET /echo?" + b"a" * 994 + b" HTTP/1.1\r\nHost: x\r\n\r\n") == 200
        assert await status_of(b"GET /echo?" + b"a" * 995 + b" HTTP/1.1\r\nHost: x\r\n\r\n") == 414
        assert await status_of(b"GET /echo?", *[b"a" * 500] * 40) == 414
        assert await status_of(GET + b"A: " + b"a" * 3900 + b"\r\n\r\n") == 200
        assert await status_of(GET + b"A: " + b"a" * 4000 + b"\r\n\r\n") == 431
        assert await status_of(GET, *[b"A: b\r\n"] * 700) == 431
        assert await status_of(GET + b"A: ", *[b"a" * 500] * 40) == 431
        assert await status_of(GET + b"B", *[b"b" * 500] * 40) == 431
        assert await status_of(POST + kind + b"Content-Length: 10000\r\n\r\n", of(10_000)) == 200
        assert await status_of(POST + kind + b"Content-Length: 10001\r\n\r\n" + of(10_001)) == 413
        assert await status_of(POST + b"Content-Length: 9999999999\r\n\r\n") == 413
        chunked = POST + kind + b"Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"1388\r\n%b\r\n"  # 5000 bytes
        whole = of(10_000)
        assert await status_of(chunked, chunk % whole[:5000], chunk % whole[5000:], b"0\r\n\r\n") == 200
        assert await status_of(chunked, *[chunk % (b" " * 5000)] * 3) == 413
        # what the parser would keep or skip for ever
        assert await status_of(chunked, b"1;x=", *[b"y" * 1000] * 20) == 431
        assert await status_of(chunked, b"0\r\nT: ", *[b"y" * 1000] * 20) == 431
        assert await status_of(chunked, b"0\r\n", *[b"T: y\r\n" * 100] * 20) == 431


async def test_bodies_of_all_connections_together_are_bounded() -> None:
    async with serving(limits=Limits(all_bodies_bytes=100_000)) as served:
        head = POST + b"Content-Length: 60000\r\n\r\n"
        first, second = await served.client(), await served.client()
        first.send(head + b"x" * 59_999)
        await until(lambda: served.site.held_bytes == 59_999)
        second.send(head + b"x" * 59_999)
        assert (await second.read()).status == 503
        assert (await first.ask(b"x")).status == 200
        assert served.site.held_bytes == 0
        first.send(head + b"x" * 1000)
        await until(lambda: served.site.held_bytes == 1000)
        first.writer.transport.abort()
        await until(lambda: served.site.held_bytes == 0)


async def test_a_refusal_is_read_by_a_client_that_is_still_sending() -> None:
    async with serving(limits=Limits(body_bytes=1000)) as served:
        client = await served.client()
        client.send(POST + b"Content-Length: 50000000\r\n\r\n")
        client.send(b"x" * 3_000_000)
        assert (await client.read()).status == 413
        client.send(b"x" * 1_000_000)
        assert await client.at_end() == b""
        await client.close()
        await until(lambda: not served.site.connections)


async def test_refused_requests_with_a_short_body_leave_the_connection_open() -> None:
    async with serving() as served:
        client = await served.client()
        body = b"Content-Length: 5\r\n\r\n12345"
        assert (await client.ask(b"POST /nothing HTTP/1.1\r\nHost: x\r\n" + body)).status == 404
        assert (await client.ask(b"POST /who HTTP/1.1\r\nHost: x\r\n" + body)).status == 405
        stranger = b"X-Forwarded-For: 203.0.113.1\r\n"
        assert (await client.ask(POST + stranger + body)).status == 401
        assert (await client.ask(GET + b"\r\n")).status == 200
        answer = await client.ask(POST + stranger + b"Content-Length: 70000\r\n\r\n")  # unread
        assert (answer.status, answer.headers["connection"]) == (401, "close")
        assert await client.at_end() == b""


async def test_expectations() -> None:
    async with serving() as served:
        client = await served.client()
        expect = b"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
        client.send(POST + expect)
        assert await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b'{"a":1}')).json == {"result": {"a": 1}}
        client.send(b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n" + POST + expect)  # behind another: in its turn
        await until(lambda: served.handlers.laters)
        served.handlers.laters[0].resolve(1)
        assert (await client.read()).json == {"result": 1}
        assert await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b'{"a":2}')).json == {"result": {"a": 2}}
        client.send(POST + expect + b'{"a":3}')  # not waited for
        assert (await client.read()).json == {"result": {"a": 3}}
        for line, head, status in (
            (b"Expect: 100-continue\r\n", b"POST /nothing HTTP/1.1\r\nHost: x\r\n", 404),
            (b"Expect: coffee\r\n", POST, 417),
        ):
            client = await served.client()
            answer = await client.ask(head + line + b"Content-Length: 7\r\n\r\n")
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert await client.at_end() == b""
        client = await served.client()
        answer = await client.ask(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}")
        assert answer.status == 200  # RFC 9110 section 10.1.1: ignored in HTTP/1.0


async def test_times(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(http, "SWEEP_S", 0.02)
    limits = Limits(head_s=0.2, body_s=0.2, idle_s=0.4, linger_s=0.1, write_s=0.2)
    caplog.set_level(logging.CRITICAL)
    async with serving(limits=limits) as served:
        silent = await served.client()
        assert await silent.at_end(2) == b""

        idle = await served.client()
        assert (await idle.ask(GET + b"\r\n")).status == 200
        assert await idle.at_end(2) == b""

        slow = await served.client()  # a byte now and then does not help
        loop = asyncio.get_running_loop()
        begin = loop.time()
        answering = asyncio.ensure_future(slow.read())
        for byte in GET + b"A: " + b"b" * 1000:
            if answering.done():
                break
            slow.send(bytes([byte]))
            await asyncio.sleep(0.01)
        assert loop.time() - begin < 1.5
        assert (await answering).status == 408

        slow = await served.client()
        slow.send(POST + b"Content-Length: 1000\r\n\r\n12")
        answering = asyncio.ensure_future(slow.read())
        while not answering.done():
            slow.send(b"x")
            await asyncio.sleep(0.01)
        answer = await answering
        assert (answer.status, answer.headers["connection"]) == (408, "close")

        steady = await served.client()  # slow, but getting on
        steady.send(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.08)
            steady.send(b"x" * 1000)
        assert (await steady.read()).body == b"8000"

        waiting = await served.client()  # a handler may take its time
        waiting.send(b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.8)
        served.handlers.laters[0].resolve("at last")
        assert (await waiting.read()).json == {"result": "at last"}

        deaf = await served.client()
        deaf.writer.transport.pause_reading()
        deaf.send(b"GET /big?size=20000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        await until(lambda: not served.site.connections)
        assert served.site.pump.queued_bytes == 0

        lingering = await served.client()
        lingering.send(b"garbage\r\n\r\n")
        assert (await lingering.read()).status == 400
        await until(lambda: not served.site.connections)  # though the client has not closed


async def test_too_many_connections() -> None:
    async with serving(limits=Limits(connections=2)) as served:
        first, second = await served.client(), await served.client()
        assert (await first.ask(GET + b"\r\n")).status == 200
        assert (await second.ask(GET + b"\r\n")).status == 200
        third = await served.client()
        answer = await third.read()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert "connections" in answer.json["error"]["message"]
        assert await third.at_end() == b""
        await first.close()
        await until(lambda: len(served.site.connections) == 1)
        assert (await served.get("/echo")).status == 200


async def test_stop_closes_all() -> None:
    async with serving() as served:
        idle, busy, lingering = await served.client(), await served.client(), await served.client()
        assert (await idle.ask(GET + b"\r\n")).status == 200
        lingering.send(b"garbage\r\n\r\n")
        assert (await lingering.read()).status == 400
        busy.send(b"GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: served.handlers.laters)
        served.site.stop()
        for client in (idle, busy, lingering):
            assert await client.at_end(2) == b""
        served.handlers.laters[0].resolve(1)
        late = await served.client()
        assert (await late.read()).status == 503
