"""A lasting connection, whatever carries it: who it is, what it has asked for, what has to be sent to it.

WebSockets and the Unix socket share this; they differ in `framing` and in how they close.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from moonfast.api.call import Call
from moonfast.api.later import Later
from moonfast.errors import AgentFailed, Unavailable
from moonfast.rpc.jsonrpc import JsonRpc, encode_request
from moonfast.speedups import fanout, status

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1000
"""Requests of one connection that wait for their answer; beyond it the connection is not read."""
MAX_OWN_REQUESTS = 1000
"""Requests to one agent that wait for its answer; beyond it new ones are refused."""


class Identity(NamedTuple):
    """What a client says about itself (specification: "Identify Connection")."""

    name: str
    version: str
    type: str
    url: str


class Connection:
    """One client. `carrier` is the protocol that owns the transport."""

    def __init__(
        self,
        uid: int,
        call: Call,
        rpc: JsonRpc,
        outbox: fanout.Outbox,
        framing: Callable[[bytes], bytes],
        carrier: Carrier,
    ) -> None:
        self.uid, self.call, self.outbox, self.framing = uid, call, outbox, framing
        self.identity: Identity | None = None
        self.group: status.FilterGroup | None = None
        self.remote_methods: set[str] = set()
        self._rpc, self._carrier = rpc, carrier
        self._in_flight = 0
        self._is_held = False
        self._own: dict[int, Later] = {}
        self._last_own_id = 0
        self._is_closed = False
        call.connection = self

    def receive(self, text: bytes) -> None:
        """Take one JSON text from the client."""
        self._in_flight += 1
        if self._in_flight >= MAX_IN_FLIGHT and not self._is_held:
            self._is_held = True
            self._carrier.hold()
        self._rpc.receive(text, self.call, self._reply, self._answered)

    def _reply(self, answer: bytes | None) -> None:
        self._in_flight -= 1
        if self._is_held and self._in_flight <= MAX_IN_FLIGHT // 2:
            self._is_held = False
            self._carrier.release()
        if answer is not None and not self._is_closed:
            self.outbox.send(self.framing(answer))

    def send(self, text: bytes) -> None:
        """Send one JSON text, after all those before it."""
        self.outbox.send(self.framing(text))

    def notify(self, method: str, params: Any) -> None:
        """Send a message that wants no answer."""
        self.send(encode_request(method, params))

    def request(self, method: str, params: Any) -> Later:
        """Ask the client. AgentFailed carries its error; Unavailable: it went away, or answers too slowly."""
        later = Later()
        if self._is_closed:
            later.fail(Unavailable("The agent is not connected"))
        elif len(self._own) >= MAX_OWN_REQUESTS:
            later.fail(Unavailable("The agent does not answer: too many requests wait for it"))
        else:
            self._last_own_id += 1
            self._own[self._last_own_id] = later
            self.send(encode_request(method, params, self._last_own_id))
        return later

    def _answered(self, message: dict[str, Any]) -> None:
        request_id = message.get("id")
        later = self._own.pop(request_id, None) if type(request_id) is int else None
        if later is None:
            log.debug("Connection %d answers a request that was never made: id %r", self.uid, request_id)
        elif "error" in message:
            error = message["error"]
            text = error.get("message") if isinstance(error, dict) else None
            later.fail(AgentFailed(f"The agent answered with an error: {text or 'no message'}", data=error))
        else:
            later.resolve(message["result"])

    def close(self, code: int, reason: str) -> None:
        """Close from this side; WebSockets tell the client `code` and `reason` (RFC 6455 section 7.4)."""
        self._carrier.close(code, reason)

    def closed(self) -> None:
        """The transport is gone: give up what waits."""
        self._is_closed = True
        own, self._own = self._own, {}
        for later in own.values():
            later.fail(Unavailable("The agent disconnected before it answered"))


class Carrier:
    """What a connection needs of the protocol that carries it."""

    def hold(self) -> None:
        """Stop reading."""
        raise NotImplementedError

    def release(self) -> None:
        """Read on."""
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        raise NotImplementedError
