"""The union: what is asked of Klippy, what is answered from what is known, and who gets which changes."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from moonfast.api.later import Later
from moonfast.errors import ApiError
from moonfast.klippy import subscriptions
from moonfast.klippy.subscriptions import covers, size, union
from moonfast.vocab import KlippyState

from .fake import FakeKlippy, Refused, until
from .world import Client, World, in_line_too, world


async def subscribe(here: World, client: Client, **objects: Any) -> Any:
    return await here.ask("printer.objects.subscribe", {"objects": objects}, client=client)


async def test_first_reply_is_complete_and_changes_follow() -> None:
    async with world() as (here, fake):
        client = here.client()
        answer = await subscribe(here, client, toolhead=None, extruder=["temperature", "pressure_advance"])
        assert answer["status"] == {
            "toolhead": fake.objects["toolhead"],
            "extruder": {"temperature": 20.5, "pressure_advance": 0.1},
        }
        assert answer["eventtime"] == 2.5
        fake.push(extruder={"target": 200.0})
        fake.push(extruder={"target": 201.0, "temperature": 22.0}, toolhead={"homed_axes": "x"})
        await until(lambda: client.updates)
        assert client.updates == [{"extruder": {"temperature": 22.0}, "toolhead": {"homed_axes": "x"}}]


async def test_what_is_known_is_answered_without_asking() -> None:
    async with world() as (here, fake):
        asked = len(fake.asked("objects/subscribe"))
        one, two = here.client(), here.client(in_line_too)
        await subscribe(here, one, extruder=["temperature"], print_stats=None, webhooks=None)
        assert len(fake.asked("objects/subscribe")) == asked
        fake.push(extruder={"temperature": 30.0})
        await until(lambda: one.updates)
        answer = await subscribe(here, two, extruder=["temperature"])
        assert answer["status"] == {"extruder": {"temperature": 30.0}}
        assert answer["eventtime"] == 3.5
        assert len(fake.asked("objects/subscribe")) == asked
        fake.push(extruder={"temperature": 31.0})
        await until(lambda: two.updates)
        assert two.updates == [{"extruder": {"temperature": 31.0}}]
        assert one.updates[1:] == [{"extruder": {"temperature": 31.0}}]


async def test_those_who_wait_share_one_request() -> None:
    async with world() as (here, fake):
        asked = len(fake.asked("objects/subscribe"))
        clients = [here.client() for _ in range(10)]
        objects = [{"toolhead": None}, {"extruder": None}]
        answers = await asyncio.gather(*(subscribe(here, item, **objects[item.uid % 2]) for item in clients))
        assert len(fake.asked("objects/subscribe")) == asked + 2  # the first, and all who came after it
        for client, answer in zip(clients, answers, strict=True):
            name = next(iter(objects[client.uid % 2]))
            assert answer["status"] == {name: fake.objects[name]}


async def test_one_who_comes_while_klippy_is_asked_gets_its_own_fields() -> None:
    async with world() as (here, fake):
        first, second = here.client(), here.client()
        one = here.call("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=first)
        two = here.call("printer.objects.subscribe", {"objects": {"extruder": None}}, client=second)
        assert json.loads(await one)["status"] == {"toolhead": fake.objects["toolhead"]}
        assert json.loads(await two)["status"] == {"extruder": fake.objects["extruder"]}


async def test_a_second_subscription_replaces_the_first() -> None:
    async with world() as (here, fake):
        client = here.client()
        await subscribe(here, client, toolhead=None)
        await subscribe(here, client, extruder=None)
        fake.push(toolhead={"homed_axes": "x"})
        fake.push(extruder={"target": 1.0})
        await until(lambda: client.updates)
        assert client.updates == [{"extruder": {"target": 1.0}}]


async def test_the_last_of_overlapping_requests_holds() -> None:
    """The first has to ask Klippy, the second has not: it is answered before, and must not be undone."""
    async with world() as (here, fake):
        client, other = here.client(), here.client()
        slow = here.call("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=client)
        await subscribe(here, client, print_stats=["state"])
        gone = here.call("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=other)
        assert await here.ask("printer.objects.subscribe", {"objects": {}}, client=other) == {
            "eventtime": 0.0,
            "status": {},
        }
        assert json.loads(await slow)["status"] == {"toolhead": fake.objects["toolhead"]}
        await gone
        assert other.group is None
        fake.push(toolhead={"homed_axes": "x"})
        fake.push(print_stats={"state": "printing"})
        await until(lambda: client.updates)
        assert client.updates == [{"print_stats": {"state": "printing"}}]
        assert other.updates == []


async def test_cancel_ends_the_changes_and_the_union_shrinks_with_the_next_request() -> None:
    async with world() as (here, fake):
        client, other = here.client(), here.client()
        await subscribe(here, client, toolhead=None)
        assert "toolhead" in fake.subscribed
        await here.ask("printer.objects.subscribe", {"objects": {}}, client=client)
        fake.push(toolhead={"homed_axes": "x"})
        await subscribe(here, other, heaters=None)
        assert client.updates == []
        assert "toolhead" not in fake.subscribed
        assert here.status.table.object("toolhead") is None


async def test_a_subscription_made_while_the_union_shrinks_is_not_lost() -> None:
    async with world() as (here, fake):
        first, second, third = here.client(), here.client(), here.client()
        await subscribe(here, first, toolhead=None)
        await subscribe(here, first)
        growing = here.call("printer.objects.subscribe", {"objects": {"heaters": None}}, client=second)
        answer = await subscribe(here, third, toolhead=None)
        await growing
        assert answer["status"] == {"toolhead": fake.objects["toolhead"]}
        assert fake.subscribed["toolhead"] is None
        fake.push(toolhead={"homed_axes": "y"})
        await until(lambda: third.updates)
        assert third.updates == [{"toolhead": {"homed_axes": "y"}}]


async def test_unknown_objects_and_fields_are_answered_as_klippy_does() -> None:
    async with world() as (here, _):
        client = here.client()
        answer = await subscribe(here, client, nonesuch=None, toolhead=["nonesuch"])
        assert answer["status"] == {"nonesuch": {}, "toolhead": {"nonesuch": None}}
        again = await subscribe(here, client, nonesuch=None, toolhead=["nonesuch"])
        assert again == answer


async def test_one_bad_wish_does_not_cost_the_others_theirs() -> None:
    async with world() as (here, fake):
        answer = fake.methods["objects/subscribe"]

        def picky(params: dict[str, Any]) -> Any:
            if "bad" in params["objects"]:
                raise Refused("no such object: bad")
            return answer(params)

        fake.methods["objects/subscribe"] = picky
        clients = [here.client() for _ in range(5)]
        names = ["heaters", "toolhead", "bad", "nonesuch", "bad"]
        results = await asyncio.gather(
            *(subscribe(here, item, **{name: None}) for item, name in zip(clients, names, strict=True)),
            return_exceptions=True,
        )
        for name, result in zip(names, results, strict=True):
            assert isinstance(result, ApiError) == (name == "bad")
        assert [client.group is None for client in clients] == [name == "bad" for name in names]
        await subscribe(here, here.client(), extruder=None)  # all goes on


async def test_a_client_that_leaves_while_it_waits() -> None:
    async with world() as (here, fake):
        client = here.client()
        later = here.call("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=client)
        here.klippy.subscriptions.forget(client)
        await later
        assert client.group is None
        fake.push(toolhead={"homed_axes": "x"})
        await here.ask("printer.info")
        assert client.updates == []
        here.klippy.subscriptions.forget(client)  # once more does no harm


async def test_all_subscribe_again_after_a_restart() -> None:
    async with world() as (here, fake):
        clients = [here.client() for _ in range(3)]
        for client in clients:
            await subscribe(here, client, toolhead=None)
        await fake.drop()
        await until(lambda: here.klippy.state is KlippyState.DISCONNECTED)
        await until(lambda: here.klippy.state is KlippyState.READY)
        fake.push(toolhead={"homed_axes": "x"})
        await here.ask("printer.info")
        assert [client.updates for client in clients] == [[], [], []]
        await subscribe(here, clients[0], toolhead=None)
        here.klippy.subscriptions.forget(clients[1])
        await subscribe(here, clients[2], toolhead=None)
        fake.push(toolhead={"homed_axes": "y"})
        await until(lambda: clients[2].updates)
        assert [len(client.updates) for client in clients] == [1, 0, 1]


async def test_a_wish_ends_with_the_link() -> None:
    async with world() as (here, fake):
        fake.methods["objects/subscribe"] = lambda params: None
        first = here.call("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=here.client())
        second = here.call("printer.objects.subscribe", {"objects": {"heaters": None}}, client=here.client())
        await fake.drop()
        for later in (first, second):
            with pytest.raises(ApiError, match="Klippy Disconnected") as caught:
                await later
            assert caught.value.status == 503


async def test_an_unreadable_answer_fails_those_who_wait() -> None:
    async with world() as (here, fake):
        good = fake.methods["objects/subscribe"]
        fake.methods["objects/subscribe"] = lambda params: ["what"]
        error = await here.error("printer.objects.subscribe", {"objects": {"toolhead": None}}, client=here.client())
        assert error.status == 503
        fake.methods["objects/subscribe"] = good
        await subscribe(here, here.client(), toolhead=None)


async def test_the_union_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as (here, _):
        monkeypatch.setattr(subscriptions, "MAX_UNION", 100)
        clients = [here.client() for _ in range(4)]
        results = await asyncio.gather(
            *(subscribe(here, item, **{f"o{item.uid}_{number}": None for number in range(40)}) for item in clients),
            return_exceptions=True,
        )
        refused = [result for result in results if isinstance(result, ApiError)]
        assert len(refused) in (2, 3)
        assert {error.status for error in refused} == {400}


async def test_random_subscribers_see_what_klippy_has() -> None:
    """Whatever is subscribed, changed and cancelled: reply and changes together give the printer's values."""
    choice = random.Random(5)
    async with world() as (here, fake):
        names = ["toolhead", "extruder", "heater_bed", "heaters"]
        clients = [here.client(choice.choice([in_line_too, Client.send])) for _ in range(6)]
        for client in clients:
            client.framing = in_line_too
        seen: dict[int, dict[str, dict[str, Any]]] = {}
        wanted: dict[int, dict[str, Any]] = {}
        for step in range(120):
            client = choice.choice(clients)
            objects = {name: choice.choice([None, ["target", "v"], ["v"]]) for name in choice.sample(names, 2)}
            if choice.random() < 0.4:
                client.sink.texts.clear()
                answer = await subscribe(here, client, **objects)
                seen[client.uid], wanted[client.uid] = answer["status"], objects
                for update in client.updates:
                    merge(seen[client.uid], update)
                client.sink.texts.clear()
            fake.push(**{choice.choice(names): {"v": step, "w": -step}})
            if choice.random() < 0.2:
                await here.ask("printer.info")
        await here.ask("printer.info")
        for client in clients:
            if client.uid in seen:
                for update in client.updates:
                    merge(seen[client.uid], update)
                expected = fake.pick(wanted[client.uid])
                got = {
                    name: {key: fields.get(key) for key in expected[name]} for name, fields in seen[client.uid].items()
                }
                assert got == expected


def merge(status: dict[str, dict[str, Any]], update: dict[str, dict[str, Any]]) -> None:
    for name, fields in update.items():
        status.setdefault(name, {}).update(fields)


def test_union_and_covers() -> None:
    wide = union([{"a": ["x"], "b": None}, {"a": ["y", "x"], "b": ["z"]}, {"c": []}])
    assert wide == {"a": ["x", "y"], "b": None, "c": []}
    assert size(wide) == 5
    assert covers(wide, {"a": ["y"], "b": ["anything"], "c": []})
    assert not covers(wide, {"a": None})
    assert not covers(wide, {"a": ["z"]})
    assert not covers(wide, {"d": []})
    assert covers({}, {})


def test_a_request_that_cannot_be_sent() -> None:
    from moonfast.errors import Unavailable
    from moonfast.speedups import fanout
    from moonfast.state.status import Status

    def refuse(method: str, params: dict[str, Any]) -> Later:
        later = Later()
        later.fail(Unavailable("too many"))
        return later

    made = subscriptions.Subscriptions(Status(fanout.Pump(lambda *a: None)), refuse)
    errors: list[ApiError | None] = []
    for _ in range(2000):
        made.want({"a": None}).then(lambda result, error: errors.append(error))
    assert len(errors) == 2000
    assert all(isinstance(error, Unavailable) for error in errors)


def test_the_fake_knows_what_is_used() -> None:
    assert {"toolhead", "extruder", "heater_bed", "heaters"} <= set(FakeKlippy().objects)
