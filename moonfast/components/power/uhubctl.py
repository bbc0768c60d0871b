"""A port of a USB hub, switched by the program uhubctl, which has to be installed and allowed to do it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Annotated

from moonfast.components.power.device import OFF, ON, DeviceError, Parts, PowerConfig
from moonfast.config.options import Option

TIMEOUT_S = 10.0
_PORT = re.compile(r"^\s*Port\s+(\d+):\s+([0-9a-fA-F]{4})\b(.*)$", re.MULTILINE)


class UhubctlConfig(PowerConfig, prefix="power", type="uhubctl"):
    """A port of a USB hub with power switching."""

    location: Annotated[str, Option(doc="The hub, as uhubctl shows it: `1-1`.")]
    port: Annotated[str, Option(doc="Number of the port.")]


class Uhubctl:
    def __init__(self, config: UhubctlConfig, parts: Parts) -> None:
        self._location, self._port = config.location, config.port

    async def start(self, changed: Callable[[str], None]) -> None:
        """Nothing is to be prepared."""

    async def stop(self) -> None:
        """Nothing is left open."""

    async def read(self) -> str:
        return self._state(await self._run())

    async def write(self, state: str) -> str:
        return self._state(await self._run("-a", state))

    def _state(self, text: str) -> str:
        """The last word counts: after a command it shows the port before and after."""
        found = [rest for number, _, rest in _PORT.findall(text) if number == self._port]
        if not found:
            raise DeviceError(f"uhubctl does not know port {self._port} of hub {self._location}")
        words = found[-1].split()
        return ON if "power" in words else OFF

    async def _run(self, *more: str) -> str:
        command = ("uhubctl", "-l", self._location, "-p", self._port, *more)
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=asyncio.subprocess.STDOUT
            )
        except FileNotFoundError:
            raise DeviceError("the program uhubctl is not installed: apt install uhubctl") from None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode != 0:
            raise DeviceError("uhubctl failed: " + output.decode("utf-8", "replace").strip()[:200])
        return output.decode("utf-8", "replace")
