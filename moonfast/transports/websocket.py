"""WebSockets on the server's side: messages in and out, ping, close (RFC 6455).

The HTTP protocol answers the upgrade and then hands its transport over: `connection_made` is called on a transport that
is open already.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

from moonfast.api.call import Call
from moonfast.rpc.jsonrpc import JsonRpc
from moonfast.speedups import fanout, framing, wsframe
from moonfast.transports.connection import Carrier, Connection
from moonfast.transports.hub import Hub

log = logging.getLogger(__name__)

PING_INTERVAL_S = 10.0
MAX_MISSED_PONGS = 3
CLOSE_TIMEOUT_S = 5.0
"""After a close frame was sent: how long the peer may take to read it and to answer."""

NORMAL, GOING_AWAY, POLICY_VIOLATION, TRY_AGAIN_LATER = 1000, 1001, 1008, 1013


class WebSocket(asyncio.Protocol, Carrier):
    """One WebSocket. Subclasses take what it receives: `opened`, `received`, `lost`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._pump = hub.pump
        self._parser = wsframe.FrameParser()
        self._transport: asyncio.Transport | None = None
        self.outbox: fanout.Outbox
        self._last_heard = self._last_ping = 0.0
        self._close_by: float | None = None  # loop time at which a closing transport is cut off
        self._has_sent_close = False
        self._reads = True

    # what subclasses do

    def opened(self) -> None:
        """The WebSocket is open: `outbox` is there."""

    def received(self, opcode: int, payload: bytes) -> None:
        """One whole message has arrived."""

    def assess(self, look: Callable[[Call], None]) -> None:
        """What callers may has changed; `look` updates a call. Connections of the hub it looks at by itself."""

    def lost(self) -> None:
        """The transport is gone."""

    def drained(self) -> None:
        """What was queued for the client has been sent."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.outbox = attach_outbox(self._pump, self._transport)
        self.outbox.on_overflow = self._overflowed
        self.outbox.on_drained = self._drained
        announce_backlog(self._transport)
        self._last_heard = self._last_ping = asyncio.get_running_loop().time()
        self._hub.enter_timed(self)
        self.opened()

    def data_received(self, data: bytes) -> None:
        self._last_heard = 0.0  # stands for "since the last tick"
        pump = self._pump
        pump.cork()
        try:
            for opcode, payload in self._parser.feed(data):
                if opcode == wsframe.TEXT or opcode == wsframe.BINARY:
                    if not self._has_sent_close:
                        self.received(opcode, payload)
                elif opcode == wsframe.PING:
                    if not self._has_sent_close:
                        self.outbox.send(wsframe.encode_frame(payload, wsframe.PONG))
                elif opcode == wsframe.CLOSE:
                    self._peer_closed(payload)
            if self._parser.failed is not None and not self._has_sent_close:
                self.close(*self._parser.failed)
        finally:
            pump.uncork()
        if self._close_by is not None:
            self._end_if_sent()

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def pause_writing(self) -> None:
        self.outbox.paused()

    def resume_writing(self) -> None:
        self.outbox.resumed()
        if self._close_by is not None:
            self._end_if_sent()

    def connection_lost(self, exc: Exception | None) -> None:
        self.outbox.close()
        self._transport = None
        self._hub.leave_timed(self)
        self.lost()

    # closing

    def close(self, code: int, reason: str) -> None:
        """Say goodbye; the transport is closed when the peer has answered, or after CLOSE_TIMEOUT_S."""
        if self._transport is None or self._has_sent_close:
            return
        self._has_sent_close = True
        self._close_by = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_S
        self.outbox.finish(wsframe.encode_close(code, reason))
        self.release()  # the peer's answer must arrive; what comes before it is ignored
        if self._parser.failed is not None:  # RFC 6455 section 7.1.7: nothing more can be understood from this peer
            self._peer_has_closed = True

    _peer_has_closed = False

    def _peer_closed(self, payload: bytes) -> None:
        self._peer_has_closed = True
        if not self._has_sent_close:
            self._has_sent_close = True
            self._close_by = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_S
            code = int.from_bytes(payload[:2], "big") if payload else NORMAL
            self.outbox.finish(wsframe.encode_close(code) if payload else wsframe.encode_frame(b"", wsframe.CLOSE))

    def _end_if_sent(self) -> None:
        """Close the transport when both sides have said goodbye and ours is on its way."""
        if self._transport is None or not self._peer_has_closed or self.outbox.queued_bytes:
            return
        self.outbox.close()
        if self._parser.failed is not None and self._transport.can_write_eof():
            self._transport.write_eof()  # it is still read, and ignored: a reset could overtake the close frame
        else:
            self._transport.close()

    def _overflowed(self) -> None:
        """The client does not read what is sent to it: the queue has been dropped."""
        transport = self._transport
        if transport is None or self._has_sent_close:
            return
        log.info("A WebSocket client that does not read is closed")
        self._has_sent_close = self._peer_has_closed = True
        self._close_by = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_S
        self.outbox.close()
        transport.write(wsframe.encode_close(TRY_AGAIN_LATER, "too slow: try again later"))
        transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        self.outbox.close()
        if self._transport is not None:
            self._transport.abort()

    def _drained(self) -> None:
        if not self._has_sent_close:
            self.drained()

    # once a second, from the hub

    def tick(self, now: float) -> None:
        if self._close_by is not None:
            if now >= self._close_by:
                self.abort()
            else:
                self._end_if_sent()
            return
        if self._last_heard == 0.0 or not self._reads:  # while it is not read, no answer of it can arrive
            self._last_heard = now
        if now - self._last_heard > MAX_MISSED_PONGS * PING_INTERVAL_S + PING_INTERVAL_S / 2:
            log.info("A WebSocket client has not answered %d pings: closed", MAX_MISSED_PONGS)
            self.abort()
        elif now - self._last_ping >= PING_INTERVAL_S:
            self._last_ping = now
            self.outbox.send(_PING)

    # Carrier: flow of what is received

    def hold(self) -> None:
        if self._transport is not None and self._reads and not self._has_sent_close:
            self._reads = False
            self._transport.pause_reading()

    def release(self) -> None:
        if self._transport is not None and not self._reads:
            self._reads = True
            self._transport.resume_reading()


_PING = wsframe.encode_frame(b"", wsframe.PING)


class RpcWebSocket(WebSocket):
    """`/websocket`: JSON-RPC and notifications. Binary frames are taken as text, as Moonraker does."""

    def __init__(self, hub: Hub, rpc: JsonRpc, call: Call) -> None:
        super().__init__(hub)
        self._rpc, self._call = rpc, call
        self.connection: Connection

    def opened(self) -> None:
        self.connection = Connection(
            self._hub.new_uid(), self._call, self._rpc, self.outbox, wsframe.encode_frame, self
        )
        self._hub.enter(self.connection)
        log.debug("Connection %d opened from %s", self.connection.uid, self._call.address)

    def received(self, opcode: int, payload: bytes) -> None:
        self.connection.receive(payload)

    def drained(self) -> None:
        self._hub.drained(self.connection)

    def lost(self) -> None:
        self._hub.leave(self.connection)
        log.debug("Connection %d closed", self.connection.uid)


class KlippyBridge(WebSocket):
    """`/klippysocket`: passes messages to Klippy and back, on a Klippy connection of its own.

    Each text message is one Klippy message without its 0x03. Ends with Klippy.
    """

    def __init__(self, hub: Hub, socket_path: str, call: Call) -> None:
        super().__init__(hub)
        self._socket_path, self._call = socket_path, call
        self._klippy: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._opening: asyncio.Task[None] | None = None

    def assess(self, look: Callable[[Call], None]) -> None:
        """Whoever may not use Klippy any more has no use for a bridge to it."""
        look(self._call)
        if not self._call.is_authorized:
            self.close(POLICY_VIOLATION, "Unauthorized: log in, then connect again")

    def opened(self) -> None:
        self.hold()  # until Klippy is reached; what is here already waits in `_early`
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_unix_connection(lambda: _BridgeEnd(self), self._socket_path)
        except OSError:
            self.close(TRY_AGAIN_LATER, "Klippy Host not connected")
            return
        if self._transport is None:
            transport.abort()
            return
        self._klippy = transport
        for message in self._early:
            transport.write(message)
        self._early.clear()
        self.release()

    def received(self, opcode: int, payload: bytes) -> None:
        try:
            message = framing.frame_message(payload)
        except ValueError:
            self.close(POLICY_VIOLATION, "A message to Klippy must not contain the byte 0x03")
            return
        if self._klippy is None:
            self._early.append(message)  # bounded: the socket is not read meanwhile
        else:
            self._klippy.write(message)

    def from_klippy(self, message: bytes) -> None:
        if not message.isascii():  # a text frame must be UTF-8, whatever Klippy sends
            message = message.decode("utf-8", "replace").encode("utf-8")
        self.outbox.send(wsframe.encode_frame(message))

    def klippy_lost(self) -> None:
        self._klippy = None
        self.close(GOING_AWAY, "Klippy disconnected")

    def lost(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._klippy is not None:
            self._klippy.abort()
            self._klippy = None


class _BridgeEnd(asyncio.Protocol):
    """Klippy's side of a bridge."""

    def __init__(self, bridge: KlippyBridge) -> None:
        self._bridge = bridge
        self._framer = framing.Framer()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._framer.feed(data):
                self._bridge.from_klippy(message)
        except ValueError as exc:
            log.warning("Bridge to Klippy closed: %s", exc)
            self._transport.abort()

    def pause_writing(self) -> None:
        self._bridge.hold()

    def resume_writing(self) -> None:
        self._bridge.release()

    def connection_lost(self, exc: Exception | None) -> None:
        self._bridge.klippy_lost()


def attach_outbox(pump: fanout.Pump, transport: asyncio.Transport) -> fanout.Outbox:
    """Give an open transport an outbox: by its descriptor, or, if it is encrypted, through itself.

    The owner calls `announce_backlog` when it is ready for pause_writing.
    """
    is_encrypted = isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
    sock = transport.get_extra_info("socket")
    outbox = fanout.Outbox(pump, transport, -1 if is_encrypted or sock is None else sock.fileno())
    if transport.get_write_buffer_size() > 0:
        outbox.paused()  # its protocol of before was told; the end of it will be told to the new one
    return outbox


def announce_backlog(transport: asyncio.Transport) -> None:
    """Let a transport tell of every byte that it holds. TLS still holds some of its own when it is opened."""
    is_encrypted = isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
    transport.set_write_buffer_limits(high=1 if is_encrypted else 0, low=0)
