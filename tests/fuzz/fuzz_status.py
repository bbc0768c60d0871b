"""Fuzz target of the status table: both implementations agree on everything a caller can see, after any updates.

The first byte of the input says which updates are replies that repeat everything, the second which fields the groups
want; the rest is split at 0x03 into updates. An update that is refused must change nothing.

    python -m tests.fuzz.fuzz_status [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import importlib
from typing import Any

from moonfast._pure import status as pure
from moonfast.errors import SpanError
from tests.fuzz.target import Target

PIECES = [
    *(b"\x03", b"null", b"{}", b'{"a":{"x":1}}\x03', b'"a":', b'"x":', b'"\\u0061":', b"NaN", b",", b'"b":{"y":[]},'),
]
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
    updates = data[2:].split(b"\x03")
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


TARGET = Target("status", one_input, pieces=PIECES)

if __name__ == "__main__":
    TARGET.main()
