"""Fuzz target of the WebSocket frame parser: both implementations, cut differently, must agree on everything.

The first byte of the input says how the stream is cut, the second the limit of a message; the rest is the stream.

    python -m tests.fuzz.fuzz_wsframe [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import importlib
from typing import Any

from moonfast._pure import wsframe as pure
from tests.fuzz.target import Target

FAILURE_CODES = {1002, 1007, 1009}
OPCODES = {pure.TEXT, pure.BINARY, pure.CLOSE, pure.PING, pure.PONG}


def implementations() -> list[Any]:
    """Return the twin and, if it is built, the compiled parser."""
    try:
        return [pure, importlib.import_module("moonfast._speedups.wsframe")]
    except ImportError:
        return [pure]


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the parsers differ or break their word."""
    step = data[0] % 64 + 1 if data else 1
    limit = 40 * data[1] if len(data) > 1 else 0
    stream = data[2:]
    outcomes = []
    for wsframe in implementations():
        for cut in (len(stream) + 1, step, 1):
            parser = wsframe.FrameParser(limit)
            events: list[tuple[int, bytes]] = []
            for at in range(0, len(stream), cut):
                events += parser.feed(stream[at : at + cut])
                assert parser.pending_bytes <= max(limit, 0) + 125 + 14
            outcomes.append((events, parser.failed, parser.pending_bytes))
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    events, failed, _ = outcomes[0]
    assert failed is None or failed[0] in FAILURE_CODES
    for opcode, payload in events:
        assert opcode in OPCODES
        if opcode == pure.TEXT:
            payload.decode("utf-8")
        assert len(payload) <= (limit if opcode < pure.CLOSE else pure.MAX_CONTROL_BYTES)


TARGET = Target("wsframe", one_input)

if __name__ == "__main__":
    TARGET.main()
