"""Random operations on files through the API, against a model: answers, disk, listings and notifications agree."""

from __future__ import annotations

import asyncio
import json
import random
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.wire.running import Running, WebSocketClient, running, until
from tests.wire.site import Client
from tests.wire.test_uploads import FORM, field, file, form

NAMES = ("a", "b.gcode", "ü 100%", 'it\'s "q"', "日本.g", "c#d?e&f")
STEPS = 60

Disk = dict[str, bytes | None]  # path inside of the root -> content, None: a folder


class Refused(Exception):
    """The model says that the server has to refuse this."""


class Model:
    """What a file system does, in a dictionary."""

    def __init__(self) -> None:
        self.disk: Disk = {}

    def is_folder(self, path: str) -> bool:
        return path == "" or (path in self.disk and self.disk[path] is None)

    def is_file(self, path: str) -> bool:
        return self.disk.get(path) is not None

    def below(self, path: str) -> Disk:
        return {key: value for key, value in self.disk.items() if key.startswith(path + "/")}

    def require(self, condition: bool) -> None:
        if not condition:
            raise Refused

    def put(self, path: str, content: bytes | None) -> None:
        self.require(self.is_folder(parent(path)))
        self.disk[path] = content

    def upload(self, path: str, content: bytes) -> None:
        above = path
        while above := parent(above):
            self.require(not self.is_file(above))
        self.require(not self.is_folder(path))
        above = path
        while above := parent(above):
            self.disk[above] = None
        self.disk[path] = content

    def make_folder(self, path: str) -> None:
        self.require(path not in self.disk)
        self.put(path, None)

    def delete_file(self, path: str) -> None:
        self.require(self.is_file(path))
        del self.disk[path]

    def delete_folder(self, path: str, force: bool) -> None:
        self.require(path != "" and self.is_folder(path) and (force or not self.below(path)))
        for inside in (path, *self.below(path)):
            del self.disk[inside]

    def pair(self, source: str, target: str) -> str:
        """Where something really goes."""
        self.require(source in self.disk)
        if source != target and self.is_folder(target):
            target = join(target, source.rpartition("/")[2])
        self.require(self.is_folder(parent(target)))
        self.require(target != source and not target.startswith(source + "/"))
        if self.is_file(source):
            self.require(not self.is_folder(target))
        return target

    def move(self, source: str, target: str) -> None:
        target = self.pair(source, target)
        if self.is_folder(source):  # as rename(2): an empty folder is replaced, and nothing else
            self.require(target not in self.disk or (self.is_folder(target) and not self.below(target)))
        moved = {target + key[len(source) :]: self.disk.pop(key) for key in (source, *self.below(source))}
        self.disk |= moved

    def copy(self, source: str, target: str) -> None:
        target = self.pair(source, target)
        self.require(self.is_file(source) or target not in self.disk)
        self.disk |= {target + key[len(source) :]: self.disk[key] for key in (source, *self.below(source))}


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


class Session:
    """One server, the model beside it, and a client that follows the notifications."""

    def __init__(self, served: Running, client: Client, listener: WebSocketClient, dice: random.Random) -> None:
        self.served, self.client, self.listener, self.dice = served, client, listener, dice
        self.model = Model()
        self.followed: dict[str, int | None] = {}  # by notifications alone: size, None: a folder
        self.seen = 0
        self.done = 0  # operations that succeeded
        self.gcodes = Path(served.data_path, "gcodes")

    def path(self) -> str:
        return "/".join(self.dice.choice(NAMES) for _ in range(self.dice.choice((1, 1, 1, 2, 2, 3))))

    def known_path(self) -> str:
        """Mostly one that is there."""
        return self.dice.choice(list(self.model.disk)) if self.model.disk and self.dice.random() < 0.8 else self.path()

    async def rpc(self, verb: str, target: str, **arguments: Any) -> int:
        self.client.send(
            f"{verb} /server/files/{target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(json.dumps(arguments))}\r\n\r\n{json.dumps(arguments)}"
        )
        return (await self.client.read()).status

    async def step(self) -> str:
        """One operation on server and model; what it was."""
        what, status, did = await self.act()
        assert (status < 300) == did, what
        assert did or 400 <= status < 500, what
        self.done += did
        return what

    async def act(self) -> tuple[str, int, bool]:
        """One operation; its status, and whether the model has done it, too."""
        kind = self.dice.choice(("upload", "upload", "mkdir", "delete", "rmdir", "move", "move", "copy", "copy"))
        path, target = self.known_path(), self.known_path() if self.dice.random() < 0.5 else self.path()
        if kind == "upload":
            target, content = self.path(), b"; %d\nG28\n" % self.dice.randrange(10**6)
            parts = form(field("path", parent(target)), file(target.rpartition("/")[2].replace('"', "%22"), content))
            status = (await self.client.post("/server/files/upload", FORM, parts)).status
            did = self.apply(self.model.upload, target, content)
        elif kind == "mkdir":
            status = await self.rpc("POST", "directory", path=f"gcodes/{target}")
            did = self.apply(self.model.make_folder, target)
        elif kind == "delete":
            status = await self.rpc("DELETE", f"gcodes/{quote(path)}")
            did = self.apply(self.model.delete_file, path)
        elif kind == "rmdir":
            force = self.dice.random() < 0.4
            status = await self.rpc("DELETE", "directory", path=f"gcodes/{path}", force=force)
            did = self.apply(self.model.delete_folder, path, force)
        else:
            status = await self.rpc("POST", kind, source=f"gcodes/{path}", dest=f"gcodes/{target}")
            did = self.apply(self.model.move if kind == "move" else self.model.copy, path, target)
        return f"{kind} {path!r} {target!r}: {status}", status, did

    def apply(self, act: Any, *arguments: Any) -> bool:
        before = dict(self.model.disk)
        try:
            act(*arguments)
        except Refused:
            self.model.disk = before
            return False
        return True

    async def check(self, what: str) -> None:
        on_disk = {
            str(path.relative_to(self.gcodes)): None if path.is_dir() else path.read_bytes()
            for path in self.gcodes.rglob("*")
        }
        assert on_disk == self.model.disk, what
        listed = {item["path"]: item["size"] for item in (await self.client.get("/server/files/list")).json["result"]}
        files = {path: len(content) for path, content in self.model.disk.items() if content is not None}
        printable = {path: size for path, size in files.items() if path.lower().endswith((".gcode", ".g"))}
        assert listed == printable, what
        for folder in ("", *(path for path in self.model.disk if self.model.is_folder(path))):
            target = f"/server/files/directory?extended=true&path={quote(join('gcodes', folder))}"
            found = (await self.client.get(target)).json["result"]
            inside = {path: value for path, value in self.model.disk.items() if parent(path) == folder}
            assert {join(folder, item["dirname"]) for item in found["dirs"]} == {
                path for path, value in inside.items() if value is None
            }, what
            assert {join(folder, item["filename"]): item["size"] for item in found["files"]} == {
                path: len(value) for path, value in inside.items() if value is not None
            }, what

    async def follow(self, what: str) -> None:
        """Replay the notifications: they lead to the same tree, and none says what is known already."""
        expected = {path: None if content is None else len(content) for path, content in self.model.disk.items()}
        try:
            await until(lambda: self.replayed() == expected)
        except TimeoutError:
            assert self.followed == expected, (what, self.listener.of("notify_filelist_changed")[-5:])

    def replayed(self) -> dict[str, int | None]:
        changes = self.listener.of("notify_filelist_changed")
        for (change,) in changes[self.seen :]:
            path, action = change["item"]["path"], change["action"]
            if action in ("move_file", "move_dir"):
                source = change["source_item"]["path"]
                assert source in self.followed, change
                keys = [key for key in self.followed if key == source or key.startswith(source + "/")]
                self.followed |= {path + key[len(source) :]: self.followed.pop(key) for key in keys}
            elif action in ("delete_file", "delete_dir"):
                assert path in self.followed, change
                for key in [key for key in self.followed if key == path or key.startswith(path + "/")]:
                    del self.followed[key]
            elif action == "create_dir":
                self.make_folders(path)
                tree = Path(self.gcodes, path)  # a copied folder is announced as one: clients list it then
                for inside in tree.rglob("*"):
                    key = str(inside.relative_to(self.gcodes))
                    self.followed[key] = None if inside.is_dir() else inside.stat().st_size
            else:
                assert action in ("create_file", "modify_file"), change
                self.make_folders(parent(path))
                self.followed[path] = change["item"]["size"]
        self.seen = len(changes)
        return self.followed

    def make_folders(self, path: str) -> None:
        """A file in a folder that nobody has announced: an upload made it."""
        while path:
            self.followed[path] = None
            path = parent(path)


@pytest.mark.parametrize("seed", range(4))
async def test_random_operations(seed: int) -> None:
    async with running() as served:
        client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
        session = Session(served, client, await served.client(), random.Random(seed))
        try:
            for _ in range(STEPS):
                what = await session.step()
                await session.check(what)
                await session.follow(what)
            assert session.done > STEPS / 3
            await asyncio.sleep(0.2)  # what the kernel tells of all this is no news
            assert len(session.listener.of("notify_filelist_changed")) == session.done
        finally:
            await client.close()


@pytest.mark.parametrize("seed", range(3))
async def test_many_operations_at_once(seed: int) -> None:
    """Whatever happens in which order: everybody is answered, and the listings are the disk."""
    async with running() as served:
        clients = [Client(*await asyncio.open_connection("127.0.0.1", served.port)) for _ in range(8)]
        listener = await served.client()
        try:
            sessions = [
                Session(served, client, listener, random.Random(seed * 100 + index))
                for index, client in enumerate(clients)
            ]

            async def work(session: Session) -> None:
                for _ in range(25):
                    what, status, _ = await session.act()
                    assert status < 500, what

            async with asyncio.timeout(60):
                await asyncio.gather(*map(work, sessions))
            checker = sessions[0]
            checker.model.disk = {
                str(path.relative_to(checker.gcodes)): None if path.is_dir() else path.read_bytes()
                for path in checker.gcodes.rglob("*")
            }
            assert not [path for path in checker.model.disk if ".moonfast" in path]
            await checker.check("all at once")
        finally:
            for client in clients:
                await client.close()


async def test_an_archive_holds_what_the_model_has() -> None:
    async with running() as served:
        client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
        session = Session(served, client, await served.client(), random.Random(5))
        try:
            for _ in range(STEPS):
                await session.step()
            top = [path for path in session.model.disk if "/" not in path]
            assert top
            status = await session.rpc("POST", "zip", items=[f"gcodes/{path}" for path in top], dest="config/all.zip")
            assert status == 200
            with zipfile.ZipFile(Path(served.data_path, "config", "all.zip")) as archive:
                packed = {name: archive.read(name) for name in archive.namelist()}
            assert packed == {
                f"gcodes/{path}": value for path, value in session.model.disk.items() if value is not None
            }
        finally:
            await client.close()
