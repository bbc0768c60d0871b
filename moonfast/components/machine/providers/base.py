"""What a provider does. As it stands here it is `provider: none`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypedDict

from moonfast.errors import BadRequest

MAX_SERVICES = 100

Action = Literal["start", "stop", "restart"]
PowerAction = Literal["poweroff", "halt", "reboot"]


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
