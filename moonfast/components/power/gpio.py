"""Relays and radio plugs at the pins of this computer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Literal

from moonfast.components.power.device import OFF, ON, Parts, PowerConfig
from moonfast.config.options import Option
from moonfast.errors import ConfigError
from moonfast.host.gpio import OutputLine, open_output, parse

PULSE_S = 0.00035
"""Length of the shortest pulse; all others are multiples of it."""
REPEATS = 10
SYNC = (1, 31)
BITS = {"0": (1, 3), "1": (3, 1)}  # pulses high, then low
MAX_CODE = 64


class GpioDeviceConfig(PowerConfig, prefix="power", type="gpio"):
    """A relay, or anything else that follows a pin of this computer."""

    pin: Annotated[str, Option(doc="The pin: `gpiochip0/gpio26`; with `!` in front of it, inverted.")]
    initial_state: Annotated[Literal["on", "off"] | None, Option(doc="Its state when the server starts.")] = "off"


class Pinned:
    """Base of both: a pin that is taken when it is first needed, since its chip may come later."""

    def __init__(self, pin: str, *, initial: bool) -> None:
        parse(pin)  # a wrong one is told of at once
        self._pin, self._initial = pin, initial
        self._line: OutputLine | None = None

    async def start(self, changed: Callable[[str], None]) -> None:
        """Nothing is to be prepared."""

    async def stop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _opened(self) -> OutputLine:
        if self._line is None:
            self._line = open_output(self._pin, initial=self._initial)
        return self._line


class GpioDevice(Pinned):
    def __init__(self, config: GpioDeviceConfig, parts: Parts) -> None:
        super().__init__(config.pin, initial=config.initial_state == ON)

    async def read(self) -> str:
        return ON if self._opened().value else OFF

    async def write(self, state: str) -> str:
        self._opened().set(state == ON)
        return state


class RfDeviceConfig(GpioDeviceConfig, prefix="power", type="rf"):
    """A radio plug (433 MHz, protocol of the PT2262 and EV1527), with a transmitter at a pin of this computer."""

    on_code: Annotated[str, Option(doc="Code that switches it on, in binary: `1011`.")]
    off_code: Annotated[str, Option(doc="Code that switches it off.")]


class RfDevice(Pinned):
    """The plug does not answer: its state is what was sent last."""

    def __init__(self, config: RfDeviceConfig, parts: Parts) -> None:
        super().__init__(config.pin, initial=False)
        for option in ("on_code", "off_code"):
            code = getattr(config, option)
            if not 0 < len(code) <= MAX_CODE or set(code) - {"0", "1"}:
                raise ConfigError(
                    f"'{code[:40]}' is not a code.",
                    section=config.section_name,
                    option=option,
                    remedy=f"Write up to {MAX_CODE} digits 0 and 1.",
                )
        self._codes, self._state = {ON: config.on_code, OFF: config.off_code}, OFF

    async def read(self) -> str:
        return self._state

    async def write(self, state: str) -> str:
        await asyncio.to_thread(_send, self._opened(), self._codes[state])
        self._state = state
        return state


def pulses(code: str) -> list[tuple[bool, float]]:
    """What is sent: level of the pin and seconds, for one repetition."""
    found: list[tuple[bool, float]] = []
    for high, low in [*(BITS[bit] for bit in code), SYNC]:
        found += [(True, high * PULSE_S), (False, low * PULSE_S)]
    return found


def _send(line: OutputLine, code: str) -> None:
    """Send a code, in a thread: sleeping is too coarse for such pulses, so it waits for the clock."""
    for _ in range(REPEATS):
        due = time.perf_counter()
        for level, seconds in pulses(code):
            line.set(level)
            due += seconds
            while time.perf_counter() < due:
                time.sleep(0)  # lets the loop run in between
    line.set(False)
