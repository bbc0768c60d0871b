"""Buttons at the pins of this computer: what happens is a template of the configuration.

Sources: web_api.md, "Button Event"; Moonraker's documentation, "[button]".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Annotated, Any, Literal, TypedDict

from moonfast.api.endpoint import notification
from moonfast.component import Component
from moonfast.config.load import Config
from moonfast.config.options import Option, Section, Template
from moonfast.errors import ConfigError, MoonfastError, TemplateFailed
from moonfast.host.gpio import GpioError, InputLine, open_input, parse
from moonfast.host.templates import Compiled, Templates

log = logging.getLogger(__name__)

MAX_WAITING = 50
"""Events of one button that wait for its template; later ones are dropped, with a warning."""
RETRY_S = 30.0
"""A pin that cannot be used is tried again after this time: its chip may be plugged in."""


class ButtonConfig(Section, prefix="button"):
    type: Annotated[Literal["gpio"], Option(doc="What kind of button it is.")] = "gpio"
    pin: Annotated[
        str, Option(doc="Its pin: `^gpiochip0/gpio26` has the pull-up resistor, `!` inverts, `~` pulls down.")
    ]
    minimum_event_time: Annotated[
        float, Option(minimum=0.01, unit="s", doc="Events that follow another one faster are ignored.")
    ] = 0.05
    debounce_period: Annotated[
        float, Option(minimum=0.0, unit="s", doc="A change counts when it has lasted for so long.")
    ] = 0.0
    on_press: Annotated[Template | None, Option(doc="What to do when it is pressed.")] = None
    on_release: Annotated[Template | None, Option(doc="What to do when it is released.")] = None


class Event(TypedDict):
    """Times in seconds: since the event before, and of the monotonic clock."""

    elapsed_time: float
    received_time: float
    render_time: float
    pressed: bool


class ButtonEvent(TypedDict):
    name: str
    type: str
    event: Event
    aux: Any


EVENT = notification("button_event", ButtonEvent, "A button's template sends something to the clients.")


class Buttons(Component):
    def __init__(self, config: Config, templates: Templates) -> None:
        usable, problems = config.usable_sections(ButtonConfig)
        self._wrong = [str(problem) for problem in problems]
        self._buttons: list[Button] = []
        for section in usable:
            try:
                self._buttons.append(Button(section, templates, self.emit))
            except MoonfastError as exc:
                self._wrong.append(str(exc))
        for fault in self._wrong:
            log.error("A button cannot be used: %s", fault)

    section_types = {"": "moonfast.components.button:ButtonConfig"}

    @property
    def warnings(self) -> list[str]:  # type: ignore[override]
        return self._wrong + [button.fault for button in self._buttons if button.fault]

    async def start(self) -> None:
        for button in self._buttons:
            self.spawn(button.watch())
            self.spawn(button.work())

    async def stop(self) -> None:
        for button in self._buttons:
            button.close()


class Button:
    """One button. `watch` takes its pin, `work` renders its templates, one event after the other."""

    def __init__(self, config: ButtonConfig, templates: Templates, emit: Any) -> None:
        parse(config.pin)
        if config.on_press is None and config.on_release is None:
            raise ConfigError(
                "has nothing to do.",
                section=config.section_name,
                remedy="Add 'on_press' or 'on_release' with a template.",
            )
        self._config, self._emit, self.fault = config, emit, ""
        self._templates: dict[bool, Compiled | None] = {
            True: templates.compile(config.on_press) if config.on_press else None,
            False: templates.compile(config.on_release) if config.on_release else None,
        }
        self._line: InputLine | None = None
        self._waiting: deque[Event] = deque()
        self._came = asyncio.Event()
        self._last = 0.0
        self._user_data: dict[str, Any] = {}

    async def watch(self) -> None:
        """Take the pin, as soon as it can be had."""
        while self._line is None:
            try:
                self._line = open_input(self._config.pin, self._changed, debounce_s=self._config.debounce_period)
            except GpioError as exc:
                if not self.fault:
                    log.warning("[%s] %s", self._config.section_name, exc)
                self.fault = f"[{self._config.section_name}] {exc}"
                await asyncio.sleep(RETRY_S)
        self.fault = ""
        self._last = asyncio.get_running_loop().time()

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _changed(self, time: float, is_pressed: bool) -> None:
        elapsed = time - self._last
        if elapsed < self._config.minimum_event_time:
            return
        self._last = time
        if self._templates[is_pressed] is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            log.warning("[%s] %d events wait: one more is dropped", self._config.section_name, MAX_WAITING)
            return
        self._waiting.append(
            {"elapsed_time": elapsed, "received_time": time, "render_time": 0.0, "pressed": is_pressed}
        )
        self._came.set()

    async def work(self) -> None:
        while True:
            await self._came.wait()
            while self._waiting:
                await self._render(self._waiting.popleft())
            self._came.clear()

    async def _render(self, event: Event) -> None:
        template = self._templates[event["pressed"]]
        assert template is not None
        event["render_time"] = asyncio.get_running_loop().time()

        def send(aux: Any = None) -> None:
            """Tell the clients; `aux` is any value that JSON can hold."""
            told: ButtonEvent = {
                "name": self._config.own_name,
                "type": self._config.type,
                "event": event,
                "aux": aux,
            }
            self._emit(EVENT, told)

        try:
            await template.render(
                {"event": event, "user_data": self._user_data, "send_notification": send, "send_event": send}
            )
        except TemplateFailed as exc:
            log.error("%s", exc)
        except Exception:  # component edge: a function that the template called
            log.exception("[%s] the template failed", self._config.section_name)
