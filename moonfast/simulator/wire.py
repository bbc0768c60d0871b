"""The socket side of a simulated Klippy: JSON texts, each ended by 0x03, on a Unix socket.

Source: Klipper docs/API_Server.md, "Request format". Both the simulator and the replay of a captured session sit on
top of this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from typing import Any, Protocol, cast

log = logging.getLogger(__name__)

ETX = b"\x03"
UNSENT_LIMIT_BYTES = 4 * 1024 * 1024
"""A client that leaves more than this unread is dropped at the next message. One message may be larger."""
REQUEST_LIMIT_BYTES = 20 * 1024 * 1024
"""A client whose unfinished request grows beyond this is dropped."""
CLOSE_WAIT_S = 0.2
"""How long a closing connection may take to hand its last bytes to a client that reads slowly."""

Message = dict[str, Any]


class Owner(Protocol):
    """Who is told about connections. `received` gets one message without its 0x03 and must not raise."""

    def opened(self, connection: Connection) -> None: ...

    def received(self, connection: Connection, message: bytes) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One client of the simulated Klippy."""

    def __init__(self, owner: Owner, unsent_limit_bytes: int) -> None:
        self._owner = owner
        self._unsent_limit_bytes = unsent_limit_bytes
        self._transport: asyncio.Transport | None = None
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.subscription: dict[str, list[str] | None] = {}
        self.status_template: Message = {}
        self.told: dict[str, dict[str, Any]] = {}  # what the client was last told of each subscribed object
        self.output_template: Message | None = None
        self.remote_methods: dict[str, Message] = {}
        self.dumps: dict[tuple[str, str], Message] = {}  # (method, name) -> template

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        first, *rest = data.split(ETX)
        self._tail.append(first)
        self._tail_bytes += len(first)
        for following in rest:
            message = b"".join(self._tail)
            self._tail, self._tail_bytes = [following], len(following)
            self._owner.received(self, message)
        if self._tail_bytes > REQUEST_LIMIT_BYTES:
            log.warning("client dropped: its request is longer than %d bytes", REQUEST_LIMIT_BYTES)
            self.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._writable.set()
        if not self.gone.done():
            self.gone.set_result(None)
        self._owner.closed(self)

    # sending

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        self.send_bytes(json.dumps(message, separators=(",", ":")).encode() + ETX)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are. A client that reads too little is dropped (UNSENT_LIMIT_BYTES)."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > self._unsent_limit_bytes:
            log.warning("client dropped: more than %d bytes wait to be read by it", self._unsent_limit_bytes)
            self.abort()
            return
        self._transport.write(data)

    async def writable(self) -> None:
        """Wait until the client has read most of what was sent to it."""
        await self._writable.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._tail, self._tail_bytes = [], 0
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """A Unix socket that can go away and come back, as Klippy's does when it restarts."""

    def __init__(self, path: str, owner: Owner, unsent_limit_bytes: int = UNSENT_LIMIT_BYTES) -> None:
        self._path = path
        self._owner = owner
        self._unsent_limit_bytes = unsent_limit_bytes
        self._server: asyncio.Server | None = None
        self.connections: set[Connection] = set()

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def open(self) -> None:
        """Listen. A socket that an earlier process left behind is replaced; any other file is an OSError."""
        if self._server is not None:
            return
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(self._path).st_mode):
                os.unlink(self._path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, self._path)

    def _accept(self) -> Connection:
        connection = Connection(self._owner, self._unsent_limit_bytes)
        self.connections.add(connection)
        connection.gone.add_done_callback(lambda _: self.connections.discard(connection))
        return connection

    async def drop(self) -> None:
        """Close all connections; what was sent to them still arrives if they read it."""
        leaving = list(self.connections)
        for connection in leaving:
            connection.close()
        if leaving:
            await asyncio.wait([connection.gone for connection in leaving], timeout=CLOSE_WAIT_S)
        for connection in leaving:
            connection.abort()
        if leaving:
            await asyncio.wait([connection.gone for connection in leaving], timeout=CLOSE_WAIT_S)

    async def close(self) -> None:
        """Stop listening, remove the socket, close all connections."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        await self.drop()
        await server.wait_closed()
