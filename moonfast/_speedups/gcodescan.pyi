"""Head and tail of a gcode file: what its comments say, where its pictures and commands lie.

All functions take a piece of a file that begins and ends anywhere; none raises for what is in it.
"""

MAX_LINES: int
"""Comments that are returned as they are: slicers say in the first ones who they are."""
MAX_KEYS: int
"""Different keys that are kept; slicers write some hundred."""

def comments(data: bytes, first: dict[bytes, bytes], last: dict[bytes, bytes]) -> list[bytes]:
    """Add what all comments say, "key = value", "key: value" or "key, value", to the first and the last value of each
    key, in lower case. Returns the text of the first comments. Comments are lines that begin with a semicolon; blanks
    around text, key and value do not count, and pictures are left out.
    """

def pictures(data: bytes) -> list[tuple[bytes, bytes]]:
    """The pictures: what stands behind "thumbnail" in the line that begins one, and its text in Base64. One without
    its end is none.
    """

def first_command(data: bytes) -> int:
    """Where the first line begins that is a command (G or M and a number); -1: there is none."""

def last_command_end(data: bytes) -> int:
    """Where the last command ends, -1: there is none.

    As clients know it: a command without arguments takes the line behind it along, and does not count without one.
    """

def heights(data: bytes) -> tuple[float, float] | None:
    """The first and the greatest Z, in mm, of lines like "G1 Z0.2 F600"; None: there is none."""

def setpoint(data: bytes, codes: tuple[bytes, ...]) -> float | None:
    """The S of the first of these commands (as b"M104") that has one above zero, as in "M104 S215"."""
