"""A real broker for tests: Mosquitto on a free port of this machine, which can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.running import free_port, until

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="the program mosquitto is not installed")


class Broker:
    """`options` are lines of its configuration."""

    def __init__(self, folder: Path, options: str = "allow_anonymous true\n") -> None:
        self.port = free_port()
        self._file = folder / "mosquitto.conf"
        self._file.write_text(f"listener {self.port} 127.0.0.1\nuser root\n{options}")
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await until(self._listens)

    def _listens(self) -> bool:
        import socket

        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Watcher:
    """Another client of the broker; `seen` are all messages: topic, payload, whether the broker had kept it."""

    def __init__(self, port: int, **login: Any) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.seen: list[tuple[str, bytes, bool]] = []
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        self._client.on_message = lambda client, data, message: self.seen.append(
            (message.topic, bytes(message.payload), bool(message.retain))
        )
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(20)

    def publish(self, topic: str, payload: str | bytes | None = None, *, qos: int = 1, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos, retain).wait_for_publish(20)

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.seen) if name == topic]

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.asynccontextmanager
async def broker(folder: Path, options: str = "allow_anonymous true\n") -> AsyncIterator[Broker]:
    found = Broker(folder, options)
    await found.start()
    try:
        yield found
    finally:
        found.kill()


@contextlib.contextmanager
def watching(port: int, **login: Any) -> Any:
    watcher = Watcher(port, **login)
    try:
        yield watcher
    finally:
        watcher.stop()


def now_us() -> int:
    return int(time.time() * 1e6)


async def settle() -> None:
    """Let what was sent arrive."""
    await asyncio.sleep(0.3)
