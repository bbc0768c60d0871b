"""The database through its endpoints: what clients keep, its backups, and what survives."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from moonfast.errors import InsufficientStorage
from moonfast.storage.database import STORE_NAME, Database
from tests.wire.running import Client, RpcError, running, until
from tests.wire.test_killed import killable


async def post(client: Client, key: Any, value: Any, namespace: str = "ui") -> Any:
    return await client.call("server.database.post_item", {"namespace": namespace, "key": key, "value": value})


async def get(client: Client, key: Any = None, namespace: str = "ui") -> Any:
    params = {"namespace": namespace} if key is None else {"namespace": namespace, "key": key}
    return (await client.call("server.database.get_item", params))["value"]


async def refused(call: Any) -> int:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value.code  # type: ignore[no-any-return]


async def test_keys_lead_into_values() -> None:
    async with running() as served:
        client = await served.client()
        await post(client, "a.b.c", [1, {"x": None}])
        await post(client, ["a", "d.e"], "text")
        await post(client, "z", 1e300)
        assert await get(client) == {"a": {"b": {"c": [1, {"x": None}]}, "d.e": "text"}, "z": 1e300}
        assert await get(client, ["a", "d.e"]) == "text"
        assert await get(client, "a.b") == {"c": [1, {"x": None}]}
        for missing in ("a.b.c.d", "a.d.e", "nothing", ["a", "b", "x"]):
            assert await refused(get(client, missing)) == -32601
        assert await refused(post(client, "a.b.c.d", 1)) == 400
        deleted = await client.call("server.database.delete_item", {"namespace": "ui", "key": "a.b.c"})
        assert deleted == {"namespace": "ui", "key": "a.b.c", "value": [1, {"x": None}]}
        assert await get(client, "a") == {"b": {}, "d.e": "text"}
        for key in ("a", "z"):
            await client.call("server.database.delete_item", {"namespace": "ui", "key": key})
        assert await refused(get(client)) == -32601
        assert "ui" not in (await client.call("server.database.list"))["namespaces"]


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", [], [""], ["a", ""], ".".join("x" * 100), {"a": 1}, None])
async def test_keys_that_name_nothing(key: Any) -> None:
    async with running() as served:
        client = await served.client()
        assert await refused(post(client, key, 1)) == 400
        assert (await client.call("server.database.list"))["namespaces"].count("ui") == 0


@pytest.mark.parametrize(("namespace", "is_readable"), [("moonraker", True), ("history", True), ("database", False)])
async def test_what_is_the_servers_own(namespace: str, is_readable: bool) -> None:
    async with running() as served:
        client = await served.client()
        assert await refused(post(client, "a", 1, namespace)) == 403
        assert await refused(client.call("server.database.delete_item", {"namespace": namespace, "key": "a"})) == 403
        assert await refused(get(client, "a", namespace)) == (-32601 if is_readable else 403)


async def test_a_write_that_fails_leaves_the_old_value(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as served:
        client = await served.client()
        await post(client, "a.b", 1)

        async def full(*_: Any) -> None:
            raise InsufficientStorage("The disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "write_now", full)
            assert await refused(post(client, "a.b", 2)) == 507
            assert await refused(client.call("server.database.delete_item", {"namespace": "ui", "key": "a"})) == 507
        assert await get(client, "a.b") == 1


async def test_posts_at_once_to_one_key_lose_nothing() -> None:
    async with running() as served:
        clients = await served.clients(4)
        await asyncio.gather(
            *(
                post(client, f"a.c{index}.n{number}", number)
                for index, client in enumerate(clients)
                for number in range(25)
            )
        )
        expected = {f"c{index}": {f"n{number}": number for number in range(25)} for index in range(4)}
        assert await get(clients[0], "a") == expected


async def test_a_backup_that_is_none() -> None:
    async with running() as served:
        client = await served.client()
        await post(client, "a", 1)
        folder = Path(served.data_path, "backup", "database")
        (folder / "text.db").write_text("no store at all")
        made = await client.call("server.database.post_backup", {"filename": "cut.db"})
        whole = Path(made["backup_path"]).read_bytes()
        Path(made["backup_path"]).write_bytes(whole[: len(whole) // 2])
        for name in ("text.db", "cut.db", "nothing.db", "../moonfast.lock", "", ".hidden", "a\0b", "x" * 300):
            assert await refused(client.call("server.database.restore", {"filename": name})) == 400
        assert await get(client, "a") == 1
        for name in ("../a.db", "a/b.db", "..", ".x"):
            assert await refused(client.call("server.database.post_backup", {"filename": name})) == 400
            assert await refused(client.call("server.database.delete_backup", {"filename": name})) == 400


async def test_nothing_is_restored_during_a_print() -> None:
    async with running() as served:
        client = await served.client()
        await client.call("server.database.post_backup", {"filename": "a.db"})
        served.klippy.push({"print_stats": {"state": "printing", "filename": "a.gcode"}})
        await until(lambda: served.server.job.is_active)
        assert await refused(client.call("server.database.restore", {"filename": "a.db"})) == 503


async def test_compacting_under_writes() -> None:
    async with running() as served:
        client = await served.client()
        for number in range(60):
            await post(client, f"k{number}", "x" * 20_000)
        for number in range(50):
            await client.call("server.database.delete_item", {"namespace": "ui", "key": f"k{number}"})

        async def write() -> None:
            for number in range(200):
                await post(client, "n", number)
                assert await get(client, "n") == number

        other = await served.client()
        writing = asyncio.create_task(write())
        sizes = await other.call("server.database.compact")
        assert sizes["new_size"] < sizes["previous_size"] / 2
        await asyncio.gather(*(other.call("server.database.compact") for _ in range(3)))
        await writing
        assert await get(client, "n") == 199
        assert len(await get(client)) == 11


async def test_a_damaged_store_is_set_aside_and_a_backup_offered() -> None:
    async with killable() as server:
        await server.ask("POST", "/server/database/item", b'{"namespace": "ui", "key": "a", "value": 1}')
        await server.ask("POST", "/server/database/backup", b'{"filename": "good.db"}')
        await server.kill()
        (server.data / "database" / STORE_NAME / "data.mdb").write_bytes(b"garbage" * 5000)
        await server.start()
        (warning,) = (await server.ask("GET", "/server/info"))["result"]["warnings"]
        assert "damaged" in warning
        assert "filename=good.db" in warning
        assert (await server.ask("GET", "/server/database/item?namespace=ui&key=a"))["error"]["code"] == 404
        await server.ask("POST", "/server/database/restore?filename=good.db")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await server.client.close()
        async with asyncio.timeout(20):
            while True:  # it restarts
                await asyncio.sleep(0.1)
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    server.client = await server.connect()
                    found = await server.ask("GET", "/server/database/item?namespace=ui&key=a")
                    break
        assert found["result"]["value"] == 1


async def test_what_was_acknowledged_survives_a_kill() -> None:
    async with killable() as server:
        acknowledged = 0
        for round_ in range(3):
            stop_at = asyncio.get_running_loop().time() + 0.3

            async def kill_soon(at: float = stop_at) -> None:
                await asyncio.sleep(at - asyncio.get_running_loop().time())
                assert server.process is not None
                server.process.kill()

            killing = asyncio.create_task(kill_soon())
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    body = b'{"namespace": "ui", "key": "n", "value": %d}' % (acknowledged + 1)
                    await server.ask("POST", "/server/database/item", body)
                    acknowledged += 1
            await killing
            await server.kill()
            assert acknowledged > round_ * 10
            await server.start()
            found = (await server.ask("GET", "/server/database/item?namespace=ui&key=n"))["result"]["value"]
            assert found in (acknowledged, acknowledged + 1)
            acknowledged = found


async def test_debug_endpoints_only_with_the_flag() -> None:
    async with running() as served:
        assert (await served.http("GET", "/debug/database/list"))[0] == 404
