"""The one JSON encoder and decoder.

orjson where it is installed, the standard library's json elsewhere (32-bit ARM has no orjson wheel). Both give compact
UTF-8 text, write NaN and Infinity as null, and refuse what is not JSON with a `DecodeError`.
"""

from __future__ import annotations

import json
from typing import Any


class DecodeError(ValueError):
    """The text is not JSON."""


class Raw(bytes):
    """JSON text that is ready to be spliced into an answer as it stands."""

    __slots__ = ()


try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

MAX_DEPTH = 250  # nesting accepted from clients by the fallback decoder; orjson has a bound of its own


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _encode_plain(value: object) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8")


def _decode_plain(text: bytes | str) -> Any:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # an escaped lone surrogate is no text
        return value
    except (ValueError, RecursionError) as exc:
        raise DecodeError(str(exc)) from None


if orjson is not None:
    _dumps, _loads, _JSONDecodeError = orjson.dumps, orjson.loads, orjson.JSONDecodeError

    def encode(value: object) -> bytes:
        """Compact JSON text. `Raw` is not looked for inside: splice it outside."""
        try:
            return _dumps(value)
        except TypeError:  # integers beyond 64 bits, keys that are not text: the standard encoder knows them
            return _encode_plain(value)

    def decode(text: bytes | str) -> Any:
        if isinstance(text, bytes) and type(text) is not bytes:
            text = bytes(text)  # orjson takes no subclasses
        try:
            return _loads(text)
        except _JSONDecodeError as exc:
            raise DecodeError(str(exc)) from None

else:
    encode, decode = _encode_plain, _decode_plain
