"""A system bus of its own, and on it a systemd, a logind and a polkit that do what tests want."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

SYSTEMD, LOGIND, POLKIT = "org.freedesktop.systemd1", "org.freedesktop.login1", "org.freedesktop.PolicyKit1"
MANAGER, UNIT = f"{SYSTEMD}.Manager", f"{SYSTEMD}.Unit"
REFUSED = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
UNIT_PATH = "/org/freedesktop/systemd1/unit/"
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class FakeSystemd:
    """`refuses`: members that are answered by an error for want of rights. `fails`: jobs do not succeed; `is_slow`:
    they do not end."""

    def __init__(self, bus: MessageBus, units: dict[str, str]) -> None:
        self._bus = bus
        self.units = dict(units)  # name -> active state
        self.refuses: set[str] = set()
        self.fails = self.is_slow = False
        self.called: list[str] = []
        self._jobs = 0

    def acted(self) -> list[str]:
        """What changes something, of what it was called for."""
        return [text for text in self.called if text.split()[0] in ("StartUnit", "StopUnit", "RestartUnit")]

    def set(self, name: str, state: str) -> None:
        """Change a service, and tell."""
        self.units[name] = state
        self._signal(
            UNIT_PATH + path_name(name),
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            "sa{sv}as",
            [UNIT, self._properties(name), []],
        )

    def received(self, message: Message) -> Message | bool:
        if message.message_type is not MessageType.METHOD_CALL or not (message.path or "").startswith(
            "/org/freedesktop/"
        ):
            return False
        member = message.member or ""
        self.called.append(" ".join([member, *(item for item in message.body if isinstance(item, str))]))
        if member in self.refuses:
            return Message.new_error(message, REFUSED, "Interactive authentication required.")
        if member in ("StartUnit", "StopUnit", "RestartUnit"):
            return self._act(message)
        signature, body = self._answer(member, message)
        return Message.new_method_return(message, signature, body)

    def _answer(self, member: str, message: Message) -> tuple[str, list[Any]]:
        if member == "ListUnitFilesByPatterns":
            return "a(ss)", [[[f"/lib/systemd/system/{name}.service", "enabled"] for name in self.units]]
        if member == "ListUnitsByPatterns":
            row = ["extra.service", "", "loaded", "active", "running", "", "/x", 0, "", "/"]
            return "a(ssssssouso)", [[row]]
        if member == "LoadUnit":
            return "o", [UNIT_PATH + path_name(message.body[0].removesuffix(".service"))]
        if member == "GetAll":
            name = next((name for name in self.units if message.path == UNIT_PATH + path_name(name)), "")
            return "a{sv}", [self._properties(name)]
        if member == "CheckAuthorization":
            return "(bba{ss})", [[message.body[1] not in self.refuses, False, {}]]
        return "", []  # Subscribe, PowerOff, ...

    def _act(self, message: Message) -> Message:
        name = message.body[0].removesuffix(".service")
        if name not in self.units:
            return Message.new_error(message, f"{SYSTEMD}.NoSuchUnit", "Unit not found.")
        self._jobs += 1
        job = f"/org/freedesktop/systemd1/job/{self._jobs}"

        def finish() -> None:
            if not self.fails:
                self.set(name, "inactive" if message.member == "StopUnit" else "active")
            result = "failed" if self.fails else "done"
            self._signal(
                "/org/freedesktop/systemd1",
                MANAGER,
                "JobRemoved",
                "uoss",
                [self._jobs, job, f"{name}.service", result],
            )

        if not self.is_slow:
            asyncio.get_running_loop().call_later(0.01, finish)
        return Message.new_method_return(message, "o", [job])

    def _properties(self, name: str) -> dict[str, Variant]:
        state = self.units.get(name, "inactive")
        return {
            "LoadState": Variant("s", "loaded" if name in self.units else "not-found"),
            "ActiveState": Variant("s", state),
            "SubState": Variant("s", "running" if state == "active" else "dead"),
        }

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        self._bus.send(Message.new_signal(path, interface, member, signature, body))


def path_name(name: str) -> str:
    """As systemd does it: what D-Bus does not allow in a path is written in hex."""
    return "".join(sign if sign.isalnum() else f"_{ord(sign):02x}" for sign in name + ".service")


class SystemBus:
    """A dbus-daemon that can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bus"
        self.address = f"unix:path={self.path}"
        self._config = folder / "bus.conf"
        self._config.write_text(CONFIG.format(path=self.path))
        self._daemon: Process | None = None
        self.bus: MessageBus | None = None

    async def start(self, units: dict[str, str]) -> FakeSystemd:
        self._daemon = await asyncio.create_subprocess_exec(
            "dbus-daemon",
            f"--config-file={self._config}",
            "--nofork",
            "--print-address",
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._daemon.stdout is not None
        await self._daemon.stdout.readline()
        self.bus = await MessageBus(self.address).connect()
        systemd = FakeSystemd(self.bus, units)
        self.bus.add_message_handler(systemd.received)
        for name in (SYSTEMD, LOGIND, POLKIT):
            await self.bus.request_name(name)
        return systemd

    async def end(self) -> None:
        if self.bus is not None:
            self.bus.disconnect()
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.terminate()
            await self._daemon.wait()
        self.path.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def serving(self, units: dict[str, str]) -> AsyncIterator[FakeSystemd]:
        try:
            yield await self.start(units)
        finally:
            await self.end()
