"""A pin or a macro of Klipper as a power device. It follows the printer's status, whoever changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from moonfast.components.power.device import ERROR, INIT, OFF, ON, DeviceError, NotYet, Parts, PowerConfig
from moonfast.config.options import Option
from moonfast.errors import ConfigError
from moonfast.vocab import KlippyState

KINDS = ("output_pin", "gcode_macro")
TIMEOUT_S = 20.0


class KlipperDeviceConfig(PowerConfig, prefix="power", type="klipper_device"):
    """A macro gets the parameter VALUE, 1 or 0, and keeps it in its variable `value`."""

    object_name: Annotated[str, Option(doc="`output_pin NAME` or `gcode_macro NAME`, as in printer.cfg.")]


class KlipperDevice:
    def __init__(self, config: KlipperDeviceConfig, parts: Parts) -> None:
        self._object, self._klippy, self._status = config.object_name, parts.klippy, parts.status
        kind, _, self._name = config.object_name.partition(" ")
        if kind not in KINDS or not self._name or len(self._name.split()) != 1:
            raise ConfigError(
                f"'{config.object_name[:60]}' is not a pin or a macro.",
                section=config.section_name,
                option="object_name",
                remedy="Write 'output_pin NAME' or 'gcode_macro NAME'.",
            )
        self._command = f"SET_PIN PIN={self._name}" if kind == "output_pin" else self._name
        self._changed: Callable[[str], None] = lambda state: None

    async def start(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._klippy.want_also({self._object: ["value"]})
        self._status.watch(self._object, self._look)
        self._klippy.on_state.append(self._follow)
        if self._klippy.state is KlippyState.READY:
            await self._klippy.subscriptions.want({self._object: ["value"]})

    async def stop(self) -> None:
        self._klippy.on_state.remove(self._follow)

    async def read(self) -> str:
        if self._klippy.state is not KlippyState.READY:
            raise NotYet("Klipper is not ready")
        value = self._status.field(self._object, "value")
        if value is None:
            raise DeviceError(f"the printer has no '{self._object}' with a value")
        return _state(value)

    async def write(self, state: str) -> str:
        await self.read()  # it is there
        script = f"{self._command} VALUE={1 if state == ON else 0}"
        await self._klippy.request("gcode/script", {"script": script}, timeout_s=TIMEOUT_S)
        return state

    def _look(self) -> None:
        value = self._status.field(self._object, "value")
        if value is not None:
            self._changed(_state(value))

    def _follow(self, state: KlippyState) -> None:
        if state is KlippyState.READY:
            value = self._status.field(self._object, "value")
            self._changed(ERROR if value is None else _state(value))
        else:
            self._changed(INIT)


def _state(value: bytes) -> str:
    """A raw value of the status: a pin's is a number, a macro's what its author put there."""
    return OFF if value in (b"0", b"0.0", b"null", b"false", b'"0"', b'""') else ON
