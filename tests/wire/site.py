"""A Site over a few test handlers on an ephemeral port, and a raw client that reads responses apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

from moonfast.access.cors import OriginRule
from moonfast.access.gate import Gate
from moonfast.access.trusted import TrustedClients
from moonfast.access.users import Users
from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import Endpoint, endpoint
from moonfast.api.invoke import Invoker
from moonfast.api.later import Later
from moonfast.api.params import AllArguments, Body, Parameters
from moonfast.api.table import EndpointTable
from moonfast.codec import Raw
from moonfast.errors import ApiError, BadRequest, KlippyDisconnected
from moonfast.speedups import fanout
from moonfast.storage.database import Database
from moonfast.transports.http import HttpConnection, Limits, Site
from moonfast.transports.upgrade import Upgrade
from moonfast.vocab import DELETE, GET, POST, Access, Transport

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"


class Handlers:
    """Endpoints that show what arrives."""

    def __init__(self) -> None:
        self.laters: list[Later] = []
        self.count = 0

    @endpoint(GET, "/echo")
    def echo_get(self, call: Call, everything: AllArguments) -> dict[str, Any]:
        """Return the arguments."""
        self.count += 1
        return everything

    @endpoint(POST | DELETE, "/echo")
    def echo(self, call: Call, everything: AllArguments) -> dict[str, Any]:
        """Return the arguments."""
        self.count += 1
        return everything

    @endpoint(GET, "/who")
    def who(self, call: Call) -> dict[str, Any]:
        """Return what the call says about the caller."""
        return {
            "address": call.address,
            "host": call.host,
            "secure": call.is_secure,
            "verb": call.verb.names() if call.verb else None,
        }

    @endpoint(GET, "/open", access=Access.OPEN)
    def open(self, call: Call) -> Literal["ok"]:
        """For anyone."""
        return "ok"

    @endpoint(POST, "/body", is_wrapped=False, transports=Transport.HTTP)
    def body(self, call: Call, body: Body) -> Raw:
        """Return the length of the body."""
        return Raw(b"%d" % len(body))

    @endpoint(GET, "/later")
    def later(self, call: Call) -> Later:
        """Be answered when the test says so."""
        self.laters.append(Later())
        return self.laters[-1]

    @endpoint(GET, "/fail")
    def fail(self, call: Call, text: str) -> None:
        """Fail with a text."""
        raise BadRequest(text)

    @endpoint(GET, "/bug")
    def bug(self, call: Call) -> None:
        """Fail by mistake."""
        raise RuntimeError("secret detail")

    @endpoint(GET, "/unsendable")
    def unsendable(self, call: Call, how: Literal["json", "header"]) -> Any:
        """Return what no response can carry."""
        return object() if how == "json" else HttpAnswer(headers=(("X-A", "a\r\nX-B: b"),))

    @endpoint(GET, "/created")
    def created(self, call: Call) -> HttpAnswer:
        """Answer with a status and a header."""
        return HttpAnswer(b'{"a":1}', status=201, headers=(("Location", "/x"),))

    @endpoint(GET, "/big")
    def big(self, call: Call, size: int) -> str:
        """Return a text."""
        return "x" * size

    def remote(self, call: Call, everything: AllArguments) -> Literal["moved"]:
        """What Klippy offers."""
        self.count += 1
        return "moved"


class EchoSocket(asyncio.Protocol):
    """Stands for a WebSocket: sends everything back."""

    def __init__(self, upgrade: Upgrade) -> None:
        self.upgrade = upgrade
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"echo:" + data)


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body!r}>"


class Client:
    """One connection, bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)

    async def read(self, is_head: bool = False) -> Response:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for name, value in (line.split(": ", 1) for line in lines):
            assert name == "Connection" or name.lower() not in headers, "a header came twice"
            headers[name.lower()] = value
        size = 0 if is_head else int(headers.get("content-length", 0))
        return Response(int(status), headers, await asyncio.wait_for(self.reader.readexactly(size), 10))

    async def ask(self, data: str | bytes, is_head: bool = False) -> Response:
        self.send(data)
        return await self.read(is_head)

    async def get(self, target: str, headers: str = "", method: str = "GET") -> Response:
        return await self.ask(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n", method == "HEAD")

    async def post(self, target: str, kind: str, body: bytes, headers: str = "") -> Response:
        head = (
            f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        )
        return await self.ask(head.encode("latin-1") + body)

    async def at_end(self, within_s: float = 10.0) -> bytes:
        """What comes until the server closes."""
        return await asyncio.wait_for(self.reader.read(), within_s)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Served:
    """A running Site."""

    def __init__(self, site: Site, handlers: Handlers, table: EndpointTable, port: int) -> None:
        self.site, self.handlers, self.table, self.port = site, handlers, table, port
        self.clients: list[Client] = []

    async def client(self, context: ssl.SSLContext | None = None) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context))
        self.clients.append(client)
        return client

    async def get(self, target: str, headers: str = "", method: str = "GET") -> Response:
        return await (await self.client()).get(target, headers, method)


def refuse_unknown(path: str) -> ApiError | None:
    return KlippyDisconnected() if path.startswith("/printer/") else None


def new_site(
    cors_domains: tuple[str, ...] = ("http://*.allowed.test",),
    trusted_clients: tuple[str, ...] = ("127.0.0.1",),
    limits: Limits | None = None,
    **options: Any,
) -> tuple[Site, Handlers, EndpointTable]:
    handlers, table = Handlers(), EndpointTable()
    table.collect(handlers)
    table.complete()
    parameters = Parameters(Handlers.remote)
    table.add_remote(
        [Endpoint(GET | POST, "/printer/move", is_remote=True, handler=handlers.remote, parameters=parameters, doc="-")]
    )
    trusted = TrustedClients(trusted_clients)
    site = Site(
        table=table,
        invoker=Invoker(),
        origins=OriginRule(cors_domains, trusted),
        trusted=trusted,
        gate=Gate(trusted, Users(Database(Path("/nowhere")))),
        pump=fanout.Pump(asyncio.get_running_loop().call_soon),
        websockets={"/websocket": EchoSocket},
        pages={"/": HttpAnswer(b"<p>hello", content_type="text/html; charset=utf-8")},
        refuse_unknown=refuse_unknown,
        limits=limits,
        **options,
    )
    return site, handlers, table


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[Served]:
    """Run a Site; at the end nothing of it is left."""
    site, handlers, table = new_site(**options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpConnection(site), "127.0.0.1", 0, ssl=context)
    served = Served(site, handlers, table, server.sockets[0].getsockname()[1])
    try:
        yield served
    finally:
        server.close()
        await site.invoker.stop()
        site.stop()
        for client in served.clients:
            await client.close()
        await server.wait_closed()
        for _ in range(100):
            if not site.connections:
                break
            await asyncio.sleep(0.01)
        assert not site.connections
        assert site.held_bytes == 0
        site.pump.close()
