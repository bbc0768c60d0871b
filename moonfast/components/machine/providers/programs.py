"""What the providers have in common that run programs of the system."""

from __future__ import annotations

import asyncio
import contextlib
import time

from moonfast.components.machine.providers.base import Owner, Provider
from moonfast.errors import ApiError, BadRequest, Unavailable
from moonfast.host.shell import NOT_FOUND, TIMED_OUT, Ended

ACTION_TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 10.0
TICK_S = 1.0
PERIOD_S = 5.0
"""Between two looks, where nothing tells whether one is worth it."""
DONE = {"start": "started", "stop": "stopped", "restart": "restarted"}
GUIDE = "docs/guide/machine.md says how to allow it"
NO_RIGHTS = (
    "password is required",
    "incorrect password",
    "terminal is required",
    "not in the sudoers",
    "authentication required",
    "denied",
)
"""What sudo and systemctl say then."""


class PolledProvider(Provider):
    """Looks again and again while there are listeners, and soon after `hurry` was called."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self._wanted = asyncio.Event()

    def hurry(self) -> None:
        """Look soon: a request has changed something. Its answer goes out before."""
        self._wanted.set()

    async def look(self) -> None:
        """Find out the states of all services."""

    def is_due(self, waited_s: float) -> bool:
        """Whether to look again, so long after the last time. Asked each TICK_S."""
        return waited_s >= PERIOD_S

    async def watch(self) -> None:
        looked_at = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(TICK_S, PERIOD_S)):
                    await self._wanted.wait()
            waited_s = time.monotonic() - looked_at
            if self._wanted.is_set() or (self._owner.has_listeners() and self.is_due(waited_s)):
                self._wanted.clear()
                looked_at = time.monotonic()
                await self.look()


def refused(ended: Ended, action: str, name: str) -> ApiError:
    """Why a program could not do it."""
    what = f"Service '{name}' could not be {DONE.get(action, action)}"
    told = ended.errors.lower()
    if ended.status == NOT_FOUND:
        return Unavailable(f"{what}: a program is missing here. Choose another 'provider' in section [machine]")
    if ended.status == TIMED_OUT:
        return Unavailable(f"{what} within {ACTION_TIMEOUT_S:g} s: look at its log")
    if any(words in told for words in NO_RIGHTS):
        return Unavailable(f"{what}: this server may not do it. {GUIDE}")
    if any(word in told for word in ("not found", "not loaded", "no such process")):
        return BadRequest(f"{what}: there is no such service on this machine")
    return Unavailable(f"{what}: look at its log with journalctl -u {name}")
