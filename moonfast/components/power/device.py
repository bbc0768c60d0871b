"""What all power devices have in common: a state, and what else happens when it changes.

Theory. A device is in one of four states; only what was learned from the device itself leads to "on" or "off":

    init    nothing is known yet
    on, off as the device said, or as it accepted it
    error   it does not answer, or refused

Commands and questions to one device come one after the other; a device that does not answer holds up nobody else.
What depends on a change (bound services, a restart of Klipper, the timer) follows a command of this server only, not a
change that somebody made at the device. Source: Moonraker's documentation, "[power]".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypedDict

from moonfast.components.machine.providers.base import Action
from moonfast.config.options import Option, Section
from moonfast.errors import ApiError, BadRequest, MoonfastError
from moonfast.host.http_client import RequestError
from moonfast.host.templates import Templates
from moonfast.klippy.session import Klippy
from moonfast.state.status import Status
from moonfast.vocab import KlippyState

log = logging.getLogger(__name__)

INIT, ON, OFF, ERROR = "init", "on", "off", "error"
MAX_WAIT_S = 30.0
"""A device that has not answered within this time has failed, whatever its own limits."""
NOT_YET_S = 1.0
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 300.0
TYPES = Literal[
    "gpio",
    "klipper_device",
    "rf",
    "tplink_smartplug",
    "tasmota",
    "shelly",
    "homeseer",
    "homeassistant",
    "loxonev1",
    "smartthings",
    "hue",
    "http",
    "mqtt",
    "uhubctl",
]


class PowerConfig(Section, prefix="power"):
    """A device that is switched on and off. These options are common to all types; those of each type follow."""

    type: Annotated[TYPES, Option(doc="What kind of device it is.")]
    initial_state: Annotated[
        Literal["on", "off"] | None, Option(doc="Switch it to this state when the server starts.")
    ] = None
    off_when_shutdown: Annotated[bool, Option(doc="Switch it off when Klipper shuts down.")] = False
    off_when_shutdown_delay: Annotated[float, Option(minimum=0.0, unit="s", doc="After this time.")] = 0.0
    on_when_job_queued: Annotated[bool, Option(doc="Switch it on when a job is put into the queue.")] = False
    locked_while_printing: Annotated[bool, Option(doc="Refuse to switch it during a print.")] = False
    restart_klipper_when_powered: Annotated[
        bool, Option(doc="Restart Klipper's firmware after it was switched on, if Klipper is not ready.")
    ] = False
    restart_delay: Annotated[float, Option(minimum=0.0, unit="s", doc="After this time.")] = 1.0
    bound_services: Annotated[
        list[str], Option(doc="Services that start when it is switched on, and stop when it is switched off.")
    ] = []
    restrict_action_processing: Annotated[
        bool, Option(doc="Services and restarts follow only if the state changes, not if it is set once more.")
    ] = True
    poll_interval: Annotated[
        float, Option(minimum=0.0, unit="s", doc="Ask for its state as often. 0: only when somebody wants to know.")
    ] = 0.0
    timer: Annotated[
        float, Option(minimum=0.0, unit="s", doc="Switch it off after it has been on for so long. 0: never.")
    ] = 0.0


class DeviceError(MoonfastError):
    """A device does not answer or refuses; in words for users."""


class NotYet(DeviceError):
    """What the device depends on is not there yet."""


class DeviceInfo(TypedDict):
    device: str
    status: str
    locked_while_printing: bool
    type: str


class Switch(Protocol):
    """How a type of device is talked to. DeviceError, RequestError, OSError: it cannot be reached, or refuses."""

    async def start(self, changed: Callable[[str], None]) -> None:
        """Begin. `changed` is to be called with the new state whenever the device tells of one by itself."""

    async def stop(self) -> None:
        """End."""

    async def read(self) -> str:
        """Ask for the state: on or off."""

    async def write(self, state: str) -> str:
        """Switch to a state, and return the one it is in then."""


class Broker(Protocol):
    """The MQTT component, as devices need it."""

    is_connected: bool
    on_connection: list[Callable[[bool], None]]

    def subscribe(
        self, topic: str, receiver: Callable[[bytes], None], qos: int | None = None
    ) -> Callable[[], None]: ...

    async def publish(
        self, topic: str, payload: Any = None, *, qos: int | None = None, retain: bool = False
    ) -> None: ...


class Parts(NamedTuple):
    """What types of devices may need; each is built with its own Section and these."""

    klippy: Klippy
    status: Status
    templates: Templates
    mqtt: Broker | None


class Device:
    """One device. `notify` is called after each change and each command, `spawn` runs what takes time."""

    def __init__(
        self,
        config: PowerConfig,
        switch: Switch,
        *,
        klippy: Klippy,
        is_printing: Callable[[], bool],
        act_on_service: Callable[[Action, str], Awaitable[None]],
        notify: Callable[[Device], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self.config, self.name, self.state = config, config.own_name, INIT
        self._switch, self._klippy, self._is_printing = switch, klippy, is_printing
        self._act_on_service, self._notify, self._spawn = act_on_service, notify, spawn
        self._lock = asyncio.Lock()
        self._timer: asyncio.Task[Any] | None = None
        self._restart: asyncio.Task[Any] | None = None
        self._is_reported = False  # that it does not answer

    def info(self) -> DeviceInfo:
        """As clients get it."""
        return {
            "device": self.name,
            "status": self.state,
            "locked_while_printing": self.config.locked_while_printing,
            "type": self.config.type,
        }

    async def begin(self) -> None:
        """Learn the state, or set the first one; again and again until the device answers. Then look now and then."""
        pause = FIRST_RETRY_S
        await self._switch.start(self._told)
        while True:
            wanted = self.config.initial_state
            if wanted is not None and self.state != wanted:
                is_known = await self._do(self._switch.write(wanted))
            else:
                is_known = await self._do(self._switch.read())
            if is_known:
                break
            if self.state == INIT:
                await asyncio.sleep(NOT_YET_S)
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_S)
        while self.config.poll_interval:
            await asyncio.sleep(self.config.poll_interval)
            await self._do(self._switch.read())

    async def end(self) -> None:
        await self._switch.stop()

    async def refresh(self) -> str:
        """Ask the device; its state."""
        await self._do(self._switch.read())
        return self.state

    def check_unlocked(self) -> None:
        """BadRequest: it must not be switched now."""
        if self.config.locked_while_printing and self._is_printing():
            raise BadRequest(f"Unable to change power for {self.name} while printing")

    async def set(self, state: str, *, is_forced: bool = False) -> str:
        """Switch it, and see to what depends on it. BadRequest: it is locked, or does not do it."""
        if not is_forced:
            self.check_unlocked()
        before = self.state
        if not await self._do(self._switch.write(state), is_command=True):
            raise BadRequest(f"Error Setting Device Status: {self.name} to {state}")
        if self.state != before or not self.config.restrict_action_processing:
            self._follow(self.state)
        return self.state

    async def toggle(self, *, is_forced: bool = False) -> str:
        """Switch it to the other state."""
        if self.state not in (ON, OFF):
            await self.refresh()
        return await self.set(OFF if self.state == ON else ON, is_forced=is_forced)

    def klipper_shut_down(self) -> None:
        """Klipper has shut down."""
        if self.config.off_when_shutdown:
            self._spawn(self._off_after_shutdown())

    async def _off_after_shutdown(self) -> None:
        await asyncio.sleep(self.config.off_when_shutdown_delay)
        if self._klippy.state is KlippyState.SHUTDOWN:
            try:
                await self.set(OFF, is_forced=True)
            except ApiError as exc:
                log.warning("Klipper has shut down, but: %s", exc.message)

    async def _do(self, work: Awaitable[str], *, is_command: bool = False) -> bool:
        """Let the device do something, and take over the state that comes of it. False: it did not."""
        try:
            async with self._lock, asyncio.timeout(MAX_WAIT_S):
                state = await work
        except NotYet:
            self._enter(INIT, is_command)
            return False
        except (MoonfastError, RequestError, OSError, TimeoutError) as exc:
            fault = "no answer in time" if isinstance(exc, TimeoutError) else str(exc)
            log.log(
                logging.INFO if self._is_reported and not is_command else logging.WARNING,
                "[power %s] %s",
                self.name,
                fault,
            )
            self._is_reported = True
            self._enter(ERROR, is_command)
            return False
        self._is_reported = False
        self._enter(state, is_command)
        return True

    def _told(self, state: str) -> None:
        """The device tells of its state by itself."""
        self._enter(state, False)

    def _enter(self, state: str, is_command: bool) -> None:
        is_change, self.state = state != self.state, state
        if is_change or is_command:
            self._notify(self)

    def _follow(self, state: str) -> None:
        """What else happens when it was switched."""
        for waiting in (self._timer, self._restart):
            if waiting is not None:
                waiting.cancel()
        config = self.config
        if config.timer and state == ON:
            self._timer = self._spawn(self._off_after(config.timer))
        if config.restart_klipper_when_powered and state == ON:
            self._restart = self._spawn(self._restart_klipper())
        if config.bound_services:
            self._spawn(self._act_on_services("start" if state == ON else "stop"))

    async def _off_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._timer = None
        try:
            await self.set(OFF, is_forced=True)
        except ApiError as exc:
            log.warning("[power %s] its time is over, but: %s", self.name, exc.message)

    async def _act_on_services(self, action: Action) -> None:
        for name in self.config.bound_services:
            try:
                await self._act_on_service(action, name)
            except ApiError as exc:
                log.warning("[power %s] the service '%s' does not %s: %s", self.name, name, action, exc.message)

    async def _restart_klipper(self) -> None:
        """Restart the firmware as soon as Klipper can do it; not if it is ready by then."""
        await asyncio.sleep(self.config.restart_delay)
        settled = asyncio.Event()

        def look(state: KlippyState) -> None:
            if state not in (KlippyState.DISCONNECTED, KlippyState.STARTUP):
                settled.set()

        look(self._klippy.state)
        self._klippy.on_state.append(look)
        try:
            await settled.wait()
        finally:
            self._klippy.on_state.remove(look)
        if self._klippy.state is not KlippyState.READY:
            try:
                await self._klippy.request("gcode/firmware_restart")
            except ApiError as exc:
                log.warning("[power %s] Klipper's firmware was not restarted: %s", self.name, exc.message)
