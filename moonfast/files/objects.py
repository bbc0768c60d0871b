"""Objects of a print, so that one of them can be left out (Klipper docs/Exclude_Object.md).

Klipper wants EXCLUDE_OBJECT_DEFINE, _START and _END in the file. Where the slicer marked objects only in comments or
with M486 they come from here, in two passes: the first collects the outlines, the second copies the file and puts the
lines in.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import Any

from moonfast import codec
from moonfast.files.parts import replacing
from moonfast.files.pieces import is_unchanged, pieces, whole_lines
from moonfast.speedups import gcodepass

Point = tuple[int, int]
"""Micrometres."""

_MARKS = (b"printing object ", b"MESH:", b"PRINTING_ID:", b"M486")
_DONE = b"\nEXCLUDE_OBJECT_START "
_PARAMETER = re.compile(r"""([A-Za-z_]+)=("[^"]*"|'[^']*'|[^\s;]*)""")


class _Abandoned(Exception):
    """The file changed, or nobody waits for it any more."""


def needs_processing(head: bytes, tail: bytes) -> bool:
    """Whether a file looks as if its slicer marked objects, but not for Klipper; `process` looks closer.

    `head` and `tail` are large enough to hold an object's beginning or end: some hundred KB.
    """
    parts = (head, tail)
    return any(mark in part for part in parts for mark in _MARKS) and not any(_DONE in part for part in parts)


def process(path: Path, is_cancelled: Callable[[], bool]) -> bool:
    """Replace the file by one with the lines that Klipper wants; False: it has them, has no objects, or has changed.

    Blocks for as long as it takes to read the file twice and to write it once. A link is followed.
    OSError: the file cannot be read, or its folder is full or not writable; the file is as it was.
    """
    path = path.resolve(strict=True)
    with FileIO(path) as source:
        before = os.fstat(source.fileno())
        try:
            found = _find(source, is_cancelled)
            if found["is_marked"] or not found["objects"]:
                return False
            source.seek(0)
            with replacing(path) as target:
                os.fchmod(target.fileno(), stat.S_IMODE(before.st_mode))
                _rewrite(source, target, found, is_cancelled)
                if not is_unchanged(before, path.stat()):
                    raise _Abandoned
        except _Abandoned:
            return False
    return True


def parse_definition(text: bytes) -> dict[str, Any] | None:
    """Read what stands behind EXCLUDE_OBJECT_DEFINE: name, center and polygon, in mm; None: it defines no object.

    A center or polygon that is missing or broken is None.
    """
    found = {key.upper(): value.strip("\"'") for key, value in _PARAMETER.findall(text.decode(errors="replace"))}
    if not found.get("NAME"):
        return None
    polygon = _decoded(found.get("POLYGON", ""))
    is_polygon = isinstance(polygon, list) and bool(polygon) and all(map(_is_point, polygon))
    center = _decoded(f"[{found.get('CENTER', '')}]")
    return {
        "name": found["NAME"],
        "center": center if _is_point(center) else None,
        "polygon": polygon if is_polygon else None,
    }


def _find(source: FileIO, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
    first = gcodepass.ObjectPass()
    for piece in pieces(source, is_last_use=False):
        if is_cancelled():
            raise _Abandoned
        first.feed(piece)
    return first.finish()


def _rewrite(source: FileIO, target: BufferedWriter, found: dict[str, Any], is_cancelled: Callable[[], bool]) -> None:
    """Copy with what belongs in between; by whole lines, so that something can still be put in before one."""
    names = unique_names(name or key for key, name, _ in found["objects"])
    definitions = b"".join(_definition(name, hull) for name, (_, _, hull) in zip(names, found["objects"], strict=True))
    waiting = [(found["definitions_at"], definitions)]
    second = gcodepass.ObjectPass(motion=False, dialect=found["dialect"])
    offset = 0  # of the piece
    for piece in whole_lines(source, is_last_use=True):
        if is_cancelled():
            raise _Abandoned
        second.feed(piece)
        waiting += _lines(second.take_events(), names)
        end = offset + len(piece)
        ready = sorted((entry for entry in waiting if entry[0] <= end), key=lambda entry: entry[0])
        waiting = [entry for entry in waiting if entry[0] > end]
        copied = 0
        out: list[bytes | memoryview] = []
        for at, text in ready:
            out += (piece[copied : at - offset], text)
            copied = at - offset
        out.append(piece[copied:])
        target.write(b"".join(out))
        offset = end
    current = second.finish()["current"]
    if current is not None:
        target.write(b"EXCLUDE_OBJECT_END NAME=%b\n" % names[current])


def _lines(events: Iterable[tuple[int, str, int]], names: list[bytes]) -> list[tuple[int, bytes]]:
    try:
        return [
            (at, b"; " if kind == "silence" else b"EXCLUDE_OBJECT_%b NAME=%b\n" % (kind.upper().encode(), names[index]))
            for at, kind, index in events
        ]
    except IndexError:  # an object that was not there the first time
        raise _Abandoned from None


def unique_names(names: Iterable[bytes]) -> list[bytes]:
    """Names as Klipper can read them: letters, digits and underscores, no two alike but for the case."""
    taken: set[bytes] = set()
    safe = []
    for name in names:
        stem = re.sub(rb"[^A-Za-z0-9]+", b"_", name).strip(b"_") or b"object"
        unique, number = stem, 1
        while unique.upper() in taken:
            number += 1
            unique = b"%b_%d" % (stem, number)
        taken.add(unique.upper())
        safe.append(unique)
    return safe


def _definition(name: bytes, hull: list[Point]) -> bytes:
    words = [f"EXCLUDE_OBJECT_DEFINE NAME={name.decode()}"]
    if hull:
        center = ((min(axis) + max(axis)) // 2 for axis in zip(*hull, strict=True))
        words.append(f"CENTER={','.join(map(_mm, center))}")
    corners = _corners(hull)
    if len(corners) > 2:
        words.append(f"POLYGON=[{','.join(f'[{_mm(x)},{_mm(y)}]' for x, y in corners)}]")
    return (" ".join(words) + "\n").encode()


def _corners(hull: list[Point]) -> list[Point]:
    """The points at which the outline turns."""
    around = zip([*hull[-1:], *hull[:-1]], hull, [*hull[1:], *hull[:1]], strict=True)
    return [here for last, here, after in around if _turn(last, here, after)]


def _turn(a: Point, b: Point, c: Point) -> int:
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _mm(micrometres: int) -> str:
    return f"{micrometres / 1000:.3f}".rstrip("0").rstrip(".")


def _decoded(text: str) -> object:
    try:
        return codec.decode(text.encode())
    except ValueError:
        return None


def _is_point(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(number, int | float) and math.isfinite(number) for number in value)
    )
