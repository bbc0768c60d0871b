"""At which addresses other machines reach this server."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

Interface = IPv4Interface | IPv6Interface
"""An address of this machine and the network behind it."""

EVERYTHING = {4: "0.0.0.0", 6: "::"}


def reachable(listening: Collection[str]) -> list[Interface]:
    """The addresses of this machine that the server listens at; of all of them, those that others can use."""
    import ifaddr  # comes with zeroconf

    found = []
    for adapter in ifaddr.get_adapters():
        for item in adapter.ips:
            text = item.ip if isinstance(item.ip, str) else item.ip[0]
            interface = ip_interface(f"{text}/{item.network_prefix}")
            is_for_others = not interface.is_loopback and not (interface.version == 6 and interface.is_link_local)
            if text in listening or (is_for_others and EVERYTHING[interface.version] in listening):
                found.append(interface)
    return sorted(set(found), key=lambda item: (item.version, item))
