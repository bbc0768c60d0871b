"""Random lives of a printer and of the server, against a list of what must be in the history."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from moonfast.components.history import History
from moonfast.speedups import status
from moonfast.state.job import Job
from moonfast.storage.database import Database
from moonfast.vocab import KlippyState

OPERATIONS = (
    *("begin a", "begin b", "print", "pause", "resume", "complete", "cancelled", "error", "standby"),
    *("shutdown", "disconnect", "restart", "kill"),
)
ENDINGS = {"complete": "completed", "cancelled": "cancelled", "error": "error", "standby": "cancelled"}
OUTSIDE = {"shutdown": "klippy_shutdown", "disconnect": "klippy_disconnect", "restart": "server_exit"}


class Files:
    """No file is known."""

    def job_started(self, relative: str, job_id: str, start_time: float) -> None:
        return None

    def is_there(self, relative: str, size: object, modified: object) -> bool:
        return False


class World:
    """`expected` holds name, end and seconds of every job."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.expected: list[tuple[str, str, float]] = []
        self.is_active = False

    async def start(self) -> None:
        """A new server, and a printer that does nothing."""
        self.table = status.StatusTable()
        self.job = Job(self.table)
        self.klippy = SimpleNamespace(info={"state": "ready"}, on_state=[], print_wanted_by=("", None))
        files: Any = Files()
        klippy: Any = self.klippy
        self.history = History(self.database, files, klippy, self.job)
        await self.history.start()
        self.connect()

    def connect(self) -> None:
        self.table.clear()
        self.klippy.info["state"] = "ready"
        self.stats = {"filename": "", "print_duration": 0.0, "total_duration": 0.0, "filament_used": 0.0}
        self.look(state="standby")

    def look(self, **fields: Any) -> None:
        self.stats.update(fields)
        self.table.apply(json.dumps({"print_stats": self.stats}).encode(), b"1.0")
        self.job.observe()

    def end(self, how: str) -> None:
        if self.is_active:
            name, _, seconds = self.expected[-1]
            self.expected[-1] = name, how, seconds
        self.is_active = False

    async def do(self, operation: str) -> None:
        word, _, name = operation.partition(" ")
        if word == "begin" and not self.is_active:
            self.expected.append((name, "in_progress", 0.0))
            self.is_active = True
            self.look(state="printing", filename=name, print_duration=0.0, total_duration=0.0, filament_used=0.0)
        elif word in ("print", "pause", "resume") and self.is_active:
            job, how, seconds = self.expected[-1]
            self.expected[-1] = job, how, seconds + 1.0
            self.look(state="paused" if word == "pause" else "printing", total_duration=seconds + 1.0)
        elif word in ENDINGS and self.is_active:
            self.end(ENDINGS[word])
            self.look(state=word, **({"filename": "", "total_duration": 0.0} if word == "standby" else {}))
        elif word in OUTSIDE:
            was_active = self.is_active
            self.end(OUTSIDE[word])
            await self.leave(word, was_active)
        elif word == "kill":
            was_active = self.is_active
            self.end("interrupted")
            await self.history.cancel_tasks()
            await self.start()
            if was_active:  # the disk knows no more than what was noted last
                name, how, _ = self.expected[-1]
                self.expected[-1] = name, how, 0.0

    async def leave(self, word: str, was_active: bool) -> None:
        if word == "shutdown":
            self.klippy.info["state"] = "shutdown"
            if was_active:
                self.look(state="error")
            for listener in list(self.klippy.on_state):
                listener(KlippyState.SHUTDOWN)
        if word == "restart":
            await self.history.cancel_tasks()
            await self.history.stop()
            await self.start()
        else:
            self.job.clear()
            self.connect()

    async def check(self) -> None:
        call: Any = None
        found = json.loads(bytes(await self.history.list_jobs(call, limit=0, order="asc")))["jobs"]
        shown = [(job["filename"], job["status"], job["total_duration"]) for job in found]
        if self.is_active:
            name, how, _ = self.expected[-1]
            self.expected[-1] = name, how, 0.0  # while it goes on nothing is stored of it
        assert shown == self.expected
        assert len({job["job_id"] for job in found}) == len(found)
        ended = [job["total_duration"] for job in found if job["status"] not in ("in_progress", "interrupted")]
        totals = self.history.get_totals(call)["job_totals"]
        assert totals["total_jobs"] == len(ended)
        assert totals["total_time"] == sum(ended)
        assert totals["longest_job"] == max(ended, default=0.0)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=40))
@example(["begin a", "print", "standby"])
def test_every_job_once(operations: list[str]) -> None:
    async def live() -> None:
        with tempfile.TemporaryDirectory() as folder:
            database = Database(Path(folder))
            await database.start()
            world = World(database)
            await world.start()
            for operation in operations:
                await world.do(operation)
            await world.check()
            await world.history.cancel_tasks()
            await database.stop()

    asyncio.run(live())
