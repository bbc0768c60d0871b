"""Subscriptions from end to end: a complete first reply, then the changes, none lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import copy
import random
from typing import Any

import pytest

from tests.wire.fake_klippy import FakeKlippy, Filter, narrowed
from tests.wire.running import Client, RpcError, Running, running, until

FIELDS = {
    "toolhead": ["position", "homed_axes", "max_velocity", "print_time"],
    "gcode_move": ["speed", "gcode_position", "extrude_factor"],
    "extruder": ["temperature", "target", "power"],
    "configfile": ["settings", "config"],
    "fan": ["speed"],
}


def printer() -> FakeKlippy:
    klippy = FakeKlippy()
    for name, fields in FIELDS.items():
        klippy.objects[name] = dict.fromkeys(fields, 0)
    return klippy


class Mirror:
    """What a client knows of the printer from its only subscription: the reply, with every change merged in."""

    def __init__(self, client: Client, objects: Filter, reply: dict[str, Any]) -> None:
        self.client, self.objects, self.reply = client, objects, reply
        self.began_at = reply["eventtime"]

    def updates(self) -> list[list[Any]]:
        return self.client.of("notify_status_update")

    def state(self) -> dict[str, dict[str, Any]]:
        known = copy.deepcopy(self.reply["status"])
        for status, _ in self.updates():
            for name, fields in status.items():
                known.setdefault(name, {}).update(fields)
        return known


async def mirror(client: Client, objects: Filter) -> Mirror:
    return Mirror(client, objects, await client.subscribe(objects))


def any_filter(random_: random.Random) -> Filter:
    chosen: Filter = {}
    for name in random_.sample(list(FIELDS), random_.randint(1, len(FIELDS))):
        count = random_.randint(0, len(FIELDS[name]))
        chosen[name] = random_.sample(FIELDS[name], count) if count else None
    return chosen


def any_change(random_: random.Random, number: int) -> dict[str, dict[str, Any]]:
    change: dict[str, dict[str, Any]] = {}
    for name in random_.sample(list(FIELDS), random_.randint(1, 3)):
        fields = random_.sample(FIELDS[name], random_.randint(1, len(FIELDS[name])))
        values = (number, f"é{number}", [number, {"n": number}], {"n": [number]}, -number / 8)
        change[name] = {field: random_.choice(values) for field in fields}
    return change


async def synced(served: Running, client: Client) -> None:
    """Everything that Klippy has sent so far has been sent on."""
    served.klippy.respond("sync")
    count = len(client.of("notify_gcode_response"))
    await until(lambda: len(client.of("notify_gcode_response")) > count)


@pytest.mark.parametrize("seed", range(6))
async def test_random_updates_for_clients_with_different_filters(seed: int) -> None:
    random_ = random.Random(seed)
    klippy = printer()
    async with running(klippy=klippy) as served:
        clients: list[Client] = [*await served.clients(6), await served.unix_client()]
        for client in clients:
            await client.call("server.info")
        mirrors: list[Mirror] = []
        sent: list[tuple[float, dict[str, dict[str, Any]]]] = []

        async def update() -> None:
            for _ in range(40):
                change = any_change(random_, len(sent) + 1)
                klippy.push(change)
                sent.append((klippy.eventtime, change))
                await asyncio.sleep(random_.choice((0, 0, 0.001)))

        async def join(client: Client) -> None:
            await asyncio.sleep(random_.random() / 50)
            mirrors.append(await mirror(client, any_filter(random_)))

        await asyncio.gather(update(), *map(join, clients))
        await update()
        await asyncio.gather(*(synced(served, client) for client in clients))
        assert len(mirrors) == len(clients)
        for found in mirrors:
            expected = [
                [narrowed(change, found.objects), when]
                for when, change in sent
                if when > found.began_at and narrowed(change, found.objects)
            ]
            assert found.updates() == expected
            assert found.state() == klippy.pick(found.objects)


async def test_equal_filters_get_equal_updates_whatever_the_order_of_the_names() -> None:
    async with running(klippy=printer()) as served:
        one, two = await served.clients(2)
        await one.subscribe({"toolhead": ["position", "homed_axes"], "fan": None})
        await two.subscribe({"fan": None, "toolhead": ["homed_axes", "position", "homed_axes"]})
        served.klippy.push({"fan": {"speed": 1}, "toolhead": {"homed_axes": "x", "print_time": 3}})
        update = await one.wait_for("notify_status_update")
        assert update[0] == {"fan": {"speed": 1}, "toolhead": {"homed_axes": "x"}}
        assert await two.wait_for("notify_status_update") == update


async def test_the_first_reply_is_complete_though_others_asked_before() -> None:
    async with running(klippy=printer()) as served:
        one, two = await served.clients(2)
        await one.subscribe({"toolhead": ["position"]})
        served.klippy.push({"toolhead": {"position": [1, 2, 3]}})
        asked = len(served.klippy.asked("objects/subscribe"))
        reply = await two.subscribe({"toolhead": ["position"]})
        assert reply["status"] == {"toolhead": {"position": [1, 2, 3]}}
        assert reply["eventtime"] == served.klippy.eventtime
        assert len(served.klippy.asked("objects/subscribe")) == asked  # the values were known
        reply = await two.subscribe({"toolhead": None, "fan": ["speed"], "nothing": None, "extruder": ["no_field"]})
        assert reply["status"] == served.klippy.pick({"toolhead": None, "fan": ["speed"], "extruder": []}) | {
            "nothing": {}
        }
        union = served.klippy.asked("objects/subscribe")[-1]["objects"]
        assert union["toolhead"] is None
        assert union["fan"] == ["speed"]


async def test_replace_and_cancel() -> None:
    async with running(klippy=printer()) as served:
        client = await served.client()
        await client.subscribe({"toolhead": None})
        await client.subscribe({"fan": ["speed"]})
        served.klippy.push({"toolhead": {"homed_axes": "x"}})
        served.klippy.push({"toolhead": {"homed_axes": "xy"}, "fan": {"speed": 0.5}})
        assert (await client.wait_for("notify_status_update"))[0] == {"fan": {"speed": 0.5}}
        assert (await client.subscribe({}))["status"] == {}
        served.klippy.push({"toolhead": {"homed_axes": "xyz"}, "fan": {"speed": 0.6}})
        await synced(served, client)
        assert len(client.of("notify_status_update")) == 1
        assert (await client.subscribe({"fan": ["speed"]}))["status"] == {"fan": {"speed": 0.6}}


async def test_what_nobody_wants_any_more_leaves_the_union() -> None:
    async with running(klippy=printer()) as served:
        client, other = await served.clients(2)
        await client.subscribe({"configfile": None})
        await client.close()
        await until(lambda: len(served.server.hub.connections) == 1)
        await other.subscribe({"fan": None})
        assert "configfile" not in served.klippy.asked("objects/subscribe")[-1]["objects"]
        assert served.server.status.table.object("configfile") is None


async def test_over_http_with_a_connection_id() -> None:
    async with running(klippy=printer()) as served:
        client, unix = await served.client(), await served.unix_client()
        for number, receiver in enumerate((client, unix)):
            uid = await receiver.identify(f"receiver {number}")
            status, answer = await served.http(
                "POST", f"/printer/objects/subscribe?connection_id={uid}&fan&toolhead=homed_axes,print_time"
            )
            assert status == 200
            assert answer["result"]["status"] == {
                "fan": {"speed": 0},
                "toolhead": {"homed_axes": 0, "print_time": 0},
            }
            served.klippy.push({"toolhead": {"homed_axes": "y", "position": [1]}})
            assert (await receiver.wait_for("notify_status_update"))[0] == {"toolhead": {"homed_axes": "y"}}
            served.klippy.push({"toolhead": {"homed_axes": 0}})
        body = {"connection_id": uid, "objects": {"fan": None}}
        assert (await served.http("POST", "/printer/objects/subscribe", body))[1]["result"]["status"] == {
            "fan": {"speed": 0}
        }
        await unix.close()
        await until(lambda: len(served.server.hub.connections) == 1)
        for target in (f"connection_id={uid}&fan", "connection_id=x&fan", "fan", "connection_id=1e3"):
            assert (await served.http("POST", f"/printer/objects/subscribe?{target}"))[0] == 400


async def test_a_wish_that_klippy_refuses_costs_nobody_else_theirs() -> None:
    klippy = printer()
    async with running(klippy=klippy) as served:
        good, bad = await served.clients(2)
        with pytest.raises(RpcError) as refused:
            await bad.subscribe({"toolhead": "position"})  # type: ignore[dict-item]
        assert refused.value.code == 400
        futures = [
            await bad.start_call("printer.objects.subscribe", {"objects": ["toolhead"]}),
            await good.start_call("printer.objects.subscribe", {"objects": {"fan": None}}),
        ]
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(found[0], RpcError)
        assert found[1]["status"] == {"fan": {"speed": 0}}


async def test_a_client_that_goes_while_klippy_is_asked() -> None:
    async with running(klippy=printer()) as served:
        client, other = await served.clients(2)
        served.klippy.silent.add("objects/subscribe")
        await client.start_call("printer.objects.subscribe", {"objects": {"fan": None}})
        await until(lambda: served.klippy.unanswered)
        waiting = await other.start_call("printer.objects.subscribe", {"objects": {"configfile": None}})
        await client.close()
        await until(lambda: len(served.server.hub.connections) == 1)
        served.klippy.silent.clear()
        for peer, request_id in served.klippy.unanswered:
            peer.send({"id": request_id, "result": {"eventtime": 1.0, "status": {"fan": {"speed": 0}}}})
        assert (await waiting)["status"] == {"configfile": {"settings": 0, "config": 0}}
        served.klippy.push({"fan": {"speed": 1}})
        await synced(served, other)
        assert not other.of("notify_status_update")


async def test_no_update_precedes_the_reply() -> None:
    async with running(klippy=printer()) as served:
        clients = await served.clients(4)
        futures = []
        for number in range(100):
            served.klippy.push({"toolhead": {"print_time": number}})
            futures.append(
                await clients[number % 4].start_call("printer.objects.subscribe", {"objects": {"toolhead": None}})
            )
            await asyncio.sleep(0)
        replies = await asyncio.gather(*futures)
        await asyncio.gather(*(synced(served, client) for client in clients))
        for index, client in enumerate(clients):
            times = [update[1] for update in client.of("notify_status_update")]
            assert times == sorted(set(times))
            mine = replies[index::4]
            assert [reply["eventtime"] for reply in mine] == sorted(reply["eventtime"] for reply in mine)
            assert client.of("notify_status_update")[-1][0]["toolhead"]["print_time"] == 99 or (
                mine[-1]["status"]["toolhead"]["print_time"] == 99
            )
