"""A Spoolman of its own: the REST requests that are used here, and the WebSocket. Wrong requests are noted.

Source: Spoolman's description of its interface (`/api/v1`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.http11 import Request
from websockets.server import ServerProtocol


class FakeSpoolman:
    """`spools` maps a number to the length used, in mm. `faults` says what was wrong with requests."""

    def __init__(self) -> None:
        self.spools: dict[int, float] = {}
        self.requests: list[tuple[str, str, Any]] = []  # verb, target, body
        self.faults: list[str] = []
        self.port = 0
        self.loses_answers = 0  # so many reports are counted, and the connection ends without an answer
        self.use_status = 200
        self.answer: tuple[int, bytes, str] | None = None  # to whatever is not about spools: status, body, more headers
        self._server: asyncio.Server | None = None
        self._sockets: list[tuple[ServerProtocol, asyncio.StreamWriter]] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.001)

    def delete(self, spool_id: int) -> None:
        """As a user of Spoolman would."""
        del self.spools[spool_id]
        self.tell({"type": "deleted", "resource": "spool", "date": "2026-01-01", "payload": {"id": spool_id}})

    def tell(self, event: Any) -> None:
        for protocol, writer in self._sockets:
            protocol.send_text(json.dumps(event).encode())
            writer.writelines(protocol.data_to_send())

    def uses(self) -> list[tuple[int, float]]:
        """The reports that came: spool and length."""
        return [
            (int(target.split("/")[4]), body["use_length"])
            for verb, target, body in self.requests
            if verb == "PUT" and target.endswith("/use")
        ]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                head = await reader.readuntil(b"\r\n\r\n")
                if b"upgrade: websocket" in head.lower():
                    await self._serve_socket(head, reader, writer)
                else:
                    await self._serve_request(head, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _serve_socket(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(head)
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        if request.path != "/api/v1/spool":
            self.faults.append(f"a WebSocket at {request.path}")
        protocol.send_response(protocol.accept(request))
        writer.writelines(protocol.data_to_send())
        self._sockets.append((protocol, writer))
        try:
            while data := await reader.read(4096):
                protocol.receive_data(data)
                protocol.events_received()
                writer.writelines(part for part in protocol.data_to_send() if part)
        finally:
            self._sockets.remove((protocol, writer))

    async def _serve_request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = head.decode().rstrip().split("\r\n")
        verb, target, _ = line.split()
        headers = {name.lower(): value for name, value in (item.split(": ", 1) for item in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if content and headers.get("content-type") != "application/json":
            self.faults.append(f"{verb} {target}: content-type {headers.get('content-type')}")
        body = json.loads(content) if content else None
        self.requests.append((verb, target, body))
        answer = self._answer(verb, target, body)
        if answer is not None:
            status, text, more = answer
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n{more}\r\n".encode() + text)
            await writer.drain()

    def _answer(self, verb: str, target: str, body: Any) -> tuple[int, bytes, str] | None:
        parts = target.split("/")
        if parts[:4] != ["", "api", "v1", "spool"] or len(parts) < 5 or not parts[4].isdecimal():
            if self.answer is None:
                self.faults.append(f"{verb} {target}")
                return 404, b"{}", ""
            return self.answer
        spool_id = int(parts[4])
        if spool_id not in self.spools:
            return 404, json.dumps({"message": f"No spool with ID {spool_id} found."}).encode(), ""
        if parts[5:] == ["use"]:
            return self._use(verb, spool_id, body)
        if verb != "GET" or parts[5:]:
            self.faults.append(f"{verb} {target}")
        return 200, self._spool(spool_id), ""

    def _use(self, verb: str, spool_id: int, body: Any) -> tuple[int, bytes, str] | None:
        is_right = verb == "PUT" and isinstance(body, dict) and list(body) == ["use_length"]
        if not is_right or not isinstance(body["use_length"], float) or body["use_length"] <= 0:
            self.faults.append(f"{verb} use: {body}")
            return 422, b"{}", ""
        if self.use_status != 200:
            return self.use_status, b'{"message": "no"}', ""
        self.spools[spool_id] += body["use_length"]
        if self.loses_answers:
            self.loses_answers -= 1
            return None
        return 200, self._spool(spool_id), ""

    def _spool(self, spool_id: int) -> bytes:
        return json.dumps({"id": spool_id, "used_length": self.spools[spool_id], "archived": False}).encode()


@contextlib.asynccontextmanager
async def fake_spoolman(*spools: int) -> AsyncIterator[FakeSpoolman]:
    """One that listens; wrong requests fail the test."""
    fake = FakeSpoolman()
    fake.spools = dict.fromkeys(spools, 0.0)
    await fake.listen()
    try:
        yield fake
    finally:
        await fake.close()
    assert fake.faults == []
