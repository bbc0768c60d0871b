"""A web server to be asked: answers each path as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Peer:
    """`answers` maps a path to the whole answer; None: it never comes.

    `asked` are the paths, in order, `requests` their heads with the bodies.
    """

    def __init__(self) -> None:
        self.answers: dict[str, bytes | None] = {}
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self.dripping: dict[str, bool] = {}  # paths that are answered by a byte now and then, for ever
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []

    def put(self, path: str, body: bytes = b"", status: str = "200 OK", headers: str = "") -> str:
        """Answer a path; its address."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        self.answers[path] = head.encode() + body
        return self.url + path

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            self.requests.append(head + await reader.readexactly(int(length.partition(b":")[2])))
            self.asked.append(path)
            while path in self.dripping and not writer.is_closing():
                writer.write(b"H" if not self.dripping[path] else b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
            answer = self.answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            if answer is None:
                await reader.read()
            elif not writer.is_closing():
                writer.write(answer)
                await writer.drain()
        self.writers.remove(writer)
        writer.close()


@contextlib.asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    found = Peer()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        for writer in found.writers:
            writer.transport.abort()
        while found.writers:
            await asyncio.sleep(0)
        await server.wait_closed()
