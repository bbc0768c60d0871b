"""Plays a captured session of a Klippy to whoever connects, at its own pace or as fast as it is read.

A tape is a JSON object:

    replies    method -> {"result": ...} or {"error": ...}: what a request is answered with
    SECTION    {"initial": answer to an objects/query of everything, "events": [[seconds, message], ...]}

`initial` may be missing: then the answer to objects/query among the replies stands for it. Of the messages, status
updates and console output are played, each to the clients that have subscribed to it. `{data}` in a tape stands for
the data folder.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .requests import RequestError, answer, read_request, select, subscribe
from .wire import Connection, Listener, Message

STATUS = "process_status_update"
CONSOLE = "process_gcode_response"


def load_tape(path: Path, data_path: str = "") -> dict[str, Any]:
    """Read a tape; ValueError: the file is none."""
    text = path.read_text("utf-8").replace("{data}", json.dumps(data_path)[1:-1])
    tape = json.loads(text)
    if not isinstance(tape, dict) or not isinstance(tape.get("replies"), dict):
        raise ValueError(f"{path} is not a tape: it has no object 'replies'")
    return tape


def sections(tape: Mapping[str, Any]) -> list[str]:
    """The names of what can be played."""
    return [name for name, part in tape.items() if isinstance(part, dict) and isinstance(part.get("events"), list)]


class ReplayedKlippy:
    """A socket on which one section of a tape is played; it begins when the first client subscribes to objects.

    `speed` 2 plays twice as fast; 0 as fast as the slowest client reads. With `repeats` it begins anew at its end,
    event times going on. `requests` counts what was asked for, `finished` is set when the section has been played.
    """

    def __init__(
        self,
        socket_path: str,
        tape: Mapping[str, Any],
        *,
        section: str = "print",
        speed: float = 1.0,
        repeats: bool = False,
    ) -> None:
        if section not in sections(tape):
            raise ValueError(f"the tape has no section {section!r}; it has: {', '.join(sections(tape)) or 'none'}")
        if speed < 0.0:
            raise ValueError(f"speed must not be below 0, not {speed!r}")
        self._replies: Message = tape["replies"]
        part = tape[section]
        self._initial: Message = part.get("initial", self._replies.get("objects/query", {})).get("result", {})
        self._events: list[tuple[float, Message]] = [(seconds, message) for seconds, message in part["events"]]
        self._speed, self._repeats = speed, repeats
        self._listener = Listener(socket_path, self)
        self._player: asyncio.Task[None] | None = None
        self._later_s = 0.0  # added to event times, in a repetition
        self.requests: Counter[str] = Counter()
        self.finished = asyncio.Event()
        self._rewind()

    def _rewind(self) -> None:
        self._eventtime: float = self._initial.get("eventtime", 0.0)
        self._status: dict[str, Message] = {
            name: dict(fields) for name, fields in self._initial.get("status", {}).items()
        }

    async def start(self) -> None:
        await self._listener.open()

    async def stop(self) -> None:
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait([self._player])
            self._player = None
        await self._listener.close()

    # playing

    async def _play(self) -> None:
        while True:
            await self._play_once()
            if not self._repeats:
                break
            self._later_s += self._eventtime - float(self._initial.get("eventtime", 0.0)) + 1.0
            self._rewind()
            self._send_status(self._status)  # back to the beginning, as a new print would bring it
            await asyncio.sleep(0)
        self.finished.set()

    async def _play_once(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for seconds, message in self._events:
            if self._speed > 0.0:
                await asyncio.sleep(began + seconds / self._speed - loop.time())
            else:
                for connection in list(self._listener.connections):
                    await connection.writable()
                await asyncio.sleep(0)  # requests are answered in between
            params = message.get("params", {})
            if message.get("method") == STATUS:
                self._eventtime = params["eventtime"]
                for name, fields in params["status"].items():
                    self._status.setdefault(name, {}).update(fields)
                self._send_status(params["status"])
            elif message.get("method") == CONSOLE:
                for connection in self._listener.connections:
                    if connection.output_template is not None:
                        connection.send(connection.output_template | {"params": params})

    def _send_status(self, status: dict[str, Message]) -> None:
        for connection in self._listener.connections:
            update = {}
            for name, wanted in connection.subscription.items():
                fields = status.get(name, {})
                found = fields if wanted is None else {key: fields[key] for key in wanted if key in fields}
                if found:
                    update[name] = found
            if update:
                params = {"eventtime": self._eventtime + self._later_s, "status": update}
                connection.send(connection.status_template | {"params": params})

    # wire.Owner

    def opened(self, connection: Connection) -> None:
        """A client connected."""

    def closed(self, connection: Connection) -> None:
        """A client disconnected."""

    def received(self, connection: Connection, message: bytes) -> None:
        """Answer a request from the tape."""
        request = read_request(message)
        if request is None:
            return
        self.requests[request.method] += 1
        result: Message | Exception
        try:
            if request.method in ("objects/query", "objects/subscribe"):
                wanted = request.objects()
                status = {name: select(self._status.get(name), fields) for name, fields in wanted.items()}
                result = {"eventtime": self._eventtime + self._later_s, "status": status}
                if request.method == "objects/subscribe":
                    subscribe(connection, request, status)
                    if self._player is None:
                        self._player = asyncio.get_running_loop().create_task(self._play(), name="replay")
            elif request.method == "gcode/subscribe_output":
                connection.output_template = request.mapping("response_template")
                result = {}
            elif request.method == "gcode/script":
                request.text("script")
                result = {}
            else:
                result = self._recorded(request.method)
        except RequestError as exc:
            result = exc
        answer(connection, request, result)

    def _recorded(self, method: str) -> Message:
        if method not in self._replies:
            raise RequestError(f"webhooks: No registered callback for path '{method}'")
        reply: Message = self._replies[method]
        if "error" in reply:
            raise RequestError(reply["error"]["message"])
        result: Message = reply["result"]
        return result
