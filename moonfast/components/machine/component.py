"""The machine component: puts its parts together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.component import Audience, Component, Restart
from moonfast.components.machine.peripherals import Peripherals
from moonfast.components.machine.power import PowerOff
from moonfast.components.machine.services import Services
from moonfast.components.machine.stats import Stats
from moonfast.components.machine.sudo import Sudo
from moonfast.config.options import Option, Section, Template
from moonfast.config.options import Path as PathOption
from moonfast.data_path import Options
from moonfast.host.procfs import ProcFiles
from moonfast.host.templates import Templates
from moonfast.klippy.session import Klippy
from moonfast.vocab import GET

if TYPE_CHECKING:
    from moonfast.components.machine.providers.base import Action, Owner, Provider

ROOT = Path("/")
"""Where /proc, /sys and /etc are."""
_NO_EFFECT = "Accepted as Moonraker's; has no effect here: this server never changes "


class MachineConfig(Section, name="machine"):
    provider: Annotated[
        Literal["systemd_dbus", "systemd_cli", "supervisord_cli", "none"],
        Option(doc="What starts and stops services on this machine. `none`: nothing does."),
    ] = "systemd_dbus"
    shutdown_action: Annotated[
        Literal["poweroff", "halt"],
        Option(doc="What a shutdown does: cut the power, or only halt, where a computer would start again."),
    ] = "poweroff"
    sudo_password: Annotated[
        Template | None,
        Option(doc="Password for sudo. Better a rule for PolicyKit, see the guide, or at least a secret."),
    ] = None
    enable_sudo_password: Annotated[
        bool, Option(doc="Clients may set the password for sudo, with `machine.sudo.password`.")
    ] = False
    supervisord_config_path: Annotated[
        PathOption | None, Option(doc="Configuration of Supervisor, if it is not where supervisorctl looks for it.")
    ] = None
    validate_service: Annotated[bool, Option(doc=f"{_NO_EFFECT}its own service file.")] = True
    validate_config: Annotated[bool, Option(doc=f"{_NO_EFFECT}its configuration.")] = True
    force_validation: Annotated[bool, Option(doc=f"{_NO_EFFECT}either of them.")] = False


class SystemInfoAnswer(TypedDict):
    system_info: dict[str, Any]


class Machine(Component):
    def __init__(
        self,
        config: MachineConfig,
        options: Options,
        audience: Audience,
        restart: Restart,
        klippy: Klippy,
        templates: Templates,
    ) -> None:
        self._config, self._klippy, self._root = config, klippy, ROOT
        self._files = ProcFiles(str(self._root))
        self._stats = Stats(self._files, audience, self.emit)
        self._sudo = Sudo(
            templates.compile(config.sudo_password) if config.sudo_password else None,
            takes_passwords=config.enable_sudo_password,
            emit=self.emit,
        )
        self._services = Services(
            self._make_provider,
            is_used=config.provider != "none",
            folder=options.data_path,
            emit=self.emit,
            spawn=self.spawn,
            restart=restart,
            klippy_pid=lambda: klippy.peer.pid if klippy.peer is not None else None,
            has_listeners=lambda: audience.listeners() > 0,
        )
        self._power = PowerOff(
            self._services,
            config.shutdown_action,
            is_container=lambda: self._about()["virtualization"]["virt_type"] == "container",
            is_simulated=options.simulate,
        )
        self._fixed: dict[str, Any] | None = None
        self.warnings = self._services.warnings
        self.parts = (self._stats, self._services, self._power, self._sudo, Peripherals(self._root))

    async def start(self) -> None:
        self._stats.start()
        self._services.start()
        methods = self._klippy.methods
        methods.register("shutdown_machine", lambda _: self.spawn(self._power.called_by_macro("shutdown")))
        methods.register("reboot_machine", lambda _: self.spawn(self._power.called_by_macro("reboot")))

    async def stop(self) -> None:
        self._stats.stop()
        self._files.close()
        await self._services.stop()

    @endpoint(GET, "/machine/system_info", runs_as_task=True)
    async def system_info(self, call: Call) -> SystemInfoAnswer:
        """Return what this machine is, its network and its services. Without a memory card `sd_info` is empty."""
        from moonfast.components.machine import info
        from moonfast.host import netlink

        links = netlink.links()
        return {
            "system_info": {
                **self._about(),
                "network": info.network(links),
                "canbus": info.canbus(self._root, links),
                "provider": self._config.provider,
                **await self._services.seen(),
            }
        }

    def is_service(self, name: str) -> bool:
        """Whether a service may be started and stopped here."""
        return self._services.is_allowed(name)

    async def service_action(self, action: Action, name: str) -> None:
        """Start, stop or restart a service. BadRequest: it is not among those that may be. ApiError: it cannot be."""
        await self._services.act(action, name)

    def _about(self) -> dict[str, Any]:
        if self._fixed is None:
            from moonfast.components.machine import info

            self._fixed = info.fixed(self._root)
        return self._fixed

    def _make_provider(self, owner: Owner) -> Provider:
        """Its module is imported for it."""
        match self._config.provider:
            case "systemd_dbus":
                from moonfast.components.machine.providers.systemd_dbus import SystemdDbus

                return SystemdDbus(owner, self._sudo, self._root)
            case "systemd_cli":
                from moonfast.components.machine.providers.systemd_cli import SystemdCli

                return SystemdCli(owner, self._sudo, self._root)
            case "supervisord_cli":
                from moonfast.components.machine.providers.supervisord_cli import SupervisordCli

                return SupervisordCli(owner, self._config.supervisord_config_path)
            case _:
                from moonfast.components.machine.providers.base import Provider

                return Provider(owner)
