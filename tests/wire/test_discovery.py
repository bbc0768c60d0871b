"""Being found in the network: a real browser of mDNS, real sockets of SSDP, all of it on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import EventLoopBlocked, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from moonfast.components.zeroconf import discovery, ssdp
from moonfast.components.zeroconf.discovery import Discovery
from moonfast.components.zeroconf.interfaces import Interface, reachable
from moonfast.components.zeroconf.mdns import SERVICE, Mdns
from moonfast.components.zeroconf.naming import Identity, host_label
from moonfast.components.zeroconf.ssdp import DEVICE, GROUP, PORT, Ssdp, read_search
from moonfast.errors import StartError
from moonfast.version import MOONRAKER_VERSION
from tests.wire.running import Running, restarted, running, until

LOOPBACK = "127.0.0.1"
MDNS = "[zeroconf]\nmdns_hostname: my-printer\n"
BOTH = MDNS + "enable_ssdp: True\n"
UUID = "0123456789abcdef0123456789abcdef"
UDN = "uuid:01234567-89ab-cdef-0123-456789abcdef"


def multicast_works() -> bool:
    """Whether what is sent to a group on the loopback interface arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        try:
            listener.bind((GROUP, 0))
            listener.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(LOOPBACK)
            )
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
            listener.settimeout(2.0)
            listener.sendto(b"x", listener.getsockname())
            return listener.recv(10) == b"x"
        except OSError:
            return False


needs_multicast = pytest.mark.skipif(not multicast_works(), reason="no multicast on the loopback interface")


# mDNS


class Browser:
    """What a browser of the service has seen."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.changes: list[str] = []
        self._zeroconf = AsyncZeroconf(interfaces=[LOOPBACK])
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._changed])

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        self.changes.append(state_change.name)
        if state_change is ServiceStateChange.Removed:
            self.names.discard(name)
        else:
            self.names.add(name)

    async def info(self) -> AsyncServiceInfo:
        """Everything about the one service that there is, asked for anew."""
        await until(lambda: self.names)
        (name,) = self.names
        info = AsyncServiceInfo(SERVICE, name)
        assert await info.async_request(self._zeroconf.zeroconf, 5000)
        return info

    async def close(self) -> None:
        await self._browser.async_cancel()
        await self._zeroconf.async_close()


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    found = Browser()
    try:
        yield found
    finally:
        await found.close()


def name_it(served: Running) -> None:
    Path(served.data_path, ".moonraker.uuid").write_text(UUID)


@needs_multicast
async def test_a_browser_finds_it_and_sees_it_go() -> None:
    async with browser() as network:
        async with running(MDNS) as served:
            name_it(served)
            async with restarted(served) as again:
                await until(lambda: any(UUID[:8] in name for name in network.names))
                await until(lambda: len(network.names) == 1)
                info = await network.info()
                assert info.name == f"Moonraker-01234567 @ my-printer.{SERVICE}"
                assert info.server == "my-printer.local."
                assert (info.port, info.parsed_addresses()) == (again.port, [LOOPBACK])
                assert info.decoded_properties == {
                    "uuid": UUID,
                    "https_port": "",
                    "version": MOONRAKER_VERSION,
                    "route_prefix": "",
                }
        await until(lambda: not network.names)
        assert network.changes[-1] == "Removed"


@needs_multicast
async def test_addresses_change(monkeypatch: pytest.MonkeyPatch) -> None:
    present: list[Interface] = []
    monkeypatch.setattr(discovery, "POLL_S", 0.02)
    monkeypatch.setattr(discovery, "reachable", lambda listening: list(present))
    async with browser() as network, running(BOTH) as served:
        await asyncio.sleep(0.1)
        assert not network.names  # there is no network yet
        present.append(ip_interface("127.0.0.1/8"))
        assert (await network.info()).parsed_addresses() == [LOOPBACK]
        present.append(ip_interface("127.0.0.2/8"))
        async with asyncio.timeout(10):
            while sorted((await network.info()).parsed_addresses()) != [LOOPBACK, "127.0.0.2"]:
                await asyncio.sleep(0.05)
        present.clear()
        await until(lambda: not network.names)
        client = await served.client()
        assert (await client.call("server.info"))["warnings"] == []


async def test_it_is_said_when_it_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def open(self: Mdns, interfaces: Sequence[Interface]) -> None:
        tries.append(list(interfaces))
        if len(tries) < 3:
            raise OSError(19, "No such device")

    monkeypatch.setattr(Mdns, "open", open)
    monkeypatch.setattr(discovery, "POLL_S", 0.05)
    async with running(MDNS) as served:
        client = await served.client()
        await until(lambda: len(tries) == 2)
        info = await client.call("server.info")
        (warning,) = info["warnings"]
        assert "cannot be found by mDNS" in warning
        assert "Errno" not in warning
        assert "zeroconf" in info["components"]
        await until(lambda: len(tries) == 3)
        await asyncio.sleep(0.2)
        assert len(tries) == 3  # it is open now
        assert (await client.call("server.info"))["warnings"] == []


@needs_multicast
async def test_what_the_package_raises_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register, tries = AsyncZeroconf.async_register_service, []

    async def fail_once(self: AsyncZeroconf, *arguments: Any, **options: Any) -> Any:
        tries.append(self)
        if len(tries) == 1:
            raise EventLoopBlocked
        return await register(self, *arguments, **options)

    monkeypatch.setattr(AsyncZeroconf, "async_register_service", fail_once)
    monkeypatch.setattr(discovery, "POLL_S", 0.05)
    async with browser() as network, running(MDNS):
        assert (await network.info()).parsed_addresses() == [LOOPBACK]
        assert len(tries) == 2
    assert "EventLoopBlocked" in caplog.text


async def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    async with running(MDNS) as served:
        assert "zeroconf" in (await (await served.client()).call("server.info"))["failed_components"]
        assert "pip install 'moonfast[zeroconf]'" in served.server.components.failed["zeroconf"]


def test_host_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_label("printer") == host_label("printer.local") == host_label("printer.local.") == "printer"
    for wrong in ("my printer", "-a", "a-", "a.b", "ä", "x" * 64, "<b>"):
        with pytest.raises(StartError, match="mdns_hostname"):
            host_label(wrong)
    for own, label in (("voron.lan", "voron"), ("my_printer", "my-printer"), ("-", "moonraker"), ("x" * 64, "x" * 63)):
        monkeypatch.setattr(socket, "gethostname", lambda own=own: own)
        assert host_label(None) == label


def test_which_addresses() -> None:
    assert [str(item) for item in reachable({LOOPBACK})] == ["127.0.0.1/8"]
    assert reachable({"192.0.2.99"}) == []
    everything = reachable({"0.0.0.0", "::"})
    assert not any(item.is_loopback for item in everything)
    assert {item.version for item in reachable({"0.0.0.0"})} <= {4}
    assert {item.version for item in reachable({"::"})} <= {6}


# SSDP


def search(target: str, wait: str = "0", man: str = '"ssdp:discover"') -> bytes:
    return f"M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{PORT}\r\nMAN: {man}\r\nMX: {wait}\r\nST: {target}\r\n\r\n".encode()


def headers(data: bytes) -> dict[str, str]:
    lines = data.decode().split("\r\n")
    assert lines[-2:] == ["", ""]
    return {"": lines[0]} | {name: value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}


class Point(asyncio.DatagramProtocol):
    """A control point, or one that listens to the group."""

    def __init__(self) -> None:
        self.received: list[dict[str, str]] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        if not data.startswith(b"M-SEARCH"):
            self.received.append(headers(data))

    def ask(self, data: bytes) -> None:
        self.transport.sendto(data, (GROUP, PORT))

    async def answers(self, data: bytes, count: int) -> list[dict[str, str]]:
        self.received.clear()
        self.ask(data)
        await until(lambda: len(self.received) >= count)
        await asyncio.sleep(0.1)
        assert len(self.received) == count
        return list(self.received)


@contextlib.asynccontextmanager
async def point(listens: bool = False) -> AsyncIterator[Point]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
    if listens:
        sock.bind((GROUP, PORT))
        membership = socket.inet_aton(GROUP) + socket.inet_aton(LOOPBACK)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    else:
        sock.bind((LOOPBACK, 0))
    transport, made = await asyncio.get_running_loop().create_datagram_endpoint(Point, sock=sock)
    try:
        yield made
    finally:
        transport.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def found(text: str = BOTH) -> AsyncIterator[Running]:
    """A server with a known name that answers searches."""
    async with running(text) as served:
        name_it(served)
        async with restarted(served) as again:
            component = again.server.components.find(Discovery)
            assert component is not None
            await until(lambda: any(isinstance(way, Ssdp) and way._sock is not None for way in component._ways))
            yield again


@needs_multicast
async def test_a_search_leads_to_the_description() -> None:
    async with found(BOTH + "[server]\nroute_prefix: /one\n") as served, point() as client:
        every = await client.answers(search("ssdp:all"), 3)
        assert {item["ST"]: item["USN"] for item in every} == {
            "upnp:rootdevice": f"{UDN}::upnp:rootdevice",
            UDN: UDN,
            DEVICE: f"{UDN}::{DEVICE}",
        }
        for item in every:
            assert item[""] == "HTTP/1.1 200 OK"
            assert item["LOCATION"] == f"http://{LOOPBACK}:{served.port}/one/server/zeroconf/ssdp"
            assert (item["EXT"], item["CACHE-CONTROL"]) == ("", "max-age=1800")
            assert "UPnP/2.0" in item["SERVER"]
            assert int(item["BOOTID.UPNP.ORG"]) > 0
        for target in ("upnp:rootdevice", UDN, DEVICE):
            assert [item["ST"] for item in await client.answers(search(target), 1)] == [target]
        for nothing in (
            search("urn:schemas-upnp-org:device:Basic:1"),
            search(f"uuid:{'0' * 32}"),
            search("upnp:rootdevice", man="ssdp:discover"),
            search("upnp:rootdevice", wait="soon"),
            search("upnp:rootdevice").replace(b"M-SEARCH", b"GET"),
            b"",
            b"\xff" * 5000,
        ):
            await client.answers(nothing, 0)
        assert len(await client.answers(search("upnp:rootdevice"), 1)) == 1  # it has taken all that

        reader, writer = await asyncio.open_connection(LOOPBACK, served.port)
        writer.write(b"GET /one/server/zeroconf/ssdp HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, text = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert b"Content-Type: application/xml" in head
        device = ElementTree.fromstring(text).find("{*}device")
        assert device is not None
        values = {item.tag.partition("}")[2]: item.text for item in device}
        assert (values["UDN"], values["deviceType"], values["serialNumber"]) == (UDN, DEVICE, UUID)
        assert values["friendlyName"] == "Moonraker-01234567 (my-printer)"
        assert values["presentationURL"] == f"http://my-printer.local:{served.port}/one"
        assert values["modelNumber"] == MOONRAKER_VERSION


async def test_the_description_is_for_everybody() -> None:
    """Who searches has no login."""
    text = BOTH + "[authorization]\ntrusted_clients:\n    127.0.0.9\n"
    async with running(text) as served:
        reader, writer = await asyncio.open_connection(LOOPBACK, served.port)
        for path, status in ((b"/server/info", b"401"), (b"/server/zeroconf/ssdp", b"200")):
            writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == status
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(int(length.split()[1]))
        writer.close()
        await writer.wait_closed()


async def test_without_the_option_there_is_none() -> None:
    async with running(MDNS) as served:
        assert (await served.http("GET", "/server/zeroconf/ssdp"))[0] == 404


@needs_multicast
async def test_it_tells_when_it_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdp, "REPEAT_S", 0.05)
    monkeypatch.setattr(ssdp, "NOTIFY_PERIOD_S", 0.1)

    def of(what: str) -> list[dict[str, str]]:
        return [item for item in listener.received if item["NTS"] == what and UDN in item["USN"]]

    async with point(listens=True) as listener:
        async with found() as served:
            await until(lambda: len(of("ssdp:alive")) >= 12)  # again and again
            assert not of("ssdp:byebye")
            for item in of("ssdp:alive"):
                assert item[""] == "NOTIFY * HTTP/1.1"
                assert item["HOST"] == f"{GROUP}:{PORT}"
                assert item["LOCATION"] == f"http://{LOOPBACK}:{served.port}/server/zeroconf/ssdp"
            assert {item["NT"] for item in of("ssdp:alive")} == {"upnp:rootdevice", UDN, DEVICE}
        await until(lambda: len(of("ssdp:byebye")) == 3)
        assert {item["NT"] for item in of("ssdp:byebye")} == {"upnp:rootdevice", UDN, DEVICE}
        assert listener.received[-1]["NTS"] == "ssdp:byebye"
        listener.received.clear()
        await asyncio.sleep(0.3)
        assert listener.received == []


@needs_multicast
async def test_one_answer_at_a_time_and_not_for_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssdp, "MAX_WAITING", 3)
    async with found() as served, point() as client:
        component = served.server.components.find(Discovery)
        assert component is not None
        way = next(way for way in component._ways if isinstance(way, Ssdp))
        for _ in range(5):  # control points repeat their questions
            client.ask(search("upnp:rootdevice", wait="1"))
        await until(lambda: client.received)
        await asyncio.sleep(0.2)
        assert len(client.received) == 1
        for source in (("203.0.113.9", 1), ("10.0.0.1", 1), ("not an address", 1), ("::1", 1)):
            way._received(search("upnp:rootdevice", wait="9999"), source)
            assert not way._waiting
        for port in range(1, 10):
            way._received(search("upnp:rootdevice", wait="9999"), (LOOPBACK, port))
        now = asyncio.get_running_loop().time()
        assert len(way._waiting) == 3
        assert max(handle.when() for handle in way._waiting.values()) <= now + ssdp.MAX_DELAY_S


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: search("ssdp:all")[:-20] + tail))
def test_any_datagram(data: bytes) -> None:
    result = read_search(data)
    assert result is None or (isinstance(result[0], str) and 0 <= result[1] < 10_000)


async def test_a_failed_opening_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from uuid import UUID as Uuid

    way = Ssdp(Identity(Uuid(UUID), "x", 7125, None, ""))
    with pytest.raises(OSError):
        await way.open([ip_interface("192.0.2.77/24")])  # not an address of this machine
    await way.close()
    await way.close()
    assert way._sock is None


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@needs_multicast
@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.3, 0.8, 1.5])
async def test_a_stop_at_any_moment(moment_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is announced, and while it says goodbye because the network went."""
    monkeypatch.setattr(discovery, "POLL_S", 0.05)
    present = [ip_interface("127.0.0.1/8")]
    monkeypatch.setattr(discovery, "reachable", lambda listening: list(present))
    before = open_sockets()
    async with running(BOTH) as served:
        await asyncio.sleep(moment_s)
        present.clear()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await served.server.components.stop()
        assert time.monotonic() - began < 1.5
    async with asyncio.timeout(5):
        while open_sockets() > before:
            await asyncio.sleep(0.01)
