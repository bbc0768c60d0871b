"""A WebSocket echo server over the very transport that the API server uses, for conformance suites such as Autobahn's.

    python -m tests.wire.echo_server --port 9001

Text is answered by text, binary by binary. Ends on SIGTERM and SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from moonfast.access.cors import OriginRule
from moonfast.access.gate import Gate
from moonfast.access.trusted import TrustedClients
from moonfast.access.users import Users
from moonfast.api.invoke import Invoker
from moonfast.api.table import EndpointTable
from moonfast.speedups import wsframe
from moonfast.storage.database import Database
from moonfast.transports.http import HttpConnection, Site
from moonfast.transports.hub import Hub
from moonfast.transports.websocket import WebSocket

HOST = "127.0.0.1"
MAX_CONNECTIONS = 1000


class EchoSocket(WebSocket):
    """Sends back what it gets."""

    def received(self, opcode: int, payload: bytes) -> None:
        self.outbox.send(wsframe.encode_frame(payload, opcode))


@contextlib.asynccontextmanager
async def echoing(port: int = 0) -> AsyncIterator[int]:
    """An echo server that runs; the port it listens on."""
    loop = asyncio.get_running_loop()
    hub = Hub(MAX_CONNECTIONS)
    table = EndpointTable()
    table.complete()
    trusted = TrustedClients(["127.0.0.0/8", "::1"])
    site = Site(
        table=table,
        invoker=Invoker(),
        origins=OriginRule([], trusted, []),
        trusted=trusted,
        gate=Gate(trusted, Users(Database(Path("/nowhere")))),
        pump=hub.pump,
        websockets={"/": lambda upgrade: EchoSocket(hub)},
        pages={},
        has_room=hub.has_room,
    )
    server = await loop.create_server(lambda: HttpConnection(site), HOST, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await hub.stop()
        site.stop()


async def serve(port: int) -> None:
    """Echo until a signal comes."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with echoing(port) as bound:
        print(f"echo server: ws://{HOST}:{bound}/", flush=True)
        await stopped.wait()


def main() -> None:
    flags = argparse.ArgumentParser(prog="python -m tests.wire.echo_server", description=__doc__)
    flags.add_argument("--port", type=int, default=0, help="port to listen on; without it one that is free")
    port = flags.parse_args().port
    try:
        import uvloop

        new_loop = uvloop.new_event_loop
    except ImportError:
        new_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve(port))


if __name__ == "__main__":
    main()
