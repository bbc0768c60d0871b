"""The configuration of one server: typed sections, warnings, secrets, and the last good file as a fallback.

Order at start: `load()` reads the files and the built-in sections; components then ask for theirs; `all_warnings()` and
`view()` are complete when every component has been constructed; `keep_backup()` is called once the server runs.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from moonfast.codec import DecodeError, decode
from moonfast.config import report
from moonfast.config.options import Notes, Section
from moonfast.config.sections import CORE, SecretsConfig
from moonfast.config.source import Source, read, read_text, render
from moonfast.data_path import write_atomically
from moonfast.errors import ConfigError, StartError

log = logging.getLogger(__name__)

SECRETS_FILE = "moonraker.secrets"
MAX_SECRETS_BYTES = 1024 * 1024

S = TypeVar("S", bound=Section)


class Config:
    """Sections by their class. `section` and `sections` may raise ConfigError; asking twice gives the same objects."""

    def __init__(self, source: Source, path: str, data_path: str) -> None:
        self.source, self.path, self.data_path = source, path, data_path
        self.is_backup = False
        self.secrets: Mapping[str, Any] = {}
        self.notes = Notes()
        self._read: dict[str, Section] = {}
        self._broken: dict[tuple[type[Section], str], ConfigError] = {}
        self._touched: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the section, or one with this prefix, stands in the file."""
        return name in self.source.sections or any(key.startswith(name + " ") for key in self.source.sections)

    def problems(self) -> list[ConfigError]:
        """All faults found so far: in the files, and in the sections that were asked for."""
        found = self.source.problems + self.notes.problems
        return list({str(problem): problem for problem in found}.values())  # two classes may read one section

    def section(self, kind: type[S]) -> S:
        return self._section(kind, kind.config_name)

    def sections(self, kind: type[S]) -> list[S]:
        """All sections with the prefix of this class, in the order of the file. All are read before one fails."""
        found, problems = self.usable_sections(kind)
        if problems:
            raise problems[0]
        return found

    def section_named(self, kind: type[S], name: str) -> S:
        """One of the sections with a prefix, by its whole name."""
        return self._section(kind, name)

    def usable_sections(self, kind: type[S]) -> tuple[list[S], list[ConfigError]]:
        """The same, with what is wrong beside it: for components that do without those that cannot be used."""
        found: list[S] = []
        problems: list[ConfigError] = []
        for name, raw in self.source.sections.items():
            if kind.instance_of(name) is None:
                continue
            if kind.type_name and ("type" not in raw.options or raw.options["type"].text.lower() != kind.type_name):
                continue
            try:
                found.append(self._section(kind, name))
            except ConfigError as exc:
                problems.append(exc)
        return found, problems

    def is_given(self, section: str, option: str) -> bool:
        """Whether the user wrote this option, be it with its default value."""
        raw = self.source.sections.get(section)
        return raw is not None and option in raw.options

    def _section(self, kind: type[S], name: str) -> S:
        found = self._read.get(name)
        if isinstance(found, kind):
            return found
        broken = self._broken.get((kind, name))
        if broken is not None:
            raise broken
        self._touched.add(name)
        try:
            fresh = kind.read(self.source, name, self.data_path, self.notes)
        except ConfigError as exc:
            self._broken[kind, name] = exc
            raise
        self._read[name] = fresh
        return fresh

    def all_warnings(self, known: Iterable[str] = ()) -> list[str]:
        """Everything to tell the user. `known`: section names that have an owner, though it did not read them."""
        unread = report.unread(self.source, self._touched, self.notes.used, known)
        return list(dict.fromkeys(self.source.warnings + self.notes.warnings + unread))

    def view(self) -> dict[str, Any]:
        """What `/server/config` answers."""
        return report.view(self.source, self._read, self.notes.moved, self.data_path)


def load(path: str, data_path: str) -> Config:
    """Read the configuration, or else the last one that worked. StartError: neither can be used."""
    config = read_config(path, data_path)
    if not config.problems():
        return config
    first, more = config.problems()[0], len(config.problems()) - 1
    fault = f"{first}" + (f" ({more} more: see moonfast --check-config)" if more else "")
    backup = backup_path(path)
    fallback = read_config(backup, data_path) if os.path.exists(backup) else None
    if fallback is None or fallback.problems():
        raise StartError(f"The configuration cannot be used: {fault}")
    fallback.is_backup = True
    warning = (
        f"The configuration cannot be used: {fault} The last one that worked is used instead; correct and restart."
    )
    fallback.notes.warnings.insert(0, warning)
    log.warning("%s", warning)
    return fallback


def read_config(path: str, data_path: str) -> Config:
    """Read the files and the built-in sections. Never raises: see `problems`."""
    config = Config(read(path, data_path), path, data_path)
    for kind in CORE:
        try:
            config.section(kind)
        except ConfigError:
            continue  # noted in config.notes.problems
    if not config.problems():
        wanted = config.section(SecretsConfig).secrets_path
        config.secrets, warnings = read_secrets(wanted or os.path.join(data_path, SECRETS_FILE), wanted is not None)
        config.notes.warnings += warnings
    return config


def backup_path(path: str) -> str:
    """Where the last good configuration is kept: `.moonraker.conf.bkp` beside `moonraker.conf`, as Moonraker does."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.bkp")


def keep_backup(config: Config) -> None:
    """Keep this configuration, includes and all in one file, as the last one that worked."""
    if config.is_backup or config.problems():
        return
    target = backup_path(config.path)
    text = f"# Written by moonfast: the last {os.path.basename(config.path)} that worked. Changes are lost.\n\n"
    content = (text + render(config.source)).encode("utf-8")
    try:
        if _read_small(target) == content:
            return
    except OSError:
        pass  # there is none yet
    try:
        write_atomically(target, content, 0o600)
    except OSError as exc:  # a read-only configuration folder is a supported setup
        log.warning("The configuration could not be backed up: %s", exc.strerror)


def read_secrets(path: str, is_wanted: bool) -> tuple[Mapping[str, Any], list[str]]:
    """Read a secrets file, json or ini. Without one there are no secrets, which is a warning if the user named it."""
    name = os.path.basename(path)
    try:
        content = _read_small(path)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        warning = f"[secrets] secrets_path: there is no file '{name}'. Create it or correct the option."
        return {}, [warning] if is_wanted else []
    except OSError as exc:
        return {}, [f"[secrets] the file '{name}' cannot be read: {exc.strerror or exc}."]
    warnings = []
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.append(f"[secrets] other users of this machine have access to '{name}'. Run: chmod 600 {name}")
    try:
        text = content.decode("utf-8-sig")
        if text.lstrip().startswith("{"):
            found = decode(text)
            return (found, warnings)
    except (UnicodeDecodeError, DecodeError):
        return {}, [*warnings, f"[secrets] the file '{name}' is neither json nor ini. Correct it."]
    source = read_text(text, name)
    if source.problems:
        line = source.problems[0].line  # no more of the problem: its text quotes the file
        return {}, [*warnings, f"[secrets] the file '{name}' is neither json nor ini: line {line}. Correct it."]
    sections = source.sections.items()
    return {key: {name: option.text for name, option in raw.options.items()} for key, raw in sections}, warnings


def _read_small(path: str) -> bytes:
    with open(path, "rb") as stream:
        content = stream.read(MAX_SECRETS_BYTES + 1)
    if len(content) > MAX_SECRETS_BYTES:
        raise OSError(0, "it is too large")
    return content
