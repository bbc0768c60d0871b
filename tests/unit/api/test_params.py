"""Arguments as they come, and as handlers get them."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.api.params import AllArguments, Body, Meta, Parameters, from_json, from_query
from moonfast.errors import BadRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def handler(
    call: object,
    text: str,
    count: Annotated[int, Meta(minimum=1, maximum=10)] = 5,
    share: float | None = None,
    is_on: bool = False,
    kind: Literal["a", "b"] = "a",
    names: list[str] | None = None,
    more: dict[str, Any] | None = None,
    either: int | str = 0,
) -> None: ...


PARAMETERS = Parameters(handler)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a=1&b=x%20y+z", {"a": "1", "b": "x y z"}),
        ("dev_one&dev_two", {"dev_one": "", "dev_two": ""}),
        ("a=1&a=2", {"a": "2"}),
        (
            "n:int=5&x:float=1.5&b:bool=true&j:json=%7B%22k%22:[1]%7D&s:str=5",
            {"n": 5, "x": 1.5, "b": True, "j": {"k": [1]}, "s": "5"},
        ),
        ("a:nosuch=5", {"a:nosuch": "5"}),
        (":int=5", {":int": "5"}),
        ("%C3%BC=%E2%9C%93", {"ü": "✓"}),
        ("a=b=c", {"a": "b=c"}),
        ("", {}),
    ],
)
def test_query_strings(query: str, expected: dict[str, Any]) -> None:
    assert from_query(query) == expected


@pytest.mark.parametrize(
    ("query", "named"),
    [("n:int=x", "'n'"), ("n:float=nan", "'n'"), ("b:bool=maybe", "'b'"), ("j:json={", "'j'"), ("a=%FF", "UTF-8")],
)
def test_bad_query_strings(query: str, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        from_query(query)


def test_a_query_string_has_a_bound() -> None:
    with pytest.raises(BadRequest, match="1000"):
        from_query("&".join(f"a{index}=1" for index in range(1001)))


@given(st.text())
def test_any_query_string_is_read_or_refused(query: str) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(from_query(query), dict)


@given(st.binary())
def test_any_body_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(from_json(body), dict)


@pytest.mark.parametrize("body", [b"[1]", b"5", b"null", b"{", b""])
def test_a_body_is_an_object(body: bytes) -> None:
    with pytest.raises(BadRequest):
        from_json(body)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"text": "x"}, {"text": "x"}),
        ({"text": 5}, {"text": "5"}),
        ({"text": "x", "count": "8"}, {"text": "x", "count": 8}),
        ({"text": "x", "count": 8.0}, {"text": "x", "count": 8}),
        ({"text": "x", "share": None}, {"text": "x", "share": None}),
        ({"text": "x", "share": "1.5"}, {"text": "x", "share": 1.5}),
        ({"text": "x", "is_on": "True"}, {"text": "x", "is_on": True}),
        ({"text": "x", "is_on": 0}, {"text": "x", "is_on": False}),
        ({"text": "x", "kind": "b"}, {"text": "x", "kind": "b"}),
        ({"text": "x", "names": "a, b,c"}, {"text": "x", "names": ["a", "b", "c"]}),
        ({"text": "x", "names": '["a,b"]'}, {"text": "x", "names": ["a,b"]}),
        ({"text": "x", "names": ["a"]}, {"text": "x", "names": ["a"]}),
        ({"text": "x", "more": '{"a": 1}'}, {"text": "x", "more": {"a": 1}}),
        ({"text": "x", "either": "y"}, {"text": "x", "either": "y"}),
        ({"text": "x", "nobody": "asked"}, {"text": "x"}),
    ],
)
def test_binding(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert PARAMETERS.bind(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ({}, ["text", "a text"]),
        ({"text": None}, ["'text'", "a text", "null"]),
        ({"text": True}, ["'text'", "true"]),
        ({"text": []}, ["'text'", "an array"]),
        ({"text": "x", "count": "abc"}, ["'count'", "a whole number of at least 1 of at most 10", "'abc'"]),
        ({"text": "x", "count": 0}, ["'count'", "at least 1"]),
        ({"text": "x", "count": 11}, ["'count'", "at most 10"]),
        ({"text": "x", "count": 1.5}, ["'count'", "1.5"]),
        ({"text": "x", "count": True}, ["'count'"]),
        ({"text": "x", "count": "9" * 5000}, ["'count'"]),
        ({"text": "x", "share": "inf"}, ["'share'", "a number"]),
        ({"text": "x", "share": 10**400}, ["'share'"]),
        ({"text": "x", "is_on": "maybe"}, ["'is_on'", "true or false"]),
        ({"text": "x", "kind": "c"}, ["'kind'", "one of a, b"]),
        ({"text": "x", "kind": []}, ["'kind'"]),
        ({"text": "x", "names": [None]}, ["'names'", "an array"]),
        ({"text": "x", "names": "[1"}, ["'names'"]),
        ({"text": "x", "more": "5"}, ["'more'", "an object"]),
    ],
)
def test_errors_name_the_argument_and_the_type(arguments: dict[str, Any], texts: list[str]) -> None:
    with pytest.raises(BadRequest) as caught:
        PARAMETERS.bind(arguments)
    for text in texts:
        assert text in caught.value.message
    assert len(caught.value.message) < 300


@given(st.dictionaries(st.sampled_from(["text", "count", "share", "is_on", "kind", "names", "more", "either"]), JSON))
def test_anything_is_bound_or_refused(arguments: dict[str, Any]) -> None:
    try:
        bound = PARAMETERS.bind(arguments)
    except BadRequest:
        return
    assert isinstance(bound["text"], str)
    assert 1 <= bound.get("count", 5) <= 10
    assert bound.get("kind", "a") in ("a", "b")


def test_whole_arguments_and_bodies() -> None:
    def everything(call: object, arguments: AllArguments, limit: int = 3) -> None: ...

    def raw(call: object, body: Body) -> None: ...

    assert Parameters(everything).bind({"a": 1, "limit": "2"}) == {"arguments": {"a": 1, "limit": "2"}, "limit": 2}
    assert Parameters(raw).body_name == "body"
    assert Parameters(raw).bind({"body": b"x"}) == {"body": b"x"}
    assert not Parameters(lambda call: None)


def test_a_type_that_cannot_be_an_argument() -> None:
    def wrong(call: object, what: set[int]) -> None: ...

    with pytest.raises(TypeError, match="set"):
        Parameters(wrong)
