"""Every endpoint of the table, over every transport: a stranger gets nothing but what is declared to be open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from moonfast.vocab import Access, Transport
from tests.wire.running import RpcError, running
from tests.wire.site import Client

STRANGER = "X-Forwarded-For: 203.0.113.9\r\n"
OPEN = {
    "/access/login",
    "/access/refresh_jwt",
    "/access/info",
    "/server/jsonrpc",  # each method in it is checked by itself
    "/server/redirect",
    "/server/openapi.json",
    "/server/asyncapi.json",
    "server.connection.identify",  # it lets in whoever shows something
}
"""What may be open. Whoever opens another one has to think about it here."""


@contextlib.asynccontextmanager
async def http(port: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        await client.close()


async def test_over_http() -> None:
    async with running() as served, http(served.port) as client:
        count = 0
        for endpoint in served.server.table:
            if endpoint.path is None or not endpoint.transports & Transport.HTTP:
                continue
            path = endpoint.path.replace("{root}", "gcodes").replace("{path}", "x")
            for verb in endpoint.verb.names():
                count += 1
                answer = await client.get(path, STRANGER + "Content-Length: 0\r\n", verb)
                if endpoint.access is Access.OPEN:
                    assert endpoint.path in OPEN, endpoint
                    assert answer.status != 401 or "token" in endpoint.path or "jwt" in endpoint.path, endpoint
                else:
                    assert answer.status == 401, endpoint
                    assert answer.json["error"]["message"] == "Unauthorized"
                    assert answer.json["error"]["data"]["reason"] == "login_required"
        assert count > 60


async def test_over_json_rpc() -> None:
    async with running() as served, http(served.port) as client:
        socket = await served.client(additional_headers={"X-Forwarded-For": "203.0.113.9"})
        count = 0
        for endpoint in served.server.table:
            if endpoint.rpc_name is None or endpoint.access is Access.OPEN:
                assert endpoint.access is not Access.OPEN or (endpoint.path or endpoint.rpc_name) in OPEN, endpoint
                continue
            count += 1
            if endpoint.transports & Transport.WEBSOCKET:
                with pytest.raises(RpcError, match="^Unauthorized$") as caught:
                    await socket.call(endpoint.rpc_name)
                assert caught.value.code == -32602, endpoint
            if endpoint.transports & Transport.HTTP:
                body = json.dumps({"jsonrpc": "2.0", "method": endpoint.rpc_name, "id": 1}).encode()
                answer = await client.post("/server/jsonrpc", "application/json", body, STRANGER)
                assert "result" not in answer.json, endpoint
                assert answer.json["error"]["message"] == "Unauthorized", endpoint
        assert count > 60


async def test_what_klippy_offers_and_pages_and_other_sockets() -> None:
    async with running() as served, http(served.port) as client:
        remote = [endpoint for endpoint in served.server.table if endpoint.is_remote]
        assert remote
        for path in [*(endpoint.path for endpoint in remote), "/", "/klippysocket", "/server/nothing"]:
            assert (await client.get(str(path), STRANGER)).status == 401, path


async def test_a_stranger_is_told_nothing() -> None:
    """No notification reaches a connection that has not shown who it is."""
    async with running() as served:
        stranger = await served.client(additional_headers={"X-Forwarded-For": "203.0.113.9"})
        known = await served.client()
        served.klippy.push({"webhooks": {"state": "shutdown", "state_message": "x"}})
        await known.wait_for("notify_klippy_shutdown")
        await known.call("server.files.post_directory", {"path": "gcodes/x"})
        await known.wait_for("notify_filelist_changed")
        await asyncio.sleep(0.05)
        assert stranger.messages == []
