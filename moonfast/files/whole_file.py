"""Whole gcode files, read when nothing else wants the machine.

One thread of low priority reads one file after the other, a piece at a time; the interpreter is free while a piece is
looked at. Nobody waits long for it to stop, pause or give up a file: it asks between pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from moonfast.files.pieces import is_unchanged, pieces

log = logging.getLogger(__name__)

NICENESS = 10
IDLE_S = 10.0
"""The thread ends when there was nothing to do for so long."""
MAX_QUEUED = 100
"""Files in the hands of the thread, to be read and to be rewritten; who brings one more waits for a place."""

GoesOn = Callable[[], bool]
"""Asked between pieces. False: nobody waits any more; raises _Interrupted: later, from the beginning."""


class _Interrupted(Exception):
    """The thread has to leave a file alone for now."""


class _Job:
    def __init__(self, work: Callable[[GoesOn], Any], *, can_wait: bool) -> None:
        self.work, self.can_wait = work, can_wait
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Any] = self.loop.create_future()
        self.is_cancelled = False

    def run(self, goes_on: GoesOn) -> bool:
        """Do the work and hand its result to the loop; False: it was interrupted."""
        result, error = None, None
        try:
            result = self.work(goes_on)
        except _Interrupted:
            return False
        except Exception as exc:
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._settle, result, error)
        return True

    def _settle(self, result: object, error: Exception | None) -> None:
        if self.result.done():
            return
        if error is None:
            self.result.set_result(result)
        else:
            self.result.set_exception(error)


class WholeFilePass:
    """Belongs to one event loop. The thread is made when first needed."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._places = {can_wait: asyncio.Semaphore(MAX_QUEUED) for can_wait in (False, True)}
        self._changed = threading.Condition()  # guards what follows
        self._jobs: deque[_Job] = deque()
        self._running: _Job | None = None
        self._thread: threading.Thread | None = None  # the last one
        self._has_thread = False
        self._ended = asyncio.Event()
        self._is_paused = False
        self._is_stopped = False

    async def run(self, path: Path, want_motion: bool = True) -> dict[str, Any] | None:
        """Read a file to its end; None: it cannot be read, or it changed meanwhile.

        What `FilePass.finish` gives (`want_motion`: with bounds and all heights, at several times the cost), but for
        `definitions`: `objects` instead, [{"name", "center", "polygon"}].
        """
        found: dict[str, Any] | None = await self._do(lambda goes_on: _read(path, want_motion, goes_on), can_wait=True)
        return found

    async def add_objects(self, path: Path) -> bool:
        """Let `objects.process` rewrite a file, also while paused: somebody wants to print it.

        False: it is as it was. OSError: it cannot be read, or its folder is full or not writable.
        """
        is_rewritten: bool = await self._do(lambda goes_on: _add_objects(path, goes_on), can_wait=False)
        return is_rewritten

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def pause(self) -> None:
        """Leave files alone after the piece that is being read; an interrupted one is read again from its beginning."""
        with self._changed:
            self._is_paused = True

    def resume(self) -> None:
        """Read on."""
        with self._changed:
            self._is_paused = False
            self._wake()

    async def stop(self) -> None:
        """Cancel who waits, and wait for the thread, which ends within one piece. Later files are refused."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            waiting = [*self._jobs, *([self._running] if self._running is not None else [])]
        for job in waiting:
            job.is_cancelled = True
            job.result.cancel()
        if self._thread is not None:
            await self._ended.wait()
            self._thread.join()

    async def _do(self, work: Callable[[GoesOn], Any], *, can_wait: bool) -> Any:
        async with self._places[can_wait]:
            job = _Job(work, can_wait=can_wait)
            with self._changed:
                if self._is_stopped:
                    raise asyncio.CancelledError
                self._jobs.append(job)
                self._wake()
            try:
                return await job.result
            finally:
                job.is_cancelled = True
                with self._changed:
                    if job in self._jobs:
                        self._jobs.remove(job)

    def _wake(self) -> None:
        """Let the thread look at the queue; there is one if it has anything to do."""
        if not self._has_thread and self._ready() is not None:
            self._ended = asyncio.Event()
            self._thread = threading.Thread(
                target=self._work, args=(asyncio.get_running_loop(), self._ended), name="files-whole", daemon=True
            )
            self._has_thread = True
            self._thread.start()
        self._changed.notify_all()

    def _ready(self) -> _Job | None:
        """The first file that may be worked on now; what somebody waits for comes before what can wait."""
        job = min(self._jobs, key=lambda job: job.can_wait, default=None)
        return None if job is None or (self._is_paused and job.can_wait) else job

    def _work(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        """What the thread does."""
        try:
            self._serve()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(ended.set)

    def _serve(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopped or self._ready() is not None, self._idle_s)
                job = self._ready()
                if self._is_stopped or job is None:
                    self._has_thread = False
                    return
                self._jobs.remove(job)
                self._running = job
            is_done = job.run(functools.partial(self._may_go_on, job))
            with self._changed:
                self._running = None
                if not is_done and not job.is_cancelled:
                    self._jobs.appendleft(job)

    def _may_go_on(self, job: _Job) -> bool:
        if self._is_paused and job.can_wait:
            raise _Interrupted
        return not (self._is_stopped or job.is_cancelled)


def _read(path: Path, want_motion: bool, goes_on: GoesOn) -> dict[str, Any] | None:
    from moonfast.files.objects import parse_definition  # what reads whole files is for those who have files
    from moonfast.speedups import gcodepass

    scan = gcodepass.FilePass(want_motion)
    try:
        with FileIO(path) as file:
            before = os.fstat(file.fileno())
            for piece in pieces(file, is_last_use=True):
                if not goes_on():
                    return None
                scan.feed(piece)
        if not is_unchanged(before, path.stat()):
            return None
    except OSError as exc:
        log.info("%s cannot be read to its end: %s", path.name, exc.strerror)
        return None
    found = scan.finish()
    found["objects"] = [known for text in found.pop("definitions") if (known := parse_definition(text))]
    return found


def _add_objects(path: Path, goes_on: GoesOn) -> bool:
    from moonfast.files import objects

    return objects.process(path, lambda: not goes_on())
