"""Services by systemctl(1), run with sudo unless this server is root."""

from __future__ import annotations

import asyncio
from pathlib import Path

from moonfast.components.machine.providers.base import MAX_SERVICES, Action, Owner, PowerAction, States
from moonfast.components.machine.providers.programs import (
    ACTION_TIMEOUT_S,
    GUIDE,
    LOOK_TIMEOUT_S,
    PolledProvider,
    refused,
)
from moonfast.components.machine.sudo import Sudo
from moonfast.errors import Unavailable
from moonfast.host.shell import run

SUFFIX = ".service"
BOOTED = "run/systemd/system"
"""Is there where systemd runs (sd_booted(3))."""
MAX_CGROUP_BYTES = 4096
_LIST = ("--type=service", "--plain", "--no-legend", "--no-pager", "--full")


class SystemdCli(PolledProvider):
    """`root` is where /proc is."""

    def __init__(self, owner: Owner, sudo: Sudo, root: Path) -> None:
        super().__init__(owner)
        self._sudo, self._root = sudo, root

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

    async def look(self) -> None:
        await self._look(list(self.states))

    async def act(self, action: Action, name: str) -> None:
        ended = await self._sudo.run("systemctl", action, name + SUFFIX, timeout_s=ACTION_TIMEOUT_S)
        if not ended.is_good:
            raise refused(ended, action, name)
        self.hurry()

    async def power(self, action: PowerAction) -> None:
        ended = await self._sudo.run("systemctl", action, timeout_s=ACTION_TIMEOUT_S)
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
