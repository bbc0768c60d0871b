"""Fuzz target of the framer: both implementations, cut differently, must agree on messages, errors and what is kept.

The first byte of the input says how the stream is cut, the second the limit of a message; the rest is the stream.

    python -m tests.fuzz.fuzz_framing [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import importlib
from typing import Any

from moonfast._pure import framing as pure
from moonfast.errors import FramingError
from tests.fuzz.target import Target

PIECES = [b"\x03", b"\x03\x03", b"{}\x03", b"x" * 40]


def implementations() -> list[Any]:
    """Return the twin and, if it is built, the compiled framer."""
    try:
        return [pure, importlib.import_module("moonfast._speedups.framing")]
    except ImportError:
        return [pure]


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the framers differ or break their word."""
    step = data[0] % 64 + 1 if data else 1
    limit = data[1] + 1 if len(data) > 1 else 1
    stream = data[2:]
    outcomes = []
    for framing in implementations():
        for cut in (len(stream) + 1, step, 1):
            framer = framing.Framer(limit)
            messages: list[bytes] = []
            error = None
            for at in range(0, len(stream), cut):
                try:
                    messages += framer.feed(stream[at : at + cut])
                except FramingError as exc:
                    messages += exc.completed
                    error = str(exc)
                    break
                assert framer.pending_bytes <= limit
            outcomes.append((messages, error, framer.pending_bytes))
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    messages, error, pending = outcomes[0]
    joined = b"".join(message + pure.ETX for message in messages)
    assert stream.startswith(joined)
    assert all(len(message) <= limit for message in messages)
    assert pending == (0 if error else len(stream) - len(joined))


TARGET = Target("framing", one_input, pieces=PIECES)

if __name__ == "__main__":
    TARGET.main()
