"""Services by systemd's D-Bus interface: it tells of every change. What D-Bus does not permit goes through systemctl.

Sources: org.freedesktop.systemd1(5), org.freedesktop.login1(5), the polkit reference manual. Needs dbus-fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonfast.components.machine.providers.base import MAX_SERVICES, Action, Owner, PowerAction
from moonfast.components.machine.providers.programs import ACTION_TIMEOUT_S, DONE, LOOK_TIMEOUT_S
from moonfast.components.machine.providers.systemd_cli import SUFFIX, SystemdCli
from moonfast.components.machine.sudo import Sudo
from moonfast.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "unix:path=/run/dbus/system_bus_socket"
RETRY_S = 30.0
SYSTEMD, LOGIND, POLKIT = "org.freedesktop.systemd1", "org.freedesktop.login1", "org.freedesktop.PolicyKit1"
MANAGER, UNIT, JOBS = f"{SYSTEMD}.Manager", f"{SYSTEMD}.Unit", "/org/freedesktop/systemd1"
LOGIN_PATH, POLKIT_PATH = "/org/freedesktop/login1", "/org/freedesktop/PolicyKit1/Authority"
PROPERTIES = "org.freedesktop.DBus.Properties"
METHODS = {"start": "StartUnit", "stop": "StopUnit", "restart": "RestartUnit"}
POWER = {"poweroff": "PowerOff", "halt": "Halt", "reboot": "Reboot"}
WANTED = {
    f"{SYSTEMD}.manage-units": "manage services",
    f"{LOGIND}.power-off": "shut the computer down",
    f"{LOGIND}.reboot": "reboot the computer",
}
"""What polkit has to permit, for the warnings."""
NO_SUCH_UNIT = f"{SYSTEMD}.NoSuchUnit"


class CallFailed(Exception):
    """A method call was answered by an error; `name` is the error's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class SystemdDbus(SystemdCli):
    """Where there is no bus, or no dbus-fast, it is the same as `systemd_cli`."""

    def __init__(self, owner: Owner, sudo: Sudo, root: Path) -> None:
        super().__init__(owner, sudo, root)
        self._bus: MessageBus | None = None
        self._paths: dict[str, str] = {}  # object path -> service
        self._is_told: set[str] = set()  # those of which a change has come
        self._jobs: dict[str, asyncio.Future[str]] = {}  # jobs that somebody waits for, by path
        self._ended: dict[str, str] = {}  # results of jobs that ended before somebody could wait
        self._is_acting = 0

    async def begin(self) -> None:
        if not has_bus():
            await super().begin()
            return
        try:
            await asyncio.to_thread(load_library)
        except ImportError:
            self.warnings.append(
                "[machine] the provider systemd_dbus needs the Python package dbus-fast: "
                "run `pip install dbus-fast` in this server's environment. Until then systemctl is used"
            )
        else:
            with contextlib.suppress(OSError, CallFailed, TimeoutError):
                await self._connect()
                await self._check_rights()
                return
            log.warning("systemd does not answer on D-Bus: systemctl is used until it does")
        await super().begin()

    async def watch(self) -> None:
        """Polls while there is no connection; a connection that is lost is made again."""
        while True:
            if self._bus is None:
                try:
                    async with asyncio.timeout(RETRY_S):
                        await super().watch()
                except TimeoutError:
                    await self._try_again()
            else:
                await self._wait_until_lost(self._bus)

    async def end(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def act(self, action: Action, name: str) -> None:
        if self._bus is None:
            await super().act(action, name)
            return
        self._is_acting += 1
        try:
            (job,) = await self._call(SYSTEMD, JOBS, MANAGER, METHODS[action], "ss", name + SUFFIX, "replace")
            result = await self._result_of(str(job))
        except CallFailed as exc:
            if exc.name == NO_SUCH_UNIT:
                raise BadRequest(
                    f"Service '{name}' could not be {DONE[action]}: there is no such service on this machine"
                ) from None
            log.info("D-Bus refuses to %s '%s' (%s): systemctl is tried", action, name, exc.name)
            await super().act(action, name)
            return
        except (TimeoutError, OSError):
            raise Unavailable(
                f"Service '{name}' could not be {DONE[action]} within {ACTION_TIMEOUT_S:g} s: look at its log"
            ) from None
        finally:
            self._is_acting -= 1
            if not self._is_acting:
                self._ended.clear()
        if result not in ("done", "skipped"):
            raise Unavailable(
                f"Service '{name}' could not be {DONE[action]} ({result}): look at its log with journalctl -u {name}"
            )

    async def power(self, action: PowerAction) -> None:
        if self._bus is not None:
            try:
                await self._call(LOGIND, LOGIN_PATH, f"{LOGIND}.Manager", POWER[action], "b", False)
            except (CallFailed, TimeoutError, OSError) as exc:
                log.info("logind refuses '%s' (%s): systemctl is tried", action, exc)
            else:
                return
        await super().power(action)

    async def _connect(self) -> None:
        """Subscribe to all changes, then look. OSError, CallFailed, TimeoutError: it cannot be done now."""
        from dbus_fast import BusType
        from dbus_fast.aio import MessageBus
        from dbus_fast.errors import AuthError, InvalidAddressError

        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                bus = self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        except (AuthError, InvalidAddressError) as exc:
            raise OSError(str(exc)) from None
        try:
            bus.add_message_handler(self._received)
            for rule in (
                f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'",
                f"type='signal',sender='{SYSTEMD}',interface='{PROPERTIES}',member='PropertiesChanged',arg0='{UNIT}'",
            ):
                await self._call(
                    "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", rule
                )
            await self._call(SYSTEMD, JOBS, MANAGER, "Subscribe")
            await self._look_for_units()
        except BaseException:
            bus.disconnect()
            self._bus = None
            raise

    async def _look_for_units(self) -> None:
        names: dict[str, None] = {}
        for method in ("ListUnitFilesByPatterns", "ListUnitsByPatterns"):
            (rows,) = await self._call(SYSTEMD, JOBS, MANAGER, method, "asas", [], ["*" + SUFFIX])
            for row in rows:
                unit = os.path.basename(row[0])
                if self.is_ours(unit):
                    names[unit.removesuffix(SUFFIX)] = None
        self._is_told.clear()
        for name in list(names)[:MAX_SERVICES]:
            (path,) = await self._call(SYSTEMD, JOBS, MANAGER, "LoadUnit", "s", name + SUFFIX)
            self._paths[path] = name
            (about,) = await self._call(SYSTEMD, path, PROPERTIES, "GetAll", "s", UNIT)
            if about["LoadState"].value not in ("loaded", "masked"):
                del self._paths[path]
            elif name not in self._is_told:  # a change that comes right behind the answer is met first, and is newer
                self._told(name, about)

    async def _check_rights(self) -> None:
        """Warn of what polkit does not permit: front ends would only see their requests fail."""
        if os.geteuid() == 0 or self._bus is None:
            return
        from dbus_fast import Variant

        subject = ["system-bus-name", {"name": Variant("s", self._bus.unique_name)}]
        missing = []
        for action, words in WANTED.items():
            try:
                ((is_permitted, *_),) = await self._call(
                    POLKIT,
                    POLKIT_PATH,
                    f"{POLKIT}.Authority",
                    "CheckAuthorization",
                    "(sa{sv})sa{ss}us",
                    subject,
                    action,
                    {},
                    0,
                    "",
                )
            except (CallFailed, TimeoutError, OSError):
                return  # without polkit there is nothing to check: sudo has to do
            if not is_permitted:
                missing.append(words)
        if missing:
            self.warnings.append(
                f"[machine] PolicyKit does not let this server {', '.join(missing)}: "
                "docs/guide/machine.md has the rule that does"
            )

    async def _call(
        self, service: str, path: str, interface: str, member: str, signature: str = "", *body: Any
    ) -> list[Any]:
        from dbus_fast import Message, MessageType

        bus = self._bus
        if bus is None:
            raise OSError("not connected")
        message = Message(
            destination=service, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                reply = await bus.call(message)
        except EOFError:
            raise OSError("the connection has ended") from None
        if reply is None:
            raise OSError("no reply")
        if reply.message_type is MessageType.ERROR:
            raise CallFailed(str(reply.error_name))
        return list(reply.body)

    async def _result_of(self, job: str) -> str:
        if job in self._ended:
            return self._ended[job]
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._jobs[job] = future
        try:
            async with asyncio.timeout(ACTION_TIMEOUT_S):
                return await future
        finally:
            del self._jobs[job]

    def _received(self, message: Message) -> None:
        if message.member == "JobRemoved" and len(message.body) >= 4:
            _, job, _, result = message.body[:4]
            if job in self._jobs and not self._jobs[job].done():
                self._jobs[job].set_result(result)
            elif self._is_acting:
                self._ended[job] = result
        elif message.member == "PropertiesChanged" and (name := self._paths.get(message.path or "")) is not None:
            changed = message.body[1]
            if "ActiveState" in changed and "SubState" in changed:  # systemd sends both if one has changed
                self._is_told.add(name)
                self._told(name, changed)

    def _told(self, name: str, properties: dict[str, Any]) -> None:
        active, sub = properties["ActiveState"].value, properties["SubState"].value
        self.take({name: {"active_state": active, "sub_state": sub}})

    async def _wait_until_lost(self, bus: MessageBus) -> None:
        from dbus_fast.errors import DBusFastError

        with contextlib.suppress(OSError, EOFError, DBusFastError):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        log.info("The connection to D-Bus has ended")
        self._bus = None
        for future in self._jobs.values():
            if not future.done():
                future.set_exception(OSError("disconnected"))

    async def _try_again(self) -> None:
        if has_bus():
            with contextlib.suppress(OSError, CallFailed, TimeoutError, ImportError):
                await self._connect()


def load_library() -> None:
    """Takes 50 ms and more."""
    import dbus_fast.aio

    assert dbus_fast.aio is not None


def has_bus() -> bool:
    """Whether there is a system bus to connect to (D-Bus specification, "Server Addresses")."""
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", DEFAULT_ADDRESS)
    for one in address.split(";"):
        kind, _, rest = one.partition(":")
        keys = dict(item.split("=", 1) for item in rest.split(",") if "=" in item)
        if kind != "unix" or "abstract" in keys or os.path.exists(keys.get("path", "")):
            return True
    return False
