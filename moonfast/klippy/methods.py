"""What Klippy may call here: its own messages, and remote methods for gcode macros (`action_call_remote_method`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from moonfast.codec import DecodeError, decode
from moonfast.errors import BadRequest

log = logging.getLogger(__name__)

RemoteMethod = Callable[[dict[str, Any]], object]
"""Gets the arguments; what takes time it begins and leaves."""

RESERVED = ("process_gcode_response", "process_status_update")


class RemoteMethods:
    """Methods by name. `announce` tells Klippy of a new one; it is called again for all after each connect."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._methods: dict[str, RemoteMethod] = {}

    def register(self, name: str, method: RemoteMethod) -> None:
        """Make a method callable by macros. BadRequest: the name is taken."""
        if name in self._methods or name in RESERVED:
            raise BadRequest(f"Remote method '{name}' is registered already: choose another name")
        self._methods[name] = method
        self._announce(name)

    def remove(self, name: str) -> None:
        """Klippy cannot be told to forget it: a later call is logged and ignored."""
        self._methods.pop(name, None)

    def names(self) -> list[str]:
        return list(self._methods)

    def call(self, name: str, params: bytes) -> None:
        """Do what a macro asks for. Whatever goes wrong is logged: there is nobody to answer to."""
        method = self._methods.get(name)
        if method is None:
            log.info("Klippy called the remote method '%s', which nobody provides", name)
            return
        try:
            arguments = decode(params)
            method(arguments if isinstance(arguments, dict) else {})
        except DecodeError:
            log.warning("Klippy called the remote method '%s' with arguments that are not readable", name)
        except Exception:  # task edge: a method must not harm the link
            log.exception("The remote method '%s' failed", name)
