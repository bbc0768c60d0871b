"""Whole gcode files, however they are cut: against a model that wrote them, and both implementations alike."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast._pure import gcodepass as pure

LINES = [
    b";LAYER_CHANGE",
    b"; CHANGE_LAYER",
    b";LAYER:3",
    b"; layer 3, Z = 0.6",
    b";BEFORE_LAYER_CHANGE",
    b";AFTER_LAYER_CHANGE",
    b";Z:0.4",
    b"; Z_HEIGHT: 1.25",
    b"SET_PRINT_STATS_INFO CURRENT_LAYER=2",
    b"; BEGIN_LAYER_OBJECT z=0.300",
    b";; --- layer 2 (0.2 @ 0.5) ---",
    b";<layer>4",
    b"G1 X10 Y10 E1",
    b"G1 X20.5 Y-3.25 E2 F1800",
    b"g0 z0.4",
    b"G2 X1 Y2 I3 J4 E5",
    b"G3 I3 J4 E7",
    b"G1X5Y6E9",
    b"G90",
    b"G91",
    b"G92 E0",
    b"G92 X5 Z1",
    b"G92",
    b"G28",
    b"G28 X Y",
    b"M82",
    b"M83",
    b"M73 P10 R20",
    b"m73 p50.7 R1.5",
    b"T0",
    b"T1 ; x",
    b"EXCLUDE_OBJECT_DEFINE NAME=a CENTER=1,2",
    b"EXCLUDE_OBJECT_DEFINE RESET=1",
    b"EXCLUDE_OBJECT_START NAME=a",
    b"; printing object cube.stl id:0 copy 0",
    b"; stop printing object cube.stl id:0 copy 0",
    b";MESH:a.stl",
    b";MESH:b",
    b";MESH:NONMESH",
    b";TIME_ELAPSED:3",
    b";PRINTING: foo",
    b";PRINTING_ID: 1",
    b";PRINTING_ID: -1",
    b"M486 T3",
    b"M486 S0",
    b'M486 S1 A"q"',
    b"M486 Aname x",
    b"M486 S-1",
]
SCRAPS = [
    b"\r",
    b"\t",
    b" ",
    b";",
    b"X",
    b"-",
    b".",
    b"+",
    b"123456789012345",
    b"0000",
    b"=",
    b"\x1b",
    b"\x00\xff",
    b"_",
]
MOVES = st.builds(
    "G1 X{:.3f} Y{:.3f} Z{:.2f} E{:.4f}".format,
    st.floats(-50, 300),
    st.floats(0, 250),
    st.sampled_from([0.2, 0.4]),
    st.floats(-1, 9),
).map(str.encode)
TEXT = st.lists(
    st.one_of(
        st.sampled_from(LINES),
        MOVES,
        st.lists(st.sampled_from(LINES + SCRAPS), max_size=3).map(b"".join),
        st.binary(max_size=12),
    ),
    max_size=30,
).flatmap(lambda lines: st.sampled_from([b"\n", b"\r\n"]).map(lambda end: end.join(lines)))
CUTS = st.lists(st.integers(0, 1000), max_size=8)


def outcomes(gcodepass: Any, text: bytes, cuts: list[int]) -> list[Any]:
    """What all passes find; repr(), since -0.0 and 0.0 are not the same here."""
    places = sorted({min(place, len(text)) for place in cuts} | {0, len(text)})
    found = []
    for scan in (
        gcodepass.FilePass(),
        gcodepass.FilePass(motion=False),
        gcodepass.ObjectPass(),
        gcodepass.ObjectPass(motion=False),
        gcodepass.ObjectPass(motion=False, dialect="m486"),
    ):
        events: list[Any] = []
        for begin, end in pairwise(places):
            scan.feed(text[begin:end])
            events += scan.take_events() if hasattr(scan, "take_events") else []
        result = scan.finish()
        events += scan.take_events() if hasattr(scan, "take_events") else []
        assert scan.finish() == result
        found.append((repr(result), events))
    return found


@given(text=TEXT, cuts=CUTS)
def test_cuts_change_nothing_and_the_twin_agrees(impl: Any, text: bytes, cuts: list[int]) -> None:
    assert outcomes(impl.gcodepass, text, cuts) == outcomes(pure, text, [])


def read(impl: Any, text: bytes, *, motion: bool = True) -> Any:
    scan = impl.gcodepass.FilePass(motion)
    scan.feed(text)
    return scan.finish()


class Model:
    """Writes a file as a slicer would, and knows what is in it."""

    def __init__(self, chance: random.Random, marker: str | None) -> None:
        self.text = ""
        self.layers: list[tuple[int, float]] = []
        self.progress: list[tuple[int, int, int]] = []
        self.tools: set[int] = set()
        self.places: list[tuple[float, float, float]] = []
        self._chance, self._marker = chance, marker
        self._here = (0.0, 0.0, 0.0)
        self.is_relative_e = chance.random() < 0.5
        self._e = 0.0
        self._write("; made by a model", "G28", "G90", "M83" if self.is_relative_e else "M82", "G92 E0", "G1 Z5 F600")
        self._write("G1 X-20 Y-20 F6000")
        self._here = (-20.0, -20.0, 5.0)
        for number in range(chance.randint(1, 6)):
            self._layer(number, round(0.2 * (number + 1), 3))
        self._write("M104 S0", "G91", "G1 Z10", "G90", "; layer end", "M84")

    def _write(self, *lines: str) -> None:
        self.text += "".join(line + "\n" for line in lines)

    def _layer(self, number: int, z: float) -> None:
        chance = self._chance
        self._write(*(["G92 E0"] if not self.is_relative_e and chance.random() < 0.5 else []))
        if self.text.endswith("G92 E0\n"):
            self._e = 0.0
        begin = len(self.text)
        if self._marker is not None:
            self._write(*self._marker.format(n=number, z=z).split("|"))
        if chance.random() < 0.5:
            tool = chance.randrange(4)
            self.tools.add(tool)
            self._write(f"T{tool}")
        self.progress.append((len(self.text), number, 60 - number))
        self._write(f"M73 P{number} R{60 - number}")
        self._go(self._here[0], self._here[1], z, lays=False)
        for _ in range(chance.randint(1, 12)):
            lays = chance.random() < 0.7 or not any(place[2] == z for place in self.places)
            if lays and not any(place[2] == z for place in self.places) and self._marker is None:
                begin = len(self.text)
            x, y = round(chance.uniform(0, 200), 3), round(chance.uniform(0, 200), 3)
            self._go(x, y, z, lays=lays)
        self.layers.append((begin, z))

    def _go(self, x: float, y: float, z: float, *, lays: bool) -> None:
        words = f"X{x} Y{y}" + (f" Z{z}" if z != self._here[2] or self._chance.random() < 0.2 else "")
        amount = round(self._chance.uniform(0.001, 2), 5)
        if lays:
            self.places += [self._here, (x, y, z)]
            self._e = round(self._e + amount, 5)
            words += f" E{amount if self.is_relative_e else self._e}"
        elif self._chance.random() < 0.3:
            self._write(f"G1 E{-amount}" if self.is_relative_e else f"G1 E{round(self._e - amount, 5)}")
            self._write(f"G0 {words}")
            self._write(f"G1 E{amount} F1800" if self.is_relative_e else f"G1 E{self._e} F1800")
            self._here = (x, y, z)
            return
        self._write(f"G{int(lays)} {words} ; E99 is no word here")
        self._here = (x, y, z)


MARKERS = [
    ";LAYER_CHANGE|;Z:{z}|;HEIGHT:0.2|;BEFORE_LAYER_CHANGE|G92 E0|;AFTER_LAYER_CHANGE",
    "; CHANGE_LAYER|; Z_HEIGHT: {z}|; LAYER_HEIGHT: 0.2",
    ";LAYER:{n}|SET_PRINT_STATS_INFO CURRENT_LAYER={n}",
    "; layer {n}, Z = {z}",
    "; BEGIN_LAYER_OBJECT z={z}|; BEGIN_LAYER_OBJECT z={z}",
    ";; --- layer {n} (0.2 @ {z}) ---",
    ";<layer>{n}",
    "SET_PRINT_STATS_INFO TOTAL_LAYER=9 CURRENT_LAYER={n}",
    ";BEFORE_LAYER_CHANGE|;{z}|;AFTER_LAYER_CHANGE",
    None,
]


@pytest.mark.parametrize("marker", MARKERS)
def test_what_a_model_wrote(impl: Any, marker: str | None) -> None:
    for seed in range(40):
        # G92 E0 within a marker is only for relative extrusion; the model's own is for both.
        model = Model(random.Random(seed), marker)
        if marker is not None and "G92" in marker and not model.is_relative_e:
            continue
        text = model.text.encode()
        found = read(impl, text)
        assert found["layers"] == model.layers, seed
        assert found["layer_count"] == len(model.layers)
        assert found["max_z"] == model.layers[-1][1]
        low, high = ([edge(axis) for axis in zip(*model.places, strict=True)] for edge in (min, max))
        assert found["bounds"] == {"min": low, "max": high}
        assert found["tools"] == sorted(model.tools)
        assert found["progress"] == model.progress
        assert text[: found["layers"][0][0]].endswith(b"\n")
        quick = read(impl, text, motion=False)
        assert quick["bounds"] is None
        for key in ("tools", "progress", "definitions"):
            assert quick[key] == found[key]
        if marker is not None:
            assert [at for at, _ in quick["layers"]] == [at for at, _ in found["layers"]]


def test_a_stray_marker_does_not_hide_the_real_ones(impl: Any) -> None:
    text = b";LAYER_CHANGE\n" + b"".join(b";LAYER:%d\n" % number for number in range(9))
    assert read(impl, text)["layer_count"] == 9


def test_no_layer_markers(impl: Any) -> None:
    for line in (
        b";LAYER_CHANGED",
        b";LAYER_COUNT:5",
        b"; layer end",
        b"; layer_height = 0.2",
        b";LAYER:x",
        b"; layer num/total_layer_count: 1/9",
    ):
        assert read(impl, line)["layers"] == [], line


def test_moves_that_do_not_count(impl: Any) -> None:
    """Without a known place, backwards, or on the spot."""
    found = read(impl, b"G91\nG1 X5 Y5 E1\nG90\nG1 E5\nG1 X10 Y10\nG1 X11 E4\nG1 X11 E9\nG1.5 X99 E99\n")
    assert found["bounds"] is None
    found = read(impl, b"G1 X10 Y10\nG91\nG1 X5 E1\nG28 Y\nG1 Y5 E1\nG1 Z1 E1\n")
    assert found["bounds"] == {"min": [10, 10, None], "max": [15, 10, None]}
    assert found["max_z"] is None


def test_g92_moves_coordinates_not_the_head(impl: Any) -> None:
    found = read(impl, b"G1 X10 Y10 Z1\nG92 X0\nG1 X5 E1\nG92\nG1 X1 Y1 E1\nG28\nG1 X1 Y1 Z2\n")
    assert found["bounds"] == {"min": [10, 10, 1], "max": [16, 11, 1]}


def test_relative_mode_holds_for_e(impl: Any) -> None:
    found = read(impl, b"M82\nG1 X0 Y0 Z1 E100\nG91\nG1 X1 E1\n")
    assert found["bounds"] == {"min": [0, 0, 1], "max": [1, 0, 1]}


def test_numbers(impl: Any) -> None:
    for text, value in (
        (b"1", 1.0),
        (b"-.5", -0.5),
        (b"+2.", 2.0),
        (b" 3", 3.0),
        (b"0.1", 0.1),
        (b"000000000000000000001", 1.0),
        (b"123456789012345", 123456789012345.0),
        (b"0.1234567890123456789", 0.123456789012345),
        (b"1e5", 1.0),
        (b"-0", 0.0),
    ):
        found = read(impl, b"G1 Z%b\nG1 X0 E1e5\n" % text)["bounds"]["max"][2]
        assert (found, math.copysign(1, found)) == (value, math.copysign(1, value)), text
    for text in (b"", b"-", b".", b"1234567890123456", b"{z}"):
        assert read(impl, b"G1 Z%b\nG1 X0 E1\n" % text)["bounds"]["max"][2] is None


def test_progress(impl: Any) -> None:
    text = b"M73 P0 R90\nM73 Q5 S3\nM73 P101\nM73 P-1\nM73 P50 R-2\nM73 P100 R99999999\n"
    assert read(impl, text)["progress"] == [(0, 0, 90), (38, 50, None), (50, 100, None)]


def test_tools(impl: Any) -> None:
    text = b"T0\nt3 ; x\nT255\nT256\nT1000\nT-1\nT7_X\nT5.\nTEMP\nT\n;T9\nT12;x"
    assert read(impl, text)["tools"] == [0, 3, 12, 255]


def test_definitions(impl: Any) -> None:
    text = b"EXCLUDE_OBJECT_DEFINE NAME=a CENTER=1,2\r\nEXCLUDE_OBJECT_DEFINED\n EXCLUDE_OBJECT_DEFINE  NAME=b"
    assert read(impl, text)["definitions"] == [b"NAME=a CENTER=1,2", b"NAME=b"]


def test_definitions_have_a_bound(impl: Any) -> None:
    scan = impl.gcodepass.FilePass()
    line = b"EXCLUDE_OBJECT_DEFINE NAME=" + b"a" * 60000 + b"\n"
    for _ in range(30):
        scan.feed(line)
    found = scan.finish()["definitions"]
    assert len(found) == impl.gcodepass.MAX_DEFINITION_BYTES // 60006


def pieces_of_a_long_line(size: int) -> Iterator[bytes]:
    yield b";LAYER:0\n;LAYER:"
    for _ in range(size // 65536):
        yield b"1" * 65536
    yield b"\n;LAYER:2\n"


def test_a_long_line_is_skipped(impl: Any) -> None:
    scan = impl.gcodepass.FilePass()
    for piece in pieces_of_a_long_line(20 * 1024 * 1024):
        scan.feed(piece)
    second = 9 + 7 + 20 * 1024 * 1024 + 1
    assert scan.finish()["layers"] == [(0, None), (second, None)]


@pytest.mark.parametrize("over", [0, 1])
def test_the_longest_line(impl: Any, over: int) -> None:
    """It is the same whether it comes whole or in two pieces."""
    line = b";LAYER:1".ljust(impl.gcodepass.MAX_LINE_BYTES + over, b" ") + b"\n"
    for cut in (0, 5, len(line) - 1):
        scan = impl.gcodepass.FilePass()
        scan.feed(line[:cut])
        scan.feed(line[cut:])
        assert scan.finish()["layer_count"] == 1 - over


def test_layers_have_a_bound(impl: Any) -> None:
    limit = impl.gcodepass.MAX_LAYERS
    found = read(impl, b";LAYER:1\n" * (limit + 10) + b"G1 X1 Y1 Z7\nG1 X2 E1\n")
    assert found["layer_count"] == limit + 10
    assert found["layers"][-1] == (9 * (limit - 1), None)
    assert len(found["layers"]) == limit


def test_progress_has_a_bound(impl: Any) -> None:
    limit = impl.gcodepass.MAX_PROGRESS
    assert len(read(impl, b"M73 P1 R1\n" * (limit + 1))["progress"]) == limit


def test_bytes_of_all_kinds(impl: Any) -> None:
    scan = impl.gcodepass.FilePass()
    for data in (b"", bytearray(b"T1\n"), memoryview(b"T2\nT3")[:3]):
        scan.feed(data)
    assert scan.finish()["tools"] == [1, 2]
    with pytest.raises(ValueError, match="the pass is finished"):
        scan.feed(b"T4\n")
    assert read(impl, bytes(range(256)) * 300)["layer_count"] == 0


def objects_of(impl: Any, text: bytes) -> Any:
    scan = impl.gcodepass.ObjectPass()
    scan.feed(text)
    assert scan.take_events() == []
    return scan.finish()


SQUARE = b"G1 X10 Y10\nG1 X20 Y10 E1\nG1 X20 Y20 E2\nG1 X15 Y15 E3\nG1 X10 Y20 E4\n"


def test_hulls(impl: Any) -> None:
    text = b"G1 X99 Y99 E.5\n;MESH:a\n" + SQUARE + b"G1 X50 Y50\n;MESH:NONMESH\nG1 X60 E9\n;MESH:b\nG92 E0\n"
    found = objects_of(impl, text)
    assert found["dialect"] == "cura"
    assert found["current"] == 1
    assert found["definitions_at"] == 0
    (key, name, hull), second = found["objects"]
    assert (key, name) == (b"a", b"")
    assert sorted(hull) == [(10000, 10000), (10000, 20000), (20000, 10000), (20000, 20000)]
    assert second == (b"b", b"", [])


def test_a_hull_is_convex_and_close_to_the_truth(impl: Any) -> None:
    chance = random.Random(7)
    points = [(chance.gauss(100, 20), chance.gauss(100, 30)) for _ in range(500)]
    text = b";MESH:a\nM83\n" + b"".join(b"G1 X%.3f Y%.3f E1\n" % point for point in points)
    hull = objects_of(impl, text)["objects"][0][2]
    assert len(hull) <= impl.gcodepass.MAX_HULL_POINTS
    edges = list(pairwise([*hull, hull[0]]))
    for (ax, ay), (bx, by) in edges:
        for x, y in points:
            across = (bx - ax) * (y * 1000 - ay) - (by - ay) * (x * 1000 - ax)
            assert across / math.hypot(bx - ax, by - ay) > -5000  # at most 5 mm outside
        for x, y in hull:
            assert (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0


def test_points_far_away_belong_to_no_hull(impl: Any) -> None:
    found = objects_of(impl, b";MESH:a\nG1 X1 Y1\nG1 X99999999 Y1 E1\nG91\nG1 X1 E1\n")
    assert found["objects"] == [(b"a", b"", [(1000, 1000)])]


def events_of(impl: Any, text: bytes, dialect: str | None = None) -> list[tuple[bytes, str, int]]:
    scan = impl.gcodepass.ObjectPass(motion=False, dialect=dialect)
    scan.feed(text)
    scan.finish()
    lines = text.split(b"\n")
    starts = {sum(len(line) + 1 for line in lines[:number]): line for number, line in enumerate([*lines, b""])}
    return [(starts[at], kind, index) for at, kind, index in scan.take_events()]


def test_events(impl: Any) -> None:
    assert events_of(
        impl,
        b"; printing object a id:0 copy 0\n1\n; stop printing object a id:0 copy 0\n2\n; printing object b\n3\n"
        b"; printing object a id:0 copy 0\n4\n; stop printing object, unique label id: 4\n; stop printing object\n5\n",
    ) == [
        (b"1", "start", 0),
        (b"2", "end", 0),
        (b"3", "start", 1),
        (b"4", "end", 1),
        (b"4", "start", 0),
        (b"5", "end", 0),
    ]
    assert events_of(impl, b";MESH:a\n1\n;MESH:a\n2\n;LAYER:1\n3\n;MESH:a\n4\n;TIME_ELAPSED:1\n5\n") == [
        (b"1", "start", 0),
        (b"3", "end", 0),
        (b"4", "start", 0),
        (b"5", "end", 0),
    ]
    assert events_of(impl, b";PRINTING: a b\n;PRINTING_ID: 7\n1\n;PRINTING: NON-OBJECT\n;PRINTING_ID: -1\n2\n") == [
        (b"1", "start", 0),
        (b"2", "end", 0),
    ]
    assert events_of(impl, b"M486 T2\nM486 S0\n1\nM486 S-1\n2\n") == [
        (b"M486 T2", "silence", -1),
        (b"M486 S0", "silence", -1),
        (b"1", "start", 0),
        (b"M486 S-1", "silence", -1),
        (b"2", "end", 0),
    ]


def test_the_first_dialect_holds(impl: Any) -> None:
    assert events_of(impl, b";MESH:a\n1\nM486 S0\n; printing object b\n") == [
        (b"1", "start", 0),
        (b"M486 S0", "silence", -1),
    ]
    assert events_of(impl, b";MESH:a\n1\nM486 S0\n2\n", "m486") == [(b"M486 S0", "silence", -1), (b"2", "start", 0)]
    with pytest.raises(ValueError, match="there is no dialect 'x'"):
        impl.gcodepass.ObjectPass(dialect="x")


def test_names(impl: Any) -> None:
    found = objects_of(impl, b'M486 S3 A"first"\nM486 S-1\nM486 S3\nM486 Acube 1.stl\r\nM486 S-1\nM486 Anobody\n')
    assert found["objects"] == [(b"3", b"cube 1.stl", [])]
    found = objects_of(impl, b";PRINTING: foo bar\n;PRINTING_ID: 2\n")
    assert found["objects"] == [(b"2", b"foo bar", [])]
    found = objects_of(impl, b";MESH:" + b"n" * 300 + b"\n")
    assert found["objects"] == [(b"n" * impl.gcodepass.MAX_NAME_BYTES, b"", [])]


def test_marked_files(impl: Any) -> None:
    assert objects_of(impl, b"EXCLUDE_OBJECT_START NAME=a")["is_marked"]
    assert objects_of(impl, b"EXCLUDE_OBJECT_DEFINE NAME=a")["is_marked"]
    assert not objects_of(impl, b"EXCLUDE_OBJECT_DEFINE RESET=1\n;EXCLUDE_OBJECT_START\nEXCLUDE_OBJECT_STARTS")[
        "is_marked"
    ]


def test_objects_have_a_bound(impl: Any) -> None:
    limit = impl.gcodepass.MAX_OBJECTS
    text = b"".join(b";MESH:%d\n" % number for number in range(limit + 5))
    found = objects_of(impl, text)
    assert len(found["objects"]) == limit
    assert found["current"] is None
    assert len(events_of(impl, text)) == 2 * limit


def test_events_have_a_bound(impl: Any) -> None:
    scan = impl.gcodepass.ObjectPass(motion=False)
    scan.feed(b";MESH:a\n;MESH:NONMESH\n" * (impl.gcodepass.MAX_EVENTS // 2))
    assert len(scan.take_events()) == impl.gcodepass.MAX_EVENTS
    scan.feed(b";MESH:a\n;MESH:NONMESH\n" * (impl.gcodepass.MAX_EVENTS // 2) + b";MESH:a\n")
    with pytest.raises(ValueError, match="take them more often"):
        scan.take_events()


def test_one_thread_at_a_time(impl: Any) -> None:
    if impl.gcodepass is pure:
        pytest.skip("the twin never lets go of the interpreter in the middle")
    scan = impl.gcodepass.FilePass()
    errors: list[str] = []

    def feed(data: bytes) -> None:
        end = time.monotonic() + 5
        while not errors and time.monotonic() < end:
            try:
                scan.feed(data)
            except RuntimeError as exc:
                errors.append(str(exc))

    other = threading.Thread(target=feed, args=(b"\n" * (1 << 22),))
    other.start()
    feed(b"\n")
    other.join()
    assert errors[0] == "a pass is fed by one thread at a time"
    assert scan.finish()["layer_count"] == 0
