"""The database over HTTP and JSON-RPC: who may do what, what an answer promises, and what a restart finds."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from moonfast.storage.backups import AUTOMATIC
from moonfast.storage.database import MAP_START_BYTES
from tests.unit.storage.moonraker_files import make_sqlite
from tests.wire.running import free_port, make_data_folder, make_options, running, start_server
from tests.wire.test_start_stop import data_folder, program

ITEM = "/server/database/item"


async def test_namespaces_that_are_closed() -> None:
    async with running() as served:
        await served.server._database.namespace("authorized_users").save("anna", {"password": "0" * 64})
        for namespace in ("authorized_users", "database"):
            for method, body in (("GET", None), ("POST", {"key": "a", "value": 1}), ("DELETE", {"key": "a"})):
                target = f"{ITEM}?namespace={namespace}" + ("" if method == "POST" else "&key=anna")
                body = {"namespace": namespace, **body} if method == "POST" and body else None
                status, answer = await served.http(method, target, body)
                assert status == 403
                assert answer["error"]["message"] == f"Read/Write access to namespace '{namespace}' is forbidden"
        for namespace in ("moonraker", "gcode_metadata", "history", "announcements", "job_queue"):
            status, answer = await served.http("POST", ITEM, {"namespace": namespace, "key": "a", "value": 1})
            assert (status, answer["error"]["message"]) == (
                403,
                f"Write access to namespace '{namespace}' is forbidden",
            )
        status, answer = await served.http("GET", "/server/database/list")
        assert answer["result"] == {"namespaces": ["gcode_metadata", "moonraker"], "backups": []}
        status, answer = await served.http("GET", f"{ITEM}?namespace=moonraker&key=instance_id")
        assert status == 404  # this data folder has no uuid: nobody claimed it
        assert (await served.http("GET", "/debug/database/list"))[0] == 404


async def test_bad_arguments() -> None:
    async with running() as served:
        for body, word in (
            ({"namespace": "", "key": "a", "value": 1}, "namespace"),
            ({"namespace": "x" * 300, "key": "a", "value": 1}, "namespace"),
            ({"namespace": "n", "key": {}, "value": 1}, "key"),
            ({"namespace": "n", "key": None, "value": 1}, "key"),
            ({"namespace": "n", "key": "a..b", "value": 1}, "Invalid Key Format: 'a..b'"),
            ({"namespace": "n", "key": [], "value": 1}, "Invalid Key Format: '[]'"),
        ):
            status, answer = await served.http("POST", ITEM, body)
            assert status == 400
            assert word in answer["error"]["message"]
        status, answer = await served.http("POST", f"{ITEM}?namespace=n&key=a.b&value:int=3")
        assert answer["result"] == {"namespace": "n", "key": "a.b", "value": 3}
        assert (await served.http("GET", "/server/database/list"))[1]["result"]["namespaces"][-1] == "n"


async def test_a_database_that_is_full_keeps_the_old_value() -> None:
    async with running() as served:
        served.server._database._map_limit_bytes = MAP_START_BYTES
        assert (await served.http("POST", ITEM, {"namespace": "n", "key": "a.b", "value": "old"}))[0] == 200
        status, answer = await served.http(
            "POST", ITEM, {"namespace": "n", "key": "a.b", "value": "x" * MAP_START_BYTES}
        )
        assert status == 507
        assert "delete" in answer["error"]["message"]
        assert (await served.http("GET", f"{ITEM}?namespace=n&key=a.b"))[1]["result"]["value"] == "old"
        assert (await served.http("POST", ITEM, {"namespace": "n", "key": "a.b", "value": "new"}))[0] == 200


async def test_posts_to_one_record_at_once() -> None:
    async with running() as served:
        clients = await served.clients(4)
        await asyncio.gather(
            *(
                client.call("server.database.post_item", {"namespace": "n", "key": f"a.{number}.{at}", "value": at})
                for number, client in enumerate(clients)
                for at in range(20)
            )
        )
        found = (await clients[0].call("server.database.get_item", {"namespace": "n", "key": "a"}))["value"]
        assert found == {str(number): {str(at): at for at in range(20)} for number in range(4)}


async def test_backup_and_restore() -> None:
    restarted = asyncio.Event()
    async with running(restart=restarted.set) as served:
        client = await served.client()
        item = {"namespace": "n", "key": "a", "value": 1}
        await client.call("server.database.post_item", item)
        path = (await client.call("server.database.post_backup", {"filename": "mine.db"}))["backup_path"]
        assert path == f"{served.data_path}/backup/database/mine.db"
        assert os.path.getsize(path) > 0
        await client.call("server.database.post_item", {**item, "value": 2})
        sizes = await client.call("server.database.compact")
        assert sizes["new_size"] <= sizes["previous_size"]
        assert not restarted.is_set()
        result = await client.call("server.database.restore", {"filename": "mine.db"})
        assert "n" in result["restored_namespaces"]
        assert restarted.is_set()
        assert (await client.call("server.database.get_item", {"namespace": "n", "key": "a"}))["value"] == 1
        status, _ = await served.http("POST", ITEM, item)
        assert status == 503
        names = (await client.call("server.database.list"))["backups"]
        assert len(names) == 2
        assert names[1].startswith(AUTOMATIC)


async def test_no_restore_while_printing() -> None:
    async with running() as served:
        client = await served.client()
        await client.call("server.database.post_backup", {"filename": "mine.db"})
        served.klippy.push({"print_stats": {"state": "printing", "filename": "a.gcode"}})
        async with asyncio.timeout(5):
            while not served.server.job.is_active:
                await asyncio.sleep(0.01)
        status, answer = await served.http("POST", "/server/database/restore", {"filename": "mine.db"})
        assert status == 503
        assert "while Klipper prints" in answer["error"]["message"]


async def test_what_moonraker_left_is_there_after_the_first_start(tmp_path: Path) -> None:
    data_path = make_data_folder()
    source = make_sqlite(Path(data_path) / "database" / "moonraker-sql.db")
    original = source.read_bytes()
    server, _ = await start_server(data_path)
    try:
        assert server._database.namespace("fluidd").get("l") == [1, 2]
        assert any("could not be read" in item for item in server._backups.warnings)
    finally:
        await server.stop()
    assert source.read_bytes() == original
    assert make_options(data_path).debug is False


class Poster:
    """One connection that posts counted values, one after another, and notes what was acknowledged."""

    def __init__(self, key: str) -> None:
        self.key, self.sent, self.acknowledged = key, 0, 0

    async def run(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                self.sent += 1
                value = {"number": self.sent, "filler": "x" * (self.sent % 50 * 100)}
                body = json.dumps({"namespace": "n", "key": ["posts", self.key], "value": value}).encode()
                head = f"POST {ITEM} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200")
                length = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b":")[2]))
                self.acknowledged = self.sent
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # killed
        finally:
            writer.close()


async def test_killed_under_writes_it_has_all_that_it_acknowledged() -> None:
    chance = random.Random()
    port = free_port()
    posters = [Poster(name) for name in ("a", "b", "c")]
    with data_folder(port) as data_path:
        for life in range(6):
            async with program(data_path) as run:
                await run.wait_until_it_serves()
                if life:
                    await check_posts(port, posters)
                tasks = [asyncio.create_task(poster.run(port)) for poster in posters]
                await asyncio.sleep(0.05 + chance.random() * 0.2)
                run.process.kill()
                await asyncio.gather(*tasks)
        async with program(data_path) as run:
            await run.wait_until_it_serves()
            await check_posts(port, posters)
            own = await ask(port, f"{ITEM}?namespace=moonraker&key=database.unsafe_shutdowns")
            assert own["result"]["value"] == 6
            own = await ask(port, f"{ITEM}?namespace=moonraker&key=instance_id")
            assert own["result"]["value"] == Path(data_path, ".moonraker.uuid").read_text()
    assert all(poster.acknowledged > 20 for poster in posters)


async def ask(port: int, target: str) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    found = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()
    return found


async def check_posts(port: int, posters: list[Poster]) -> None:
    found = await ask(port, f"{ITEM}?namespace=n&key=posts")
    for poster in posters:
        number = found["result"]["value"][poster.key]["number"]
        assert poster.acknowledged <= number <= poster.sent
        poster.sent = poster.acknowledged = number


async def test_days_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first backup comes a while after the start, then one when the newest is a day old."""
    from moonfast.components import database as module

    monkeypatch.setattr(module, "FIRST_BACKUP_S", 0.01)
    monkeypatch.setattr("moonfast.storage.backups.AUTOMATIC_PERIOD_S", 0.1)
    async with running() as served:
        async with asyncio.timeout(10):
            while len(served.server._backups.names()) < 3:
                await asyncio.sleep(0.02)
        assert all(name.startswith(AUTOMATIC) for name in served.server._backups.names())
