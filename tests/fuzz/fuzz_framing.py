"""Fuzz target of the framer: both implementations, cut differently, must agree on messages, errors and what is kept.

The first byte of the input says how the stream is cut, the second the limit of a message; the rest is the stream.

    python -m tests.fuzz.fuzz_framing [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonfast._pure import framing as pure
from moonfast.errors import FramingError

CORPUS = Path(__file__).parent / "corpus" / "framing"
PIECES = [b"\x03", b"\x03\x03", b"{}\x03", b"x" * 40]
HEADER_BYTES = 2
MAX_INPUT_BYTES = 4096


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
    stream = data[HEADER_BYTES:]
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
