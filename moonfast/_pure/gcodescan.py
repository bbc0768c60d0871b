"""Twin of moonfast/_speedups/gcodescan.pyx: what the comments say, where pictures and commands lie."""

from __future__ import annotations

import re

from moonfast._pure.gcodeline import BLANKS, number

MAX_LINES = 200
MAX_KEYS = 4096

_KEY = re.compile(rb"[^\n][^=:,]*[=:,]")
_MARK = b"; thumbnail"
_DIGITS = b"0123456789"


def comments(data: bytes, first: dict[bytes, bytes], last: dict[bytes, bytes]) -> list[bytes]:
    lines: list[bytes] = []
    at = _line_with(data, b";", 0)
    while at >= 0:
        end = _line_end(data, at)
        text = data[at + 1 : end].strip(BLANKS)
        if text and len(lines) < MAX_LINES:
            lines.append(text)
        if match := _KEY.match(text):
            key = match[0][:-1].strip(BLANKS).lower()
            if key in last or len(last) < MAX_KEYS:
                last[key] = text[match.end() :].strip(BLANKS)
                first.setdefault(key, last[key])
        if text.startswith(b"thumbnail") and b" begin " in text:
            behind = data.find(b"thumbnail", end)  # the line that ends the picture
            end = _line_end(data, behind) if behind >= 0 else end
        at = _line_with(data, b";", end + 1)
    return lines


def pictures(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    at = _line_with(data, _MARK, 0)
    while at >= 0:
        end = _line_end(data, at)
        head = data[at + len(_MARK) : end].strip(BLANKS)
        at = _line_with(data, _MARK, end + 1)
        if at >= 0 and b"begin " in head and b" end" in data[at : _line_end(data, at)]:
            found.append((head, data[end + 1 : at].translate(None, b"; \t\r\n")))
    return found


def first_command(data: bytes) -> int:
    at = 0
    while at < len(data):
        if _is_command(data, at):
            return at
        at = _line_end(data, at) + 1
    return -1


def last_command_end(data: bytes) -> int:
    at = len(data)
    while at > 0:
        begin = data.rfind(b"\n", 0, at) + 1
        if _is_command(data, begin):
            digits = begin + 1
            while digits < len(data) and data[digits] in _DIGITS:
                digits += 1
            end = data.find(b"\n", begin)
            if digits < len(data) and data[digits] in BLANKS:
                return end + 1 if end >= 0 else len(data)
            following = data.find(b"\n", end + 1) if end >= 0 else -1
            if following >= 0:
                return following + 1
        at = begin - 1
    return -1


def heights(data: bytes) -> tuple[float, float] | None:
    found = []  # with its place, in the order of the words
    for word in (b"\nG1 Z", b"\nG0 Z"):
        at = data.find(word)
        while at >= 0:
            value, end = number(data, at + len(word))
            if value is not None and value >= 0.0:
                found.append((at, value))
            at = data.find(word, end)
    return (min(found)[1], max(value for _, value in found)) if found else None


def setpoint(data: bytes, codes: tuple[bytes, ...]) -> float | None:
    found = [item for code in codes if (item := _first_setpoint(data, code)) is not None]
    return min(found)[1] if found else None


def _first_setpoint(data: bytes, code: bytes) -> tuple[int, float] | None:
    at = _line_with(data, code + b" ", 0)
    while at >= 0:
        end = _line_end(data, at)
        line = data[at + len(code) : end].partition(b";")[0]
        place = line.find(b" S")
        value = number(line, place + 2)[0] if place >= 0 else None
        if value is not None and value > 0.0:
            return at, value
        at = _line_with(data, code + b" ", end + 1)
    return None


def _line_with(data: bytes, text: bytes, at: int) -> int:
    """Where a line begins with a text, at a line's beginning or behind; -1: nowhere."""
    if data.startswith(text, at):
        return at
    found = data.find(b"\n" + text, at)
    return found + 1 if found >= 0 else -1


def _line_end(data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    return end if end >= 0 else len(data)


def _is_command(data: bytes, at: int) -> bool:
    return data[at : at + 1] in (b"G", b"M") and data[at + 1 : at + 2].isdigit()
