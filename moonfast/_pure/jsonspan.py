"""Twin of moonfast/_speedups/jsonspan.pyx: where each value lies in a JSON text."""

from __future__ import annotations

import json
import re

from moonfast.errors import SpanError

MAX_DEPTH = 64

_SPACE = re.compile(rb"[ \t\n\r]*")
# Possessive, since sre would keep a hundred bytes for each byte of a string to try it another way.
_STRING = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(rb"NaN|-?Infinity")


class Scanner:
    """Walks over one text; `at` is the offset of what comes next."""

    def __init__(self, text: bytes) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.constants: list[tuple[int, int]] = []  # where NaN and Infinity stand in the last value
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as exc:
            self.bad_utf8_at = exc.start
        else:
            self.bad_utf8_at = len(text)

    def fail(self, what: str) -> SpanError:
        return SpanError(f"{what} at byte {self.at}")

    def skip_space(self) -> bytes:
        """Go to the next token and return its first byte, b"" at the end."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def string(self) -> tuple[int, int]:
        found = _STRING.match(self.text, self.at)
        if found is None or found.end() > self.bad_utf8_at:
            raise self.fail("bad string")
        self.at = found.end()
        return found.span()

    def value(self) -> tuple[int, int]:
        """Go over one value; return where it begins and ends."""
        first = self.skip_space()
        begin = self.at
        if first == b"{" or first == b"[":
            for _ in self.items(first):
                self.value()
        elif first == b'"':
            self.string()
        elif (constant := _NO_NUMBER.match(self.text, begin)) is not None:
            self.constants.append(constant.span())
            self.at = constant.end()
        elif (number := _NUMBER.match(self.text, begin)) is not None:
            self.at = number.end()
        else:
            word = next((word for word in (b"true", b"false", b"null") if self.text.startswith(word, begin)), None)
            if word is None:
                raise self.fail("bad value" if first else "text ends early")
            self.at = begin + len(word)
        return begin, self.at

    def items(self, opening: bytes):  # type: ignore[no-untyped-def]
        """Stop before each value of an object (yielding where its key lies) or of an array (yielding None)."""
        closing = b"}" if opening == b"{" else b"]"
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"nested deeper than {MAX_DEPTH}")
        self.at += 1
        if self.skip_space() == closing:
            self.at += 1
            self.depth -= 1
            return
        while True:
            key = None
            if opening == b"{":
                if self.skip_space() != b'"':
                    raise self.fail("key expected")
                key = self.string()
                if self.skip_space() != b":":
                    raise self.fail("':' expected")
                self.at += 1
            yield key
            mark = self.skip_space()
            if mark != b"," and mark != closing:
                raise self.fail("',' or end expected" if mark else "text ends early")
            self.at += 1
            if mark == closing:
                self.depth -= 1
                return

    def slice(self, begin: int, end: int) -> bytes:
        """The bytes of the last value, with null for every NaN and Infinity in it."""
        pieces, at = [], begin
        for first, last in self.constants:
            pieces += [self.text[at:first], b"null"]
            at = last
        return b"".join([*pieces, self.text[at:end]])

    def key(self, span: tuple[int, int]) -> str:
        decoded = json.loads(self.text[span[0] : span[1]])
        assert isinstance(decoded, str)
        return decoded

    def top(self, opening: bytes, name: str):  # type: ignore[no-untyped-def]
        """Yield where the key lies and the raw value, for each value of the whole text."""
        if self.skip_space() != opening:
            raise self.fail(f"{name} expected")
        for key in self.items(opening):
            self.constants = []
            yield key, self.slice(*self.value())
        if self.skip_space():
            raise self.fail("end of text expected")


def members(text: bytes) -> dict[str, bytes]:
    scanner = Scanner(text)
    found = list(scanner.top(b"{", "object"))
    return {scanner.key(key): value for key, value in found}


def elements(text: bytes) -> list[bytes]:
    return [value for _, value in Scanner(text).top(b"[", "array")]
