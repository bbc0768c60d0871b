"""Files that wait to be printed, one after the other.

    ready ---- a print ends well, or `start` ----> loading -- delay, gcode --> starting -- the print runs --> ready
      ^                                               |                            |
      `--------------------- start ----------------- paused <---- pause, errors ---'

With `automatic_transition` the queue goes on by itself when a print has been completed; without, each job is started by
`start`, and the queue is paused in between. It is stored with every change. Source: specification, "Job Queue APIs".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Annotated, TypedDict
from uuid import uuid4

from moonfast.api.call import INTERNAL, Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.component import Component
from moonfast.config.options import Option, Section
from moonfast.errors import ApiError, BadRequest
from moonfast.files.manager import FileManager
from moonfast.klippy.session import GCODE_RESPONSE, Klippy
from moonfast.state import job as events
from moonfast.state.job import Job, Stats
from moonfast.storage.database import Database
from moonfast.vocab import DELETE, GET, POST, KlippyState

log = logging.getLogger(__name__)

NAMESPACE = "job_queue"
KEY = "queued_jobs"
MAX_JOBS = 5000
READY, LOADING, STARTING, PAUSED = "ready", "loading", "starting", "paused"


class JobQueueConfig(Section, name="job_queue"):
    load_on_startup: Annotated[bool, Option(doc="Start the first job when Klipper becomes ready.")] = False
    automatic_transition: Annotated[bool, Option(doc="Start the next job when a print has been completed.")] = False
    job_transition_delay: Annotated[
        float, Option(above=0.0, unit="s", doc="Wait so long before a job is started after another one.")
    ] = 0.01
    job_transition_gcode: Annotated[
        str, Option(doc="Gcode to run before a job is started after another one, to clear the bed for instance.")
    ] = ""


class QueuedJob(TypedDict):
    filename: str
    job_id: str
    time_added: float
    time_in_queue: float


class QueueStatus(TypedDict):
    queued_jobs: list[QueuedJob]
    queue_state: str


class QueueChange(TypedDict):
    action: str
    updated_queue: list[QueuedJob] | None
    queue_state: str


CHANGED = notification(
    "job_queue_changed",
    QueueChange,
    "The queue has changed: `state_changed`, `jobs_added`, `jobs_removed`, or `job_loaded`: its first job is printed.",
)


class _Waiting:
    """One job in the queue."""

    __slots__ = ("filename", "time_added", "uid", "user")

    def __init__(self, filename: str, uid: str, time_added: float, user: str | None) -> None:
        self.filename, self.uid, self.time_added, self.user = filename, uid, time_added, user

    def as_dict(self) -> QueuedJob:
        waited = max(time.time() - self.time_added, 0.0)
        return {
            "filename": self.filename,
            "job_id": self.uid,
            "time_added": self.time_added,
            "time_in_queue": waited,
        }


class JobQueue(Component):
    def __init__(
        self, config: JobQueueConfig, database: Database, files: FileManager, klippy: Klippy, job: Job
    ) -> None:
        self._config, self._files, self._klippy, self._job = config, files, klippy, job
        self._store = database.namespace(NAMESPACE)
        self._jobs: list[_Waiting] = []
        self._state = READY if config.automatic_transition else PAUSED
        self._loading: asyncio.Task[None] | None = None
        self._was_ready = False
        self.on_added: list[Callable[[], None]] = []  # told when there are more jobs

    async def start(self) -> None:
        stored = self._store.get(KEY)
        for item in stored if isinstance(stored, list) else []:
            time_added = float(item["time_added"])
            self._jobs.append(_Waiting(str(item["filename"]), str(item["job_id"]), time_added, item.get("user")))
        self._files.queue_uploads(self._add_upload)
        self._job.listeners.append(self._follow)
        self._klippy.on_state.append(self._follow_klippy)
        self._klippy.methods.register("pause_job_queue", lambda _: self.spawn(self.pause(INTERNAL)))
        self._klippy.methods.register("start_job_queue", lambda _: self.spawn(self.start_queue(INTERNAL)))

    async def stop(self) -> None:
        self._job.listeners.remove(self._follow)
        self._klippy.on_state.remove(self._follow_klippy)
        for name in ("pause_job_queue", "start_job_queue"):
            self._klippy.methods.remove(name)

    # for clients

    @endpoint(GET, "/server/job_queue/status")
    def status(self, call: Call) -> QueueStatus:
        """Return the jobs that wait, the next one first, and what the queue does."""
        return {"queued_jobs": self._listed(), "queue_state": self._state}

    @endpoint(POST, "/server/job_queue/job")
    async def post_job(self, call: Call, filenames: list[str], reset: bool = False) -> QueueStatus:
        """Put files of the gcodes folder into the queue, all or none; with `reset` instead of those that wait.

        Error 400: one of them does not exist, or the queue is full.
        """
        await self._add(filenames, call.user, is_reset=reset)
        return self.status(call)

    @endpoint(DELETE, "/server/job_queue/job")
    async def delete_job(self, call: Call, job_ids: list[str] | None = None, all: bool = False) -> QueueStatus:
        """Take jobs out of the queue, or all of them; ids that are not in it are ignored."""
        if job_ids is None and not all:
            raise BadRequest("No data for argument: job_ids (or set 'all')")
        gone = set(job_ids or ())
        kept = [] if all else [job for job in self._jobs if job.uid not in gone]
        if len(kept) < len(self._jobs):
            await self._replace(kept)
            self._tell("jobs_removed", with_queue=True)
        return self.status(call)

    @endpoint(POST, "/server/job_queue/pause")
    async def pause(self, call: Call) -> QueueStatus:
        """Start no more jobs. A job that is being loaded stays in the queue; one that is printed goes on."""
        if self._state in (LOADING, READY):
            self._pause()
        return self.status(call)

    @endpoint(POST, "/server/job_queue/start")
    async def start_queue(self, call: Call) -> QueueStatus:
        """Start the first job now, or, if the printer is busy, go on when it is free."""
        if self._state == PAUSED:
            if self._jobs and not self._job.is_active and self._klippy.state is KlippyState.READY:
                self._load(is_transition=False)
            elif self._jobs or self._config.automatic_transition:
                self._enter(READY)
        return self.status(call)

    @endpoint(POST, "/server/job_queue/jump")
    async def jump(self, call: Call, job_id: str) -> QueueStatus:
        """Put a job in front of all others. Error 400: it is not in the queue."""
        found = next((job for job in self._jobs if job.uid == job_id), None)
        if found is None:
            raise BadRequest(f"Invalid job id: {job_id}")
        await self._replace([found, *(job for job in self._jobs if job is not found)])
        self._tell("jobs_added", with_queue=True)
        return self.status(call)

    # the queue

    async def _add(self, filenames: list[str], user: str | None, *, is_reset: bool = False) -> None:
        names = [name.strip().strip("/") for name in filenames]
        for name in names:
            if not await self._files.has_gcode(name):
                raise BadRequest(f"G-Code File {name} does not exist")
        before = [] if is_reset else self._jobs
        if not names or len(before) + len(names) > MAX_JOBS:
            raise BadRequest(f"Argument 'filenames' must name files, and the queue has room for {MAX_JOBS} jobs")
        now = time.time()
        await self._replace([*before, *(_Waiting(name, f"{uuid4().int >> 64:016X}", now, user) for name in names)])
        for listener in self.on_added:
            listener()
        self._tell("jobs_added", with_queue=True)

    async def _add_upload(self, filename: str, user: str | None) -> bool:
        """Take an upload that cannot be printed at once. False: there is no room."""
        try:
            await self._add([filename], user)
        except ApiError as exc:
            log.warning("The uploaded file '%s' could not be queued: %s", filename, exc.message)
            return False
        return True

    async def _replace(self, jobs: list[_Waiting]) -> None:
        """Store a queue and have it from then on. ApiError: it cannot be stored, and stays as it was."""
        before, self._jobs = self._jobs, jobs
        stored = [
            {"filename": job.filename, "job_id": job.uid, "time_added": job.time_added, "user": job.user}
            for job in jobs
        ]
        try:
            await self._store.save(KEY, stored)
        except ApiError:
            if self._jobs is jobs:
                self._jobs = before
            raise

    def _listed(self) -> list[QueuedJob]:
        return [job.as_dict() for job in self._jobs]

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._tell("state_changed")

    def _pause(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        self._enter(PAUSED)

    def _tell(self, action: str, *, with_queue: bool = False) -> None:
        queue = self._listed() if with_queue else None
        self.emit_soon(CHANGED, {"action": action, "updated_queue": queue, "queue_state": self._state})

    # what happens

    def _follow(self, event: str, before: Stats, after: Stats) -> None:
        if self._state != READY:
            return
        if event == events.COMPLETE:
            if self._jobs and self._config.automatic_transition:
                self._load(is_transition=True)
        elif event in (events.CANCELLED, events.ERROR, events.LOST):
            self._pause()

    def _follow_klippy(self, state: KlippyState) -> None:
        if state is KlippyState.READY:
            is_first, self._was_ready = not self._was_ready, True
            if is_first and self._config.load_on_startup and self._jobs and not self._job.is_active:
                self._load(is_transition=False)
        elif self._state in (LOADING, READY):
            self._pause()

    def _load(self, *, is_transition: bool) -> None:
        self._enter(LOADING)
        self._loading = self.spawn(self._start_first(is_transition))

    async def _start_first(self, is_transition: bool) -> None:
        """Print the first job of the queue."""
        try:
            if is_transition:
                await asyncio.sleep(self._config.job_transition_delay)
                if self._config.job_transition_gcode.strip():
                    await self._klippy.request("gcode/script", {"script": self._config.job_transition_gcode})
            if not self._jobs:
                self._enter(READY if self._config.automatic_transition else PAUSED)
                return
            job = self._jobs[0]
            self._enter(STARTING)
            self._loading = None  # from here on it cannot be called back
            if not await self._files.has_gcode(job.filename):
                raise BadRequest(f"the file '{job.filename}' is not there any more: delete the job, or upload the file")
            await self._klippy.print_file(job.filename, user=job.user)
            await self._replace([item for item in self._jobs if item is not job])
        except ApiError as exc:
            self._loading = None
            log.warning("The job queue is paused: %s", exc.message)
            self.emit(GCODE_RESPONSE, f"!! Job queue paused: {exc.message}")  # consoles show it
            self._enter(PAUSED)
            return
        self._state = READY if self._config.automatic_transition else PAUSED
        self._tell("job_loaded", with_queue=True)
