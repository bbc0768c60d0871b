"""Who gets which changes. The table itself is tested with both implementations in tests/twins."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moonfast.speedups import fanout
from moonfast.speedups import status as status_table
from moonfast.state.status import Status


class Sink:
    """A transport that takes what it is given, until it is told to stall."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.is_stalled = False

    def write(self, data: bytes) -> None:
        self.texts += data.split(b"\x1e")[1:]

    def abort(self) -> None:
        raise AssertionError("aborted")

    def get_write_buffer_size(self) -> int:
        return 0


def frame(text: bytes) -> bytes:
    return b"\x1e" + text


def other_frame(text: bytes) -> bytes:
    return b"\x1e" + text


class Client:
    def __init__(self, uid: int, pump: fanout.Pump, framing: Callable[[bytes], bytes] = frame) -> None:
        self.uid, self.framing, self.sink = uid, framing, Sink()
        self.outbox = fanout.Outbox(pump, self.sink, -1)
        self.group: status_table.FilterGroup | None = None

    def send(self, text: bytes) -> None:
        self.outbox.send(self.framing(text))

    @property
    def updates(self) -> list[Any]:
        return [json.loads(text)["params"] for text in self.sink.texts]


class World:
    def __init__(self) -> None:
        self.later: list[tuple[Any, ...]] = []
        self.pump = fanout.Pump(lambda *arguments: self.later.append(arguments))
        self.status = Status(self.pump)

    def client(self, framing: Callable[[bytes], bytes] = frame) -> Client:
        return Client(0, self.pump, framing)

    def apply(self, only_changes: bool = False, eventtime: bytes = b"1.5", **objects: Any) -> None:
        self.status.apply(json.dumps(objects).encode(), eventtime, only_changes)


def test_each_group_gets_what_it_asked_for() -> None:
    here = World()
    whole, some, same = here.client(), here.client(other_frame), here.client()
    here.status.subscribe(whole, {"a": None})
    here.status.subscribe(some, {"a": ["x"], "b": ["z"]})
    here.status.subscribe(same, {"b": ["z", "z"], "a": ["x"]})
    assert some.group is same.group
    here.apply(a={"x": 1, "y": 2}, c={"q": 1})
    here.apply(b={"z": 3})
    assert whole.updates == [[{"a": {"x": 1, "y": 2}}, 1.5]]
    assert some.updates == same.updates == [[{"a": {"x": 1}}, 1.5], [{"b": {"z": 3}}, 1.5]]
    assert json.loads(here.status.snapshot(some))["status"] == {"a": {"x": 1}, "b": {"z": 3}}
    assert json.loads(here.status.values({"c": None})) == {"eventtime": 1.5, "status": {"c": {"q": 1}}}
    assert here.status.field("a", "y") == b"2"
    assert here.status.field("a", "nonesuch") is None
    assert here.status.filters() == [{"a": None}, {"a": ["x"], "b": ["z"]}]


def test_a_group_is_encoded_once_for_all_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    here = World()
    framed: list[bytes] = []

    def counting(text: bytes) -> bytes:
        framed.append(text)
        return frame(text)

    clients = [here.client(counting) for _ in range(20)]
    for client in clients:
        here.status.subscribe(client, {"a": None})
    here.apply(a={"x": 1})
    assert len(framed) == 1
    assert all(len(client.updates) == 1 for client in clients)


def test_unsubscribe_and_clear() -> None:
    here = World()
    one, two = here.client(), here.client()
    for client in (one, two):
        here.status.subscribe(client, {"a": None})
    here.apply(a={"x": 1})
    here.status.unsubscribe(one)
    here.status.unsubscribe(one)
    here.apply(a={"x": 2})
    assert (len(one.updates), len(two.updates)) == (1, 2)
    here.status.clear()
    assert two.group is None
    assert here.status.filters() == []
    here.apply(a={"x": 3})
    assert len(two.updates) == 2
    here.status.subscribe(one, {"a": None})
    here.status.unsubscribe(two)
    here.status.subscribe(two, {"a": None})
    here.apply(a={"x": 4})
    assert (len(one.updates), len(two.updates)) == (2, 3)


def test_a_repeated_baseline_tells_nothing_new() -> None:
    here = World()
    client = here.client()
    here.status.subscribe(client, {"a": None})
    here.apply(a={"x": 1})
    here.apply(only_changes=True, eventtime=b"2.0", a={"x": 1})
    here.apply(only_changes=True, eventtime=b"3.0", a={"x": 1, "y": 5})
    assert client.updates == [[{"a": {"x": 1}}, 1.5], [{"a": {"y": 5}}, 3.0]]


def test_who_lags_gets_one_merged_update() -> None:
    here = World()
    slow, quick, idle = here.client(), here.client(), here.client()
    for client in (slow, quick, idle):
        here.status.subscribe(client, {"a": None, "b": ["y"]})
    here.apply(a={"x": 0})
    slow.outbox.paused()
    for number in range(1, 50):
        here.apply(a={"x": number}, b={"y": -number, "z": 1})
    here.apply(eventtime=b"9.5", c={"x": 1})
    assert len(slow.updates) == 1
    assert slow.outbox.behind
    assert slow.outbox.queued_bytes == 0
    slow.outbox.resumed()
    here.status.catch_up(slow)
    assert slow.updates[1:] == [[{"a": {"x": 49}, "b": {"y": -49}}, 9.5]]
    assert len(quick.updates) == 50
    here.status.catch_up(slow)
    here.apply(a={"x": 50})
    assert slow.updates[2:] == [[{"a": {"x": 50}}, 1.5]]
    here.status.catch_up(idle)
    assert len(idle.updates) == 51


def test_catching_up_after_the_subscription_has_ended() -> None:
    here = World()
    client = here.client()
    here.status.subscribe(client, {"a": None})
    here.apply(a={"x": 0})
    client.outbox.paused()
    here.apply(a={"x": 1})
    here.status.clear()
    client.outbox.resumed()
    here.status.catch_up(client)
    assert len(client.updates) == 1
    assert not client.outbox.behind


def test_watchers_are_told_and_do_not_harm_each_other(caplog: pytest.LogCaptureFixture) -> None:
    here = World()
    told: list[str] = []

    def fails() -> None:
        raise RuntimeError("oh")

    here.status.watch("a", fails)
    here.status.watch("a", lambda: told.append("a"))
    here.status.watch("b", lambda: told.append("b"))
    here.apply(a={"x": 1}, c={"x": 1})
    here.apply(b={"x": 1})
    here.apply(only_changes=True, b={"x": 1})
    here.apply(c={"x": 2})
    assert told == ["a", "b"]
    assert "listener failed" in caplog.text


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("apply"),
            st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3))),
        ),
        st.tuples(
            st.just("subscribe"),
            st.integers(0, 3),
            st.dictionaries(
                st.sampled_from("abc"), st.none() | st.lists(st.sampled_from("xyz"), max_size=2), min_size=1
            ),
        ),
        st.tuples(st.sampled_from(["pause", "resume", "unsubscribe"]), st.integers(0, 3)),
        st.tuples(st.just("clear")),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_reply_and_updates_together_give_the_printers_values(steps: list[Any]) -> None:
    """Whatever stalls, changes its mind or goes on: in the end each client knows the values that it asked for."""
    here = World()
    clients = [here.client(frame if number % 2 else other_frame) for number in range(4)]
    printer: dict[str, dict[str, int]] = {}
    known: dict[int, dict[str, dict[str, int]]] = {}
    wanted: dict[int, dict[str, list[str] | None]] = {}

    def learn(number: int) -> None:
        for update, _ in clients[number].updates:
            for name, fields in update.items():
                if number in known:
                    known[number].setdefault(name, {}).update(fields)
        clients[number].sink.texts.clear()

    for step in steps:
        match step:
            case ["apply", objects]:
                for name, fields in objects.items():
                    printer.setdefault(name, {}).update(fields)
                here.apply(**objects)
            case ["subscribe", number, objects]:
                learn(number)
                here.status.subscribe(clients[number], objects)
                known[number] = json.loads(here.status.snapshot(clients[number]))["status"]
                wanted[number] = objects
            case ["pause", number]:
                clients[number].outbox.paused()
            case ["resume", number]:
                clients[number].outbox.resumed()
                here.status.catch_up(clients[number])
            case ["unsubscribe", number]:
                here.status.unsubscribe(clients[number])
                known.pop(number, None)
                clients[number].sink.texts.clear()
            case _:
                here.status.clear()
                printer.clear()
                known.clear()
                for client in clients:
                    assert client.group is None
                    client.sink.texts.clear()
    for number, client in enumerate(clients):
        client.outbox.resumed()
        here.status.catch_up(client)
        learn(number)
        if number in known:
            expected = {
                name: {key: value for key, value in printer.get(name, {}).items() if fields is None or key in fields}
                for name, fields in wanted[number].items()
            }
            assert known[number] == expected
