"""Endpoints about the server itself: `server.info`, `server.config`, `server.restart`, `server.logs.rollover`.

Source: specification, "Server Administration".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.errors import BadRequest, MoonfastError
from moonfast.version import API_VERSION, MOONFAST_VERSION, MOONRAKER_VERSION
from moonfast.vocab import GET, POST, KlippyState


class ServerInfo(TypedDict):
    klippy_connected: bool
    klippy_state: KlippyState
    components: list[str]
    failed_components: list[str]
    registered_directories: list[str]
    warnings: list[str]
    websocket_count: int
    moonraker_version: str
    moonfast_version: str
    missing_klippy_requirements: list[str]
    api_version: list[int]
    api_version_string: str
    plugins: list[str]
    failed_plugins: list[str]


class Rollover(TypedDict):
    rolled_over: list[str]
    failed: dict[str, str]


class Facts:
    """What `server.info` tells; the server's parts give it. Warnings may contain `<`; clients show them as HTML."""

    def __init__(
        self,
        *,
        is_klippy_connected: Callable[[], bool],
        klippy_state: Callable[[], KlippyState],
        missing_requirements: Callable[[], list[str]],
        websocket_count: Callable[[], int],
        components: Callable[[], list[str]],
        failed_components: Callable[[], dict[str, str]],
        warnings: Callable[[], list[str]],
        directories: Callable[[], list[str]],
        config_view: Callable[[], dict[str, Any]],
    ) -> None:
        self.is_klippy_connected, self.klippy_state = is_klippy_connected, klippy_state
        self.missing_requirements, self.websocket_count = missing_requirements, websocket_count
        self.components, self.failed_components, self.warnings = components, failed_components, warnings
        self.directories, self.config_view = directories, config_view


class ServerApi:
    """`restart` restarts this server in place; `rollovers` starts a new log file, by application."""

    def __init__(self, facts: Facts, restart: Callable[[], None], rollovers: dict[str, Callable[[], None]]) -> None:
        self._facts, self._restart, self._rollovers = facts, restart, rollovers

    @endpoint(GET, "/server/info")
    def info(self, call: Call, raw: bool = False) -> ServerInfo:
        """Return the state of the server and of its link to Klippy.

        `warnings` are meant to be shown as HTML, with `<br/>` between lines; with `raw` they have plain line breaks.
        `plugins` and `failed_plugins` are old names of `components` and `failed_components`.
        """
        facts = self._facts
        components, failed = facts.components(), facts.failed_components()
        warnings = facts.warnings() + [f"Component [{name}] failed: {reason}" for name, reason in failed.items()]
        return {
            "klippy_connected": facts.is_klippy_connected(),
            "klippy_state": facts.klippy_state(),
            "components": components,
            "failed_components": list(failed),
            "registered_directories": facts.directories(),
            "warnings": warnings if raw else [text.replace("\n", "<br/>") for text in warnings],
            "websocket_count": facts.websocket_count(),
            "moonraker_version": MOONRAKER_VERSION,
            "moonfast_version": MOONFAST_VERSION,
            "missing_klippy_requirements": facts.missing_requirements(),
            "api_version": list(API_VERSION),
            "api_version_string": ".".join(map(str, API_VERSION)),
            "plugins": components,
            "failed_plugins": list(failed),
        }

    @endpoint(GET, "/server/config")
    def config(self, call: Call) -> dict[str, Any]:
        """Return the configuration in use: `config` with types and defaults, `orig` as written, `files` read."""
        return self._facts.config_view()

    @endpoint(POST, "/server/restart")
    def restart(self, call: Call) -> Literal["ok"]:
        """Restart the server in place: the configuration is read again, all connections are closed. A print goes on."""
        self._restart()
        return "ok"

    @endpoint(POST, "/server/logs/rollover")
    def rollover(self, call: Call, application: str | None = None) -> Rollover:
        """Start a new log file for one application, or for all that can.

        Error 400: the application is unknown. One whose log could not be rolled over is in `failed`, with the reason.
        """
        if application is not None and application not in self._rollovers:
            raise BadRequest(f"Unknown application {application}: use one of {', '.join(self._rollovers)}")
        answer: Rollover = {"rolled_over": [], "failed": {}}
        for name in self._rollovers if application is None else (application,):
            try:
                self._rollovers[name]()
            except MoonfastError as exc:
                answer["failed"][name] = exc.message
            except OSError as exc:
                answer["failed"][name] = f"the log file could not be renamed: {exc.strerror or exc}"
            else:
                answer["rolled_over"].append(name)
        return answer
