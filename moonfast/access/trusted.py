"""Which addresses are served without a login, and whose address it is behind a proxy.

Only addresses count here, never what a request says about itself: a forwarding header is believed only if it comes from
an address that is trusted already.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOPS = 20
"""Proxies looked at behind one another; a longer X-Forwarded-For is nobody's."""
MAX_REMEMBERED = 1024
"""Addresses whose answer is kept; then all are forgotten and looked up again."""

_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?")

_ADDRESS_REFUSED = (
    "{} is not a trusted address: add it, or its network, to trusted_clients in the section [authorization]"
)
_FORWARDED_REFUSED = "a proxy sent a forwarding header that names no IP address: correct its X-Forwarded-For"


def read_address(text: str) -> Address | None:
    """Read an IP address as sockets, URLs and forwarding headers write it; None if it is none.

    A port, brackets and the zone of a link-local address are dropped; IPv4 inside IPv6 becomes IPv4.
    """
    text = text.strip()
    if text.startswith("["):
        text, closed, rest = text[1:].partition("]")
        if not closed or (rest and not (rest[0] == ":" and rest[1:].isdecimal())):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class TrustedClients:
    """Says whether an address is served: one that `trusted_clients` names.

    An entry is an address, a network, which may be written with any address in it, 192.168.1.5/24, or the name of a
    machine: it stands for the addresses that `resolved` was last told. Entries that cannot be used are in `warnings`,
    each as a sentence for the user.
    """

    def __init__(self, trusted_clients: Iterable[str] = ()) -> None:
        self.warnings: list[str] = []
        self._named: list[Network] = []
        self._of_names: dict[str, frozenset[Address]] = {}
        for entry in trusted_clients:
            try:
                self._named.append(ipaddress.ip_network(entry.strip(), strict=False))
            except ValueError:
                if _NAME.fullmatch(entry.strip()):
                    self._of_names[entry.strip().lower()] = frozenset()
                else:
                    self.warnings.append(
                        f"[authorization] trusted_clients: '{entry}' is neither an address, a network nor a name. "
                        "Write for instance 192.168.1.0/24."
                    )
        self._remembered: dict[str, str | None] = {}

    @property
    def names(self) -> list[str]:
        """The names of machines among the entries, whose addresses somebody has to find."""
        return list(self._of_names)

    def resolved(self, name: str, addresses: Iterable[str]) -> bool:
        """Take the present addresses of a name; whether they are other ones than before."""
        found = frozenset(address for text in addresses if (address := read_address(text)) is not None)
        if found == self._of_names[name]:
            return False
        self._of_names[name] = found
        self._remembered.clear()
        return True

    def is_named(self, address: Address) -> bool:
        """Whether the configuration names this address, or its network."""
        if any(address in network for network in self._named):
            return True
        return any(address in found for found in self._of_names.values())

    def serves(self, text: str) -> bool:
        """The same of an address as text; a text that is no address is not served."""
        return self.refusal(text) is None

    def refusal(self, address: str) -> str | None:
        """Why a client of this address may use only what is open to anyone; None: it may use all."""
        try:
            return self._remembered[address]
        except KeyError:
            pass
        read = read_address(address)
        if read is None:
            reason: str | None = _FORWARDED_REFUSED
        else:
            reason = None if self.is_named(read) else _ADDRESS_REFUSED.format(read)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[address] = reason
        return reason

    def client_address(self, peer: str, forwarded_for: str | None, real_ip: str | None) -> str:
        """Find the client behind proxies: the right-most hop that is not served by itself, the left-most if all are.

        The headers count only if `peer`, the other end of the TCP connection, is served itself: a proxy on this
        machine needs no entry, or all the world behind it would count as this machine. The result is an address in its
        usual form, or, where a proxy says something that is none, what it said: nobody serves that.
        """
        if (forwarded_for is None and real_ip is None) or not self.serves(peer):
            return peer
        hops = [real_ip or ""] if forwarded_for is None else forwarded_for.split(",")
        if len(hops) > MAX_HOPS:
            return "a chain of too many proxies"
        client = peer
        for hop in reversed(hops):
            address = read_address(hop)
            if address is None:
                return hop.strip() or "an empty forwarding header"
            client = str(address)
            if not self.is_named(address):
                break
        return client
