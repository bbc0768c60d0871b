"""The scanner against the standard library's json, and the twins against each other."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonfast._pure import jsonspan as pure
from moonfast.errors import SpanError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
DUMPS: list[dict[str, Any]] = [
    {},
    {"ensure_ascii": False},
    {"indent": 1},
    {"separators": (",", ":")},
    {"separators": (" , ", "\t:\r\n"), "ensure_ascii": False},
]
MUTATION = st.tuples(
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.sampled_from(list(b'{}[]:,"\\ 0123eE+-.NIntfu\x00\x1f\x80\xc3\xed\xff')),
)


def without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return value


def outcome(function: Callable[[bytes], Any], text: bytes) -> Any:
    try:
        return function(text)
    except SpanError as exc:
        return str(exc)


@given(value=st.dictionaries(TEXT, JSON), form=st.sampled_from(DUMPS))
def test_members(impl: Any, value: dict[str, Any], form: dict[str, Any]) -> None:
    found = impl.jsonspan.members(json.dumps(value, **form).encode())
    assert list(found) == list(value)
    assert {key: json.loads(raw) for key, raw in found.items()} == without_nan(value)


@given(value=st.lists(JSON), form=st.sampled_from(DUMPS))
def test_elements(impl: Any, value: list[Any], form: dict[str, Any]) -> None:
    found = impl.jsonspan.elements(json.dumps(value, **form).encode())
    assert [json.loads(raw) for raw in found] == without_nan(value)


@settings(max_examples=400)
@given(value=JSON, mutations=st.lists(MUTATION, max_size=3))
def test_both_agree_on_broken_texts(impl: Any, value: Any, mutations: list[tuple[int, int, int]]) -> None:
    text = bytearray(json.dumps(value, ensure_ascii=False).encode())
    for place, kind, byte in mutations:
        at = place % (len(text) + 1)
        if kind == 0:
            text[at:at] = bytes([byte])
        elif kind == 1:
            text[at : at + 1] = bytes([byte])
        else:
            del text[at : at + kind]
    for name in ("members", "elements"):
        assert outcome(getattr(impl.jsonspan, name), bytes(text)) == outcome(getattr(pure, name), bytes(text))


@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(impl: Any, data: bytes) -> None:
    for text in (data, b"{" + data, b"[" + data + b"]"):
        for name in ("members", "elements"):
            assert outcome(getattr(impl.jsonspan, name), text) == outcome(getattr(pure, name), text)


@given(data=st.binary(max_size=8))
def test_strings_are_utf8(impl: Any, data: bytes) -> None:
    text = b'["' + data + b'"]'
    try:
        json.loads(text.decode("utf-8"))
        is_valid = True
    except ValueError:
        is_valid = False
    assert isinstance(outcome(impl.jsonspan.elements, text), list) == is_valid


def test_every_edge_of_utf8(impl: Any) -> None:
    """Overlong forms, surrogates, beyond U+10FFFF, cut characters: every first byte, followed by all bounds."""
    edges = (b"", b"\x7f", b"\x80", b"\x8f", b"\x90", b"\x9f", b"\xa0", b"\xbf", b"\xc0")
    for lead, *rest in product(range(0x80, 0x100), edges, (b"", b"\x7f", b"\x80", b"\xbf"), (b"", b"\xbf", b"\xc0")):
        character = bytes([lead]) + b"".join(rest)
        try:
            character.decode()
        except UnicodeDecodeError:
            with pytest.raises(SpanError, match="bad string at byte 1"):
                impl.jsonspan.elements(b'["' + character + b'"]')
        else:
            assert impl.jsonspan.elements(b'["' + character + b'"]') == [b'"' + character + b'"']


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "object expected at byte 0"),
        (b"[]", "object expected at byte 0"),
        (b"{", "key expected at byte 1"),
        (b'{"a"', "':' expected at byte 4"),
        (b'{"a":', "text ends early at byte 5"),
        (b'{"a":1', "text ends early at byte 6"),
        (b'{"a":1 2', "',' or end expected at byte 7"),
        (b'{"a":1,}', "key expected at byte 7"),
        (b'{"a":1}x', "end of text expected at byte 7"),
        (b"{a:1}", "key expected at byte 1"),
        (b'{"a":01}', "',' or end expected at byte 6"),
        (b'{"a":+1}', "bad value at byte 5"),
        (b'{"a":.5}', "bad value at byte 5"),
        (b'{"a":1.}', "',' or end expected at byte 6"),
        (b'{"a":1e}', "',' or end expected at byte 6"),
        (b'{"a":-}', "bad value at byte 5"),
        (b'{"a":nul}', "bad value at byte 5"),
        (b'{"a":"\x1f"}', "bad string at byte 5"),
        (b'{"a":"\\x"}', "bad string at byte 5"),
        (b'{"a":"\\u12g4"}', "bad string at byte 5"),
        (b'{"a":"\xed\xa0\x80"}', "bad string at byte 5"),
        (b'{"a":"\xc0\x80"}', "bad string at byte 5"),
        (b'{"a":"\xf4\x90\x80\x80"}', "bad string at byte 5"),
        (b'{"\xff":1}', "bad string at byte 1"),
        (b"{'a':1}", "key expected at byte 1"),
        (b'\xef\xbb\xbf{"a":1}', "object expected at byte 0"),
    ],
)
def test_errors(impl: Any, text: bytes, message: str) -> None:
    with pytest.raises(SpanError) as caught:
        impl.jsonspan.members(text)
    assert str(caught.value) == message


def test_depth(impl: Any) -> None:
    limit = impl.jsonspan.MAX_DEPTH
    assert impl.jsonspan.elements(b"[" * limit + b"]" * limit) == [b"[" * (limit - 1) + b"]" * (limit - 1)]
    with pytest.raises(SpanError, match=f"nested deeper than {limit} at byte {limit}"):
        impl.jsonspan.elements(b"[" * (limit + 1) + b"]" * (limit + 1))
    deep = b'{"a":' * 100_000
    with pytest.raises(SpanError, match="nested deeper"):
        impl.jsonspan.members(deep)
    assert impl.jsonspan.elements(b"[" + b",".join([b"[]"] * 1000) + b"]") == [b"[]"] * 1000


def test_what_klippy_sends_beyond_json(impl: Any) -> None:
    text = b'{"a": NaN ,"b":[1,-Infinity,{"c":Infinity}],"d":"NaN, \\"Infinity","e":1e-05}'
    assert impl.jsonspan.members(text) == {
        "a": b"null",
        "b": b'[1,null,{"c":null}]',
        "d": b'"NaN, \\"Infinity"',
        "e": b"1e-05",
    }
    for wrong in (b"[Nan]", b"[-NaN]", b"[+Infinity]", b"[Infinit]", b"[NaNx]"):
        with pytest.raises(SpanError):
            impl.jsonspan.elements(wrong)


def test_keys(impl: Any) -> None:
    text = b'{"a\\"b":1,"\\u00fc":2,"x":3,"x":4,"\xc3\xa4":5,"\\ud800":6}'
    assert impl.jsonspan.members(text) == {'a"b': b"1", "ü": b"2", "x": b"4", "ä": b"5", "\ud800": b"6"}


@pytest.mark.parametrize(
    "number",
    [b"9" * 10_000, b"-0", b"-0.0e-0", b"1E+999999999", b"0." + b"3" * 5000, b"18446744073709551616", b"1e-0400"],
)
def test_numbers_of_any_size_pass_untouched(impl: Any, number: bytes) -> None:
    assert impl.jsonspan.elements(b"[ " + number + b"\t]") == [number]
    assert impl.jsonspan.members(b'{"a":[' + number + b"]}") == {"a": b"[" + number + b"]"}


def test_constants_are_replaced_in_linear_time(impl: Any) -> None:
    count = 80_000  # quadratic: over a minute
    assert impl.jsonspan.elements(b"[" + b",".join([b"-Infinity"] * count) + b"]") == [b"null"] * count
    inner = b",".join([b"NaN"] * count)
    text = b'{"a":[' + inner + b'],"b":"NaN","c":[' + inner + b"]}"
    replaced = b"[" + inner.replace(b"NaN", b"null") + b"]"
    assert impl.jsonspan.members(text) == {"a": replaced, "b": b'"NaN"', "c": replaced}


@pytest.mark.parametrize("piece", [b"x", b"\\n", b"xxxxxxxx\\u00e4", "ä€".encode()])
@pytest.mark.parametrize("end", [b'"]', b""])
def test_a_long_string_takes_little_memory(impl: Any, piece: bytes, end: bytes) -> None:
    text = b'["' + piece * (1_000_000 // len(piece)) + end
    tracemalloc.start()
    try:
        outcome(impl.jsonspan.elements, text)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(text)
    finally:
        tracemalloc.stop()
