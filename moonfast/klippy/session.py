"""The life of a link to Klippy.

Theory. Each connection runs through the same steps, in order; losing it leads back to the beginning from anywhere:

    link opened -> info (who we are, who Klippy is)    -> list_endpoints: they enter the endpoint table
                -> remote methods, gcode output        -> webhooks subscribed: from now on Klippy tells its state
                -> as soon as the state is ready: objects, sensors, what the server itself wants to know -> READY

The state that clients see is Klippy's own, except that `ready` is shown only when the last step is done, and
`disconnected` when there is no link. A change of it is announced according to TRANSITIONS.
Source: Klipper docs/API_Server.md; specification, "Query Server Info" and "Websocket notifications".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from moonfast.api.endpoint import Endpoint, Notification, notification
from moonfast.api.later import Later
from moonfast.api.names import method_name
from moonfast.api.params import AllArguments, Parameters
from moonfast.api.subscriber import Filter, StatusKeeper
from moonfast.api.table import EndpointTable
from moonfast.codec import DecodeError, decode
from moonfast.errors import ApiError, BadRequest, KlippyDisconnected, KlippyError, SpanError, Unavailable
from moonfast.klippy.connection import Link, Peer
from moonfast.klippy.methods import RemoteMethods
from moonfast.klippy.requests import NOT_CONNECTED, Requests
from moonfast.klippy.subscriptions import UPDATE_METHOD_TEXT, Subscriptions, union
from moonfast.speedups import jsonspan
from moonfast.vocab import GET, POST, KlippyState

log = logging.getLogger(__name__)

READY = notification("klippy_ready", None, "Klippy is ready. Subscriptions of before are gone: subscribe again.")
SHUTDOWN = notification("klippy_shutdown", None, "Klippy has shut down; `printer.info` says why.")
DISCONNECTED = notification("klippy_disconnected", None, "The link to Klippy is lost; all subscriptions have ended.")
GCODE_RESPONSE = notification("gcode_response", str, "One line or more that Klippy printed to the gcode console.")
STATUS_UPDATE = notification(
    "status_update",
    dict[str, dict[str, Any]],
    "Fields that have changed of the printer objects that this connection subscribed to. A second parameter is the "
    "time of the change on Klippy's clock, in seconds.",
)

TRANSITIONS: dict[KlippyState, Notification] = {
    KlippyState.READY: READY,
    KlippyState.SHUTDOWN: SHUTDOWN,
    KlippyState.DISCONNECTED: DISCONNECTED,
}
"""What is announced when this state is entered; the others are not."""

REQUIREMENTS = ("virtual_sdcard", "display_status", "pause_resume")
"""Config sections of Klipper that clients count on."""

RESERVED_ENDPOINTS = ("list_endpoints", "gcode/subscribe_output", "register_remote_method")
RESPONSE_METHOD = "process_gcode_response"
RESPONSE_METHOD_TEXT = b'"process_gcode_response"'

POLL_S = 0.5
"""Between looks at a state that is not ready. Klippy tells of changes itself; this is for clones that do not."""
MAX_BROKEN = 100
"""Unreadable messages of one connection that are passed over."""
STEP_TIMEOUT_S = 30.0
"""For each step: Klippy answers late while it configures a slow micro-controller."""

OWN_OBJECTS: Filter = {
    "webhooks": None,
    "print_stats": None,
    "virtual_sdcard": None,
    "display_status": None,
    "pause_resume": None,
    "idle_timeout": None,
}
"""What the server itself wants to know, of the objects that the printer has."""
SENSOR_FIELDS = ["temperature", "target", "power", "speed"]


class Klippy:
    """The link and what is known of the other end.

    `on_ready(sensors, monitors)` and `on_lost()` are called before clients are told. `emit(notification)` tells all
    clients; `emit_raw(notification, json)` does with a payload; `on_response(json)` is told of gcode responses. Between
    `cork` and `uncork` lies what one read of the socket brings.
    """

    def __init__(
        self,
        path: str,
        *,
        status: StatusKeeper,
        table: EndpointTable,
        version: str,
        emit: Callable[[Notification], None],
        emit_raw: Callable[[Notification, bytes], None],
        on_response: Callable[[bytes], None],
        on_ready: Callable[[list[str], list[str]], None],
        on_lost: Callable[[], None],
        cork: Callable[[], None] = lambda: None,
        uncork: Callable[[], None] = lambda: None,
    ) -> None:
        self._status, self._table, self._version = status, table, version
        self._emit, self._emit_raw, self._on_response = emit, emit_raw, on_response
        self._on_ready, self._on_lost, self._cork, self._uncork = on_ready, on_lost, cork, uncork
        self._link = Link(path, on_opened=self._opened, on_messages=self._received, on_lost=self._lost)
        self._requests = Requests()
        self._session: asyncio.Task[None] | None = None
        self._broken_count = 0
        self._seen_state = asyncio.Event()  # webhooks told of a new state
        self.subscriptions = Subscriptions(status, self.request)
        self.methods = RemoteMethods(self._announce_method)
        self.on_identified: list[Callable[[], None]] = []  # told when `info` is known, at each new connection
        self.on_disconnected: list[Callable[[], None]] = []  # told behind `on_lost`
        self.print_wanted_by: tuple[str, str | None] = ("", None)  # the last file that was to be printed, and by whom
        self.also_wanted: Filter = {}  # printer objects that components want to know, beside OWN_OBJECTS
        self.on_state: list[Callable[[KlippyState], None]] = []  # told of every state, before clients are
        self.state = KlippyState.DISCONNECTED
        self.info: dict[str, Any] = {}
        self.missing_requirements: list[str] = []
        self.path = path

    @property
    def is_connected(self) -> bool:
        """Klippy has told who it is."""
        return self.state is not KlippyState.DISCONNECTED

    @property
    def peer(self) -> Peer | None:
        """The process at the other end."""
        return self._link.peer if self.is_connected else None

    def start(self) -> None:
        """Begin to look for Klippy; returns at once."""
        self._link.start()

    async def stop(self) -> None:
        """Close the link; clients are told nothing more."""
        session = self._session
        await self._link.stop()
        if session is not None:
            await asyncio.wait([session])

    def request(
        self, method: str, params: dict[str, Any] | None = None, *, timeout_s: float | None = None, urgent: bool = False
    ) -> Later:
        """Ask Klippy; see Requests.send."""
        return self._requests.send(method, params, timeout_s=timeout_s, urgent=urgent)

    def want_also(self, objects: Filter) -> None:
        """Let the server know these from the next time on that Klippy becomes ready; before `on_state` tells of it."""
        self.also_wanted = union([self.also_wanted, objects])

    def print_file(self, filename: str, *, user: str | None = None, timeout_s: float | None = None) -> Later:
        """Print a file of the gcodes folder, for a user. BadRequest: no command can hold its name."""
        self.print_wanted_by = (filename.removeprefix("/"), user)
        script = f'SDCARD_PRINT_FILE FILENAME="{quoted(filename)}"'
        return self.request("gcode/script", {"script": script}, timeout_s=timeout_s)

    # from the link

    def _opened(self) -> None:
        self._broken_count = 0
        self._requests.write = self._link.write
        self._session = asyncio.get_running_loop().create_task(self._run(), name="klippy session")

    def _lost(self) -> None:
        self._requests.write = None
        if self._session is not None:
            self._session.cancel()
            self._session = None
        self._table.remove_remote()
        was_connected = self.is_connected
        self.missing_requirements = []
        self._requests.fail_all()
        self.subscriptions.clear()
        if was_connected:
            log.info("Klippy disconnected")
            self._on_lost()
            for listener in self.on_disconnected:
                listener()
            self._enter(KlippyState.DISCONNECTED)

    def _received(self, messages: list[bytes]) -> None:
        self._cork()
        try:
            for text in messages:
                try:
                    self._take(text)
                except SpanError as exc:
                    self._broken(text, exc)
                except Exception:  # task edge: what became of one message must not cost the link
                    log.exception("A message of Klippy could not be dealt with")
        finally:
            self._uncork()

    def _broken(self, text: bytes, error: SpanError) -> None:
        """Do without one message; without the link if there are too many."""
        self._broken_count += 1
        log.log(
            logging.WARNING if self._broken_count == 1 else logging.DEBUG,
            "Klippy sent a message that is not JSON: %s",
            error,
        )
        self._requests.answer_broken(text)
        if self._broken_count > MAX_BROKEN:
            self._link.abort("too many of its messages are not JSON")

    def _take(self, text: bytes) -> None:
        message = jsonspan.members(text)
        method = message.get("method")
        if method is None:
            id_text = message.get("id")
            if id_text is None or not self._requests.answer(id_text, message):
                log.debug("Klippy sent a message that answers nothing")
        elif method == UPDATE_METHOD_TEXT:
            params = jsonspan.members(message["params"]) if "params" in message else {}
            if "status" in params:
                self._status.apply(params["status"], params.get("eventtime", b"0.0"))
        elif method == RESPONSE_METHOD_TEXT:
            response = jsonspan.members(message["params"]).get("response") if "params" in message else None
            if response is not None and response.startswith(b'"'):
                self._on_response(response)
                self._emit_raw(GCODE_RESPONSE, response)
        else:
            name = decode(method)
            self.methods.call(str(name), message.get("params", b"{}"))

    # steps of a session

    async def _run(self) -> None:
        """Go through the steps. What fails for lack of an answer gives the connection up; the next one begins anew."""
        try:
            await self._identify()
            await self._list_endpoints()
            for name in self.methods.names():
                self._announce_method(name)
            await self._listen_to_gcode()
            await self._want({"webhooks": None})
            await self._wait_ready()
        except KlippyDisconnected:
            pass  # the link is lost: `_lost` does the rest
        except ApiError as exc:
            self._link.abort(f"it does not do as Klippy does: {exc.message}")
        except Exception:  # task edge
            log.exception("The link to Klippy failed")
            self._link.abort("a fault in this server, see above")

    def _ask(self, method: str, params: dict[str, Any] | None = None) -> Later:
        return self.request(method, params, timeout_s=STEP_TIMEOUT_S)

    async def _want(self, objects: Filter) -> None:
        """Subscribe for the server itself, within the time of a step."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await self.subscriptions.want(objects)
        except TimeoutError:
            raise Unavailable("Klippy did not answer 'objects/subscribe' in time") from None

    async def _identify(self) -> None:
        client = {"client_info": {"program": "Moonfast", "version": self._version}}
        self.info = _object(await self._ask("info", client))
        log.info("Klippy connected: %s, state %s", self.info.get("software_version"), self.info.get("state"))
        for listener in self.on_identified:
            listener()

    async def _list_endpoints(self) -> None:
        names = _object(await self._ask("list_endpoints")).get("endpoints")
        names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        self._table.add_remote(self._remote_endpoint(name) for name in names if self._is_new(name))

    def _is_new(self, name: str) -> bool:
        """Whether to add an endpoint. "a/b" and "a.b" would be one JSON-RPC method: the first one gets it."""
        path = f"/printer/{name}"
        return name not in RESERVED_ENDPOINTS and self._table.by_method(method_name(path, GET | POST, False)) is None

    def _remote_endpoint(self, name: str) -> Endpoint:
        def handle(call: object, arguments: AllArguments) -> Later:
            """Pass the request on to Klippy and its result back; this endpoint is Klippy's own."""
            return self.request(name, arguments)

        return Endpoint(
            GET | POST,
            f"/printer/{name}",
            is_remote=True,
            handler=handle,
            parameters=Parameters(handle),
            doc=handle.__doc__ or "",
        )

    async def _listen_to_gcode(self) -> None:
        try:
            await self._ask("gcode/subscribe_output", {"response_template": {"method": RESPONSE_METHOD}})
        except KlippyError as exc:  # a clone can do without
            log.warning("Klippy does not tell its gcode responses: %s", exc.message)

    def _announce_method(self, name: str) -> None:
        if self._requests.write is not None:
            template = {"response_template": {"method": name}, "remote_method": name}
            self.request("register_remote_method", template).then(
                lambda result, error: log.warning("Remote method %s: %s", name, error.message) if error else None
            )

    async def _wait_ready(self) -> None:
        """Show Klippy's state until it is ready, then go through the last step; again after each time it was not."""
        while True:
            self._seen_state.clear()
            state = self._told_state()
            if state is KlippyState.READY and self.state is not KlippyState.READY:
                if await self._prepare():
                    self._enter(KlippyState.READY)
                continue
            if state is not self.state:
                self._enter(state)
            if state is KlippyState.READY or state is KlippyState.SHUTDOWN:
                await self._seen_state.wait()
            else:
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._seen_state.wait()
                except TimeoutError:
                    self.info = _object(await self._ask("info"))
                    self._seen_state.set()

    def observe(self) -> None:
        """Take note of `webhooks`: Klippy tells its state."""
        for key in ("state", "state_message"):
            value = self._status.field("webhooks", key)
            if value is not None:
                with contextlib.suppress(DecodeError):  # an escaped lone surrogate: valid JSON, but no text
                    self.info[key] = decode(value)
        self._seen_state.set()

    def _told_state(self) -> KlippyState:
        try:
            return KlippyState(str(self.info.get("state")))
        except ValueError:  # a state of a clone that Klipper does not have
            return KlippyState.STARTUP

    async def _prepare(self) -> bool:
        """The last step before ready. False: Klippy was ready, but is not any more."""
        try:
            await self._list_endpoints()  # some parts of Klippy add theirs when they are connected
            objects = _object(await self._ask("objects/list")).get("objects")
            names = [name for name in objects if isinstance(name, str)] if isinstance(objects, list) else []
            self.missing_requirements = [name for name in REQUIREMENTS if name not in names]
            sensors, monitors = await self._sensors(names)
            wanted = union([self.also_wanted, OWN_OBJECTS])
            own: Filter = {name: fields for name, fields in wanted.items() if name in names}
            await self._want(own | await self._sensor_fields([*sensors, *monitors]))
        except KlippyDisconnected:
            raise
        except ApiError as exc:
            if self._told_state() is KlippyState.READY:
                raise
            log.info("Klippy was ready for a moment only: %s", exc.message)
            return False
        if self._told_state() is not KlippyState.READY:
            return False
        self._on_ready(sensors, monitors)
        return True

    async def _sensors(self, names: list[str]) -> tuple[list[str], list[str]]:
        """What has a temperature, and what only reports one. Clones send null for a list they do not have."""
        if "heaters" not in names:
            return [], []
        answer = _object(await self._ask("objects/query", {"objects": {"heaters": None}}))
        heaters = _child(_child(answer, "status"), "heaters")
        return _texts(heaters.get("available_sensors"), names), _texts(heaters.get("available_monitors"), names)

    async def _sensor_fields(self, names: list[str]) -> Filter:
        """Of each sensor what it has: asked for others, Klippy would invent them, as null, for every client."""
        if not names:
            return {}
        status = _child(_object(await self._ask("objects/query", {"objects": dict.fromkeys(names)})), "status")
        return {name: [field for field in SENSOR_FIELDS if field in _child(status, name)] for name in names}

    def _enter(self, state: KlippyState) -> None:
        self.state = state
        log.debug("Klippy: %s", state)
        if state is KlippyState.READY and self.missing_requirements:
            sections = ", ".join(f"[{name}]" for name in self.missing_requirements)
            log.warning("Klipper's configuration lacks %s: front ends count on it. Add it to printer.cfg.", sections)
        for listener in self.on_state:
            listener(state)
        announced = TRANSITIONS.get(state)
        if announced is not None:
            self._emit(announced)

    # for endpoints

    def refuse_unknown(self, path: str) -> ApiError | None:
        """The error for an unknown path under /printer/: it may be one that Klippy will offer."""
        if path.startswith(("/printer/", "printer.")) and not self.is_connected:
            return KlippyDisconnected(NOT_CONNECTED)
        return None


def quoted(filename: str) -> str:
    r"""Escape a name for the inside of double quotes in a gcode line.

    Klipper splits the parameters of a line with Python's shlex in POSIX mode, where only \\ and \" are escapes inside
    of double quotes (klippy/gcode.py, "_get_extended_params"). BadRequest: a line break would begin another command.
    """
    name = filename.removeprefix("/")
    if not name:
        raise BadRequest("Argument 'filename' is empty: name a file of the gcodes folder")
    if any(character in name for character in "\n\r\0"):
        raise BadRequest("Argument 'filename' contains a line break or NUL: such a file cannot be printed, rename it")
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _object(raw: bytes) -> dict[str, Any]:
    value = decode(raw)
    return value if isinstance(value, dict) else {}


def _child(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """An object inside of another; an empty one where clones have something else."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _texts(value: Any, known: Iterable[str]) -> list[str]:
    return [item for item in value if item in known] if isinstance(value, list) else []
