"""Fuzz target of the JSON scanner: both implementations agree, and accept what the standard library's parser accepts.

The input is the text.

    python -m tests.fuzz.fuzz_jsonspan [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonfast._pure import jsonspan as pure
from moonfast.errors import SpanError

CORPUS = Path(__file__).parent / "corpus" / "jsonspan"
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
HEADER_BYTES = 0
MAX_INPUT_BYTES = 4096


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


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def mutations(chance: random.Random, inputs: list[bytes]) -> Iterator[bytes]:
    """Yield inputs with bits flipped, pieces cut, doubled and exchanged, for ever."""
    while True:
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            size = chance.randint(0, 8)
            kind = chance.randrange(6)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[at : at + size]
            elif kind == 2:
                data[at:at] = data[at : at + size]
            elif kind == 3:
                data[at : at + size] = chance.randbytes(size)
            elif kind == 4:
                data[at:at] = chance.choice(PIECES)
            else:
                data[at:at] = chance.choice(inputs)[HEADER_BYTES:]
        yield bytes(data[:MAX_INPUT_BYTES])


def main() -> None:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        atheris = None
    if atheris is not None:
        atheris.Setup([*sys.argv, str(CORPUS)], one_input)
        atheris.Fuzz()
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    end = time.monotonic() + options.seconds
    count = 0
    for data in mutations(random.Random(seed), seeds()):
        if time.monotonic() > end:
            break
        try:
            one_input(data)
        except BaseException:
            print(f"input {data.hex()}", file=sys.stderr)
            raise
        count += 1
    print(f"{count} inputs")


if __name__ == "__main__":
    main()
