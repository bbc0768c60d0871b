"""Keys and values become bytes and back; the order of the bytes is the order of the keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.errors import BadRequest
from moonfast.storage import records

ANY_TEXT = st.text(st.characters(codec=None), max_size=40)  # lone surrogates too: names of files that are no text
LONG_TEXT = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=20), st.integers(0, 400))
NAMESPACES = st.text(min_size=1, max_size=60).filter(lambda text: len(text.encode()) <= 120)


@given(NAMESPACES, ANY_TEXT | LONG_TEXT, st.binary(max_size=50))
def test_names_and_records_come_back(namespace: str, key: str, text: bytes) -> None:
    prefix = records.prefix(namespace)
    name = records.name_of(prefix, key)
    record = records.pack(name, key, text)
    assert len(name) <= records.MAX_NAME_BYTES
    assert prefix <= name < records.end(prefix)
    assert records.namespace_of(name) == namespace
    assert records.key_of(prefix, name, record) == key
    assert records.text_of(name, record) == text


@given(ANY_TEXT, ANY_TEXT)
def test_names_are_in_the_order_of_keys(first: str, second: str) -> None:
    prefix = records.prefix("files")
    assert (records.name_of(prefix, first) < records.name_of(prefix, second)) == (first < second)


@given(NAMESPACES, NAMESPACES, ANY_TEXT, ANY_TEXT)
def test_namespaces_do_not_overlap(one: str, other: str, first: str, second: str) -> None:
    if one < other:
        low, high = records.prefix(one), records.prefix(other)
        assert records.name_of(low, first) < records.end(low) <= high <= records.name_of(high, second)


@given(st.text("ab\x00\x01\x02\x03", min_size=1, max_size=12))
def test_control_characters_in_namespaces(namespace: str) -> None:
    assert records.namespace_of(records.prefix(namespace)) == namespace


@pytest.mark.parametrize("length", [494, 503, 504, 505, 506, 1000, 4096])
def test_long_keys_that_differ_in_their_last_byte(length: int) -> None:
    prefix = records.prefix("files")
    names = [records.name_of(prefix, "k" * length + end) for end in "abc"]
    assert len(set(names)) == 3
    assert all(records.is_cut(name) == (len(prefix) + length + 1 >= records.MAX_NAME_BYTES) for name in names)


def test_a_short_key_cannot_pass_for_a_cut_one() -> None:
    prefix = records.prefix("files")
    cut = records.name_of(prefix, "k" * 600)
    longest = records.name_of(prefix, "k" * (records.MAX_NAME_BYTES - len(prefix) - 1))
    assert not records.is_cut(longest)
    assert len(longest) < len(cut)


@pytest.mark.parametrize("name", ["", "n" * 256, "\x00" * 128])
def test_names_of_namespaces_have_a_limit(name: str) -> None:
    with pytest.raises(BadRequest, match="1 to 255 bytes"):
        records.prefix(name)
