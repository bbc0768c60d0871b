"""What slicers know of OctoPrint: enough to look whether the printer is there, to watch it, to upload and to print.

Answers are not wrapped into `{"result": ...}`. Sources: specification, "Octoprint API emulation"; OctoPrint's
documentation, "REST API", for the meaning of fields. Requests as PrusaSlicer, OrcaSlicer and Cura's OctoPrint plugin
send them are in tests/wire/test_octoprint.py.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import Annotated, Any

from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import endpoint
from moonfast.api.local import LocalCalls
from moonfast.api.upload import Received, UploadSink
from moonfast.component import Component
from moonfast.config.options import Option, Section
from moonfast.errors import ApiError, BadRequest, Conflict
from moonfast.files.manager import FileManager
from moonfast.files.service import GCODES
from moonfast.klippy.session import Klippy
from moonfast.state.job import Job
from moonfast.state.status import Status
from moonfast.version import MOONRAKER_VERSION
from moonfast.vocab import GET, POST, JobState, KlippyState, Transport

log = logging.getLogger(__name__)

OCTOPRINT_VERSION = "1.5.0"
"""Clients take this for the version of OctoPrint, and do what that one could."""
UPLOADED = "/api/files/moonraker"
"""Where an uploaded file is: Cura takes what stands behind "api/", and posts its commands there."""
MAX_COMMANDS = 500

OPERATIONAL, PRINTING, PAUSED, ERROR, OFFLINE = "Operational", "Printing", "Paused", "Error", "Offline"

USER: dict[str, Any] = {
    "_is_external_client": False,
    "_login_mechanism": "apikey",
    "name": "_api",
    "active": True,
    "user": True,
    "admin": True,
    "apikey": None,
    "permissions": [],
    "groups": ["admins", "users"],
}
UFP_PLUGIN: dict[str, Any] = {
    "align_inline_thumbnail": False,
    "inline_thumbnail": False,
    "inline_thumbnail_align_value": "left",
    "inline_thumbnail_scale_value": "50",
    "installed": True,
    "installed_version": "0.2.2",
    "scale_inline_thumbnail": False,
    "state_panel_thumbnail": True,
}
PROFILE: dict[str, Any] = {
    "id": "_default",
    "name": "Default",
    "color": "default",
    "model": "Default",
    "default": True,
    "current": True,
    "heatedBed": True,
    "heatedChamber": False,
    "axes": {axis: {"speed": 300.0 if axis == "e" else 6000.0, "inverted": False} for axis in "xyze"},
}
IDLE_PROGRESS: dict[str, Any] = dict.fromkeys(
    ("completion", "filepos", "printTime", "printTimeLeft", "printTimeOrigin")
)


class OctoprintConfig(Section, name="octoprint_compat"):
    enable_ufp: Annotated[bool, Option(doc="Let Cura send packages with a picture (`.ufp`).")] = True
    webcam_enabled: Annotated[bool, Option(doc="Tell of a camera.")] = True
    stream_url: Annotated[str, Option(doc="Address of its stream, whole or without the host.")] = (
        "/webcam/?action=stream"
    )
    flip_h: Annotated[bool, Option(doc="Mirror its picture.")] = False
    flip_v: Annotated[bool, Option(doc="Turn its picture upside down.")] = False
    rotate_90: Annotated[bool, Option(doc="Turn its picture by 90 degrees to the left.")] = False


class OctoprintCompat(Component):
    def __init__(
        self, config: OctoprintConfig, klippy: Klippy, job: Job, status: Status, files: FileManager, calls: LocalCalls
    ) -> None:
        self._config, self._klippy, self._job, self._status = config, klippy, job, status
        self._files, self._calls = files, calls

    @endpoint(GET, "/api/version", transports=Transport.HTTP, is_wrapped=False)
    def version(self, call: Call) -> dict[str, str]:
        """Return the version of OctoPrint that clients may count on, and who answers in its place."""
        return {"server": OCTOPRINT_VERSION, "api": "0.1", "text": f"OctoPrint (Moonraker {MOONRAKER_VERSION})"}

    @endpoint(GET, "/api/server", transports=Transport.HTTP, is_wrapped=False)
    def server(self, call: Call) -> dict[str, str | None]:
        """Return whether all is well: `safemode` is null then."""
        is_well = self._klippy.state is KlippyState.READY
        return {"server": OCTOPRINT_VERSION, "safemode": None if is_well else "settings"}

    @endpoint(GET | POST, "/api/login", transports=Transport.HTTP, is_wrapped=False)
    @endpoint(GET, "/api/currentuser", transports=Transport.HTTP, is_wrapped=False)
    def user(self, call: Call) -> dict[str, Any]:
        """Return a user who may everything. Error 401: the API key is wrong or missing."""
        return USER

    @endpoint(GET, "/api/settings", transports=Transport.HTTP, is_wrapped=False)
    def settings(self, call: Call) -> dict[str, Any]:
        """Return what clients look for in OctoPrint's settings: packages, the card, the camera."""
        config = self._config
        return {
            "plugins": {"UltimakerFormatPackage": UFP_PLUGIN} if config.enable_ufp else {},
            "feature": {"sdSupport": False, "temperatureGraph": False},
            "webcam": {
                "flipH": config.flip_h,
                "flipV": config.flip_v,
                "rotate90": config.rotate_90,
                "streamUrl": config.stream_url,
                "webcamEnabled": config.webcam_enabled,
            },
        }

    @endpoint(GET, "/api/printerprofiles", transports=Transport.HTTP, is_wrapped=False)
    def printer_profiles(self, call: Call) -> dict[str, Any]:
        """Return one profile that fits any printer."""
        return {"profiles": {"_default": PROFILE}}

    @endpoint(GET, "/api/job", transports=Transport.HTTP, is_wrapped=False)
    def job(self, call: Call) -> dict[str, Any]:
        """Return the state of the print and how far it is; the file is not told."""
        return {
            "job": {
                "file": {"name": None},
                "estimatedPrintTime": None,
                "filament": {"length": None},
                "user": None,
            },
            "progress": self._progress() if self._job.is_active else IDLE_PROGRESS,
            "state": self._state(),
        }

    @endpoint(GET, "/api/printer", transports=Transport.HTTP, is_wrapped=False)
    def printer(self, call: Call) -> dict[str, Any]:
        """Return temperatures (degrees Celsius) of tools and bed, and the state of the printer."""
        state = self._state()
        return {
            "temperature": self._temperatures(),
            "state": {
                "text": state,
                "flags": {
                    "operational": state not in (ERROR, OFFLINE),
                    "paused": state == PAUSED,
                    "printing": state == PRINTING,
                    "cancelling": False,
                    "pausing": False,
                    "error": state == ERROR,
                    "ready": state == OPERATIONAL,
                    "closedOrError": state in (ERROR, OFFLINE),
                },
            },
        }

    @endpoint(POST, "/api/printer/command", transports=Transport.HTTP, is_wrapped=False)
    async def command(self, call: Call, command: str | None = None, commands: Any = None) -> dict[str, Any]:
        """Run gcode: `commands`, an array, or `command`. What fails is logged, and the rest goes on.

        So does OctoPrint: the last command may be the one that sets the printer back to absolute coordinates.
        """
        wanted = [command] if command is not None else []
        wanted += commands if isinstance(commands, list) else [] if commands is None else [commands]
        if not all(isinstance(item, str) for item in wanted) or len(wanted) > MAX_COMMANDS:
            raise BadRequest(f"Invalid value for argument 'commands': must be an array of at most {MAX_COMMANDS} texts")
        for script in wanted:
            try:
                await self._calls.call("printer.gcode.script", {"script": script})
            except ApiError as exc:
                log.warning("The command '%.80s' of an OctoPrint client failed: %s", script, exc.message)
        return {}

    # files

    def receive(self, length: int | None) -> UploadSink:
        """Take in an upload."""
        return self._files.transfers.receive(length)

    @endpoint(POST, "/api/files/local", transports=Transport.HTTP, is_wrapped=False, receiver="receive")
    async def upload(self, call: Call, form: Received) -> HttpAnswer:
        """Upload a file, as `/server/files/upload` does; `Location` is where a client can have it printed."""
        return await self._files.transfers.store(call, form, UPLOADED)

    @endpoint(POST, UPLOADED + "/{root}/{path}", transports=Transport.HTTP, is_wrapped=False)
    async def select(self, call: Call, root: str, path: str, command: str, print: bool = False) -> HttpAnswer:
        """Print a file of the root `gcodes`: command "select" with `print`. Without it, only look whether it is there.

        Status 204. Error 400: there is no such file, or it is another command; 409: the printer is busy or not ready.
        """
        if command != "select":
            raise BadRequest(f"Unsupported Command: {command[:40]}. Use 'select'")
        if root != GCODES:
            raise BadRequest(f"File must be located in the '{GCODES}' root")
        if not await self._files.has_gcode(path):
            raise BadRequest("File does not exist: upload it first")
        if print and not await self._files.transfers.print(path, call.user):
            raise Conflict("The printer is busy or not ready: print the file later")
        return HttpAnswer(status=204)

    # from the printer

    def _state(self) -> str:
        state = self._klippy.state
        if state is KlippyState.READY:
            return {JobState.PRINTING: PRINTING, JobState.PAUSED: PAUSED}.get(self._job.state, OPERATIONAL)
        return ERROR if state in (KlippyState.ERROR, KlippyState.SHUTDOWN) else OFFLINE

    def _progress(self) -> dict[str, Any]:
        """How far the job is, in percent, bytes and seconds; what is left is guessed from that."""
        done = self._number("virtual_sdcard", "progress")
        elapsed = self._number("print_stats", "print_duration")
        return {
            "completion": done * 100,
            "filepos": int(self._number("virtual_sdcard", "file_position")),
            "printTime": int(elapsed),
            "printTimeLeft": int(elapsed / done - elapsed) if done > 0 else None,
            "printTimeOrigin": "linear" if done > 0 else None,
        }

    def _temperatures(self) -> dict[str, Any]:
        found = {}
        for index in count():
            name = f"extruder{index or ''}"
            if self._status.field(name, "temperature") is None:
                break
            found[f"tool{index}"] = self._heater(name)
        if self._status.field("heater_bed", "temperature") is not None:
            found["bed"] = self._heater("heater_bed")
        return found

    def _heater(self, name: str) -> dict[str, float]:
        actual, target = self._number(name, "temperature"), self._number(name, "target")
        return {"actual": round(actual, 2), "offset": 0, "target": target}

    def _number(self, name: str, field: str) -> float:
        """What the status has for a field, 0 for none."""
        value = self._status.field(name, field)
        return 0.0 if value in (None, b"null") else float(value)
