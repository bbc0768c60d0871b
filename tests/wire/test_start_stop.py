"""Start and stop: nothing is left behind, nothing is shared; and the program as a service manager sees it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import sys
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from moonfast.config.load import load
from moonfast.errors import StartError
from moonfast.server import Server
from moonfast.vocab import KlippyState
from tests.wire.fake_klippy import FakeKlippy
from tests.wire.raw import CLOSE, WAIT_S, close_frame, open_raw
from tests.wire.running import (
    free_port,
    klippy_path,
    make_data_folder,
    make_options,
    running,
    start_server,
    until,
    write_config,
)


def descriptors() -> Counter[str]:
    """What the open descriptors of this process lead to; sockets without their number, which is never the same."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            found["socket" if target.startswith("socket:") else target] += 1
    return found


async def one_life(seen: list[weakref.ref[Server]]) -> None:
    """A server with clients of all kinds, some of which are still there, and busy, when it stops."""
    async with running() as served:
        seen.append(weakref.ref(served.server))
        websocket, unix = await served.client(), await served.unix_client()
        await websocket.subscribe({"toolhead": None})
        await unix.identify("agent", "agent")
        await unix.call("connection.register_remote_method", {"method_name": "beep"})
        served.klippy.push({"toolhead": {"homed_axes": "x"}})
        await websocket.wait_for("notify_status_update")
        bridge = await served.raw("/klippysocket")
        await bridge.send_json({"id": 1, "method": "info"})
        await bridge.recv()
        await served.raw("/klippysocket")  # may still be about to reach Klippy
        served.klippy.silent.add("gcode/help")
        await websocket.start_call("printer.gcode.help")
        await websocket.start_call("server.extensions.request", {"agent": "agent", "method": "never"})
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /printer/gcode/help HTTP/1.1\r\nHost: x\r\n\r\nGET /server/info HTTP/1.1\r\nHos")
        await until(lambda: len(served.klippy.unanswered) >= 2)
        stopping = asyncio.get_running_loop().create_task(served.server.stop())
        assert (await bridge.recv()).opcode == CLOSE
        await bridge.send(close_frame(1001))
        assert await websocket.closed() == 1001
        await served.close_clients()
        await stopping
        await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_fifty_lives_leave_nothing() -> None:
    seen: list[weakref.ref[Server]] = []
    await one_life(seen)  # what is made once, such as an executor's thread, is there now
    gc.collect()
    before = descriptors(), threading.active_count(), asyncio.all_tasks()
    for _ in range(50):
        await one_life(seen)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before[2]
    assert threading.active_count() == before[1]
    assert descriptors() == before[0]
    gc.collect()
    assert not [server() for server in seen if server() is not None]


async def test_stop_leaves_nothing_at_once() -> None:
    """Without any client: when `stop` returns, the ports and files are free and no task is left."""
    klippy, data_path = FakeKlippy(), make_data_folder()
    await klippy.listen(klippy_path(data_path))
    tasks = asyncio.all_tasks()
    server, port = await start_server(data_path)
    await until(lambda: server.klippy.state is KlippyState.READY)
    await server.stop()
    assert asyncio.all_tasks() == tasks
    assert not os.path.exists(os.path.join(data_path, "comms", "moonraker.sock"))
    await asyncio.sleep(0)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
    await klippy.close()
    await asyncio.to_thread(shutil.rmtree, data_path)


async def test_stop_before_klippy_has_answered() -> None:
    for method in ("info", "list_endpoints", "objects/subscribe", "objects/list", "nothing of it"):
        klippy = FakeKlippy()
        klippy.silent.add(method)
        tasks = asyncio.all_tasks()
        async with running(klippy=klippy, is_ready=False) as served:
            await until(lambda klippy=klippy, method=method: klippy.unanswered or method == "nothing of it")
            await served.server.stop()
            await served.server.stop()  # once more does no harm
        assert asyncio.all_tasks() == tasks


async def test_a_start_that_fails_leaves_nothing() -> None:
    data_path = make_data_folder()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        write_config(data_path, taken.getsockname()[1])
        options = make_options(data_path)
        found = []
        for _ in range(3):
            with pytest.raises(StartError, match="cannot be used"):
                await Server(options, load(options.config_file, data_path)).start()
            await asyncio.sleep(0.01)
            found.append((descriptors(), asyncio.all_tasks()))
    assert found[2] == found[1]  # the first time an event loop listens it opens a descriptor for good
    assert os.listdir(os.path.join(data_path, "comms")) == []
    await asyncio.to_thread(shutil.rmtree, data_path)


async def test_two_servers_share_nothing() -> None:
    async with running() as one, running("[data_store]\ngcode_store_size: 5") as two:
        first, second = await one.client(), await two.client()
        assert await first.identify("agent", "agent") != await second.identify("agent", "agent")
        for client in (first, second):
            await client.call("connection.register_remote_method", {"method_name": "beep"})
            await client.subscribe({"toolhead": None, "gcode_move": ["speed"]})
        one.klippy.push({"toolhead": {"homed_axes": "x"}})
        one.klippy.respond("one")
        one.klippy.peer.send({"method": "beep", "params": {}})
        one.klippy.set_state("shutdown")
        await first.wait_for("notify_klippy_shutdown")
        assert (await second.call("server.info"))["klippy_state"] == "ready"
        assert not second.messages
        assert (await second.call("server.gcode_store"))["gcode_store"] == []
        assert len((await first.call("server.gcode_store"))["gcode_store"]) == 1
        await one.server.stop()
        await first.closed()
        two.klippy.push({"toolhead": {"homed_axes": "xyz"}})
        assert (await second.wait_for("notify_status_update"))[0] == {"toolhead": {"homed_axes": "xyz"}}


# the program


class Program:
    """`python -m moonfast` on a data folder."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def wait_until_it_serves(self) -> None:
        assert self.process.stderr is not None
        while not (self.lines and self.lines[-1].startswith("moonfast: open ")):
            line = (await self.process.stderr.readline()).decode()
            assert line, "".join(self.lines)
            self.lines.append(line)

    async def end(self) -> tuple[int, list[str]]:
        """Wait for the end: the exit status, and what it said to the user (not the log) since it serves."""
        async with asyncio.timeout(WAIT_S):
            _, rest = await self.process.communicate()
        lines = [line for line in rest.decode().splitlines() if line.startswith("moonfast: ") or "Traceback" in line]
        assert self.process.returncode is not None
        return self.process.returncode, lines


@contextlib.asynccontextmanager
async def program(data_path: str, *flags: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "moonfast", "-d", data_path, *flags, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@contextlib.contextmanager
def data_folder(port: int) -> Iterator[str]:
    data_path = make_data_folder(port=port)
    try:
        yield data_path
    finally:
        shutil.rmtree(data_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_with_200_clients(number: signal.Signals) -> None:
    port = free_port()
    with data_folder(port) as data_path:
        klippy = FakeKlippy()
        await klippy.listen(klippy_path(data_path))
        async with program(data_path) as running_:
            await running_.wait_until_it_serves()
            clients = [await open_raw(port) for _ in range(200)]
            running_.process.send_signal(number)
            for index, client in enumerate(clients):
                while (found := await client.recv()).opcode != CLOSE:
                    pass
                assert found.code == 1001
                if index % 10:  # the others never answer
                    await client.send(close_frame(1001))
            assert await running_.end() == (0, [])
            for client in clients:
                await client.close()
        assert not os.path.exists(os.path.join(data_path, "comms", "moonraker.sock"))
        await klippy.close()


async def test_restart_in_place() -> None:
    port, other_port = free_port(), free_port()
    with data_folder(port) as data_path:
        klippy = FakeKlippy()
        await klippy.listen(klippy_path(data_path))
        async with program(data_path) as running_:
            await running_.wait_until_it_serves()
            watched = f"/proc/{running_.process.pid}/fd"
            await until(lambda: len(klippy.asked("objects/list")) == 1)
            client, other = await open_raw(port), await open_raw(port)
            write_config(data_path, other_port)
            assert (await client.call("server.restart"))["result"] == "ok"
            for item in (client, other):
                while (found := await item.recv()).opcode != CLOSE:
                    pass
                assert found.code == 1001
                await item.send(close_frame(1001))
                assert await item.end()
                await item.close()
            running_.lines.clear()
            await running_.wait_until_it_serves()
            with pytest.raises(ConnectionRefusedError):
                await open_raw(port)
            count = 0
            for restarts in range(2, 5):
                await until(lambda restarts=restarts: len(klippy.asked("objects/list")) == restarts)
                await asyncio.sleep(0.2)  # the first look at the folders is over
                count = count or len(os.listdir(watched))
                assert len(os.listdir(watched)) == count
                client = await open_raw(other_port)
                assert (await client.call("server.info"))["result"]["websocket_count"] == 1
                await client.send_json({"jsonrpc": "2.0", "method": "server.restart"})
                while (await client.recv()).opcode != CLOSE:
                    pass
                await client.close()
                running_.lines.clear()
                await running_.wait_until_it_serves()
            running_.process.send_signal(signal.SIGTERM)
            assert await running_.end() == (0, [])
        await klippy.close()


async def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with data_folder(port) as data_path:
            async with program(data_path) as running_:
                status, lines = await running_.end()
    assert status == 1
    assert len(lines) == 1
    assert f"port {port}" in lines[0]


async def test_a_second_instance() -> None:
    port = free_port()
    with data_folder(port) as data_path:
        async with program(data_path) as first:
            await first.wait_until_it_serves()
            async with program(data_path) as second:
                status, lines = await second.end()
            assert status == 1
            assert len(lines) == 1
            assert str(first.process.pid) in lines[0]
            client = await open_raw(port)  # the first one is not disturbed
            assert (await client.call("server.info"))["result"]["klippy_connected"] is False
            await client.close()
            assert os.path.exists(os.path.join(data_path, "comms", "moonraker.sock"))


async def test_a_data_folder_that_cannot_be() -> None:
    with data_folder(free_port()) as data_path:
        file = os.path.join(data_path, "file")
        with open(file, "w"):
            pass
        for path in (file, os.path.join(file, "below"), "/proc/no/such/place"):
            async with program(path) as running_:
                status, lines = await running_.end()
            assert status == 1
            assert len(lines) == 1
            assert path in lines[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_data_folder_without_permission() -> None:
    with data_folder(free_port()) as data_path:
        os.chmod(data_path, 0o555)
        try:
            async with program(data_path) as running_:
                status, lines = await running_.end()
        finally:
            os.chmod(data_path, 0o755)
        assert status == 1
        assert len(lines) == 1
        assert "not writable" in lines[0]


async def test_a_configuration_that_cannot_be_used() -> None:
    with data_folder(free_port()) as data_path:
        write_config(data_path, 99999)
        async with program(data_path) as running_:
            status, lines = await running_.end()
    assert status == 1
    assert len(lines) == 1
    assert "port" in lines[0]
