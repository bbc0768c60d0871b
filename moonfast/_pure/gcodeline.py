"""Twin of moonfast/_speedups/gcodeline.pxd: what stands in a line of gcode."""

from __future__ import annotations

import re

BLANKS = b" \t\r"
MAX_DECIMALS = 15

_NUMBER = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?")


def number(text: bytes, at: int) -> tuple[float | None, int]:
    """The number that stands at an offset, and where it ends."""
    match = _NUMBER.match(text, at)
    assert match is not None
    sign, whole, fraction = match[1], match[2].lstrip(b"0"), match[3] or b""
    if not (match[2] or fraction) or len(whole) > MAX_DECIMALS:
        return None, match.end()
    digits = int(whole or b"0")
    decimals = 0
    for digit in fraction:
        if digits >= 10**14 or decimals == MAX_DECIMALS:
            break
        digits = digits * 10 + digit - ord("0")
        decimals += 1
    value = digits / 10.0**decimals
    return (-value if sign == b"-" and digits else value), match.end()
