"""The MQTT component against a real broker."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from moonfast.components import mqtt
from tests.wire.mosquitto import Watcher, broker, needs_mosquitto, now_us, settle, watching
from tests.wire.running import RpcError, Running, free_port, running, until
from tests.wire.test_tls import make_pair

pytestmark = needs_mosquitto


def config(port: int, more: str = "") -> str:
    return f"[mqtt]\naddress: 127.0.0.1\nport: {port}\ninstance_name: test\n{more}\n"


def component(served: Running) -> mqtt.Mqtt:
    found = served.server.components.find(mqtt.Mqtt)
    assert found is not None
    return found


async def connected(served: Running) -> mqtt.Mqtt:
    found = component(served)
    await until(lambda: found.is_connected)
    return found


async def ask(watcher: Watcher, method: str, request_id: int, **params: Any) -> Any:
    request = {"jsonrpc": "2.0", "method": method, "params": params, "id": request_id}
    watcher.publish("test/moonraker/api/request", json.dumps(request))
    found: list[Any] = []

    def came() -> bool:
        answers = [json.loads(item) for item in watcher.payloads("test/moonraker/api/response")]
        found[:] = [item for item in answers if item["id"] == request_id]
        return bool(found)

    await until(came)
    return found[0]


@pytest.mark.parametrize("protocol", ["v3.1", "v3.1.1", "v5"])
async def test_the_api_and_the_state_of_the_server(tmp_path: Path, protocol: str) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port, f"mqtt_protocol: {protocol}")) as served:
                await connected(served)
                assert (await ask(watcher, "server.info", 1))["result"]["klippy_state"] == "ready"
                assert (await ask(watcher, "no.such.method", 2))["error"]["code"] == -32601
                assert (await ask(watcher, "server.mqtt.publish", 3, topic="a"))["error"]["code"] == -32601
                await until(lambda: watcher.payloads("test/moonraker/status") == [b'{"server":"online"}'])
            await until(lambda: watcher.payloads("test/moonraker/status")[-1] == b'{"server":"offline"}')


async def test_a_will_tells_that_the_server_is_gone(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port)) as served:
                found = await connected(served)
                assert found._client is not None
                sock = found._client.socket()
                assert sock is not None
                sock.shutdown(2)  # as if the power went
                await until(lambda: b'{"server":"offline"}' in watcher.payloads("test/moonraker/status"))
                await until(lambda: watcher.payloads("test/moonraker/status")[-1] == b'{"server":"online"}')


async def test_a_request_that_comes_twice_is_done_once(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port)) as served:
                await connected(served)
                stamp = now_us()
                for _ in range(3):
                    request = {
                        "jsonrpc": "2.0",
                        "method": "printer.gcode.script",
                        "params": {"script": "G28", "mqtt_timestamp": stamp},
                        "id": 1,
                    }
                    watcher.publish("test/moonraker/api/request", json.dumps(request))
                await until(lambda: watcher.payloads("test/moonraker/api/response"))
                await settle()
                assert [item["script"] for item in served.klippy.asked("gcode/script")] == ["G28"]
                for text in (b"{bad", b"[]", b'"mqtt_timestamp"', b'{"params": 1, "mqtt_timestamp": 2}', b"\xff"):
                    watcher.publish("test/moonraker/api/request", text)
                await until(lambda: len(watcher.payloads("test/moonraker/api/response")) == 6)


async def test_without_the_api(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port, "enable_moonraker_api: False")) as served:
                await connected(served)
                watcher.publish("test/moonraker/api/request", '{"jsonrpc":"2.0","method":"server.info","id":1}')
                await settle()
                assert watcher.payloads("test/moonraker/api/response") == []


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("plain", b"plain"),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ([1, "b"], b'[1,"b"]'),
        (2.5, b"2.5"),
        (7, b"7"),
        (True, b"true"),
        (None, b""),
        ("", b""),
        ("\u00e4\u20ac", "\u00e4\u20ac".encode()),
    ],
)
async def test_what_payloads_become(tmp_path: Path, payload: Any, text: bytes) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port)) as served:
                await connected(served)
                client = await served.client()
                for qos in (0, 1, 2):
                    params = {"topic": "a/b", "payload": payload, "qos": qos, "timeout": 10}
                    assert await client.call("server.mqtt.publish", params) == {"topic": "a/b"}
                await until(lambda: watcher.payloads("a/b") == [text] * 3)


async def test_topics_over_the_api(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port)) as served:
                found = await connected(served)
                client = await served.client()
                kept = {"topic": "kept", "retain": True, "qos": 1}
                await client.call("server.mqtt.publish", {**kept, "payload": {"a": 1}})
                answer = await client.call("server.mqtt.subscribe", {"topic": "kept", "timeout": 10})
                assert answer == {"topic": "kept", "payload": {"a": 1}}
                await client.call("server.mqtt.publish", kept)  # cleared
                with pytest.raises(RpcError) as caught:
                    await client.call("server.mqtt.subscribe", {"topic": "kept", "timeout": 0.3})
                assert caught.value.code == 504
                assert "kept" not in found._receivers
                waiting = [
                    await client.start_call("server.mqtt.subscribe", {"topic": "x", "timeout": 10}) for _ in "ab"
                ]
                await settle()
                watcher.publish("x", "not json")
                assert [await item for item in waiting] == [{"topic": "x", "payload": "not json"}] * 2
                for topic in ("a/+", "#", ""):
                    with pytest.raises(RpcError) as caught:
                        await client.call("server.mqtt.subscribe", {"topic": topic, "timeout": 1})
                    assert caught.value.code == 400
                for params in ({"topic": "a/#"}, {"topic": "a", "qos": 3}, {"topic": "a", "timeout": 0}, {}):
                    with pytest.raises(RpcError) as caught:
                        await client.call("server.mqtt.publish", params)
                    assert caught.value.code == 400, params


async def test_macros_publish(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            async with running(config(here.port)) as served:
                await connected(served)
                arguments = {"topic": "alert", "payload": {"x": 1}, "use_prefix": True}
                served.klippy.peer.send({"method": "publish_mqtt_topic", "params": arguments})
                await until(lambda: watcher.payloads("test/alert") == [b'{"x":1}'])
                for wrong in ({}, {"topic": "a/#"}, {"topic": "a", "qos": "x"}):
                    served.klippy.peer.send({"method": "publish_mqtt_topic", "params": wrong})
                served.klippy.peer.send({"method": "publish_mqtt_topic", "params": {"topic": "last"}})
                await until(lambda: watcher.payloads("last") == [b""])


STATUS = "status_objects:\n    extruder=target\n    toolhead\n"


async def test_the_status_is_published(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:

            def seen() -> list[Any]:
                return [json.loads(item)["status"] for item in watcher.payloads("test/klipper/status")]

            async with running(config(here.port, STATUS)) as served:
                await connected(served)
                await until(lambda: any("toolhead" in item for item in seen()))  # all of it at first
                served.klippy.push({"extruder": {"target": 210.0, "temperature": 99.0}})
                await until(lambda: {"extruder": {"target": 210.0}} in seen())
                served.klippy.push({"extruder": {"temperature": 100.0}})
                served.klippy.push({"toolhead": {"homed_axes": "xyz"}})
                await until(lambda: {"toolhead": {"homed_axes": "xyz"}} in seen())
                assert not any("temperature" in item.get("extruder", {}) for item in seen())
                watcher.seen.clear()
                await served.klippy.drop()
                await until(lambda: any("toolhead" in item for item in seen()))  # after the next start, all of it


async def test_the_status_at_intervals_and_in_parts(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        with watching(here.port) as watcher:
            more = STATUS + "status_interval: 0.2\npublish_split_status: True\n"
            async with running(config(here.port, more)) as served:
                await connected(served)
                topic = "test/klipper/state/extruder/target"
                await until(lambda: watcher.payloads(topic))
                watcher.seen.clear()
                for number in range(20):
                    served.klippy.push({"extruder": {"target": float(number)}})
                    await asyncio.sleep(0.01)
                await until(
                    lambda: watcher.payloads(topic) and json.loads(watcher.payloads(topic)[-1])["value"] == 19.0
                )
                assert len(watcher.payloads(topic)) < 6
        with watching(here.port) as late:  # the broker keeps the parts
            await until(lambda: late.payloads(topic))


async def test_logins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import subprocess

    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ann", "secret"], check=True)
    secrets = tmp_path / "secrets.ini"
    secrets.write_text("[broker]\nuser: ann\npassword: secret\nwrong: x\n")
    secrets.chmod(0o600)
    more = "username: {secrets.broker.user}\npassword: {secrets.broker.PASSWORD}\n"
    more += f"[secrets]\nsecrets_path: {secrets}\n"
    async with broker(tmp_path, f"allow_anonymous false\npassword_file {passwords}\n") as here:
        async with running(config(here.port, more.replace("PASSWORD", "password"))) as served:
            await connected(served)
        async with running(config(here.port, more.replace("PASSWORD", "wrong"))) as served:
            await until(lambda: "refuses the login" in caplog.text)
            assert not component(served).is_connected
            client = await served.client()
            with pytest.raises(RpcError) as caught:
                await client.call("server.mqtt.publish", {"topic": "a"})
            assert caught.value.code == 503


# paho leaves the socket of a failed handshake to the garbage collector
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssl

    make_pair(tmp_path, "localhost")

    def trusting() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tmp_path / "cert.pem")
        context.check_hostname = False
        return context

    options = f"allow_anonymous true\ncertfile {tmp_path}/cert.pem\nkeyfile {tmp_path}/key.pem\n"
    async with broker(tmp_path, options) as here:
        async with running(config(here.port, "enable_tls: True")) as served:
            await asyncio.sleep(0.5)
            assert not component(served).is_connected  # nobody knows this certificate
        monkeypatch.setattr(mqtt.ssl, "create_default_context", trusting)
        async with running(config(here.port, "enable_tls: True")) as served:
            await connected(served)
            client = await served.client()
            large = "x" * 300_000
            waiting = await client.start_call("server.mqtt.subscribe", {"topic": "t", "timeout": 20})
            await settle()
            await client.call("server.mqtt.publish", {"topic": "t", "payload": large, "qos": 2, "timeout": 20})
            assert (await waiting)["payload"] == large


async def test_a_broker_that_is_not_there(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "FIRST_RETRY_S", 0.1)
    async with running(config(free_port(), STATUS)) as served:
        client = await served.client()
        assert (await client.call("server.info"))["failed_components"] == []
        await asyncio.sleep(1)
        warnings = [
            item for item in caplog.records if "cannot be reached" in item.message and item.levelname == "WARNING"
        ]
        assert len(warnings) == 1
        with pytest.raises(RpcError) as caught:
            await client.call("server.mqtt.publish", {"topic": "a"})
        assert caught.value.code == 503
        with pytest.raises(RpcError) as caught:
            await client.call("server.mqtt.publish", {"topic": "a", "qos": 1, "timeout": 0.2})
        assert caught.value.code == 504


async def test_a_broker_that_is_killed_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged has arrived; what waits arrives later; subscriptions and status go on."""
    monkeypatch.setattr(mqtt, "FIRST_RETRY_S", 0.1)
    options = f"allow_anonymous true\npersistence true\npersistence_location {tmp_path}/\n"
    async with broker(tmp_path, options) as here:
        async with running(config(here.port, STATUS)) as served:
            found = await connected(served)
            client = await served.client()
            told: list[bool] = []
            found.on_connection.append(told.append)
            got: list[bytes] = []
            found.subscribe("own", got.append, 1)
            acknowledged: list[int] = []

            async def load() -> None:
                for number in range(300):
                    try:
                        await found.publish("load", number, qos=1)
                    except Exception:  # refused while it was gone: the caller knows
                        await asyncio.sleep(0.01)
                        continue
                    acknowledged.append(number)

            task = asyncio.create_task(load())
            await until(lambda: len(acknowledged) > 20)
            here.kill()
            await until(lambda: told == [False])
            async with asyncio.timeout(5):
                assert (await client.call("server.info"))["klippy_state"] == "ready"
            await here.start()
            with watching(here.port) as watcher:
                await until(lambda: told == [False, True])
                await asyncio.wait_for(task, 30)
                assert acknowledged == list(range(300))  # QoS 1 waited for the broker
                await found.publish("own", "again", qos=1)
                await until(lambda: got[-1:] == [b"again"])
                served.klippy.push({"extruder": {"target": 123.0}})
                await until(lambda: any(b"123.0" in item for item in watcher.payloads("test/klipper/status")))
                assert b"299" in watcher.payloads("load")


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with broker(tmp_path) as here:
        for _ in range(5):
            async with running(config(here.port, STATUS)) as served:
                await connected(served)
        gc.collect()
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not [thread for thread in threading.enumerate() if "paho" in thread.name.lower()]


async def test_names_that_cannot_be_topics() -> None:
    async with running("[mqtt]\naddress: 127.0.0.1\ninstance_name: a/#\n") as served:
        client = await served.client()
        assert (await client.call("server.info"))["failed_components"] == ["mqtt"]
