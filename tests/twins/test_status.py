"""The status table against a dict of dicts."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from moonfast.errors import SpanError

NAMES = st.sampled_from(["toolhead", "extruder", 'odd "ü"', "heater_bed"])
FIELDS = st.sampled_from(["a", "b", "temperature", 'q"'])
VALUES = st.sampled_from([0, 1, 2.5, None, "text", [1, [2]], {"x": 1}, float("nan")])
UPDATES = st.dictionaries(NAMES, st.none() | st.just(5) | st.dictionaries(FIELDS, VALUES, max_size=4), max_size=4)
FILTERS = st.dictionaries(NAMES, st.none() | st.lists(FIELDS, max_size=4), max_size=4)
HEAD = {"jsonrpc": "2.0", "method": "notify_status_update"}


def plain(value: Any) -> Any:
    """What a value is after it has been through the scanner."""
    return None if isinstance(value, float) and value != value else value


class Model:
    """(object, field) -> (value, number of its last change)."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, tuple[Any, int]]] = {}
        self.seq = 0
        self.last: dict[str, set[str]] = {}

    def apply(self, update: dict[str, Any], only_changes: bool) -> None:
        changed: dict[str, set[str]] = {}
        for name, fields in update.items():
            if not isinstance(fields, dict):
                continue
            known = self.values.setdefault(name, {})
            for key, value in fields.items():
                raw = json.dumps(plain(value))
                if not (only_changes and key in known and known[key][0] == raw):
                    known[key] = (raw, self.seq + 1)
                    changed.setdefault(name, set()).add(key)
        if changed or not only_changes:
            self.seq += 1
            self.last = changed

    def since(self, objects: dict[str, Any], seq: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, wanted in objects.items():
            for key, (raw, changed) in self.values.get(name, {}).items():
                if changed > seq and (wanted is None or key in wanted):
                    found.setdefault(name, {})[key] = json.loads(raw)
        return found


class Machine(RuleBasedStateMachine):
    """Random use of a table and of groups of it."""

    impl: Any = None

    @initialize()
    def begin(self) -> None:
        self.table = self.impl.status.StatusTable()
        self.model = Model()
        self.groups: list[tuple[Any, dict[str, Any]]] = []
        self.given: dict[int, int] = {}  # index of a group -> seq of its last notification
        self.table.watch(["toolhead", "nosuch"])

    @rule(update=UPDATES, time=st.integers(0, 1000), only_changes=st.booleans())
    def apply(self, update: dict[str, Any], time: int, only_changes: bool) -> None:
        before = self.model.seq
        changed = self.table.apply(json.dumps(update).encode(), b"%d.5" % time, only_changes)
        self.model.apply(update, only_changes)
        assert self.table.seq == self.model.seq
        assert self.table.eventtime == b"%d.5" % time
        if self.model.seq == before:
            assert changed == []
            return
        assert changed == (["toolhead"] if "toolhead" in self.model.last else [])
        for index, (group, objects) in enumerate(self.groups):
            text = group.changed()
            wanted = {
                name: {key: json.loads(self.model.values[name][key][0]) for key in self.among(keys, objects[name])}
                for name, keys in self.model.last.items()
                if name in objects
            }
            wanted = {name: fields for name, fields in wanted.items() if fields}
            if not wanted:
                assert text is None
                continue
            assert json.loads(text) == HEAD | {"params": [wanted, time + 0.5]}
            assert (group.base, group.seq) == (self.given.get(index, group.base), self.table.seq)
            self.given[index] = self.table.seq

    @staticmethod
    def among(keys: set[str], wanted: list[str] | None) -> set[str]:
        return keys if wanted is None else keys & set(wanted)

    @rule(objects=FILTERS)
    def group(self, objects: dict[str, Any]) -> None:
        group = self.table.group(objects)
        again = {
            name: None if fields is None else [*reversed(fields), *fields] for name, fields in reversed(objects.items())
        }
        assert self.table.group(again) is group
        if not any(group is other for other, _ in self.groups):
            self.groups.append((group, objects))

    @rule(
        text=st.sampled_from(
            [b"", b"[]", b'{"a":{"b":1}', b'{"toolhead":{"a":9},"x":{"y":}}', b'{"toolhead":{"a":9}} x']
        )
    )
    def refuse(self, text: bytes) -> None:
        with pytest.raises(SpanError):
            self.table.apply(text, b"1.0")

    @rule(time=st.sampled_from([b"", b"x", b"NaN", b"1 ", b" 1", b'"1"', b"[1]", b"1}"]))
    def refuse_time(self, time: bytes) -> None:
        with pytest.raises(SpanError, match="eventtime is not a number"):
            self.table.apply(b'{"toolhead":{"a":9}}', time)

    @rule(objects=FILTERS)
    def retain(self, objects: dict[str, Any]) -> None:
        self.table.retain(objects)
        kept = {name: fields for name, fields in self.model.values.items() if name in objects}
        self.model.values = {
            name: {key: value for key, value in fields.items() if objects[name] is None or key in objects[name]}
            for name, fields in kept.items()
        }

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model.values = {}

    @rule(seq=st.integers(0, 30))
    def merge(self, seq: int) -> None:
        for group, objects in self.groups:
            text, wanted = group.since(seq), self.model.since(objects, seq)
            if text is None:
                assert wanted == {}
            else:
                time = json.loads(self.table.eventtime)
                assert json.loads(text) == HEAD | {"params": [wanted, time]}

    @invariant()
    def same(self) -> None:
        values = self.model.values
        assert self.table.names() == list(values)
        for name, fields in values.items():
            assert json.loads(self.table.object(name)) == {key: json.loads(raw) for key, (raw, _) in fields.items()}
            for key, (raw, _) in fields.items():
                assert json.loads(self.table.field(name, key)) == json.loads(raw)
            assert self.table.field(name, "nosuch") is None
        assert self.table.object("nosuch") is None
        sizes = [len(self.table.field(name, key)) for name, fields in values.items() for key in fields]
        assert self.table.nbytes == sum(sizes)
        for group, objects in self.groups:
            found = json.loads(group.snapshot())
            assert found["eventtime"] == json.loads(self.table.eventtime)
            assert list(found["status"]) == list(objects)
            wanted = self.model.since(objects, -1)
            assert found["status"] == {name: wanted.get(name, {}) for name in objects}
            complete = all(
                name in values and all(key in values[name] for key in fields or ()) for name, fields in objects.items()
            )
            assert group.is_complete() == complete


def test_random_use(impl: Any) -> None:
    class Bound(Machine):
        pass

    Bound.impl = impl
    run_state_machine_as_test(Bound, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), UPDATES),
        st.tuples(st.just("repeat"), UPDATES),
        st.tuples(st.just("stall"), st.integers(1, 4)),
    ),
    max_size=25,
)


@given(objects=FILTERS, baseline=UPDATES, steps=STEPS)
def test_a_client_that_misses_updates_ends_with_the_same_state(
    impl: Any, objects: dict[str, Any], baseline: dict[str, Any], steps: list[tuple[str, Any]]
) -> None:
    """What a client has from a snapshot, notifications and merges, as a hub gives them out, is what is stored."""
    table = impl.status.StatusTable()
    table.apply(json.dumps(baseline).encode(), b"1.0")
    group = table.group(objects)
    state = json.loads(group.snapshot())["status"]
    had, stalled, is_behind = table.seq, 0, False

    def take(text: bytes) -> None:
        for name, fields in json.loads(text)["params"][0].items():
            assert fields
            state[name].update(fields)

    for kind, argument in steps:
        if kind == "stall":
            stalled = argument
            continue
        table.apply(json.dumps(argument).encode(), b"2.0", kind == "repeat")
        text = group.changed()
        if text is not None and (stalled or had < group.base):
            is_behind = True
        elif text is not None and not is_behind:
            take(text)
            had = group.seq
        stalled = max(stalled - 1, 0)
        if not stalled:
            merged = group.since(had)
            assert (merged is not None) == is_behind
            if merged is not None:
                take(merged)
            had, is_behind = table.seq, False
            assert state == json.loads(group.snapshot())["status"]


def test_groups_are_kept_only_while_somebody_wants_them(impl: Any) -> None:
    table = impl.status.StatusTable()
    group = table.group({"a": None})
    group.members.append("somebody")
    assert table.group({"a": None}).members == ["somebody"]
    del group
    gc.collect()
    assert table.group({"a": None}).members == []


@given(first=FILTERS, second=FILTERS)
def test_only_equal_filters_share_a_key(impl: Any, first: dict[str, Any], second: dict[str, Any]) -> None:
    def meaning(objects: dict[str, Any]) -> dict[str, Any]:
        return {name: None if fields is None else set(fields) for name, fields in objects.items()}

    same = impl.status.canonical(first) == impl.status.canonical(second)
    assert same == (meaning(first) == meaning(second))


def test_names_cannot_run_into_one_another(impl: Any) -> None:
    canonical = impl.status.canonical
    filters: list[dict[str, Any]] = [
        {"a": ["b", "c"]},
        {"a": ["bc"]},
        {"a": ["b"], "c": []},
        {"a": ["b1:c"]},
        {"a(1:b)": []},
        {"a": []},
        {"a": None},
        {"a": ["*"]},
        {"\ud800": None},
    ]
    assert len({canonical(item) for item in filters}) == len(filters)


def test_raw_values_pass_untouched(impl: Any) -> None:
    table = impl.status.StatusTable()
    status = b'{"o":{"x":1e-05,"y":1.50,"z":[ 1 ,2]}}'
    table.apply(status, b"5.25")
    group = table.group({"o": None})
    notification = b'{"jsonrpc":"2.0","method":"notify_status_update","params":[%b,5.25]}' % status
    assert group.changed() == notification
    assert group.since(0) == notification
    assert group.since(1) is None
    assert group.snapshot() == b'{"eventtime":5.25,"status":%b}' % status


def test_quote(impl: Any) -> None:
    for text in ("plain", 'a"b', "ü✓", "\n", "\ud800"):
        assert json.loads(impl.status.quote(text)) == text


def test_a_reply_that_repeats_everything_changes_nothing(impl: Any) -> None:
    table = impl.status.StatusTable()
    whole, part = table.group({"a": None}), table.group({"a": ["x"]})
    table.apply(b'{"a":{"x":1,"y":2}}', b"1.0")
    assert whole.changed() is not None
    assert part.changed() is not None
    for update in (b'{"a":{"x":1,"y":2}}', b"{}"):
        assert table.apply(update, b"2.0", only_changes=True) == []
        assert (table.seq, whole.changed(), part.changed()) == (1, None, None)


def test_of_duplicate_objects_the_last_wins_in_the_place_of_the_first(impl: Any) -> None:
    table = impl.status.StatusTable()
    table.apply(b'{"a":null,"b":{"x":1},"a":{"x":2}}', b"1.0")
    assert table.names() == ["a", "b"]
    table.apply(b'{"b":{"x":9},"c":{"x":1},"b":null}', b"2.0")
    assert (table.field("b", "x"), table.names()) == (b"1", ["a", "b", "c"])


def test_only_raw_bytes_count_as_changes(impl: Any) -> None:
    table = impl.status.StatusTable()
    table.watch(["a"])
    group = table.group({"a": ["x"]})
    assert table.apply(b'{"a":{"x":1.0}}', b"1.0") == ["a"]
    assert table.apply(b'{"a":{"x":1.00}}', b"2.0", only_changes=True) == ["a"]
    assert group.changed() is not None
    assert (table.field("a", "x"), table.seq, group.seq, group.base) == (b"1.00", 2, 2, 0)
    assert table.apply(b'{"a":{"x":1.00,"y":2}}', b"3.0", only_changes=True) == ["a"]
    assert group.changed() is None
    assert (table.seq, group.seq) == (3, 2)


def test_a_group_is_complete_from_the_start(impl: Any) -> None:
    """A class that forgets to call the constructor gets an error, not memory that is not there."""
    forgetful = type("Forgetful", (impl.status.FilterGroup,), {"__init__": lambda *_: None})
    with pytest.raises((TypeError, AttributeError)):
        forgetful().changed()


def test_a_group_outlives_what_made_it(impl: Any) -> None:
    table = impl.status.StatusTable()
    fields = ["x"]
    objects: dict[str, list[str] | None] = {"a": fields}
    group = table.group(objects)
    table.apply(b'{"a":{"x":1,"y":2}}', b"1.0")
    fields.append("y")
    objects["b"] = None
    del table
    gc.collect()
    assert group.snapshot() == b'{"eventtime":1.0,"status":{"a":{"x":1}}}'
    assert group.changed() == group.since(0)


def test_a_refused_update_leaves_the_last_one(impl: Any) -> None:
    table = impl.status.StatusTable()
    group = table.group({"a": None})
    table.apply(b'{"a":{"x":1}}', b"1.0")
    with pytest.raises(SpanError, match=r"text ends early at byte 26"):
        table.apply(b'{"a":{"x":2},"b":{"y":[1,2', b"2.0")
    assert (table.seq, table.eventtime, table.names()) == (1, b"1.0", ["a"])
    assert group.changed() == b'{"jsonrpc":"2.0","method":"notify_status_update","params":[{"a":{"x":1}},1.0]}'
