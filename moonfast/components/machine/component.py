"""The machine component: puts its parts together."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.component import Audience, Component
from moonfast.components.machine.stats import Stats
from moonfast.config.options import Option, Section
from moonfast.errors import BadRequest
from moonfast.host.procfs import ProcFiles
from moonfast.vocab import GET


class MachineConfig(Section, name="machine"):
    provider: Annotated[
        Literal["systemd_dbus", "systemd_cli", "supervisord_cli", "none"],
        Option(doc="What starts and stops services on this machine."),
    ] = "systemd_dbus"


class SystemInfoAnswer(TypedDict):
    system_info: dict[str, Any]


class Machine(Component):
    def __init__(self, config: MachineConfig, audience: Audience) -> None:
        self._config = config
        self._root = "/"
        self._files = ProcFiles(self._root)
        self._stats = Stats(self._files, audience, self.emit)
        self._fixed: dict[str, Any] | None = None
        self.parts = (self._stats,)

    async def start(self) -> None:
        self._stats.start()

    async def stop(self) -> None:
        self._stats.stop()
        self._files.close()

    @endpoint(GET, "/machine/system_info")
    async def system_info(self, call: Call) -> SystemInfoAnswer:
        """Return what this machine is, its network and its services. Without a memory card `sd_info` is empty."""
        from pathlib import Path

        from moonfast.components.machine import info
        from moonfast.host import netlink

        root = Path(self._root)
        if self._fixed is None:
            self._fixed = info.fixed(root)
        links = netlink.links()
        return {
            "system_info": {
                **self._fixed,
                "network": info.network(links),
                "canbus": info.canbus(root, links),
                "provider": self._config.provider,
                "available_services": [],
                "service_state": {},
                "instance_ids": {"moonraker": "moonraker", "klipper": "klipper"},
            }
        }

    async def service_action(self, action: str, name: str) -> None:
        """Start, stop or restart a service. BadRequest: it is not among those that may be."""
        raise BadRequest(f"Service '{name}' not allowed")
