"""Whole gcode files read line by line: layers, tools, progress, motion (FilePass), objects (ObjectPass)."""

from typing import Any, Self

from typing_extensions import disjoint_base

MAX_LINE_BYTES: int
"""A longer line is skipped, except that its bytes are counted."""
MAX_LAYERS: int
"""Layers whose place is kept; those beyond are counted. A print of four metres in layers of 0.2 mm has as many."""
MAX_PROGRESS: int
"""M73 lines that are kept; slicers write one per percent and minute."""
MAX_DEFINITION_BYTES: int
"""Of all EXCLUDE_OBJECT_DEFINE lines together; one that goes beyond is left out."""
MAX_OBJECTS: int
"""Objects of one print; those beyond belong to none."""
MAX_NAME_BYTES: int
"""Of an object's name; what is longer is cut off."""
MAX_EVENTS: int
"""Events between two calls of take_events()."""
MAX_HULL_POINTS: int
"""The hull of an object is told by its farthest point in each of so many directions."""
DIALECTS: tuple[str | None, ...]
"""How slicers mark objects; None: not known yet."""

@disjoint_base
class Lines:
    """Takes a file in whatever pieces it comes; the base of the passes. One thread at a time (RuntimeError)."""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Read a piece, which may end anywhere; nothing of it is kept. ValueError: the pass is finished.

        The GIL is released: the caller sees to it that the piece does not change.
        """

@disjoint_base
class FilePass(Lines):
    """Layers, tools, progress and object definitions; with `motion` also bounds, and heights of all layers."""

    def __new__(cls, motion: bool = True) -> Self: ...
    def finish(self) -> dict[str, Any]:
        """End the last line and return what was found; later calls return the same.

        layer_count  by the markers of the slicer; without any, by the heights where plastic is laid level
        layers       [(offset where the layer begins, z in mm or None)], the first MAX_LAYERS
        max_z        highest place of laid plastic, or of a layer; None: not known
        bounds       {"min": [x, y, z], "max": [x, y, z]} of the ends of all moves that lay plastic, in mm; None for an
                     axis of which nothing is known, and instead of all if there is no such move
        tools        numbers of the T lines, sorted
        progress     [(offset of the M73, percent, minutes left or None)], the first MAX_PROGRESS
        definitions  what stands behind EXCLUDE_OBJECT_DEFINE, line by line
        """

@disjoint_base
class ObjectPass(Lines):
    """Objects that the slicer marks in comments or with M486: with `motion` their hulls, without their borders.

    The dialect is that of the first object, or the given one. ValueError: there is no such dialect.
    """

    def __new__(cls, motion: bool = True, dialect: str | None = None) -> Self: ...
    def take_events(self) -> list[tuple[int, str, int]]:
        """Return what has to be written where, in order, since the last call: (offset, event, index of the object).

        "start" and "end" are of the object, at the beginning of a line; "silence" is an M486 line that begins there,
        which Klipper does not know (index -1). At the end of a file without a last "\\n" the offset is one beyond it.
        A pass with motion has none. ValueError: more than MAX_EVENTS.
        """
    def finish(self) -> dict[str, Any]:
        """End the last line and return what was found; later calls return the same.

        dialect         of DIALECTS
        is_marked       the file has EXCLUDE_OBJECT_START, or EXCLUDE_OBJECT_DEFINE of an object
        definitions_at  offset before which the objects have to be defined: of the first line that is neither empty nor
                        a comment, or of the first object; None: there is neither
        current         index of the object that was not ended, or None
        objects         [(key, name, hull)]: what tells it from others, its name if it has one beside, and its hull as
                        [(x, y)] in micrometres, counterclockwise, at most MAX_HULL_POINTS
        """
