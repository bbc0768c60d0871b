"""What to tell the user about a configuration: what nobody reads, old forms, and the view behind /server/config."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any

from moonfast.config.options import Path, Section
from moonfast.config.source import Source, replaceable

# Sections of earlier years. They are accepted; the text says what to do.
DEPRECATED_SECTIONS = {
    "system_args ": "It has no effect; remove it.",
    "update_manager client ": "Rename it to [update_manager NAME].",
    "update_manager static ": "It has no effect; remove it.",
}


def unread(
    source: Source, touched: Collection[str], used: Collection[tuple[str, str]], known: Iterable[str]
) -> list[str]:
    """Warn about sections and options that nobody asked for."""
    known_names = set(known)
    warnings = []
    for name, section in source.sections.items():
        old = next((text for form, text in DEPRECATED_SECTIONS.items() if f"{name} ".startswith(form)), None)
        if old is not None:
            warnings.append(f"Config section [{name}] is of a deprecated form ({section.place}). {old}")
        elif name in touched:
            declared = [key for owner, key in used if owner == name]
            warnings += [
                f"Unparsed config option '{key}' detected in section [{name}] ({option.place}). It is ignored. "
                + _advice(key, declared, "'{}'", "Remove it.")
                for key, option in section.options.items()
                if (name, key) not in used
            ]
        elif name.split(None, 1)[0] not in known_names:
            advice = _advice(
                name, [*touched, *known_names], "[{}]", "Remove it, if it is not there for another program."
            )
            warnings.append(f"Unparsed config section [{name}] detected ({section.place}). It is ignored. {advice}")
    return warnings


def _advice(name: str, candidates: list[str], form: str, otherwise: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, sorted(candidates), n=1, cutoff=0.75)
    return f"Did you mean {form.format(close[0])}?" if close else otherwise


def view(
    source: Source, read: Mapping[str, Section], moved: Mapping[tuple[str, str], Any], data_path: str
) -> dict[str, Any]:
    """The configuration as clients see it: typed with defaults, as written, and by file."""
    config: dict[str, dict[str, Any]] = {}
    for name in (*read, *(name for name in source.sections if name not in read)):
        raw = source.sections.get(name)
        written = {key: option.text for key, option in raw.options.items()} if raw is not None else {}
        shown: dict[str, Any] = dict(written)
        section = read.get(name)
        if section is not None:
            for key in section.fields():
                value = getattr(section, key)
                if isinstance(value, Path) and key in written:
                    value = replaceable(written[key], data_path)  # as the user wrote it: `~` stays
                shown[key] = _plain(value)
        config[name] = shown
    for (name, key), value in moved.items():
        config[name][key] = _plain(value)
    orig = {
        name: {key: option.text for key, option in section.options.items()} for name, section in source.sections.items()
    }
    files = [{"filename": name, "sections": sections} for name, sections in source.files.items()]
    return {"config": config, "orig": orig, "files": files}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.value if isinstance(value, Enum) else str(value)
    if isinstance(value, Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, list) else value
