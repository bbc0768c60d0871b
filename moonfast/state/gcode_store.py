"""The last gcode commands and responses, so that a console is not empty after a reload.

Source: specification, "Request Cached GCode Responses".
"""

from __future__ import annotations

import time
from collections.abc import Callable

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import DecodeError, Raw, decode, encode
from moonfast.speedups import rings
from moonfast.vocab import GET

MAX_MESSAGE_BYTES = 16 * 1024
"""Of one entry; a longer one is cut in the store, not on its way to clients."""


class GcodeStore:
    """The newest `capacity` entries, kept as ready JSON."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.time) -> None:
        self._ring = rings.MessageRing(capacity)
        self._clock = clock

    def add_command(self, script: str) -> None:
        """Take note of what a client ran; a script of several lines is one entry."""
        self._append(encode(_cut(script)), b"command")

    def add_response(self, text: bytes) -> None:
        """Take note of a response of Klippy; `text` is a JSON string."""
        if len(text) > MAX_MESSAGE_BYTES:
            text = _cut_json(text)
        self._append(text, b"response")

    def _append(self, text: bytes, kind: bytes) -> None:
        self._ring.append(b'{"message":%b,"time":%b,"type":"%b"}' % (text, b"%.3f" % self._clock(), kind))

    @endpoint(GET, "/server/gcode_store")
    def list_entries(self, call: Call, count: int | None = None) -> Raw:
        """Return the newest `count` commands and responses, or all; oldest first. `time` is in seconds since 1970."""
        if count is not None and count < 0:
            count = 0
        return Raw(b'{"gcode_store":%b}' % self._ring.json(count))


def _cut_json(text: bytes) -> bytes:
    try:
        return encode(_cut(decode(text)))
    except DecodeError:  # an escaped lone surrogate: valid JSON, but no text
        return b'"(a long response that is not readable)"'


def _cut(text: str) -> str:
    if len(text) <= MAX_MESSAGE_BYTES // 4:
        return text
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return text
    return encoded[: MAX_MESSAGE_BYTES - 4].decode("utf-8", "ignore") + " ..."
