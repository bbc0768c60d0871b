"""Identify, agents, remote methods, events, and requests to agents."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from moonfast.transports import connection as connection_module
from tests.wire.running import Client, RpcError, Running, running, until

AGENT = {"name": "agent", "version": "1", "type": "agent", "url": "http://x"}


@contextlib.asynccontextmanager
async def refused(code: int, words: str) -> Any:
    with pytest.raises(RpcError, match=words) as found:
        yield
    assert found.value.code == code


async def agent_of(served: Running, name: str = "agent", over: str = "websocket") -> Client:
    client = await (served.client() if over == "websocket" else served.unix_client())
    await client.identify(name, "agent")
    return client


async def test_identify_once() -> None:
    async with running() as served:
        client = await served.client()
        uid = await client.identify()
        assert await client.call("server.websocket.id") == {"websocket_id": uid}
        async with refused(400, "already identified"):
            await client.identify()
        other = await served.client()
        async with refused(400, "Invalid Client Type"):
            await other.identify(type="toaster")
        async with refused(400, "client_name"):
            await other.call("server.connection.identify", {"version": "1", "type": "web", "url": "x"})
        assert await other.identify(type="web") != uid  # what was refused did not count
        status, answer = await served.http("POST", "/server/jsonrpc", {"jsonrpc": "2.0", "method": "x", "id": 1})
        assert (status, answer["error"]["code"]) == (200, -32601)


@pytest.mark.parametrize("over", ["websocket", "unix"])
async def test_agents_come_and_go(over: str) -> None:
    async with running() as served:
        watcher = await served.client()
        agent = await agent_of(served, over=over)
        assert await watcher.wait_for("notify_agent_event") == [{"agent": "agent", "event": "connected", "data": AGENT}]
        assert await watcher.call("server.extensions.list") == {"agents": [AGENT]}
        second = await served.client()
        async with refused(400, "already registered"):
            await second.identify("agent", "agent")
        await second.identify("second", "agent")
        assert len((await watcher.call("server.extensions.list"))["agents"]) == 2
        await agent.close()
        gone = await watcher.wait_for("notify_agent_event", 3)
        assert gone == [{"agent": "agent", "event": "disconnected"}]
        assert [item["name"] for item in (await watcher.call("server.extensions.list"))["agents"]] == ["second"]
        assert not agent.of("notify_agent_event")[1:]  # that of the second, none of its own
        await agent_of(served, over=over)  # the name is free again


async def test_events() -> None:
    async with running() as served:
        watcher, agent = await served.client(), await agent_of(served)
        assert await agent.call("connection.send_event", {"event": "spool_low", "data": {"grams": 3}}) == "ok"
        assert await agent.call("connection.send_event", {"event": "bare"}) == "ok"
        await watcher.wait_for("notify_agent_event", 3)
        assert watcher.of("notify_agent_event")[1:] == [
            [{"agent": "agent", "event": "spool_low", "data": {"grams": 3}}],
            [{"agent": "agent", "event": "bare"}],
        ]
        assert not agent.of("notify_agent_event")
        for event in ("connected", "disconnected"):
            async with refused(400, "reserved"):
                await agent.call("connection.send_event", {"event": event})
        async with refused(400, "agent"):
            await watcher.call("connection.send_event", {"event": "x"})
        async with refused(400, "agent"):
            await watcher.call("connection.register_remote_method", {"method_name": "x"})


async def test_remote_methods() -> None:
    async with running() as served:
        agent, other = await agent_of(served), await agent_of(served, "other", "unix")
        assert await agent.call("connection.register_remote_method", {"method_name": "set_light"}) == "ok"
        assert await agent.call("connection.register_remote_method", {"method_name": "set_light"}) == "ok"
        async with refused(400, "registered already"):
            await other.call("connection.register_remote_method", {"method_name": "set_light"})
        async with refused(400, "registered already"):
            await other.call("connection.register_remote_method", {"method_name": "process_status_update"})
        assert await other.call("connection.register_remote_method", {"method_name": "beep"}) == "ok"
        klippy = served.klippy

        def announced() -> list[dict[str, Any]]:
            asked = klippy.asked("register_remote_method")  # the server's own methods, too
            return [request for request in asked if request["remote_method"] in ("set_light", "beep")]

        await until(lambda: len(announced()) == 2)
        for request in announced():
            klippy.peer.send({**request["response_template"], "params": {"of": request["remote_method"]}})
        klippy.peer.send({"method": "beep"})
        klippy.peer.send({"method": "nobody", "params": {}})
        assert await agent.wait_for("set_light") == {"of": "set_light"}
        assert await other.wait_for("beep") == {"of": "beep"}
        await other.wait_for("beep", 2)
        assert agent.methods().count("beep") == 0

        await klippy.drop()  # the next Klippy is told of them again
        await until(lambda: len(announced()) == 4)
        await agent.close()
        await until(lambda: len(served.server.hub.connections) == 1)
        klippy.peer.send({"method": "set_light", "params": {}})  # nobody provides it any more
        assert await other.call("connection.register_remote_method", {"method_name": "set_light"}) == "ok"


async def test_requests_are_answered_in_any_order() -> None:
    async with running() as served:
        agent, client = await agent_of(served), await served.client()
        futures = [
            await client.start_call(
                "server.extensions.request", {"agent": "agent", "method": "square", "arguments": {"of": number}}
            )
            for number in range(20)
        ]
        await agent.wait_for("square", 20)
        assert not any(future.done() for future in futures)
        requests = [message for message in agent.messages if message["method"] == "square"]
        assert len({request["id"] for request in requests}) == 20
        for request in reversed(requests):
            await agent.answer(request, result=request["params"]["of"] ** 2)
        assert await asyncio.gather(*futures) == [number**2 for number in range(20)]
        await agent.answer(requests[0], result="twice")  # an answer to nothing is ignored
        await agent.answer({"id": "text"}, result="never asked")
        assert await agent.call("server.info")


async def test_forms_of_a_request_and_of_its_answer() -> None:
    async with running() as served:
        agent, client = await agent_of(served, over="unix"), await served.client()

        async def ask(arguments: Any, **outcome: Any) -> Any:
            params = {"agent": "agent", "method": "do"} | ({} if arguments is None else {"arguments": arguments})
            count = len(agent.messages)
            future = await client.start_call("server.extensions.request", params)
            await until(lambda: len(agent.messages) > count)
            request = agent.messages[-1]
            assert request.get("params") == arguments
            await agent.answer(request, **outcome)
            return await future

        assert await ask(None, result=None) is None
        assert await ask([1, "two"], result={"a": [1.5, None]}) == {"a": [1.5, None]}
        assert await ask({"x": "ü"}, result="ok") == "ok"
        with pytest.raises(RpcError, match="broken") as failed:
            await ask({}, error={"code": -1, "message": "broken"})
        assert (failed.value.code, failed.value.data) == (424, {"code": -1, "message": "broken"})
        with pytest.raises(RpcError):
            await ask({}, error="no object")
        async with refused(400, "nobody not connected"):
            await client.call("server.extensions.request", {"agent": "nobody", "method": "do"})
        async with refused(400, "arguments"):
            await client.call("server.extensions.request", {"agent": "agent", "method": "do", "arguments": "text"})


async def test_an_agent_that_goes_before_it_answers() -> None:
    async with running() as served:
        agent, client = await agent_of(served), await served.client()
        params = {"agent": "agent", "method": "do"}
        futures = [await client.start_call("server.extensions.request", params) for _ in range(3)]
        over_http = asyncio.get_running_loop().create_task(served.http("POST", "/server/extensions/request", params))
        await agent.wait_for("do", 4)
        await agent.close()
        for future in futures:
            async with refused(503, "disconnected before it answered"):
                await future
        assert (await over_http)[0] == 503


async def test_a_client_that_goes_before_the_agent_answers() -> None:
    async with running() as served:
        agent, client = await agent_of(served), await served.client()
        await client.start_call("server.extensions.request", {"agent": "agent", "method": "do"})
        await agent.wait_for("do")
        await client.close()
        await until(lambda: len(served.server.hub.connections) == 1)
        await agent.answer(agent.messages[-1], result="late")
        assert await agent.call("server.info")


async def test_an_agent_that_never_answers_gets_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_OWN_REQUESTS", 5)
    async with running() as served:
        agent, client = await agent_of(served), await served.client()
        params = {"agent": "agent", "method": "do"}
        futures = [await client.start_call("server.extensions.request", params) for _ in range(6)]
        async with refused(503, "too many requests"):
            await futures[5]
        assert not any(future.done() for future in futures[:5])
        await agent.wait_for("do", 5)


async def test_an_agent_may_ask_itself() -> None:
    async with running() as served:
        agent = await agent_of(served)
        future = await agent.start_call("server.extensions.request", {"agent": "agent", "method": "do"})
        await agent.wait_for("do")
        await agent.answer(agent.messages[-1], result="me")
        assert await future == "me"
