"""Fuzz target of the whole-file passes: both implementations, cut differently, must find the same in any bytes.

The first byte of the input says how the file is cut; the rest is the file. What is found is also held against what any
file can have: places inside it, in order, and numbers that are numbers.

    python -m tests.fuzz.fuzz_gcodepass [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import importlib
import math
from itertools import pairwise
from typing import Any

from moonfast._pure import gcodepass as pure
from moonfast.files.objects import parse_definition, unique_names
from tests.fuzz.target import Target

PIECES = [
    b"\n",
    b"\r\n",
    b";LAYER_CHANGE\n",
    b";LAYER:1\n",
    b"; layer 1, Z = 0.2\n",
    b"; BEGIN_LAYER_OBJECT z=0.2\n",
    b"SET_PRINT_STATS_INFO CURRENT_LAYER=1\n",
    b"G1 X1 Y1 E1\n",
    b"G91\n",
    b"G92\n",
    b"G28\n",
    b"M83\n",
    b"M73 P1 R1\n",
    b"M486 S0\n",
    b"M486 S-1\n",
    b"M486 Aname\n",
    b"; printing object a\n",
    b"; stop printing object a\n",
    b";MESH:a\n",
    b";PRINTING_ID: 1\n",
    b"EXCLUDE_OBJECT_DEFINE NAME=",
    b"9999999999999999",
]


def implementations() -> list[Any]:
    """Return the twin and, if they are built, the compiled passes."""
    try:
        return [pure, importlib.import_module("moonfast._speedups.gcodepass")]
    except ImportError:
        return [pure]


def outcome(gcodepass: Any, text: bytes, step: int) -> list[Any]:
    """What the passes find in a text that comes in pieces of `step` bytes."""
    scans = [
        gcodepass.FilePass(),
        gcodepass.FilePass(motion=False),
        gcodepass.ObjectPass(),
        gcodepass.ObjectPass(motion=False),
    ]
    for at in range(0, len(text), step):
        for scan in scans:
            scan.feed(text[at : at + step])
    return [*(scan.finish() for scan in scans), scans[3].take_events()]


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the passes differ or break their word."""
    step = data[0] % 64 + 1 if data else 1
    text = data[1:]
    outcomes = [outcome(gcodepass, text, cut) for gcodepass in implementations() for cut in (len(text) + 1, step)]
    assert all(repr(found) == repr(outcomes[0]) for found in outcomes), outcomes
    file, _, objects, borders, events = outcomes[0]
    for places in (file["layers"], file["progress"], events):
        assert all(0 <= entry[0] <= len(text) + 1 for entry in places)
        assert all(one[0] <= other[0] for one, other in pairwise(places))
    assert all(z is None or math.isfinite(z) for _, z in file["layers"])
    assert len(file["layers"]) <= file["layer_count"]
    if file["bounds"] is not None:
        for low, high in zip(file["bounds"]["min"], file["bounds"]["max"], strict=True):
            assert (low is None) == (high is None)
            assert low is None or low <= high
    assert [key for key, _, _ in objects["objects"]] == [key for key, _, _ in borders["objects"]]
    assert not (objects["objects"] and objects["definitions_at"] is None)
    names = unique_names(name or key for key, name, _ in objects["objects"])
    assert len({name.upper() for name in names}) == len(names)
    current = None
    for _, kind, index in events:
        if kind == "start":
            assert current is None
            current = index
        elif kind == "end":
            assert current == index
            current = None
    assert current == borders["current"]
    for line in file["definitions"]:
        parse_definition(line)


TARGET = Target("gcodepass", one_input, pieces=PIECES, header_bytes=1)

if __name__ == "__main__":
    TARGET.main()
