"""Fuzz target of the metadata scan: any bytes as head and tail of a file; both implementations find the same, and the
slicers' tables make of it what JSON can hold.

The first byte of the input says where the tail begins; the rest is the file.

    python -m tests.fuzz.fuzz_gcodescan [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

import importlib
from typing import Any

from moonfast._pure import gcodescan as pure
from moonfast.codec import decode, encode
from moonfast.files.slicers import RECOGNISED, scan_parts
from tests.fuzz.target import Target

PIECES = [
    b"\n",
    b"\r\n",
    b";",
    b" = ",
    b", ",
    b"\nG1 Z0.2",
    b"\nM104 S200",
    b"\nM109 S",
    b"; thumbnail begin 32x32 4\n; AAAA\n; thumbnail end\n",
    b"; thumbnail_QOI begin 1x1 8\n; cW9pZg==\n; thumbnail_QOI end\n",
    b"; thumbnail begin ",
    b"; estimated printing time (normal mode) = 1d 2h 3m 4s\n",
    b"; filament used [mm] = 1.5, 2.5\n",
    b"; first_layer_height = 75%\n",
    b"; filament_colour = #FF0000;#00FF00\n",
    b";   temperatureSetpointCounts,1,2\n",
    b";Filament used: 1.5m, 0.2m\n",
    b";Dimension: 1.0 2.0 3.0 0.4\n",
    b"--- layer 9999999999999999999999999999999999\n",
    *(b";" + slicer.mark.encode() + b" 1.2.3\n" for slicer in RECOGNISED),
]


def implementations() -> list[Any]:
    """Return the twin and, if it is built, the compiled scan."""
    try:
        return [pure, importlib.import_module("moonfast._speedups.gcodescan")]
    except ImportError:
        return [pure]


def outcome(gcodescan: Any, head: bytes, tail: bytes) -> list[Any]:
    """What one implementation finds in the two parts of a file."""
    first: dict[bytes, bytes] = {}
    last: dict[bytes, bytes] = {}
    found: list[Any] = [gcodescan.comments(part, first, last) for part in (head, tail)]
    for part in (head, tail):
        found += [gcodescan.pictures(part), gcodescan.first_command(part), gcodescan.last_command_end(part)]
        found += [gcodescan.heights(part), gcodescan.setpoint(part, (b"M104", b"M109"))]
    return [*found, first, last]


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the two differ or break their word."""
    text = data[1:]
    cut = len(text) * (data[0] if data else 0) // 256
    outcomes = [outcome(gcodescan, text, text[cut:]) for gcodescan in implementations()]
    assert all(repr(found) == repr(outcomes[0]) for found in outcomes), outcomes
    assert outcomes[0][-2].keys() == outcomes[0][-1].keys()
    scan = scan_parts(text, text, len(text))
    assert decode(encode(scan.fields)) == scan.fields, scan.fields
    for name in ("gcode_start_byte", "gcode_end_byte"):
        assert 0 <= scan.fields.get(name, 0) <= len(text)
    scan_parts(text[:cut], text[cut:], len(text))


TARGET = Target("gcodescan", one_input, pieces=PIECES, header_bytes=1)

if __name__ == "__main__":
    TARGET.main()
