"""Move files in and out of a server over HTTP, with next to no work on this side: sendfile and one reused buffer."""

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1 << 20
TIMEOUT_S = 300.0
BOUNDARY = "------------------------moonfast-bulk"

Sender = Callable[[socket.socket], object]


class HttpError(OSError):
    """The server refused, or ended the connection early."""


def ask(port: int, verb: str, path: str) -> Any:
    """Return the `result` of a request without a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(verb, path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise HttpError(f"{verb} {path}: {response.status} {body[:300]!r}")
    return json.loads(body)["result"]


def download(port: int, path: str, take: Callable[[memoryview], object] | None = None) -> int:
    """Read a file, hand each block to `take`, return its size."""
    block = bytearray(BLOCK_BYTES)
    view = memoryview(block)
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        size, got = _head(connection, path)
        if take:
            take(memoryview(got))
        done = len(got)
        while done < size:
            count = connection.recv_into(block)
            if not count:
                raise HttpError(f"{path} ended after {done} of {size} bytes")
            if take:
                take(view[:count])
            done += count
    return size


def upload_file(port: int, name: str, source: Path, checksum: str = "") -> None:
    """Upload a file into gcodes; `checksum` is its sha256, if the server shall check it."""
    with source.open("rb") as file:
        _upload(port, name, source.stat().st_size, checksum, lambda connection: connection.sendfile(file))


def upload_made_up(port: int, name: str, size: int) -> None:
    """Upload so many bytes that are nowhere stored on this side."""
    block = memoryview(b"G1 X100.000 Y100.000 E.12345 ; \n" * (BLOCK_BYTES // 32))

    def send(connection: socket.socket) -> None:
        left = size
        while left:
            connection.sendall(block[:left])
            left -= min(left, BLOCK_BYTES)

    _upload(port, name, size, "", send)


def _upload(port: int, name: str, size: int, checksum: str, send: Sender) -> None:
    fields = {"root": "gcodes"} | ({"checksum": checksum} if checksum else {})
    before = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    before += (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    after = f"\r\n--{BOUNDARY}--\r\n"
    head = (
        "POST /server/files/upload HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(before) + size + len(after)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall((head + before).encode())
        send(connection)
        connection.sendall(after.encode())
        _head(connection, name)


def _head(connection: socket.socket, what: str) -> tuple[int, bytes]:
    """Return the Content-Length of an answer, and what of its body came with the head."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = connection.recv(1 << 16)
        if not block:
            raise HttpError(f"{what}: no answer")
        data += block
    head, _, body = data.partition(b"\r\n\r\n")
    if head.split()[1] not in (b"200", b"201"):
        raise HttpError(f"{what}: {data[:2000]!r}")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lengths[0].split(b":")[1]) if lengths else len(body), body
