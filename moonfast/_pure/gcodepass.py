"""Twin of moonfast/_speedups/gcodepass.pyx: whole gcode files read line by line."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from moonfast._pure.gcodeline import BLANKS, number

MAX_LINE_BYTES = 64 * 1024
MAX_LAYERS = 20000
MAX_PROGRESS = 20000
MAX_DEFINITION_BYTES = 1024 * 1024
MAX_OBJECTS = 1000
MAX_NAME_BYTES = 256
MAX_EVENTS = 500000
MAX_HULL_POINTS = 32
DIALECTS = (None, "slic3r", "cura", "ideamaker", "m486")

_TOOLS = 256
_MAX_MINUTES = 10000000
_HALF = MAX_HULL_POINTS // 2
_SAME_LAYER_MM = 0.001
_HULL_LIMIT_MM = 1e6
_DIRECTIONS = [
    (round(math.cos(angle) * 4096), round(math.sin(angle) * 4096))
    for angle in ((step + 0.5) * math.pi / _HALF for step in range(_HALF))
]

_WORD = re.compile(rb"([A-Za-z])[ \t\r]*")
_CODE = re.compile(rb"[0-9]{1,3}(?![0-9._])")
_INTEGER = re.compile(rb"[ \t\r]*-?[0-9]")
_INDEX = re.compile(rb"[ \t\r]*(-|[0-9]*)")
_END_OF_WORD = rb"(?=[ \t\r]|$)"
_MARKERS = [
    ("change", re.compile(rb"(?:LAYER_CHANGE|CHANGE_LAYER)" + _END_OF_WORD)),
    ("numbered", re.compile(rb"LAYER:[ \t\r]*-?[0-9]")),
    ("before_change", re.compile(rb"BEFORE_LAYER_CHANGE" + _END_OF_WORD)),
    ("after_change", re.compile(rb"AFTER_LAYER_CHANGE" + _END_OF_WORD)),
    ("worded", re.compile(rb"[lL]ayer (?=[0-9])")),
    ("layer_object", re.compile(rb"BEGIN_LAYER_OBJECT" + _END_OF_WORD)),
    ("dashed", re.compile(rb"--- layer [0-9]")),
    ("tagged", re.compile(rb"<layer>[0-9]")),
]
_MARKER_NAMES = [*(name for name, _ in _MARKERS), "commanded", "height"]


def _words(text: bytes, letters: bytes) -> dict[bytes, float | None]:
    """The last number of each word with one of the letters; None: only the letter stood there."""
    found: dict[bytes, float | None] = {}
    text = text.partition(b";")[0]
    at = 0
    while (word := _WORD.search(text, at)) is not None:
        letter = word[1].upper()
        at = word.end(1)
        if letter in letters:
            value, at = number(text, word.end())
            if value is not None or letter not in found:
                found[letter] = value
    return found


def _code(line: bytes) -> tuple[int, bytes]:
    """The number behind the first letter, -1 if there is none, and what comes behind it."""
    match = _CODE.match(line, 1)
    return (-1, b"") if match is None else (int(match[0]), line[match.end() :])


class _Motion:
    def __init__(self) -> None:
        self.position: list[float] = [0.0, 0.0, 0.0]
        self.known = [False, False, False]
        self.start = list(self.position)
        self.start_known = list(self.known)
        self._base = [0.0, 0.0, 0.0]
        self._e = 0.0
        self._is_relative = False
        self._is_relative_e = False

    def take(self, line: bytes) -> bool:
        """Apply a line that begins with G; whether plastic is laid."""
        code, rest = _code(line)
        if 0 <= code <= 3:
            return self._move(_words(rest, b"XYZE"), code >= 2)
        if code == 28:
            seen = _words(rest, b"XYZE")
            axes = [axis for axis, letter in enumerate((b"X", b"Y", b"Z")) if letter in seen]
            for axis in axes or range(3):
                self._base[axis] = self.position[axis] = 0.0
                self.known[axis] = False
        elif code in (90, 91):
            self._is_relative = code == 91
        elif code == 92:
            self._set_coordinates(_words(rest, b"XYZE"))
        return False

    def take_machine(self, code: int) -> None:
        if code in (82, 83):
            self._is_relative_e = code == 83

    def _move(self, words: dict[bytes, float | None], is_arc: bool) -> bool:
        is_moved, is_extruding = is_arc, False
        self.start, self.start_known = list(self.position), list(self.known)
        for axis, letter in enumerate((b"X", b"Y", b"Z")):
            value = words.get(letter)
            if value is None:
                continue
            if self._is_relative:
                is_moved |= value != 0
                self.position[axis] += value
            else:
                target = self._base[axis] + value
                is_moved |= target != self.position[axis] or not self.known[axis]
                self.position[axis], self.known[axis] = target, True
        value = words.get(b"E")
        if value is not None:
            if self._is_relative or self._is_relative_e:
                is_extruding = value > 0
                self._e += value
            else:
                is_extruding = value > self._e
                self._e = value
        return is_moved and is_extruding

    def _set_coordinates(self, words: dict[bytes, float | None]) -> None:
        if not words:
            words = {b"X": 0.0, b"Y": 0.0, b"Z": 0.0, b"E": 0.0}
        for axis, letter in enumerate((b"X", b"Y", b"Z")):
            value = words.get(letter)
            if value is not None:
                self._base[axis] = self.position[axis] - value if self.known[axis] else 0.0
        value = words.get(b"E")
        if value is not None:
            self._e = value


class Lines:
    def __init__(self) -> None:
        self._kept = bytearray()
        self._line_bytes = 0
        self._line_at = 0
        self._is_finished = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_finished:
            raise ValueError("the pass is finished")
        *ends, rest = bytes(data).split(b"\n")
        for part in ends:
            self._keep(part)
            self._end_line()
            self._line_at += 1
        self._keep(rest)

    def _end_last_line(self) -> None:
        if not self._is_finished:
            self._is_finished = True
            self._end_line()

    def _keep(self, part: bytes) -> None:
        if self._line_bytes + len(part) <= MAX_LINE_BYTES:
            self._kept += part
        self._line_bytes += len(part)

    def _end_line(self) -> None:
        if self._line_bytes <= MAX_LINE_BYTES:
            line = bytes(self._kept).strip(BLANKS)
            if line:
                self._take_line(line, self._line_at, self._line_at + self._line_bytes + 1)
        self._line_at += self._line_bytes
        self._line_bytes = 0
        self._kept.clear()

    def _take_line(self, line: bytes, at: int, end: int) -> None:
        """One line that is not empty: what is in it, the offsets where it begins and where the next one does."""


class _Layer(NamedTuple):
    at: int
    z: float | None


class FilePass(Lines):
    def __init__(self, motion: bool = True) -> None:
        super().__init__()
        self._motion = _Motion() if motion else None
        self._layers: dict[str, list[_Layer]] = {name: [] for name in _MARKER_NAMES}
        self._counts = dict.fromkeys(_MARKER_NAMES, 0)
        self._waiting: set[str] = set()
        self._level: float | None = None
        self._commanded: float | None = None
        self._object_z: float | None = None
        self._low: list[float | None] = [None, None, None]
        self._high: list[float | None] = [None, None, None]
        self._tools: set[int] = set()
        self._progress: list[tuple[int, int, int | None]] = []
        self._definitions: list[bytes] = []
        self._definition_bytes = 0

    def finish(self) -> dict[str, Any]:
        self._end_last_line()
        marker = self._best_marker()
        heights = [layer.z for layer in self._layers[marker] if layer.z is not None]
        max_z = self._high[2] if self._high[2] is not None else max(heights, default=None)
        is_bounded = any(value is not None for value in self._low)
        return {
            "layer_count": self._counts[marker],
            "layers": [tuple(layer) for layer in self._layers[marker]],
            "max_z": max_z,
            "bounds": {"min": list(self._low), "max": list(self._high)} if is_bounded else None,
            "tools": sorted(self._tools),
            "progress": list(self._progress),
            "definitions": list(self._definitions),
        }

    def _best_marker(self) -> str:
        counts = {name: count for name, count in self._counts.items() if name != "height"}
        most = max(counts.values())
        return next((name for name, count in counts.items() if most and count * 2 >= most), "height")

    def _take_line(self, line: bytes, at: int, end: int) -> None:
        first = line[:1].upper()
        if first == b";":
            self._take_comment(line.lstrip(b";").lstrip(BLANKS), at)
        elif first == b"G" and self._motion is not None:
            if self._motion.take(line):
                self._lay(self._motion, at)
        elif first == b"M":
            self._take_machine(line, at)
        elif first == b"T":
            tool, rest = _code(line)
            if 0 <= tool < _TOOLS and (not rest or rest[0] in BLANKS or rest[0] == ord(";")):
                self._tools.add(tool)
        elif first == b"E":
            if re.match(rb"EXCLUDE_OBJECT_DEFINE" + _END_OF_WORD, line):
                self._take_definition(line[21:].lstrip(BLANKS))
        elif first == b"S" and re.match(rb"SET_PRINT_STATS_INFO" + _END_OF_WORD, line):
            begin = line.find(b"CURRENT_LAYER=")
            layer = number(line, begin + 14)[0] if begin >= 0 else None
            if layer is not None and layer != self._commanded:
                self._commanded = layer
                self._begin_layer("commanded", at, None)

    def _take_comment(self, text: bytes, at: int) -> None:
        for name, pattern in _MARKERS:
            match = pattern.match(text)
            if match is None:
                continue
            z = None
            if name == "worded":
                z = _z_behind(text[match.end() :], b"Z")
            elif name == "layer_object":
                z = _z_behind(text[match.end() :], b"z")
                if z is None or z == self._object_z:
                    return
                self._object_z = z
            self._begin_layer(name, at, z)
            return
        match = re.match(rb"(?:Z:|Z_HEIGHT:)[ \t\r]*", text)
        if match is not None:
            z = number(text, match.end())[0]
            if z is not None:
                self._set_heights(z)

    def _take_machine(self, line: bytes, at: int) -> None:
        code, rest = _code(line)
        if self._motion is not None:
            self._motion.take_machine(code)
        if code != 73 or len(self._progress) == MAX_PROGRESS:
            return
        words = _words(rest, b"PR")
        percent, minutes = words.get(b"P"), words.get(b"R")
        if percent is not None and 0 <= percent <= 100:
            is_time = minutes is not None and 0 <= minutes <= _MAX_MINUTES
            self._progress.append((at, int(percent), int(minutes) if is_time and minutes is not None else None))

    def _take_definition(self, text: bytes) -> None:
        if self._definition_bytes + len(text) + 1 <= MAX_DEFINITION_BYTES:
            self._definitions.append(text)
            self._definition_bytes += len(text) + 1

    def _begin_layer(self, marker: str, at: int, z: float | None) -> None:
        self._counts[marker] += 1
        self._waiting.discard(marker)
        if len(self._layers[marker]) == MAX_LAYERS:
            return
        self._layers[marker].append(_Layer(at, z))
        if z is None:
            self._waiting.add(marker)

    def _set_heights(self, z: float) -> None:
        """The height of the layers that began before it was said."""
        for marker in self._waiting:
            self._layers[marker][-1] = self._layers[marker][-1]._replace(z=z)
        self._waiting.clear()

    def _lay(self, motion: _Motion, at: int) -> None:
        """Plastic is laid from motion.start to motion.position."""
        for axis in range(3):
            if motion.start_known[axis]:
                self._widen(axis, motion.start[axis])
            if motion.known[axis]:
                self._widen(axis, motion.position[axis])
        if not motion.known[2]:
            return
        z = motion.position[2]
        self._set_heights(z)
        is_level = motion.start_known[2] and motion.start[2] == z
        if is_level and (self._level is None or abs(self._level - z) > _SAME_LAYER_MM):
            self._level = z
            self._begin_layer("height", at, z)

    def _widen(self, axis: int, value: float) -> None:
        low, high = self._low[axis], self._high[axis]
        self._low[axis] = value if low is None or value < low else low
        self._high[axis] = value if high is None or value > high else high


def _z_behind(text: bytes, letter: bytes) -> float | None:
    """The number behind the first `letter` and an equals sign."""
    match = re.match(rb"[^%b]*%b[ \t\r]*=[ \t\r]*" % (letter, letter), text)
    return None if match is None else number(text, match.end())[0]


class _Thing:
    """An object of the print."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.name = b""
        self.points: list[tuple[int, int]] = []  # the farthest in each direction, in micrometres
        self._reach: list[int] = []

    def reach_out(self, x_mm: float, y_mm: float) -> None:
        """Take a point into the hull."""
        if not (abs(x_mm) < _HULL_LIMIT_MM and abs(y_mm) < _HULL_LIMIT_MM):
            return
        x, y = round(x_mm * 1000), round(y_mm * 1000)
        reach = [x * across + y * along for across, along in _DIRECTIONS]
        reach += [-distance for distance in reach]
        if not self.points:
            self.points, self._reach = [(x, y)] * MAX_HULL_POINTS, reach
            return
        for i, distance in enumerate(reach):
            if distance > self._reach[i]:
                self.points[i], self._reach[i] = (x, y), distance

    def hull(self) -> list[tuple[int, int]]:
        """The points of the hull, counterclockwise, each once."""
        hull = [point for i, point in enumerate(self.points) if i == 0 or point != self.points[i - 1]]
        if len(hull) > 1 and hull[0] == hull[-1]:
            hull.pop()
        return hull


class ObjectPass(Lines):
    def __init__(self, motion: bool = True, dialect: str | None = None) -> None:
        super().__init__()
        if dialect not in DIALECTS:
            raise ValueError(f"there is no dialect {dialect!r}")
        self._motion = _Motion() if motion else None
        self._dialect = dialect
        self._is_marked = False
        self._definitions_at: int | None = None
        self._things: list[_Thing] = []
        self._indexes: dict[bytes, int] = {}
        self._current: int | None = None
        self._spoken = b""
        self._events: list[tuple[int, str, int]] = []
        self._has_lost_events = False

    def take_events(self) -> list[tuple[int, str, int]]:
        if self._has_lost_events:
            raise ValueError(f"there are more than {MAX_EVENTS} events: take them more often")
        taken, self._events = self._events, []
        return taken

    def finish(self) -> dict[str, Any]:
        self._end_last_line()
        return {
            "dialect": self._dialect,
            "is_marked": self._is_marked,
            "definitions_at": self._definitions_at,
            "current": self._current,
            "objects": [(thing.key, thing.name, thing.hull()) for thing in self._things],
        }

    def _take_line(self, line: bytes, at: int, end: int) -> None:
        first = line[:1].upper()
        if first == b";":
            self._take_comment(line[1:].lstrip(BLANKS), end)
            return
        if self._definitions_at is None:
            self._definitions_at = at
        if first == b"G" and self._motion is not None:
            if self._motion.take(line) and self._current is not None:
                thing = self._things[self._current]
                for place, known in (
                    (self._motion.start, self._motion.start_known),
                    (self._motion.position, self._motion.known),
                ):
                    if known[0] and known[1]:
                        thing.reach_out(place[0], place[1])
        elif first == b"M":
            code, rest = _code(line)
            if self._motion is not None:
                self._motion.take_machine(code)
            if code == 486:
                self._add_event("silence", at, -1)
                self._take_label(rest, end)
        elif re.match(rb"EXCLUDE_OBJECT_START" + _END_OF_WORD, line) or re.match(
            rb"EXCLUDE_OBJECT_DEFINE" + _END_OF_WORD + rb"[ \t\r]*(?!RESET|[ \t\r])", line
        ):
            self._is_marked = True

    def _take_comment(self, text: bytes, end: int) -> None:
        if text.startswith(b"printing object "):
            self._begin_object("slic3r", text[16:], None, end)
        elif re.match(rb"stop printing object" + _END_OF_WORD, text):
            self._end_object("slic3r", end)
        elif re.match(rb"MESH:NONMESH" + _END_OF_WORD, text) or text.startswith(
            (b"LAYER:", b"TIME_ELAPSED:", b"End of Gcode")
        ):
            self._end_object("cura", end)
        elif text.startswith(b"MESH:"):
            self._begin_object("cura", text[5:], None, end)
        elif text.startswith(b"PRINTING:"):
            self._spoken = _label(text[9:])
        elif text.startswith(b"PRINTING_ID:"):
            self._take_index("ideamaker", text, 12, self._spoken, end)

    def _take_label(self, text: bytes, end: int) -> None:
        """The words of M486: S is an index, A a name up to the end of the line."""
        at = 0
        while at < len(text) and text[at] != ord(";"):
            letter = text[at : at + 1].upper()
            at += 1
            if letter == b"S":
                at = self._take_index("m486", text, at, None, end)
            elif letter == b"A":
                if self._dialect == "m486" and self._current is not None:
                    self._things[self._current].name = _label(text[at:])
                return

    def _take_index(self, dialect: str, text: bytes, at: int, name: bytes | None, end: int) -> int:
        """An object told by its index; a negative one is none. Returns where it ends."""
        match = _INDEX.match(text, at)
        assert match is not None
        if match[1] == b"-":
            self._end_object(dialect, end)
            return match.start(1)
        if match[1]:
            self._begin_object(dialect, match[1], name, end)
        return match.end()

    def _begin_object(self, dialect: str, key: bytes, name: bytes | None, end: int) -> None:
        if self._dialect is None:
            self._dialect = dialect
        if self._dialect != dialect:
            return
        key = _label(key)
        if key not in self._indexes and len(self._things) < MAX_OBJECTS:
            self._indexes[key] = len(self._things)
            self._things.append(_Thing(key))
        index = self._indexes.get(key)
        if index == self._current:
            return
        self._end_object(dialect, end)
        if index is None:
            return
        if name is not None:
            self._things[index].name = name
        if self._definitions_at is None:
            self._definitions_at = end
        self._current = index
        self._add_event("start", end, index)

    def _end_object(self, dialect: str, end: int) -> None:
        if self._dialect == dialect and self._current is not None:
            self._add_event("end", end, self._current)
            self._current = None

    def _add_event(self, kind: str, at: int, index: int) -> None:
        if self._motion is not None:
            return
        if len(self._events) == MAX_EVENTS:
            self._has_lost_events = True
        else:
            self._events.append((at, kind, index))


def _label(text: bytes) -> bytes:
    return text.strip(BLANKS)[:MAX_NAME_BYTES]
