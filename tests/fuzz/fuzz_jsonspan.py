"""Fuzz target of the JSON scanner: both implementations agree, and accept what the standard library's parser accepts.

The input is the text.

    python -m tests.fuzz.fuzz_jsonspan [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import importlib
import json
from typing import Any

from moonfast._pure import jsonspan as pure
from moonfast.errors import SpanError
from tests.fuzz.target import Target

PIECES = [
    *(bytes([byte]) for byte in b'{}[]:,"\\ \n0-+.eE'),
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"null",
        b'"a":',
        rb"\ud800",
        rb"\u00e4",
        b"\xed\xa0\x80",
        b"\xf4\x90",
        b"[" * 64,
    ),
]


def implementations() -> list[Any]:
    """Return the twin and, if it is built, the compiled scanner."""
    try:
        return [pure, importlib.import_module("moonfast._speedups.jsonspan")]
    except ImportError:
        return [pure]


def meaning(text: bytes) -> Any:
    """The decoded text, with null for what is no number; numbers stay as they are written. ValueError: not JSON."""
    return json.loads(
        text.decode(),
        parse_int=lambda digits: ("number", digits),
        parse_float=lambda digits: ("number", digits),
        parse_constant=lambda _: None,
    )


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the scanners differ, or from the standard library."""
    for name, kind in (("members", dict), ("elements", list)):
        outcomes: list[Any] = []
        for jsonspan in implementations():
            try:
                found = getattr(jsonspan, name)(data)
                outcomes.append(list(found.items()) if kind is dict else found)
            except SpanError as exc:
                outcomes.append(str(exc))
        assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
        found = outcomes[0]
        if not isinstance(found, str):
            found = {key: meaning(raw) for key, raw in found} if kind is dict else [meaning(raw) for raw in found]
            assert found == meaning(data)
        elif "nested deeper" not in found:
            try:
                expected = meaning(data)
            except (ValueError, RecursionError):
                continue
            assert not isinstance(expected, kind), found


TARGET = Target("jsonspan", one_input, pieces=PIECES, header_bytes=0)

if __name__ == "__main__":
    TARGET.main()
