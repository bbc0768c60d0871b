"""HTTP on a real socket: what is asked for is answered, however it is cut, in order."""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moonfast.codec import Raw
from moonfast.errors import BadRequest
from tests.wire.site import UPGRADE, Client, serving

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


async def test_result_and_headers() -> None:
    async with serving() as served:
        answer = await served.get("/who")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        assert "date" in answer.headers
        assert "connection" not in answer.headers
        assert answer.json == {"result": {"address": "127.0.0.1", "host": "x", "secure": False, "verb": ["GET"]}}


async def test_arguments() -> None:
    async with serving() as served:
        client = await served.client()
        for target, expected in (
            ("/echo?a=1&b=x%26y%3Dz+w%2Be%C3%BC", {"a": "1", "b": "x&y=z w+eü"}),
            (
                "/echo?a:int=1&b:bool=true&c:float=2.5&d:json=%7B%22x%22%3A1%7D",
                {"a": 1, "b": True, "c": 2.5, "d": {"x": 1}},
            ),
            ("/echo?one&two", {"one": "", "two": ""}),
            ("/echo?a=1&a=2", {"a": "2"}),
            ("/echo?", {}),
            ("/ech%6f?a=%2F", {"a": "/"}),
            ("http://other/echo?a=1#part", {"a": "1"}),
        ):
            assert (await client.get(target)).json == {"result": expected}, target
        assert (await client.get("/echo?a:int=x")).status == 400
        assert (await client.get("/echo?a=%ff")).status == 400


async def test_bodies() -> None:
    boundary = b'--b\r\nContent-Disposition: form-data; name="v:int"\r\n\r\n7\r\n'
    file_part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nzzz\r\n'
    async with serving() as served:
        client = await served.client()
        cases: tuple[tuple[str, bytes, Any], ...] = (
            (JSON, b'{"a":"body","n":[1]}', {"a": "body", "q": "1", "n": [1]}),
            (JSON + "; charset=utf-8", '{"a":"ü"}'.encode(), {"a": "ü", "q": "1"}),
            (JSON, b"", {"a": "query", "q": "1"}),
            (FORM, b"a=form&c:int=3&d", {"a": "form", "q": "1", "c": 3, "d": ""}),
            ("multipart/form-data; boundary=b", boundary + file_part + b"--b--\r\n", {"a": "query", "q": "1", "v": 7}),
            ("text/plain", b"a=1", {"a": "query", "q": "1"}),
        )
        for kind, body, expected in cases:
            answer = await client.post("/echo?a=query&q=1", kind, body)
            assert answer.json == {"result": expected}, (kind, body)
        for kind, body in (
            (JSON, b"[1]"),
            (JSON, b"{bad"),
            (JSON, b'"text"'),
            (FORM, "a=ü".encode()),
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=b", boundary),
            ("multipart/form-data; boundary=b", b"nothing of the kind"),
        ):
            answer = await client.post("/echo", kind, body)
            assert answer.status == 400, (kind, body)
            assert answer.json["error"]["code"] == 400
        parts = b"--b\r\nContent-Disposition: form-data; name=v%b\r\n\r\n" + b"x" * 2_000_000 + b"\r\n--b--\r\n"
        for kind, body, status in (
            (FORM, b"a=" + b"x" * 2_000_000, 413),
            ("multipart/form-data; boundary=b", parts.replace(b"%b", b""), 413),
            ("multipart/form-data; boundary=b", parts.replace(b"%b", b"; filename=f"), 200),
            (JSON, b'{"a":"%b"}' % (b"x" * 2_000_000), 200),
        ):
            assert (await client.post("/echo", kind, body)).status == status, kind
        assert (await client.post("/echo", JSON, b"{}", "Content-Encoding: gzip\r\n")).status == 415
        delete = await client.ask(
            b"DELETE /echo?b=2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
            b'{"a":1}'
        )
        assert delete.json == {"result": {"a": 1, "b": "2"}}
        assert (await client.post("/body", "any/thing", b"\x00\xff" * 5000)).body == b"10000"


async def test_errors(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        client = await served.client()
        for method, target, status in (
            ("GET", "/nothing", 404),
            ("GET", "/Who", 404),
            ("GET", "/who/", 404),
            ("GET", "//who", 404),
            ("GET", "/x/../who", 404),
            ("GET", "/%2Fwho", 404),
            ("GET", "/who%00", 404),
            ("GET", "/who%ff", 404),
            ("GET", "/printer/nothing", 503),
            ("GET", "/fail", 400),
            ("PUT", "/who", 405),
            ("DELETE", "/who", 405),
            ("POST", "/", 405),
            ("PROPFIND", "/who", 405),
            ("GET", "/body", 405),
        ):
            answer = await client.get(target, "Content-Length: 0\r\n", method)
            assert answer.status == status, (method, target)
            assert answer.headers["content-type"].startswith(JSON)
            assert set(answer.json) == {"error"}
            assert answer.json["error"]["code"] == status
            assert answer.json["error"]["message"]
            assert ("allow" in answer.headers) == (status == 405)
        assert (await client.get("/who", method="PUT")).headers["allow"] == "GET, HEAD, OPTIONS"
        assert (await client.get("/nothing")).json["error"]["message"] == "Not Found"

        text = "!! line one\n<b>two</b> 100% \u00b5"
        answer = await client.get("/fail?text=" + "".join(f"%{byte:02x}" for byte in text.encode()))
        assert answer.json["error"]["message"] == text

        with caplog.at_level(logging.CRITICAL):
            for target in ("/bug", "/unsendable?how=json", "/unsendable?how=header"):
                answer = await client.get(target)
                assert answer.status == 500
                assert b"secret" not in answer.body
                assert b"Traceback" not in answer.body
                assert "x-b" not in answer.headers
        assert (await client.get("/who")).status == 200  # all of it on one connection


async def test_other_answers() -> None:
    async with serving() as served:
        client = await served.client()
        created = await client.get("/created")
        assert (created.status, created.headers["location"], created.json) == (201, "/x", {"a": 1})
        page = await client.get("/")
        assert (page.status, page.body, page.headers["content-type"]) == (200, b"<p>hello", "text/html; charset=utf-8")
        for known in (page.headers["etag"], f'"a", W/{page.headers["etag"]}', "*"):
            again = await client.get("/", f"If-None-Match: {known}\r\n")
            assert (again.status, again.body) == (304, b"")
            assert "content-length" not in again.headers
        assert (await client.get("/", 'If-None-Match: "a"\r\n')).status == 200


async def test_head() -> None:
    async with serving() as served:
        client = await served.client()
        for target in ("/who", "/", "/created", "/nothing", "/big?size=70000"):
            head, get = await client.get(target, method="HEAD"), await client.get(target)
            assert head.status == get.status, target
            for name in ("content-length", "content-type"):
                assert head.headers[name] == get.headers[name], target


async def test_versions_and_closing() -> None:
    async with serving() as served:
        for request in (
            "GET /who HTTP/1.0\r\n\r\n",
            "GET /who HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /who HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            client = await served.client()
            answer = await client.ask(request)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await client.at_end() == b""
        client = await served.client()
        client.send("GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        client.writer.write_eof()
        assert (await client.read()).status == 200
        assert await client.at_end() == b""


async def test_half_closed_client_gets_a_late_answer() -> None:
    async with serving() as served:
        client = await served.client()
        client.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        client.writer.write_eof()
        await until(lambda: len(served.handlers.laters) == 1)
        await asyncio.sleep(0.02)
        served.handlers.laters[0].resolve("late")
        assert (await client.read()).json == {"result": "late"}
        assert await client.at_end() == b""


async def test_options() -> None:
    async with serving() as served:
        client = await served.client()
        for target in ("/who", "/", "/websocket", "*"):
            answer = await client.get(target, method="OPTIONS")
            assert answer.status == 204
            assert "GET" in answer.headers["allow"]
            assert "access-control-allow-origin" not in answer.headers
        assert (await client.get("/nothing", method="OPTIONS")).status == 404
        asked = "Origin: http://ui.allowed.test\r\nAccess-Control-Request-Method: POST\r\n"
        for target in ("/who", "/printer/nothing"):
            answer = await client.get(target, asked, "OPTIONS")
            assert answer.status == 204
            assert answer.headers["access-control-allow-origin"] == "http://ui.allowed.test"
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert "Content-Type" in answer.headers["access-control-allow-headers"]
            assert "access-control-allow-private-network" not in answer.headers
        answer = await client.get("/who", asked + "Access-Control-Request-Private-Network: true\r\n", "OPTIONS")
        assert answer.headers["access-control-allow-private-network"] == "true"
        answer = await client.get("/who", asked.replace("ui.allowed", "evil"), "OPTIONS")
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_origins() -> None:
    async with serving() as served:
        client = await served.client()
        foreign, own = "Origin: http://evil.test\r\n", "Origin: http://a.allowed.test\r\n"
        for target, status in (("/who", 200), ("/nothing", 404), ("/fail?text=x", 400)):
            answer = await client.get(target, own)
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "http://a.allowed.test")
            assert answer.headers["vary"] == "Origin"
            answer = await client.get(target, foreign)
            assert (answer.status, answer.headers["vary"]) == (status, "Origin")
            assert "access-control-allow-origin" not in answer.headers
        for method in ("POST", "DELETE", "PUT"):
            answer = await client.get("/echo", foreign + "Content-Length: 0\r\n", method)
            assert answer.status == 403
            assert "evil.test" in answer.json["error"]["message"]
        assert served.handlers.count == 0
        assert (await client.post("/echo", FORM, b"a=1", own)).status == 200
        assert (await client.post("/echo", FORM, b"a=1", "Origin: http://x:8080\r\n")).status == 200  # the same host


async def test_klippys_own_endpoints_refuse_strangers() -> None:
    async with serving() as served:
        client = await served.client()
        for method in ("GET", "HEAD"):
            for headers in ("Origin: http://evil.test\r\n", "Sec-Fetch-Site: cross-site\r\n", "Origin: null\r\n"):
                assert (await client.get("/printer/move", headers, method)).status == 403
        assert served.handlers.count == 0
        for headers in ("", "Sec-Fetch-Site: same-origin\r\n", "Origin: http://a.allowed.test\r\n"):
            assert (await client.get("/printer/move", headers)).json == {"result": "moved"}
        assert (await client.get("/printer/move", "Content-Length: 0\r\n", "POST")).status == 200
        served.table.remove_remote()
        assert (await client.get("/printer/move")).status == 503


async def test_untrusted_addresses() -> None:
    async with serving(trusted_clients=("127.0.0.1", "192.168.0.0/16")) as served:
        client = await served.client()
        stranger = "X-Forwarded-For: 203.0.113.9\r\n"
        for target in ("/who", "/nothing", "/", "/websocket", "/printer/move"):
            answer = await client.get(target, stranger)
            assert answer.status == 401, target
            assert answer.json["error"]["message"] == "Unauthorized"
            assert "203.0.113.9" in answer.json["error"]["data"]["remedy"]
        assert (await client.get("/open", stranger)).json == {"result": "ok"}
        assert (await client.get("/who", stranger, "OPTIONS")).status == 204
        answer = await client.get("/who", "X-Forwarded-For: 203.0.113.9, 192.168.1.7\r\nX-Forwarded-Proto: https\r\n")
        assert answer.status == 401
        answer = await client.get("/who", "X-Real-IP: 192.168.1.8\r\nX-Forwarded-Proto: https\r\n")
        assert answer.json["result"] == {"address": "192.168.1.8", "host": "x", "secure": True, "verb": ["GET"]}
        assert (await client.get("/who")).json["result"]["address"] == "127.0.0.1"
    async with serving(use_xheaders=False) as served:
        assert (await served.get("/who", stranger)).json["result"]["address"] == "127.0.0.1"


async def test_route_prefix() -> None:
    async with serving(prefix="/printer1") as served:
        client = await served.client()
        for target, status in (
            ("/printer1/who", 200),
            ("/printer1", 308),
            ("/printer1/", 200),
            ("/who", 404),
            ("/printer1who", 404),
            ("/printer2/who", 404),
            ("/", 404),
        ):
            assert (await client.get(target)).status == status, target
        client.send(f"GET /printer1/websocket HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n")
        assert (await client.read()).status == 101


async def until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


# keep-alive, pipelining, order


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    async with serving() as served:
        client = await served.client()
        client.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\nGET /echo?n=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        client.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        handlers = served.handlers
        await until(lambda: handlers.laters)
        await asyncio.sleep(0.02)
        assert (len(handlers.laters), handlers.count) == (1, 0)
        handlers.laters[0].resolve(Raw(b'"first"'))
        assert (await client.read()).json == {"result": "first"}
        assert (await client.read()).json == {"result": {"n": "1"}}
        await until(lambda: len(handlers.laters) == 2)
        handlers.laters[1].fail(BadRequest("second"))
        assert (await client.read()).json["error"]["message"] == "second"
        assert (await client.read()).status == 404


async def test_many_pipelined_requests_wait_in_the_socket() -> None:
    async with serving() as served:
        client = await served.client()
        count = 20_000
        client.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        client.send("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n" * count)
        await until(lambda: served.handlers.laters)
        await asyncio.sleep(0.05)
        (connection,) = served.site.connections
        assert len(connection._waiting) < 200
        assert len(connection._unfed) <= 512 * 1024
        served.handlers.laters[0].resolve(None)
        assert (await client.read()).json == {"result": None}
        for _ in range(count):
            await client.reader.readuntil(b'{"result":{}}')
        assert served.handlers.count == count


async def test_a_client_that_does_not_read_stops_being_served() -> None:
    async with serving() as served:
        client = await served.client()
        client.writer.transport.pause_reading()
        client.send("GET /big?size=1000000 HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        await asyncio.sleep(0.3)
        assert served.site.pump.queued_bytes < 3_000_000
        (connection,) = served.site.connections
        assert connection._outbox.blocked
        client.writer.transport.resume_reading()
        for _ in range(200):
            assert len((await client.read()).body) == 1000013


async def test_a_client_that_leaves_during_a_request() -> None:
    async with serving() as served:
        client = await served.client()
        client.send("GET /later HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: served.handlers.laters)
        client.writer.transport.abort()
        await asyncio.sleep(0.02)
        served.handlers.laters[0].resolve(1)  # who has only closed its side still gets it
        await until(lambda: not served.site.connections)


STREAM = (
    b"\r\n\r\nGET /echo?a=1 HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 300 + b"\r\n\r\n"
    b"POST /echo?a=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    b'{"b":"c"}'
    b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\na=b\r\n4\r\n&c=d\r\n0\r\nTrailer: t\r\n\r\n"
    b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    b"POST /who HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
    b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n"
    b"GET /echo?last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
)
STATUSES = [200, 200, 200, 404, 405, 200, 200]


async def read_stream(client: Client) -> list[Any]:
    found: list[Any] = []
    for number, status in enumerate(STATUSES):
        answer = await client.read(is_head=number == 5)
        assert answer.status == status
        found.append(json.loads(answer.body) if answer.body else None)
    assert await client.at_end() == b""
    return found


async def test_every_cut() -> None:
    async with serving() as served:
        client = await served.client()
        client.send(STREAM)
        expected = await read_stream(client)
        assert expected[:3] == [
            {"result": {"a": "1"}},
            {"result": {"a": "1", "b": "c"}},
            {"result": {"a": "b", "c": "d"}},
        ]
        for cut in range(1, len(STREAM), 7):
            client = await served.client()
            client.send(STREAM[:cut])
            await asyncio.sleep(0.0005)
            client.send(STREAM[cut:])
            assert await read_stream(client) == expected
        client = await served.client()
        for at in range(len(STREAM)):
            client.send(STREAM[at : at + 1])
            await asyncio.sleep(0)
        assert await read_stream(client) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_arbitrary_cuts(cuts: list[int]) -> None:
    """The protocol alone, without a socket: so that each cut arrives as it is."""
    assert fed_alone(sorted({0, *cuts, len(STREAM)})) == fed_alone([0, len(STREAM)])


class FakeTransport:
    """Takes everything at once."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_closed = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, **limits: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.sent += data

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    abort = close


def fed_alone(cuts: list[int]) -> bytes:
    from moonfast.transports.http import HttpConnection
    from tests.wire.site import new_site

    async def feed() -> bytes:
        site, _, _ = new_site()
        connection, transport = HttpConnection(site), FakeTransport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        for start, end in pairwise(cuts):
            connection.data_received(STREAM[start:end])
        assert transport.is_closed
        connection.connection_lost(None)
        site.stop()
        return b"\r\n".join(line for line in transport.sent.split(b"\r\n") if not line.startswith(b"Date: "))

    return asyncio.run(feed())
