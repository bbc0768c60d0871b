"""A raw client of Klippy's socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from moonfast.simulator.klippy import SimulatedKlippy

TIMEOUT_S = 10.0


class Client:
    """Sends requests, keeps what comes without having been asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._last_id = 0
        self.pushed: list[dict[str, Any]] = []

    async def _read(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            text = await self._reader.readuntil(b"\x03")
        message: dict[str, Any] = json.loads(text[:-1])
        return message

    async def ask(self, method: str, **params: Any) -> Any:
        """The result, or the error object."""
        self._last_id += 1
        self._writer.write(json.dumps({"id": self._last_id, "method": method, "params": params}).encode() + b"\x03")
        while True:
            message = await self._read()
            if message.get("id") == self._last_id:
                return message["result"] if "result" in message else message["error"]
            self.pushed.append(message)

    async def run(self, script: str) -> Any:
        return await self.ask("gcode/script", script=script)

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first pushed message that is wanted, those that came already included."""
        while True:
            for message in self.pushed:
                if wanted(message):
                    return message
            self.pushed.append(await self._read())

    async def until_closed(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while await self._reader.read(65536):
                pass

    def close(self) -> None:
        self._writer.close()


async def connect(path: Path) -> Client:
    """Connect as soon as the socket is there."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                return Client(*await asyncio.open_unix_connection(str(path), limit=2**24))
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.01)


async def ready(path: Path) -> Client:
    """A client of a printer that is ready."""
    client = await connect(path)
    async with asyncio.timeout(TIMEOUT_S):
        while (await client.ask("info"))["state"] != "ready":
            await asyncio.sleep(0.005)
    return client


@contextlib.asynccontextmanager
async def printer(folder: Path, **options: Any) -> AsyncIterator[tuple[SimulatedKlippy, Client]]:
    """A simulated printer, a hundred times as fast as a real one, and a client of it."""
    path = folder / "klippy.sock"
    klippy = SimulatedKlippy(str(path), gcodes_dir=str(folder), **({"time_scale": 100.0, "push_hz": 50.0} | options))
    await klippy.start()
    client = await ready(path)
    try:
        yield klippy, client
    finally:
        client.close()
        await klippy.stop()
