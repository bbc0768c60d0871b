"""Lets apps and computers find this server in the local network, by multicast DNS and, if wanted, by SSDP.

    server listens -> for each way: announce it on all interfaces -> look every POLL_S whether addresses have changed
                   -> if so, or if it failed (then later each time): goodbye, and announce it anew

Needs the package zeroconf, about 4 MB of memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Annotated, Protocol

from moonfast.component import Component, Listening
from moonfast.components.zeroconf.interfaces import Interface, reachable
from moonfast.components.zeroconf.naming import host_label, identity
from moonfast.components.zeroconf.ssdp import Ssdp, SsdpApi
from moonfast.config.options import Option, Section
from moonfast.config.sections import ServerConfig
from moonfast.data_path import Options
from moonfast.errors import StartError

log = logging.getLogger(__name__)

POLL_S = 5.0
MAX_RETRY_S = 300.0


class ZeroconfConfig(Section, name="zeroconf"):
    mdns_hostname: Annotated[
        str | None, Option(doc="Name in the local network, without `.local`. Without it, that of the machine.")
    ] = None
    enable_ssdp: Annotated[bool, Option(doc="Be found by SSDP (UPnP), too.")] = False


class Way(Protocol):
    """One way of being found."""

    @property
    def name(self) -> str: ...

    @property
    def versions(self) -> tuple[int, ...]:
        """Of IP."""

    async def open(self, interfaces: Sequence[Interface]) -> None:
        """OSError: the system does not allow it."""

    async def close(self) -> None:
        """Also after an `open` that failed or was cancelled."""


class Discovery(Component):
    def __init__(self, config: ZeroconfConfig, server: ServerConfig, options: Options, listening: Listening) -> None:
        self._host = host_label(config.mdns_hostname)
        self._options, self._prefix, self._listening = options, server.route_prefix, listening
        self._ways: list[Way] = []
        self._failures: dict[str, str] = {}  # name of a way -> why it does not work
        self._ssdp = SsdpApi() if config.enable_ssdp else None
        if self._ssdp is not None:
            self.parts = (self._ssdp,)

    @property
    def warnings(self) -> list[str]:  # type: ignore[override]
        return list(self._failures.values())

    async def start(self) -> None:
        try:
            import zeroconf  # noqa: F401
        except ImportError:
            raise StartError("needs the package zeroconf: pip install 'moonfast[zeroconf]'") from None
        self.spawn(self._begin())

    async def stop(self) -> None:
        await asyncio.gather(*(way.close() for way in self._ways))
        self._ways.clear()

    async def _begin(self) -> None:
        from moonfast.components.zeroconf.mdns import Mdns

        await self._listening.is_complete.wait()
        own = identity(self._options.data_path, self._host, self._listening, self._prefix)
        self._ways.append(Mdns(own))
        if self._ssdp is not None:
            self._ssdp.identity = own
            self._ways.append(Ssdp(own))
        for way in self._ways:
            self.spawn(self._follow(way))

    async def _follow(self, way: Way) -> None:
        """Keep one way open on the interfaces that there are."""
        listening = {address for address, _, _ in self._listening.sockets}
        opened: list[Interface] = []
        pause = POLL_S
        while True:
            found = [item for item in reachable(listening) if item.version in way.versions]
            if found != opened:
                await way.close()
                opened = []
                try:
                    if found:
                        await way.open(found)
                except OSError as exc:
                    if way.name not in self._failures:
                        log.warning("[zeroconf] This server cannot be found by %s: %s", way.name, exc)
                    self._failures[way.name] = (
                        f"[zeroconf] This server cannot be found by {way.name}: is there a network, and is multicast "
                        "allowed in it? The log says more."
                    )
                    pause = min(pause * 2, MAX_RETRY_S)
                else:
                    opened, pause = found, POLL_S
                    self._failures.pop(way.name, None)
                    log.info("%s: %s.local, %s", way.name, self._host, ", ".join(str(item.ip) for item in found))
            await asyncio.sleep(pause)
