"""A WebSocket client down to the single frame: sends what no decent library would, and reads exactly what comes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

WAIT_S = 30.0
"""Whatever does not happen within this time does not happen."""

STATS = b'{"jsonrpc":"2.0","method":"notify_proc_stat_update",'
"""How the notification begins that comes once a second."""

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frame(NamedTuple):
    """One frame as it was on the wire."""

    opcode: int
    payload: bytes
    is_final: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def code(self) -> int | None:
        """The close code; None: a close frame without one."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
) -> bytes:
    """A frame of a client; `mask` None: without one, which is not allowed."""
    bit = 0 if mask is None else 0x80
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if len(payload) < 126:
        head += bytes((bit | len(payload),))
    elif len(payload) < 65536:
        head += bytes((bit | 126,)) + len(payload).to_bytes(2, "big")
    else:
        head += bytes((bit | 127,)) + len(payload).to_bytes(8, "big")
    return head + payload if mask is None else head + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    whole = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


def close_frame(code: int | None, reason: bytes = b"") -> bytes:
    return frame(b"" if code is None else code.to_bytes(2, "big") + reason, CLOSE)


class RawSocket:
    """An open WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def send_bytewise(self, data: bytes, size: int = 1) -> None:
        """Send in pieces that arrive one by one."""
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await asyncio.sleep(0)

    async def send_json(self, message: Any) -> None:
        await self.send(frame(json.dumps(message).encode()))

    async def recv(self) -> Frame:
        """The next frame; EOFError or ConnectionError: there is none. Frames of the server must be as the RFC says.

        What the machine does, which is told at each whole second, is passed over.
        """
        while True:
            found = await self._recv()
            if not found.payload.startswith(STATS):
                return found

    async def _recv(self) -> Frame:
        async with asyncio.timeout(WAIT_S):
            first, second = await self.reader.readexactly(2)
            assert not first & 0x70, "reserved bits are set"
            assert not second & 0x80, "a server must not mask"
            length = second
            if length == 126:
                length = int.from_bytes(await self.reader.readexactly(2), "big")
                assert length > 125
            elif length == 127:
                length = int.from_bytes(await self.reader.readexactly(8), "big")
                assert length > 65535
            found = Frame(first & 15, await self.reader.readexactly(length), first >= 0x80)
            assert found.opcode in (CONT, TEXT, BINARY, CLOSE, PING, PONG)
            assert found.opcode < CLOSE or (found.is_final and length < 126)
            return found

    async def recv_json(self, method: str | None = None) -> Any:
        """The next message; of a method: the next of that, or without: the next answer."""
        while True:
            message = (await self.recv()).json
            if message.get("method") == method:
                return message

    async def call(self, method: str, params: Any = None, request_id: int = 1) -> Any:
        await self.send_json({"jsonrpc": "2.0", "method": method, "params": params, "id": request_id})
        return await self.recv_json()

    async def end(self) -> bool:
        """Wait for the end of the stream; True: in order, False: reset. Nothing more must come before it."""
        try:
            found = await self.recv()
        except ConnectionError:
            return False
        except asyncio.IncompleteReadError as exc:
            if not exc.partial:
                return True
            raise
        raise AssertionError(f"more came: {found}")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


async def open_raw(
    port: int, path: str = "/websocket", *, receive_bytes: int | None = None, headers: str = ""
) -> RawSocket:
    """Connect and do the opening handshake. `receive_bytes`: size of the socket's receive buffer (SO_RCVBUF)."""
    sock = socket.socket()
    sock.setblocking(False)
    try:
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_bytes or 1 << 16)
    except BaseException:
        sock.close()
        raise
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    client = RawSocket(reader, writer)
    if not head.startswith(b"HTTP/1.1 101 "):
        await client.close()
        raise ConnectionRefusedError(head)
    return client


@contextlib.asynccontextmanager
async def raw_socket(port: int, path: str = "/websocket", **options: Any) -> AsyncIterator[RawSocket]:
    client = await open_raw(port, path, **options)
    try:
        yield client
    finally:
        await client.close()
