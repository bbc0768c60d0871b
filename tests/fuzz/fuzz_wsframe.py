"""Fuzz target of the WebSocket frame parser: both implementations, cut differently, must agree on everything.

The first byte of the input says how the stream is cut, the second the limit of a message; the rest is the stream.

    python -m tests.fuzz.fuzz_wsframe [--seconds 60] [--seed N]    # with atheris installed: its options instead
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

from moonfast._pure import wsframe as pure

CORPUS = Path(__file__).parent / "corpus" / "wsframe"
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


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def mutations(chance: random.Random, inputs: list[bytes]) -> Iterator[bytes]:
    """Yield inputs with bits flipped, pieces cut, doubled and exchanged, for ever."""
    while True:
        data = bytearray(chance.choice(inputs))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            size = chance.randint(0, 8)
            kind = chance.randrange(5)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[at : at + size]
            elif kind == 2:
                data[at:at] = data[at : at + size]
            elif kind == 3:
                data[at : at + size] = chance.randbytes(size)
            else:
                data[at:at] = chance.choice(inputs)[2:]
        yield bytes(data)


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
