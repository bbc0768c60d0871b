"""Answers to searches of UPnP, and the description that they lead to.

Source: UPnP Device Architecture 2.0, sections 1.2 (advertisement), 1.3 (search) and 2.3 (description). Answers are
larger than questions, so only machines in a network of this one get any, and each only one at a time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import time
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Interface

from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import endpoint
from moonfast.components.zeroconf.interfaces import Interface
from moonfast.components.zeroconf.naming import Identity
from moonfast.version import MOONFAST_VERSION
from moonfast.vocab import GET, Access, Transport

log = logging.getLogger(__name__)

GROUP, PORT = "239.255.255.250", 1900
DEVICE = "urn:arksine.github.io:device:Moonraker:1"
"""What clients look for."""
MAX_AGE_S = 1800
NOTIFY_PERIOD_S = 600.0
"""Well below half of MAX_AGE_S, as the source demands."""
REPEAT_S = 1.0
"""The first message is sent once more after this: datagrams get lost."""
MAX_DELAY_S = 5
"""A client may ask for a delay up to this, so that not all devices answer at once."""
MAX_WAITING = 100
"""Answers that wait for their time."""
MAX_DATAGRAM_BYTES = 2048
READS_AT_ONCE = 20
IP_MULTICAST_ALL = 49
"""Of Linux; the socket module has no name for it. 0: only what comes over the interfaces of this socket."""
SERVER = f"Linux/{os.uname().release.partition('-')[0]} UPnP/2.0 moonfast/{MOONFAST_VERSION}"

Source = tuple[str, int]

_DESCRIPTION = """\
<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0" configId="1">
    <specVersion>
        <major>2</major>
        <minor>0</minor>
    </specVersion>
    <device>
        <deviceType>{device}</deviceType>
        <friendlyName>{name} ({host})</friendlyName>
        <manufacturer>moonfast</manufacturer>
        <modelDescription>API Server for Klipper</modelDescription>
        <modelName>Moonraker</modelName>
        <modelNumber>{version}</modelNumber>
        <serialNumber>{serial}</serialNumber>
        <UDN>uuid:{uuid}</UDN>
        <presentationURL>http://{host}.local:{port}{prefix}</presentationURL>
    </device>
</root>
"""


class SsdpApi:
    def __init__(self) -> None:
        self.identity: Identity | None = None  # None: the server does not listen yet

    @endpoint(GET, "/server/zeroconf/ssdp", transports=Transport.HTTP, access=Access.OPEN, is_wrapped=False)
    def description(self, call: Call) -> HttpAnswer:
        """Return the UPnP description of this server, as XML: its name, version and address."""
        identity = self.identity
        assert identity is not None  # requests come when the server listens
        text = _DESCRIPTION.format(
            device=DEVICE,
            name=identity.short_name,
            host=identity.host,
            version=_escaped(identity.version),
            serial=identity.uuid.hex,
            uuid=identity.uuid,
            port=identity.port,
            prefix=_escaped(identity.prefix),
        )
        return HttpAnswer(text.encode(), content_type="application/xml")


class Ssdp:
    name = "SSDP"
    versions = (4,)

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        device = f"uuid:{identity.uuid}"
        self._targets = {"upnp:rootdevice": f"{device}::upnp:rootdevice", device: device, DEVICE: f"{device}::{DEVICE}"}
        self._boot_id = int(time.time())
        self._sock: socket.socket | None = None
        self._interfaces: list[IPv4Interface] = []
        self._waiting: dict[tuple[Source, str], asyncio.TimerHandle] = {}  # who asked for what -> the answer to it
        self._notifying: asyncio.TimerHandle | None = None

    async def open(self, interfaces: Sequence[Interface]) -> None:
        """Announce this server on these interfaces, and answer from now on. OSError: the system does not allow it."""
        self._interfaces = [item for item in interfaces if isinstance(item, IPv4Interface)]
        self._sock = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # others on this machine do SSDP, too
        sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
        sock.bind(("", PORT))
        for interface in self._interfaces:
            membership = socket.inet_aton(GROUP) + interface.ip.packed
            try:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:  # two addresses of one interface
                    raise
        asyncio.get_running_loop().add_reader(sock, self._readable, sock)
        self._notify_again(REPEAT_S)

    async def close(self) -> None:
        """Say goodbye, if something was announced."""
        if self._notifying is not None:
            self._notifying.cancel()
            self._notifying = None
            self._notify("byebye")
        for handle in self._waiting.values():
            handle.cancel()
        self._waiting.clear()
        sock, self._sock = self._sock, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()

    # advertisement

    def _notify_again(self, pause_s: float) -> None:
        self._notify("alive")
        loop = asyncio.get_running_loop()
        self._notifying = loop.call_later(pause_s, self._notify_again, NOTIFY_PERIOD_S)

    def _notify(self, what: str) -> None:
        assert self._sock is not None
        for interface in self._interfaces:
            try:
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface.ip.packed)
            except OSError:  # the interface went away; `open` is called without it soon
                continue
            for target, name in self._targets.items():
                lines = [f"HOST: {GROUP}:{PORT}", f"NT: {target}", f"NTS: ssdp:{what}", f"USN: {name}"]
                if what == "alive":
                    lines += self._about(interface)
                self._send("NOTIFY * HTTP/1.1", [*lines, *self._ids()], (GROUP, PORT))

    def _about(self, interface: IPv4Interface) -> list[str]:
        """Lines about this server for those who reach it over an interface."""
        identity = self._identity
        location = f"http://{interface.ip}:{identity.port}{identity.prefix}/server/zeroconf/ssdp"
        return [f"LOCATION: {location}", f"CACHE-CONTROL: max-age={MAX_AGE_S}", f"SERVER: {SERVER}"]

    def _ids(self) -> list[str]:
        return [f"BOOTID.UPNP.ORG: {self._boot_id}", "CONFIGID.UPNP.ORG: 1"]

    def _send(self, first: str, lines: list[str], target: Source) -> None:
        if self._sock is None:
            return
        try:
            self._sock.sendto("\r\n".join((first, *lines, "", "")).encode(), target)
        except OSError as exc:
            log.debug("A message of SSDP could not be sent to %s: %s", target[0], exc)

    # search

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                data, source = sock.recvfrom(MAX_DATAGRAM_BYTES)
            except OSError:  # nothing more, or the answer to something sent earlier
                return
            self._received(data, source)

    def _received(self, data: bytes, source: Source) -> None:
        found = read_search(data)
        interface = self._facing(source[0])
        if found is None or interface is None:
            return
        wanted, delay = found
        targets = [item for item in self._targets if wanted in ("ssdp:all", item)]
        if targets and (source, wanted) not in self._waiting and len(self._waiting) < MAX_WAITING:
            delay = random.uniform(0, min(delay, MAX_DELAY_S))
            handle = asyncio.get_running_loop().call_later(delay, self._answer, source, wanted, targets, interface)
            self._waiting[source, wanted] = handle

    def _facing(self, address: str) -> IPv4Interface | None:
        """The interface in whose network a machine is."""
        try:
            found = IPv4Address(address)
        except AddressValueError:
            return None
        return next((item for item in self._interfaces if found in item.network), None)

    def _answer(self, source: Source, wanted: str, targets: list[str], interface: IPv4Interface) -> None:
        del self._waiting[source, wanted]
        for target in targets:
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
            lines = [f"ST: {target}", f"USN: {self._targets[target]}", "EXT:", f"DATE: {date}"]
            self._send("HTTP/1.1 200 OK", [*lines, *self._about(interface), *self._ids()], source)


def read_search(data: bytes) -> tuple[str, float] | None:
    """What a search is for, and within how many seconds the answer is wanted; None: it is not a search."""
    first, *lines = data.decode("utf-8", "replace").split("\r\n")
    if first.split() != ["M-SEARCH", "*", "HTTP/1.1"]:
        return None
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    wait = headers.get("mx", "0")
    if headers.get("man") != '"ssdp:discover"' or not (wait.isascii() and wait.isdigit()) or len(wait) > 4:
        return None
    return headers.get("st", ""), float(wait)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
