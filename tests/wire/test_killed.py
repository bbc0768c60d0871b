"""A server that is killed in the middle of work on files, and started again: nothing half done is seen or left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.wire.raw import WAIT_S
from tests.wire.running import free_port, make_data_folder, until, write_config
from tests.wire.site import Client
from tests.wire.test_uploads import GCODE, file, form, head

LARGE = 96 * 1024 * 1024
START_S = 30.0


class Killable:
    """The server as a program of its own, with a data folder that outlives it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.data = Path(make_data_folder())
        self.gcodes = self.data / "gcodes"
        self.process: asyncio.subprocess.Process | None = None
        self.client: Client

    async def start(self, config: str = "") -> None:
        write_config(str(self.data), self.port, config)
        command = (sys.executable, "-m", "moonfast", "-n", "-d", str(self.data))
        null = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*command, stdout=null, stderr=null)
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(OSError):
                    self.client = await self.connect()
                    return
                await asyncio.sleep(0.02)

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        self.process = None
        await self.client.close()

    async def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), WAIT_S)
            await self.client.close()
        shutil.rmtree(self.data)

    def parts(self) -> list[Path]:
        """Files that are not whole yet."""
        return [path for path in self.data.rglob("*.part") if path.is_file()]

    async def ask(self, verb: str, target: str, body: bytes = b"", kind: str = "application/json") -> Any:
        head = f"{verb} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.client.send(head.encode() + body)
        return (await self.client.read()).json

    async def names(self, root: str = "gcodes") -> set[str]:
        return {item["path"] for item in (await self.ask("GET", f"/server/files/list?root={root}"))["result"]}

    async def kill_in_the_middle(self) -> None:
        """Kill it while a part file grows."""
        await until(lambda: any(path.stat().st_size > 0 for path in self.parts()))
        await self.kill()
        assert self.parts()


@contextlib.asynccontextmanager
async def killable() -> AsyncIterator[Killable]:
    server = Killable()
    try:
        await server.start()
        yield server
    finally:
        await server.end()


async def clean_again(server: Killable, config: str = "") -> set[str]:
    """Start it again; what it lists. Part files go."""
    await server.start(config)
    names = await server.names()
    await until(lambda: not server.parts())
    return names


async def test_during_an_upload() -> None:
    async with killable() as server:
        kept = await server.client.post(
            "/server/files/upload", "multipart/form-data; boundary=b", form(file("kept.gcode"))
        )
        assert kept.status == 201
        body = form(file("lost.gcode", os.urandom(LARGE // 16)))
        server.client.send(head(len(body)) + body[: len(body) // 2])
        await server.kill_in_the_middle()
        assert await clean_again(server) == {"kept.gcode"}
        assert (server.gcodes / "kept.gcode").read_bytes() == GCODE
        found = await server.ask("GET", "/server/files/metadata?filename=kept.gcode")
        assert found["result"]["slicer"] == "PrusaSlicer"


async def test_while_an_upload_takes_the_place_of_a_file() -> None:
    async with killable() as server:
        (server.gcodes / "a.gcode").write_bytes(GCODE)
        body = form(file("a.gcode", os.urandom(LARGE // 16)))
        server.client.send(head(len(body)) + body[: len(body) // 2])
        await server.kill_in_the_middle()
        assert await clean_again(server) == {"a.gcode"}
        assert (server.gcodes / "a.gcode").read_bytes() == GCODE


async def begin(server: Killable, target: str, body: bytes, prepare: Callable[[], None]) -> None:
    """Send a request that takes a while, and kill the server while it works on it."""
    prepare()
    request = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    server.client.send(request.encode() + b"\r\n" + body)
    await server.kill_in_the_middle()


def large_file(path: Path) -> None:
    piece = os.urandom(1 << 20)
    with path.open("wb") as stream:
        for _ in range(LARGE >> 20):
            stream.write(piece)


async def test_during_a_copy() -> None:
    async with killable() as server:
        source = server.gcodes / "large.gcode"
        body = b'{"source": "gcodes/large.gcode", "dest": "gcodes/copy.gcode"}'
        await begin(server, "/server/files/copy", body, lambda: large_file(source))
        assert await clean_again(server) == {"large.gcode"}
        assert source.stat().st_size == LARGE


async def test_while_an_archive_is_written() -> None:
    async with killable() as server:
        body = b'{"items": ["gcodes/large.gcode"], "dest": "config/all.zip"}'
        await begin(server, "/server/files/zip", body, lambda: large_file(server.gcodes / "large.gcode"))
        assert await clean_again(server) == {"large.gcode"}
        assert await server.names("config") == {"moonraker.conf", ".moonraker.conf.bkp"}


async def test_while_a_package_is_unpacked() -> None:
    async with killable() as server:
        package = server.data / "made.ufp"
        with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
            lines = b"".join(b"G1 X%d Y%d E1\n" % (index, index * 7 % 1000) for index in range(500_000))
            archive.writestr("/3D/model.gcode", b";Generated with Cura_SteamEngine 5.7.1\n" + lines * 12)
        body = form(file("large.ufp", package.read_bytes()))
        server.client.send(head(len(body)) + body)
        await until(lambda: any(path.stat().st_size > len(body) for path in server.parts()))
        await server.kill()
        assert "large.gcode" not in await clean_again(server)


async def test_while_objects_are_added() -> None:
    config = "[file_manager]\nenable_object_processing: True\n"
    content = b"; generated by PrusaSlicer 2.7.0\n" + b"".join(
        b"; printing object %d id:%d copy 0\n%b; stop printing object %d id:%d copy 0\n"
        % (index, index, b"G1 X1 Y1 E1\nG1 X2 Y2 E1\n" * 100_000, index, index)
        for index in range(4)
    )
    async with killable() as server:
        await server.kill()
        await server.start(config)
        (server.gcodes / "objects.gcode").write_bytes(content)
        await server.kill_in_the_middle()
        assert (server.gcodes / "objects.gcode").read_bytes() == content
        await clean_again(server, config)
        await until(lambda: (server.gcodes / "objects.gcode").stat().st_size > len(content))  # this time it ends
        assert b"EXCLUDE_OBJECT_START" in (server.gcodes / "objects.gcode").read_bytes()
