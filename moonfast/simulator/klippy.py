"""A Klippy that needs no printer: the endpoints of its Unix socket, pushes of status, shutdown and restart.

Source: Klipper docs/API_Server.md. Imports nothing of the server: it stands for the other side.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from typing import Any

from .clock import Clock
from .gcode import Interpreter
from .printer import ERROR_ADVICE, READY, Printer, Status
from .sdcard import GcodeError
from .wire import Connection, Listener, Message

log = logging.getLogger(__name__)

STARTUP_S = 0.6
"""Of the printer's time, in state "startup" after the socket is there."""
DOWN_S = 0.8
"""Of the printer's time, without a socket during a restart."""
VERSION = "v0.13.0-0-simulated"
ENDPOINTS = (
    "list_endpoints",
    "info",
    "emergency_stop",
    "register_remote_method",
    "gcode/help",
    "gcode/script",
    "gcode/restart",
    "gcode/firmware_restart",
    "gcode/subscribe_output",
    "objects/list",
    "objects/query",
    "objects/subscribe",
    "pause_resume/cancel",
    "pause_resume/pause",
    "pause_resume/resume",
    "bed_mesh/dump_mesh",
    "query_endstops/status",
)


class RequestError(Exception):
    """A request that Klippy refuses."""


class SimulatedKlippy:
    """A printer behind a Unix socket. `time_scale` 10 makes an hour of printing pass in six minutes.

    Tests look at `requests` (how often each method was asked for) and use the hooks: `shut_down`, `fail`, `drop`,
    `go_away`, `come_back`, `send_raw`, `is_pushing`.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        gcodes_dir: str,
        config_dir: str | None = None,
        log_path: str | None = None,
        time_scale: float = 1.0,
        push_hz: float = 4.0,
    ) -> None:
        self._gcodes_dir, self._config_dir, self._log_path = gcodes_dir, config_dir or gcodes_dir, log_path
        self._clock = Clock(time_scale)
        self._push_s = 1.0 / push_hz
        self._listener = Listener(socket_path, self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pusher: asyncio.TimerHandle | None = None
        self.requests: Counter[str] = Counter()
        self.is_pushing = True
        self.printer: Printer
        self.interpreter: Interpreter
        self._new_printer(None)

    def _new_printer(self, before: Printer | None) -> None:
        self.printer = Printer(self._clock, before)
        self.interpreter = Interpreter(
            self.printer,
            self._gcodes_dir,
            say=self.say,
            shut_down=self.shut_down,
            restart=lambda: self._spawn(self._restart()),
            call_remote=self.call_remote,
        )

    async def start(self) -> None:
        """Listen; the printer is ready a moment later."""
        await self._listener.open()
        self._pusher = asyncio.get_running_loop().call_later(self._push_s, self._push)
        self._spawn(self._become_ready(self.printer))

    async def stop(self) -> None:
        """Close everything, end what runs."""
        if self._pusher is not None:
            self._pusher.cancel()
            self._pusher = None
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._tasks.difference_update(tasks)
        await self.interpreter.card.stop()
        await self._listener.close()

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # life

    async def _become_ready(self, printer: Printer) -> None:
        await self._clock.sleep(STARTUP_S)
        if printer is self.printer and printer.state == "startup":
            printer.state, printer.state_message = "ready", READY

    async def _restart(self) -> None:
        await asyncio.sleep(0)  # the reply is sent first
        await self.go_away()
        await self._clock.sleep(DOWN_S)
        await self.come_back()

    async def go_away(self) -> None:
        """Close the socket, as a restart or a crash does."""
        self.printer.clock.interrupt()
        await self.interpreter.card.stop()
        await self._listener.close()

    async def come_back(self) -> None:
        """Open the socket again, with a printer that has just started."""
        self._new_printer(self.printer)
        await self._listener.open()
        self._spawn(self._become_ready(self.printer))

    async def drop(self) -> None:
        """Close all connections; the socket stays."""
        await self._listener.drop()

    def shut_down(self, reason: str) -> None:
        """Shut the printer down, as an emergency stop or a fault does."""
        if self.printer.state == "shutdown":
            return
        self.interpreter.card.fail(reason)
        self.printer.shut_down(reason)
        self.say(f"!! {self.printer.state_message}")
        self._push_now()

    def fail(self, message: str) -> None:
        """Be in state "error", as after a fault in the configuration."""
        self.printer.state, self.printer.state_message = "error", f"{message}\n\n{ERROR_ADVICE}"
        self._push_now()

    # what Klippy sends by itself

    def say(self, text: str) -> None:
        """Print to the gcode console."""
        for connection in self._listener.connections:
            if connection.output_template is not None:
                connection.send(connection.output_template | {"params": {"response": text}})

    def call_remote(self, method: str, params: dict[str, str]) -> None:
        """Call a remote method wherever it is registered."""
        found = [item for item in self._listener.connections if method in item.remote_methods]
        if not found:
            raise GcodeError(f"Remote method '{method}' not registered")
        for connection in found:
            connection.send(connection.remote_methods[method] | {"params": params})

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are to every connection."""
        for connection in self._listener.connections:
            connection.send_bytes(data)

    def _push(self) -> None:
        self._pusher = asyncio.get_running_loop().call_later(self._push_s, self._push)
        if self.is_pushing:
            self._push_now()

    def _push_now(self) -> None:
        subscribed = [item for item in self._listener.connections if item.subscription]
        if not subscribed:
            return
        self.printer.advance()
        now = self._clock.now()
        made: dict[str, Status | None] = {}
        for connection in subscribed:
            update = {}
            for name, fields in connection.subscription.items():
                if name not in made:
                    made[name] = self.printer.status(name)
                changed = _changes(connection.told.setdefault(name, {}), made[name] or {}, fields)
                if changed:
                    update[name] = changed
            if update:
                connection.send(connection.status_template | {"params": {"eventtime": now, "status": update}})

    # wire.Owner

    def opened(self, connection: Connection) -> None:
        """A client connected."""

    def closed(self, connection: Connection) -> None:
        """A client disconnected."""

    def received(self, connection: Connection, message: bytes) -> None:
        """Answer a request; what is not one is logged and ignored, as Klippy does."""
        try:
            request = json.loads(message)
            method, params = request["method"], request.get("params", {})
        except (ValueError, TypeError, KeyError, AttributeError):
            log.debug("Request is not readable: %.100r", message)
            return
        if not isinstance(method, str) or not isinstance(params, dict):
            log.debug("Request is not readable: %.100r", message)
            return
        self.requests[method] += 1
        self._spawn(self._answer(connection, request.get("id"), method, params))

    async def _answer(self, connection: Connection, request_id: Any, method: str, params: dict[str, Any]) -> None:
        answer: Message
        try:
            answer = {"id": request_id, "result": await self._run(connection, method, params)}
        except (RequestError, GcodeError) as exc:
            answer = {"id": request_id, "error": {"error": "WebRequestError", "message": str(exc)}}
        if request_id is not None:
            connection.send(answer)

    async def _run(self, connection: Connection, method: str, params: dict[str, Any]) -> Message:
        if method == "info":
            return self._info()
        if method == "list_endpoints":
            return {"endpoints": list(ENDPOINTS)}
        if method == "objects/list":
            return {"objects": self.printer.names()}
        if method == "objects/query":
            return self._query(_objects(params))
        if method == "objects/subscribe":
            connection.subscription = _objects(params)
            connection.status_template = _template(params)
            answer = self._query(connection.subscription)
            connection.told = {name: dict(fields) for name, fields in answer["status"].items()}
            return answer
        if method == "gcode/subscribe_output":
            connection.output_template = _template(params)
            return {}
        if method == "register_remote_method":
            connection.remote_methods[_text(params, "remote_method")] = _template(params)
            return {}
        if method == "emergency_stop":
            self.shut_down("Shutdown due to webhooks request")
            return {}
        if method in ("gcode/restart", "gcode/firmware_restart"):
            self._spawn(self._restart())
            return {}
        if method == "gcode/help":
            return dict(self.interpreter.help())
        if method == "gcode/script":
            await self.interpreter.run_script(_text(params, "script"))
            return {}
        if method in ("pause_resume/pause", "pause_resume/resume", "pause_resume/cancel"):
            command = {"pause": "PAUSE", "resume": "RESUME", "cancel": "CANCEL_PRINT"}[method.partition("/")[2]]
            await self.interpreter.run_script(command)
            return {}
        if method == "query_endstops/status":
            return dict(self.interpreter.query_endstops())
        if method == "bed_mesh/dump_mesh":
            return {"current_mesh": {}, "profiles": {}, "calibration": {}}
        raise RequestError(f"webhooks: No registered callback for path '{method}'")

    def _info(self) -> Message:
        return {
            "state": self.printer.state,
            "state_message": self.printer.state_message,
            "hostname": "simulated-printer",
            "klipper_path": "",
            "python_path": "",
            "process_id": os.getpid(),
            "user_id": os.getuid(),
            "group_id": os.getgid(),
            "log_file": self._log_path or "",
            "config_file": os.path.join(self._config_dir, "printer.cfg"),
            "software_version": VERSION,
            "cpu_info": "simulated",
        }

    def _query(self, objects: dict[str, list[str] | None]) -> Message:
        self.printer.advance()
        status: Status = {}
        for name, fields in objects.items():
            found = self.printer.status(name) or {}
            known = self.printer.status(name) is not None
            status[name] = found if fields is None else {key: found.get(key) for key in fields} if known else {}
        return {"eventtime": self._clock.now(), "status": status}


def _changes(told: Status, found: Status, fields: list[str] | None) -> Status:
    """What differs from what was told; takes note of it."""
    changed = {}
    for key in found if fields is None else fields:
        value = found.get(key)
        if key not in told or told[key] != value:
            changed[key] = told[key] = value
    return changed


def _objects(params: dict[str, Any]) -> dict[str, list[str] | None]:
    if "objects" not in params:
        raise RequestError("Missing Argument [objects]")
    objects = params["objects"]
    if not isinstance(objects, dict):
        raise RequestError("Invalid Argument Type [objects]")
    for fields in objects.values():
        if fields is not None and not (isinstance(fields, list) and all(isinstance(item, str) for item in fields)):
            raise RequestError("Invalid argument")
    return objects


def _template(params: dict[str, Any]) -> Message:
    template = params.get("response_template", {})
    return template if isinstance(template, dict) else {}


def _text(params: dict[str, Any], name: str) -> str:
    if name not in params:
        raise RequestError(f"Missing Argument [{name}]")
    value = params[name]
    if not isinstance(value, str):
        raise RequestError(f"Invalid Argument Type [{name}]")
    return value
