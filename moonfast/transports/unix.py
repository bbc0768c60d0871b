"""JSON-RPC over the Unix socket `comms/moonraker.sock`, for agents on the same machine.

Messages end with the byte 0x03, as on Klippy's socket. Who may connect is decided by the file's mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from typing import cast

from moonfast.api.call import Call
from moonfast.errors import FramingError, StartError
from moonfast.rpc.jsonrpc import JsonRpc
from moonfast.speedups import fanout, framing
from moonfast.transports.connection import Carrier, Connection
from moonfast.transports.hub import Hub
from moonfast.transports.websocket import announce_backlog, attach_outbox
from moonfast.vocab import Transport

log = logging.getLogger(__name__)

MODE = 0o660
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_CONNECTIONS = 100


class UnixConnection(asyncio.Protocol, Carrier):
    """One client of the Unix socket."""

    def __init__(self, hub: Hub, rpc: JsonRpc, open_connections: set[UnixConnection]) -> None:
        self._hub, self._rpc, self._open = hub, rpc, open_connections
        self._framer = framing.Framer(MAX_MESSAGE_BYTES)
        self._transport: asyncio.Transport | None = None
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._open) >= MAX_CONNECTIONS:
            log.warning("More than %d connections on the Unix socket: the new one is refused", MAX_CONNECTIONS)
            self._transport.abort()
            return
        self._open.add(self)
        outbox: fanout.Outbox = attach_outbox(self._hub.pump, self._transport)
        outbox.on_overflow = self._overflowed
        outbox.on_drained = self._drained
        self.connection = Connection(
            self._hub.new_uid(), Call(Transport.UNIX), self._rpc, outbox, framing.frame_message, self
        )
        announce_backlog(self._transport)
        self._hub.enter(self.connection)

    def data_received(self, data: bytes) -> None:
        if self.connection is None:
            return
        pump = self._hub.pump
        pump.cork()
        try:
            for message in self._framer.feed(data):
                self.connection.receive(message)
        except FramingError as exc:
            for message in exc.completed:
                self.connection.receive(message)
            log.warning("Connection %d on the Unix socket is closed: %s", self.connection.uid, exc)
            self.abort()
        finally:
            pump.uncork()

    def pause_writing(self) -> None:
        if self.connection is not None:
            self.connection.outbox.paused()

    def resume_writing(self) -> None:
        if self.connection is not None:
            self.connection.outbox.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        if self.connection is not None:
            self.connection.outbox.close()
            self._hub.leave(self.connection)

    def _drained(self) -> None:
        assert self.connection is not None
        self._hub.drained(self.connection)

    def _overflowed(self) -> None:
        assert self.connection is not None
        log.info("Connection %d on the Unix socket does not read: closed", self.connection.uid)
        self.abort()

    def hold(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def release(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        if self._transport is not None and self.connection is not None:
            if self.connection.outbox.queued_bytes:
                self.abort()
            else:
                self.connection.outbox.close()
                self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            if self.connection is not None:
                self.connection.outbox.close()
            self._transport.abort()


class UnixServer:
    """Listens on the Unix socket."""

    def __init__(self, path: str, hub: Hub, rpc: JsonRpc) -> None:
        self._path, self._hub, self._rpc = path, hub, rpc
        self._connections: set[UnixConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. A socket that nobody listens on any more is replaced. StartError: the path cannot be used."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(self._path).st_mode):  # anything else is not ours to delete
                    os.unlink(self._path)  # nobody listens on it: see the lock of the data folder
            sock.bind(self._path)
            os.chmod(self._path, MODE)
        except OSError as exc:
            sock.close()
            raise StartError(
                f"The Unix socket {self._path} cannot be opened: {exc.strerror or exc}. Choose another with -u."
            ) from None
        self._server = await loop.create_unix_server(self._accept, sock=sock)

    def _accept(self) -> UnixConnection:
        return UnixConnection(self._hub, self._rpc, self._connections)

    async def stop(self) -> None:
        """Stop listening, close what is open, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        await self._server.wait_closed()
        self._server = None
