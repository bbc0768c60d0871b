"""Writes the pictures of a gcode file into `.thumbs` beside it, and keeps them with the file.

PNG and JPEG are written as they came. QOI becomes PNG, and a 32x32 picture is made where the slicer gave none, by
Pillow in one child process (`thumbnail_child`) that serves a batch, one picture at a time, and is ended after
`IDLE_S`. A picture that kills or hangs the child is lost, and only that one. What a picture is says its first bytes,
its name and entry take width and height from the gcode file, as Moonraker's do. Source: specification, "Get gcode
metadata", `thumbnails`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from moonfast.files import thumbnail_child
from moonfast.files.parts import replacing
from moonfast.files.thumbnail_child import (
    ANSWER,
    CONVERT,
    DONE,
    JPEG_MARK,
    MAX_THUMBNAIL_BYTES,
    NO_PILLOW,
    NO_QOI,
    PNG_MARK,
    QOI_MARK,
    REQUEST,
    SHRINK,
    SMALL_SIDE,
)
from moonfast.fingerprint import fingerprint

log = logging.getLogger(__name__)

FOLDER = ".thumbs"
MAX_THUMBNAILS = 16  # of one file
MAX_SIDE = 99_999  # pixels that a header may announce: five digits in the name
MAX_NAME_BYTES = 255  # of a file, on every file system of Linux that matters
MAX_STEM_BYTES = MAX_NAME_BYTES - len(f"-{MAX_SIDE}x{MAX_SIDE}.png")
SOURCES_TRIED = 2  # pictures that a small one is made from, if the largest is damaged
IDLE_S = 10.0
CHILD_TIMEOUT_S = 10.0  # a picture, with the start of the child from a slow card
END_TIMEOUT_S = 1.0  # for a child whose input was closed

Entry = dict[str, Any]


class Embedded(Protocol):
    """A picture as it stands in a gcode file, decoded."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class _Picture(NamedTuple):
    width: int
    height: int
    data: bytes


class Thumbnails:
    """Writes pictures, and owns the child process that makes those that are missing.

    `warn` is told, once, what users have to mend: Pillow that is not there, or a folder that cannot be written.
    """

    def __init__(self, warn: Callable[[str], None] = log.warning) -> None:
        self._warn = warn
        self._warned: set[str] = set()
        self._child: Process | None = None
        self._lock = asyncio.Lock()  # one request at a time; those who wait hold their own pictures
        self._idle: asyncio.TimerHandle | None = None
        self._endings: set[asyncio.Task[None]] = set()
        self._is_usable = True  # no Pillow, or closed: the child is not started again

    async def write(
        self,
        gcode: Path,
        embedded: Sequence[Embedded],
        from_ufp: bytes | None = None,
        *,
        earlier: Sequence[Entry] = (),
        is_unchanged: bool = False,
    ) -> list[Entry]:
        """Write the pictures of a file and return their entries, the smallest first. Never raises for odd pictures.

        `earlier` are the entries of the scan before this one: what is no longer named goes away. `is_unchanged` says
        that the file is still the one they belong to: the picture of its UFP package, which only the package had, is
        kept then. Bytes that are no picture are left out; so are all, with a warning, where they cannot be written.
        """
        stem = _stem(gcode)
        if from_ufp is None and is_unchanged and f"{stem}.png" in (name for _, name in _named(earlier)):
            from_ufp = await asyncio.to_thread(_read, gcode.parent / FOLDER / f"{stem}.png")
        pictures = await self._collect(gcode, stem, embedded)
        if from_ufp is not None and (size := _png_size(from_ufp)) is not None:
            pictures[f"{stem}.png"] = _Picture(*size, from_ufp)
        if not any((picture.width, picture.height) == (SMALL_SIDE, SMALL_SIDE) for picture in pictures.values()):
            by_area = sorted(pictures.values(), key=lambda picture: picture.width * picture.height, reverse=True)
            for source in by_area[:SOURCES_TRIED]:
                if (made := await self._ask(gcode, SHRINK, source.data)) is not None:
                    pictures = {f"{stem}-{SMALL_SIDE}x{SMALL_SIDE}.png": made, **pictures}
                    break
        if not pictures and not earlier:
            return []
        entries, failure = await asyncio.to_thread(_store, gcode, pictures, earlier)
        if failure is not None:
            self._warn_once("write", f"Thumbnails of '{gcode.name}' cannot be written ({failure}): check its folder")
        return entries

    async def close(self) -> None:
        """End the child and start none again. A picture that it works on is lost."""
        self._is_usable = False
        self._end_child(kill=True)
        async with self._lock:  # a child that was being started meanwhile
            self._end_child(kill=True)
        while self._endings:
            await asyncio.wait(self._endings)

    async def _collect(self, gcode: Path, stem: str, embedded: Iterable[Embedded]) -> dict[str, _Picture]:
        """Return pictures by the names of their files; the first of a name counts, PNG and JPEG before QOI."""
        pictures: dict[str, _Picture] = {}
        to_convert: dict[str, _Picture] = {}
        for given in islice(embedded, MAX_THUMBNAILS):
            picture = _Picture(given.width, given.height, given.data)
            if not (0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE):
                continue
            name = f"{stem}-{picture.width}x{picture.height}"
            if len(picture.data) > MAX_THUMBNAIL_BYTES:
                log.info("A thumbnail of '%s' is left out: it has %d bytes", gcode.name, len(picture.data))
            elif picture.data.startswith(PNG_MARK):
                pictures.setdefault(f"{name}.png", picture)
            elif picture.data.startswith(JPEG_MARK):
                pictures.setdefault(f"{name}.jpg", picture)
            elif picture.data.startswith(QOI_MARK):
                to_convert.setdefault(f"{name}.png", picture)
            else:
                log.info("A thumbnail of '%s' is left out: it is neither PNG nor JPEG nor QOI", gcode.name)
        for name, picture in to_convert.items():
            if name not in pictures and (made := await self._ask(gcode, CONVERT, picture.data)) is not None:
                pictures[name] = picture._replace(data=made.data)
        return pictures

    async def _ask(self, gcode: Path, task: int, data: bytes) -> _Picture | None:
        """Have the child make a PNG; None: it could not, and the log says why."""
        async with self._lock:
            if not self._is_usable:
                return None
            if self._idle is not None:
                self._idle.cancel()
            try:
                async with asyncio.timeout(CHILD_TIMEOUT_S):
                    status, made = await self._exchange(task, data)
            except TimeoutError:
                reason = f"took longer than {CHILD_TIMEOUT_S:g} s"
            except (asyncio.IncompleteReadError, ConnectionError):
                reason = "ended the program that reads it"
            except OSError as exc:
                self._end_child(kill=True)
                self._warn_once("start", f"Thumbnails cannot be made: no process can be started ({exc.strerror})")
                return None
            except BaseException:
                self._end_child(kill=True)  # cancelled: the answer would be taken for that of the next request
                raise
            else:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end_child)
                return self._judge(gcode, status, made)
            self._end_child(kill=True)
            log.warning("A thumbnail of '%s' is left out: it %s", gcode.name, reason)
            return None

    async def _exchange(self, task: int, data: bytes) -> tuple[int, _Picture]:
        if self._child is not None and self._child.returncode is not None:
            self._end_child()  # somebody killed it between two pictures
        if self._child is None:
            # -P: no folder of ours comes before the standard library
            program = (sys.executable, "-P", thumbnail_child.__file__)
            self._child = await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
            if not self._is_usable:
                raise ConnectionError("closed while the child was started")
        requests, answers = self._child.stdin, self._child.stdout
        assert requests is not None
        assert answers is not None
        requests.write(REQUEST.pack(task, len(data)) + data)
        await requests.drain()
        status, width, height, size = ANSWER.unpack(await answers.readexactly(ANSWER.size))
        return status, _Picture(width, height, await answers.readexactly(min(size, MAX_THUMBNAIL_BYTES)))

    def _judge(self, gcode: Path, status: int, made: _Picture) -> _Picture | None:
        if status == DONE:
            return made
        if status == NO_PILLOW:
            self._is_usable = False
            self._end_child()
            text = "Small thumbnails cannot be made: run `pip install pillow` in this server's environment, restart it"
            self._warn_once("pillow", text)
        elif status == NO_QOI:
            text = "QOI thumbnails cannot be read: run `pip install -U pillow` (9.5 or newer), restart this server"
            self._warn_once("qoi", text)
        else:
            log.info("A thumbnail of '%s' is damaged or too large", gcode.name)
        return None

    def _end_child(self, *, kill: bool = False) -> None:
        child, self._child = self._child, None
        if self._idle is not None:
            self._idle.cancel()
        if child is not None:
            ending = asyncio.get_running_loop().create_task(_end(child, kill))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._warn(text)


async def _end(child: Process, kill: bool) -> None:
    """Let a child end by closing its input; kill it if that takes too long, or at once."""
    assert child.stdin is not None
    child.stdin.close()
    if not kill:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_TIMEOUT_S):
                await child.wait()
                return
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()


# What follows blocks: it belongs into a worker thread.


def remove(gcode: Path, entries: Iterable[Entry]) -> None:
    """Delete the pictures of a file. Never raises: what cannot be deleted is logged."""
    for _, name in _named(entries):
        _unlink(gcode.parent / FOLDER / name)


def move(old: Path, new: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Give a file's pictures the name and the folder that the file has now; return the entries that hold.

    Never raises: a picture that is gone, or cannot be moved, has no entry afterwards.
    """
    return _carry(old, new, entries, _rename)


def copy(old: Path, new: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Copy a file's pictures for its copy; return the entries of the copies. Otherwise as `move`."""
    return _carry(old, new, entries, _duplicate)


def _carry(old: Path, new: Path, entries: Iterable[Entry], act: Callable[[Path, Path], None]) -> list[Entry]:
    carried = []
    old_stem, new_stem = _stem(old), _stem(new)
    for entry, name in _named(entries):
        if not name.startswith(old_stem):
            continue
        new_name = new_stem + name[len(old_stem) :]
        try:
            (new.parent / FOLDER).mkdir(exist_ok=True)
            act(old.parent / FOLDER / name, new.parent / FOLDER / new_name)
        except FileNotFoundError:
            continue
        except OSError as exc:
            log.warning("A thumbnail of '%s' cannot be written for '%s': %s", old.name, new.name, exc.strerror)
            continue
        carried.append({**entry, "relative_path": f"{FOLDER}/{new_name}"})
    return carried


def _rename(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        _duplicate(source, target)
        source.unlink()


def _duplicate(source: Path, target: Path) -> None:
    with replacing(target) as part, source.open("rb") as original:
        part.write(original.read())


def _store(gcode: Path, pictures: dict[str, _Picture], earlier: Iterable[Entry]) -> tuple[list[Entry], str | None]:
    """Write pictures and delete those that only `earlier` names; return entries, and why some could not be written."""
    entries: list[Entry] = []
    failure = None
    folder = gcode.parent / FOLDER
    for name, picture in pictures.items():
        try:
            folder.mkdir(exist_ok=True)
            with replacing(folder / name) as part:
                part.write(picture.data)
        except OSError as exc:
            failure = exc.strerror
            continue
        size = len(picture.data)
        path = f"{FOLDER}/{name}"
        entries.append({"width": picture.width, "height": picture.height, "size": size, "relative_path": path})
    for _, name in _named(earlier):
        if name not in pictures:
            _unlink(folder / name)
    entries.sort(key=lambda entry: (entry["width"], entry["height"]))
    return entries, failure


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as exc:
        log.warning("The thumbnail '%s' cannot be deleted: %s", path.name, exc.strerror)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_THUMBNAIL_BYTES + 1)
    except OSError:
        return None


def _stem(gcode: Path) -> str:
    """Return what the names of a file's pictures begin with: its stem, or for a long one its beginning and a hash."""
    encoded = os.fsencode(gcode.stem)
    if len(encoded) <= MAX_STEM_BYTES:
        return gcode.stem
    mark = "-" + fingerprint([encoded])
    return encoded[: MAX_STEM_BYTES - len(mark)].decode(errors="ignore") + mark


def _named(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """Yield entries with the name of their file; entries come from the database: none leads out of the folder."""
    for entry in entries:
        folder, _, name = str(entry.get("relative_path")).partition("/")
        if folder == FOLDER and name not in ("", ".", "..") and "/" not in name and "\0" not in name:
            yield entry, name


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG (its first chunk: PNG specification, 11.2.1), or None if it is none."""
    if not data.startswith(PNG_MARK) or data[12:16] != b"IHDR" or not 24 <= len(data) <= MAX_THUMBNAIL_BYTES:
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return (width, height) if 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE else None
