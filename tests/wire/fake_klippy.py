"""A Klippy to be scripted: speaks the protocol of Klipper's docs/API_Server.md, or breaks it on demand.

Like the real one it keeps for each connection what was subscribed to, and pushes only fields of that.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any, cast

ETX = b"\x03"

Filter = dict[str, list[str] | None]

OBJECTS: dict[str, dict[str, Any]] = {
    "webhooks": {"state": "ready", "state_message": "Printer is ready"},
    "print_stats": {"state": "standby", "filename": "", "print_duration": 0.0, "total_duration": 0.0},
    "virtual_sdcard": {"progress": 0.0, "is_active": False},
    "display_status": {"message": None, "progress": 0.0},
    "pause_resume": {"is_paused": False},
    "idle_timeout": {"state": "Idle", "printing_time": 0.0},
    "heaters": {"available_sensors": ["extruder"], "available_monitors": None},
    "extruder": {"temperature": 20.5, "target": 0.0, "power": 0.0, "pressure_advance": 0.05},
    "gcode_move": {"speed": 25.0, "gcode_position": [0.0, 0.0, 0.0, 0.0]},
    "toolhead": {"position": [0.0, 0.0, 0.0, 0.0], "homed_axes": ""},
}
ENDPOINTS = [
    "info",
    "list_endpoints",
    "emergency_stop",
    "register_remote_method",
    "gcode/script",
    "gcode/restart",
    "gcode/subscribe_output",
    "objects/list",
    "objects/query",
    "objects/subscribe",
    "extra/path",
]

NO_ANSWER: Any = object()
"""What a handler returns to leave the request without an answer."""


class Refused(Exception):
    """An error that Klippy answers with."""


class Peer(asyncio.Protocol):
    """One connection to this Klippy."""

    def __init__(self, klippy: FakeKlippy) -> None:
        self._klippy = klippy
        self._received = b""
        self.transport: asyncio.Transport
        self.wanted: Filter | None = None
        self.status_template: dict[str, Any] = {}
        self.gcode_template: dict[str, Any] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._klippy.peers.append(self)
        self._klippy.connections += 1
        if self._klippy.greeting:
            self.transport.write(self._klippy.greeting)

    def data_received(self, data: bytes) -> None:
        *messages, self._received = (self._received + data).split(ETX)
        for text in messages:
            self._klippy.take(self, json.loads(text))

    def connection_lost(self, exc: Exception | None) -> None:
        self._klippy.peers.remove(self)

    def send(self, message: Any) -> None:
        self.transport.write(json.dumps(message).encode() + ETX)


class FakeKlippy:
    """`handlers` maps a method to a function of the parameters; `silent` are methods that get no answer."""

    def __init__(self) -> None:
        self.objects = copy.deepcopy(OBJECTS)
        self.eventtime = 100.0
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.unanswered: list[tuple[Peer, int]] = []
        self.silent: set[str] = set()
        self.is_mute = False  # answers nothing at all
        self.greeting = b""  # sent to each connection at once
        self.connections = 0  # so far
        self.peers: list[Peer] = []
        self.handlers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "info": lambda params: {**self.objects["webhooks"], "software_version": "v0.12.0-1-fake"},
            "list_endpoints": lambda params: {"endpoints": ENDPOINTS},
            "objects/list": lambda params: {"objects": list(self.objects)},
            "objects/query": lambda params: {"eventtime": self.eventtime, "status": self.pick(params["objects"])},
            "gcode/help": lambda params: {"G28": "Home"},
        }
        self._server: asyncio.Server | None = None

    # life

    async def listen(self, path: str) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Peer(self), path)

    async def close(self) -> None:
        """Stop listening, end all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """End all connections."""
        for peer in list(self.peers):
            peer.transport.abort()
        while self.peers:
            await asyncio.sleep(0)

    @property
    def peer(self) -> Peer:
        """The server's own connection, the oldest."""
        return self.peers[0]

    # requests

    def take(self, peer: Peer, request: dict[str, Any]) -> None:
        method, params = request["method"], request.get("params", {})
        self.requests.append((method, params))
        if self.is_mute or method in self.silent:
            self.unanswered.append((peer, request["id"]))
            return
        try:
            result = self._answer(peer, method, params)
        except Refused as exc:
            peer.send({"id": request["id"], "error": {"error": "WebRequestError", "message": str(exc)}})
            return
        if result is not NO_ANSWER:
            peer.send({"id": request["id"], "result": result})

    def _answer(self, peer: Peer, method: str, params: dict[str, Any]) -> Any:
        if method in self.handlers:
            return self.handlers[method](params)
        if method == "objects/subscribe":
            peer.wanted, peer.status_template = params["objects"], params["response_template"]
            return {"eventtime": self.eventtime, "status": self.pick(params["objects"])}
        if method == "gcode/subscribe_output":
            peer.gcode_template = params["response_template"]
        return {}

    def pick(self, wanted: Filter) -> dict[str, Any]:
        """What a query of these fields answers."""
        found: dict[str, Any] = {}
        for name, fields in wanted.items():
            have = self.objects.get(name)
            if have is not None:
                found[name] = {field: have[field] for field in have if fields is None or field in fields}
        return found

    def asked(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all requests of a method so far."""
        return [params for name, params in self.requests if name == method]

    # what it sends by itself

    def push(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change fields; send them to those who subscribed to them."""
        self.eventtime += 0.25
        for name, fields in changes.items():
            self.objects.setdefault(name, {}).update(fields)
        for peer in self.peers:
            if peer.wanted is not None:
                status = narrowed(changes, peer.wanted)
                if status:
                    params = {"eventtime": self.eventtime, "status": status}
                    peer.send({**peer.status_template, "params": params})

    def respond(self, text: str) -> None:
        """Print to the gcode console."""
        for peer in self.peers:
            if peer.gcode_template is not None:
                peer.send({**peer.gcode_template, "params": {"response": text}})

    def set_state(self, state: str, message: str = "") -> None:
        self.push({"webhooks": {"state": state, "state_message": message}})

    def send_bytes(self, data: bytes) -> None:
        """Send anything on the server's own connection."""
        self.peer.transport.write(data)


def narrowed(changes: dict[str, dict[str, Any]], wanted: Filter) -> dict[str, dict[str, Any]]:
    """The part of an update that is in a filter; objects of which nothing is left are left out."""
    found = {}
    for name, fields in changes.items():
        if name in wanted:
            limit = wanted[name]
            kept = {field: value for field, value in fields.items() if limit is None or field in limit}
            if kept:
                found[name] = kept
    return found
