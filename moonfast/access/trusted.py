"""Which addresses are served, and which address a request really comes from.

Until there are users and logins, only this machine and private networks are served.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REMEMBERED = 1000
"""Addresses whose standing is kept, so that it is not worked out for each request."""


def parse(text: str) -> Address | None:
    """Read an address; IPv4 in an IPv6 address counts as IPv4. None: it is none."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class TrustedClients:
    """`[authorization] trusted_clients`: addresses and networks. Domain names in it are not resolved yet."""

    def __init__(self, trusted_clients: Iterable[str] = ()) -> None:
        self._networks: list[Network] = []
        self.warnings: list[str] = []
        for text in trusted_clients:
            try:
                self._networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                self.warnings.append(
                    f"[authorization] trusted_clients: '{text}' is neither an address nor a network; names are not "
                    "supported by this version yet. Write its address."
                )
        self._refusals: dict[str, str | None] = {}

    def is_named(self, address: Address | None) -> bool:
        """Whether the configuration names this address, or its network."""
        return address is not None and any(address in network for network in self._networks)

    def refusal(self, text: str) -> str | None:
        """Why an address is not served; None if it is."""
        if text not in self._refusals:
            if len(self._refusals) >= MAX_REMEMBERED:
                self._refusals.clear()
            address = parse(text)
            is_near = address is not None and (address.is_loopback or address.is_private or address.is_link_local)
            self._refusals[text] = (
                None
                if is_near or self.is_named(address)
                else "this address is not served: only this machine, private networks and trusted_clients are"
            )
        return self._refusals[text]

    def client_of(self, peer: str, forwarded: str | None, real_ip: str | None) -> str:
        """The client's address behind proxies: the right-most one that the configuration does not name.

        `forwarded` is X-Forwarded-For, `real_ip` X-Real-IP; they count only if the peer itself is named.
        """
        if not self.is_named(parse(peer)):
            return peer
        if forwarded is not None:
            hops = [hop.strip() for hop in forwarded.split(",")]
            for hop in reversed(hops):
                address = parse(hop)
                if address is None:
                    return peer  # a header that cannot be trusted at all
                if not self.is_named(address):
                    return str(address)
            return str(parse(hops[0]) or peer)
        if real_ip is not None and (address := parse(real_ip)) is not None:
            return str(address)
        return peer
