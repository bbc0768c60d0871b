"""The socket: connecting again and again, reading always, urgent messages first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator

import pytest

from moonfast.klippy import connection
from moonfast.klippy.connection import Link

from .fake import FakeKlippy, fake_klippy, until


class Log:
    """A link and what it told."""

    def __init__(self, path: str) -> None:
        self.events: list[str] = []
        self.messages: list[bytes] = []
        self.link = Link(
            path,
            on_opened=lambda: self.events.append("opened"),
            on_messages=self.messages.extend,
            on_lost=lambda: self.events.append("lost"),
        )


@contextlib.asynccontextmanager
async def linked(path: str) -> AsyncIterator[Log]:
    log = Log(path)
    log.link.start()
    try:
        yield log
    finally:
        await log.link.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETRY_S", 0.02)
    monkeypatch.setattr(connection, "MAX_RETRY_S", 0.3)


async def test_waits_for_the_socket_to_appear(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "klippy.sock")
        async with linked(path) as log:
            await asyncio.sleep(0.05)
            assert log.events == []
            klippy = FakeKlippy()
            await klippy.listen(path)
            await until(lambda: log.events == ["opened"])
            await klippy.close()
    assert caplog.text == ""


async def test_a_dead_socket_is_logged_once_and_a_new_one_is_taken_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "klippy.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        async with linked(path) as log:
            await asyncio.sleep(0.5)
            assert caplog.text.count("cannot be opened") == 1
            connection.MAX_RETRY_S = 10.0
            log.link._last_fault = ""
            await asyncio.sleep(0.4)
            os.unlink(path)
            klippy = FakeKlippy()
            await klippy.listen(path)
            began = asyncio.get_running_loop().time()
            await until(lambda: log.events == ["opened"])
            assert asyncio.get_running_loop().time() - began < 0.2
            await klippy.close()


async def test_a_path_that_cannot_be_one(caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/" + "x" * 500, "a\0b", "/dev/null"):
        async with linked(path):
            await asyncio.sleep(0.05)


async def test_connects_again_each_time(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_klippy() as (klippy, path), linked(path) as log:
        for count in range(1, 4):
            await until(lambda count=count: klippy.connections == count and klippy.writer)  # type: ignore[misc]
            await klippy.drop()
        await until(lambda: klippy.connections == 4)
        assert log.events == ["opened", "lost"] * 3 + ["opened"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_messages_arrive_whatever_the_pieces(size: int) -> None:
    async with fake_klippy() as (klippy, path), linked(path) as log:
        await until(lambda: klippy.writer)
        sent = [b'{"a":%d}' % number + b"x" * (number % 7) for number in range(30)]
        data = b"".join(text + b"\x03" for text in sent)
        for start in range(0, len(data), size):
            klippy.send_bytes(data[start : start + size])
            if start % 10 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(log.messages) == len(sent))
        assert log.messages == sent


async def test_a_message_over_the_limit_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "MAX_MESSAGE_BYTES", 1000)
    async with fake_klippy() as (klippy, path), linked(path) as log:
        for count in range(1, 4):
            await until(lambda count=count: klippy.connections == count and klippy.writer)  # type: ignore[misc]
            klippy.send_bytes(b"good\x03" + b"x" * 1001)
            await until(lambda count=count: log.events.count("lost") == count)  # type: ignore[misc]
        assert log.messages == [b"good"] * 3
        assert caplog.text.count("longer than 1000 bytes") == 1


async def test_half_a_message_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_klippy() as (klippy, path), linked(path) as log:
        await until(lambda: klippy.writer)
        klippy.send_bytes(b'whole\x03{"half":')
        await until(lambda: log.messages)
        await klippy.drop()
        await until(lambda: "lost" in log.events)
        assert log.messages == [b"whole"]
        assert "in the middle of a message" in caplog.text


async def test_a_fault_after_a_long_time_is_logged_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "SETTLED_S", 0.0)
    async with fake_klippy() as (_, path), linked(path) as log:
        for count in (1, 2):
            await until(lambda count=count: log.events.count("opened") == count)  # type: ignore[misc]
            log.link.abort("some fault")
            await until(lambda count=count: log.events.count("lost") == count)  # type: ignore[misc]
        assert caplog.text.count("some fault") == 2


class Stalled:
    """A Klippy that does not read until it is told to."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "klippy.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.peer: socket.socket | None = None

    async def accept(self) -> socket.socket:
        self.peer, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.peer.setblocking(False)
        return self.peer

    def close(self) -> None:
        for sock in (self.listener, self.peer):
            if sock is not None:
                sock.close()
        self.folder.cleanup()


@pytest.fixture
def stalled() -> object:
    made = Stalled()
    yield made
    made.close()


async def test_urgent_messages_pass_those_that_wait(stalled: Stalled) -> None:
    loop = asyncio.get_running_loop()
    async with linked(stalled.path) as log:
        peer = await stalled.accept()
        await until(lambda: log.events)
        sent = [b"%06d" % number + b"x" * 10_000 for number in range(100)]
        for message in sent:
            log.link.write(message)
        protocol = log.link._protocol
        assert protocol is not None
        waiting = len(protocol._unsent)
        assert waiting > 10
        log.link.write(b"stop", urgent=True)
        peer.send(b"still read\x03")
        await until(lambda: log.messages)
        received = b""
        while received.count(b"\x03") < len(sent) + 1:
            received += await loop.sock_recv(peer, 1 << 20)
        got = received.split(b"\x03")[:-1]
        place = got.index(b"stop")
        assert place <= len(sent) - waiting + 1
        assert got[:place] + got[place + 1 :] == sent
        assert protocol._unsent_bytes == 0


async def test_a_klippy_that_never_reads_is_given_up(
    stalled: Stalled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "MAX_UNSENT_BYTES", 100_000)
    async with linked(stalled.path) as log:
        await stalled.accept()
        await until(lambda: log.events)
        for _ in range(200):
            log.link.write(b"x" * 10_000)
        await until(lambda: "lost" in log.events)
        assert "does not read" in caplog.text


async def test_stop_at_any_step_of_the_loop() -> None:
    """Also between the protocol's connection_made and the end of create_unix_connection."""
    async with fake_klippy() as (_, path):
        for steps in range(25):
            log = Log(path)
            log.link.start()
            for _ in range(steps):
                await asyncio.sleep(0)
            async with asyncio.timeout(2):
                await log.link.stop()
            assert log.events in ([], ["opened", "lost"])
            assert log.link._protocol is None


async def test_stop_at_any_moment() -> None:
    async with fake_klippy() as (klippy, path):
        for wait_s in (0.0, 0.001, 0.01, 0.05):
            log = Log(path)
            log.link.start()
            await asyncio.sleep(wait_s)
            await log.link.stop()
            assert log.events in ([], ["opened", "lost"])
            await log.link.stop()
            log.link.write(b"ignored")
            log.link.abort("ignored")
        assert klippy.connections >= 1
