"""Who is served, and who a client behind proxies is."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.access.trusted import MAX_HOPS, MAX_REMEMBERED, TrustedClients, read_address

ADDRESSES = st.ip_addresses().map(str)
LOCAL = st.sampled_from(
    ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.9", "192.168.7.8", "fd00::1", "fe80::1", "169.254.1.1"]
)
NETWORKS = [
    "127.0.0.0/8",
    "::1",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fe80::/10",
    "169.254.0.0/16",
]
STRANGERS = ["203.0.113.7", "8.8.8.8", "2001:db8::1", "172.32.0.1", "192.169.0.1", "11.0.0.1", "0.0.0.0", "100.64.0.1"]


@given(st.ip_addresses())
def test_read_address_reads_what_addresses_look_like(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    is_mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    forms = [f"{address}", f" {address} "]
    forms += [f"[{address}]", f"[{address}]:80", f"{address}%eth0"] if address.version == 6 else [f"{address}:8080"]
    for form in forms:
        found = read_address(form)
        assert found is not None
        assert str(found) == (str(address) if not is_mapped else str(address.ipv4_mapped))  # type: ignore[union-attr]
    if address.version == 4:
        assert read_address(f"::ffff:{address}") == address


@given(st.text())
def test_read_address_never_raises(text: str) -> None:
    found = read_address(text)
    assert found is None or str(found)


@pytest.mark.parametrize(
    "text", ["", "x", "1.2.3", "1.2.3.4.5", "[::1", "[::1]x", "1.2.3.4:x", "_hidden", "unknown", "01.2.3.4"]
)
def test_read_address_refuses(text: str) -> None:
    assert read_address(text) is None


@given(LOCAL)
def test_only_what_is_named_is_served(text: str) -> None:
    assert TrustedClients(NETWORKS).refusal(text) is None
    assert TrustedClients().refusal(text) is not None


@pytest.mark.parametrize("text", STRANGERS)
def test_others_are_refused_and_told_what_to_do(text: str) -> None:
    reason = TrustedClients(NETWORKS).refusal(text)
    assert reason is not None
    assert text in reason
    assert "trusted_clients" in reason
    assert TrustedClients([text]).refusal(text) is None


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks(address: ipaddress.IPv4Address, bits: int, other: ipaddress.IPv4Address) -> None:
    trusted = TrustedClients([f"{address}/{bits}"])
    assert trusted.is_named(address)
    assert trusted.is_named(other) == (int(address) >> (32 - bits) == int(other) >> (32 - bits))


def test_entries_that_cannot_be_used() -> None:
    trusted = TrustedClients(["192.0.2.1", "my pc", "1.2.3.4/99", "1.2.3"])
    assert len(trusted.warnings) == 3
    assert "my pc" in trusted.warnings[0]
    assert trusted.serves("192.0.2.1")


def test_names_stand_for_the_addresses_they_have() -> None:
    trusted = TrustedClients(["My-PC.lan", "192.0.2.1"])
    assert trusted.warnings == []
    assert trusted.names == ["my-pc.lan"]
    assert not trusted.serves("203.0.113.7")
    assert trusted.resolved("my-pc.lan", ["203.0.113.7", "2001:db8::1%eth0", "junk"])
    assert trusted.serves("203.0.113.7")
    assert trusted.serves("2001:db8::1")
    assert not trusted.resolved("my-pc.lan", ["2001:db8::1", "203.0.113.7"])  # the same
    assert trusted.resolved("my-pc.lan", ["203.0.113.8"])
    assert not trusted.serves("203.0.113.7")


@given(ADDRESSES, st.none() | st.text(), st.none() | st.text())
def test_headers_of_a_stranger_say_nothing(peer: str, forwarded: str | None, real: str | None) -> None:
    trusted = TrustedClients(NETWORKS)
    if not trusted.serves(peer):
        assert trusted.client_address(peer, forwarded, real) == peer


@given(LOCAL, st.lists(LOCAL | ADDRESSES, min_size=1, max_size=MAX_HOPS))
def test_the_right_most_stranger_is_the_client(peer: str, hops: list[str]) -> None:
    trusted = TrustedClients(NETWORKS)
    client = trusted.client_address(peer, ", ".join(hops), None)
    strangers = [hop for hop in hops if not trusted.serves(hop)]
    expected = strangers[-1] if strangers else hops[0]
    assert client == str(read_address(expected))
    assert trusted.serves(client) == (not strangers)


@given(LOCAL, st.text(alphabet="0123456789abcdef:.,[]% _x"))
def test_a_forwarded_stranger_is_never_served(peer: str, junk: str) -> None:
    """Whatever a client writes into its own header, a proxy appends the client's true address."""
    trusted = TrustedClients(NETWORKS)
    assert not trusted.serves(trusted.client_address(peer, f"{junk}, 203.0.113.7", None))


def test_real_ip_and_junk() -> None:
    trusted = TrustedClients(NETWORKS)
    assert trusted.client_address("127.0.0.1", None, None) == "127.0.0.1"
    assert trusted.client_address("127.0.0.1", None, "192.168.1.9") == "192.168.1.9"
    assert trusted.client_address("127.0.0.1", "192.168.1.8", "192.168.1.9") == "192.168.1.8"
    assert trusted.client_address("127.0.0.1", "[2001:db8::1]:4711", None) == "2001:db8::1"
    for junk in ("unknown", "", "_x", ",", "192.168.1.1, unknown"):
        assert not trusted.serves(trusted.client_address("127.0.0.1", junk, None)), junk
    assert not trusted.serves(trusted.client_address("127.0.0.1", None, ""))
    assert not trusted.serves(trusted.client_address("127.0.0.1", ",".join(["10.0.0.1"] * (MAX_HOPS + 1)), None))


def test_memory_is_bounded() -> None:
    trusted = TrustedClients(NETWORKS)
    for number in range(3 * MAX_REMEMBERED):
        trusted.refusal(f"8.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(trusted._remembered) <= MAX_REMEMBERED
