"""Klippy's stream, however it is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.errors import FramingError

MESSAGES = st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\x03", b"x")), max_size=8)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(place, len(data)) for place in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(at)]


@given(messages=MESSAGES, rest=st.binary(max_size=20), cuts=CUTS)
def test_any_way_of_cutting_gives_the_same_messages(
    impl: Any, messages: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    rest = rest.replace(b"\x03", b"x")
    framer = impl.framing.Framer()
    found = []
    for piece in cut(b"".join(message + b"\x03" for message in messages) + rest, cuts):
        found += framer.feed(piece)
    assert found == messages
    assert framer.pending_bytes == len(rest)
    framer.clear()
    assert framer.pending_bytes == 0
    assert framer.feed(b"new\x03") == [b"new"]


@given(messages=MESSAGES, cuts=CUTS, limit=st.integers(1, 50))
def test_a_message_over_the_limit(impl: Any, messages: list[bytes], cuts: list[int], limit: int) -> None:
    framer = impl.framing.Framer(limit)
    good: list[bytes] = []
    for message in messages:
        if len(message) > limit:
            break
        good.append(message)
    found: list[bytes] = []
    error = None
    for piece in cut(b"".join(message + b"\x03" for message in messages), cuts):
        try:
            found += framer.feed(piece)
        except FramingError as exc:
            error = exc
            found += exc.completed
            break
    assert found == good
    assert (error is not None) == (len(good) < len(messages))
    if error is not None:
        assert str(error) == f"a message is longer than {limit} bytes"
        assert framer.pending_bytes == 0
        assert framer.feed(b"a\x03") == [b"a"]


def test_empty_messages_and_pieces(impl: Any) -> None:
    framer = impl.framing.Framer()
    assert framer.feed(b"") == []
    assert framer.feed(b"\x03\x03a") == [b"", b""]
    assert framer.feed(b"\x03") == [b"a"]


def test_the_limit_itself_is_allowed(impl: Any) -> None:
    framer = impl.framing.Framer(3)
    assert framer.feed(b"abc\x03abc\x03") == [b"abc", b"abc"]
    assert framer.feed(b"abc") == []
    with pytest.raises(FramingError):
        framer.feed(b"d")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(impl: Any, limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_bytes must be positive, not {limit}"):
        impl.framing.Framer(limit)


@given(data=st.binary())
def test_frame_message(impl: Any, data: bytes) -> None:
    if b"\x03" in data:
        with pytest.raises(FramingError, match="a message must not contain the byte 0x03"):
            impl.framing.frame_message(data)
    else:
        assert impl.framing.frame_message(data) == data + b"\x03"


def test_begun_anew(impl: Any) -> None:
    framer = impl.framing.Framer()
    framer.feed(b"half")
    framer.__init__(3)
    assert framer.pending_bytes == 0
    assert framer.feed(b"abc\x03") == [b"abc"]


def test_many_small_pieces_make_one_message(impl: Any) -> None:
    message = bytes(range(4, 256)) * 200
    framer = impl.framing.Framer(len(message))
    assert not any(framer.feed(message[at : at + 1]) for at in range(len(message)))
    assert framer.pending_bytes == len(message)
    assert framer.feed(b"\x03next") == [message]
    assert framer.pending_bytes == 4


def test_only_bytes_are_taken(impl: Any) -> None:
    for wrong in (None, "text"):
        with pytest.raises((TypeError, AttributeError)):
            impl.framing.Framer().feed(wrong)
