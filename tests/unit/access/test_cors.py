"""Whose pages may drive the printer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.access.cors import LOCAL_SUFFIXES, MAX_REMEMBERED, OriginRule, host_name, read_origin
from moonfast.access.trusted import TrustedClients, read_address

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


def rule(*domains: str, trusted: tuple[str, ...] = (), own_names: tuple[str, ...] = ()) -> OriginRule:
    return OriginRule(domains, TrustedClients(trusted), own_names)


# as Moonraker 0.11.0 answers to the same rules
RULES = (
    "*.local",
    "http://*.allowed.test",
    "*://my.mainsail.xyz",
    "http://*.lan:*",
    "http://exact.test:8080",
    "[fd00::1]",
)


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://a.local", True),
        ("https://a.local", True),
        ("HTTP://A.LOCAL", True),
        ("http://a.b.local", True),
        ("http://a.local:80", True),
        ("http://a.local:8080", False),
        ("http://local", False),
        ("http://a.local.evil.test", False),
        ("http://alocal", False),
        ("http://b.allowed.test", True),
        ("https://b.allowed.test", False),
        ("http://allowed.test", False),
        ("http://evil-allowed.test", False),
        ("http://b.allowed.test.evil.test", False),
        ("http://evil.test/.allowed.test", False),
        ("http://evil.test#.allowed.test", False),
        ("http://evil.test?.allowed.test", False),
        ("http://evil.test\\.allowed.test", False),
        ("http://u@b.allowed.test", False),
        ("http://b.allowed.test@evil.test", False),
        ("http://evil.test:80.allowed.test", False),
        ("http://b.allowed.test\n", False),
        ("http://bxallowedxtest", False),
        ("https://my.mainsail.xyz", True),
        ("https://my.mainsail.xyz:444", False),
        ("http://x.lan", True),
        ("http://x.lan:99", True),
        ("http://exact.test:8080", True),
        ("http://exact.test", False),
        ("http://[fd00::1]", True),
        ("http://[fd00::2]", False),
        ("null", False),
        ("", False),
        ("evil.test", False),
        ("http://", False),
    ],
)
def test_domains(origin: str, is_allowed: bool) -> None:
    assert rule(*RULES).allows(origin, "printer.example.com") is is_allowed


def test_no_origin_is_no_page() -> None:
    assert rule().allows(None, "printer.example.com")


def test_unsafe_rules() -> None:
    for text in (
        "http://example.*",
        "*.foo.*",
        "x.*",
        "*.c*m",
        "http://a b",
        "http://x:port",
        "http://u@x",
        "",
        "http://x/y",
    ):
        unsafe = rule(text)
        assert len(unsafe.warnings) == 1, text
        assert not unsafe.allows("http://example.com", "h.example.com")
        assert not unsafe.allows("http://a.foo.bar", "h.example.com")
    assert not rule(*RULES).warnings
    everything = rule("*")
    assert len(everything.warnings) == 1
    for origin in ("http://evil.test", "https://evil.test:444", "null"):
        assert everything.allows(origin, "x")
    web = rule("http://*")
    assert web.allows("http://evil.test", "x")
    assert not web.allows("https://evil.test", "x")
    assert not web.allows("null", "x")


@given(NAME, NAME)
def test_without_rules_only_the_same_host_at_home(name: str, other: str) -> None:
    nobody = rule()
    is_at_home = "." not in name or name.endswith(LOCAL_SUFFIXES) or read_address(name) is not None
    for suffix in ("", ":80", ":8123"):
        assert nobody.allows(f"http://{name}{suffix}", f"{name}:7125") == is_at_home
        assert nobody.allows(f"https://{name}{suffix}", name.upper()) == is_at_home
    if other != name:
        assert not nobody.allows(f"http://{other}", name)
        assert not nobody.allows(f"http://{name}.{other}", name)
        assert not nobody.allows(f"http://{name}", f"{name}.{other}")


def test_same_host() -> None:
    own = rule(own_names=("Printer.Example.COM", ""))
    assert own.allows("https://printer.example.com", "printer.example.com")
    assert own.allows("http://192.168.1.5", "192.168.1.5:7125")
    assert own.allows("http://[fd00::5]:81", "[fd00::5]:7125")
    assert own.allows("http://localhost:3000", "localhost:7125")
    assert own.allows("http://printer.local.", "printer.local")
    # a name that leads here by its owner's will: DNS rebinding
    assert not own.allows("http://rebound.example.org", "rebound.example.org")
    assert not own.allows("http://192.168.1.5", "192.168.1.6")
    assert not own.allows("http://evil.test", "localhost")
    assert not own.allows("http://evil.test", "")
    assert not own.allows("capacitor://localhost", "localhost")
    assert rule("capacitor://localhost").allows("capacitor://localhost", "localhost")


def test_trusted_addresses() -> None:
    some = rule(trusted=("192.168.1.0/24", "fd00::/64"))
    for origin in (
        "http://192.168.1.77",
        "https://192.168.1.77:8443",
        "http://[fd00::9]",
        "http://[::ffff:192.168.1.3]",
    ):
        assert some.allows(origin, "printer.example.com"), origin
    for origin in ("http://192.168.2.1", "http://127.0.0.1", "http://192.168.1.77.evil.test", "ws://192.168.1.77"):
        assert not some.allows(origin, "printer.example.com"), origin


@given(st.text(), st.text())
def test_any_text_is_decided(origin: str, host: str) -> None:
    assert rule(*RULES).allows(origin, host) in (True, False)
    assert isinstance(host_name(host), str)


@given(NAME, st.integers(1, 65535))
def test_read_origin(name: str, port: int) -> None:
    assert read_origin(f"http://{name}:{port}") == ("http", name, "" if port == 80 else str(port))
    assert read_origin(f"https://{name}") == ("https", name, "")


def test_memory_is_bounded() -> None:
    some = rule()
    for number in range(2 * MAX_REMEMBERED):
        some.allows(f"http://a{number}.test", "x")
    assert len(some._remembered) <= MAX_REMEMBERED
    some.allows("http://" + "a" * 10_000, "x")
    assert all(len(origin) < 1000 for origin, _ in some._remembered)
