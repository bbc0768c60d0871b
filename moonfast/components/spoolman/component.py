"""The section [spoolman]: the active spool, reports of the filament that is used, requests passed on to Spoolman.

Sources: Moonraker's documentation, "[spoolman]" and "Spoolman".
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.api.params import Meta
from moonfast.codec import DecodeError, Raw, decode, encode
from moonfast.component import Component
from moonfast.components.auxiliary import AuxiliaryField
from moonfast.components.history import History
from moonfast.components.spoolman.server import (
    VERBS,
    SpoolmanServer,
    check_library,
    checked_path,
    checked_query,
)
from moonfast.components.spoolman.usage import Ledger, Meter, counted_length
from moonfast.config.options import Option, Section
from moonfast.errors import ApiError, BadRequest, Unavailable
from moonfast.host.http_client import RequestError, Response
from moonfast.klippy.session import Klippy
from moonfast.state.status import Status
from moonfast.storage.database import Database
from moonfast.vocab import GET, POST

log = logging.getLogger(__name__)

MAX_SPOOL_ID = 2**31 - 1
REMOTE_METHOD = "spoolman_set_active_spool"
NOT_AVAILABLE = "Spoolman server not available"

SpoolId = Annotated[int | None, Meta(minimum=0, maximum=MAX_SPOOL_ID, doc="Number of the spool, null: none.")]


class SpoolmanConfig(Section, name="spoolman"):
    server: Annotated[str, Option(doc="Where Spoolman is, like `http://192.168.0.123:7912`.")]
    sync_rate: Annotated[int, Option(minimum=1, unit="s", doc="How often the filament that was used is reported.")] = 5


class ActiveSpool(TypedDict):
    spool_id: int | None


class Report(TypedDict):
    """`filament_used` in mm."""

    spool_id: int
    filament_used: float


class SpoolmanStatus(ActiveSpool):
    spoolman_connected: bool
    pending_reports: list[Report]


class Connection(TypedDict):
    spoolman_connected: bool


SPOOL_SET = notification("active_spool_set", ActiveSpool, "Another spool is in use, or none.")
STATUS_CHANGED = notification("spoolman_status_changed", Connection, "Spoolman is connected, or no longer.")


class Refused(ApiError):
    """Spoolman answered with an error; its status is that of this one."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Spoolman(Component):
    def __init__(
        self, config: SpoolmanConfig, klippy: Klippy, status: Status, database: Database, history: History
    ) -> None:
        self._config, self._klippy, self._status = config, klippy, status
        self._server = SpoolmanServer(config.server)
        self._meter = Meter(status)
        self._ledger = Ledger(database.namespace("moonraker"))
        self._field = AuxiliaryField(
            "spoolman", "spool_ids", "Spool IDs used", "collect", reset=lambda: self._ledger.spool_id
        )
        history.add_field(self._field)
        self._turn = asyncio.Lock()  # one change of the active spool at a time

    async def start(self) -> None:
        check_library()
        self._ledger.load()
        self._klippy.methods.register(REMOTE_METHOD, self._remote)
        self._klippy.want_also({"toolhead": ["position", "extruder"]})
        self._klippy.on_disconnected.append(self._meter.forget)
        self._status.watch("toolhead", self._moved)
        self.spawn(self._server.listen(self._connection_changed, self._deleted))
        self.spawn(self._report_often())

    async def stop(self) -> None:
        self._klippy.methods.remove(REMOTE_METHOD)
        self._klippy.on_disconnected.remove(self._meter.forget)
        self._ledger.keep()

    # Endpoints

    @endpoint(GET, "/server/spoolman/status")
    def spoolman_status(self, call: Call) -> SpoolmanStatus:
        """Return whether Spoolman is connected, the active spool, and the reports that have not been sent."""
        return {
            "spoolman_connected": self._server.is_connected,
            "pending_reports": [
                {"spool_id": spool_id, "filament_used": length} for spool_id, length in self._ledger.waiting.items()
            ],
            "spool_id": self._ledger.spool_id,
        }

    @endpoint(GET, "/server/spoolman/spool_id")
    def get_spool_id(self, call: Call) -> ActiveSpool:
        """Return the active spool: what is printed is taken from it. Null: filament is not counted."""
        return {"spool_id": self._ledger.spool_id}

    @endpoint(POST, "/server/spoolman/spool_id")
    async def set_spool_id(self, call: Call, spool_id: SpoolId = None) -> ActiveSpool:
        """Make another spool the active one. Without a number filament is no longer counted."""
        await self._activate(spool_id)
        return {"spool_id": self._ledger.spool_id}

    @endpoint(POST, "/server/spoolman/proxy")
    async def proxy(
        self,
        call: Call,
        request_method: str,
        path: Annotated[str, Meta(doc="In Spoolman's interface, like /v1/spool/1.")],
        query: str | None = None,
        body: dict[str, Any] | None = None,
        use_v2_response: Annotated[
            bool, Meta(doc="Answer with `response` and `error`, one of them null, instead of the bare answer.")
        ] = False,
    ) -> Any:
        """Pass a request on to Spoolman. Error 503: it is not connected; others are Spoolman's own.

        Only paths below /v1/ of the configured server can be asked; redirects are not followed.
        """
        verb = request_method.upper()
        if verb not in VERBS:
            raise BadRequest(f"request_method must be one of {', '.join(VERBS)}")
        target, wanted = checked_path(path), checked_query(query or "")
        try:
            if not self._server.is_connected:
                raise Unavailable(NOT_AVAILABLE)
            try:
                answer = await self._server.ask(verb, target, wanted, body)
            except RequestError as exc:
                raise Unavailable(f"Spoolman did not answer: {exc}") from None
            found = _content(answer)
        except (Unavailable, Refused) as exc:
            if not use_v2_response:
                raise
            return {"response": None, "error": {"status_code": exc.status, "message": exc.message}}
        return Raw(b'{"response":' + found + b',"error":null}') if use_v2_response else found

    # The active spool

    async def _activate(self, spool_id: int | None, *, only_instead_of: int | None = None) -> None:
        """Change the active spool, `only_instead_of` a certain one. ApiError: it cannot be kept."""
        async with self._turn:
            before = self._ledger.spool_id
            if spool_id == before or (only_instead_of is not None and before != only_instead_of):
                return
            await self._ledger.activate(spool_id)
            if spool_id is not None:
                self._field.track(spool_id)
            log.info("The active spool is %s", "none" if spool_id is None else spool_id)
            self.emit_soon(SPOOL_SET, {"spool_id": spool_id})

    def _remote(self, arguments: dict[str, Any]) -> None:
        """What a macro of Klipper calls."""
        spool_id = arguments.get("spool_id")
        if isinstance(spool_id, str) and spool_id.strip().isdecimal():
            spool_id = int(spool_id)
        is_number = isinstance(spool_id, int) and not isinstance(spool_id, bool) and 0 <= spool_id <= MAX_SPOOL_ID
        if spool_id is not None and not is_number:
            log.warning("%s needs spool_id, a number or None: nothing is changed", REMOTE_METHOD)
            return
        self.spawn(self._activate(spool_id))

    def _deleted(self, spool_id: int) -> None:
        self.spawn(self._forget(spool_id))

    async def _forget(self, spool_id: int) -> None:
        """A spool is not there any more."""
        self._ledger.drop(spool_id)
        if self._ledger.spool_id == spool_id:
            log.warning("Spool %d is not in Spoolman any more: no spool is active now", spool_id)
            await self._activate(None, only_instead_of=spool_id)

    def _connection_changed(self, is_connected: bool) -> None:
        self.emit(STATUS_CHANGED, {"spoolman_connected": is_connected})
        if is_connected and self._ledger.spool_id is not None:
            self.spawn(self._look_up(self._ledger.spool_id))

    async def _look_up(self, spool_id: int) -> None:
        """See whether a spool is still there; Spoolman was not heard for a while."""
        try:
            if await self._server.spool(spool_id) is None:
                await self._forget(spool_id)
        except RequestError as exc:
            log.warning("Spoolman does not tell of spool %d: %s", spool_id, exc)

    # Usage

    def _moved(self) -> None:
        used = self._meter.used()
        if used > 0.0:
            self._ledger.add(used)

    async def _report_often(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(self._config.sync_rate)
            try:
                self._ledger.keep()
                if self._server.is_connected:
                    await self._report_all()
                is_failing = False
            except (RequestError, ApiError) as exc:
                level = logging.DEBUG if is_failing else logging.WARNING
                log.log(level, "Filament cannot be reported (%s): trying again each %d s", exc, self._config.sync_rate)
                is_failing = True

    async def _report_all(self) -> None:
        """Tell Spoolman all that waits. RequestError: it does not take it; ApiError: the database does not."""
        if self._ledger.sent is not None:
            await self._settle()
        for spool_id in self._ledger.unsent:
            await self._report(spool_id)

    async def _settle(self) -> None:
        """Find out what became of a report whose answer did not come."""
        sent = self._ledger.sent
        assert sent is not None
        spool = await self._server.spool(sent.spool_id)
        if spool is None:
            await self._forget(sent.spool_id)
        elif sent.has_arrived(counted_length(spool)):
            self._ledger.arrived()
        else:
            self._ledger.take_back()

    async def _report(self, spool_id: int) -> None:
        spool = await self._server.spool(spool_id)
        if spool is None:
            await self._forget(spool_id)
            return
        if spool_id not in self._ledger.unsent:  # it was deleted meanwhile
            return
        sent = await self._ledger.send(spool_id, counted_length(spool))
        status = await self._server.use(spool_id, sent.length)
        if status < 300:
            self._ledger.arrived()
        elif status == 404:
            await self._forget(spool_id)
        elif status < 500:
            self._ledger.take_back()
            raise RequestError(f"Spoolman refuses it with status {status}")
        else:
            raise RequestError(f"status {status}")  # whether it was counted is looked up


def _content(answer: Response) -> Raw:
    """What Spoolman answered, as JSON that is not encoded again; text as a string. Refused: it was an error."""
    try:
        found = decode(answer.body or b"null")
    except DecodeError:
        found = answer.text
    if 200 <= answer.status < 300:
        return Raw(encode(found) if isinstance(found, str) or not answer.body else answer.body)
    said = found.get("message") or found.get("detail") if isinstance(found, dict) else None
    message = said if isinstance(said, str) else f"Spoolman answered with status {answer.status}"
    raise Refused(answer.status if answer.status >= 400 else 502, message)
