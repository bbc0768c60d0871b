"""Every type of power device against one that speaks its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moonfast.components.power import device
from moonfast.components.power import plugs as plugs_module
from moonfast.components.power.gpio import PULSE_S, pulses
from moonfast.components.power.tplink import decrypted, encrypted
from moonfast.host import gpio
from moonfast.host.digest import answer_to
from tests.unit.host.fake_gpio import FakeChip
from tests.wire.power import plugs
from tests.wire.running import RpcError, free_port, running, until

TYPES: list[tuple[str, Callable[[], plugs.Plug], str]] = [
    ("tasmota", plugs.Tasmota, "address: {address}\npassword: secret\noutput_id: 2"),
    ("shelly", plugs.ShellyOld, "address: {address}\nuser: me\npassword: secret"),
    ("shelly", plugs.ShellyNew, "address: {address}\npassword: secret\noutput_id: 1"),
    ("homeseer", plugs.Homeseer, "address: {address}\ndevice: 42\npassword: secret"),
    (
        "homeassistant",
        plugs.Homeassistant,
        "address: 127.0.0.1\nport: {port}\ndevice: switch.printer\ntoken: the-token\nstatus_delay: 0",
    ),
    ("loxonev1", plugs.Loxone, "address: {address}\noutput_id: The plug"),
    (
        "smartthings",
        plugs.Smartthings,
        "address: 127.0.0.1\nprotocol: http\nport: {port}\ndevice: d-1\ntoken: the-token",
    ),
    ("hue", plugs.HueLight, "address: 127.0.0.1\nport: {port}\nuser: the-key\ndevice_id: 3"),
    ("hue", plugs.HueGroup, "address: 127.0.0.1\nport: {port}\nuser: the-key\ndevice_id: 3\ndevice_type: group"),
    ("tplink_smartplug", plugs.Kasa, "address: 127.0.0.1\nport: {port}\noutput_id: 2"),
]


def config(type_name: str, options: str, port: int, name: str = "plug") -> str:
    filled = options.replace("{address}", f"127.0.0.1:{port}").replace("{port}", str(port))
    return f"\n[power {name}]\ntype: {type_name}\n{filled}\n"


@pytest.mark.parametrize(("type_name", "kind", "options"), TYPES, ids=[kind.__name__ for _, kind, _ in TYPES])
async def test_it_is_switched_and_asked(type_name: str, kind: Callable[[], plugs.Plug], options: str) -> None:
    async with plugs.serving(kind) as plug:
        plug.is_on = True
        async with running(config(type_name, options, plug.port)) as served:
            client = await served.client()
            assert await client.call("machine.device_power.get_device", {"device": "plug"}) == {"plug": "on"}
            client.messages.clear()
            found = await client.call("machine.device_power.post_device", {"device": "plug", "action": "off"})
            assert (found, plug.is_on) == ({"plug": "off"}, False)
            (told,) = await client.wait_for("notify_power_changed")
            assert told == {"device": "plug", "status": "off", "locked_while_printing": False, "type": type_name}
            found = await client.call("machine.device_power.post_device", {"device": "plug", "action": "toggle"})
            assert (found, plug.is_on) == ({"plug": "on"}, True)
            plug.is_on = False  # somebody at the device
            assert await client.call("machine.device_power.get_device", {"device": "plug"}) == {"plug": "off"}
            assert plug.wrong == []
            plug.is_broken = True
            with pytest.raises(RpcError, match="Error Setting Device Status: plug to on"):
                await client.call("machine.device_power.post_device", {"device": "plug", "action": "on"})
            devices = (await client.call("machine.device_power.devices"))["devices"]
            assert devices[0]["status"] == "error"
            plug.is_broken = False
            assert await client.call("machine.device_power.on", {"plug": None}) == {"plug": "on"}


async def test_a_tasmota_with_one_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugs.Tasmota, "relays", 1)
    async with plugs.serving(plugs.Tasmota) as plug:
        async with running(config("tasmota", TYPES[0][2], plug.port)) as served:
            client = await served.client()
            assert await client.call("machine.device_power.on", {"plug": None}) == {"plug": "on"}


async def test_slow_and_dead_devices_hold_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugs_module, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(device, "FIRST_RETRY_S", 0.2)
    async with plugs.serving(plugs.Tasmota) as slow, plugs.serving(plugs.Tasmota) as good:
        slow.delay_s = 60
        text = config("tasmota", TYPES[0][2], slow.port, "slow") + config("tasmota", TYPES[0][2], good.port, "good")
        text += config("tasmota", TYPES[0][2], free_port(), "dead")
        async with running(text) as served:
            client = await served.client()
            waiting = await client.start_call("machine.device_power.get_device", {"device": "slow"})
            async with asyncio.timeout(5):
                found = await client.call("machine.device_power.post_device", {"device": "good", "action": "on"})
            assert found == {"good": "on"}
            assert await waiting == {"slow": "error"}
            states = {
                item["device"]: item["status"]
                for item in (await client.call("machine.device_power.devices"))["devices"]
            }
            assert states == {"slow": "error", "good": "on", "dead": "error"}
            await asyncio.sleep(1)  # several tries
            assert (
                sum("[power dead]" in record.message for record in caplog.records if record.levelname == "WARNING") == 1
            )
            slow.delay_s = 0
            await until(lambda: slow.asked and served.server.components.failed == {})
            async with asyncio.timeout(10):
                while (await client.call("machine.device_power.get_device", {"device": "slow"})) != {"slow": "off"}:
                    await asyncio.sleep(0.1)


def test_the_cipher_of_tplink() -> None:
    """The example every description of the protocol has: {"system":...} begins with d0 f2 81."""
    text = b'{"system":{"set_relay_state":{"state":1}}}'
    assert encrypted(text)[:4] == bytes.fromhex("d0f281f8")
    assert decrypted(encrypted(text)) == text


def test_digest() -> None:
    """RFC 7616, section 3.9.1."""
    challenge = (
        'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
        'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    )
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    for algorithm, expected in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        found = answer_to(challenge.format(algorithm), "GET", "/dir/index.html", "Mufasa", "Circle of Life", cnonce)
        assert f'response="{expected}"' in found
        assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in found


UHUBCTL = """#!/bin/sh
# What uhubctl prints: the hub's ports before, and with an action, after it.
state=$(cat "{state}")
show() {{ echo "  Port 2: $([ "$1" = on ] && echo 0103 power enable connect || echo 0000 off)"; }}
[ "$1 $2 $3 $4" = "-l 1-1 -p 2" ] || {{ echo "No compatible devices detected!"; exit 1; }}
echo "Current status for hub 1-1 [2109:3431, USB 2.10, 4 ports, ppps]"
show "$state"
if [ "$5" = -a ]; then
    echo "$6" > "{state}"
    echo "Sent power $6 request"
    echo "New status for hub 1-1 [2109:3431, USB 2.10, 4 ports, ppps]"
    show "$6"
fi
"""


async def test_uhubctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    state.write_text("on\n")
    program = tmp_path / "uhubctl"
    program.write_text(UHUBCTL.format(state=state))
    program.chmod(0o755)
    text = "[power hub]\ntype: uhubctl\nlocation: 1-1\nport: 2\n[power other]\ntype: uhubctl\nlocation: 1-2\nport: 2\n"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    async with running(text) as served:
        client = await served.client()
        assert await client.call("machine.device_power.get_device", {"device": "hub"}) == {"hub": "on"}
        assert await client.call("machine.device_power.off", {"hub": None}) == {"hub": "off"}
        assert state.read_text() == "off\n"
        assert await client.call("machine.device_power.get_device", {"device": "other"}) == {"other": "error"}


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeChip]]:
    monkeypatch.setattr(gpio, "Chip", FakeChip)
    yield FakeChip
    FakeChip.clear()


async def test_a_relay_at_a_pin(chip: type[FakeChip]) -> None:
    text = "[power relay]\ntype: gpio\npin: !gpio26\ninitial_state: on\n[power bad]\ntype: gpio\npin: gpiochip4/gpio1\n"
    async with running(text) as served:
        client = await served.client()
        await until(lambda: ("gpiochip0", 26) in chip.lines)
        line = chip.lines["gpiochip0", 26]
        assert (line["flags"] & gpio.ACTIVE_LOW, line["value"]) == (gpio.ACTIVE_LOW, True)
        assert await client.call("machine.device_power.off", {"relay": None}) == {"relay": "off"}
        assert line["value"] is False
        assert await client.call("machine.device_power.get_device", {"device": "bad"}) == {"bad": "error"}


async def test_a_radio_plug(chip: type[FakeChip]) -> None:
    text = "[power radio]\ntype: rf\npin: gpio17\non_code: 1011\noff_code: 1000\n"
    async with running(text) as served:
        client = await served.client()
        await until(lambda: ("gpiochip0", 17) in chip.lines)
        line = chip.lines["gpiochip0", 17]
        assert await client.call("machine.device_power.get_device", {"device": "radio"}) == {"radio": "off"}
        line["history"] = []
        assert await client.call("machine.device_power.on", {"radio": None}) == {"radio": "on"}
        one = [level for level, _ in pulses("1011")]
        assert line["history"] == one * 10 + [False]


def test_pulses_of_a_code() -> None:
    lengths = [(level, round(seconds / PULSE_S)) for level, seconds in pulses("10")]
    assert lengths == [(True, 3), (False, 1), (True, 1), (False, 3), (True, 1), (False, 31)]
