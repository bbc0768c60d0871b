"""Typed options: a `Section` declares what it reads, and an instance is complete or does not come to be.

    class ScaleConfig(Section, name="filament_scale"):
        device: Annotated[str, Option(doc="Serial device of the load cell.")]
        period: Annotated[float, Option(above=0.0, doc="Seconds between readings.")] = 2.0

`name="power"` is the section [power]; `prefix="power"` is every [power NAME], one object each; with `type="http"` only
those whose option `type` is http. `free=("parameter_",)` takes options with any name behind this: see `Section.free`.

Types: str, int, float, bool, Path (a text: absolute, `~` expanded), Template (text that is rendered later), list[str]
and list[int] (one item a line; `Option(separator=",")` splits lines too), Literal[...] and Enum (any case), and
`T | None`, where an empty value means None. Names of types are resolved in the module of the class, once.
"""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Iterable
from enum import Enum
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from moonfast.config.source import RawOption, RawSection, Source, replaceable
from moonfast.errors import ConfigError

_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))
MISSING: Any = object()  # the default of an option that has to be given


class Path(str):
    """An absolute path; a relative one is taken from the data folder."""

    __slots__ = ()


class Template(str):
    """Jinja2 text, as written but for `{data_path}`; knows where it stands, for errors."""

    __slots__ = ("file", "lines", "option", "section")

    section: str
    option: str
    file: str
    lines: tuple[int, ...]  # of the file, for each line of the text

    def __new__(
        cls, text: str, *, section: str = "", option: str = "", file: str = "", lines: tuple[int, ...] = ()
    ) -> Self:
        template = super().__new__(cls, text)
        template.section, template.option, template.file, template.lines = section, option, file, lines
        return template


class Option:
    """What an option may be, and what is said about it. Bounds hold for numbers and for the items of lists of numbers.

    `legacy` names (section, option) pairs that are read, with a warning, when the option itself is not given.
    `deprecated` says what to do instead; it is shown when the option is used. `unit` is for the documentation.
    """

    __slots__ = ("above", "below", "choices", "deprecated", "doc", "legacy", "maximum", "minimum", "separator", "unit")

    def __init__(
        self,
        *,
        doc: str,
        above: float | None = None,
        below: float | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
        choices: tuple[str, ...] = (),
        unit: str | None = None,
        separator: str | None = None,
        legacy: tuple[tuple[str, str], ...] = (),
        deprecated: str | None = None,
    ) -> None:
        self.doc, self.unit, self.separator, self.legacy, self.deprecated = doc, unit, separator, legacy, deprecated
        self.above, self.below, self.minimum, self.maximum = above, below, minimum, maximum
        self.choices = choices

    def bounds(self) -> str:
        parts = (("above", self.above), ("at least", self.minimum), ("below", self.below), ("at most", self.maximum))
        return " and ".join(f"{word} {limit:g}" for word, limit in parts if limit is not None)

    def admits(self, number: float) -> bool:
        return (
            (self.above is None or number > self.above)
            and (self.minimum is None or number >= self.minimum)
            and (self.below is None or number < self.below)
            and (self.maximum is None or number <= self.maximum)
        )


class Field:
    """One option of a section, ready to convert text."""

    __slots__ = ("allowed", "convert", "default", "name", "option")

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        metadata: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *metadata = get_args(hint)
        option = next((item for item in metadata if isinstance(item, Option)), None)
        if option is None:
            raise TypeError(f"option '{name}' has no Option(doc=...)")
        self.name, self.default, self.option = name, default, option
        self.convert, self.allowed = _converter(hint, option)

    @property
    def is_required(self) -> bool:
        return self.default is MISSING


_Converter = Callable[[str, str], Any]  # text, data path -> value; ValueError when it is not one


def _converter(hint: Any, option: Option) -> tuple[_Converter, str]:
    """How to read a type, and what to tell a user who got it wrong."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [item for item in arguments if item is not types.NoneType]
        if len(inner) != 1:
            raise TypeError(f"an option cannot be {hint}: only T | None is a union that text can decide")
        convert, allowed = _converter(inner[0], option)
        return lambda text, data_path: convert(text, data_path) if text else None, allowed
    if origin is list:
        return _list_converter(*_converter(arguments[0], option), option)
    if option.choices:
        return _choice_converter({item.lower(): item for item in option.choices})
    if origin is Literal:
        return _choice_converter({str(item).lower(): item for item in arguments})
    if isinstance(hint, type):
        if issubclass(hint, Enum):
            return _choice_converter({str(item.value).lower(): item for item in hint})
        if hint in _SIMPLE:
            noun, read = _SIMPLE[hint]
            bounds = option.bounds()
            if not bounds:
                return read, noun
            return _bounded(read, option), f"{noun} {bounds}"
    raise TypeError(f"an option cannot be of type {hint}")


def _list_converter(convert: _Converter, allowed: str, option: Option) -> tuple[_Converter, str]:
    def read(text: str, data_path: str) -> list[Any]:
        lines: Iterable[str] = text.split("\n")
        if option.separator:
            lines = (item for line in lines for item in line.split(option.separator))
        return [convert(item.strip(), data_path) for item in lines if item.strip()]

    return read, f"a list, one item a line, each {allowed}"


def _choice_converter(choices: dict[str, Any]) -> tuple[_Converter, str]:
    def read(text: str, data_path: str) -> Any:
        if text.lower() not in choices:
            raise ValueError
        return choices[text.lower()]

    return read, "one of " + ", ".join(choices)


def _bounded(read: _Converter, option: Option) -> _Converter:
    def read_bounded(text: str, data_path: str) -> Any:
        value = read(text, data_path)
        if not option.admits(value):
            raise ValueError
        return value

    return read_bounded


def _to_bool(text: str, data_path: str) -> bool:
    word = text.lower()
    if word not in _TRUE and word not in _FALSE:
        raise ValueError
    return word in _TRUE


def _to_float(text: str, data_path: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _to_path(text: str, data_path: str) -> Path:
    if not text or "\n" in text or "\0" in text:
        raise ValueError
    return Path(os.path.normpath(os.path.join(data_path, os.path.expanduser(replaceable(text, data_path)))))


_SIMPLE: dict[type, tuple[str, _Converter]] = {
    str: ("a text", replaceable),
    int: ("a whole number", lambda text, data_path: int(text)),
    float: ("a number", _to_float),
    bool: ("true or false", _to_bool),
    Path: ("a path", _to_path),
    Template: ("a template", lambda text, data_path: Template(replaceable(text, data_path))),
}


class Notes:
    """What reading sections leaves behind: options that were asked for, warnings, and every error raised."""

    def __init__(self) -> None:
        self.used: set[tuple[str, str]] = set()
        self.moved: dict[tuple[str, str], Any] = {}  # values taken from an old place: (section, option) -> value
        self.warnings: list[str] = []
        self.problems: list[ConfigError] = []


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Section:
    """Base of all sections. Instances are immutable; two are equal if class, name and values are."""

    config_name: ClassVar[str] = ""
    is_prefix: ClassVar[bool] = False
    legacy_prefixes: ClassVar[tuple[str, ...]] = ()
    type_name: ClassVar[str] = ""
    free_prefixes: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[dict[str, Field]]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        prefix: str | None = None,
        legacy_prefixes: tuple[str, ...] = (),
        type: str = "",
        free: tuple[str, ...] = (),
    ) -> None:
        if (name is None) == (prefix is None):
            raise TypeError(f"{cls.__name__} needs either name= or prefix=")
        cls.config_name, cls.is_prefix, cls.legacy_prefixes = name or prefix or "", prefix is not None, legacy_prefixes
        cls.type_name, cls.free_prefixes = type, free

    def __init__(self, **values: Any) -> None:
        fields = self.fields()
        unknown = sorted(values.keys() - fields.keys())
        missing = [name for name, field in fields.items() if field.is_required and name not in values]
        if unknown or missing:
            raise TypeError(f"{type(self).__name__}: options missing: {missing}, unknown: {unknown}")
        state = self.__dict__
        state["_names"], state["_free"] = (self.config_name, ""), {}
        for name, field in fields.items():
            value = values.get(name, field.default)
            state[name] = list(value) if isinstance(value, list) else value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{self.section_name}]>"  # no values: some are secret

    @property
    def section_name(self) -> str:
        """The name as it stands in the file: "power lamp"."""
        return str(self._names[0])

    @property
    def own_name(self) -> str:
        """What follows the prefix: "lamp"; empty for a section without one."""
        return str(self._names[1])

    @property
    def free(self) -> dict[str, str]:
        """Options whose names the user has chosen, as written, in the order of the file."""
        return self.__dict__["_free"]  # type: ignore[no-any-return]

    @property
    def _names(self) -> tuple[str, str]:
        return self.__dict__["_names"]  # type: ignore[no-any-return]

    @classmethod
    def fields(cls) -> dict[str, Field]:
        """The declared options, base classes first."""
        found: dict[str, Field] | None = cls.__dict__.get("_fields")
        if found is None:
            hints = get_type_hints(cls, include_extras=True)
            hints = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
            taken = [name for name in hints if hasattr(Section, name)]
            if taken:
                raise TypeError(f"{cls.__name__}: {taken} cannot be names of options")
            found = {name: Field(name, hint, getattr(cls, name, MISSING)) for name, hint in hints.items()}
            cls._fields = found
        return found

    @classmethod
    def instance_of(cls, name: str) -> str | None:
        """The part of a section's name after the prefix ("lamp" of "power lamp"), None for other sections."""
        for prefix in (*cls.legacy_prefixes, cls.config_name):  # the longer, older forms start with the present one
            if name.startswith(prefix + " "):
                return name[len(prefix) :].strip()
        return None

    @classmethod
    def read(cls, source: Source, name: str, data_path: str, notes: Notes) -> Self:
        """Read one section; one that is not there has the defaults. The first ConfigError is raised, all are noted."""
        raw = source.sections.get(name) or RawSection(name, None, None)
        values: dict[str, Any] = {}
        problems: list[ConfigError] = []
        for key, field in cls.fields().items():
            notes.used.add((name, key))
            try:
                values[key] = _value(field, raw, source, data_path, notes)
            except ConfigError as exc:
                problems.append(exc)
        free = {key: raw.options[key].text for key in raw.options if key.startswith(cls.free_prefixes or "\n")}
        notes.used.update((name, key) for key in free)
        if problems:
            notes.problems += problems
            raise problems[0]
        section = cls(**values)
        section.__dict__["_free"] = free
        section.__dict__["_names"] = (name, cls.instance_of(name) or "" if cls.is_prefix else "")
        return section


def _value(field: Field, section: RawSection, source: Source, data_path: str, notes: Notes) -> Any:
    raw = section.options.get(field.name)
    if raw is not None:
        if field.option.deprecated:
            notes.warnings.append(
                f"Option '{field.name}' in section [{section.name}] is deprecated ({raw.place}): "
                + field.option.deprecated
            )
        return _converted(field, raw, section.name, field.name, data_path)
    for old_section, old_name in field.option.legacy:
        old = source.sections.get(old_section)
        raw = old.options.get(old_name) if old is not None else None
        if raw is not None:
            notes.used.add((old_section, old_name))
            notes.warnings.append(
                f"Option '{old_name}' in section [{old_section}] is deprecated ({raw.place}): move it to section "
                f"[{section.name}] as '{field.name}'."
            )
            value = notes.moved[old_section, old_name] = _converted(field, raw, old_section, old_name, data_path)
            return value
    if field.is_required:
        remedy = f"Add '{field.name}: ...' with {field.allowed}."
        raise ConfigError(
            "is missing.", file=section.file, line=section.line, section=section.name, option=field.name, remedy=remedy
        )
    return field.default


def _converted(field: Field, raw: RawOption, section: str, name: str, data_path: str) -> Any:
    try:
        value = field.convert(raw.text, data_path)
        if isinstance(value, Template):
            return Template(value, section=section, option=name, file=raw.file, lines=(raw.line, *raw.more))
        return value
    except ValueError:
        shown = raw.text.strip().replace("\n", ", ")
        fault = f"'{shown[:60]}' is not {field.allowed}." if shown else "has no value."
        default = "" if field.is_required else " or remove the line for the default"
        raise ConfigError(
            fault, file=raw.file, line=raw.line, section=section, option=name, remedy=f"Write {field.allowed}{default}."
        ) from None
