"""Services by systemctl(1): as this user, whom polkit may allow it, or else with sudo.

A child process each few seconds would cost more than all the rest of the server does: while a unit runs systemd keeps a
link `/run/systemd/units/invocation:UNIT`, another for each run. systemctl is asked when the links are not as before, or
a unit is on its way from one state to another.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from moonfast.components.machine.providers.base import MAX_SERVICES, Action, Owner, PowerAction, States
from moonfast.components.machine.providers.programs import (
    ACTION_TIMEOUT_S,
    GUIDE,
    LOOK_TIMEOUT_S,
    NO_RIGHTS,
    PolledProvider,
    refused,
)
from moonfast.components.machine.sudo import Sudo
from moonfast.errors import Unavailable
from moonfast.host.shell import NOT_FOUND, Ended, run

SUFFIX = ".service"
BOOTED = "run/systemd/system"
"""Is there where systemd runs (sd_booted(3))."""
UNITS = "run/systemd/units"
UNSETTLED_S = 2.0
"""Between looks while a unit is neither up nor down."""
SURELY_S = 60.0
"""Between looks while nothing seems to happen."""
SETTLED = ("active", "inactive", "failed")
MAX_CGROUP_BYTES = 4096
_LIST = ("--type=service", "--plain", "--no-legend", "--no-pager", "--full")


class SystemdCli(PolledProvider):
    """`root` is where /proc is."""

    def __init__(self, owner: Owner, sudo: Sudo, root: Path) -> None:
        super().__init__(owner)
        self._sudo, self._root = sudo, root
        self._runs: list[str] = []  # what the links named at the last look

    async def begin(self) -> None:
        if not (self._root / BOOTED).is_dir():
            return
        names: dict[str, None] = {}
        listings = (("list-unit-files",), ("list-units", "--all"))
        for ended in await asyncio.gather(
            *(run(("systemctl", *listing, *_LIST), timeout_s=LOOK_TIMEOUT_S) for listing in listings)
        ):
            for line in ended.output.splitlines():
                unit = line.split(maxsplit=1)[0] if line.strip() else ""
                if self.is_ours(unit):
                    names[unit.removesuffix(SUFFIX)] = None
        await self._look(list(names)[:MAX_SERVICES])
        self._runs = self._present_runs()

    async def look(self) -> None:
        self._runs = self._present_runs()
        await self._look(list(self.states))

    def is_due(self, waited_s: float) -> bool:
        if not (self._root / UNITS).is_dir():
            return super().is_due(waited_s)
        is_settled = all(state["active_state"] in SETTLED for state in self.states.values())
        return waited_s >= (SURELY_S if is_settled else UNSETTLED_S) or self._present_runs() != self._runs

    def _present_runs(self) -> list[str]:
        found = []
        for name in self.states:
            try:
                found.append(os.readlink(self._root / UNITS / f"invocation:{name}{SUFFIX}"))
            except OSError:  # it does not run
                found.append("")
        return found

    async def act(self, action: Action, name: str) -> None:
        ended = await self._systemctl(action, name + SUFFIX)
        if not ended.is_good:
            raise refused(ended, action, name)
        self.hurry()

    async def power(self, action: PowerAction) -> None:
        ended = await self._systemctl(action)
        if not ended.is_good:
            raise Unavailable(f"The system refuses '{action}': this server may not do it. {GUIDE}")

    def own_service(self) -> str | None:
        return self.service_of("self")

    def service_of(self, pid: int | str) -> str | None:
        try:
            with (self._root / f"proc/{pid}/cgroup").open("rb") as stream:
                return service_in(stream.read(MAX_CGROUP_BYTES).decode("utf-8", "replace"))
        except OSError:
            return None

    def is_ours(self, unit: str) -> bool:
        """Templates, `x@.service`, are no services."""
        name = unit.removesuffix(SUFFIX)
        return name != unit and not name.endswith("@") and self._owner.is_allowed(name)

    async def _look(self, names: list[str]) -> None:
        if not names:
            return
        wanted = ("--no-pager", "--property=Id,LoadState,ActiveState,SubState")
        units = [name + SUFFIX for name in names]
        ended = await run(("systemctl", "show", *wanted, "--", *units), timeout_s=LOOK_TIMEOUT_S)
        self.take(states_in(ended.output))

    async def _systemctl(self, *words: str) -> Ended:
        if os.geteuid() == 0:
            return await run(("systemctl", *words), timeout_s=ACTION_TIMEOUT_S)
        ended = await run(("systemctl", "--no-ask-password", *words), timeout_s=ACTION_TIMEOUT_S)
        if not ended.is_good and any(text in ended.errors.lower() for text in NO_RIGHTS):
            with_sudo = await self._sudo.run("systemctl", *words, timeout_s=ACTION_TIMEOUT_S)
            return ended if with_sudo.status == NOT_FOUND else with_sudo
        return ended


def states_in(text: str) -> States:
    """Read what `systemctl show` prints: a block of lines for each unit, with an empty line between. Units that are
    not installed are left out."""
    found: States = {}
    for block in text.split("\n\n"):
        about = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = about.get("Id", "").removesuffix(SUFFIX)
        if name and about.get("LoadState") in ("loaded", "masked"):
            found[name] = {"active_state": about.get("ActiveState", ""), "sub_state": about.get("SubState", "")}
    return found


def service_in(cgroup: str) -> str | None:
    """The system's service in a /proc/PID/cgroup (cgroups(7)); those of a user's own systemd do not count."""
    for line in cgroup.splitlines():
        _, _, path = line.partition(":")
        controllers, _, path = path.partition(":")
        if controllers not in ("", "name=systemd") or "/user@" in path:
            continue
        for part in path.split("/"):
            if part.endswith(SUFFIX):
                return part.removesuffix(SUFFIX)
    return None
