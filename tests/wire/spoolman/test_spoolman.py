"""[spoolman] against a Spoolman of the tests: what is printed is counted once, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.wire.fake_klippy import FakeKlippy
from tests.wire.running import Client, RpcError, Running, free_port, klippy_path, restarted, running, until
from tests.wire.spoolman.fake_spoolman import FakeSpoolman, fake_spoolman
from tests.wire.test_killed import Killable

PATHS_REFUSED = [
    "/v1",
    "/v1/",
    "/v2/spool",
    "/api/v1/spool",
    "v1/spool",
    "//other.host/v1/spool",
    "http://other.host/v1/spool",
    "/v1/../admin",
    "/v1/spool/../../../admin",
    "/v1/./spool",
    "/v1//spool",
    "/v1/%2e%2e/admin",
    "/v1/%2E%2E%2Fadmin",
    "/v1/%252e%252e/admin",
    "/v1/spool%2f1",
    "/v1/spool\\..\\admin",
    "/v1/spool?a=1",
    "/v1/spool#x",
    "/v1/spool%0d%0aX-Y: z",
    "/v1/spool\r\nX-Y: z",
    "/v1/..;/admin",
    "/v1/%ff",
    "/v1/" + "a" * 600,
]


def config(port: int) -> str:
    return f"[spoolman]\nserver: http://127.0.0.1:{port}/\nsync_rate: 1\n"


def printer() -> FakeKlippy:
    klippy = FakeKlippy()
    klippy.objects["toolhead"]["extruder"] = "extruder"
    return klippy


def extrude(served: Running, position: float, extruder: str = "extruder") -> None:
    served.klippy.push({"toolhead": {"position": [1.0, 2.0, 3.0, position], "extruder": extruder}})


async def is_connected(client: Client) -> None:
    async with asyncio.timeout(5):
        while not (await client.call("server.spoolman.status"))["spoolman_connected"]:
            await asyncio.sleep(0.01)


async def pending(client: Client) -> dict[int, float]:
    status = await client.call("server.spoolman.status")
    return {item["spool_id"]: item["filament_used"] for item in status["pending_reports"]}


async def wait_pending(client: Client, wanted: dict[int, float]) -> None:
    async with asyncio.timeout(5):
        while await pending(client) != wanted:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(*spools: int) -> AsyncIterator[tuple[FakeSpoolman, Running, Client]]:
    """A Spoolman and a server that is connected to it."""
    async with fake_spoolman(*spools) as spoolman, running(config(spoolman.port), klippy=printer()) as served:
        client: Client = await served.client()
        await is_connected(client)
        yield spoolman, served, client


async def test_filament_is_reported_to_the_active_spool() -> None:
    async with serving(3, 4) as (spoolman, served, client):
        extrude(served, 100.0)  # no spool is active
        assert await client.call("server.spoolman.post_spool_id", {"spool_id": 3}) == {"spool_id": 3}
        assert await client.wait_for("notify_active_spool_set") == [{"spool_id": 3}]
        extrude(served, 102.5)
        extrude(served, 101.0)  # retracted
        extrude(served, 102.0)
        extrude(served, 103.0)
        await wait_pending(client, {3: 3.0})
        await until(lambda: spoolman.uses() == [(3, 3.0)])
        await wait_pending(client, {})
        extrude(served, 0.0, "extruder1")  # another extruder has its own position
        extrude(served, 1.5, "extruder1")
        extrude(served, 104.0)
        await wait_pending(client, {3: 2.5})
        await client.call("server.spoolman.post_spool_id", {"spool_id": 4})
        extrude(served, 110.0)
        await until(lambda: sorted(spoolman.uses()[1:]) == [(3, 2.5), (4, 6.0)])
        assert spoolman.spools == {3: 5.5, 4: 6.0}


async def test_the_reply_comes_before_the_notification() -> None:
    async with serving(3) as (_, _, client):
        order: list[str] = []
        future = await client.start_call("server.spoolman.post_spool_id", {"spool_id": 3})
        future.add_done_callback(
            lambda _: order.append("reply" if not client.of("notify_active_spool_set") else "late")
        )
        await future
        await client.wait_for("notify_active_spool_set")
        assert order == ["reply"]
        await client.call("server.spoolman.post_spool_id", {"spool_id": 3})  # nothing new
        await client.call("server.info")
        assert len(client.of("notify_active_spool_set")) == 1


async def test_a_restart_of_klippy_does_not_count_as_filament() -> None:
    async with serving(3) as (spoolman, served, client):
        await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
        extrude(served, 2.0)
        await wait_pending(client, {3: 2.0})
        await served.klippy.drop()
        served.klippy.objects["toolhead"]["position"] = [0.0, 0.0, 0.0, 50.0]
        await client.wait_for("notify_klippy_ready")
        extrude(served, 51.0)
        await until(lambda: sum(length for _, length in spoolman.uses()) == 3.0)
        await wait_pending(client, {})


async def test_a_report_whose_answer_is_lost_is_counted_once() -> None:
    async with serving(3) as (spoolman, served, client):
        spoolman.loses_answers = 1
        await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
        extrude(served, 2.0)
        await until(lambda: spoolman.uses())
        assert await pending(client) == {3: 2.0}
        extrude(served, 5.0)
        await until(lambda: len(spoolman.uses()) == 2)
        await wait_pending(client, {})
        assert spoolman.spools == {3: 5.0}


@pytest.mark.parametrize("status", [500, 400])
async def test_what_is_refused_waits(status: int) -> None:
    async with serving(3) as (spoolman, served, client):
        spoolman.use_status = status
        await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
        extrude(served, 2.0)
        await until(lambda: len(spoolman.uses()) == 2)
        assert await pending(client) == {3: 2.0}
        spoolman.use_status = 200
        await wait_pending(client, {})
        assert spoolman.spools == {3: 2.0}


async def test_usage_outlives_a_restart_and_an_absence() -> None:
    async with fake_spoolman(3) as spoolman:
        await spoolman.close()
        async with running(config(spoolman.port), klippy=printer()) as served:
            client: Client = await served.client()
            await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
            extrude(served, 7.0)
            await wait_pending(client, {3: 7.0})
            async with restarted(served) as again:
                client = await again.client()
                assert await client.call("server.spoolman.status") == {
                    "spoolman_connected": False,
                    "pending_reports": [{"spool_id": 3, "filament_used": 7.0}],
                    "spool_id": 3,
                }
                await spoolman.listen()
                assert await client.wait_for("notify_spoolman_status_changed") == [{"spoolman_connected": True}]
                await until(lambda: spoolman.uses() == [(3, 7.0)])
                await wait_pending(client, {})
                await spoolman.close()
                assert await client.wait_for("notify_spoolman_status_changed", 2) == [{"spoolman_connected": False}]


async def test_a_killed_server_counts_once() -> None:
    async with fake_spoolman(3) as spoolman:
        process, klippy = Killable(), printer()
        try:
            await klippy.listen(klippy_path(str(process.data)))
            await process.start(config(spoolman.port))
            served = Running(None, klippy, process.port, str(process.data))  # type: ignore[arg-type]
            client = await served.client()
            await is_connected(client)
            await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
            async with asyncio.timeout(5):
                while (await client.call("server.info"))["klippy_state"] != "ready":
                    await asyncio.sleep(0.01)
            spoolman.loses_answers = 1
            extrude(served, 4.0)
            await until(lambda: spoolman.uses())
            await process.kill()
            await served.close_clients()
            await process.start(config(spoolman.port))
            client = await served.client()
            assert await pending(client) == {3: 4.0}
            await wait_pending(client, {})
            assert spoolman.uses() == [(3, 4.0)]
            assert (await client.call("server.spoolman.get_spool_id"))["spool_id"] == 3
            await served.close_clients()
        finally:
            await klippy.close()
            await process.end()


async def test_a_deleted_spool_is_not_active_any_more() -> None:
    async with serving(3, 4) as (spoolman, served, client):
        await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
        extrude(served, 1.0)
        spoolman.tell({"type": "deleted", "resource": "filament", "payload": {"id": 3}})
        spoolman.tell(["nonsense"])
        spoolman.delete(4)
        spoolman.delete(3)
        assert await client.wait_for("notify_active_spool_set", 2) == [{"spool_id": None}]
        assert await client.call("server.spoolman.get_spool_id") == {"spool_id": None}
        await wait_pending(client, {})


async def test_a_spool_that_was_deleted_while_nobody_listened() -> None:
    async with fake_spoolman() as spoolman:
        await spoolman.close()
        async with running(config(spoolman.port), klippy=printer()) as served:
            client = await served.client()
            await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
            await spoolman.listen()
            assert await client.wait_for("notify_active_spool_set", 2) == [{"spool_id": None}]


async def test_macros_set_the_spool() -> None:
    async with serving(3) as (_, served, client):
        (registered,) = [
            params
            for params in served.klippy.asked("register_remote_method")
            if params["remote_method"] == "spoolman_set_active_spool"
        ]

        def call(**arguments: Any) -> None:
            served.klippy.peer.send({**registered["response_template"], "params": arguments})

        call(spool_id=3)
        assert await client.wait_for("notify_active_spool_set") == [{"spool_id": 3}]
        call(spool_id="five")
        call(spool_id=-1)
        call(spool_id="7")
        assert await client.wait_for("notify_active_spool_set", 2) == [{"spool_id": 7}]
        call(spool_id=None)
        assert await client.wait_for("notify_active_spool_set", 3) == [{"spool_id": None}]


async def test_the_history_names_the_spools() -> None:
    async with serving(3, 4) as (_, served, client):
        await client.call("server.spoolman.post_spool_id", {"spool_id": 3})
        served.klippy.push({"print_stats": {"state": "printing", "filename": "a.gcode"}})
        await client.wait_for("notify_history_changed")
        await client.call("server.spoolman.post_spool_id", {"spool_id": 4})
        served.klippy.push({"print_stats": {"state": "complete"}})
        ((told,),) = [await client.wait_for("notify_history_changed", 2)]
        assert told["job"]["auxiliary_data"] == [
            {
                "provider": "spoolman",
                "name": "spool_ids",
                "value": [3, 4],
                "description": "Spool IDs used",
                "units": None,
            }
        ]


@pytest.mark.parametrize("spool_id", [-1, 2**31, "x", 1.5, True, [1]])
async def test_wrong_numbers_are_refused(spool_id: Any) -> None:
    async with running(config(free_port())) as served:
        client = await served.client()
        with pytest.raises(RpcError) as caught:
            await client.call("server.spoolman.post_spool_id", {"spool_id": spool_id})
        assert caught.value.code == 400


async def proxy(client: Client, verb: str, path: str, **more: Any) -> Any:
    return await client.call("server.spoolman.proxy", {"request_method": verb, "path": path, **more})


async def test_requests_are_passed_on() -> None:
    async with serving(3) as (spoolman, _, client):
        spoolman.answer = (201, b'{"id": 9, "name": "\xc3\xa4"}', "")
        assert await proxy(client, "post", "/v1/filament", body={"name": "x"}, query="?a=1&b=c d") == {
            "id": 9,
            "name": "ä",
        }
        assert spoolman.requests.pop() == ("POST", "/api/v1/filament?a=1&b=c%20d", {"name": "x"})
        assert await proxy(client, "GET", "/v1/spool/3", use_v2_response=True) == {
            "response": {"id": 3, "used_length": 0.0, "archived": False},
            "error": None,
        }
        await proxy(client, "GET", "/v1/field/vendor/caf%C3%A9 1/")
        assert spoolman.requests.pop() == ("GET", "/api/v1/field/vendor/caf%C3%A9%201", None)
        spoolman.answer = (200, b"id,name\n", "")
        assert await proxy(client, "GET", "/v1/export/spools") == "id,name\n"


async def test_errors_are_passed_on() -> None:
    async with serving() as (spoolman, served, client):
        with pytest.raises(RpcError) as caught:
            await proxy(client, "GET", "/v1/spool/1")
        assert (caught.value.code, caught.value.message) in (
            (404, "No spool with ID 1 found."),
            (-32601, "No spool with ID 1 found."),
        )
        body = {"request_method": "GET", "path": "/v1/spool/1"}
        status, _ = await served.http("POST", "/server/spoolman/proxy", body)
        assert status == 404
        assert await proxy(client, "GET", "/v1/spool/1", use_v2_response=True) == {
            "response": None,
            "error": {"status_code": 404, "message": "No spool with ID 1 found."},
        }
        spoolman.answer = (302, b"", "Location: http://127.0.0.1:1/v1/spool/1\r\n")
        with pytest.raises(RpcError) as caught:
            await proxy(client, "GET", "/v1/info")
        assert caught.value.code == 502
        assert len(spoolman.requests) == 4  # it was not followed
        status, _ = await served.http("POST", "/server/spoolman/proxy", {"request_method": "GET", "path": "/v1/info"})
        assert status == 502


async def test_only_the_interface_can_be_asked() -> None:
    async with serving() as (spoolman, _, client):
        wrong = [{"path": path, "request_method": "GET"} for path in PATHS_REFUSED]
        wrong += [{"path": "/v1/spool", "request_method": verb} for verb in ("TRACE", "CONNECT", "GET /x", "")]
        wrong += [
            {"path": "/v1/spool", "request_method": "GET", "query": query}
            for query in ("a=1#b", "a\r\nX-Y: z", "a" * 5000)
        ]
        for arguments in wrong:
            with pytest.raises(RpcError) as caught:
                await client.call("server.spoolman.proxy", {**arguments, "use_v2_response": True})
            assert caught.value.code == 400, arguments
        with pytest.raises(RpcError) as caught:
            await proxy(client, "POST", "/v1/spool", body={"x": "a" * 70_000})
        assert caught.value.code == 413
        assert spoolman.requests == []


async def test_too_long_an_answer_is_refused() -> None:
    async with serving() as (spoolman, _, client):
        spoolman.answer = (200, b'"' + b"a" * (4 * 1024 * 1024) + b'"', "")
        with pytest.raises(RpcError) as caught:
            await proxy(client, "GET", "/v1/vendor")
        assert caught.value.code == 503


@pytest.mark.parametrize("address", ["127.0.0.1:7912", "ftp://x", "http://", "http://x:port", "http://x/?a=b"])
async def test_an_address_that_is_none_fails_the_section_alone(address: str) -> None:
    async with running(f"[spoolman]\nserver: {address}\n") as served:
        client = await served.client()
        info = await client.call("server.info")
        assert info["failed_components"] == ["spoolman"]
        assert "history" in info["components"]
