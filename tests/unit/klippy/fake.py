"""A Klippy for tests: answers over a real Unix socket what the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

ETX = b"\x03"
OBJECTS: dict[str, dict[str, Any]] = {
    "webhooks": {"state": "ready", "state_message": "Printer is ready"},
    "print_stats": {"state": "standby", "filename": "", "print_duration": 0.0, "total_duration": 0.0},
    "virtual_sdcard": {"progress": 0.0},
    "display_status": {"message": None},
    "pause_resume": {"is_paused": False},
    "idle_timeout": {"state": "Idle"},
    "heaters": {"available_sensors": ["extruder", "heater_bed"], "available_monitors": ["tmc2209 x"]},
    "extruder": {"temperature": 20.5, "target": 0.0, "power": 0.0, "pressure_advance": 0.1},
    "heater_bed": {"temperature": 21.0, "target": 0.0, "power": 0.0},
    "tmc2209 x": {"temperature": None, "run_current": 0.8},
    "toolhead": {"position": [0.0, 0.0, 0.0, 0.0], "homed_axes": ""},
}
ENDPOINTS = ["info", "list_endpoints", "gcode/script", "gcode/subscribe_output", "register_remote_method", "extra/path"]


class Refused(Exception):
    """An error of Klippy."""


class FakeKlippy:
    """`methods` maps a method to what answers it; None instead of a result means no answer at all."""

    def __init__(self) -> None:
        self.objects = json.loads(json.dumps(OBJECTS))
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.subscribed: dict[str, list[str] | None] = {}
        self.methods: dict[str, Callable[[dict[str, Any]], Any]] = {
            "info": lambda params: {**self.objects["webhooks"], "software_version": "v1"},
            "list_endpoints": lambda params: {"endpoints": ENDPOINTS},
            "objects/list": lambda params: {"objects": list(self.objects)},
            "objects/query": lambda params: {"eventtime": 1.5, "status": self.pick(params["objects"])},
            "objects/subscribe": self._subscribe,
        }
        self.writer: asyncio.StreamWriter | None = None
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def pick(self, wanted: dict[str, list[str] | None]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, fields in wanted.items():
            have = self.objects.get(name, {})
            found[name] = have if fields is None else {field: have.get(field) for field in fields}
        return found

    def _subscribe(self, params: dict[str, Any]) -> Any:
        self.subscribed = params["objects"]
        return {"eventtime": 2.5, "status": self.pick(self.subscribed)}

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [params for name, params in self.requests if name == method]

    async def listen(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.drop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def drop(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.writer = writer
        try:
            while True:
                text = (await reader.readuntil(ETX))[:-1]
                self._take(json.loads(text))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    def _take(self, request: dict[str, Any]) -> None:
        method, params = request["method"], request.get("params", {})
        self.requests.append((method, params))
        try:
            result = self.methods.get(method, lambda params: {})(params)
        except Refused as exc:
            self.send({"id": request["id"], "error": {"error": "WebRequestError", "message": str(exc)}})
            return
        if result is not None:
            self.send({"id": request["id"], "result": result})

    def send(self, message: Any) -> None:
        self.send_bytes(json.dumps(message).encode() + ETX)

    def send_bytes(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    def push(self, **changes: dict[str, Any]) -> None:
        for name, fields in changes.items():
            self.objects.setdefault(name, {}).update(fields)
        self.send({"method": "process_status_update", "params": {"eventtime": 3.5, "status": changes}})


@contextlib.asynccontextmanager
async def fake_klippy() -> AsyncIterator[tuple[FakeKlippy, str]]:
    """A listening FakeKlippy and the path of its socket."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "klippy.sock")
        klippy = FakeKlippy()
        await klippy.listen(path)
        try:
            yield klippy, path
        finally:
            await klippy.close()


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
