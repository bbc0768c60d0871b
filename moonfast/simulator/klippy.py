"""A Klippy that needs no printer: the endpoints of its Unix socket, pushes of status, shutdown and restart.

Source: Klipper docs/API_Server.md. Imports nothing of the server: it stands for the other side.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from .clock import Clock
from .dumps import Dumps
from .gcode import Interpreter
from .gcode_console import VERSION
from .gcode_lines import GcodeError
from .printer import READY, Printer, Status
from .requests import Filter, Request, RequestError, answer, changes, read_request, select, subscribe
from .status import Objects
from .wire import Connection, Listener, Message

log = logging.getLogger(__name__)

STARTUP_S = 0.6
"""Of the printer's time, in state "startup" after the socket is there."""
DOWN_S = 0.8
"""Of the printer's time, without a socket during a restart."""

FOLDER = os.path.dirname(os.path.abspath(__file__))

Endpoint = Callable[[Connection, Request], Awaitable[Message]]


class SimulatedKlippy:
    """A printer behind a Unix socket. `time_scale` 10 makes an hour of printing pass in six minutes.

    Tests look at `requests` (how often each method was asked for) and use the hooks: `shutdown`, `error`, `drop`,
    `go_away`, `come_back`, `restart`, `send_raw`, `pause_pushes`.
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
        if not push_hz > 0.0:
            raise ValueError(f"updates a second must be above 0, not {push_hz!r}")
        self._gcodes_dir, self._config_dir, self._log_path = gcodes_dir, config_dir or gcodes_dir, log_path
        self._clock = Clock(time_scale)
        self._push_s = 1.0 / push_hz
        self._listener = Listener(socket_path, self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pusher: asyncio.TimerHandle | None = None
        self._is_restarting = False
        self._dumps = Dumps()
        self.requests: Counter[str] = Counter()
        self.pause_pushes = False
        self.printer: Printer
        self.interpreter: Interpreter
        self._objects: Objects
        self._new_printer(None)
        self._endpoints: dict[str, Endpoint] = self._table()

    def _new_printer(self, before: Printer | None) -> None:
        self.printer = Printer(self._clock, before)
        self.printer.on_move = self._dumps.note
        self.interpreter = interpreter = Interpreter(self.printer, self._gcodes_dir, self)
        self._objects = Objects(
            self.printer,
            interpreter.commands,
            interpreter.motion.status,
            interpreter.card.status,
            self._gcodes_dir,
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
        await asyncio.sleep(STARTUP_S / self._clock.scale)
        if printer is self.printer and printer.state == "startup":
            printer.state, printer.state_message = "ready", READY
            self.say("// Klipper state: Ready")

    def restart(self) -> None:
        """Go away and come back, as after RESTART; whoever asked for it gets his answer before."""
        if not self._is_restarting:
            self._is_restarting = True
            self._spawn(self._restart())

    async def _restart(self) -> None:
        try:
            await asyncio.sleep(0)  # the answer is sent first
            await self.go_away()
            await asyncio.sleep(DOWN_S / self._clock.scale)
            await self.come_back()
        finally:
            self._is_restarting = False

    async def go_away(self) -> None:
        """Close the socket and all connections, as a crash does."""
        self.say("// Klipper state: Disconnect")
        self.printer.disconnect()
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

    def shutdown(self, message: str) -> None:
        """Shut the printer down, as an emergency stop or a fault does; the first reason stays."""
        if self.printer.state == "shutdown":
            return
        self.interpreter.card.pause()
        self.printer.shut_down(message)
        self.say("// Klipper state: Shutdown")
        self._push_now()

    def error(self, message: str) -> None:
        """Be in state "error", as after a fault in the configuration."""
        self.interpreter.card.pause()
        self.printer.fail(message)
        self._push_now()

    # what Klippy sends by itself

    def say(self, text: str) -> None:
        """Print to the gcode console."""
        for connection in self._listener.connections:
            if connection.output_template is not None:
                connection.send(connection.output_template | {"params": {"response": text}})

    def call_remote(self, method: str, params: dict[str, Any]) -> None:
        """Call a remote method wherever it is registered. If it is nowhere, that is only logged, as in Klippy."""
        found = [item for item in self._listener.connections if method in item.remote_methods]
        if not found:
            log.warning("Remote Call Error: Remote method '%s' not registered", method)
        for connection in found:
            connection.send(connection.remote_methods[method] | {"params": params})

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are to every connection."""
        for connection in self._listener.connections:
            connection.send_bytes(data)

    def _push(self) -> None:
        self._pusher = asyncio.get_running_loop().call_later(self._push_s, self._push)
        if not self.pause_pushes:
            self._push_now()
            self._dumps.push()

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
                    made[name] = self._objects.status(name)
                found = made[name]
                changed = None if found is None else changes(connection.told.setdefault(name, {}), found, fields)
                if changed:
                    update[name] = changed
            if update:
                connection.send(connection.status_template | {"params": {"eventtime": now, "status": update}})

    # wire.Owner

    def opened(self, connection: Connection) -> None:
        """A client connected."""

    def closed(self, connection: Connection) -> None:
        """A client disconnected."""
        self._dumps.forget(connection)

    def received(self, connection: Connection, message: bytes) -> None:
        """Answer a request."""
        request = read_request(message)
        if request is not None:
            self.requests[request.method] += 1
            self._spawn(self._answer(connection, request))

    async def _answer(self, connection: Connection, request: Request) -> None:
        try:
            endpoint = self._endpoints.get(request.method)
            if endpoint is None:
                raise RequestError(f"webhooks: No registered callback for path '{request.method}'")
            answer(connection, request, await endpoint(connection, request))
        except (RequestError, GcodeError) as exc:
            answer(connection, request, exc)

    # endpoints

    def _table(self) -> dict[str, Endpoint]:
        def plain(make: Callable[[], Message]) -> Endpoint:
            async def run(connection: Connection, request: Request) -> Message:
                return make()

            return run

        def script(text: str) -> Endpoint:
            async def run(connection: Connection, request: Request) -> Message:
                await self.interpreter.run_script(text)
                return {}

            return run

        return {
            "list_endpoints": plain(lambda: {"endpoints": list(self._endpoints)}),
            "info": self._info,
            "emergency_stop": self._emergency_stop,
            "register_remote_method": self._register_remote_method,
            "gcode/help": plain(lambda: dict(self.interpreter.help())),
            "gcode/script": self._script,
            "gcode/restart": self._ask_restart,
            "gcode/firmware_restart": self._ask_restart,
            "gcode/subscribe_output": self._subscribe_output,
            "objects/list": plain(lambda: {"objects": self._objects.names()}),
            "objects/query": self._query,
            "objects/subscribe": self._subscribe,
            "pause_resume/cancel": script("CANCEL_PRINT"),
            "pause_resume/pause": script("PAUSE"),
            "pause_resume/resume": script("RESUME"),
            "bed_mesh/dump_mesh": plain(lambda: self.printer.mesh.dump()),
            "query_endstops/status": plain(lambda: dict(self.interpreter.motion.query_endstops())),
            "motion_report/dump_stepper": self._dump,
            "motion_report/dump_trapq": self._dump,
        }

    async def _info(self, connection: Connection, request: Request) -> Message:
        request.mapping("client_info")
        return {
            "state": self.printer.state,
            "state_message": self.printer.state_message,
            "hostname": socket.gethostname(),
            "klipper_path": FOLDER,
            "python_path": sys.executable,
            "process_id": os.getpid(),
            "user_id": os.getuid(),
            "group_id": os.getgid(),
            "log_file": self._log_path or "",
            "config_file": os.path.join(self._config_dir, "printer.cfg"),
            "software_version": VERSION,
            "cpu_info": f"{os.cpu_count() or 1} core simulated",
        }

    async def _emergency_stop(self, connection: Connection, request: Request) -> Message:
        self.shutdown("Shutdown due to webhooks request")
        return {}

    async def _register_remote_method(self, connection: Connection, request: Request) -> Message:
        connection.remote_methods[request.text("remote_method")] = request.mapping("response_template")
        return {}

    async def _script(self, connection: Connection, request: Request) -> Message:
        await self.interpreter.run_script(request.text("script"))
        return {}

    async def _ask_restart(self, connection: Connection, request: Request) -> Message:
        self.restart()
        return {}

    async def _subscribe_output(self, connection: Connection, request: Request) -> Message:
        connection.output_template = request.mapping("response_template")
        return {}

    async def _dump(self, connection: Connection, request: Request) -> Message:
        return self._dumps.subscribe(connection, request)

    async def _query(self, connection: Connection, request: Request) -> Message:
        return {"eventtime": self._clock.now(), "status": self._status(request.objects())}

    async def _subscribe(self, connection: Connection, request: Request) -> Message:
        status = self._status(request.objects())
        subscribe(connection, request, status)
        return {"eventtime": self._clock.now(), "status": status}

    def _status(self, objects: Filter) -> Status:
        self.printer.advance()
        return {name: select(self._objects.status(name), fields) for name, fields in objects.items()}
