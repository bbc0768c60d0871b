"""The service `_moonraker._tcp` in DNS-SD over multicast DNS (RFC 6762, RFC 6763).

Names and properties are those that Moonraker announces: apps look for them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moonfast.components.zeroconf.interfaces import Interface
from moonfast.components.zeroconf.naming import Identity

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncZeroconf

SERVICE = "_moonraker._tcp.local."
MAX_LABEL_BYTES = 63


class Mdns:
    name = "mDNS"
    versions = (4, 6)

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._responder: AsyncZeroconf | None = None

    async def open(self, interfaces: Sequence[Interface]) -> None:
        """Announce the service on these interfaces, and answer from now on. OSError: the system does not allow it."""
        from zeroconf import Error, IPVersion
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

        logging.getLogger("zeroconf").setLevel(logging.ERROR)  # it warns, with a traceback, when an interface goes away
        identity = self._identity
        addresses = [str(item.ip) for item in interfaces]
        versions = {item.version for item in interfaces}
        ip_version = IPVersion.All if len(versions) > 1 else IPVersion.V4Only if 4 in versions else IPVersion.V6Only
        label = f"{identity.short_name} @ {identity.host}"[:MAX_LABEL_BYTES]
        info = AsyncServiceInfo(
            SERVICE,
            f"{label}.{SERVICE}",
            port=identity.port,
            parsed_addresses=addresses,
            server=f"{identity.host}.local.",
            properties={
                "uuid": identity.uuid.hex,
                "https_port": str(identity.https_port or ""),
                "version": identity.version,
                "route_prefix": identity.prefix,
            },
        )
        self._responder = AsyncZeroconf(interfaces=addresses, ip_version=ip_version)
        try:
            await (await self._responder.async_register_service(info, allow_name_change=True))
        except Error as exc:  # its loop did not get its turn in time, for instance
            raise OSError(f"the package zeroconf says {type(exc).__name__} {exc}") from exc

    async def close(self) -> None:
        """Say goodbye, if something was announced."""
        if self._responder is not None:
            await self._responder.async_close()
            self._responder = None  # not before: this may be cancelled, and then is called again
