"""The devices of the configuration, and what clients and macros do with them.

Source: specification, "Power APIs".
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.api.params import AllArguments
from moonfast.component import Component
from moonfast.components.job_queue import JobQueue
from moonfast.components.machine.component import Machine
from moonfast.components.mqtt import Mqtt
from moonfast.components.power.device import OFF, ON, Device, DeviceInfo, Parts, PowerConfig
from moonfast.config.load import Config
from moonfast.errors import ApiError, BadRequest, MoonfastError
from moonfast.host.templates import Templates
from moonfast.klippy.session import Klippy
from moonfast.state.job import Job
from moonfast.state.status import Status
from moonfast.vocab import GET, POST, KlippyState

log = logging.getLogger(__name__)

NOT_FOUND = "device_not_found"


class DeviceList(TypedDict):
    devices: list[DeviceInfo]


CHANGED = notification("power_changed", DeviceInfo, "A power device was switched, or does not answer any more.")

_FOLDER = "moonfast.components.power"
SWITCHES = {
    "gpio": f"{_FOLDER}.gpio:GpioDevice",
    "rf": f"{_FOLDER}.gpio:RfDevice",
    "klipper_device": f"{_FOLDER}.klipper_device:KlipperDevice",
    "http": f"{_FOLDER}.http:HttpDevice",
    "mqtt": f"{_FOLDER}.mqtt:MqttDevice",
    "tplink_smartplug": f"{_FOLDER}.tplink:Tplink",
    "tasmota": f"{_FOLDER}.plugs:Tasmota",
    "shelly": f"{_FOLDER}.plugs:Shelly",
    "homeseer": f"{_FOLDER}.plugs:Homeseer",
    "homeassistant": f"{_FOLDER}.plugs:Homeassistant",
    "loxonev1": f"{_FOLDER}.plugs:Loxonev1",
    "smartthings": f"{_FOLDER}.plugs:Smartthings",
    "hue": f"{_FOLDER}.plugs:Hue",
    "uhubctl": f"{_FOLDER}.uhubctl:Uhubctl",
}
"""How each type is talked to. Its Section has the same name with "Config" behind it."""


class Power(Component):
    section_types = {"": f"{_FOLDER}.device:PowerConfig", **{name: f"{path}Config" for name, path in SWITCHES.items()}}

    def __init__(
        self,
        config: Config,
        klippy: Klippy,
        status: Status,
        job: Job,
        templates: Templates,
        machine: Machine,
        job_queue: JobQueue,
        mqtt: Mqtt | None,
    ) -> None:
        self._config, self._klippy, self._job, self._machine, self._job_queue = config, klippy, job, machine, job_queue
        self._switch_parts = Parts(klippy, status, templates, mqtt)
        self.warnings: list[str] = []
        self._devices: dict[str, Device] = {}
        usable, problems = config.usable_sections(PowerConfig)
        for section in usable:
            try:
                self._add(section)
            except MoonfastError as exc:
                place = f"[{section.section_name}]"
                self.warnings.append(str(exc) if place in str(exc) else f"{place} {exc}")
        self.warnings += [str(problem) for problem in problems]
        for warning in self.warnings:
            log.error("A power device cannot be used: %s", warning)

    def _add(self, common: PowerConfig) -> None:
        """Build a device. MoonfastError: its options are wrong."""
        module_name, _, name = SWITCHES[common.type].partition(":")
        module = importlib.import_module(module_name)
        config = self._config.section_named(getattr(module, f"{name}Config"), common.section_name)
        self._devices[config.own_name] = Device(
            config,
            getattr(module, name)(config, self._switch_parts),
            klippy=self._klippy,
            is_printing=lambda: self._job.is_active,
            act_on_service=self._machine.service_action,
            notify=lambda device: self.emit_soon(CHANGED, device.info()),
            spawn=self.spawn,
        )

    async def start(self) -> None:
        for device in self._devices.values():
            self.spawn(device.begin())
        self._klippy.on_state.append(self._follow_klippy)
        self._job_queue.on_added.append(self._job_added)
        self._klippy.methods.register("set_device_power", self._called_by_macro)

    async def stop(self) -> None:
        self._klippy.on_state.remove(self._follow_klippy)
        self._job_queue.on_added.remove(self._job_added)
        self._klippy.methods.remove("set_device_power")
        for device in self._devices.values():
            await device.end()

    # for clients

    @endpoint(GET, "/machine/device_power/devices")
    def devices(self, call: Call) -> DeviceList:
        """Return all devices and the states that are known of them: `on`, `off`, `init` or `error`."""
        return {"devices": [device.info() for device in self._devices.values()]}

    @endpoint(GET, "/machine/device_power/device", runs_as_task=True)
    async def get_device(self, call: Call, device: str) -> dict[str, str]:
        """Ask a device for its state. Error 400: there is no such device."""
        return {device: await self._find(device).refresh()}

    @endpoint(POST, "/machine/device_power/device", runs_as_task=True)
    async def post_device(self, call: Call, device: str, action: str) -> dict[str, str]:
        """Switch a device: `on`, `off` or `toggle`; its state then.

        Error 400: there is no such device or action, it is locked during a print, or it does not do it.
        """
        return {device: await self._act(self._find(device), action)}

    @endpoint(GET, "/machine/device_power/status")
    async def status(self, call: Call, names: AllArguments) -> dict[str, str]:
        """Ask devices, whose names are the arguments, for their states."""
        return await self._together(names, lambda device: device.refresh())

    @endpoint(POST, "/machine/device_power/on")
    async def switch_on(self, call: Call, names: AllArguments) -> dict[str, str]:
        """Switch on devices, whose names are the arguments.

        Error 400: one is locked during a print; none is.
        """
        return await self._switch_all(names, ON)

    @endpoint(POST, "/machine/device_power/off")
    async def switch_off(self, call: Call, names: AllArguments) -> dict[str, str]:
        """Switch off devices, whose names are the arguments.

        Error 400: one is locked during a print; none is.
        """
        return await self._switch_all(names, OFF)

    async def _switch_all(self, names: AllArguments, state: str) -> dict[str, str]:
        for name in names:
            if name in self._devices:
                self._devices[name].check_unlocked()

        async def switch(device: Device) -> str:
            try:
                return await device.set(state)
            except BadRequest:
                return device.state  # "error" says it

        return await self._together(names, switch)

    async def _together(self, names: AllArguments, ask: Callable[[Device], Awaitable[str]]) -> dict[str, str]:
        """The same with several devices at once, by name."""
        if not names:
            raise BadRequest("No arguments provided")

        async def one(name: str) -> str:
            device = self._devices.get(name)
            return NOT_FOUND if device is None else await ask(device)

        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def _act(self, device: Device, action: str, *, is_forced: bool = False) -> str:
        if action == "toggle":
            return await device.toggle(is_forced=is_forced)
        if action not in (ON, OFF):
            raise BadRequest(f"Invalid requested action '{action}'")
        return await device.set(action, is_forced=is_forced)

    def _find(self, name: str) -> Device:
        try:
            return self._devices[name]
        except KeyError:
            raise BadRequest(f"No valid device named {name}") from None

    # for others

    def _follow_klippy(self, state: KlippyState) -> None:
        if state is KlippyState.SHUTDOWN:
            for device in self._devices.values():
                device.klipper_shut_down()

    def _job_added(self) -> None:
        for device in self._devices.values():
            if device.config.on_when_job_queued and device.state != ON:
                self.spawn(self._quietly(device, ON))

    def _called_by_macro(self, arguments: dict[str, Any]) -> None:
        """`set_device_power` with `device`, `state`, and `force` to switch what is locked."""
        name, state = str(arguments.get("device")), arguments.get("state")
        action = (ON if state else OFF) if isinstance(state, bool) else str(state).lower()
        device = self._devices.get(name)
        if device is None or action not in (ON, OFF, "toggle"):
            log.warning("set_device_power: there is no device '%.40s', or no state '%.40s'", name, state)
            return
        self.spawn(self._quietly(device, action, is_forced=arguments.get("force") is True))

    async def _quietly(self, device: Device, action: str, *, is_forced: bool = False) -> None:
        """Nobody waits for the answer."""
        try:
            await self._act(device, action, is_forced=is_forced)
        except ApiError as exc:
            log.warning("%s", exc.message)
