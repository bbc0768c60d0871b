"""Services of the machine that clients may start and stop: those on the allow list in the data folder.

Nothing is looked for until somebody asks what there is: a provider and its library cost memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.components.machine.providers.base import Action, Owner, Provider, States
from moonfast.errors import ApiError, BadRequest
from moonfast.vocab import POST

log = logging.getLogger(__name__)

ALLOW_LIST = "moonraker.asvc"
DEFAULT_NAMES = (
    "klipper_mcu",
    "webcamd",
    "MoonCord",
    "KlipperScreen",
    "moonraker-telegram-bot",
    "moonraker-obico",
    "sonar",
    "crowsnest",
    "octoeverywhere",
    "ratos-configurator",
)
"""Moonraker's documentation, "[machine]", "Allowed Services"."""
MAX_ALLOW_LIST_BYTES = 65536
ANSWER_S = 0.25
"""The answer to a request for our own restart goes out first."""
BEGIN_TIMEOUT_S = 5.0
SELF, PRINTER = "moonraker", "klipper"
_ALWAYS = re.compile(r"(?:klipper|moonraker)(?:[-_@]\w{1,50}){0,3}", re.ASCII)
_NAME = re.compile(r"\w[\w@.:-]{0,199}", re.ASCII)
SHOWN_CHARACTERS = 100

CHANGED = notification(
    "service_state_changed", States, "Services have changed; watched from the first `machine.system_info` on."
)


class Services:
    """`make` gives the provider; `restart` restarts this server in place.

    `is_used`: there is a provider. `klippy_pid` is the process of the printer host, None while it is away.
    """

    def __init__(
        self,
        make: Callable[[Owner], Provider],
        *,
        is_used: bool,
        folder: str,
        emit: Callable[[Any, Any], None],
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
        restart: Callable[[], None],
        klippy_pid: Callable[[], int | None],
        has_listeners: Callable[[], bool],
    ) -> None:
        self._make, self._is_used = make, is_used
        self._path = os.path.join(folder, ALLOW_LIST)
        self._emit, self._spawn, self._restart, self._klippy_pid = emit, spawn, restart, klippy_pid
        self._has_listeners = has_listeners
        self._allowed: frozenset[str] = frozenset()
        self._provider: Provider | None = None
        self._begun: asyncio.Task[None] | None = None
        self._has_told = False  # somebody knows the states
        self.warnings: list[str] = []

    def start(self) -> None:
        """Read the allow list; write it where there is none."""
        try:
            with open(self._path, encoding="utf-8", errors="replace") as stream:
                lines = [line.strip() for line in stream.read(MAX_ALLOW_LIST_BYTES).splitlines()]
        except FileNotFoundError:
            lines = list(DEFAULT_NAMES)
            try:
                with open(f"{self._path}.new", "w", encoding="utf-8") as stream:
                    stream.write("\n".join(lines) + "\n")
                os.replace(f"{self._path}.new", self._path)  # whole, or not at all
            except OSError as exc:
                self.warnings.append(f"[machine] {ALLOW_LIST} cannot be written ({exc.strerror}): its defaults hold")
        except OSError as exc:
            lines = []
            self.warnings.append(f"[machine] {ALLOW_LIST} cannot be read ({exc.strerror}): no service of it is allowed")
        self._allowed = frozenset(line for line in lines if _NAME.fullmatch(line))
        if wrong := [line for line in lines if line and not _NAME.fullmatch(line)]:
            self.warnings.append(
                f"[machine] {ALLOW_LIST}: '{wrong[0][:SHOWN_CHARACTERS]}' is no name of a service. Remove the line"
            )

    async def stop(self) -> None:
        if self._provider is not None:
            await self._provider.end()

    def is_allowed(self, name: str) -> bool:
        """Whether clients may have to do with a service."""
        return self._is_used and (name in self._allowed or _ALWAYS.fullmatch(name) is not None)

    async def provider(self) -> Provider:
        """The provider, when it has looked for services. It is asked to look once."""
        if self._provider is None:
            self._provider = self._make(Owner(self.is_allowed, self._changed, self._has_listeners))
            self._begun = self._spawn(self._begin(self._provider))
        if self._begun is not None and not self._begun.done():
            await asyncio.wait((self._begun,), timeout=BEGIN_TIMEOUT_S)
        return self._provider

    async def seen(self) -> dict[str, Any]:
        """What `machine.system_info` says about services."""
        provider = await self.provider()
        pid = self._klippy_pid()
        self._has_told = True
        return {
            "available_services": sorted(provider.states),
            "service_state": provider.states,
            "instance_ids": {
                SELF: provider.own_service() or SELF,
                PRINTER: (provider.service_of(pid) if pid is not None else None) or PRINTER,
            },
        }

    async def act(self, action: Action, name: str) -> None:
        """Start, stop or restart a service, and wait until it is done; our own restart comes a moment later.

        BadRequest: it is not allowed. ApiError: it cannot be done.
        """
        if not self.is_allowed(name):
            raise BadRequest(f"Service '{name[:SHOWN_CHARACTERS]}' not allowed")
        provider = await self.provider()
        own = provider.own_service()
        if name != SELF and name != own:
            await provider.act(action, name)
        elif action == "restart":
            self._spawn(self._restart_self(provider, own))
        elif action == "stop":
            raise BadRequest(f"Service '{name}' is this server: it can be restarted, but not stopped by itself")

    @endpoint(POST, "/machine/services/restart", runs_as_task=True)
    async def restart(self, call: Call, service: str) -> Literal["ok"]:
        """Restart a service. Where it is this server the answer comes first. Error 400: it is not allowed."""
        await self.act("restart", service)
        return "ok"

    @endpoint(POST, "/machine/services/stop", runs_as_task=True)
    async def stop_service(self, call: Call, service: str) -> Literal["ok"]:
        """Stop a service. Error 400: it is not allowed, or it is this server."""
        await self.act("stop", service)
        return "ok"

    @endpoint(POST, "/machine/services/start", runs_as_task=True)
    async def start_service(self, call: Call, service: str) -> Literal["ok"]:
        """Start a service. Error 400: it is not allowed."""
        await self.act("start", service)
        return "ok"

    async def _begin(self, provider: Provider) -> None:
        await provider.begin()
        self.warnings += provider.warnings
        self._spawn(provider.watch())

    async def _restart_self(self, provider: Provider, own: str | None) -> None:
        await asyncio.sleep(ANSWER_S)
        if own is None:
            self._restart()
            return
        try:
            await provider.act("restart", own)
        except ApiError as exc:
            log.warning("%s. The server restarts in place", exc.message)
            self._restart()

    def _changed(self, states: States) -> None:
        if self._has_told or (self._begun is not None and self._begun.done()):
            self._emit(CHANGED, states)
