"""Pictures beside gcode files: written, made, renamed and removed; and a child that dies, hangs or is not there."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from moonfast.files import thumbnail_child, thumbnails
from moonfast.files.thumbnail_child import ANSWER, BAD_PICTURE, CONVERT, DONE, REQUEST, SHRINK
from moonfast.files.thumbnails import Thumbnails, copy, move, remove

needs_pillow = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")


class Given(NamedTuple):
    width: int
    height: int
    kind: str
    data: bytes


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x ^ y) & 255 for x in range(width) for _ in range(3)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def qoi(width: int, height: int) -> bytes:
    """Every pixel as QOI_OP_RGB (qoiformat.org, "The Quite OK Image Format Specification")."""
    pixels = b"".join(bytes((0xFE, x & 255, y & 255, 7)) for y in range(height) for x in range(width))
    return struct.pack(">4sIIBB", b"qoif", width, height, 3, 0) + pixels + bytes(7) + b"\1"


def jpeg(width: int, height: int, mode: str = "RGB") -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "JPEG")
    return out.getvalue()


def given(width: int, height: int) -> Given:
    return Given(width, height, "png", png(width, height))


def sizes(entries: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(entry["width"], entry["height"]) for entry in entries]


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["relative_path"] for entry in entries]


def check(gcode: Path, entries: list[dict[str, Any]]) -> None:
    """What is announced is there, with its size, and there is nothing else."""
    found = {f".thumbs/{path.name}": path.stat().st_size for path in (gcode.parent / ".thumbs").iterdir()}
    assert found == {entry["relative_path"]: entry["size"] for entry in entries}


@asynccontextmanager
async def writer() -> AsyncIterator[tuple[Thumbnails, list[str]]]:
    warnings: list[str] = []
    made = Thumbnails(warnings.append)
    try:
        yield made, warnings
    finally:
        await made.close()


@pytest.fixture
def gcode(tmp_path: Path) -> Path:
    return tmp_path / "m.gcode"


# Written as they came


async def test_png_is_not_touched(gcode: Path) -> None:
    async with writer() as (made, warnings):
        entries = await made.write(gcode, [given(32, 32), given(300, 200)])
    assert entries == [
        {"width": 32, "height": 32, "size": len(png(32, 32)), "relative_path": ".thumbs/m-32x32.png"},
        {"width": 300, "height": 200, "size": len(png(300, 200)), "relative_path": ".thumbs/m-300x200.png"},
    ]
    assert (gcode.parent / ".thumbs/m-300x200.png").read_bytes() == png(300, 200)
    check(gcode, entries)
    assert warnings == []


async def test_entries_are_sorted_and_the_first_of_a_name_counts(gcode: Path) -> None:
    other = Given(48, 48, "png", png(49, 49))
    async with writer() as (made, _):
        entries = await made.write(gcode, [given(300, 300), given(48, 48), other, given(32, 32)])
    assert sizes(entries) == [(32, 32), (48, 48), (300, 300)]
    assert (gcode.parent / ".thumbs/m-48x48.png").read_bytes() == png(48, 48)


async def test_the_bytes_say_what_a_picture_is(gcode: Path) -> None:
    """A small JPEG counts as the small picture; one that calls itself PNG has the suffix of what it is."""
    async with writer() as (made, _):
        entries = await made.write(gcode, [Given(32, 32, "png", b"\xff\xd8\xff\xe0 and so on")])
    assert names(entries) == [".thumbs/m-32x32.jpg"]


@pytest.mark.parametrize("data", [b"", b"garbage", b"<svg/>", b"qoi", b"\xff\xd8", bytes(5_000_000)])
async def test_no_picture_is_left_out(gcode: Path, data: bytes) -> None:
    async with writer() as (made, warnings):
        assert await made.write(gcode, [Given(300, 300, "png", data)]) == []
    assert os.listdir(gcode.parent) == []
    assert warnings == []


@pytest.mark.parametrize(("width", "height"), [(0, 32), (-1, 5), (100_000, 1), (10**30, 10**30)])
async def test_sizes_that_cannot_be(gcode: Path, width: int, height: int) -> None:
    async with writer() as (made, _):
        assert await made.write(gcode, [Given(width, height, "png", png(4, 4))]) == []


async def test_number_of_pictures_is_bounded(gcode: Path) -> None:
    async with writer() as (made, _):
        entries = await made.write(gcode, [given(32, height) for height in range(30, 90)])
    assert len(entries) == thumbnails.MAX_THUMBNAILS


async def test_too_many_bytes(gcode: Path) -> None:
    large = png(32, 32) + bytes(thumbnail_child.MAX_THUMBNAIL_BYTES)
    async with writer() as (made, _):
        assert await made.write(gcode, [Given(32, 32, "png", large)]) == []


@pytest.mark.parametrize(
    "stem", ['it\'s "quoted" 100%', "ümläut 漢字 🖨", "a.b.c", "-rf", "x" * 200, "漢" * 66, "x" * 249]
)
async def test_names_of_all_kinds(tmp_path: Path, stem: str) -> None:
    file = tmp_path / f"{stem}.gcode"
    async with writer() as (made, _):
        entries = await made.write(file, [given(32, 32), given(3, 2)])
        check(file, entries)
        assert len(entries) == 2
        moved = move(file, tmp_path / "short.gcode", entries)
        assert names(moved) == [".thumbs/short-3x2.png", ".thumbs/short-32x32.png"]
        entries = move(tmp_path / "short.gcode", file, moved)
    check(file, entries)
    remove(file, entries)
    assert os.listdir(tmp_path / ".thumbs") == []


async def test_long_names_stay_apart(tmp_path: Path) -> None:
    async with writer() as (made, _):
        one = await made.write(tmp_path / f"{'漢' * 82}a.g", [given(32, 32)])
        other = await made.write(tmp_path / f"{'漢' * 82}b.g", [given(32, 32)])
    assert names(one) != names(other)
    assert len(os.listdir(tmp_path / ".thumbs")) == 2


async def test_a_link_in_the_way_is_replaced(tmp_path: Path, gcode: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / ".thumbs").mkdir()
    (tmp_path / ".thumbs/m-32x32.png").symlink_to(tmp_path / "elsewhere")
    async with writer() as (made, _):
        await made.write(gcode, [given(32, 32)])
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"


async def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / ".thumbs").write_bytes(b"a file where the folder should be")
    async with writer() as (made, warnings):
        for name in ("a.gcode", "b.gcode"):
            assert await made.write(tmp_path / name, [given(32, 32), given(48, 48)]) == []
    assert len(warnings) == 1
    assert "a.gcode" in warnings[0]
    assert os.listdir(tmp_path) == [".thumbs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        async with writer() as (made, warnings):
            assert await made.write(tmp_path / "a.gcode", [given(32, 32)]) == []
    finally:
        tmp_path.chmod(0o755)
    assert len(warnings) == 1


# Scanned again


async def test_pictures_that_are_no_longer_named_go_away(gcode: Path) -> None:
    async with writer() as (made, _):
        first = await made.write(gcode, [given(32, 32), given(300, 300)])
        second = await made.write(gcode, [given(32, 32), given(48, 48)], earlier=first)
        check(gcode, second)
        assert await made.write(gcode, [], earlier=second) == []
    assert os.listdir(gcode.parent / ".thumbs") == []


async def test_picture_of_the_package(gcode: Path) -> None:
    async with writer() as (made, _):
        first = await made.write(gcode, [given(32, 32)], png(300, 200))
        assert first[1] == {
            "width": 300,
            "height": 200,
            "size": len(png(300, 200)),
            "relative_path": ".thumbs/m.png",
        }
        again = await made.write(gcode, [given(32, 32)], earlier=first, is_unchanged=True)
        assert again == first
        check(gcode, again)
        other = await made.write(gcode, [given(32, 32)], earlier=again)
        assert sizes(other) == [(32, 32)]
        check(gcode, other)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff not for packages", png(4, 4)[:20]])
async def test_picture_of_the_package_that_is_none(gcode: Path, data: bytes) -> None:
    async with writer() as (made, _):
        assert sizes(await made.write(gcode, [given(32, 32)], data)) == [(32, 32)]


async def test_picture_of_the_package_that_somebody_deleted(gcode: Path) -> None:
    async with writer() as (made, _):
        first = await made.write(gcode, [given(32, 32)], png(300, 200))
        (gcode.parent / ".thumbs/m.png").unlink()
        assert sizes(await made.write(gcode, [given(32, 32)], earlier=first, is_unchanged=True)) == [(32, 32)]


# Moved, copied, removed


async def test_move_and_copy(tmp_path: Path, gcode: Path) -> None:
    (tmp_path / "sub").mkdir()
    async with writer() as (made, _):
        entries = await made.write(gcode, [given(32, 32)], png(64, 64))
    copied = copy(gcode, tmp_path / "sub/n.gcode", entries)
    assert names(copied) == [".thumbs/n-32x32.png", ".thumbs/n.png"]
    check(gcode, entries)
    check(tmp_path / "sub/n.gcode", copied)
    moved = move(gcode, tmp_path / "sub/o.gcode", entries)
    check(tmp_path / "sub/o.gcode", copied + moved)
    assert os.listdir(tmp_path / ".thumbs") == []


async def test_move_to_another_file_system(tmp_path: Path, gcode: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with writer() as (made, _):
        entries = await made.write(gcode, [given(32, 32)])
    replace = Path.replace

    def crossing(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(18, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crossing)
    (tmp_path / "stick").mkdir()
    moved = move(gcode, tmp_path / "stick/n.gcode", entries)
    check(tmp_path / "stick/n.gcode", moved)
    assert os.listdir(tmp_path / ".thumbs") == []


async def test_missing_pictures_are_no_error(tmp_path: Path, gcode: Path) -> None:
    async with writer() as (made, _):
        entries = await made.write(gcode, [given(32, 32), given(48, 48)])
    (tmp_path / ".thumbs/m-48x48.png").unlink()
    assert names(copy(gcode, tmp_path / "n.gcode", entries)) == [".thumbs/n-32x32.png"]
    assert names(move(gcode, tmp_path / "o.gcode", entries)) == [".thumbs/o-32x32.png"]
    remove(gcode, entries)
    remove(tmp_path / "no/such/folder.gcode", entries)
    assert move(tmp_path / "no/such.gcode", tmp_path / "no/other.gcode", entries) == []


def test_entries_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".thumbs").mkdir()
    precious = tmp_path / "precious.png"
    precious.write_bytes(b"kept")
    paths: list[Any] = ["precious.png", ".thumbs/../precious.png", str(precious), ".thumbs/", ".thumbs/..", "", None, 5]
    entries = [{"relative_path": path} for path in [*paths, ".thumbs/x\0.png"]] + [{}]
    remove(tmp_path / "m.gcode", entries)
    assert move(tmp_path / "precious.gcode", tmp_path / "n.gcode", entries) == []
    assert precious.read_bytes() == b"kept"


def test_pictures_of_other_files_are_not_moved(tmp_path: Path) -> None:
    (tmp_path / ".thumbs").mkdir()
    (tmp_path / ".thumbs/other-32x32.png").write_bytes(b"kept")
    assert move(tmp_path / "m.gcode", tmp_path / "n.gcode", [{"relative_path": ".thumbs/other-32x32.png"}]) == []
    assert os.listdir(tmp_path / ".thumbs") == ["other-32x32.png"]


# Made by the child


@needs_pillow
@pytest.mark.parametrize(
    ("source", "expected"),
    [((300, 300), (32, 32)), ((300, 200), (32, 21)), ((100, 200), (16, 32)), ((16, 16), (16, 16)), ((900, 3), (32, 1))],
)
async def test_small_picture(gcode: Path, source: tuple[int, int], expected: tuple[int, int]) -> None:
    """The same sizes as Moonraker 0.11.0: the ratio is kept, nothing is enlarged, the name says 32x32."""
    async with writer() as (made, warnings):
        entries = await made.write(gcode, [given(*source)])
    assert names(entries)[0] == ".thumbs/m-32x32.png"
    assert sizes(entries) == [expected, source]
    written = (gcode.parent / ".thumbs/m-32x32.png").read_bytes()
    assert struct.unpack(">II", written[16:24]) == expected
    check(gcode, entries)
    assert warnings == []


@needs_pillow
async def test_small_picture_is_made_from_the_largest_that_is_whole(gcode: Path) -> None:
    broken = Given(400, 400, "png", png(400, 400)[:200])
    async with writer() as (made, _):
        entries = await made.write(gcode, [given(40, 40), broken, given(300, 200)])
    assert sizes(entries) == [(32, 21), (40, 40), (300, 200), (400, 400)]


@needs_pillow
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
async def test_jpeg(gcode: Path, mode: str) -> None:
    async with writer() as (made, _):
        entries = await made.write(gcode, [Given(300, 200, "jpg", jpeg(300, 200, mode))])
    assert names(entries) == [".thumbs/m-32x32.png", ".thumbs/m-300x200.jpg"]
    assert sizes(entries) == [(32, 21), (300, 200)]


@needs_pillow
async def test_qoi_becomes_png(gcode: Path) -> None:
    from PIL import Image

    async with writer() as (made, _):
        entries = await made.write(gcode, [Given(48, 40, "qoi", qoi(48, 40)), Given(32, 32, "qoi", qoi(32, 32))])
    assert names(entries) == [".thumbs/m-32x32.png", ".thumbs/m-48x40.png"]
    with Image.open(gcode.parent / ".thumbs/m-48x40.png") as picture:
        assert picture.size == (48, 40)
        assert picture.getpixel((30, 20)) == (30, 20, 7)


@needs_pillow
async def test_png_counts_before_qoi_of_the_same_size(gcode: Path) -> None:
    async with writer() as (made, _):
        await made.write(gcode, [Given(32, 32, "qoi", qoi(32, 32)), given(32, 32)])
    assert (gcode.parent / ".thumbs/m-32x32.png").read_bytes() == png(32, 32)


@needs_pillow
async def test_bombs_are_not_decoded(gcode: Path) -> None:
    """Few bytes that claim to be many pixels."""
    data = bytearray(png(4, 4))
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    bombs = [
        Given(300, 300, "png", bytes(data)),
        Given(9, 9, "qoi", qoi(1, 1)[:4] + b"\0\0\xff\xff\0\0\xff\xff" + bytes(9)),
    ]
    async with writer() as (made, _):
        assert names(await made.write(gcode, bombs)) == [".thumbs/m-300x300.png"]


@needs_pillow
async def test_one_child_serves_a_batch_and_ends_when_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "IDLE_S", 0.05)
    started = counted_starts(monkeypatch)
    async with writer() as (made, _):
        await asyncio.gather(*(made.write(tmp_path / f"{n}.gcode", [given(64, 64)]) for n in range(10)))
        assert len(started) == 1
        await asyncio.wait_for(started[0].wait(), 5)
        assert started[0].returncode == 0
        assert len(await made.write(tmp_path / "later.gcode", [given(64, 64)])) == 2
    assert len(started) == 2
    assert all(child.returncode is not None for child in started)
    assert len(os.listdir(tmp_path / ".thumbs")) == 22


def counted_starts(monkeypatch: pytest.MonkeyPatch, delay_s: float = 0.0) -> list[asyncio.subprocess.Process]:
    started = []
    start = asyncio.create_subprocess_exec

    async def counting(*program: Any, **options: Any) -> asyncio.subprocess.Process:
        await asyncio.sleep(delay_s)
        started.append(await start(*program, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counting)
    return started


def replace_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Run another program instead of the child; `body` has `header` and `data` of each request."""
    program = tmp_path / "child.py"
    program.write_text(
        "import os, struct, sys, time\n"
        "ins, out = sys.stdin.buffer, sys.stdout.buffer\n"
        "while header := ins.read(5):\n"
        "    data = ins.read(struct.unpack('<BI', header)[1])\n"
        f"    {body}\n"
    )
    monkeypatch.setattr(thumbnail_child, "__file__", str(program))


async def test_child_that_dies_loses_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace_child(
        monkeypatch, tmp_path, "os.kill(os.getpid(), 11) if len(data) > 5000 else out.write(b'\\0' * 9); out.flush()"
    )
    started = counted_starts(monkeypatch)
    async with writer() as (made, warnings):
        bad = Given(300, 300, "qoi", b"qoif" + bytes(5000))
        entries = await made.write(tmp_path / "a.gcode", [bad, given(32, 32)])
        assert sizes(entries) == [(32, 32)]
        good = Given(64, 64, "qoi", b"qoif")
        assert sizes(await made.write(tmp_path / "b.gcode", [good, given(32, 32)])) == [(32, 32), (64, 64)]
    first, second = (child.returncode for child in started)
    assert first in (-11, 255)  # asyncio says 255 when a signal was on its way to a child that had just ended
    assert second == -9  # by close()
    assert "ended the program that reads it" in caplog.text
    assert warnings == []


async def test_child_killed_between_two_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    replace_child(monkeypatch, tmp_path, "out.write(b'\\0' * 9); out.flush()")
    started = counted_starts(monkeypatch)
    async with writer() as (made, _):
        await made.write(gcode, [given(64, 64)])
        started[0].kill()
        await started[0].wait()
        assert len(await made.write(gcode, [given(64, 64)])) == 2
    assert len(started) == 2


async def test_child_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    monkeypatch.setattr(thumbnails, "CHILD_TIMEOUT_S", 0.3)
    replace_child(monkeypatch, tmp_path, "time.sleep(60)")
    started = counted_starts(monkeypatch)
    async with writer() as (made, _):
        assert sizes(await made.write(gcode, [given(64, 64)])) == [(64, 64)]
    assert [child.returncode for child in started] == [-9]


async def test_child_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    """A picture larger than the pipe: the timeout covers the sending."""
    monkeypatch.setattr(thumbnails, "CHILD_TIMEOUT_S", 0.3)
    program = tmp_path / "child.py"
    program.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(thumbnail_child, "__file__", str(program))
    async with writer() as (made, _):
        assert await made.write(gcode, [Given(64, 64, "qoi", b"qoif" + bytes(1_000_000))]) == []


async def test_child_that_ignores_the_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path
) -> None:
    monkeypatch.setattr(thumbnails, "IDLE_S", 0.01)
    monkeypatch.setattr(thumbnails, "END_TIMEOUT_S", 0.1)
    replace_child(monkeypatch, tmp_path, "out.write(b'\\0' * 9); out.flush(); time.sleep(60)")
    started = counted_starts(monkeypatch)
    async with writer() as (made, _):
        await made.write(gcode, [given(64, 64)])
        await asyncio.wait_for(started[0].wait(), 5)
    assert started[0].returncode == -9


async def test_caller_that_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    """The answer that nobody waits for is not taken for the next one."""
    replace_child(monkeypatch, tmp_path, "time.sleep(0.5 if len(data) > 5000 else 0); out.write(header[:1] * 9)")
    started = counted_starts(monkeypatch)
    async with writer() as (made, _):
        waiting = asyncio.create_task(made.write(gcode, [Given(64, 64, "qoi", b"qoif" + bytes(5000))]))
        while not started:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert [child.returncode for child in started] == [-9]


async def test_close_while_the_child_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    replace_child(monkeypatch, tmp_path, "time.sleep(60)")
    started = counted_starts(monkeypatch)
    async with writer() as (made, _):
        writing = asyncio.create_task(made.write(gcode, [given(64, 64)]))
        while not started:
            await asyncio.sleep(0.01)
        await made.close()
        assert sizes(await writing) == [(64, 64)]
        assert sizes(await made.write(gcode, [given(64, 64)])) == [(64, 64)]
    assert len(started) == 1


async def test_close_while_the_child_starts(monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    started = counted_starts(monkeypatch, delay_s=0.1)
    async with writer() as (made, _):
        writing = asyncio.create_task(made.write(gcode, [given(64, 64)]))
        await asyncio.sleep(0.02)
        await made.close()
        assert sizes(await writing) == [(64, 64)]
    assert [child.returncode for child in started] == [-9]


async def test_no_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that came are written, one warning names the remedy, and the child is not started again."""
    replace_child(monkeypatch, tmp_path, "out.write(bytes((2,)) + bytes(8)); out.flush()")
    started = counted_starts(monkeypatch)
    async with writer() as (made, warnings):
        for name in ("a", "b"):
            pictures = [given(64, 64), Given(48, 48, "qoi", qoi(48, 48))]
            assert sizes(await made.write(tmp_path / f"{name}.gcode", pictures)) == [(64, 64)]
    assert len(started) == 1
    assert len(warnings) == 1
    assert "pip install pillow" in warnings[0]


async def test_pillow_without_qoi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    replace_child(monkeypatch, tmp_path, "out.write(bytes((3,)) + bytes(8)); out.flush()")
    async with writer() as (made, warnings):
        pictures = [given(32, 32), Given(48, 48, "qoi", b"qoif"), Given(50, 50, "qoi", b"qoif")]
        assert sizes(await made.write(gcode, pictures)) == [(32, 32)]
    assert len(warnings) == 1
    assert "9.5" in warnings[0]


async def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch, gcode: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with writer() as (made, warnings):
        for _ in range(2):
            assert sizes(await made.write(gcode, [given(64, 64)])) == [(64, 64)]
    assert len(warnings) == 1


# The child's own side


def test_child_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert thumbnail_child.answer(SHRINK, png(4, 4)) == ANSWER.pack(thumbnail_child.NO_PILLOW, 0, 0, 0)


@needs_pillow
def test_child_with_a_pillow_that_knows_no_qoi(monkeypatch: pytest.MonkeyPatch) -> None:
    import PIL

    monkeypatch.delattr(PIL, "QoiImagePlugin", raising=False)
    monkeypatch.setitem(sys.modules, "PIL.QoiImagePlugin", None)
    assert thumbnail_child.answer(CONVERT, qoi(4, 4)) == ANSWER.pack(thumbnail_child.NO_QOI, 0, 0, 0)


@needs_pillow
@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", png(70_000, 1), png(9, 9)[:40], qoi(9, 9)[:20], b"\xff\xd8\xff", b"qoif"]
)
def test_child_answers_whatever_it_gets(data: bytes) -> None:
    assert thumbnail_child.answer(CONVERT, data) == ANSWER.pack(BAD_PICTURE, 0, 0, 0)


@needs_pillow
def test_child_sends_nothing_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail_child, "MAX_THUMBNAIL_BYTES", 100)
    assert thumbnail_child.answer(CONVERT, png(64, 64)) == ANSWER.pack(BAD_PICTURE, 0, 0, 0)


@needs_pillow
def test_child_ends_at_a_request_that_is_not_whole() -> None:
    data = png(4, 4)
    requests = REQUEST.pack(CONVERT, len(data)) + data
    for rest in (b"", b"\0\0", REQUEST.pack(SHRINK, 10) + b"short", REQUEST.pack(SHRINK, 1 << 31)):
        answers = io.BytesIO()
        thumbnail_child.serve(io.BytesIO(requests + rest), answers)
        status, width, height, size = ANSWER.unpack_from(answers.getvalue())
        assert (status, width, height) == (DONE, 4, 4)
        assert len(answers.getvalue()) == ANSWER.size + size


def test_the_server_does_not_load_pillow() -> None:
    import subprocess

    program = "import sys, moonfast.files.thumbnails, moonfast.files.ufp; print({'PIL', 'zipfile'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "set()"
