"""Values that other components add to a job."""

from __future__ import annotations

from typing import Any

import pytest

from moonfast.components.auxiliary import MAX_COLLECTED, AuxiliaryField, Strategy


@pytest.mark.parametrize(
    ("strategy", "readings", "value"),
    [
        ("basic", [1, "text", 3.5], 3.5),
        ("delta", [10.0, 12.0, 15.5], 5.5),
        ("accumulate", [1, 2, 3.5], 6.5),
        ("average", [1.0, 2.0, 6.0], 3.0),
        ("maximum", [1, 5, 3], 5),
        ("minimum", [4, 1, 3], 1),
        ("collect", ["a", "b", "a", None], ["a", "b", None]),
        ("average", ["x", None, True, float("nan"), 2.0], 2.0),
        ("delta", [], None),
        ("collect", [], []),
    ],
)
def test_strategies(strategy: Strategy, readings: list[Any], value: Any) -> None:
    field = AuxiliaryField("sensor", "x", "An x.", strategy, units="W")
    field.track(99)  # no job goes on
    field.begin()
    for reading in readings:
        field.track(reading)
    assert field.value == value
    assert field.as_dict() == {"provider": "sensor", "name": "x", "value": value, "description": "An x.", "units": "W"}
    field.begin()
    assert field.value == ([] if strategy == "collect" else None)


def test_the_first_reading_can_be_asked_for() -> None:
    field = AuxiliaryField("sensor", "x", "", "delta", reset=lambda: 5.0)
    field.begin()
    field.track(7.5)
    assert field.value == 2.5


def test_collected_values_have_a_bound() -> None:
    field = AuxiliaryField("sensor", "x", "", "collect")
    field.begin()
    for number in range(MAX_COLLECTED + 10):
        field.track(number)
    assert field.value == list(range(10, MAX_COLLECTED + 10))


def test_rounding_and_totals() -> None:
    field = AuxiliaryField("s", "x", "", "accumulate", precision=2, reports_total=True, reports_maximum=True)
    total: dict[str, Any] = {"provider": "s", "field": "x", "maximum": None, "total": None}
    for reading in (1.239, 5.001, 2.0):
        field.begin()
        field.track(reading)
        total = field.add_to(total)
    assert total == {"provider": "s", "field": "x", "maximum": 5.0, "total": 8.24}
    nothing = AuxiliaryField("s", "y", "", "basic", reports_total=True)
    nothing.begin()
    assert nothing.add_to({"total": None}) == {"total": None}
