"""The endpoints of the printer that are always there, and how their arguments become Klippy's.

Source: specification, "Printer Administration", "Printer Status", "GCode APIs", "Print Management".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.api.later import Later
from moonfast.api.params import AllArguments
from moonfast.api.subscriber import Filter, Subscriber
from moonfast.errors import BadRequest, KlippyDisconnected
from moonfast.klippy.requests import NOT_CONNECTED, Tolerant
from moonfast.klippy.session import Klippy
from moonfast.vocab import GET, POST, Transport

MAX_OBJECTS = 1000
MAX_FIELDS = 10_000
MAX_NAMES_CHARACTERS = 256 * 1024


class PrinterApi:
    """`find` gives the connection of an id, for subscriptions over HTTP; `on_command` is told of scripts that run."""

    def __init__(
        self, klippy: Klippy, find: Callable[[int], Subscriber | None], on_command: Callable[[str], None]
    ) -> None:
        self._klippy, self._find, self._on_command = klippy, find, on_command

    @endpoint(GET, "/printer/info")
    def info(self, call: Call) -> Later:
        """Return Klippy's state, with the reason in `state_message`, its version and paths."""
        return self._klippy.request("info")

    @endpoint(POST, "/printer/emergency_stop")
    def emergency_stop(self, call: Call) -> Later:
        """Stop the printer at once. Passes every queue of this server."""
        return self._klippy.request("emergency_stop", urgent=True)

    @endpoint(POST, "/printer/restart")
    def restart(self, call: Call) -> Later:
        """Restart Klippy: it reads its configuration again."""
        return Tolerant(self._klippy.request("gcode/restart"))

    @endpoint(POST, "/printer/firmware_restart")
    def firmware_restart(self, call: Call) -> Later:
        """Restart Klippy and the micro-controllers."""
        return Tolerant(self._klippy.request("gcode/firmware_restart"))

    @endpoint(GET, "/printer/objects/list")
    def list_objects(self, call: Call) -> Later:
        """Return the names of the printer objects."""
        return self._klippy.request("objects/list")

    @endpoint(GET | POST, "/printer/objects/query")
    def query_objects(self, call: Call, arguments: AllArguments) -> Later:
        """Return fields of printer objects, as Klippy has them now.

        `objects` maps names to arrays of fields, or to null for all. In a query string: `?gcode_move&extruder=target`.
        """
        return self._klippy.request("objects/query", _passed_on(call, arguments))

    @endpoint(POST, "/printer/objects/subscribe", transports=Transport.HTTP | Transport.CONNECTIONS)
    def subscribe_objects(self, call: Call, arguments: AllArguments) -> Later:
        """Return fields of printer objects, and send their changes as `notify_status_update` from then on.

        Arguments as for `objects/query`. Replaces the connection's earlier subscription; an empty object cancels it.
        Over HTTP, `connection_id` says which connection it is for. Error 400: there is no such connection.
        """
        if not self._klippy.is_connected:
            raise KlippyDisconnected(NOT_CONNECTED)
        subscriber = self._subscriber(call, arguments)
        return self._klippy.subscriptions.subscribe(subscriber, _checked(_objects(call, arguments)))

    def _subscriber(self, call: Call, arguments: AllArguments) -> Subscriber:
        if call.connection is not None:
            uid = call.connection.uid
        elif call.transport is Transport.HTTP and "connection_id" in arguments:
            try:
                uid = int(arguments["connection_id"])
            except (TypeError, ValueError):
                raise BadRequest("Invalid value for argument 'connection_id': must be a whole number") from None
        else:
            raise BadRequest("No data for argument: connection_id (expected a whole number, from identify)")
        subscriber = self._find(uid)
        if subscriber is None:
            raise BadRequest(f"There is no connection {uid}: use the connection_id of one that is open")
        return subscriber

    @endpoint(GET, "/printer/query_endstops/status")
    def query_endstops(self, call: Call) -> Later:
        """Return the state of each endstop, "open" or "TRIGGERED"."""
        return self._klippy.request("query_endstops/status")

    @endpoint(POST, "/printer/gcode/script")
    def run_gcode(self, call: Call, arguments: AllArguments) -> Later:
        """Run `script`, one command a line, and answer when the last one is done, however long it takes.

        Error 400: a command failed; the text is Klippy's.
        """
        script = arguments.get("script")
        if isinstance(script, str) and self._klippy.is_connected:
            self._on_command(script)
        later = self._klippy.request("gcode/script", {"script": script} if "script" in arguments else None)
        return Tolerant(later) if _restarts(script) else later

    @endpoint(GET, "/printer/gcode/help")
    def gcode_help(self, call: Call) -> Later:
        """Return the commands that have a description."""
        return self._klippy.request("gcode/help")

    @endpoint(POST, "/printer/print/start")
    def start_print(self, call: Call, filename: str) -> Later:
        """Print a file of the gcodes folder; the name is relative to it."""
        return self._klippy.print_file(filename, user=call.user)

    @endpoint(POST, "/printer/print/pause")
    def pause_print(self, call: Call) -> Later:
        """Pause the print."""
        return self._klippy.request("pause_resume/pause")

    @endpoint(POST, "/printer/print/resume")
    def resume_print(self, call: Call) -> Later:
        """Go on with a paused print."""
        return self._klippy.request("pause_resume/resume")

    @endpoint(POST, "/printer/print/cancel")
    def cancel_print(self, call: Call) -> Later:
        """Cancel the print."""
        return self._klippy.request("pause_resume/cancel")


def _restarts(script: Any) -> bool:
    """Whether Klippy drops the link at the end of this script, instead of answering."""
    return isinstance(script, str) and script.strip().upper().rpartition("\n")[2].strip() in (
        "RESTART",
        "FIRMWARE_RESTART",
    )


def _objects(call: Call, arguments: AllArguments) -> Any:
    """`objects`, or over HTTP all arguments as the query string names them."""
    if "objects" in arguments:
        return arguments["objects"]
    if call.transport is not Transport.HTTP:
        raise BadRequest("No data for argument: objects (expected an object: names to arrays of fields, or null)")
    named: dict[str, Any] = {}
    for name, fields in arguments.items():
        if name in ("connection_id", "token", "access_token"):
            continue
        if isinstance(fields, str):
            fields = [item.strip() for item in fields.split(",") if item.strip()] or None
        named[name] = fields
    return named


def _passed_on(call: Call, arguments: AllArguments) -> dict[str, Any]:
    """The arguments for Klippy, which checks them itself."""
    if call.transport is Transport.HTTP and "objects" not in arguments:
        return {"objects": _objects(call, arguments)}
    return {"objects": arguments["objects"]} if "objects" in arguments else {}


def _checked(objects: Any) -> Filter:
    """A subscription that is sure to be one: one client's mistake must not spoil the union."""
    if not isinstance(objects, dict):
        raise BadRequest("Invalid value for argument 'objects': must be an object, names to arrays of fields or null")
    total = characters = 0
    for name, fields in objects.items():
        if fields is not None and not (isinstance(fields, list) and all(isinstance(item, str) for item in fields)):
            raise BadRequest(f"Invalid value for argument 'objects': '{name}' must be an array of field names, or null")
        total += len(fields or ())
        characters += len(name) + sum(map(len, fields or ()))
    if len(objects) > MAX_OBJECTS or total > MAX_FIELDS:
        raise BadRequest(f"Argument 'objects' names more than {MAX_OBJECTS} objects or {MAX_FIELDS} fields")
    if characters > MAX_NAMES_CHARACTERS:
        raise BadRequest(
            f"Argument 'objects' is too large: the names in it have more than {MAX_NAMES_CHARACTERS} characters"
        )
    return objects
