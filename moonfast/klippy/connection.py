"""The Unix socket to Klippy: connect, try again, feed bytes, lose the connection.

Klippy's socket is always read, whatever clients do: it has to get rid of its status updates while it feeds the motors.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from moonfast.errors import FramingError
from moonfast.speedups import framing

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 20 * 1024 * 1024
RETRY_S = 0.25
"""Between looks for a socket that is not there."""
MAX_RETRY_S = 4.0
"""Between attempts on one that does not work: the wait doubles up to this."""
SETTLED_S = 5.0
"""A connection that held this long begins with short waits again."""
MAX_UNSENT_BYTES = 16 * 1024 * 1024
"""Requests that Klippy does not read; beyond it the connection is given up."""


class Peer(NamedTuple):
    """The process at the other end, as the kernel knows it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Link:
    """Keeps a connection to Klippy while it is there. All callbacks run on the loop's thread."""

    def __init__(
        self,
        path: str,
        *,
        on_opened: Callable[[], None],
        on_messages: Callable[[list[bytes]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._path = path
        self._on_opened, self._on_messages, self._on_lost = on_opened, on_messages, on_lost
        self._protocol: _Protocol | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_fault = ""
        self._opened_at = 0.0  # on the loop's clock
        self.peer: Peer | None = None

    def start(self) -> None:
        """Begin to look for Klippy; returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._keep(), name="klippy link")

    async def stop(self) -> None:
        """Close the connection, look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        if self._protocol is not None:
            protocol = self._protocol
            protocol.abort("")
            await protocol.lost.wait()

    def write(self, message: bytes, urgent: bool = False) -> None:
        """Send one message; an urgent one before all that still wait here. Ignored without a connection."""
        if self._protocol is not None:
            self._protocol.write(message + framing.ETX, urgent)

    def abort(self, reason: str) -> None:
        """Give this connection up; the next attempt follows."""
        if self._protocol is not None:
            self._protocol.abort(reason)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = RETRY_S
        while True:
            file = self._file()
            if file is None:
                await asyncio.sleep(RETRY_S)
                continue
            try:
                _, protocol = await loop.create_unix_connection(lambda: _Protocol(self), self._path)
            except asyncio.CancelledError:
                if self._protocol is not None:  # just opened; uvloop then closes it without a word
                    self._protocol.connection_lost(None)
                raise
            except (OSError, ValueError) as exc:  # ValueError: a path that cannot be one
                self._fault(f"Klippy's socket {self._path} cannot be opened: {getattr(exc, 'strerror', None) or exc}")
            else:
                await protocol.lost.wait()
                if loop.time() - self._opened_at >= SETTLED_S:
                    wait_s = RETRY_S
            await self._wait(wait_s, file)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _wait(self, wait_s: float, file: tuple[int, int]) -> None:
        """Wait before the next attempt; a Klippy that starts makes a new socket: that ends the wait."""
        end = asyncio.get_running_loop().time() + wait_s
        while (left := end - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, RETRY_S))
            if self._file() not in (None, file):
                return

    def _file(self) -> tuple[int, int] | None:
        """What tells one socket file from the next under the same name; None: there is none."""
        try:
            found = os.stat(self._path)
        except (OSError, ValueError):
            return None
        return found.st_ino, found.st_ctime_ns

    def _fault(self, text: str) -> None:
        """Log a fault once, not at each attempt."""
        if text != self._last_fault:
            self._last_fault = text
            log.warning("%s", text)

    # from the protocol

    def opened(self, protocol: _Protocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._opened_at = asyncio.get_running_loop().time()
        self.peer = _peer(transport)
        self._on_opened()

    def received(self, messages: list[bytes]) -> None:
        self._on_messages(messages)

    def lost(self, reason: str) -> None:
        self._protocol = None
        if asyncio.get_running_loop().time() - self._opened_at >= SETTLED_S:
            self._last_fault = ""  # it had worked: this is worth a line in the log again
        if reason:
            self._fault(f"Klippy's connection was closed: {reason}")
        self._on_lost()


class _Protocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._framer = framing.Framer(MAX_MESSAGE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._is_paused = False
        self._reason, self._is_given_up = "", False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0, low=0)  # so that urgent messages overtake what waits
        self._link.opened(self, self._transport)

    def data_received(self, data: bytes) -> None:
        if self._is_given_up:
            return
        try:
            messages = self._framer.feed(data)
        except FramingError as exc:
            self._link.received(exc.completed)
            self.abort(f"{exc}, or it is not Klippy's protocol")
        else:
            if messages:
                self._link.received(messages)

    def write(self, message: bytes, urgent: bool) -> None:
        if self._transport is None or self._is_given_up:
            return
        if not self._is_paused:
            self._transport.write(message)
            return
        if self._unsent_bytes + len(message) > MAX_UNSENT_BYTES and not urgent:
            self.abort("it does not read its requests")
            return
        self._unsent_bytes += len(message)
        if urgent:
            self._unsent.appendleft(message)
        else:
            self._unsent.append(message)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        while self._unsent and not self._is_paused and self._transport is not None:
            message = self._unsent.popleft()
            self._unsent_bytes -= len(message)
            self._transport.write(message)

    def abort(self, reason: str) -> None:
        self._reason, self._is_given_up = self._reason or reason, True
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost.is_set():
            return
        self._transport = None
        self._unsent.clear()
        if self._framer.pending_bytes and not self._is_given_up:
            self._reason = "it ended in the middle of a message"
        self._link.lost(self._reason)
        self.lost.set()


def _peer(transport: asyncio.Transport) -> Peer | None:
    sock: Any = transport.get_extra_info("socket")
    try:
        return Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
    except OSError:
        return None
