"""What happens to the print job, derived from `print_stats`.

Theory. Klipper tells a state and a file name, at most four times a second, so an observer may miss states in between.
The job as the server sees it is the pair (state, file name); an event is what must have happened between two looks:

    from \\ to      standby    printing   paused     complete   cancelled  error
    (idle)          -          started    started    (2)        (2)        (2)
    printing        standby    (1)        paused     complete   cancelled  error
    paused          standby    resumed    -          complete   cancelled  error

idle is standby, complete, cancelled or error. (1) A job that is printing and whose file name changes, or whose
duration goes back, is another job: the end of the first one was missed. Klipper starts no job over a running one, so it
was complete or cancelled; complete is told if it had reached its last layer. (2) If the state or the
job is another one than before, a short job was missed: it is told whole. What is over at the first look is not told.
Source: Klipper docs/Status_Reference.md, "print_stats".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from moonfast.codec import DecodeError, decode
from moonfast.speedups import status
from moonfast.vocab import JobState

log = logging.getLogger(__name__)

STARTED, PAUSED, RESUMED = "started", "paused", "resumed"
COMPLETE, ERROR, CANCELLED, STANDBY = "complete", "error", "cancelled", "standby"
LOST = "lost"
"""Klippy went away while the job was active."""

Stats = dict[str, Any]
Listener = Callable[[str, Stats, Stats], None]
"""Gets the event, `print_stats` before and after it."""

_Seen = tuple[bytes | None, bytes | None]  # state and file name, raw

DURATIONS = ("print_duration", "total_duration")
"""Fields that only grow while a job goes on. The first one stands still until the first filament has moved."""
NO_DURATIONS = (0.0, 0.0)
TOLERANCE_S = 0.05
"""Klipper computes the first one from differences: in a pause it goes back by rounding errors."""

_ACTIVE = (JobState.PRINTING, JobState.PAUSED)
_WHILE_ACTIVE: dict[tuple[JobState, JobState], str] = {
    (JobState.PRINTING, JobState.PAUSED): PAUSED,
    (JobState.PAUSED, JobState.PRINTING): RESUMED,
}
_ENDS = {
    JobState.COMPLETE: COMPLETE,
    JobState.CANCELLED: CANCELLED,
    JobState.ERROR: ERROR,
    JobState.STANDBY: STANDBY,
}


class Job:
    """The current job, as the table's `print_stats` tells it. `listeners` are told of every event, in order."""

    def __init__(self, table: status.StatusTable) -> None:
        self.listeners: list[Listener] = []
        self._table = table
        self._state = JobState.STANDBY
        self._has_looked = False
        self._seen: _Seen = (None, None)
        self._durations: tuple[float, ...] = NO_DURATIONS
        self._raw = b"{}"

    @property
    def is_active(self) -> bool:
        """A job is printing or paused."""
        return self._state in _ACTIVE

    @property
    def state(self) -> JobState:
        return self._state

    @property
    def stats(self) -> Stats:
        """`print_stats` at the last look."""
        return _decoded(self._raw)

    def observe(self) -> None:
        """Look at `print_stats`. While a job just goes on, nothing is decoded."""
        table = self._table
        seen = (table.field("print_stats", "state"), table.field("print_stats", "filename"))
        durations = tuple(_number(table.field("print_stats", name)) for name in DURATIONS)
        before, self._raw = self._raw, table.object("print_stats") or b"{}"
        is_unchanged = seen == self._seen and not any(map(_went_back, self._durations, durations))
        self._seen, self._durations = seen, durations
        if not is_unchanged:
            self._compare(_decoded(before), _decoded(self._raw))

    def _compare(self, old: Stats, stats: Stats) -> None:
        try:
            state = JobState(str(stats.get("state")))
        except ValueError:  # a state of a clone that Klipper does not have
            log.debug("print_stats.state is %r: ignored", stats.get("state"))
            return
        before, self._state = self._state, state
        is_first, self._has_looked = not self._has_looked, True
        if before not in _ACTIVE:
            if state in _ACTIVE:
                self._tell(STARTED, old, stats)
                if state is JobState.PAUSED:
                    self._tell(PAUSED, stats, stats)
            elif not is_first and state is not JobState.STANDBY and (state is not before or _is_another(old, stats)):
                self._tell(STARTED, old, stats)
                self._tell(_ENDS[state], stats, stats)
        elif state not in _ACTIVE:
            if _is_another(old, stats) and state is not JobState.STANDBY:
                self._tell(_missed_end(old), old, old)
                self._tell(STARTED, old, stats)
                old = stats
            self._tell(_ENDS[state], old, stats)
        elif _is_another(old, stats):
            self._tell(_missed_end(old), old, old)
            self._tell(STARTED, old, stats)
            if state is JobState.PAUSED:
                self._tell(PAUSED, stats, stats)
        elif (event := _WHILE_ACTIVE.get((before, state))) is not None:
            self._tell(event, old, stats)

    def clear(self) -> None:
        """Klippy went away, and took what was printing with it."""
        if self.is_active:
            stats = self.stats
            self._tell(LOST, stats, stats)
        self._has_looked = False
        self._state, self._seen, self._durations, self._raw = JobState.STANDBY, (None, None), NO_DURATIONS, b"{}"

    def _tell(self, event: str, before: Stats, after: Stats) -> None:
        for listener in self.listeners:
            try:
                listener(event, before, after)
            except Exception:  # task edge: one listener's bug must not cost the others the event
                log.exception("A job listener failed at '%s'", event)


def _decoded(raw: bytes) -> Stats:
    try:
        value = decode(raw)
    except DecodeError:  # an escaped lone surrogate: valid JSON, but no text
        return {}
    return value if isinstance(value, dict) else {}


def _number(raw: bytes | None) -> float:
    """A raw JSON number, 0 for anything else."""
    try:
        return float(raw or b"0")
    except ValueError:
        return 0.0


def _is_another(before: Stats, after: Stats) -> bool:
    """Whether two observations of an active job are of different jobs."""
    if before.get("filename") != after.get("filename"):
        return True
    return any(_went_back(_seconds(before, name), _seconds(after, name)) for name in DURATIONS)


def _went_back(before: float, after: float) -> bool:
    return after < before - TOLERANCE_S


def _seconds(stats: Stats, name: str) -> float:
    value = stats.get(name)
    return value if isinstance(value, int | float) else 0.0


def _missed_end(stats: Stats) -> str:
    """How a job ended whose end was not seen."""
    info = stats.get("info")
    layer, total = (info.get("current_layer"), info.get("total_layer")) if isinstance(info, dict) else (None, None)
    return COMPLETE if layer is not None and layer == total else CANCELLED
