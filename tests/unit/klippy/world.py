"""The parts around the link, wired as the server wires them, with clients that keep what they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from moonfast.api.call import Call
from moonfast.api.endpoint import Endpoint, Notification
from moonfast.api.later import Later
from moonfast.api.table import EndpointTable
from moonfast.errors import ApiError
from moonfast.klippy.api import PrinterApi
from moonfast.klippy.session import Klippy
from moonfast.speedups import fanout
from moonfast.speedups import status as status_table
from moonfast.state.gcode_store import GcodeStore
from moonfast.state.job import Job
from moonfast.state.status import Status
from moonfast.state.temperature_store import TemperatureStore
from moonfast.vocab import KlippyState, Transport

from .fake import FakeKlippy, fake_klippy, until


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.texts += data.split(b"\n")[:-1]

    def abort(self) -> None:
        raise AssertionError("aborted")

    def get_write_buffer_size(self) -> int:
        return 0


def in_line(text: bytes) -> bytes:
    return text + b"\n"


def in_line_too(text: bytes) -> bytes:
    return text + b"\n"


class Client:
    """A subscriber."""

    def __init__(self, uid: int, pump: fanout.Pump, framing: Any = in_line) -> None:
        self.uid, self.framing = uid, framing
        self.sink = Sink()
        self.outbox = fanout.Outbox(pump, self.sink, -1)
        self.group: status_table.FilterGroup | None = None

    def send(self, text: bytes) -> None:
        self.outbox.send(self.framing(text))

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [json.loads(text)["params"][0] for text in self.sink.texts]


class World:
    def __init__(self, path: str) -> None:
        self.pump = fanout.Pump(asyncio.get_running_loop().call_soon)
        self.status = Status(self.pump)
        self.table = EndpointTable()
        self.gcodes = GcodeStore(100)
        self.temperatures = TemperatureStore(20, self.status.table.field)
        self.job = Job(self.status.table)
        self.told: list[str] = []
        self.clients: dict[int, Client] = {}
        self.klippy = Klippy(
            path,
            status=self.status,
            table=self.table,
            version="v0",
            emit=self._emit,
            emit_raw=self._emit_raw,
            on_response=self.gcodes.add_response,
            on_ready=self.temperatures.start,
            on_lost=self._lost,
            cork=self.pump.cork,
            uncork=self.pump.uncork,
        )
        self.status.watch("webhooks", self.klippy.observe)
        self.status.watch("print_stats", self.job.observe)
        self.table.collect(PrinterApi(self.klippy, self.clients.get, self.gcodes.add_command))
        self.table.collect(self.gcodes)
        self.table.collect(self.temperatures)
        self.table.complete()

    def _emit(self, notification: Notification) -> None:
        self.told.append(notification.method)

    def _emit_raw(self, notification: Notification, payload: bytes) -> None:
        self.told.append(f"{notification.method} {payload.decode()}")

    def _lost(self) -> None:
        self.temperatures.pause()
        self.job.clear()

    def client(self, framing: Any = in_line) -> Client:
        client = Client(len(self.clients) + 1, self.pump, framing)
        self.clients[client.uid] = client
        return client

    def call(
        self, method: str, arguments: dict[str, Any] | None = None, *, client: Client | None = None, http: bool = False
    ) -> Any:
        """What the endpoint's handler returns."""
        endpoint = self.table.by_method(method)
        assert endpoint is not None, method
        return self.call_endpoint(endpoint, arguments or {}, client, http)

    def call_endpoint(
        self, endpoint: Endpoint, arguments: dict[str, Any], client: Client | None = None, http: bool = False
    ) -> Any:
        call = Call(Transport.HTTP if http else Transport.WEBSOCKET, connection=client)
        if endpoint.parameters:
            return endpoint.handler(call, **endpoint.parameters.bind(arguments))
        return endpoint.handler(call)

    async def ask(self, method: str, arguments: dict[str, Any] | None = None, **keywords: Any) -> Any:
        """The decoded answer; ApiError as the client would get it."""
        result = self.call(method, arguments, **keywords)
        if isinstance(result, Later):
            result = await result
        return json.loads(bytes(result)) if isinstance(result, bytes) else result

    async def error(self, method: str, arguments: dict[str, Any] | None = None, **keywords: Any) -> ApiError:
        try:
            result = await self.ask(method, arguments, **keywords)
        except ApiError as exc:
            return exc
        raise AssertionError(f"{method} answered {result!r}")


@contextlib.asynccontextmanager
async def world(ready: bool = True) -> AsyncIterator[tuple[World, FakeKlippy]]:
    """A printer and the link to it; `ready`: after the last step of the session."""
    async with fake_klippy() as (fake, path):
        made = World(path)
        made.klippy.start()
        try:
            if ready:
                await until(lambda: made.klippy.state is KlippyState.READY)
            yield made, fake
        finally:
            await made.klippy.stop()
            made.temperatures.pause()
            made.pump.close()
