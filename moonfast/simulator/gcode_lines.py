"""Takes lines of gcode apart as Klipper does. Source: Klipper docs/Code_Overview.md and klippy/gcode.py."""

from __future__ import annotations

import re
import shlex
from collections.abc import Awaitable, Callable

_TRADITIONAL = re.compile(r"([GMT])\s*([0-9]+(?:\.[0-9]+)?)(.*)$", re.IGNORECASE | re.DOTALL)
_LETTERS = re.compile(r"([A-Z_]+|[A-Z*])")


class GcodeError(Exception):
    """A command that failed; the text is shown to the user."""


class Line:
    """One command with its parameters."""

    def __init__(self, text: str) -> None:
        self.text = text
        match = _TRADITIONAL.match(text)
        self.is_traditional = match is not None
        if match is not None:
            self.name = match[1].upper() + match[2]
            self.rest = match[3].strip()
            self.params = _letters(self.rest.partition(";")[0])
        else:
            first, _, self.rest = text.partition(" ")
            self.name = first.upper()
            self.params = {}

    def read_extended(self) -> None:
        """Read the parameters as NAME=value, quoted as for a shell."""
        lexer = shlex.shlex(self.rest, posix=True)
        lexer.whitespace_split, lexer.commenters = True, "#;"
        try:
            pairs = [item.split("=", 1) for item in lexer]
            self.params = {key.upper(): value for key, value in pairs}
        except ValueError:
            raise GcodeError(f"Malformed command '{self.text}'") from None

    def text_of(self, name: str, default: str | None = None) -> str:
        value = self.params.get(name, default)
        if value is None:
            raise GcodeError(f"Error on '{self.text}': missing {name}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.params.get(name)
        if value is None and default is not None:
            return default
        try:
            return float(self.text_of(name))
        except ValueError:
            raise GcodeError(f"Error on '{self.text}': unable to parse {value}") from None

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.params.get(name)
        if value is None and default is not None:
            return default
        try:
            return int(self.text_of(name))
        except ValueError:
            raise GcodeError(f"Error on '{self.text}': unable to parse {value}") from None


Handler = Callable[[Line], Awaitable[None]]
Table = dict[str, tuple[Handler, str]]
"""Name of a command -> what runs it, and its help text (empty: not listed by HELP)."""


def plain(action: Callable[[Line], object]) -> Handler:
    """Make a handler of a function that does not wait."""

    async def run(line: Line) -> None:
        action(line)

    return run


def without_comment(line: str) -> str:
    return line.partition(";")[0].strip()


def _letters(text: str) -> dict[str, str]:
    parts = _LETTERS.split(text.upper())
    return {parts[index]: parts[index + 1].strip() for index in range(1, len(parts) - 1, 2)}
