"""Reads moonraker.conf as users have it: files, includes, comments; every option remembers its file and line.

The language is the one that Moonraker documents ("Configuration", readthedocs) and Python's configparser defines:

    [section name]          # a comment needs white space before it, or the start of the line; so does ;
    option: value           `=` does too; option names are case-insensitive, section names are not
    list:                   lines indented deeper than their option continue its value,
        first               without their indentation; blank lines and comments in between are left out
        text \\# more        an escaped comment sign after white space
    [include sub/*.conf]    reads other files at this place; relative to this file

A later value of the same option wins, in whichever file. Reading never stops at a fault: `Source.problems` has all.
"""

from __future__ import annotations

import glob
import os
import re
import stat

from moonfast.errors import ConfigError

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 200

_COMMENT = re.compile(r"(?<!\S)[#;]")
_ESCAPED = re.compile(r"(?<!\S)\\([#;])")
_HEADER = re.compile(r"\[(.*)\](.*)")
_OPTION = re.compile(r"([^:=]+?)\s*[:=]\s*(.*)")
_TAB_WIDTH = 4  # counts only for "indented deeper than"


class RawOption:
    """One option as written: its text, the file (relative to the main one) and the line it starts on.

    `more` has the lines that continue it: comments and blank lines in between are not part of the text.
    """

    __slots__ = ("file", "line", "more", "text")

    def __init__(self, text: str, file: str, line: int) -> None:
        self.text, self.file, self.line = text, file, line
        self.more: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


class RawSection:
    """All options of one section, from all files; `file` and `line` are where it was first seen, if it was."""

    __slots__ = ("file", "line", "name", "options")

    def __init__(self, name: str, file: str | None, line: int | None) -> None:
        self.name, self.file, self.line = name, file, line
        self.options: dict[str, RawOption] = {}

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


class Source:
    """What the files say. `problems` is empty for a configuration that can be used."""

    def __init__(self) -> None:
        self.sections: dict[str, RawSection] = {}
        self.files: dict[str, list[str]] = {}  # name relative to the main file -> sections in it, in order
        self.problems: list[ConfigError] = []
        self.warnings: list[str] = []


def read(path: str, data_path: str = "") -> Source:
    """Read a configuration file and all that it includes. Never raises: see `Source.problems`."""
    source = Source()
    _Reader(source, os.path.dirname(os.path.abspath(path)), data_path).read_file(path, None)
    return source


def read_text(text: str, file: str = "moonraker.conf") -> Source:
    """Read a configuration that is at hand as text; `[include]` finds nothing."""
    source = Source()
    _Reader(source, "", "").read_lines(text, file, "")
    return source


def render(source: Source) -> str:
    """One file that says the same; reading it gives the same sections and values."""
    out = []
    for section in source.sections.values():
        out.append(_escape(f"[{section.name}]") + "\n")
        for name, option in section.options.items():
            out.append(f"{_escape(name)} = " + "\n\t".join(_escape(line) for line in option.text.split("\n")) + "\n")
        out.append("\n")
    return "".join(out)


def _escape(text: str) -> str:
    return _COMMENT.sub(r"\\\g<0>", text)


class _Reader:
    def __init__(self, source: Source, base: str, data_path: str) -> None:
        self._source, self._base, self._data_path = source, base, data_path
        self._seen: dict[str, str] = {}  # real path -> where it was included

    def _problem(self, file: str, line: int | None, message: str, remedy: str, section: str | None = None) -> None:
        self._source.problems.append(ConfigError(message, file=file, line=line, section=section, remedy=remedy))

    def read_file(self, path: str, included_at: tuple[str, int] | None) -> None:
        name = os.path.relpath(os.path.abspath(path), self._base)
        file, line = included_at or (name, None)
        try:
            content = _content(path)
        except OSError as exc:
            remedy = "Check that the file exists and that this user may read it."
            self._problem(file, line, f"cannot read '{name}': {exc.strerror or exc}.", remedy)
            return
        self._seen[os.path.realpath(path)] = f"{file}, line {line}" if line else "the command line"
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            at = content.count(b"\n", 0, exc.start) + 1
            self._problem(name, at, "a character is not UTF-8.", "Save the file with the encoding UTF-8.")
            text = content.decode("utf-8-sig", errors="replace")
        self.read_lines(text, name, os.path.dirname(os.path.abspath(path)))

    def read_lines(self, text: str, file: str, folder: str) -> None:
        here = self._source.files.setdefault(file, [])
        opened: dict[str, int] = {}  # sections of this file -> line
        section: RawSection | None = None
        option: RawOption | None = None
        level = 0  # indentation of the option or header that deeper lines continue
        for number, raw in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
            comment = _COMMENT.search(raw)
            line = _ESCAPED.sub(r"\1", raw[: comment.start()] if comment else raw).strip()
            if not line:
                continue
            expanded = raw.expandtabs(_TAB_WIDTH)
            indent = len(expanded) - len(expanded.lstrip())
            if option is not None and indent > level:
                option.text += "\n" + line
                option.more += (number,)
                continue
            option, level = None, indent
            if line[0] == "[":
                section = self._open(line, file, number, folder)
                if section.name and section.name != "include":
                    if section.name in opened:
                        lines = f"{opened[section.name]} and {number}"
                        self._source.warnings.append(
                            f"Section [{section.name}] stands twice in {file}, lines {lines}. Both are used; join them."
                        )
                    else:
                        here.append(section.name)
                    opened[section.name] = number
                continue
            match = _OPTION.fullmatch(line)
            if match is None:
                self._problem(
                    file,
                    number,
                    f"'{line[:60]}' is neither a [section] nor an option.",
                    "Write 'name: value', indent the line if it belongs to the value above, or put a # before it.",
                    section.name if section else None,
                )
                continue
            key = match[1].lower()
            option = RawOption(match[2], file, number)
            if section is None or section.name == "include":
                where = "before the first [section]" if section is None else "below an [include], which has no options"
                self._problem(
                    file, number, f"option '{key}' stands {where}.", "Move it into the section it belongs to."
                )
                continue
            earlier = section.options.get(key)
            if earlier is not None and earlier.file == file:
                self._source.warnings.append(
                    f"Option '{key}' stands twice in section [{section.name}] of {file}, lines {earlier.line} and "
                    f"{number}. The last one counts; remove the other."
                )
            section.options[key] = option

    def _open(self, line: str, file: str, number: int, folder: str) -> RawSection:
        match = _HEADER.fullmatch(line)
        name = match[1].strip() if match else ""
        if not match or not name:
            fault = "a section has no name." if match else f"the section header '{line[:60]}' is not closed."
            self._problem(file, number, fault, "Write [name].")
            return RawSection("", file, number)  # takes up the options below, so that they are not reported as well
        if match[2].strip():
            self._source.warnings.append(f"Text after [{name}] in {file}, line {number} is ignored. Remove it.")
        words = name.split(None, 1)
        if words[0] == "include":
            self._include(words[1] if len(words) > 1 else "", file, number, folder)
            return RawSection("include", file, number)
        return self._source.sections.setdefault(name, RawSection(name, file, number))

    def _include(self, pattern: str, file: str, number: int, folder: str) -> None:
        wanted = os.path.expanduser(pattern.replace("{data_path}", self._data_path))
        is_glob = glob.has_magic(wanted)
        paths = sorted(glob.glob(os.path.join(glob.escape(folder), wanted))) if folder and pattern else []
        paths = [path for path in paths if not os.path.isdir(path)]
        if not paths and is_glob:
            self._source.warnings.append(f"[include {pattern}] in {file}, line {number} finds no file.")
        elif not paths:
            remedy = "Correct the name, which is relative to this file, or remove the line."
            self._problem(file, number, f"[include {pattern}] finds no file.", remedy)
        for path in paths:
            before = self._seen.get(os.path.realpath(path))
            if before is not None:
                name = os.path.relpath(path, self._base)
                message = f"[include {pattern}] reads '{name}' again, which {before} has read already."
                self._problem(file, number, message, "Include every file once; no file may include itself.")
            elif len(self._seen) >= MAX_FILES:
                remedy = f"Use at most {MAX_FILES} files."
                self._problem(file, number, f"[include {pattern}] finds too many files.", remedy)
                return
            else:
                self.read_file(path, (file, number))


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would never end
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(0, f"it is larger than {MAX_FILE_BYTES // 1024} KiB")
    return content


def replaceable(text: str, data_path: str) -> str:
    """Put the data folder in the place of `{data_path}`."""
    return text.replace("{data_path}", data_path) if "{data_path}" in text else text
