"""Which web pages may use this server (the Fetch standard, "CORS protocol").

A page of a stranger must not drive the printer, although the browser that shows it is in a trusted network. An Origin
is allowed if it is absent (no browser), matched by `cors_domains`, an address inside `trusted_clients`, or the very
host that was asked, where that host has a name no stranger can own: an address, localhost, a single label, a name of a
local domain, or the machine's own name. The last rule is what stops DNS rebinding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from moonfast.access.trusted import TrustedClients, parse

LOCAL_DOMAINS = (".local", ".lan", ".home", ".internal", ".home.arpa")
DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_REMEMBERED = 1000


class OriginRule:
    """Decides on the Origin header."""

    def __init__(self, cors_domains: Iterable[str], trusted: TrustedClients, own_names: Iterable[str] = ()) -> None:
        self._trusted = trusted
        self._own_names = {name.lower() for name in own_names if name}
        self._patterns: list[re.Pattern[str]] = []
        self.warnings: list[str] = []
        self._known: dict[tuple[str, str], bool] = {}
        for domain in cors_domains:
            pattern = domain_pattern(domain)
            if pattern is None:
                self.warnings.append(
                    f"[authorization] cors_domains: '{domain}' would allow any site and is ignored. "
                    "Write the top-level domain out: *.example.com"
                )
            else:
                self._patterns.append(pattern)

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a page from `origin` may use this server, which it addressed as `host` (the Host header)."""
        if origin is None:
            return True
        key = (origin, host)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            known = self._known[key] = self._decide(origin.strip().lower(), host.strip().lower())
        return known

    def _decide(self, origin: str, host: str) -> bool:
        if any(pattern.fullmatch(origin) for pattern in self._patterns):
            return True
        where = _split(origin)
        if where is None:
            return False
        scheme, name, port = where
        if self._trusted.is_named(parse(name)):
            return True
        asked = _split(f"{scheme}://{host}")
        return asked is not None and asked[1:] == (name, port) and self._is_own(name)

    def _is_own(self, name: str) -> bool:
        return (
            parse(name) is not None
            or "." not in name
            or name.endswith((".localhost", *LOCAL_DOMAINS))
            or name in self._own_names
        )


def domain_pattern(domain: str) -> re.Pattern[str] | None:
    """Compile an entry of `cors_domains`; `*` stands for any text. None: it leaves the top-level domain open.

    Without a scheme both http and https are meant.
    """
    scheme, separator, rest = domain.strip().lower().rstrip("/").rpartition("://")
    name = rest.partition(":")[0] if not rest.startswith("[") else rest
    if not name or "*" in name.rpartition(".")[2]:
        return None
    before = _wild(scheme, "[a-z][a-z0-9+.-]*") if separator else "https?"
    return re.compile(before + "://" + _wild(rest, "[^/@]*"))


def _wild(text: str, meaning: str) -> str:
    return meaning.join(re.escape(part) for part in text.split("*"))


def _split(origin: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of an origin; None: it is none, such as "null" of a local file."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname.rstrip("."), port or DEFAULT_PORTS.get(parts.scheme)
