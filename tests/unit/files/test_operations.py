"""Claims: who works on what, and that nobody waits for ever. Operations: what they leave when they fail."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import zipfile
from pathlib import Path

import pytest

from moonfast.errors import ApiError, BadRequest, Forbidden, InsufficientStorage
from moonfast.files import operations
from moonfast.files.operations import Claims


async def test_others_wait_only_for_what_overlaps() -> None:
    claims, order = Claims(), list[str]()
    may_end = asyncio.Event()

    async def holder() -> None:
        async with claims.of("/r/a", "/r/b"):
            order.append("holder")
            await may_end.wait()
            order.append("holder ends")

    async def other(path: str) -> None:
        async with claims.of(path):
            order.append(path)

    tasks = [asyncio.create_task(holder())]
    await asyncio.sleep(0)
    paths = ["/r/a", "/r/a/x", "/r", "/r/b/x/y", "/r/ab", "/q"]
    tasks += [asyncio.create_task(other(path)) for path in paths]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == ["holder", "/r/ab", "/q"]
    may_end.set()
    await asyncio.gather(*tasks)
    assert sorted(order) == sorted(["holder", "holder ends", *paths])
    assert list(claims._all()) == []


async def test_who_gives_up_or_fails_holds_nothing() -> None:
    claims = Claims()
    with pytest.raises(ValueError):
        async with claims.of("/r/a"):
            raise ValueError
    async with claims.of("/r/a"):
        waiting = asyncio.create_task(claims.of("/r/a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), claims.of("/r/a"):
        pass
    assert list(claims._all()) == []


@pytest.mark.parametrize("seed", range(5))
async def test_many_at_once(seed: int) -> None:
    """Two hundred requests that claim two paths each, in any order: all end, no two have the same place at once."""
    claims, chance = Claims(), random.Random(seed)
    held: list[tuple[str, ...]] = []

    async def request() -> None:
        paths = tuple("/r" + "/a" * chance.randrange(4) + f"/{chance.randrange(4)}" for _ in range(2))
        async with claims.of(*paths):
            for other in held:
                assert not any(operations._overlap(path, item) for path in paths for item in other)
            held.append(paths)
            await asyncio.sleep(chance.random() / 1000)
            held.remove(paths)

    async with asyncio.timeout(20):
        await asyncio.gather(*(request() for _ in range(200)))
    assert list(claims._all()) == []


def test_over_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that the kernel cannot do becomes a copy; the source goes when the copy is whole."""
    real = os.rename

    def other_device(source: str, target: str) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "rename", other_device)
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_bytes(b"x" * 3_000_000)
    os.utime(tmp_path / "a" / "deep" / "x", (5, 5))
    (tmp_path / "a" / "link").symlink_to("deep")
    (tmp_path / "b").mkdir()
    operations.move(f"{tmp_path}/a", f"{tmp_path}/b/a")
    assert not (tmp_path / "a").exists()
    moved = tmp_path / "b" / "a"
    assert (moved / "deep" / "x").stat().st_size == 3_000_000
    assert (moved / "deep" / "x").stat().st_mtime == 5
    assert os.readlink(moved / "link") == "deep"
    operations.move(f"{moved}/deep/x", f"{tmp_path}/x")
    assert sorted(os.listdir(tmp_path)) == ["b", "x"]
    assert os.listdir(moved / "deep") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("kind", ["file", "folder", "zip", "move"])
def test_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int) -> None:
    """Nothing half done is left, and what was there is as it was."""
    (tmp_path / "a" / "d").mkdir(parents=True)
    (tmp_path / "a" / "d" / "x").write_text("x")
    (tmp_path / "a" / "y").write_text("y")
    (tmp_path / "old").write_text("old")
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    def fails(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(operations, "_copy_status", fails)
    monkeypatch.setattr(zipfile.ZipFile, "write", fails)
    if kind == "move":
        monkeypatch.setattr(os, "rename", lambda source, target: (_ for _ in ()).throw(OSError(errno.EXDEV, "x")))
    acts = {
        "file": lambda: operations.copy_file(f"{tmp_path}/a/y", f"{tmp_path}/old"),
        "folder": lambda: operations.copy_folder(f"{tmp_path}/a", f"{tmp_path}/b"),
        "zip": lambda: operations.zip_files(f"{tmp_path}/old", [(f"{tmp_path}/a", "a")], store_only=True),
        "move": lambda: operations.move(f"{tmp_path}/a", f"{tmp_path}/b"),
    }
    with pytest.raises(ApiError) as caught:
        acts[kind]()
    assert isinstance(caught.value, BadRequest if number == errno.EIO else InsufficientStorage)
    assert str(tmp_path) not in caught.value.message
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(*args: object) -> None:
        raise OSError(number, os.strerror(number), "/secret/place")

    monkeypatch.setattr(os, "mkdir", fails)
    with pytest.raises(Forbidden) as caught:
        operations.make_folder(f"{tmp_path}/a")
    assert "/secret" not in caught.value.message


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("x")
    (tmp_path / "link").symlink_to("real")
    operations.delete_folder(f"{tmp_path}/link", force=True)
    assert (tmp_path / "real" / "x").exists()
    (tmp_path / "real" / "in").symlink_to(tmp_path)
    operations.zip_files(f"{tmp_path}/a.zip", [(f"{tmp_path}/real", "real")], store_only=False)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["real/x"]
    operations.delete_folder(f"{tmp_path}/real", force=True)
    assert sorted(os.listdir(tmp_path)) == ["a.zip"]


def test_an_empty_folder(tmp_path: Path) -> None:
    """One with nothing in it but pictures of files that were there counts as empty."""
    (tmp_path / "a" / ".thumbs").mkdir(parents=True)
    (tmp_path / "a" / ".thumbs" / "x.png").write_text("x")
    (tmp_path / "a" / "y").write_text("y")
    with pytest.raises(BadRequest, match="force"):
        operations.delete_folder(f"{tmp_path}/a", force=False)
    assert (tmp_path / "a" / ".thumbs" / "x.png").exists()
    (tmp_path / "a" / "y").unlink()
    operations.delete_folder(f"{tmp_path}/a", force=False)
    assert os.listdir(tmp_path) == []
