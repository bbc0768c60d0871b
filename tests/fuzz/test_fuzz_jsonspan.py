"""The corpus of the JSON scanner's fuzz target, and some hundred seeded mutations of it."""

from __future__ import annotations

import random
from itertools import islice

from tests.fuzz.fuzz_jsonspan import mutations, one_input, seeds


def test_corpus() -> None:
    inputs = seeds()
    assert len(inputs) >= 10
    for data in (*inputs, b"", b"\x00", b"\x00\xff"):
        one_input(data)


def test_mutations() -> None:
    for data in islice(mutations(random.Random(8259), seeds()), 500):
        one_input(data)
