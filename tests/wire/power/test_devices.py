"""What all power devices have in common, and the devices of Klipper and of plain HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from moonfast.components.machine.component import Machine
from tests.wire.fake_klippy import FakeKlippy
from tests.wire.power import plugs
from tests.wire.running import Client, RpcError, Running, running, until

PLUG = "type: tasmota\naddress: 127.0.0.1:{port}\npassword: secret\noutput_id: 2\n"
LAMP = "[power lamp]\ntype: klipper_device\nobject_name: output_pin lamp\n"


async def switch(client: Client, name: str, action: str) -> Any:
    return await client.call("machine.device_power.post_device", {"device": name, "action": action})


async def known(client: Client, name: str = "plug") -> str:
    """The state that the server knows, once it knows one."""
    async with asyncio.timeout(10):
        while True:
            for item in (await client.call("machine.device_power.devices"))["devices"]:
                if item["device"] == name and item["status"] != "init":
                    return str(item["status"])
            await asyncio.sleep(0.01)


def told_of(client: Client) -> list[tuple[str, str]]:
    return [(item["device"], item["status"]) for (item,) in client.of("notify_power_changed")]


def with_lamp() -> FakeKlippy:
    klippy = FakeKlippy()
    klippy.objects["output_pin lamp"] = {"value": 0.0}
    klippy.objects["gcode_macro FLARE"] = {"value": 1}

    def run(params: dict[str, Any]) -> Any:
        command, *rest = params["script"].split()
        values = dict(item.split("=") for item in rest)
        if command == "SET_PIN":
            klippy.push({f"output_pin {values['PIN']}": {"value": float(values["VALUE"])}})
        elif command == "FLARE":
            klippy.push({"gcode_macro FLARE": {"value": int(values["VALUE"])}})
        return {}

    klippy.handlers["gcode/script"] = run
    return klippy


async def test_a_pin_and_a_macro_of_klipper() -> None:
    klippy = with_lamp()
    text = LAMP + "[power flare]\ntype: klipper_device\nobject_name: gcode_macro FLARE\n"
    async with running(text, klippy=klippy) as served:
        client = await served.client()
        assert (await known(client, "lamp"), await known(client, "flare")) == ("off", "on")
        assert await switch(client, "lamp", "on") == {"lamp": "on"}
        assert klippy.objects["output_pin lamp"]["value"] == 1.0
        assert await switch(client, "flare", "toggle") == {"flare": "off"}
        client.messages.clear()
        klippy.push({"output_pin lamp": {"value": 0.0}})  # a macro does it
        await until(lambda: ("lamp", "off") in told_of(client))
        await klippy.drop()
        await until(lambda: served.server.klippy.state == "disconnected")
        with pytest.raises(RpcError, match="Error Setting Device Status: lamp to on"):
            await switch(client, "lamp", "on")
        await served.wait_state(served.server.klippy.state.READY)
        assert await switch(client, "lamp", "on") == {"lamp": "on"}


async def test_the_first_state_is_set_when_klipper_can_do_it() -> None:
    klippy = with_lamp()
    async with running(LAMP + "initial_state: on\n", klippy=klippy) as served:
        await until(lambda: klippy.objects["output_pin lamp"]["value"] == 1.0)
        client = await served.client()
        assert await known(client, "lamp") == "on"


async def test_wrong_sections_stop_only_themselves() -> None:
    text = LAMP + "".join(
        f"[power bad{number}]\n{options}\n"
        for number, options in enumerate(
            (
                "type: toaster",
                "type: tasmota",
                "type: klipper_device\nobject_name: extruder",
                "type: http\non_url: {% if %}\noff_url: x\nstatus_url: x\nresponse_template: on",
                "type: gpio\npin: 26",
                "type: mqtt\ncommand_topic: a\ncommand_payload: b\nstate_topic: c",
                "type: hue\naddress: a\nuser: b\ndevice_id: 1\npoll_interval: -1",
            )
        )
    )
    async with running(text, klippy=with_lamp()) as served:
        client = await served.client()
        devices = (await client.call("machine.device_power.devices"))["devices"]
        assert [item["device"] for item in devices] == ["lamp"]
        assert await switch(client, "lamp", "on") == {"lamp": "on"}
        info = await client.call("server.info")
        assert info["failed_components"] == []
        for number in range(7):
            assert any(f"[power bad{number}]" in warning for warning in info["warnings"]), number


async def test_locked_while_printing() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        plug.is_on = True
        text = f"[power plug]\n{PLUG.format(port=plug.port)}locked_while_printing: True\n{LAMP}"
        async with running(text, klippy=with_lamp()) as served:
            client = await served.client()
            assert await known(client) == "on"
            served.klippy.push({"print_stats": {"state": "printing", "filename": "a.gcode"}})
            await until(lambda: served.server.job.is_active)
            for state in ("off", "toggle"):
                with pytest.raises(RpcError, match="Unable to change power for plug while printing") as caught:
                    await switch(client, "plug", state)
                assert caught.value.code == 400
            with pytest.raises(RpcError, match="while printing"):
                await client.call("machine.device_power.off", {"lamp": None, "plug": None})
            served.klippy.push({"print_stats": {"state": "paused"}})
            await until(lambda: served.server.job.state == "paused")
            with pytest.raises(RpcError, match="while printing"):
                await switch(client, "plug", "off")
            assert plug.is_on
            served.klippy.peer.send({"method": "set_device_power", "params": {"device": "plug", "state": "off"}})
            served.klippy.peer.send(
                {"method": "set_device_power", "params": {"device": "lamp", "state": "on", "force": True}}
            )
            await until(lambda: served.klippy.objects["output_pin lamp"]["value"] == 1.0)
            assert plug.is_on
            arguments = {"device": "plug", "state": "off", "force": True}
            served.klippy.peer.send({"method": "set_device_power", "params": arguments})
            await until(lambda: not plug.is_on)


async def test_off_when_klipper_shuts_down() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        plug.is_on = True
        options = "off_when_shutdown: True\noff_when_shutdown_delay: 0.2\n"
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}{options}") as served:
            client = await served.client()
            assert await known(client) == "on"
            served.klippy.set_state("shutdown")
            await until(lambda: served.server.klippy.state == "shutdown")
            served.klippy.set_state("ready")
            await served.wait_state(served.server.klippy.state.READY)
            await asyncio.sleep(0.4)
            assert plug.is_on  # it came back in time
            served.klippy.set_state("shutdown")
            await until(lambda: not plug.is_on)


async def test_on_when_a_job_is_queued() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}on_when_job_queued: True\n") as served:
            client = await served.client()
            assert await known(client) == "off"
            Path(served.data_path, "gcodes", "a.gcode").write_text("G28\n")
            await client.call("server.job_queue.post_job", {"filenames": ["a.gcode"]})
            await until(lambda: plug.is_on)


async def test_klipper_is_restarted_when_it_is_not_ready() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        options = "restart_klipper_when_powered: True\nrestart_delay: 0.05\n"
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}{options}") as served:
            client = await served.client()
            assert await known(client) == "off"
            await switch(client, "plug", "on")
            await asyncio.sleep(0.3)
            assert served.klippy.asked("gcode/firmware_restart") == []  # it is ready
            await switch(client, "plug", "off")
            served.klippy.set_state("shutdown")
            await until(lambda: served.server.klippy.state == "shutdown")
            await switch(client, "plug", "on")
            await until(lambda: served.klippy.asked("gcode/firmware_restart"))
            assert len(served.klippy.asked("gcode/firmware_restart")) == 1


async def test_services_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []

    async def act(self: Machine, action: str, name: str) -> None:
        done.append((action, name))

    monkeypatch.setattr(Machine, "service_action", act)
    async with plugs.serving(plugs.Tasmota) as plug:
        options = "bound_services:\n    klipper\n    crowsnest\n"
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}{options}") as served:
            client = await served.client()
            assert await known(client) == "off"
            await switch(client, "plug", "on")
            await until(lambda: done == [("start", "klipper"), ("start", "crowsnest")])
            await switch(client, "plug", "on")  # it is on already
            await switch(client, "plug", "off")
            await until(lambda: done[2:] == [("stop", "klipper"), ("stop", "crowsnest")])


async def test_a_timer_switches_it_off() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}timer: 0.2\n") as served:
            client = await served.client()
            assert await known(client) == "off"
            await switch(client, "plug", "on")
            assert plug.is_on
            await until(lambda: not plug.is_on)


async def test_it_is_polled() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}poll_interval: 0.05\n") as served:
            client = await served.client()
            assert await known(client) == "off"
            client.messages.clear()
            plug.is_on = True
            (told,) = await client.wait_for("notify_power_changed")
            assert told["status"] == "on"


HOME_ASSISTANT = """
[power plug]
type: http
on_url: http://127.0.0.1:{port}/api/services/switch/turn_on
off_url: http://127.0.0.1:{port}/api/services/switch/turn_off
status_url: http://127.0.0.1:{port}/api/states/switch.printer
request_template:
  {% do http_request.add_header("Authorization", "Bearer %s" % secrets.home.token) %}
  {% if command in ["on", "off"] %}
    {% do http_request.set_method("POST") %}
    {% do http_request.set_body({"entity_id": "switch.printer"}) %}
  {% endif %}
  {% do http_request.send() %}
response_template:
  {% if command in ["on", "off"] %}
    {% do async_sleep(0.01) %}
    {% do http_request.set_method("GET") %}
    {% do http_request.set_body(None) %}
    {% do http_request.set_url(urls.status) %}
    {% set response = http_request.send() %}
    {% do response.raise_for_status() %}
  {% endif %}
  {% set resp = http_request.last_response().json() %}
  {resp["state"]}
"""


async def test_requests_by_templates(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.ini"
    secrets.write_text("[home]\ntoken: the-token\n")
    secrets.chmod(0o600)
    async with plugs.serving(plugs.Homeassistant) as plug:
        text = HOME_ASSISTANT.replace("{port}", str(plug.port)) + f"[secrets]\nsecrets_path: {secrets}\n"
        async with running(text) as served:
            client = await served.client()
            assert await known(client) == "off"
            assert await switch(client, "plug", "on") == {"plug": "on"}
            assert plug.is_on
            assert await switch(client, "plug", "toggle") == {"plug": "off"}
            assert plug.wrong == []


async def test_a_template_that_gives_no_state() -> None:
    async with plugs.serving(plugs.Homeassistant) as plug:
        url = f"http://127.0.0.1:{plug.port}/"
        text = f"[power plug]\ntype: http\non_url: {url}\noff_url: {url}\nstatus_url: {url}\nresponse_template: maybe\n"
        async with running(text) as served:
            assert await known(await served.client()) == "error"


async def test_stopping_while_devices_do_not_answer() -> None:
    async with plugs.serving(plugs.Tasmota) as plug:
        plug.delay_s = 60
        async with running(f"[power plug]\n{PLUG.format(port=plug.port)}") as served:
            await until(lambda: plug.asked)
            before = asyncio.get_running_loop().time()
            await _stop(served)
        assert asyncio.get_running_loop().time() - before < 3


async def _stop(served: Running) -> None:
    await served.server.stop()
