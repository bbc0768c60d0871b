"""Which web pages may use the API: the page of a stranger, opened on a trusted machine, must not drive the printer.

A browser names the page that makes a request in the Origin header (RFC 6454 section 7). Requests without it do not come
from another site's page, or only read what that page then cannot see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from moonfast.access.trusted import Address, TrustedClients, read_address

LOCAL_SUFFIXES = (".local", ".lan", ".home", ".internal", ".home.arpa")
"""Names under these are given out in the own network, so that a stranger's page cannot be served under one of them."""
MAX_REMEMBERED = 256
"""Pairs of Origin and Host whose answer is kept; then all are forgotten and decided again."""
MAX_ORIGIN_CHARACTERS = 300

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/:@?#\[\]\\]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_RULE = re.compile(
    r"(?:([a-z*][a-z0-9+.*-]*)://)?(\[[0-9a-f:.]+\]|[^\s/:@?#\[\]\\]+)(?::([0-9*]{1,5}))?/?", re.IGNORECASE
)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Origin(NamedTuple):
    """A web page's site; `port` is empty where it is the scheme's own. All in lower case."""

    scheme: str
    host: str
    port: str


def read_origin(text: str) -> Origin | None:
    """Read an Origin header; None for `null` and for what is not an origin."""
    found = _ORIGIN.fullmatch(text) if len(text) <= MAX_ORIGIN_CHARACTERS else None
    if found is None:
        return None
    scheme, host, port = found[1].lower(), _plain_host(found[2]), found[3] or ""
    return Origin(scheme, host, "" if port == _DEFAULT_PORTS.get(scheme) else port)


def _plain_host(text: str) -> str:
    return text.lower().strip("[]").rstrip(".")


def host_name(host: str) -> str:
    """The name or address in a Host header, without its port, in lower case."""
    if host.startswith("["):
        return _plain_host(host.partition("]")[0])
    return _plain_host(host.partition(":")[0])


class OriginRule:
    """Decides about origins.

    `domains` is the option `cors_domains`: `[scheme://]host[:port]`, with `*` for any characters in each part; without
    a port it is the scheme's own. `*` alone lets in every page. Rules that are unsafe or cannot be used are in
    `warnings`, each as a sentence for the user.
    Pages at an address that `trusted_clients` names are let in, too. `own_names` are names of this machine.
    """

    def __init__(self, domains: Iterable[str], trusted: TrustedClients, own_names: Iterable[str] = ()) -> None:
        self.warnings: list[str] = []
        self._patterns: list[re.Pattern[str]] = []
        self._trusted = trusted
        self._own_names = {name.lower().rstrip(".") for name in own_names if name}
        self._allows_null = False  # the origin of local files; only where all are let in
        self._remembered: dict[tuple[str, str], bool] = {}
        for domain in domains:
            self._add(domain.strip())

    def _add(self, domain: str) -> None:
        found = _RULE.fullmatch(domain)
        if found is None:
            self.warnings.append(
                f"[authorization] cors_domains: '{domain}' is not a domain: write http://name or http://name:port"
            )
            return
        scheme, host, port = found[1] or "*", _plain_host(found[2]), found[3] or ""
        if host == "*":
            self.warnings.append(
                f"[authorization] cors_domains: '{domain}' lets every web page that you visit drive the printer"
            )
            self._allows_null = self._allows_null or domain == "*"
            port = port or "*"
        elif "*" in host.rpartition(".")[2]:
            self.warnings.append(
                f"[authorization] cors_domains: '{domain}' is not used: '*' is not possible in the top-level domain"
            )
            return
        if port == _DEFAULT_PORTS.get(scheme.lower()):
            port = ""
        pattern = "://".join((_wild(scheme, "[a-z0-9+.-]*"), _wild(host, "[^:/]*")))
        self._patterns.append(re.compile(f"{pattern}:{_wild(port, '[0-9]*')}", re.IGNORECASE))

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether the page may do more than look: `origin` and `host` as in the headers of its request."""
        if origin is None:
            return True
        try:
            return self._remembered[origin, host]
        except KeyError:
            pass
        allowed = self._decide(origin, host)
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        if len(origin) + len(host) <= 2 * MAX_ORIGIN_CHARACTERS:
            self._remembered[origin, host] = allowed
        return allowed

    def _decide(self, text: str, host: str) -> bool:
        origin = read_origin(text)
        if origin is None:
            return self._allows_null and text == "null"
        written = f"{origin.scheme}://{origin.host}:{origin.port}"
        if any(pattern.fullmatch(written) for pattern in self._patterns):
            return True
        if origin.scheme not in _DEFAULT_PORTS:
            return False
        address = read_address(f"[{origin.host}]" if ":" in origin.host else origin.host)
        if address is not None and self._trusted.is_named(address):
            return True
        # The port does not matter: front ends are often served by another program of the same machine.
        return origin.host == host_name(host) and self._is_at_home(origin.host, address)

    def _is_at_home(self, name: str, address: Address | None) -> bool:
        """Whether a Host says something: a public name may have been made to lead here by its owner (DNS rebinding)."""
        if address is not None or name == "localhost" or "." not in name:
            return True
        return name.endswith(LOCAL_SUFFIXES) or name in self._own_names


def _wild(text: str, any_characters: str) -> str:
    return any_characters.join(re.escape(part) for part in text.split("*"))
