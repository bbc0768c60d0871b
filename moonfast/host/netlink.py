"""Network interfaces and their addresses, as the kernel tells them over a netlink socket (rtnetlink(7))."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

RTM_GETLINK, RTM_GETADDR = 18, 22
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_TXQLEN, _IFLA_LINKINFO = 1, 3, 13, 18
_IFLA_INFO_DATA, _IFLA_CAN_BITTIMING = 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")
_NEST_MASK = 0x3FFF
MAX_ANSWER = 1 << 20
TIMEOUT_S = 1.0


class Link(NamedTuple):
    """One interface. `kind` is its ARPHRD number (linux/if_arp.h): 1 Ethernet, 280 CAN. Bits a second, 0 if unknown."""

    name: str
    kind: int
    mac_address: str
    queue_length: int
    can_bitrate: int
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]


def links() -> list[Link]:
    """All interfaces with their addresses; none where the kernel does not tell."""
    found: dict[int, Link] = {}
    try:
        for body in _dump(RTM_GETLINK):
            _, kind, index, _, _ = _LINK.unpack_from(body)
            attributes = dict(_attributes(body[_LINK.size :]))
            data = dict(_attributes(dict(_attributes(attributes.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_DATA, b"")))
            timing = data.get(_IFLA_CAN_BITTIMING, b"") if kind == 280 else b""
            found[index] = Link(
                attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
                kind,
                attributes.get(_IFLA_ADDRESS, b"").hex(":"),
                int.from_bytes(attributes.get(_IFLA_TXQLEN, b""), "little"),
                int.from_bytes(timing[:4], "little"),
                [],
            )
        for body in _dump(RTM_GETADDR):
            *_, index = _ADDRESS.unpack_from(body)
            attributes = dict(_attributes(body[_ADDRESS.size :]))
            raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if raw is not None and index in found:
                found[index].addresses.append(ipaddress.ip_address(raw))
    except (OSError, struct.error, ValueError):
        return []
    return list(found.values())


def _dump(kind: int) -> Iterator[bytes]:
    """The bodies of all answers to a request for everything."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.settimeout(TIMEOUT_S)
        body = _LINK.pack(0, 0, 0, 0, 0)
        sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        while True:
            data = sock.recv(MAX_ANSWER)
            while data:
                length, answer, *_ = _HEADER.unpack_from(data)
                if answer in (_NLMSG_DONE, _NLMSG_ERROR) or length < _HEADER.size:
                    return
                yield data[_HEADER.size : length]
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NEST_MASK, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
