"""The real server on a free port, with a data folder of its own and a scripted Klippy; clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from moonfast.config.load import load
from moonfast.data_path import FOLDERS, Options
from moonfast.errors import StartError
from moonfast.server import Server
from moonfast.vocab import KlippyState
from tests.wire.fake_klippy import ETX, FakeKlippy
from tests.wire.raw import WAIT_S, RawSocket, open_raw

TRUSTED = "\n[authorization]\ntrusted_clients:\n    127.0.0.0/8\n    ::1\n\n"


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def free_port() -> int:
    """A port that nothing listens on; somebody may take it before it is used."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class RpcError(Exception):
    """An error answered to a request."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code, self.message, self.data = error["code"], error["message"], error.get("data")


class Client:
    """A JSON-RPC client; subclasses carry the texts. It keeps every message that answers nothing, in order.

    What the machine does, which is told at each whole second, is kept apart, in `stats`.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.stats: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self.is_closed = False
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _send(self, text: str) -> None:
        raise NotImplementedError

    def _texts(self) -> AsyncIterator[str | bytes]:
        raise NotImplementedError

    async def _read(self) -> None:
        try:
            async for text in self._texts():
                message = json.loads(text)
                waiting = None if "method" in message else self._waiting.pop(message["id"], None)
                if message.get("method") == "notify_proc_stat_update":
                    self.stats.append(message)
                elif waiting is None:
                    self.messages.append(message)
                elif "error" in message:
                    waiting.set_exception(RpcError(message["error"]))
                else:
                    waiting.set_result(message["result"])
        finally:
            self.is_closed = True
            for future in self._waiting.values():
                future.cancel()

    async def start_call(self, method: str, params: dict[str, Any] | None = None) -> asyncio.Future[Any]:
        """Send a request; the future has its result, RpcError is its error."""
        request_id = next(self._ids)
        future = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        message = {"jsonrpc": "2.0", "method": method, "id": request_id}
        await self._send(json.dumps(message if params is None else {**message, "params": params}))
        return future

    async def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        async with asyncio.timeout(WAIT_S):
            return await (await self.start_call(method, params))

    async def answer(self, request: dict[str, Any], **outcome: Any) -> None:
        """Answer a request of the server's with `result` or `error`."""
        await self._send(json.dumps({"jsonrpc": "2.0", "id": request["id"], **outcome}))

    async def identify(self, name: str = "test", type: str = "other") -> int:
        params = {"client_name": name, "version": "1", "type": type, "url": "http://x"}
        uid: int = (await self.call("server.connection.identify", params))["connection_id"]
        return uid

    async def subscribe(self, objects: dict[str, list[str] | None]) -> Any:
        return await self.call("printer.objects.subscribe", {"objects": objects})

    def of(self, method: str) -> list[list[Any]]:
        """The parameters of all messages of a method so far."""
        return [message.get("params", []) for message in self.messages if message["method"] == method]

    def methods(self) -> list[str]:
        return [message["method"] for message in self.messages]

    async def wait_for(self, method: str, number: int = 1) -> list[Any]:
        """Wait for so many messages of a method; the parameters of the last of them."""
        await until(lambda: len(self.of(method)) >= number)
        return self.of(method)[number - 1]

    async def closed(self) -> int | None:
        """Wait for the end of the connection; the close code of a WebSocket."""
        await until(lambda: self.is_closed)
        return self.close_code

    async def close(self) -> None:
        raise NotImplementedError


class WebSocketClient(Client):
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        super().__init__()

    async def _send(self, text: str) -> None:
        await self.connection.send(text)

    async def _texts(self) -> AsyncIterator[str | bytes]:
        with contextlib.suppress(ConnectionClosed):
            async for text in self.connection:
                yield text
        self.close_code = self.connection.close_code

    async def close(self) -> None:
        with contextlib.suppress(AttributeError):  # the library aborts a transport that asyncio has let go of already
            await self.connection.close()
        await self._reader


class UnixClient(Client):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        super().__init__()

    async def _send(self, text: str) -> None:
        self.writer.write(text.encode() + ETX)
        await self.writer.drain()

    async def _texts(self) -> AsyncIterator[str | bytes]:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                yield (await self.reader.readuntil(ETX))[:-1]

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        await self._reader


class Running:
    """One server that runs. Clients made here are closed with it."""

    def __init__(self, server: Server, klippy: FakeKlippy, port: int, data_path: str) -> None:
        self.server, self.klippy, self.port, self.data_path = server, klippy, port, data_path
        self.url = f"ws://127.0.0.1:{port}/websocket"
        self.unix_path = os.path.join(data_path, "comms", "moonraker.sock")
        self.klippy_path = klippy_path(data_path)
        self._clients: list[Client | RawSocket] = []

    async def client(self, **options: Any) -> WebSocketClient:
        """A client on the WebSocket; `options` are those of `websockets`."""
        options = {"max_size": None, "ping_interval": None, "close_timeout": WAIT_S, **options}
        client = WebSocketClient(await connect(self.url, **options))
        self._clients.append(client)
        return client

    async def unix_client(self) -> UnixClient:
        client = UnixClient(*await asyncio.open_unix_connection(self.unix_path, limit=1 << 26))
        self._clients.append(client)
        return client

    async def raw(self, path: str = "/websocket", **options: Any) -> RawSocket:
        """A WebSocket of single frames."""
        client = await open_raw(self.port, path, **options)
        self._clients.append(client)
        return client

    async def clients(self, count: int) -> list[WebSocketClient]:
        return [await self.client() for _ in range(count)]

    async def http(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """One request on a connection of its own; status and the JSON of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(content)}"
        kind = "\r\nContent-Type: application/json\r\n\r\n"
        writer.write(head.encode() + kind.encode() + content)
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        head_bytes, _, text = answer.partition(b"\r\n\r\n")
        return int(head_bytes.split()[1]), json.loads(text) if text else None

    async def wait_state(self, state: KlippyState) -> None:
        await until(lambda: self.server.klippy.state is state)

    async def close_clients(self) -> None:
        for client in self._clients:
            await client.close()
        self._clients.clear()


def klippy_path(data_path: str) -> str:
    return os.path.join(data_path, "comms", "klippy.sock")


def make_data_folder(config_text: str = "", port: int | None = None) -> str:
    """A data folder with a configuration; its path is short, as Unix sockets demand."""
    data_path = tempfile.mkdtemp(prefix="mf-")
    for name in FOLDERS:
        os.mkdir(os.path.join(data_path, name))
    write_config(data_path, free_port() if port is None else port, config_text)
    return data_path


def write_config(data_path: str, port: int, text: str = "") -> None:
    with open(os.path.join(data_path, "config", "moonraker.conf"), "w") as stream:
        stream.write(
            f"[server]\nhost: 127.0.0.1\nport: {port}\nklippy_uds_address: {klippy_path(data_path)}\n\n"
            f"{text}\n{'' if '[authorization]' in text else TRUSTED}"
        )


def make_options(data_path: str) -> Options:
    return Options(
        data_path=data_path,
        config_file=os.path.join(data_path, "config", "moonraker.conf"),
        unix_socket_path=os.path.join(data_path, "comms", "moonraker.sock"),
    )


async def start_server(data_path: str, config_text: str = "", **arguments: Any) -> tuple[Server, int]:
    """Start a server; on another port if the one found free was taken meanwhile."""
    for _ in range(20):
        port = free_port()
        write_config(data_path, port, config_text)
        options = make_options(data_path)
        server = Server(options, load(options.config_file, data_path), **arguments)
        try:
            await server.start()
        except StartError as exc:
            if not str(exc).startswith("port "):
                raise
        else:
            return server, port
    raise AssertionError("no port is free")


@contextlib.asynccontextmanager
async def restarted(served: Running, **arguments: Any) -> AsyncIterator[Running]:
    """The same server, stopped and started again on its data folder."""
    await served.close_clients()
    await served.server.stop()
    options = make_options(served.data_path)
    again = Running(
        Server(options, load(options.config_file, options.data_path), **arguments),
        served.klippy,
        served.port,
        served.data_path,
    )
    await again.server.start()
    try:
        yield again
    finally:
        await again.close_clients()
        await again.server.stop()


@contextlib.asynccontextmanager
async def running(
    config_text: str = "", *, klippy: FakeKlippy | None = None, is_ready: bool = True, **arguments: Any
) -> AsyncIterator[Running]:
    """A server with its Klippy, which listens already and, with `is_ready`, is seen as ready.

    `arguments` are those of `Server`.
    """
    klippy = klippy or FakeKlippy()
    data_path = make_data_folder()
    try:
        await klippy.listen(klippy_path(data_path))
        server, port = await start_server(data_path, config_text, **arguments)
        served = Running(server, klippy, port, data_path)
        try:
            if is_ready:
                await served.wait_state(KlippyState.READY)
            yield served
        finally:
            await served.close_clients()
            await server.stop()
            await klippy.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, data_path)
