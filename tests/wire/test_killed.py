"""The power fails in the middle of work on files: what was acknowledged is there, what was not has left nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from moonfast.files.roots import is_part
from tests.wire.raw import WAIT_S
from tests.wire.running import free_port
from tests.wire.site import Client
from tests.wire.test_start_stop import Program, data_folder, program
from tests.wire.test_uploads import FORM, GCODE, field, file, form, head

CONFIG = "\n[file_manager]\nenable_object_processing: True\n"
BIG_BYTES = 48_000_000


class Life:
    """One life of the program, and a connection to it."""

    def __init__(self, running: Program, client: Client, data_path: str) -> None:
        self.running, self.client, self.gcodes = running, client, Path(data_path, "gcodes")

    async def ask(self, verb: str, target: str, body: Any = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        start = f"{verb} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = await self.client.ask(f"{start}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert answer.status == 200, answer.body
        return answer.json["result"]

    async def upload(self, *parts: bytes) -> None:
        answer = await self.client.post("/server/files/upload", FORM, form(*parts))
        assert answer.status == 201, answer.body

    def begin(self, target: str, body: Any) -> None:
        """Send a request, and wait for no answer."""
        content = json.dumps(body).encode()
        start = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        self.client.send(f"{start}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    def parts(self) -> list[Path]:
        return [path for path in self.gcodes.parent.rglob("*") if is_part(path.name)]

    async def kill_when(self, is_busy: Callable[[], bool]) -> None:
        """Kill it as soon as it is in the middle of something."""
        async with asyncio.timeout(WAIT_S):
            while not is_busy():
                await asyncio.sleep(0.001)
        self.running.process.kill()
        await self.running.process.communicate()
        await self.client.close()


@contextlib.asynccontextmanager
async def life(data_path: str, port: int) -> AsyncIterator[Life]:
    async with program(data_path) as running:
        await running.wait_until_it_serves()
        here = Life(running, Client(*await asyncio.open_connection("127.0.0.1", port)), data_path)
        try:
            yield here
        finally:
            await here.client.close()


def moves(size: int) -> bytes:
    """Gcode that packs about as real gcode does."""
    chance = random.Random(1)
    line = b"".join(
        b"G1 X%d.%03d Y%d E.0%d\n" % (chance.randrange(200), chance.randrange(999), chance.randrange(200), number % 9)
        for number in range(4000)
    )
    return (line * (size // len(line) + 1))[:size]


def package(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("/3D/model.gcode", content)
    return made.getvalue()


async def upload_half(here: Life) -> None:
    content = moves(BIG_BYTES)
    here.client.send(
        head(len(content) + 1000) + field("path", "new/folder") + file("half.gcode", content)[: -len(content) // 2]
    )
    await here.kill_when(lambda: any(path.stat().st_size > BIG_BYTES // 8 for path in here.parts()))


async def upload_over(here: Life) -> None:
    """The file that is there stays as it was."""
    content = moves(BIG_BYTES)
    here.client.send(head(len(content) + 1000) + file("kept.gcode", content)[: -len(content) // 2])
    await here.kill_when(lambda: any(path.stat().st_size > BIG_BYTES // 8 for path in here.parts()))


async def copy(here: Life) -> None:
    here.begin("/server/files/copy", {"source": "gcodes/big.gcode", "dest": "gcodes/kept.gcode"})
    await here.kill_when(lambda: bool(here.parts()))


async def pack(here: Life) -> None:
    here.begin("/server/files/zip", {"items": ["gcodes"], "dest": "config/all.zip"})
    await here.kill_when(lambda: any(path.stat().st_size > 0 for path in here.parts()))


async def unpack(here: Life) -> None:
    body = form(file("half.ufp", package(moves(BIG_BYTES))))
    here.client.send(head(len(body)) + body)
    await here.kill_when(lambda: len(here.parts()) > 1)  # the package, and what it is unpacked to


async def rewrite(here: Life) -> None:
    """The file is whole when it is rewritten: afterwards it is one or the other."""
    objects = b"".join(
        b"; printing object %d\n%b; stop printing object %d\n" % (number, moves(BIG_BYTES // 40), number)
        for number in range(20)
    )
    body = form(file("objects.gcode", b"; generated by PrusaSlicer 2.7.0\n" + objects))
    here.client.send(head(len(body)) + body)
    target = here.gcodes / "objects.gcode"
    await here.kill_when(lambda: target.exists() and bool(here.parts()))


@pytest.mark.parametrize("work", [upload_half, upload_over, copy, pack, unpack, rewrite])
async def test_killed(work: Callable[[Life], Awaitable[None]]) -> None:
    port = free_port()
    with data_folder(port) as data_path:
        config = Path(data_path, "config", "moonraker.conf")
        config.write_text(config.read_text() + CONFIG)
        big = moves(BIG_BYTES)
        async with life(data_path, port) as here:
            (here.gcodes / "big.gcode").write_bytes(big)
            await here.upload(file("kept.gcode"))
            await here.upload(field("path", "deep/er"), file("a b.gcode"))
            await here.upload(file("deleted.gcode"))
            await here.ask("POST", "/server/files/directory", {"path": "gcodes/empty"})
            await here.ask("POST", "/server/files/move", {"source": "gcodes/deep/er", "dest": "gcodes/moved"})
            await here.ask("DELETE", "/server/files/gcodes/deleted.gcode")
            uuid = (await here.ask("GET", "/server/files/metadata?filename=kept.gcode"))["uuid"]
            await asyncio.sleep(1.1)  # what is not a user's own is on the disk after a second
            await work(here)
            assert here.parts(), "it was not killed in the middle"
        async with life(data_path, port) as here:
            assert here.parts() == []
            wanted = {"kept.gcode": GCODE, "moved/a b.gcode": GCODE, "big.gcode": big}
            found = {str(path.relative_to(here.gcodes)): path for path in here.gcodes.rglob("*") if path.is_file()}
            if work is rewrite:
                text = found.pop("objects.gcode").read_bytes()
                assert text.endswith(b"; stop printing object 19\n")
                assert b"EXCLUDE_OBJECT" not in text
            assert {name: path.read_bytes() for name, path in found.items()} == wanted
            names = {*wanted, "objects.gcode"} if work is rewrite else set(wanted)
            listed = await here.ask("GET", "/server/files/list")
            assert {item["path"]: item["size"] for item in listed} == {
                name: os.path.getsize(here.gcodes / name) for name in names
            }
            top = await here.ask("GET", "/server/files/directory?path=gcodes")
            assert {item["dirname"] for item in top["dirs"]} == {"deep", "empty", "moved"}
            for name in ("kept.gcode", "moved/a b.gcode"):
                path = name.replace(" ", "%20")
                found_now = await here.ask("GET", f"/server/files/metadata?filename={path}")
                assert (found_now["slicer"], found_now["size"]) == ("PrusaSlicer", len(GCODE))
            assert (await here.ask("GET", "/server/files/metadata?filename=kept.gcode"))["uuid"] == uuid
            assert not (here.gcodes.parent / "config" / "all.zip").exists()
            await here.upload(file("after.gcode"))
