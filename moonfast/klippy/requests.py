"""Requests to Klippy in flight, by id, and what becomes of them.

Wire: `{"id": 1, "method": "info", "params": {}}`, answered by `result` or `error` under the same id (Klipper
docs/API_Server.md). The raw `result` goes on to the client as it is: no decode, no encode.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from moonfast.api.later import Later
from moonfast.codec import DecodeError, Raw, decode, encode
from moonfast.errors import ApiError, KlippyDisconnected, KlippyError, Unavailable

MAX_IN_FLIGHT = 10_000
MAX_URGENT = 1_000
"""As many urgent ones may come on top."""
_ANSWER = re.compile(rb'\s*\{\s*"id"\s*:\s*([0-9]{1,18})\s*,')

NOT_CONNECTED = "Klippy Host not connected"
DISCONNECTED = "Klippy Disconnected"
OK = Raw(b'"ok"')
"""What clients get where Klippy answers with an empty object: it has nothing to say but that it is done."""


class Requests:
    """`write(data, is_urgent)` sends; it is None while there is no link."""

    def __init__(self) -> None:
        self.write: Callable[[bytes, bool], None] | None = None
        self._in_flight: dict[int, Later] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._in_flight)

    def send(
        self, method: str, params: dict[str, Any] | None = None, *, timeout_s: float | None = None, urgent: bool = False
    ) -> Later:
        """Ask Klippy. The result is `Raw`; KlippyError has its text, Unavailable: it is not there or went away.

        Without `timeout_s` there is no limit: a gcode script may run for hours.
        """
        later = Later()
        if self.write is None:
            later.fail(KlippyDisconnected(NOT_CONNECTED))
            return later
        if len(self._in_flight) >= (MAX_IN_FLIGHT + MAX_URGENT if urgent else MAX_IN_FLIGHT):
            later.fail(Unavailable(f"{MAX_IN_FLIGHT} requests wait for Klippy already: try again later"))
            return later
        self._last_id += 1
        request_id = self._last_id
        self._in_flight[request_id] = later
        self.write(
            b'{"id":%d,"method":%b,"params":%b}' % (request_id, encode(method), encode(params) if params else b"{}"),
            urgent,
        )
        if timeout_s is not None:
            asyncio.get_running_loop().call_later(timeout_s, self._time_out, request_id, method)
        return later

    def _time_out(self, request_id: int, method: str) -> None:
        later = self._in_flight.pop(request_id, None)
        if later is not None:
            later.fail(Unavailable(f"Klippy did not answer '{method}' in time"))

    def answer(self, id_text: bytes, message: dict[str, bytes]) -> bool:
        """Hand a reply to who waits for it. False: nobody does."""
        try:
            later = self._in_flight.pop(int(id_text), None)
        except ValueError:
            return False
        if later is None:
            return False
        error = message.get("error")
        if error is not None and error != b"null":
            later.fail(KlippyError(_error_text(error)))
        else:
            result = message.get("result", b"{}")
            later.resolve(OK if result == b"{}" else Raw(result))
        return True

    def answer_broken(self, text: bytes) -> None:
        """Take a message that is not JSON. If it looks like a reply, who waits for it gets an error instead."""
        found = _ANSWER.match(text)
        later = self._in_flight.pop(int(found[1]), None) if found is not None else None
        if later is not None:
            later.fail(Unavailable("Klippy's answer is not readable"))

    def fail_all(self) -> None:
        """The link is gone: nobody waits for ever."""
        in_flight, self._in_flight = self._in_flight, {}
        for later in in_flight.values():
            later.fail(KlippyDisconnected(DISCONNECTED))


def _error_text(error: bytes) -> str:
    try:
        value = decode(error)
    except DecodeError:  # an escaped lone surrogate: valid JSON, but no text
        return "Klippy answered with an error that is not readable"
    text = value.get("message") if isinstance(value, dict) else value
    return str(text or "Klippy answered with an error without a message")


class Tolerant(Later):
    """A request after which Klippy may drop the link, as a restart does: that is success."""

    __slots__ = ()

    def __init__(self, source: Later) -> None:
        super().__init__()
        source.then(self._arrived)

    def _arrived(self, result: Any, error: ApiError | None) -> None:
        if error is not None and error.message == DISCONNECTED:
            self.resolve(OK)
        elif error is not None:
            self.fail(error)
        else:
            self.resolve(result)
