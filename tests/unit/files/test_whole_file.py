"""The pass over whole files: its thread, its queue, and files that change while they are read."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest

from moonfast.files import pieces, whole_file
from moonfast.files.whole_file import WholeFilePass

TEXT = "EXCLUDE_OBJECT_DEFINE NAME=a CENTER=1,2\nT0\nM83\n;LAYER:0\nG1 X1 Y1 Z0.2\nG1 X2 E1\n;LAYER:1\nM73 P9 R1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "a.gcode"
    found.write_text(TEXT)
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "files-whole"]


async def test_run(path: Path) -> None:
    reader = WholeFilePass()
    assert threads() == []
    assert await reader.run(path) == {
        "layer_count": 2,
        "layers": [(TEXT.index(";LAYER:0"), 0.2), (TEXT.index(";LAYER:1"), None)],
        "max_z": 0.2,
        "bounds": {"min": [1.0, 1.0, 0.2], "max": [2.0, 1.0, 0.2]},
        "tools": [0],
        "progress": [(TEXT.index("M73"), 9, 1)],
        "objects": [{"name": "a", "center": [1, 2], "polygon": None}],
    }
    quick = await reader.run(path, want_motion=False)
    assert quick is not None
    assert quick["bounds"] is None
    assert quick["layer_count"] == 2
    assert len(threads()) == 1
    await reader.stop()
    assert threads() == []


async def test_add_objects(path: Path) -> None:
    reader = WholeFilePass()
    path.write_text(";MESH:a\n")
    assert await reader.add_objects(path)
    assert "EXCLUDE_OBJECT_START NAME=a" in path.read_text()
    assert not await reader.add_objects(path)
    with pytest.raises(FileNotFoundError):
        await reader.add_objects(path.with_name("b.gcode"))
    await reader.stop()


async def test_a_missing_file(path: Path) -> None:
    reader = WholeFilePass()
    assert await reader.run(path.with_name("b.gcode")) is None
    assert await reader.run(path.parent) is None
    assert await reader.run(path) is not None, "the thread goes on"
    await reader.stop()


class Gate:
    """Lets the thread read one piece, and holds it there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed, self._opened = threading.Event(), threading.Event()
        monkeypatch.setattr(pieces, "PIECE_BYTES", 64)
        monkeypatch.setattr(whole_file, "pieces", self._pieces)

    def _pieces(self, file: FileIO, *, is_last_use: bool) -> Iterator[memoryview]:
        for piece in pieces.pieces(file, is_last_use=is_last_use):
            yield piece
            self.passed.set()
            self._opened.wait(5)

    def open(self) -> None:
        self._opened.set()


@pytest.mark.parametrize("change", ["append", "delete", "replace"])
async def test_a_file_that_changes_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    gate = Gate(monkeypatch)
    reader = WholeFilePass()
    run = asyncio.create_task(reader.run(path))
    await until(gate.passed.is_set)
    if change == "append":
        with path.open("a") as file:
            file.write("G28\n")
    else:
        path.rename(path.with_name("b.gcode"))
        if change == "replace":
            path.write_text(TEXT)
    gate.open()
    assert await run is None
    await reader.stop()


async def test_a_pause_in_the_middle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is left, objects are still added, and afterwards it is read from its beginning."""
    gate = Gate(monkeypatch)
    reader = WholeFilePass()
    run = asyncio.create_task(reader.run(path))
    await until(gate.passed.is_set)
    reader.pause()
    gate.open()
    await until(lambda: reader._running is None)
    other = path.with_name("b.gcode")
    other.write_text(";MESH:a\n")
    assert await reader.add_objects(other)
    assert not run.done()
    reader.resume()
    found = await run
    assert found is not None
    assert found["layer_count"] == 2
    await reader.stop()


async def test_pause_and_resume(path: Path) -> None:
    reader = WholeFilePass()
    reader.pause()
    runs = [asyncio.create_task(reader.run(path)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(run.done() for run in runs)
    reader.resume()
    assert all(await asyncio.gather(*runs))
    await reader.stop()


@pytest.mark.parametrize("is_paused", [False, True])
async def test_stop_cancels_who_waits(path: Path, is_paused: bool) -> None:
    path.write_text(TEXT * 50_000)
    reader = WholeFilePass()
    if is_paused:
        reader.pause()
    runs = [asyncio.create_task(reader.run(path)) for _ in range(3)]
    await until(lambda: len(reader._jobs) + (reader._running is not None) == 3)
    await reader.stop()
    assert threads() == []
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    with pytest.raises(asyncio.CancelledError):
        await reader.run(path)
    await reader.stop()


async def test_stop_without_a_file() -> None:
    reader = WholeFilePass()
    await reader.stop()
    await reader.stop()


async def test_a_cancelled_run_makes_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it waits in the queue or is being read."""
    gate = Gate(monkeypatch)
    reader = WholeFilePass()
    first, second = (asyncio.create_task(reader.run(path)) for _ in range(2))
    await until(gate.passed.is_set)
    for run in (second, first):
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert not reader._jobs
    gate.open()
    await until(lambda: reader._running is None)
    assert await reader.run(path) is not None
    await reader.stop()


async def test_the_queue_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_file, "MAX_QUEUED", 2)
    reader = WholeFilePass()
    reader.pause()
    runs = [asyncio.create_task(reader.run(path)) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert len(reader._jobs) + (reader._running is not None) == 2
    other = path.with_name("b.gcode")
    other.write_text(";MESH:a\n")
    assert await reader.add_objects(other), "what is wanted now has places of its own"
    reader.resume()
    assert all(await asyncio.gather(*runs))
    await reader.stop()


async def test_the_thread_ends_when_idle_and_comes_back(path: Path) -> None:
    reader = WholeFilePass(idle_s=0.02)
    for _ in range(3):
        assert await reader.run(path) is not None
        await until(lambda: threads() == [])
    await reader.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
async def test_priority(path: Path) -> None:
    reader = WholeFilePass()
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    await reader.run(path)
    (thread,) = threads()
    assert thread.native_id is not None
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == whole_file.NICENESS
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    await reader.stop()


async def test_many_starts_and_stops_leave_nothing(path: Path) -> None:
    files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for number in range(50):
        reader = WholeFilePass()
        run = asyncio.create_task(reader.run(path))
        if number % 2:
            await run
        else:
            await asyncio.sleep(0)
        await reader.stop()
        await asyncio.gather(run, return_exceptions=True)
    assert threads() == []
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == files


async def test_the_loop_goes_on(path: Path) -> None:
    """While a long file is read, nothing else waits long."""
    path.write_text(TEXT * 100_000)
    reader = WholeFilePass()
    run = asyncio.create_task(reader.run(path))
    worst = 0.0
    while not run.done():
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - begin)
    assert await run is not None
    assert worst < 0.2  # generous for a busy machine; the pass itself holds nothing for 5 ms
    await reader.stop()
