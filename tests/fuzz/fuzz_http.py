"""Fuzz target of the HTTP protocol: any bytes, cut in two ways, get the same documented answers.

The first byte of the input says how the stream is cut; the rest is the stream.

    python -m tests.fuzz.fuzz_http [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from moonfast.transports.http import HttpConnection, Limits
from tests.fuzz.target import Target
from tests.wire.site import new_site

STATUSES = {100, 101, 200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 413, 414, 415, 417, 426, 431, 500, 503}
LIMITS = Limits(target_bytes=500, head_bytes=2000, body_bytes=2000)
_DATE = re.compile(rb"\r\nDate: [^\r]*")
_REFUSAL = re.compile(
    rb"HTTP/1\.1 (?:400|413|414|431) [^\r]*(?:\r\n[^\r]+)*\r\nConnection: close(?:\r\n[^\r]+)*\r\n\r\n\{.*\}\Z"
)


class Wire:
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        self.sent = b""
        self.protocol: Any = None
        self.is_closed = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def set_write_buffer_limits(self, **limits: int) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.sent += data

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True

    abort = close


async def _feed(stream: bytes, cut: int) -> tuple[bytes, bool]:
    site, handlers, _ = new_site(limits=LIMITS)
    wire, connection = Wire(), HttpConnection(site)
    wire.protocol = connection
    connection.connection_made(wire)  # type: ignore[arg-type]
    for at in range(0, len(stream), cut):
        if wire.is_closed:
            break
        wire.protocol.data_received(stream[at : at + cut])
        for later in handlers.laters:
            if not later.is_set:
                later.resolve("late")
    connection.connection_lost(None)
    assert site.held_bytes == 0
    assert not site.connections
    site.stop()
    return _DATE.sub(b"", wire.sent), wire.is_closed


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the answers depend on the cuts, or are none that is documented."""
    cut = data[0] % 64 + 1 if data else 1
    stream = data[1:]
    outcomes = {asyncio.run(_feed(stream, size)) for size in (len(stream) + 1, cut)}
    for answers, _ in outcomes:
        check_answers(answers, stream)
    sent = {_without_echoes(answers) for answers, _ in outcomes}
    assert len(sent) == 1, outcomes
    assert len({is_closed for _, is_closed in outcomes}) == 1, outcomes


def _without_echoes(answers: bytes) -> bytes:
    """What may depend on the cuts.

    The stand-in for a WebSocket sends back as many pieces as it got; 100 goes only to who waits; and of several faults
    of one head the parser's is found first if they come in one piece.
    """
    answers = _REFUSAL.sub(b"", answers)
    answers = answers.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    head, found, rest = answers.partition(b"\r\n\r\necho:")
    return head + found + rest.replace(b"echo:", b"") if found and b"HTTP/1.1 101 " in head else answers


def check_answers(answers: bytes, stream: bytes) -> None:
    """Read the answers as a client that knows nothing of the requests but whether one can have been a HEAD."""
    if b"HEAD" in stream or b"echo:" in answers:
        return
    while answers:
        head, found, answers = answers.partition(b"\r\n\r\n")
        assert found
        first, *lines = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 ([0-9]{3}) [A-Za-z -]+", first)
        assert match, first
        status = int(match[1])
        assert status in STATUSES
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        size = int(headers.get(b"content-length", 0))
        body, answers = answers[:size], answers[size:]
        assert len(body) == size
        if headers.get(b"content-type", b"").startswith(b"application/json"):
            content = json.loads(body)
            assert status < 400 or content["error"]["code"] == status
        if status == 101:
            return
        assert status >= 200 or status == 100


TARGET = Target("http", one_input)

if __name__ == "__main__":
    TARGET.main()
