"""Shutting the computer down and rebooting it, for clients and for gcode macros."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.components.machine.providers.base import PowerAction
from moonfast.components.machine.services import Services
from moonfast.errors import BadRequest, MoonfastError
from moonfast.vocab import POST

log = logging.getLogger(__name__)


class PowerOff:
    """`is_container` tells whether this runs in a container; `is_simulated`: the printer is none."""

    def __init__(
        self,
        services: Services,
        shutdown_action: Literal["poweroff", "halt"],
        *,
        is_container: Callable[[], bool],
        is_simulated: bool,
    ) -> None:
        self._services, self._shutdown_action = services, shutdown_action
        self._is_container, self._is_simulated = is_container, is_simulated

    @endpoint(POST, "/machine/shutdown", runs_as_task=True)
    async def shutdown(self, call: Call) -> Literal["ok"]:
        """Shut the computer down. Error 400: it cannot be done from here. Error 503: the system refuses."""
        await self._act(self._shutdown_action)
        return "ok"

    @endpoint(POST, "/machine/reboot", runs_as_task=True)
    async def reboot(self, call: Call) -> Literal["ok"]:
        """Reboot the computer. Error 400: it cannot be done from here. Error 503: the system refuses."""
        await self._act("reboot")
        return "ok"

    async def called_by_macro(self, action: Literal["shutdown", "reboot"]) -> None:
        """There is nobody to answer to."""
        try:
            await self._act("reboot" if action == "reboot" else self._shutdown_action)
        except MoonfastError as exc:
            log.warning("A macro asked to %s the computer. %s", action, exc.message)

    async def _act(self, action: PowerAction) -> None:
        if self._is_simulated:  # somebody tries the server out, on a computer that has other work
            raise BadRequest(
                f"The printer is simulated: do '{action}' on the computer itself, or start without --simulate"
            )
        if self._is_container():
            raise BadRequest(
                f"This server runs in a container and cannot {action} the computer: do it on the computer itself"
            )
        await (await self._services.provider()).power(action)
