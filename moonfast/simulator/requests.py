"""Requests as they come over the socket: reading them, their arguments, and what a client has subscribed to.

Source: Klipper docs/API_Server.md; the error texts are Klippy's. Shared by the simulator and the replay.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from .wire import Connection, Message

log = logging.getLogger(__name__)

Filter = dict[str, list[str] | None]
"""Object -> wanted fields, None for all."""


class RequestError(Exception):
    """A request that Klippy refuses; the text goes to the client."""


@dataclass(slots=True, frozen=True)
class Request:
    """One request. An `id` of None means that no answer is wanted."""

    id: Any
    method: str
    params: Message

    def text(self, name: str) -> str:
        """A text argument, which must be there."""
        if name not in self.params:
            raise RequestError(f"Missing Argument [{name}]")
        value = self.params[name]
        if not isinstance(value, str):
            raise RequestError(f"Invalid Argument Type [{name}]")
        return value

    def mapping(self, name: str) -> Message:
        """An object argument; empty if it is missing."""
        value = self.params.get(name, {})
        if not isinstance(value, dict):
            raise RequestError(f"Invalid Argument Type [{name}]")
        return value

    def objects(self) -> Filter:
        """The argument `objects` of objects/query and objects/subscribe."""
        if "objects" not in self.params:
            raise RequestError("Missing Argument [objects]")
        objects = self.mapping("objects")
        for fields in objects.values():
            if fields is not None and not (isinstance(fields, list) and all(isinstance(item, str) for item in fields)):
                raise RequestError("Invalid argument")
        return objects


def read_request(message: bytes) -> Request | None:
    """Read one message. None: it is no request, which Klippy ignores without a word to the client."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        method, params = found.get("method"), found.get("params", {})
        if isinstance(method, str) and isinstance(params, dict):
            return Request(found.get("id"), method, params)
    log.debug("Request is not readable: %.100r", message)
    return None


def answer(connection: Connection, request: Request, result: Message | Exception) -> None:
    """Send the answer, if one is wanted."""
    if request.id is None:
        return
    if isinstance(result, Exception):
        connection.send({"id": request.id, "error": {"error": "WebRequestError", "message": str(result)}})
    else:
        connection.send({"id": request.id, "result": result})


def subscribe(connection: Connection, request: Request, status: Message) -> None:
    """Take note of a subscription, which replaces an earlier one, and of the status it is answered with."""
    connection.subscription = request.objects()
    connection.status_template = request.mapping("response_template")
    connection.told = {name: dict(fields) for name, fields in status.items()}


def select(found: Message | None, fields: list[str] | None) -> Message:
    """The wanted fields of an object. A field it does not have is None; an unknown object is empty."""
    if found is None:
        return {}
    return found if fields is None else {key: found.get(key) for key in fields}


def changes(told: Message, found: Message, fields: list[str] | None) -> Message:
    """What differs from what was told; takes note of it in `told`."""
    changed = {}
    for key in found if fields is None else fields:
        value = found.get(key)
        if key not in told or told[key] != value:
            changed[key] = told[key] = value
    return changed
