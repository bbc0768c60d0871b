"""What a provider does. As it stands here it is `provider: none`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict

from moonfast.errors import ApiError, BadRequest, Unavailable
from moonfast.host.shell import NOT_FOUND, TIMED_OUT, Ended

MAX_SERVICES = 100
ACTION_TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 10.0
PERIOD_S = 5.0
"""Between two looks of those that are not told of changes."""

Action = Literal["start", "stop", "restart"]
PowerAction = Literal["poweroff", "halt", "reboot"]
DONE = {"start": "started", "stop": "stopped", "restart": "restarted"}
GUIDE = "docs/guide/machine.md says how to allow it"


class ServiceState(TypedDict):
    """Words of systemd: "active", "inactive", "failed", ...; "running", "dead", ..."""

    active_state: str
    sub_state: str


States = dict[str, ServiceState]  # by name, without ".service"


class Owner(NamedTuple):
    """Whom a provider works for. `on_change` gets what has changed; `has_listeners`: somebody is told of it."""

    is_allowed: Callable[[str], bool]
    on_change: Callable[[States], None]
    has_listeners: Callable[[], bool]


class Provider:
    """Of the services that are allowed, `states` knows those that there are, once `begin` has ended."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.states: States = {}
        self.warnings: list[str] = []

    async def begin(self) -> None:
        """Look for services."""

    async def watch(self) -> None:
        """Keep `states` up to date until it is cancelled. A provider that is told of changes has nothing to do here."""

    async def end(self) -> None:
        """Give up connections."""

    async def act(self, action: Action, name: str) -> None:
        """Returns when it is done. ApiError: it cannot be done."""
        raise BadRequest(f"Service '{name}' not allowed")

    async def power(self, action: PowerAction) -> None:
        """Begin to shut down or to reboot."""
        raise BadRequest("The computer cannot be shut down or rebooted: set 'provider' in section [machine] to systemd")

    def own_service(self) -> str | None:
        """The service that this process is; None where it is none."""
        return None

    def service_of(self, pid: int) -> str | None:
        """The service that a process belongs to."""
        return None

    def take(self, states: States) -> None:
        """Keep what was found, and tell of what is not as before."""
        kept = dict(list(states.items())[:MAX_SERVICES])
        changed = {name: state for name, state in kept.items() if self.states.get(name) != state}
        self.states = {**self.states, **kept}
        if changed:
            self._owner.on_change(changed)


class PolledProvider(Provider):
    """Looks again and again while there are listeners, and soon after `hurry` was called."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._wanted = asyncio.Event()

    def hurry(self) -> None:
        """Look soon: a request has changed something. Its answer goes out before."""
        self._wanted.set()

    async def look(self) -> None:
        """Find out the states of all services."""

    async def watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._wanted.wait()
            if self._wanted.is_set() or self._owner.has_listeners():
                self._wanted.clear()
                await self.look()


def refused(ended: Ended, action: str, name: str) -> ApiError:
    """Why a program could not do it."""
    what = f"Service '{name}' could not be {DONE.get(action, action)}"
    told = ended.errors.lower()
    if ended.status == NOT_FOUND:
        return Unavailable(f"{what}: a program is missing here. Choose another 'provider' in section [machine]")
    if ended.status == TIMED_OUT:
        return Unavailable(f"{what} within {ACTION_TIMEOUT_S:g} s: look at its log")
    if any(word in told for word in ("password is required", "terminal is required", "not in the sudoers", "denied")):
        return Unavailable(f"{what}: this server may not do it. {GUIDE}")
    if any(word in told for word in ("not found", "not loaded", "no such process")):
        return BadRequest(f"{what}: there is no such service on this machine")
    return Unavailable(f"{what}: look at its log with journalctl -u {name}")
