"""What to tell the user about a configuration: what nobody reads, old forms, and the view behind /server/config."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any

from moonfast.config import known as known_names
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
    owned = set(known)
    warnings = []
    unsupported: dict[str, list[str]] = {}  # reason -> places
    for name, section in source.sections.items():
        old = next((text for form, text in DEPRECATED_SECTIONS.items() if f"{name} ".startswith(form)), None)
        if old is not None:
            warnings.append(f"Config section [{name}] is of a deprecated form ({section.place}). {old}")
        elif name in touched:
            declared = [key for owner, key in used if owner == name]
            for key, option in section.options.items():
                if (name, key) not in used:
                    meant = _closest(key, declared)
                    warnings.append(
                        f"Unparsed config option '{key}' detected in section [{name}] ({option.place}). It is ignored. "
                        + (f"Did you mean '{meant}'?" if meant else "Remove it.")
                    )
        elif name.split(None, 1)[0] not in owned:
            reason = known_names.explain(name)
            if reason is not None:
                unsupported.setdefault(reason, []).append(f"[{name}] ({section.place})")
                continue
            meant = _meant_section(name, (*touched, *owned, *known_names.MOONRAKER))
            warnings.append(
                f"Unparsed config section [{name}] detected ({section.place}). It is ignored. "
                + (f"Did you mean [{meant}]?" if meant else "Remove it, if it is not there for another program.")
            )
    warnings += [f"{reason} {', '.join(places)}" for reason, places in unsupported.items()]
    return warnings


def _closest(word: str, candidates: Iterable[str]) -> str | None:
    import difflib

    close = difflib.get_close_matches(word, sorted(candidates), n=1, cutoff=0.75)
    return close[0] if close else None


def _meant_section(name: str, candidates: Iterable[str]) -> str | None:
    """What a wrong section name may have been meant to be: [serber] server, [poower lamp] power lamp."""
    word, _, rest = name.partition(" ")
    words = {candidate.split(None, 1)[0] for candidate in candidates}
    if word in words:
        return word
    close = _closest(word, words)
    return f"{close} {rest}".rstrip() if close else None


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
    orig: dict[str, dict[str, str]] = {"DEFAULT": {}}  # clients expect the name, though nothing can stand there
    orig |= {
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
