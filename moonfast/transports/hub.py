"""All open connections of one server, and what is sent to everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

from moonfast.api.call import Call
from moonfast.api.endpoint import Notification
from moonfast.codec import encode
from moonfast.rpc.jsonrpc import encode_request
from moonfast.speedups import fanout
from moonfast.transports.connection import Connection

log = logging.getLogger(__name__)

TICK_S = 1.0
CLOSE_WAIT_S = 1.0
"""How long clients may take to answer a close when the server stops."""
GOING_AWAY = 1001

NOTHING: Any = object()
"""Payload of a notification that has none."""

STRANGERS_PART = 10
"""One place in so many is for WebSockets that have not logged in."""

_next_uid = count(1)  # unique in the process, so that an id of before a restart never means another client


class Timed(Protocol):
    """Something that wants to look at the clock once a second: pings, close time limits."""

    def tick(self, now: float) -> None: ...

    def close(self, code: int, reason: str) -> None: ...

    def abort(self) -> None: ...

    def assess(self, look: Callable[[Call], None]) -> None: ...


class Hub:
    """Knows every connection. `max_connections` holds for WebSockets: JSON-RPC and bridges together."""

    def __init__(self, max_connections: int) -> None:
        loop = asyncio.get_running_loop()
        self.pump = fanout.Pump(loop.call_soon)
        self.connections: dict[int, Connection] = {}
        self.on_opened: list[Callable[[Connection], None]] = []
        self.on_closed: list[Callable[[Connection], None]] = []
        self.on_drained: Callable[[Connection], None] = lambda connection: None
        self._max_connections = max_connections
        self._loop = loop
        self._timed: set[Timed] = set()
        self._by_framing: dict[Callable[[bytes], bytes], list[fanout.Outbox]] = {}
        self._included: set[int] = set()  # uids of those that get notifications
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._emptied: asyncio.Event | None = None

    @property
    def websocket_count(self) -> int:
        return len(self._timed)

    @property
    def listener_count(self) -> int:
        """Connections that get notifications."""
        return len(self._included)

    def has_room(self, call: Call) -> bool:
        """Whether one more WebSocket may open. Those who have not logged in get a part of the places only."""
        if self._is_stopping or len(self._timed) >= self._max_connections:
            return False
        return call.is_authorized or self._strangers() < max(self._max_connections // STRANGERS_PART, 1)

    def _strangers(self) -> int:
        return len(self.connections) - len(self._included)

    @staticmethod
    def new_uid() -> int:
        return next(_next_uid)

    def find(self, uid: int) -> Connection | None:
        return self.connections.get(uid)

    def enter_timed(self, carrier: Timed) -> None:
        """Take in a WebSocket, of whatever kind: it gets a tick each second until it leaves."""
        self._timed.add(carrier)
        if self._timer is None and not self._is_stopping:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def leave_timed(self, carrier: Timed) -> None:
        self._timed.discard(carrier)
        if self._emptied is not None and not self._timed:
            self._emptied.set()

    def enter(self, connection: Connection) -> None:
        """Take in a connection: from now on it gets notifications, if it may."""
        self.connections[connection.uid] = connection
        if connection.call.is_authorized:
            self._include(connection)
        for opened in self.on_opened:
            opened(connection)

    def leave(self, connection: Connection) -> None:
        """Forget a connection whose transport is gone."""
        del self.connections[connection.uid]
        self._exclude(connection)
        connection.closed()
        for closed in self.on_closed:
            closed(connection)

    def assess(self, look: Callable[[Call], None]) -> None:
        """Have looked again what each connection may; one that may nothing any more stays open, and is told nothing."""
        for carrier in list(self._timed):
            carrier.assess(look)
        for connection in list(self.connections.values()):
            look(connection.call)
            is_included = connection.uid in self._included
            if connection.call.is_authorized and not is_included:
                self._include(connection)
            elif is_included and not connection.call.is_authorized:
                self._exclude(connection)
                for closed in self.on_closed:
                    closed(connection)

    def _include(self, connection: Connection) -> None:
        self._included.add(connection.uid)
        self._by_framing.setdefault(connection.framing, []).append(connection.outbox)

    def _exclude(self, connection: Connection) -> None:
        if connection.uid in self._included:
            self._included.discard(connection.uid)
            self._by_framing[connection.framing].remove(connection.outbox)

    def drained(self, connection: Connection) -> None:
        """The connection has caught up with its queue: it may have missed status updates meanwhile."""
        self.on_drained(connection)

    def emit(self, notification: Notification, payload: Any = NOTHING) -> None:
        """Send a notification to every connection."""
        self.broadcast(encode_request(notification.method, None if payload is NOTHING else [payload]))

    def emit_raw(self, notification: Notification, payload: bytes) -> None:
        """The same with a payload that is JSON text already."""
        self.broadcast(b'{"jsonrpc":"2.0","method":%b,"params":[%b]}' % (encode(notification.method), payload))

    def emit_except(self, skipped: Connection, notification: Notification, payload: Any) -> None:
        """Send a notification to every connection but one: an agent does not hear of its own events."""
        text = encode_request(notification.method, [payload])
        for connection in list(self.connections.values()):
            if connection is not skipped and connection.call.is_authorized:
                connection.send(text)

    def broadcast(self, text: bytes) -> None:
        """Send one JSON text to every connection, framed once for each kind of them."""
        for framing, outboxes in self._by_framing.items():
            if outboxes:
                self.pump.broadcast(outboxes, framing(text))

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for carrier in list(self._timed):
            carrier.tick(now)
        if self._timed and not self._is_stopping:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    async def stop(self) -> None:
        """Close every connection, wait a moment for the clients' own close, then cut off those that are left."""
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self.connections.values()):
            connection.close(GOING_AWAY, "The server stops or restarts")
        for carrier in list(self._timed):
            carrier.close(GOING_AWAY, "The server stops or restarts")
        if self._timed:
            self._emptied = asyncio.Event()
            try:
                await asyncio.wait_for(self._emptied.wait(), CLOSE_WAIT_S)
            except TimeoutError:
                for carrier in list(self._timed):
                    carrier.abort()
                await asyncio.sleep(0)
        self.pump.close()
