"""Every job once: what was printed, when, how it ended, and sums over all of them.

    print_stats -> state/job.py -> _follow -> record in the database -> notify_history_changed

A job is stored when it starts and again every NOTE_S, so that one that was cut off by a power failure is known at the
next start, and found as "interrupted". Source: specification, "History APIs".
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.codec import Raw, decode
from moonfast.component import Component
from moonfast.components.auxiliary import AuxiliaryField
from moonfast.errors import ApiError, BadRequest, NotFound
from moonfast.files.manager import FileManager
from moonfast.klippy.session import Klippy
from moonfast.state import job as events
from moonfast.state.job import Job, Stats
from moonfast.storage.database import Database
from moonfast.vocab import DELETE, GET, POST, KlippyState

log = logging.getLogger(__name__)

NAMESPACE = "history"
TOTALS_KEY = "history"
"""In the namespace of the server itself."""
LAST_KEY = "last_job_id"
"""There, too: the id of a job that was deleted is not used again."""
MAX_JOBS = 20_000
"""Then the oldest goes; the totals keep it."""
NOBODY = "No User"
NOTE_S = 300.0
DEFAULT_LIMIT = 50
JOBS_AT_ONCE = 200
"""Records looked at before the loop may do something else."""
IN_PROGRESS = "in_progress"
STATUS = {
    events.COMPLETE: "completed",
    events.CANCELLED: "cancelled",
    events.ERROR: "error",
    events.STANDBY: "cancelled",
    events.LOST: "klippy_disconnect",
}
TOTALS = ("total_jobs", "total_time", "total_print_time", "total_filament_used", "longest_job", "longest_print")

Record = dict[str, Any]


class HistoryJob(TypedDict):
    job_id: str
    exists: bool
    user: str | None
    filename: str
    status: str
    start_time: float
    end_time: float | None
    print_duration: float
    total_duration: float
    filament_used: float
    metadata: dict[str, Any]
    auxiliary_data: list[dict[str, Any]]


class HistoryChange(TypedDict):
    action: str
    job: HistoryJob


class JobList(TypedDict):
    count: int
    jobs: list[HistoryJob]


class Deleted(TypedDict):
    deleted_jobs: list[str]


CHANGED = notification("history_changed", HistoryChange, "A job was `added` to the history, or has `finished`.")


_FILE = re.compile(
    rb'\{(?:"job_id":"\w*","user":(?:null|"[^"\\]*"),)?"filename":"([^"\\]*)",'
    rb'(?:"\w+":(?:"[^"\\]*"|[\w.+-]*),)*?"metadata":\{"size":(\d+),"modified":([\d.eE+-]+)[,}]'
)
"""The file of a job, where its record is written as usual: only plain values before its metadata."""
_THERE, _GONE = b',"exists":true}', b',"exists":false}'
"""What a record ends with for clients, in the place of its brace."""


class History(Component):
    def __init__(self, database: Database, files: FileManager, klippy: Klippy, job: Job) -> None:
        self._files, self._klippy, self._job = files, klippy, job
        self._database = database
        self._jobs, self._own = database.namespace(NAMESPACE), database.namespace("moonraker")
        self._fields: list[AuxiliaryField] = []
        self._next = 1
        self._current: Record | None = None
        self._ids: list[str] | None = None
        """Of all jobs, in order, once somebody has asked for a list: about 60 bytes each."""

    def add_field(self, field: AuxiliaryField) -> None:
        """Have a value of another component stored with every job."""
        self._fields.append(field)

    @property
    def current_id(self) -> str | None:
        """Of the job that is printed now."""
        return None if self._current is None else str(self._current["job_id"])

    async def start(self) -> None:
        names = self._jobs.keys()
        self._next = max(_number(self._own.get(LAST_KEY)), _number(names[-1] if names else None)) + 1
        if names:
            last = self._jobs.get(names[-1])
            if isinstance(last, dict) and last.get("status") == IN_PROGRESS:
                self._jobs.put(names[-1], {**last, "status": "interrupted"})
        self._job.listeners.append(self._follow)
        self._klippy.on_state.append(self._follow_klippy)

    async def stop(self) -> None:
        self._job.listeners.remove(self._follow)
        self._klippy.on_state.remove(self._follow_klippy)
        self._finish("server_exit", self._job.stats)

    # what happens

    def _follow(self, event: str, before: Stats, after: Stats) -> None:
        if event == events.STARTED:
            self._finish("cancelled", before)  # never: each start is told behind the end of the one before
            self._begin(after)
        elif event in STATUS:
            if self._current is not None:
                self._take(self._current, before)  # a printer that is in standby has forgotten what it has counted
            is_shutdown = event == events.ERROR and self._klippy.info.get("state") == KlippyState.SHUTDOWN
            self._finish("klippy_shutdown" if is_shutdown else STATUS[event], after)
        else:
            for field in self._fields:
                field.is_tracked = event != events.PAUSED or not field.excludes_paused

    def _follow_klippy(self, state: KlippyState) -> None:
        if state is KlippyState.SHUTDOWN:
            self._finish("klippy_shutdown", self._job.stats)

    def _begin(self, stats: Stats) -> None:
        uid, filename = f"{self._next:06X}", str(stats.get("filename", ""))
        self._next += 1
        self._own.put(LAST_KEY, uid)
        start_time = time.time()
        metadata = self._files.job_started(filename, uid, start_time) or {}
        for field in self._fields:
            field.begin()
        self._current = {
            "job_id": uid,
            "user": self._user_of(filename),
            "filename": filename,
            "status": IN_PROGRESS,
            "start_time": start_time,
            "end_time": None,
            "print_duration": 0.0,
            "total_duration": 0.0,
            "filament_used": 0.0,
            "metadata": metadata,
            "auxiliary_data": [],
        }
        self._drop_oldest()
        self._store(self._current)
        self._tell("added", self._current)
        self.spawn(self._note(uid))

    def _user_of(self, filename: str) -> str:
        """Who has started a print here; prints that were started elsewhere are nobody's."""
        wanted, user = self._klippy.print_wanted_by
        self._klippy.print_wanted_by = ("", None)
        return user if user is not None and wanted == filename else NOBODY

    def _drop_oldest(self) -> None:
        names = self._all_ids()
        if len(names) >= MAX_JOBS:
            self._jobs.update({}, names[: len(names) - MAX_JOBS + 1])
            self._ids = None

    def _all_ids(self) -> list[str]:
        """In order. Not to be changed by the caller."""
        if self._ids is None:
            self._ids = self._jobs.keys()
        return self._ids

    async def _note(self, uid: str) -> None:
        """Store now and then how far a job has come."""
        while True:
            await asyncio.sleep(NOTE_S)
            if self.current_id != uid or self._current is None:
                return
            self._take(self._current, self._job.stats)
            self._put(self._current)

    def _finish(self, status: str, stats: Stats) -> None:
        record, self._current = self._current, None
        if record is None:
            return
        self._take(record, stats)
        record["status"], record["end_time"] = status, time.time()
        for field in self._fields:
            field.is_tracked = False
        self._add_to_totals(record)
        self._store(record)
        self._tell("finished", record)

    def _take(self, record: Record, stats: Stats) -> None:
        """Take over what Klipper has counted. A file that was reset in the same look has counted nothing."""
        for name in ("print_duration", "total_duration", "filament_used"):
            value = stats.get(name)
            if isinstance(value, int | float):
                record[name] = max(value, record[name])
        record["auxiliary_data"] = [field.as_dict() for field in self._fields]

    def _store(self, record: Record) -> None:
        self._put(record)
        self.spawn(self._flush())

    def _put(self, record: Record) -> None:
        uid = record["job_id"]
        self._jobs.put(uid, record)
        if self._ids is not None and self._ids[-1:] != [uid]:
            self._ids = None  # it is a new one, or one that was deleted while it was printed

    async def _flush(self) -> None:
        try:
            await self._database.flush()
        except ApiError as exc:
            log.warning("The history could not be written: %s", exc.message)

    def _tell(self, action: str, record: Record) -> None:
        self.emit(CHANGED, {"action": action, "job": {**record, "exists": self._exists(record)}})

    def _exists(self, record: Record) -> bool:
        metadata = record.get("metadata") or {}
        return self._files.is_there(record.get("filename", ""), metadata.get("size"), metadata.get("modified"))

    # totals

    def _totals(self) -> dict[str, Any]:
        stored = self._own.get(TOTALS_KEY)
        stored = stored if isinstance(stored, dict) else {}
        return {
            "job_totals": {**dict.fromkeys(TOTALS, 0.0), "total_jobs": 0, **(stored.get("job_totals") or {})},
            "aux_totals": stored.get("aux_totals") or [],
        }

    def _add_to_totals(self, record: Record) -> None:
        totals = self._totals()
        jobs, spent, printed = totals["job_totals"], record["total_duration"], record["print_duration"]
        jobs["total_jobs"] += 1
        jobs["total_time"] += spent
        jobs["total_print_time"] += printed
        jobs["total_filament_used"] += record["filament_used"]
        jobs["longest_job"] = max(jobs["longest_job"], spent)
        jobs["longest_print"] = max(jobs["longest_print"], printed)
        known = {(item["provider"], item["field"]): item for item in totals["aux_totals"]}
        for field in self._fields:
            if field.reports_total or field.reports_maximum:
                empty = {"provider": field.provider, "field": field.name, "maximum": None, "total": None}
                key = field.provider, field.name
                known[key] = field.add_to(known.get(key, empty))
        totals["aux_totals"] = list(known.values())
        self._own.put(TOTALS_KEY, totals)

    # for clients

    @endpoint(GET, "/server/history/list")
    async def list_jobs(
        self,
        call: Call,
        start: int = 0,
        limit: int = DEFAULT_LIMIT,
        before: float | None = None,
        since: float | None = None,
        order: str = "desc",
    ) -> Raw:
        """Return jobs, and the count of all that match.

        `since`: those that started later; `before`: those that ended earlier, in seconds since 1970. `start` leaves out
        so many of them, `limit` returns so many at most, 0 all. `order` is asc or desc. Error 400: another order.
        """
        if order.lower() not in ("asc", "desc"):
            raise BadRequest(f"Invalid `order` value: {order.upper()}. Use asc or desc")
        if start < 0 or limit < 0:
            raise BadRequest("Arguments 'start' and 'limit' must be 0 or more")
        names = self._all_ids()
        if since is not None or before is not None:
            names = await self._between(names, since, before)
        count, end = len(names), start + limit if limit else None
        if order.lower() == "desc":  # the same from behind, without a copy of all
            page = names[max(count - end, 0) if end is not None else 0 : max(count - start, 0)][::-1]
        else:
            page = names[start:end]
        pieces = [b'{"count":%d,"jobs":[' % count]  # joined once: they may be many megabytes
        async for text in self._texts(page):
            pieces += (text[:-1], _THERE if self._exists_by_text(text) else _GONE, b",")
        if len(pieces) > 1:
            pieces.pop()
        pieces.append(b"]}")
        return Raw(b"".join(pieces))

    async def _between(self, names: list[str], since: float | None, before: float | None) -> list[str]:
        found = []
        async for text in self._texts(names):
            record = decode(text)
            if since is not None and not record.get("start_time", 0.0) > since:
                continue
            if before is not None and not (record.get("end_time") or record.get("start_time", 0.0)) < before:
                continue
            found.append(record["job_id"])
        return found

    async def _texts(self, names: list[str]) -> AsyncIterator[bytes]:
        for at in range(0, len(names), JOBS_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            for text in self._jobs.raws(names[at : at + JOBS_AT_ONCE]):
                if text is not None:
                    yield text

    def _with_existence(self, text: bytes) -> bytes:
        """A record as clients get it."""
        return text[:-1] + (_THERE if self._exists_by_text(text) else _GONE)

    def _exists_by_text(self, text: bytes) -> bool:
        """Whether the file of a record is there, found without decoding where the record is written as usual."""
        found = _FILE.match(text)
        if found is None:
            return self._exists(decode(text))
        name, size, modified = found.groups()
        return self._files.is_there(name.decode(), int(size), float(modified))

    @endpoint(GET, "/server/history/totals")
    def get_totals(self, call: Call) -> dict[str, Any]:
        """Return sums over all jobs: seconds, mm of filament."""
        totals = self._totals()
        return {"job_totals": totals["job_totals"], "auxiliary_totals": totals["aux_totals"]}

    @endpoint(POST, "/server/history/reset_totals")
    async def reset_totals(self, call: Call) -> dict[str, Any]:
        """Begin the sums anew and return what they were."""
        totals = self._totals()
        await self._own.save(TOTALS_KEY, {})
        return {"last_totals": totals["job_totals"], "last_auxiliary_totals": totals["aux_totals"]}

    @endpoint(GET, "/server/history/job")
    def get_job(self, call: Call, uid: str) -> Raw:
        """Return one job. Error 404: there is none with this id."""
        text = self._jobs.raw(uid)
        if text is None:
            raise NotFound(f"Invalid job uid: {uid}")
        return Raw(b'{"job":%b}' % self._with_existence(text))

    @endpoint(DELETE, "/server/history/job")
    async def delete_job(self, call: Call, uid: str | None = None, all: bool = False) -> Deleted:
        """Delete one job, or all of them; totals stay. Error 404: there is none with this id."""
        if all:
            names = self._jobs.keys()
            await self._jobs.drop()
            self._ids = None
            return {"deleted_jobs": names}
        if uid is None:
            raise BadRequest("No data for argument: uid (or set 'all')")
        if not await self._jobs.remove(uid):
            raise NotFound(f"Invalid job uid: {uid}")
        self._ids = None
        return {"deleted_jobs": [uid]}


def _number(uid: object) -> int:
    try:
        return int(str(uid), 16)
    except ValueError:  # there is none, or it is another server's
        return 0
