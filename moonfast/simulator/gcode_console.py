"""Commands that talk: to the console, the display, and to remote methods. And those that end or restart Klippy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from .gcode_lines import GcodeError, Line, Table, plain
from .printer import Printer
from .settings import MACROS

VERSION = "v0.13.0-0-simulated"
PREFIXES = {"echo": "echo:", "echo_no_space": "echo:", "command": "//", "error": "!!"}


class Host(Protocol):
    """What commands ask of Klippy itself."""

    def say(self, text: str) -> None:
        """Print to the gcode console."""

    def shutdown(self, message: str) -> None:
        """Shut the printer down."""

    def restart(self) -> None:
        """End and start anew, a moment later."""

    def call_remote(self, method: str, params: dict[str, Any]) -> None:
        """Call a method that clients have registered."""


class ConsoleCommands:
    """M112 to M118, RESPOND, STATUS, HELP, RESTART, CALL_REMOTE_METHOD. `help_texts` gives what HELP lists."""

    def __init__(self, printer: Printer, host: Host, help_texts: Callable[[], dict[str, str]]) -> None:
        self._printer, self._host, self._help_texts = printer, host, help_texts
        self._say = host.say

    def table(self) -> Table:
        host, printer = self._host, self._printer
        restart = plain(lambda line: host.restart())
        return {
            "M110": (plain(lambda line: None), ""),  # line numbers mean nothing here
            "M112": (plain(lambda line: host.shutdown("Shutdown due to M112 command")), ""),
            "M115": (plain(lambda line: self._say(f"// FIRMWARE_VERSION:{VERSION} FIRMWARE_NAME:Klipper")), ""),
            "M117": (plain(lambda line: setattr(printer, "message", line.rest or None)), ""),
            "M118": (plain(lambda line: self._say(f"echo: {line.rest}")), ""),
            "ECHO": (plain(lambda line: self._say(line.text)), ""),
            "STATUS": (plain(lambda line: self._tell_status()), "Report the printer status"),
            "HELP": (plain(lambda line: self._list_help()), "Report the list of available extended G-Code commands"),
            "RESTART": (restart, "Reload config file and restart host software"),
            "FIRMWARE_RESTART": (restart, "Restart firmware, host, and reload config"),
            "SAVE_CONFIG": (plain(lambda line: self._save_config()), "Overwrite config file and restart"),
            "RESPOND": (plain(self._respond), "Echo the message prepended with a prefix"),
            "SET_DISPLAY_TEXT": (
                plain(lambda line: setattr(printer, "message", line.params.get("MSG") or None)),
                "Set or clear the display message",
            ),
            "SET_IDLE_TIMEOUT": (plain(self._set_idle_timeout), "Set the idle timeout in seconds"),
            "CALL_REMOTE_METHOD": (plain(self._call_remote), "G-Code macro"),
        }

    def _save_config(self) -> None:
        self._printer.save_config()
        self._host.restart()

    def _tell_status(self) -> None:
        if self._printer.state != "ready":
            raise GcodeError(f"{self._printer.state_message.rstrip()}\nKlipper state: Not ready")
        self._say("// Klipper state: Ready")

    def _list_help(self) -> None:
        lines = ["// Available extended commands:"]
        if self._printer.state != "ready":
            lines.insert(0, "// Printer is not ready - not all commands available.")
        lines += [f"// {name:<10}: {text}" for name, text in sorted(self._help_texts().items())]
        self._say("\n".join(lines))

    def _respond(self, line: Line) -> None:
        kind = line.params.get("TYPE", "echo").lower()
        if kind not in PREFIXES:
            raise GcodeError(f"RESPOND TYPE '{kind}' is invalid. Must be one of 'echo', 'command', or 'error'")
        prefix = line.params.get("PREFIX", PREFIXES[kind])
        space = "" if kind == "echo_no_space" else " "
        self._say(f"{prefix}{space}{line.params.get('MSG', '')}")

    def _set_idle_timeout(self, line: Line) -> None:
        timeout = line.number("TIMEOUT", self._printer.idle.timeout_s)
        if not timeout > 0.0:
            raise GcodeError(f"Error on '{line.text}': TIMEOUT must be above 0.0")
        self._printer.idle.timeout_s = timeout
        self._say(f"// idle_timeout: Timeout set to {timeout:.2f} s")

    def _call_remote(self, line: Line) -> None:
        """Call a remote method as a macro does: arguments that read as JSON are passed as such, others as text."""
        arguments = {key.lower(): _value(text) for key, text in line.params.items() if key != "METHOD"}
        self._host.call_remote(line.text_of("METHOD"), arguments)


def scripts() -> dict[str, str]:
    """The macros that are nothing but other commands."""
    return {name: script for name, script in MACROS.items() if not script.startswith("{")}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
