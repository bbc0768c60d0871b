"""Services, power and sudo of a whole server, with stand-ins for the programs of the system first in PATH."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from moonfast.components.machine import component, services, stats
from moonfast.components.machine.providers import programs, systemd_cli
from moonfast.data_path import Options
from tests.unit.components.machine.trees import CONTAINER, PI, build
from tests.wire.running import Client, RpcError, make_options, running, until

SYSTEMD_CLI = "[machine]\nprovider: systemd_cli\n"
UNITS = {"klipper": "active", "moonraker": "active", "sonar": "inactive", "ssh": "active", "klipper@": "inactive"}

SYSTEMCTL = """#!/usr/bin/python3 -S
import json, os, sys
folder = os.environ["FAKE_SYSTEM"]
words = [word for word in sys.argv[1:] if not word.startswith("-")]
with open(folder + "/asked", "a") as stream:
    stream.write(" ".join(sys.argv[1:]) + "\\n")
units = json.load(open(folder + "/units"))
command, names = words[0], [word.removesuffix(".service") for word in words[1:]]
if command in ("list-unit-files", "list-units"):
    print("\\n".join(f"{name}.service loaded x" for name in units))
elif command == "show":
    for name in names:
        state = units.get(name)
        print(f"Id={name}.service\\nLoadState={'loaded' if state else 'not-found'}")
        print(f"ActiveState={state}\\nSubState={'running' if state == 'active' else 'dead'}\\n")
elif os.path.exists(folder + "/needs_root") and "AS_ROOT" not in os.environ:
    sys.exit(f"Failed to {command} {' '.join(names)}: Interactive authentication required.")
elif command in ("start", "stop", "restart"):
    if names[0] not in units:
        sys.exit(f"Failed to {command} {names[0]}.service: Unit {names[0]}.service not found.")
    if os.path.exists(folder + "/refuse"):
        sys.exit("sudo: a password is required")
    units[names[0]] = "inactive" if command == "stop" else "active"
    json.dump(units, open(folder + "/units", "w"))
elif os.path.exists(folder + "/refuse"):
    sys.exit("Access denied")
"""
SUDO = """#!/bin/sh
echo "sudo $*" >> "$FAKE_SYSTEM/asked"
while true; do case "$1" in
    -S) read -r password; [ "$password" = secret ] || exit 1; shift;;
    -p) shift 2;;
    -n) [ ! -e "$FAKE_SYSTEM/wants_password" ] || { echo "sudo: a password is required" >&2; exit 1; }; shift;;
    -k) shift;;
    *) break;;
esac; done
AS_ROOT=1 exec "$@"
"""
SUPERVISORCTL = """#!/bin/sh
echo "supervisorctl $*" >> "$FAKE_SYSTEM/asked"
case "$*" in
    *status) cat "$FAKE_SYSTEM/status";;
    *" stop group:klipper") echo "group:klipper  STOPPED  Not started" > "$FAKE_SYSTEM/status";;
    *sonar) echo "sonar: ERROR (no such process)"; exit 1;;
esac
"""


class System:
    """The programs, what they were asked and what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set_units(UNITS)

    def set_units(self, units: dict[str, str]) -> None:
        (self.folder / "units").write_text(json.dumps(units))

    def add(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def want_root(self) -> None:
        """Without sudo nothing is allowed."""
        (self.folder / "needs_root").touch()

    def refuse(self) -> None:
        (self.folder / "refuse").touch()

    def asked(self, word: str = "") -> list[str]:
        """What the programs were asked that has a word in it."""
        path = self.folder / "asked"
        return [line for line in path.read_text().splitlines() if word in line] if path.exists() else []


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """No program of the real system can be reached, nor its D-Bus."""
    folder = tmp_path / "bin"
    folder.mkdir()
    made = System(folder)
    made.add("systemctl", SYSTEMCTL)
    made.add("sudo", SUDO)
    for name in ("shutdown", "reboot", "poweroff", "halt"):
        made.add(name, "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SYSTEM", str(folder))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no_bus")
    root = build(tmp_path / "root", PI)
    (root / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setattr(component, "ROOT", root)
    return made


async def refusal(client: Client, method: str, **params: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as caught:
        await client.call(method, params)
    return caught.value.code, caught.value.message


async def info(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = (await client.call("machine.system_info"))["system_info"]
    return found


@pytest.mark.parametrize("provider", ["systemd_cli", "systemd_dbus"])
async def test_services_by_systemctl(system: System, provider: str) -> None:
    """D-Bus does without a bus."""
    async with running(f"[machine]\nprovider: {provider}\n") as served:
        assert system.asked() == []  # until somebody wants to know
        client = await served.client()
        found = await info(client)
        assert found["available_services"] == ["klipper", "moonraker", "sonar"]
        assert found["service_state"]["sonar"] == {"active_state": "inactive", "sub_state": "dead"}
        assert found["instance_ids"] == {"moonraker": "moonraker", "klipper": "klipper"}
        assert found["provider"] == provider
        assert await client.call("machine.services.start", {"service": "sonar"}) == "ok"
        assert await client.wait_for("notify_service_state_changed") == [
            {"sonar": {"active_state": "active", "sub_state": "running"}}
        ]
        assert await client.call("machine.services.stop", {"service": "klipper"}) == "ok"
        assert await client.wait_for("notify_service_state_changed", 2) == [
            {"klipper": {"active_state": "inactive", "sub_state": "dead"}}
        ]
        assert (await info(client))["service_state"]["klipper"]["active_state"] == "inactive"
        assert await refusal(client, "machine.services.stop", service="ssh") == (400, "Service 'ssh' not allowed")
        assert "no such service" in (await refusal(client, "machine.services.start", service="klipper-7"))[1]
        assert [line for line in system.asked("ssh") if "show" not in line] == []
        status, _ = await served.http("POST", "/machine/services/restart?service=sonar")
        assert status == 200
        assert system.asked("restart sonar.service")
        for wrong in ("klipper-" + "x" * 100_000, "klipper-\u00e4", "--force", "../x", "klipper-1.service", ""):
            code, message = await refusal(client, "machine.services.start", service=wrong)
            assert (code, len(message) < 200) == (400, True)
        for odd in (None, 5, ["sonar"], {}, True):
            assert (await refusal(client, "machine.services.start", service=odd))[0] == 400
        system.refuse()
        code, message = await refusal(client, "machine.services.restart", service="sonar")
        assert code == 503
        assert "docs/guide/machine.md" in message


async def test_changes_by_others_are_told(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PERIOD_S", 0.05)
    async with running(SYSTEMD_CLI) as served:
        client = await served.client()
        await info(client)
        system.set_units({**UNITS, "klipper": "failed"})
        assert await client.wait_for("notify_service_state_changed") == [
            {"klipper": {"active_state": "failed", "sub_state": "dead"}}
        ]


async def test_systemctl_is_asked_only_when_something_happens(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's links to the present runs tell; a unit that is starting is looked at until it has started."""
    monkeypatch.setattr(programs, "TICK_S", 0.02)
    monkeypatch.setattr(systemd_cli, "UNSETTLED_S", 0.05)
    units = component.ROOT / systemd_cli.UNITS
    units.mkdir()
    run = units / "invocation:klipper.service"
    run.symlink_to("1f")
    async with running(SYSTEMD_CLI) as served:
        client = await served.client()
        await info(client)
        looks = len(system.asked("show"))
        system.set_units({**UNITS, "klipper": "activating"})
        await asyncio.sleep(0.3)
        assert len(system.asked("show")) == looks
        run.unlink()
        run.symlink_to("2f")
        changed = await client.wait_for("notify_service_state_changed")
        assert changed == [{"klipper": {"active_state": "activating", "sub_state": "dead"}}]
        system.set_units({**UNITS, "klipper": "active"})
        changed = await client.wait_for("notify_service_state_changed", 2)
        assert changed == [{"klipper": {"active_state": "active", "sub_state": "running"}}]
        await asyncio.sleep(0.2)
        looks = len(system.asked("show"))
        run.unlink()
        system.set_units({**UNITS, "klipper": "failed"})
        await client.wait_for("notify_service_state_changed", 3)
        await asyncio.sleep(0.3)
        assert len(system.asked("show")) - looks in (
            1,
            2,
        )  # the second if the link was gone before the state was written


async def test_a_machine_without_systemd(system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(component, "ROOT", tmp_path)
    async with running("") as served:
        found = await info(await served.client())
        assert (found["available_services"], found["service_state"]) == ([], {})
        assert system.asked() == []


async def test_this_server_is_restarted_after_the_answer(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ANSWER_S", 0.02)
    restarts: list[None] = []
    async with running(SYSTEMD_CLI, restart=lambda: restarts.append(None)) as served:
        client = await served.client()
        assert await client.call("machine.services.restart", {"service": "moonraker"}) == "ok"
        await until(lambda: restarts)  # in place: it is no service
        cgroup = component.ROOT / "proc/self/cgroup"
        cgroup.parent.mkdir(parents=True, exist_ok=True)
        cgroup.write_text("0::/system.slice/moonraker-2.service\n")
        assert (await info(client))["instance_ids"]["moonraker"] == "moonraker-2"
        system.set_units({**UNITS, "moonraker-2": "active"})
        assert await client.call("machine.services.restart", {"service": "moonraker"}) == "ok"
        await until(lambda: system.asked("restart moonraker-2.service"))
        assert await refusal(client, "machine.services.stop", service="moonraker-2")
        assert len(restarts) == 1


async def test_the_service_of_the_printer_host(system: System) -> None:
    pid = os.getpid()  # Klippy is in this process here
    folder = component.ROOT / f"proc/{pid}"
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text("0::/system.slice/klipper-1.service\n")
    async with running(SYSTEMD_CLI) as served:
        assert (await info(await served.client()))["instance_ids"]["klipper"] == "klipper-1"


@pytest.mark.parametrize(("option", "action"), [("", "poweroff"), ("shutdown_action: halt\n", "halt")])
async def test_power(system: System, option: str, action: str) -> None:
    async with running(SYSTEMD_CLI + option) as served:
        client = await served.client()
        assert await client.call("machine.shutdown") == "ok"
        assert system.asked(action)
        assert (await served.http("POST", "/machine/reboot"))[0] == 200
        assert system.asked("reboot")
        count = len(system.asked("reboot"))
        served.klippy.peer.send({"method": "reboot_machine", "params": {}})
        await until(lambda: len(system.asked("reboot")) > count)
        count = len(system.asked(action))
        served.klippy.peer.send({"method": "shutdown_machine", "params": {}})
        await until(lambda: len(system.asked(action)) > count)
        system.refuse()
        code, message = await refusal(client, "machine.reboot")
        assert code == 503
        assert "docs/guide/machine.md" in message


async def test_no_power_in_a_container(system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(component, "ROOT", build(tmp_path / "container", CONTAINER))
    async with running(SYSTEMD_CLI) as served:
        code, message = await refusal(await served.client(), "machine.shutdown")
        assert code == 400
        assert "container" in message
        assert system.asked("poweroff") == []


@pytest.mark.parametrize("provider", ["none", "supervisord_cli"])
async def test_no_power_without_systemd(system: System, provider: str) -> None:
    system.add("supervisorctl", SUPERVISORCTL)
    (system.folder / "status").write_text("")
    async with running(f"[machine]\nprovider: {provider}\n") as served:
        client = await served.client()
        assert (await refusal(client, "machine.shutdown"))[0] == 400
        assert (await info(client))["available_services"] == []


async def test_supervisor(system: System) -> None:
    system.add("supervisorctl", SUPERVISORCTL)
    (system.folder / "status").write_text("group:klipper  RUNNING  pid 12, uptime 0:10:00\ncron  RUNNING  pid 3\n")
    text = "[machine]\nprovider: supervisord_cli\nsupervisord_config_path: /etc/x.conf\n"
    async with running(text) as served:
        client = await served.client()
        assert (await info(client))["service_state"] == {"klipper": {"active_state": "active", "sub_state": "running"}}
        assert await client.call("machine.services.stop", {"service": "klipper"}) == "ok"
        await client.wait_for("notify_service_state_changed")
        assert system.asked("stop") == ["supervisorctl -c /etc/x.conf stop group:klipper"]
        assert (await refusal(client, "machine.services.start", service="sonar"))[0] == 400


async def test_a_simulated_printer_leaves_the_computer_alone(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def simulated(data_path: str) -> Options:
        return dataclasses.replace(make_options(data_path), simulate=True)

    monkeypatch.setattr("tests.wire.running.make_options", simulated)
    async with running(SYSTEMD_CLI) as served:
        client = await served.client()
        for method in ("machine.shutdown", "machine.reboot"):
            code, message = await refusal(client, method)
            assert (code, "without --simulate" in message) == (400, True)
        served.klippy.peer.send({"method": "shutdown_machine", "params": {}})
        await until(lambda: any("A macro asked to shutdown" in record.getMessage() for record in caplog.records))
        assert not [line for line in system.asked() if "poweroff" in line or "reboot" in line]


async def test_sudo(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    async with running(SYSTEMD_CLI) as served:
        client = await served.client()
        assert await client.call("machine.services.restart", {"service": "sonar"}) == "ok"
        assert (len(system.asked("restart sonar")), system.asked("sudo")) == (1, [])  # polkit allows it
        system.want_root()
        assert await client.call("machine.services.restart", {"service": "sonar"}) == "ok"
        assert system.asked("sudo -n systemctl restart sonar.service")
        found = await client.call("machine.sudo.info")
        assert found["linux_user"]
        assert (found["sudo_access"], found["sudo_requested"], found["request_messages"]) == (None, False, [])
        assert (await client.call("machine.sudo.info", {"check_access": True}))["sudo_access"] is True
        assert system.asked("sudo -n true")
        assert (await refusal(client, "machine.sudo.password", password="secret"))[0] == 403
        for wrong in ("", "a\nb", "x" * 2000):
            assert (await refusal(client, "machine.sudo.password", password=wrong))[0] == 400
    async with running(SYSTEMD_CLI + "enable_sudo_password: True\n") as served:
        client = await served.client()
        other = await served.client()
        (system.folder / "wants_password").touch()
        assert (await refusal(client, "machine.services.start", service="sonar"))[0] == 503
        needs = "The password for sudo is needed to run: systemctl start sonar.service"
        alert = {"sudo_requested": True, "sudo_messages": [needs]}
        assert await other.wait_for("notify_sudo_alert") == [alert]
        found = await client.call("machine.sudo.info", {"check_access": True})
        assert (found["sudo_access"], found["sudo_requested"], found["request_messages"]) == (False, True, [needs])
        assert (await refusal(client, "machine.sudo.password", password="wrong"))[0] == 400
        assert await client.call("machine.sudo.password", {"password": "secret"}) == {
            "sudo_responses": [
                "Sudo password successfully set.",
                "What was refused for want of it can be done again now.",
            ],
            "is_restarting": False,
        }
        assert await other.wait_for("notify_sudo_alert", 2) == [{"sudo_requested": False, "sudo_messages": []}]
        assert await client.call("machine.services.start", {"service": "sonar"}) == "ok"
        assert system.asked("sudo -S -p  systemctl start sonar.service")
    async with running(SYSTEMD_CLI + "sudo_password: {'sec' + 'ret'}\n") as served:
        client = await served.client()
        assert await client.call("machine.services.stop", {"service": "sonar"}) == "ok"
        assert "secret" not in json.dumps(system.asked())
    async with running(SYSTEMD_CLI + "sudo_password: {secrets.sudo.password}\n") as served:
        client = await served.client()
        code, message = await refusal(client, "machine.services.start", service="sonar")
        assert code == 503
        assert "[machine] sudo_password" in message


async def test_peripherals_of_the_machine(system: System) -> None:
    async with running("") as served:
        client = await served.client()
        assert await client.call("machine.peripherals.usb") == {"usb_devices": []}
        assert await client.call("machine.peripherals.serial") == {"serial_devices": []}
        assert await client.call("machine.peripherals.video") == {"v4l2_devices": [], "libcamera_devices": []}
        code, message = await refusal(client, "machine.peripherals.canbus", interface="nosuch0")
        assert code in (400, 503)
        assert "CAN" in message


async def test_clients_are_told_how_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "PERIOD_S", 0.1)
    async with running() as served:
        one, other = await served.clients(2)
        await until(lambda: len(one.stats) > 1 and len(other.stats) > 1)
        (told,) = one.stats[-1]["params"]
        assert told["websocket_connections"] == 2
        assert told["moonraker_stats"]["memory"] > 1000
        assert (await one.call("machine.proc_stats"))["moonraker_stats"]
