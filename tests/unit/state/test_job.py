"""The job events, against a model that knows every state and lets the observer look only now and then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.speedups import status
from moonfast.state.job import Job
from moonfast.vocab import JobState

STARTS, ENDS = ("started",), ("complete", "cancelled", "error", "standby")


class Printer:
    """print_stats as Klipper keeps it, and a Job that looks when it is told to."""

    def __init__(self) -> None:
        self.table = status.StatusTable()
        self.job = Job(self.table)
        self.events: list[tuple[str, str, str]] = []  # event, file name before, file name after
        self.job.listeners.append(
            lambda event, before, after: self.events.append(
                (event, before.get("filename", ""), after.get("filename", ""))
            )
        )
        self.stats: dict[str, Any] = {"state": "standby", "filename": "", "print_duration": 0.0, "total_duration": 0.0}

    def set(self, **fields: Any) -> Printer:
        self.stats.update(fields)
        return self

    def look(self, **fields: Any) -> Printer:
        self.set(**fields)
        self.table.apply(json.dumps({"print_stats": self.stats}).encode(), b"1.0")
        self.job.observe()
        return self

    @property
    def names(self) -> list[str]:
        return [event for event, _, _ in self.events]


def test_a_whole_print() -> None:
    printer = Printer().look()
    assert printer.events == []
    printer.look(state="printing", filename="a.gcode")
    assert printer.job.is_active
    printer.look(print_duration=5.0, total_duration=6.0)
    printer.look(state="paused").look(state="printing").look(state="complete", print_duration=9.0, total_duration=10.0)
    assert printer.names == ["started", "paused", "resumed", "complete"]
    assert not printer.job.is_active
    assert printer.job.state is JobState.COMPLETE
    assert printer.job.stats["print_duration"] == 9.0
    printer.look(state="standby", filename="", print_duration=0.0, total_duration=0.0)
    assert printer.names[4:] == []


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("active", ["printing", "paused"])
def test_every_end(active: str, end: str) -> None:
    printer = Printer().look(state="printing", filename="a").look(state=active).look(state=end)
    assert printer.names[-1] == end
    assert printer.names.count("started") == 1


def test_back_to_back_prints_of_two_files() -> None:
    printer = Printer().look(state="printing", filename="a", print_duration=5.0, total_duration=5.0)
    printer.look(filename="b", print_duration=0.0, total_duration=0.1)
    printer.look(state="complete", print_duration=3.0, total_duration=4.0)
    assert printer.events == [
        ("started", "", "a"),
        ("cancelled", "a", "a"),
        ("started", "a", "b"),
        ("complete", "b", "b"),
    ]


def test_back_to_back_prints_of_one_file() -> None:
    info = {"current_layer": 7, "total_layer": 7}
    printer = Printer().look(state="printing", filename="a", print_duration=50.0, total_duration=60.0, info=info)
    printer.look(print_duration=0.0, total_duration=0.1)
    assert printer.names == ["started", "complete", "started"]


def test_back_to_back_prints_before_the_first_filament() -> None:
    printer = Printer().look(state="printing", filename="a", total_duration=60.0).look(total_duration=0.2)
    assert printer.names == ["started", "cancelled", "started"]


def test_a_job_that_began_and_ended_between_two_looks_of_another() -> None:
    printer = Printer().look(state="printing", filename="a", total_duration=60.0)
    printer.look(state="error", filename="b", total_duration=0.2)
    assert printer.events[1:] == [("cancelled", "a", "a"), ("started", "a", "b"), ("error", "b", "b")]


def test_jobs_too_short_to_be_seen_running() -> None:
    printer = Printer().look().look(state="complete", filename="a", print_duration=0.1, total_duration=0.2)
    assert printer.events == [("started", "", "a"), ("complete", "a", "a")]
    printer.look()
    printer.look(state="complete", filename="b")
    printer.look(state="error", filename="b", total_duration=0.1)
    printer.look(state="standby", filename="c")
    assert printer.names[2:] == ["started", "complete", "started", "error"]
    printer.job.clear()
    printer.look(state="complete")
    assert len(printer.events) == 6


def test_rounding_errors_in_a_pause_are_no_new_job() -> None:
    printer = (
        Printer().look(state="printing", filename="a", print_duration=5.0, total_duration=6.0).look(state="paused")
    )
    for step in range(20):
        printer.look(print_duration=5.0 - (step % 3) * 4e-15, total_duration=6.0 + step / 4)
    assert printer.names == ["started", "paused"]


def test_a_job_that_is_found_paused_or_running() -> None:
    assert Printer().look(state="paused", filename="a").names == ["started", "paused"]
    assert Printer().look(state="printing", filename="a").names == ["started"]
    assert Printer().look(state="complete", filename="a").names == []


@pytest.mark.parametrize("odd", ["warming", None, 5, [1], ""])
def test_states_that_klipper_does_not_have_are_passed_over(odd: object) -> None:
    printer = Printer().look(state="printing", filename="a").look(state=odd).look(state="complete")
    assert printer.names == ["started", "complete"]


def test_values_of_the_wrong_type_do_no_harm() -> None:
    printer = Printer().look(state="printing", filename=None, print_duration=None, total_duration="x", info=5)
    printer.look(filename=7, print_duration=[1], total_duration=None)
    printer.look(state="complete")
    assert printer.names[0] == "started"
    assert printer.names[-1] == "complete"


def test_a_listener_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    printer = Printer()

    def fails(event: str, before: object, after: object) -> None:
        raise RuntimeError("oh")

    printer.job.listeners.insert(0, fails)
    printer.look(state="printing", filename="a")
    assert printer.names == ["started"]
    assert "'started'" in caplog.text


def test_clear_forgets() -> None:
    printer = Printer().look(state="printing", filename="a", total_duration=9.0)
    printer.job.clear()
    assert not printer.job.is_active
    assert printer.job.stats == {}
    printer.look()
    assert printer.names == ["started", "lost", "started"]


def grammar(events: list[str]) -> Iterator[str]:
    """What is wrong with a list of events: every job starts once, ends once, and pauses in turn."""
    state = "idle"
    for event in events:
        if event in STARTS:
            if state != "idle":
                yield f"{event} while {state}"
            state = "printing"
        elif event == "paused":
            if state != "printing":
                yield f"{event} while {state}"
            state = "paused"
        elif event == "resumed":
            if state != "paused":
                yield f"{event} while {state}"
            state = "printing"
        else:
            if state == "idle":
                yield f"{event} while idle"
            state = "idle"


LOOKS = st.lists(
    st.fixed_dictionaries(
        {
            "state": st.sampled_from([*JobState, "weird"]),
            "filename": st.sampled_from(["", "a", "b"]),
            "print_duration": st.sampled_from([0.0, 1.0, 2.0]),
            "total_duration": st.sampled_from([0.0, 1.5, 3.0]),
        }
    ),
    max_size=30,
)


@given(LOOKS)
def test_any_order_of_looks_gives_a_sound_story(looks: list[dict[str, Any]]) -> None:
    printer = Printer()
    for fields in looks:
        printer.look(**fields)
    assert list(grammar(printer.names)) == []
    known = [fields["state"] for fields in looks if fields["state"] != "weird"]
    assert printer.job.is_active == (bool(known) and known[-1] in ("printing", "paused"))


JOBS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.lists(st.integers(1, 40), min_size=1, max_size=4),  # lengths of the phases, in looks: printing, paused, ...
        st.sampled_from(["complete", "cancelled", "error"]),
        st.booleans(),  # whether somebody resets the file before the next one
    ),
    max_size=6,
)


@given(JOBS, st.integers(1, 10))
def test_a_printer_that_is_looked_at_often_enough_is_told_right(jobs: list[Any], every: int) -> None:
    """Jobs with phases longer than the time between looks: each is told exactly, the end before the next start."""
    printer, clock, told = Printer(), 0, []

    def step(**fields: Any) -> None:
        nonlocal clock
        clock += 1
        printer.set(**fields)
        if clock % every == 0:
            printer.look()

    def settle() -> None:
        for _ in range(every):
            step()

    for name, phases, end, is_reset in jobs:
        begin = clock
        printer.set(state="printing", filename=name, print_duration=0.0, total_duration=0.0)
        told.append("started")
        for index, length in enumerate(phases):
            if index:
                told.append("paused" if index % 2 else "resumed")
            for _ in range(length + every):
                step(state="paused" if index % 2 else "printing", total_duration=(clock - begin) / 4)
        printer.set(state=end)
        told.append(end)
        settle()
        if is_reset:
            printer.set(state="standby", filename="", print_duration=0.0, total_duration=0.0)
            settle()
    assert printer.names == told
