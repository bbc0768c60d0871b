"""Fuzz target of the status table: both implementations agree on everything a caller can see, after any updates.

The first byte of the input says which updates are replies that repeat everything, the second which fields the groups
want; the rest is split at 0x03 into updates. An update that is refused must change nothing.

    python -m tests.fuzz.fuzz_status [--seconds 60] [--seed N]    # with atheris installed: its options instead
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

from moonfast._pure import status as pure
from moonfast.errors import SpanError

CORPUS = Path(__file__).parent / "corpus" / "status"
PIECES = [
    *(b"\x03", b"null", b"{}", b'{"a":{"x":1}}\x03', b'"a":', b'"x":', b'"\\u0061":', b"NaN", b",", b'"b":{"y":[]},'),
]
HEADER_BYTES = 2
MAX_INPUT_BYTES = 4096
FILTERS: list[dict[str, list[str] | None]] = [
    {"a": None},
    {"a": ["x"], "b": None},
    {"b": ["y", "x", "y"], "c": [], "a": ["y"]},
    {},
]


def implementations() -> list[Any]:
    """Return the twin and, if it is built, the compiled table."""
    try:
        return [pure, importlib.import_module("moonfast._speedups.status")]
    except ImportError:
        return [pure]


def visible(table: Any, groups: list[Any]) -> tuple[Any, ...]:
    """Everything that can be asked without changing anything."""
    objects = [(name, table.object(name)) for name in table.names()]
    texts = [(group.since(0), group.since(table.seq - 1), group.snapshot(), group.is_complete()) for group in groups]
    return table.seq, table.eventtime, table.nbytes, objects, texts


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the tables differ, or if a refused update left a trace."""
    repeats = data[0] if data else 0
    choice = data[1] if len(data) > 1 else 0
    updates = data[HEADER_BYTES:].split(b"\x03")
    outcomes = []
    for status in implementations():
        table = status.StatusTable()
        table.watch({"a", "c"})
        groups = [table.group(objects) for objects in FILTERS]
        seen: list[Any] = []
        for number, text in enumerate(updates):
            before = visible(table, groups)
            try:
                seen.append(table.apply(text, b"%d.5" % number, bool(repeats >> number % 8 & 1)))
            except SpanError as exc:
                seen.append(str(exc))
                assert visible(table, groups) == before
            seen += [(group.changed(), group.base, group.seq) for group in groups]
            seen.append(visible(table, groups))
            if choice & 1 and number % 4 == 3:
                table.retain(FILTERS[choice % len(FILTERS)])
            if choice & 2 and number % 8 == 7:
                table.clear()
        outcomes.append(seen)
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes


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
