"""How much filament goes through the extruder, and what of it Spoolman has not been told yet.

Nothing is counted twice, unless Spoolman takes longer to count a report than it is waited for. Before a report is sent
it is noted on the disk, with the length that Spoolman had counted for the spool until then. A report whose answer was
lost, by a crash or a broken connection, is looked up by that length: either it has grown, or the report is made again.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

from moonfast.state.status import Status
from moonfast.storage.database import Namespace

log = logging.getLogger(__name__)

MAX_SPOOLS = 100
"""Spools with reports that wait; what is printed from more of them is not counted."""
MAX_EXTRUDERS = 64
RECORD = "spoolman"
"""Key in the namespace "moonraker". `spool_id` in it is where Moonraker keeps the active spool, too."""


class Meter:
    """Reads `toolhead` of the printer's status. Each extruder has a position of its own.

    Only what goes beyond the highest position counts: filament that is retracted comes back before new one is used.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._highest: dict[bytes, float] = {}  # mm, by raw name of the extruder

    def forget(self) -> None:
        """Klippy went away: it may begin at zero again."""
        self._highest.clear()

    def used(self) -> float:
        """Filament that was used since the last look, in mm."""
        axes = (self._status.field("toolhead", "position") or b"").split(b",", 4)
        try:
            position = float(axes[3].strip(b" ]"))
        except (IndexError, ValueError):  # a position that has no extruder, or is not known
            return 0.0
        extruder = self._status.field("toolhead", "extruder") or b""
        highest = self._highest.get(extruder)
        if highest is None and len(self._highest) >= MAX_EXTRUDERS:
            return 0.0
        if highest is not None and position <= highest:
            return 0.0
        self._highest[extruder] = position
        return 0.0 if highest is None else position - highest


class Sent(NamedTuple):
    """A report whose answer has not come. Lengths in mm; `counted` is what Spoolman had counted before it."""

    spool_id: int
    length: float
    counted: float | None

    def has_arrived(self, counted: float | None) -> bool:
        """Whether Spoolman has counted it; yes where that cannot be known, so that nothing is counted twice."""
        if counted is None or self.counted is None:
            return True
        return counted - self.counted >= self.length / 2


class Ledger:
    """The active spool and the reports that wait, kept in the database. Lengths in mm."""

    def __init__(self, store: Namespace) -> None:
        self._store = store
        self.spool_id: int | None = None
        self._waiting: dict[int, float] = {}
        self.sent: Sent | None = None
        self._has_news = False

    def load(self) -> None:
        """Read what was kept. What does not fit is left out."""
        record = self._store.get(RECORD, {})
        record = record if isinstance(record, dict) else {}
        self.spool_id = _spool(record.get("spool_id"))
        waiting, sent = record.get("pending"), record.get("sent")
        for text, length in (waiting if isinstance(waiting, dict) else {}).items():
            spool_id = _spool(int(text) if str(text).isdecimal() else None)
            if spool_id is not None and _length(length) is not None:
                self._waiting[spool_id] = float(length)
        if isinstance(sent, dict):
            spool_id, length = _spool(sent.get("spool_id")), _length(sent.get("length"))
            if spool_id is not None and length is not None:
                self.sent = Sent(spool_id, length, _length(sent.get("counted")))

    @property
    def waiting(self) -> dict[int, float]:
        """By spool, with the one that has been sent but not answered."""
        found = dict(self._waiting)
        if self.sent is not None:
            found[self.sent.spool_id] = found.get(self.sent.spool_id, 0.0) + self.sent.length
        return found

    @property
    def unsent(self) -> list[int]:
        """The spools with something to report."""
        return list(self._waiting)

    def add(self, length: float) -> None:
        """Note that the active spool gave filament."""
        if self.spool_id is not None:
            self._add(self.spool_id, length)

    def _add(self, spool_id: int, length: float) -> None:
        if spool_id not in self._waiting and len(self._waiting) >= MAX_SPOOLS:
            log.warning("Reports for %d spools wait: what spool %d gives is not counted", MAX_SPOOLS, spool_id)
            return
        self._waiting[spool_id] = self._waiting.get(spool_id, 0.0) + length
        self._has_news = True

    async def activate(self, spool_id: int | None) -> None:
        """Change the active spool. ApiError: it cannot be kept, and stays as it was."""
        before, self.spool_id = self.spool_id, spool_id
        try:
            await self._store.save(RECORD, self._record())
        except BaseException:
            self.spool_id = before
            raise

    def keep(self) -> None:
        """Have it written if there is anything new."""
        if self._has_news:
            self._store.put(RECORD, self._record())
            self._has_news = False

    async def send(self, spool_id: int, counted: float | None) -> Sent:
        """Note that what waits for a spool is on its way. ApiError: it cannot be kept; nothing has changed."""
        self.sent = sent = Sent(spool_id, self._waiting.pop(spool_id), counted)
        try:
            await self._store.save(RECORD, self._record())
        except BaseException:
            self.take_back()
            raise
        return sent

    def arrived(self) -> None:
        """Spoolman has counted what was sent."""
        self.sent, self._has_news = None, True
        self.keep()

    def take_back(self) -> None:
        """Spoolman has not counted what was sent: it waits again."""
        if self.sent is not None:
            sent, self.sent = self.sent, None
            self._add(sent.spool_id, sent.length)

    def drop(self, spool_id: int) -> None:
        """There is no such spool any more."""
        if self.sent is not None and self.sent.spool_id == spool_id:
            self.sent, self._has_news = None, True
        if self._waiting.pop(spool_id, None) is not None:
            self._has_news = True
        self.keep()

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "spool_id": self.spool_id,
            "pending": {str(spool_id): length for spool_id, length in self._waiting.items()},
        }
        if self.sent is not None:
            record["sent"] = self.sent._asdict()
        return record


def _spool(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _length(value: Any) -> float | None:
    """A length, None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def counted_length(spool: Any) -> float | None:
    """What Spoolman has counted for a spool, as it describes it; None: it does not say."""
    return _length(spool.get("used_length")) if isinstance(spool, dict) else None
