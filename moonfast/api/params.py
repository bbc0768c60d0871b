"""From the arguments of a request to the parameters of a handler.

Arguments come as a query string, a form, a JSON object or JSON-RPC `params`; here they meet the annotations of the
handler, which were compiled once. Texts are read as the type asks for ("8" is a number where one is wanted), since a
query string has nothing else. Arguments that nobody asked for are ignored: front ends send them.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from moonfast.api.upload import Received
from moonfast.codec import DecodeError, decode
from moonfast.errors import BadRequest

MAX_ARGUMENTS = 1000
_MISSING: Any = object()
_SHOWN_CHARACTERS = 60
_MAX_SHOWN_NUMBER = 10**40

Arguments = dict[str, Any]


class Meta:
    """What an annotation says beyond the type: `Annotated[int, Meta(minimum=0, doc="...")]`."""

    __slots__ = ("doc", "maximum", "minimum")

    def __init__(self, *, doc: str = "", minimum: float | None = None, maximum: float | None = None) -> None:
        self.doc, self.minimum, self.maximum = doc, minimum, maximum


class AllArguments(dict[str, Any]):
    """A parameter of this type gets every argument as it came; for endpoints whose argument names are data."""


class Body(bytes):
    """A parameter of this type gets the body of an HTTP request as it came; the handler has no other arguments."""

    __slots__ = ()


def from_query(query: str) -> Arguments:
    """Read a query string or a form. `key:int=`, `:bool=`, `:float=`, `:json=` are typed; the last of duplicates wins.

    A key without a value is an argument, too. BadRequest: a value is not of the type named, too many arguments.
    Source: specification, "Query String Type Hints".
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_ARGUMENTS)
    except UnicodeDecodeError:
        raise BadRequest("The query string is not UTF-8: encode it as UTF-8, then as %XX.") from None
    except ValueError:
        raise BadRequest(f"More than {MAX_ARGUMENTS} arguments: send them as a JSON body.") from None
    found: Arguments = {}
    for key, text in pairs:
        name, _, hint = key.rpartition(":")
        if hint in _HINTS and name:
            noun, read = _HINTS[hint]
            try:
                found[name] = read(text)
            except ValueError:
                raise BadRequest(f"Argument '{name}' must be {noun}, not '{_shown(text)}'") from None
        else:
            found[key] = text
    return found


def from_json(body: bytes) -> Arguments:
    """Read a JSON body. BadRequest: it is not JSON, or not an object."""
    try:
        value = decode(body)
    except DecodeError as exc:
        raise BadRequest(f"The body is not JSON: {exc}") from None
    if isinstance(value, dict):
        return value
    raise BadRequest('The body must be a JSON object: {"argument": value, ...}')


_Convert = Callable[[Any], Any]  # ValueError: not of this type


class Parameter:
    """One parameter of a handler. `expected` completes "must be ..."."""

    __slots__ = ("annotation", "convert", "default", "expected", "meta", "name")

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name, self.default, self.meta = name, default, Meta()
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            self.meta = next((item for item in extras if isinstance(item, Meta)), self.meta)
        self.annotation = annotation
        self.convert, self.expected = _converter(annotation)
        if self.meta.minimum is not None or self.meta.maximum is not None:
            self._bound()

    @property
    def is_required(self) -> bool:
        return self.default is _MISSING

    def _bound(self) -> None:
        convert, low, high = self.convert, self.meta.minimum, self.meta.maximum

        def bounded(value: Any) -> Any:
            number = convert(value)
            if number is not None and ((low is not None and number < low) or (high is not None and number > high)):
                raise ValueError
            return number

        bounds = ("" if low is None else f" of at least {low:g}") + ("" if high is None else f" of at most {high:g}")
        self.convert, self.expected = bounded, self.expected + bounds


class Parameters:
    """All parameters of a handler, behind `self` and `call`."""

    __slots__ = ("all_name", "body_name", "items")

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = get_type_hints(function, include_extras=True)
        self.items: list[Parameter] = []
        self.all_name: str | None = None
        self.body_name: str | None = None
        for name, parameter in list(inspect.signature(function).parameters.items()):
            if name in ("self", "call"):
                continue
            if hints[name] is AllArguments:
                self.all_name = name
            elif hints[name] in (Body, Received):
                self.body_name = name
            else:
                default = _MISSING if parameter.default is inspect.Parameter.empty else parameter.default
                self.items.append(Parameter(name, hints[name], default))

    def __bool__(self) -> bool:
        return bool(self.items) or self.all_name is not None or self.body_name is not None

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the handler. BadRequest names the argument and the type expected."""
        if self.body_name is not None:
            return {self.body_name: arguments[self.body_name]}
        bound: dict[str, Any] = {}
        for item in self.items:
            name = item.name
            value = arguments.get(name, _MISSING)
            if value is _MISSING:
                if item.default is _MISSING:
                    raise BadRequest(f"No data for argument: {name} (expected {item.expected})")
                continue  # the handler's own default
            try:
                bound[name] = item.convert(value)
            except (ValueError, OverflowError):
                raise BadRequest(
                    f"Invalid value for argument '{name}': must be {item.expected}, not {_described(value)}"
                ) from None
        if self.all_name is not None:
            bound[self.all_name] = AllArguments(arguments)
        return bound


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _described(value: Any) -> str:
    if isinstance(value, str):
        return f"'{_shown(value)}'"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number beyond all bounds" if abs(value) > _MAX_SHOWN_NUMBER else str(value)
    return {None: "null", True: "true", False: "false"}.get(value, "something else")


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    return str(value)


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        raise ValueError
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


_WORDS = {"true": True, "false": False, "1": True, "0": False}


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | str):
        found = _WORDS.get(str(value).lower())
        if found is not None:
            return found
    raise ValueError


def _to_object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = decode(value)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _from_json_text(text: str) -> Any:
    return decode(text)


_HINTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "int": ("a whole number", _to_int),
    "bool": ("true or false", _to_bool),
    "float": ("a number", _to_float),
    "json": ("JSON", _from_json_text),
    "str": ("a text", _to_text),
}

_SIMPLE: dict[Any, tuple[_Convert, str]] = {
    str: (_to_text, "a text"),
    int: (_to_int, "a whole number"),
    float: (_to_float, "a number"),
    bool: (_to_bool, "true or false"),
    dict: (_to_object, "an object"),
}


def _converter(hint: Any) -> tuple[_Convert, str]:
    """How to read a type, and what to call it."""
    if hint is Any or hint is object:
        return lambda value: value, "any value"
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [item for item in arguments if item is not types.NoneType]
        return _union([_converter(item) for item in inner], len(inner) < len(arguments))
    if origin is dict:
        return _SIMPLE[dict]
    if origin is Literal:
        return _literal(arguments)
    if origin is list:
        return _list(*_converter(arguments[0]))
    raise TypeError(f"a parameter of a handler cannot be of type {hint}")


def _union(members: list[tuple[_Convert, str]], takes_null: bool) -> tuple[_Convert, str]:
    def convert(value: Any) -> Any:
        if value is None and takes_null:
            return None
        for read, _ in members:
            try:
                return read(value)
            except ValueError:
                continue
        raise ValueError

    return convert, " or ".join(expected for _, expected in members)


def _literal(choices: tuple[Any, ...]) -> tuple[_Convert, str]:
    def convert(value: Any) -> Any:
        if value in choices:
            return value
        raise ValueError

    return convert, "one of " + ", ".join(str(item) for item in choices)


def _list(read: _Convert, expected: str) -> tuple[_Convert, str]:
    """A JSON array, or a text with commas between the items."""

    def convert(value: Any) -> list[Any]:
        if isinstance(value, str):
            stripped = value.strip()
            value = decode(stripped) if stripped.startswith("[") else [item.strip() for item in stripped.split(",")]
            value = [item for item in value if item != ""]
        if not isinstance(value, list):
            raise ValueError
        return [read(item) for item in value]

    return convert, f"an array, each item {expected}"
