"""What stands in the comments of a gcode file, and where its commands begin and end.

All functions take a piece of a file that begins and ends anywhere; none ever raises for what is in it.
"""

from __future__ import annotations

NUMBER = b"0123456789.-+"
BLANK = b" \t\r"


def comments(data: bytes) -> list[bytes]:
    """The text of every line that begins with a semicolon, without blanks around it; pictures are left out."""
    found = []
    at = 0 if data[:1] == b";" else data.find(b"\n;") + 1
    while at > 0 or data[at : at + 1] == b";":
        end = data.find(b"\n", at)
        text = data[at + 1 : end if end >= 0 else len(data)].strip(BLANK)
        if text:
            found.append(text)
        if text.startswith(b"thumbnail") and b" begin " in text:
            end = data.find(b"thumbnail", end if end >= 0 else len(data))  # the line that ends the picture
            end = data.find(b"\n", end) if end >= 0 else -1
        if end < 0:
            break
        at = end + 1 if data[end + 1 : end + 2] == b";" else data.find(b"\n;", end) + 1
        if at == 0:
            break
    return found


def pictures(data: bytes) -> list[tuple[bytes, bytes]]:
    """The pictures: what stands behind "thumbnail" in the line that begins one, and its text in Base64.

    A picture without its end is none.
    """
    found = []
    at = 0
    while (at := data.find(b"; thumbnail", at)) >= 0:
        begin = at + len(b"; thumbnail")
        at = begin
        end = data.find(b"\n", begin)
        head = data[begin:end].strip(BLANK)
        if end < 0 or b"begin " not in head:
            continue
        last = data.find(b"; thumbnail", end)
        if last < 0:
            break
        line = data[last : data.find(b"\n", last) if data.find(b"\n", last) >= 0 else len(data)]
        at = last
        if b" end" in line:
            found.append((head, data[end:last].translate(None, b"; \t\r\n")))
            at = last + len(b"; thumbnail")
    return found


def first_command(data: bytes) -> int:
    """Where the first line begins that is a command (G or M and a number); -1: there is none."""
    at = 0
    while at < len(data):
        if _is_command(data, at):
            return at
        at = data.find(b"\n", at) + 1
        if at == 0:
            break
    return -1


def last_command_end(data: bytes) -> int:
    """Where the last command ends, -1: there is none.

    As clients know it: a command without arguments takes the line behind it along, and does not count without one.
    """
    at = len(data)
    while at > 0:
        begin = data.rfind(b"\n", 0, at) + 1
        if _is_command(data, begin):
            digits = begin + 1
            while digits < len(data) and data[digits] in b"0123456789":
                digits += 1
            end = data.find(b"\n", begin)
            if digits < len(data) and data[digits] in BLANK:
                return end + 1 if end >= 0 else len(data)
            following = data.find(b"\n", end + 1) if end >= 0 else -1
            if following >= 0:
                return following + 1
        at = begin - 1
    return -1


def _is_command(data: bytes, at: int) -> bool:
    return data[at : at + 1] in (b"G", b"M") and data[at + 1 : at + 2].isdigit()


def heights(data: bytes) -> tuple[float, float] | None:
    """The first and the greatest Z of lines like "G1 Z0.2 F600"; None: there is none."""
    first = greatest = None
    for word in (b"\nG1 Z", b"\nG0 Z"):
        at = -1
        while (at := data.find(word, at + 1)) >= 0:
            value = number(data, at + len(word))
            if value is None or value < 0.0:
                continue
            if first is None or at < first[0]:
                first = (at, value)
            if greatest is None or value > greatest:
                greatest = value
    return None if first is None or greatest is None else (first[1], greatest)


def setpoint(data: bytes, codes: tuple[bytes, ...]) -> float | None:
    """The S of the first of these commands that has one above zero, as in "M104 S215"."""
    best: tuple[int, float] | None = None
    for code in codes:
        at = -1
        word = b"\n" + code + b" "
        while (at := data.find(word, at + 1)) >= 0 and (best is None or at < best[0]):
            end = data.find(b"\n", at + 1)
            line = data[at + len(word) : end if end >= 0 else len(data)]
            place = (b" " + line).find(b" S")
            value = number(line, place + 1) if place >= 0 else None
            if value:
                best = (at, value)
                break
    return None if best is None else best[1]


def number(data: bytes, at: int) -> float | None:
    """The number that begins at a place; None: there is none."""
    end = at
    while end < len(data) and end - at < 32 and data[end] in NUMBER:
        end += 1
    try:
        return float(data[at:end])
    except ValueError:
        return None
