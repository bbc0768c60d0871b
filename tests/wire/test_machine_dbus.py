"""Services and power over D-Bus, against a systemd that is made up."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("dbus_fast", reason="the package dbus-fast is not installed")

from moonfast.components.machine.providers import systemd_dbus
from tests.wire.fake_systemd import SystemBus
from tests.wire.running import RpcError, running, until
from tests.wire.test_machine import System, info, refusal, system

__all__ = ["system"]

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed")

UNITS = {"klipper": "active", "klipper-2": "inactive", "sonar": "inactive", "ssh": "active", "klipper@": "inactive"}


@pytest.fixture
def bus(tmp_path: Path, system: System, monkeypatch: pytest.MonkeyPatch) -> SystemBus:
    """The server finds it, once it is started."""
    made = SystemBus(tmp_path)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    return made


async def test_services(bus: SystemBus, system: System) -> None:
    async with bus.serving(UNITS) as systemd, running("") as served:
        assert systemd.called == []  # until somebody wants to know
        client = await served.client()
        found = await info(client)
        assert found["available_services"] == ["klipper", "klipper-2", "sonar"]
        assert found["service_state"]["klipper-2"] == {"active_state": "inactive", "sub_state": "dead"}
        systemd.set("klipper", "failed")
        assert await client.wait_for("notify_service_state_changed") == [
            {"klipper": {"active_state": "failed", "sub_state": "dead"}}
        ]
        systemd.set("ssh", "failed")  # nobody's business
        assert await client.call("machine.services.start", {"service": "sonar"}) == "ok"
        assert await client.wait_for("notify_service_state_changed", 2) == [
            {"sonar": {"active_state": "active", "sub_state": "running"}}
        ]
        for action in ("stop", "restart"):
            assert await client.call(f"machine.services.{action}", {"service": "klipper-2"}) == "ok"
        assert systemd.acted() == [
            "StartUnit sonar.service replace",
            "StopUnit klipper-2.service replace",
            "RestartUnit klipper-2.service replace",
        ]
        assert "no such service" in (await refusal(client, "machine.services.start", service="klipper-9"))[1]
        systemd.fails = True
        code, message = await refusal(client, "machine.services.start", service="klipper-2")
        assert (code, "(failed)" in message) == (503, True)
        assert system.asked() == []


async def test_many_at_once(bus: SystemBus) -> None:
    async with bus.serving(UNITS) as systemd, running("") as served:
        client = await served.client()
        calls = [client.call("machine.services.restart", {"service": name}) for name in ("klipper", "sonar") * 5]
        assert await asyncio.gather(*calls) == ["ok"] * 10
        assert len(systemd.acted()) == 10


async def test_what_dbus_refuses_goes_through_systemctl(bus: SystemBus, system: System) -> None:
    async with bus.serving(UNITS) as systemd, running("") as served:
        systemd.refuses = {"StartUnit", "PowerOff"}
        client = await served.client()
        assert await client.call("machine.services.start", {"service": "sonar"}) == "ok"
        assert system.asked("start sonar.service")
        assert await client.call("machine.reboot") == "ok"
        assert systemd.called[-1] == "Reboot"
        assert system.asked("reboot") == []
        assert await client.call("machine.shutdown") == "ok"
        assert system.asked("poweroff")
        system.refuse()
        assert (await refusal(client, "machine.services.start", service="sonar"))[0] == 503
        assert (await refusal(client, "machine.shutdown"))[0] == 503


async def test_missing_rights_are_a_warning(bus: SystemBus, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bus.serving(UNITS) as systemd, running("") as served:
        client = await served.client()
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        systemd.refuses = {"org.freedesktop.login1.reboot"}
        await info(client)
        warnings = [text for text in (await client.call("server.info"))["warnings"] if "PolicyKit" in text]
        assert len(warnings) == 1
        assert "reboot the computer:" in warnings[0]
        assert "manage" not in warnings[0]


async def test_a_bus_that_ends_and_comes_back(bus: SystemBus, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_dbus, "RETRY_S", 0.05)
    async with bus.serving(UNITS), running("") as served:
        client = await served.client()
        await info(client)
        await bus.end()
        await asyncio.sleep(0.1)  # it is noticed
        assert await client.call("machine.services.start", {"service": "sonar"}) == "ok"
        assert system.asked("start sonar.service")  # by systemctl
        systemd = await bus.start({**UNITS, "klipper": "inactive"})
        await until(lambda: "Subscribe" in systemd.called)
        await client.wait_for("notify_service_state_changed")
        systemd.set("klipper", "activating")
        await until(lambda: any("activating" in str(item) for item in client.of("notify_service_state_changed")))


async def test_a_bus_without_systemd(bus: SystemBus, system: System) -> None:
    """As in some containers."""
    async with bus.serving(UNITS), running("") as served:
        assert bus.bus is not None
        await bus.bus.release_name("org.freedesktop.systemd1")
        found = await info(await served.client())
        assert "klipper" in found["available_services"]
        assert system.asked("list-unit-files")


async def test_a_bus_that_does_not_answer(bus: SystemBus, system: System) -> None:
    bus.path.touch()  # what is left of one
    async with running("") as served:
        client = await served.client()
        assert "klipper" in (await info(client))["available_services"]
        assert await client.call("machine.shutdown") == "ok"
        assert system.asked("poweroff")


async def test_a_bus_that_ends_meanwhile(bus: SystemBus) -> None:
    async with bus.serving(UNITS) as systemd, running("") as served:
        client = await served.client()
        await info(client)
        systemd.is_slow = True
        call = await client.start_call("machine.services.start", {"service": "sonar"})
        await until(systemd.acted)
        await bus.end()
        with pytest.raises(RpcError, match="could not be started") as caught:
            await call
        assert caught.value.code == 503


async def test_without_the_package(bus: SystemBus, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("no module", name="dbus_fast")

    monkeypatch.setattr(systemd_dbus, "load_library", missing)
    async with bus.serving(UNITS), running("") as served:
        client = await served.client()
        assert "klipper" in (await info(client))["available_services"]
        assert [text for text in (await client.call("server.info"))["warnings"] if "pip install dbus-fast" in text]


@pytest.mark.parametrize(
    ("address", "is_there"),
    [
        ("unix:path=/nowhere/at/all", False),
        ("unix:path=/nowhere/at/all;unix:path=/", True),
        ("unix:abstract=/tmp/x", True),
        ("tcp:host=127.0.0.1,port=1", True),
    ],
)
def test_where_a_bus_is(address: str, is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    assert systemd_dbus.has_bus() is is_there
