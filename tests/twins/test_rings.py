"""Rings of numbers and of messages: both implementations against a list."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast._pure import rings as pure

SAMPLES = st.one_of(
    st.none(),
    st.integers(-(10**6), 10**6),
    st.floats(-1000.0, 1000.0),
    st.floats(),
    st.integers(-100_000, 100_000).map(lambda thousandths: thousandths / 1000),  # many ties of rounding
)


def test_series_keeps_the_newest_samples(impl: Any) -> None:
    ring = impl.rings.SeriesRing(3)
    assert (len(ring), ring.values(), ring.json()) == (0, [], b"[]")
    for value in (1, 2.5, 21.057, -0.001):
        ring.append(value)
    assert len(ring) == 3
    assert ring.values() == [2.5, 21.06, 0.0]
    assert ring.json() == b"[2.5,21.06,0.0]"


def test_series_marks_missing_samples(impl: Any) -> None:
    ring = impl.rings.SeriesRing(5)
    for value in (None, math.nan, math.inf, -math.inf, 7):
        ring.append(value)
    assert ring.values() == [None, None, None, None, 7.0]
    assert ring.json() == b"[null,null,null,null,7.0]"


def test_fill_replaces_everything(impl: Any) -> None:
    ring = impl.rings.SeriesRing(4)
    ring.append(9.0)
    ring.fill(0.0)
    assert ring.json() == b"[0.0,0.0,0.0,0.0]"
    ring.append(1.25)
    assert ring.values() == [0.0, 0.0, 0.0, 1.25]


@pytest.mark.parametrize(
    ("decimals", "value", "text"),
    [
        (0, 21.5, "22.0"),
        (0, 1e300, "1e+300"),
        (2, 2.675, "2.67"),  # the double is below the tie
        (2, -0.004, "0.0"),
        (2, 999_999_999.999, "1000000000.0"),
        (2, 1e22, "1e+22"),
        (4, 0.0001, "0.0001"),
        (4, -0.00005001, "-0.0001"),
        (5, 0.00001, "1e-05"),
        (15, 0.1, "0.1"),
    ],
)
def test_numbers_have_their_shortest_form(impl: Any, decimals: int, value: float, text: str) -> None:
    ring = impl.rings.SeriesRing(1, decimals)
    ring.append(value)
    assert ring.json() == f"[{text}]".encode()
    assert json.loads(ring.json()) == ring.values()


@given(st.data(), st.integers(1, 12), st.integers(0, 15), st.lists(SAMPLES, max_size=40))
def test_series_equals_its_twin(data: st.DataObject, capacity: int, decimals: int, samples: list[float | None]) -> None:
    speedups = pytest.importorskip("moonfast._speedups.rings")
    ring, twin = speedups.SeriesRing(capacity, decimals), pure.SeriesRing(capacity, decimals)
    for sample in samples:
        how = "fill" if data.draw(st.integers(0, 9)) == 0 else "append"
        getattr(ring, how)(sample)
        getattr(twin, how)(sample)
    assert len(ring) == len(twin)
    assert ring.values() == twin.values()
    assert ring.json() == twin.json()


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_ring_has_room(impl: Any, capacity: int) -> None:
    for kind in (impl.rings.SeriesRing, impl.rings.MessageRing):
        with pytest.raises(ValueError, match=f"^the capacity of a ring is at least 1, not {capacity}$"):
            kind(capacity)


@pytest.mark.parametrize("decimals", [-1, 16])
def test_decimals_are_bounded(impl: Any, decimals: int) -> None:
    with pytest.raises(ValueError, match=f"^decimals are 0 to 15, not {decimals}$"):
        impl.rings.SeriesRing(1, decimals)


def test_messages(impl: Any) -> None:
    ring = impl.rings.MessageRing(3)
    assert (len(ring), ring.nbytes, ring.tail(), ring.json()) == (0, 0, [], b"[]")
    for message in (b"1", b"22", b"333", b"4444", b"55555"):
        ring.append(message)
    assert (len(ring), ring.nbytes) == (3, 12)
    assert ring.tail() == ring.tail(3) == ring.tail(99) == [b"333", b"4444", b"55555"]
    assert ring.tail(1) == [b"55555"]
    assert ring.tail(0) == ring.tail(-1) == []
    assert ring.json() == b"[333,4444,55555]"
    assert ring.json(2) == b"[4444,55555]"
    assert ring.json(0) == b"[]"


def test_a_capacity_beyond_memory(impl: Any) -> None:
    """Its size in bytes does not fit into 64 bits: refused at once, or memory is only taken for what is appended."""
    try:
        ring = impl.rings.SeriesRing(2**61 + 2)
    except MemoryError:
        return
    for number in range(100_000):
        ring.append(number)
    assert ring.values() == list(range(100_000))


@pytest.mark.parametrize("name", ["pure", "speedups"])
@given(capacity=st.integers(1, 8), messages=st.lists(st.binary(max_size=5), max_size=30), count=st.integers(-1, 10))
def test_messages_equal_a_list(name: str, capacity: int, messages: list[bytes], count: int) -> None:
    rings = pytest.importorskip(f"moonfast._{name}.rings")
    ring = rings.MessageRing(capacity)
    for message in messages:
        ring.append(message)
    kept = messages[-capacity:]
    assert ring.tail() == kept
    assert ring.tail(count) == (kept[-count:] if count > 0 else [])
    assert ring.json() == b"[" + b",".join(kept) + b"]"
    assert ring.nbytes == sum(map(len, kept))
