"""The corpus of every fuzz target, and some hundred seeded mutations of it."""

from __future__ import annotations

import importlib
import random
from itertools import islice

import pytest

from tests.fuzz.target import Target

NAMES = ("framing", "gcodepass", "http", "jsonspan", "multipart", "status", "ufp", "wsframe")


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = importlib.import_module(f"tests.fuzz.fuzz_{request.param}").TARGET
    return found


def test_corpus(target: Target) -> None:
    inputs = target.seeds()
    assert len(inputs) >= 10
    for data in (*inputs, b"", b"\x00", b"\x00\xff", b"\x00\r\n"):
        target.one_input(data)


def test_mutations(target: Target) -> None:
    for data in islice(target.mutations(random.Random(6455)), 300):
        target.one_input(data)
