"""Tells people what the printer does, through one of the many services that the library Apprise knows.

Apprise needs 20 MB and more, so each notification is sent by a program of its own, one at a time, that ends with it.
Sources: Moonraker's documentation, "[notifier]" and "Apprise Notifier".
"""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import DecodeError, decode, encode
from moonfast.component import Component
from moonfast.config.load import Config
from moonfast.config.options import Option, Section, Template
from moonfast.data_path import Options
from moonfast.errors import BadRequest, MoonfastError, StartError, TemplateFailed, Unavailable
from moonfast.host import notify_child, shell
from moonfast.host.templates import Compiled, Templates
from moonfast.klippy.session import Klippy
from moonfast.state.job import CANCELLED, COMPLETE, ERROR, PAUSED, RESUMED, STANDBY, STARTED, Job, Stats
from moonfast.vocab import GET, POST

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
MAX_WAITING = 20
"""Notifications that wait for their turn; more are dropped, with a warning."""
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_ATTACHMENTS = 10
EVERY, GCODE, TEST = "*", "gcode", "test"
EVENTS = (STARTED, COMPLETE, ERROR, CANCELLED, PAUSED, RESUMED, STANDBY)
REMOTE_METHOD = "notify"


class NotifierConfig(Section, prefix="notifier"):
    """`body`, `title` and `attach` know `event_name`, `event_args` and `event_message`.

    For events of a job `event_args` has two items: `print_stats` of Klipper before the event, and as it is now.
    """

    url: Annotated[Template, Option(doc="Where to send it, as Apprise's wiki describes.")]
    events: Annotated[
        list[str], Option(separator=",", doc=f"When: `*` for every one, or some of {', '.join(EVENTS)}, {GCODE}.")
    ]
    body: Annotated[Template | None, Option(doc="What to say. Without it: the name of the notifier.")] = None
    body_format: Annotated[Literal["text", "html", "markdown"] | None, Option(doc="Without it: text.")] = None
    title: Annotated[Template | None, Option(doc="The title.")] = None
    attach: Annotated[Template | None, Option(doc="Files or addresses, one a line, like that of a camera's image.")] = (
        None
    )


class NotifierInfo(TypedDict):
    """As it is configured: templates are not rendered."""

    name: str
    url: str
    events: list[str]
    body: str | None
    body_format: str | None
    title: str | None
    attach: str | None


class NotifierList(TypedDict):
    notifiers: list[NotifierInfo]


class Tested(TypedDict):
    status: Literal["success"]
    stats: dict[str, Any]


class Event(NamedTuple):
    """What a template may know, by the documented names."""

    event_name: str
    event_args: list[Stats]
    event_message: str = ""


class NotSent(MoonfastError):
    """A notification could not be sent; in words for users."""


class Notifiers(Component):
    section_types = {"": "moonfast.components.notifier:NotifierConfig"}

    def __init__(self, config: Config, templates: Templates, klippy: Klippy, job: Job, options: Options) -> None:
        self._klippy, self._job = klippy, job
        usable, problems = config.usable_sections(NotifierConfig)
        self.warnings = [str(problem) for problem in problems]
        self._notifiers: dict[str, Notifier] = {}
        for section in usable:
            try:
                self._notifiers[section.own_name] = Notifier(section, templates)
            except MoonfastError as exc:
                self.warnings.append(str(exc))
                continue
            for event in section.events:
                if event not in (EVERY, GCODE, *EVENTS):
                    self.warnings.append(f"[{section.section_name}] events: '{event[:40]}' is none, it never happens")
        for warning in self.warnings:
            log.error("%s", warning)
        self._waiting: asyncio.Queue[tuple[Notifier, Event]] = asyncio.Queue(MAX_WAITING)
        self._turn = asyncio.Lock()  # one program at a time
        if options.debug:
            self.parts = (DebugNotifiers(self._notifiers, self._turn),)

    async def start(self) -> None:
        if find_spec("apprise") is None:
            raise StartError("needs the package apprise: install it with `pip install 'moonfast[notifier]'`")
        self._klippy.methods.register(REMOTE_METHOD, self._remote)
        self._job.listeners.append(self._job_changed)
        self.spawn(self._work())

    async def stop(self) -> None:
        self._klippy.methods.remove(REMOTE_METHOD)
        self._job.listeners.remove(self._job_changed)

    @endpoint(GET, "/server/notifiers/list")
    def list_notifiers(self, call: Call) -> NotifierList:
        """Return the notifiers as they are configured."""
        return {"notifiers": [notifier.info() for notifier in self._notifiers.values()]}

    def _job_changed(self, event: str, before: Stats, after: Stats) -> None:
        if event not in EVENTS:
            return
        for notifier in self._notifiers.values():
            if notifier.wants(event):
                self._add(notifier, Event(event, [before, after]))

    def _remote(self, arguments: dict[str, Any]) -> None:
        """What a macro of Klipper calls."""
        name, message = arguments.get("name"), arguments.get("message")
        notifier = self._notifiers.get(name) if isinstance(name, str) else None
        if notifier is None:
            log.warning("A macro called %s for a notifier that is not configured: %.60r", REMOTE_METHOD, name)
            return
        self._add(notifier, Event(GCODE, [], "" if message is None else str(message)))

    def _add(self, notifier: Notifier, event: Event) -> None:
        try:
            self._waiting.put_nowait((notifier, event))
        except asyncio.QueueFull:
            log.warning("[%s] %d notifications wait: one more is dropped", notifier.config.section_name, MAX_WAITING)

    async def _work(self) -> None:
        while True:
            notifier, event = await self._waiting.get()
            try:
                async with self._turn:
                    await notifier.send(event)
            except (NotSent, TemplateFailed) as exc:
                log.error("A notification was not sent: %s", exc)
            except Exception:  # component edge: the next one has to be sent
                log.exception("[%s] failed", notifier.config.section_name)


class Notifier:
    """One section. ConfigError: one of its templates is none."""

    def __init__(self, config: NotifierConfig, templates: Templates) -> None:
        def compiled(template: Template | None) -> Compiled | None:
            return None if template is None else templates.compile(template)

        self.config = config
        self._url = templates.compile(config.url)
        self._body, self._title, self._attach = map(compiled, (config.body, config.title, config.attach))

    def wants(self, event: str) -> bool:
        return EVERY in self.config.events or event in self.config.events

    def info(self) -> NotifierInfo:
        config = self.config
        return {
            "name": config.own_name,
            "url": str(config.url),
            "events": config.events,
            "body": _text(config.body),
            "body_format": config.body_format,
            "title": _text(config.title),
            "attach": _text(config.attach),
        }

    async def send(self, event: Event) -> None:
        """Render and send. TemplateFailed; NotSent: with what Apprise says."""

        async def rendered(template: Compiled | None, otherwise: str = "") -> str:
            return otherwise if template is None else await template.render(event._asdict())

        attached = [item.strip() for item in (await rendered(self._attach)).split("\n") if item.strip()]
        message = encode(
            {
                "url": await self._url.render(event._asdict()),
                "title": await rendered(self._title),
                "body": await rendered(self._body, self.config.own_name),
                "body_format": self.config.body_format or "text",
                "attach": attached[:MAX_ATTACHMENTS],
            }
        )
        if len(message) > MAX_MESSAGE_BYTES:
            raise NotSent(f"[{self.config.section_name}] it is too long: shorten its body")
        # -P: no folder of ours comes before the standard library
        program = (sys.executable, "-P", notify_child.__file__)
        ended = await shell.run(program, timeout_s=TIMEOUT_S, given=message)
        if ended.status == shell.TIMED_OUT:
            raise NotSent(f"[{self.config.section_name}] the service did not take it within {TIMEOUT_S:g} s")
        try:
            answer = decode(ended.output.encode())
        except DecodeError:
            last = ended.errors.strip().rpartition("\n")[2][:200]
            raise NotSent(f"[{self.config.section_name}] Apprise failed: {last or 'it said nothing'}") from None
        said = "; ".join(answer["faults"])
        if not answer["is_sent"]:
            raise NotSent(f"[{self.config.section_name}] {said or 'the service refused it'}")
        if said:
            log.warning("[%s] sent, but: %s", self.config.section_name, said)


class DebugNotifiers:
    """For tests of a configuration; only with `-g`."""

    def __init__(self, notifiers: dict[str, Notifier], turn: asyncio.Lock) -> None:
        self._notifiers, self._turn = notifiers, turn

    @endpoint(POST, "/debug/notifiers/test")
    async def test(self, call: Call, name: str) -> Tested:
        """Send a notification of a job that was never printed. Error 503: it could not be sent, with the reason."""
        notifier = self._notifiers.get(name)
        if notifier is None:
            raise BadRequest(f"There is no notifier '{name[:60]}': see server.notifiers.list")
        stats: Stats = {
            "print_duration": 0.0,
            "total_duration": 0.0,
            "filament_used": 0.0,
            "filename": "notifier_test.gcode",
            "state": "standby",
            "message": "",
            "info": {"total_layer": None, "current_layer": None},
        }
        try:
            async with self._turn:
                await notifier.send(Event(TEST, [stats, stats]))
        except (NotSent, TemplateFailed) as exc:
            raise Unavailable(str(exc)) from None
        return {"status": "success", "stats": stats}


def _text(template: Template | None) -> str | None:
    return None if template is None else str(template)
