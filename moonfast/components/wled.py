"""Light strips with the firmware WLED, over HTTP or a serial port.

Sources: WLED's documentation, "JSON API"; Moonraker's documentation, "[wled]" and "WLED Endpoints".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.api.params import AllArguments
from moonfast.codec import encode
from moonfast.component import Component
from moonfast.config.load import Config
from moonfast.config.options import Option, Section
from moonfast.errors import BadRequest, MoonfastError
from moonfast.host.http_client import HttpClient, RequestError
from moonfast.klippy.session import Klippy
from moonfast.vocab import GET, POST

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
BAUD = 115200
MAX_LEDS = 2000
UNSET = -1
ON, OFF, TOGGLE, CONTROL = "on", "off", "toggle", "control"


class WledConfig(Section, prefix="wled"):
    """A strip of lights. These options are common to both types."""

    type: Annotated[Literal["http", "serial"], Option(doc="How it is reached.")] = "http"
    initial_preset: Annotated[int, Option(minimum=-1, maximum=250, doc="Preset to begin with; -1: the colours.")] = -1
    initial_red: Annotated[float, Option(minimum=0.0, maximum=1.0, doc="Colour to begin with.")] = 0.5
    initial_green: Annotated[float, Option(minimum=0.0, maximum=1.0, doc="Colour to begin with.")] = 0.5
    initial_blue: Annotated[float, Option(minimum=0.0, maximum=1.0, doc="Colour to begin with.")] = 0.5
    initial_white: Annotated[float, Option(minimum=0.0, maximum=1.0, doc="For strips with white lights.")] = 0.0
    chain_count: Annotated[int, Option(minimum=1, maximum=MAX_LEDS, doc="How many lights it has.")] = 1
    color_order: Annotated[
        str | None, Option(doc="Order of the colours.", deprecated="set it in WLED, and remove the line.")
    ] = None
    address: Annotated[str | None, Option(doc="Name or address, for http.")] = None
    serial: Annotated[str | None, Option(doc="The port, for serial: `/dev/serial/by-id/...`.")] = None


class StripInfo(TypedDict):
    strip: str
    status: str
    chain_count: int
    preset: int
    brightness: int
    intensity: int
    speed: int
    error: str | None


class StripList(TypedDict):
    strips: dict[str, StripInfo]


class Way(Protocol):
    """How a strip is told its state. RequestError, OSError: it cannot be reached."""

    async def send(self, state: dict[str, Any]) -> None: ...

    async def close(self) -> None: ...


class OverHttp:
    def __init__(self, address: str) -> None:
        self._url, self._client = f"http://{address}/json/state", HttpClient(places=1)

    async def send(self, state: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await self._client.request("POST", self._url, headers=headers, body=encode(state), timeout_s=TIMEOUT_S)
        if answer.status != 200:
            raise RequestError(f"it answered with the status {answer.status}")

    async def close(self) -> None:
        """Nothing is left open."""


class OverSerial:
    """JSON, one text a line; WLED 0.13 or later."""

    def __init__(self, port: str) -> None:
        self._path = port
        self._port: Any = None

    async def send(self, state: dict[str, Any]) -> None:
        await asyncio.to_thread(self._write, encode(state) + b"\n")

    def _write(self, text: bytes) -> None:
        try:
            from serial import Serial  # type: ignore[import-untyped]
        except ImportError:
            raise RequestError("serial ports need the package pyserial: pip install 'moonfast[serial]'") from None
        if self._port is None:
            self._port = Serial(self._path, BAUD, timeout=TIMEOUT_S, write_timeout=TIMEOUT_S)
        try:
            self._port.write(text)
        except OSError:
            self._port.close()
            self._port = None
            raise

    async def close(self) -> None:
        if self._port is not None:
            self._port.close()


class Wled(Component):
    section_types = {"": "moonfast.components.wled:WledConfig"}

    def __init__(self, config: Config, klippy: Klippy) -> None:
        self._klippy = klippy
        usable, problems = config.usable_sections(WledConfig)
        self.warnings = [str(problem) for problem in problems]
        self._strips: dict[str, Strip] = {}
        for section in usable:
            needed = "address" if section.type == "http" else "serial"
            where = getattr(section, needed)
            if where is None:
                self.warnings.append(
                    f"[{section.section_name}] {needed}: is missing. Add it for the type {section.type}."
                )
                continue
            self._strips[section.own_name] = Strip(
                section, OverHttp(where) if needed == "address" else OverSerial(where)
            )
        for warning in self.warnings:
            log.error("A strip cannot be used: %s", warning)

    async def start(self) -> None:
        for strip in self._strips.values():
            self.spawn(strip.begin())
        self._klippy.methods.register("set_wled_state", lambda arguments: self.spawn(self._set_state(arguments)))
        self._klippy.methods.register("set_wled", lambda arguments: self.spawn(self._set_colour(arguments)))

    async def stop(self) -> None:
        for name in ("set_wled_state", "set_wled"):
            self._klippy.methods.remove(name)
        for strip in self._strips.values():
            await strip.close()

    @endpoint(GET, "/machine/wled/strips")
    def list_strips(self, call: Call) -> StripList:
        """Return all strips, as this server has set them; -1 is what it has not set."""
        return {"strips": {name: strip.info() for name, strip in self._strips.items()}}

    @endpoint(GET, "/machine/wled/status")
    async def status(self, call: Call, names: AllArguments) -> dict[str, Any]:
        """Return strips, whose names are the arguments."""
        return await self._each(names, None)

    @endpoint(POST, "/machine/wled/on")
    async def switch_on(self, call: Call, names: AllArguments) -> dict[str, Any]:
        """Switch on strips, whose names are the arguments, with their first preset or colour."""
        return await self._each(names, lambda strip: strip.control(ON))

    @endpoint(POST, "/machine/wled/off")
    async def switch_off(self, call: Call, names: AllArguments) -> dict[str, Any]:
        """Switch off strips, whose names are the arguments."""
        return await self._each(names, lambda strip: strip.control(OFF))

    @endpoint(POST, "/machine/wled/toggle")
    async def toggle(self, call: Call, names: AllArguments) -> dict[str, Any]:
        """Switch strips, whose names are the arguments, to the other state."""
        return await self._each(names, lambda strip: strip.control(TOGGLE))

    @endpoint(GET, "/machine/wled/strip")
    def get_strip(self, call: Call, strip: str) -> dict[str, StripInfo]:
        """Return one strip. Error 400: there is none of this name."""
        return {strip: self._find(strip).info()}

    @endpoint(POST, "/machine/wled/strip")
    async def post_strip(
        self,
        call: Call,
        strip: str,
        action: str,
        preset: int = UNSET,
        brightness: int = UNSET,
        intensity: int = UNSET,
        speed: int = UNSET,
    ) -> dict[str, StripInfo]:
        """Control a strip: `on`, `off`, `toggle` or `control`, which changes only what is given.

        `brightness` is 1 to 255, `intensity` and `speed` of a preset are 0 to 255. Error 400: a value cannot be.
        """
        found = self._find(strip)
        if action not in (ON, OFF, TOGGLE, CONTROL):
            raise BadRequest(f"Invalid requested action '{action}'")
        for name, value, least in (("brightness", brightness, 1), ("intensity", intensity, 0), ("speed", speed, 0)):
            if value != UNSET and not least <= value <= 255:
                raise BadRequest(f"Invalid value for '{name}': {value}. Use {least} to 255")
        await found.control(action, preset=preset, brightness=brightness, intensity=intensity, speed=speed)
        return {strip: found.info()}

    def _find(self, name: str) -> Strip:
        try:
            return self._strips[name]
        except KeyError:
            raise BadRequest(f"No valid strip named {name}") from None

    async def _each(self, names: AllArguments, act: Callable[[Strip], Awaitable[None]] | None) -> dict[str, Any]:
        if not names:
            raise BadRequest("No arguments provided")
        known = [self._strips[name] for name in names if name in self._strips]
        if act is not None:
            await asyncio.gather(*map(act, known))
        return {
            name: self._strips[name].info() if name in self._strips else {"error": "strip_not_found"} for name in names
        }

    # for macros

    async def _set_state(self, arguments: dict[str, Any]) -> None:
        """`set_wled_state` with `strip`, and `state`, `preset`, `brightness`, `intensity`, `speed` as wanted."""
        try:
            strip = self._find(str(arguments.get("strip")))
            state = arguments.get("state")
            values = {key: _whole(arguments.get(key)) for key in ("preset", "brightness", "intensity", "speed")}
        except MoonfastError as exc:
            log.warning("set_wled_state: %s", exc)
            return
        action = (ON if values["preset"] != UNSET else CONTROL) if state is None else ON if state else OFF
        await strip.control(action, **values)

    async def _set_colour(self, arguments: dict[str, Any]) -> None:
        """`set_wled` with `strip`, `red`, `green`, `blue`, `white` (0 to 1), `index` (from 1, -1: all), `transmit`."""
        try:
            strip = self._find(str(arguments.get("strip")))
            colour = [_share(arguments.get(key)) for key in ("red", "green", "blue", "white")]
            index = _whole(arguments.get("index"))
        except MoonfastError as exc:
            log.warning("set_wled: %s", exc)
            return
        await strip.set_colour(colour, index, is_sent=arguments.get("transmit", 1) != 0)


class Strip:
    """One strip. What cannot be sent is kept as `error`, and told of once in the log."""

    def __init__(self, config: WledConfig, way: Way) -> None:
        self._config, self._way = config, way
        first = (config.initial_red, config.initial_green, config.initial_blue, config.initial_white)
        self._first = [round(share * 255) for share in first]
        self._status, self._error = OFF, ""
        self._preset = self._brightness = self._intensity = self._speed = UNSET
        self._colours: dict[int, list[int]] = {}  # of single lights, that were not sent yet
        self._lock = asyncio.Lock()

    def info(self) -> StripInfo:
        return {
            "strip": self._config.own_name,
            "status": self._status,
            "chain_count": self._config.chain_count,
            "preset": self._preset,
            "brightness": self._brightness,
            "intensity": self._intensity,
            "speed": self._speed,
            "error": self._error or None,
        }

    async def begin(self) -> None:
        """Show the first preset or colour."""
        await self.control(ON)

    async def close(self) -> None:
        await self._way.close()

    async def control(
        self,
        action: str,
        *,
        preset: int = UNSET,
        brightness: int = UNSET,
        intensity: int = UNSET,
        speed: int = UNSET,
    ) -> None:
        if action == TOGGLE:
            action = OFF if self._status == ON else ON
        state: dict[str, Any] = {} if action == CONTROL else {"on": action == ON}
        if action == ON:
            preset = self._config.initial_preset if preset == UNSET else preset
            if preset != UNSET:
                state["ps"] = preset
            elif brightness == intensity == speed == UNSET:
                state |= {"seg": {"col": [self._first], "fx": 0}, "tt": 0}
        if brightness != UNSET and action != OFF:
            state["bri"] = brightness
        effect = {"ix": intensity, "sx": speed}
        if action != OFF and (chosen := {key: value for key, value in effect.items() if value != UNSET}):
            state["seg"] = {**state.get("seg", {}), **chosen}
        if not state or not await self._send(state):
            return
        self._status = self._status if action == CONTROL else action
        self._preset = preset if action == ON else self._preset
        self._brightness = state.get("bri", self._brightness)
        self._intensity = intensity if "ix" in state.get("seg", {}) else self._intensity
        self._speed = speed if "sx" in state.get("seg", {}) else self._speed

    async def set_colour(self, colour: list[int], index: int, *, is_sent: bool) -> None:
        """Set one light, or all; `is_sent` sends what was set so far."""
        if index == UNSET:
            self._colours = {number: colour for number in range(self._config.chain_count)}
        elif 1 <= index <= self._config.chain_count:
            self._colours[index - 1] = colour
        if not is_sent or not self._colours:
            return
        colours, self._colours = self._colours, {}
        if len(colours) == self._config.chain_count and len({tuple(item) for item in colours.values()}) == 1:
            segment: dict[str, Any] = {"col": [colour], "fx": 0}
        else:
            segment = {"i": [item for number, value in sorted(colours.items()) for item in (number, value)]}
        is_dark = not any(any(item) for item in colours.values()) and len(colours) == self._config.chain_count
        if await self._send({"on": not is_dark, "tt": 0, "seg": segment}):
            self._status, self._preset = OFF if is_dark else ON, UNSET

    async def _send(self, state: dict[str, Any]) -> bool:
        try:
            async with self._lock:
                await self._way.send(state)
        except (RequestError, OSError) as exc:
            if not self._error:
                log.warning("[%s] the strip cannot be reached: %s", self._config.section_name, exc)
            self._error = str(exc) or type(exc).__name__
            return False
        self._error = ""
        return True


def _whole(value: Any) -> int:
    """A number of a macro; UNSET for none. BadRequest: it is no number."""
    try:
        return UNSET if value is None else int(value)
    except (TypeError, ValueError):
        raise BadRequest(f"'{str(value)[:40]}' is not a number") from None


def _share(value: Any) -> int:
    """A colour of a macro, 0 to 1, as 0 to 255."""
    try:
        return round(min(max(float(value or 0), 0.0), 1.0) * 255)
    except (TypeError, ValueError):
        raise BadRequest(f"'{str(value)[:40]}' is not a number from 0 to 1") from None
