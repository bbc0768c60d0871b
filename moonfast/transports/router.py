"""From the target of a request line to what answers it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from moonfast.api.endpoint import Endpoint
from moonfast.api.table import EndpointTable


def split_target(target: str) -> tuple[str, str] | None:
    """Split a request target into its path, still encoded, and its query; None if there is no path.

    Both the usual form and the absolute one are read (RFC 9112 section 3.2); a fragment is dropped.
    """
    if "#" in target:
        target = target.partition("#")[0]
    if not target.startswith("/"):
        scheme, found, rest = target.partition("://")
        if not found or scheme.lower() not in ("http", "https"):
            return None
        authority, slash, rest = rest.partition("/")
        if "?" in authority:  # no path at all: the root is meant
            return "/", authority.partition("?")[2] + slash + rest
        target = "/" + rest
    path, _, query = target.partition("?")
    return path, query


class Router:
    """Knows the prefix (`route_prefix`) and takes it off; decodes a path once."""

    def __init__(self, table: EndpointTable, prefix: str = "") -> None:
        self._table = table
        self._prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""

    @property
    def prefix(self) -> str:
        """Empty, or with a slash in front and none behind."""
        return self._prefix

    def path(self, encoded: str) -> str | None:
        """The path by which endpoints are found; None if nothing can be there.

        An encoded slash is no slash: it is part of a name, and no endpoint has one in its name.
        """
        path: str | None = encoded if "%" not in encoded else _decoded(encoded)
        if path is None or not self._prefix:
            return path
        if path == self._prefix:
            return "/"
        return path[len(self._prefix) :] if path.startswith(self._prefix + "/") else None

    def find_template(self, encoded: str) -> tuple[Mapping[str, Endpoint], dict[str, str]] | None:
        """HTTP method -> endpoint for a path with variables, and these, decoded: a slash in one is a slash."""
        if self._prefix:
            if not encoded.startswith(self._prefix + "/"):
                return None
            encoded = encoded[len(self._prefix) :]
        found = self._table.by_template(encoded)
        if found is None:
            return None
        try:
            return found[0], {name: unquote_to_bytes(text).decode("utf-8") for name, text in found[1].items()}
        except UnicodeDecodeError:
            return None

    def find(self, path: str) -> Mapping[str, Endpoint] | None:
        """HTTP method -> endpoint, None if there is no such path."""
        return self._table.by_path(path)


def _decoded(encoded: str) -> str | None:
    segments = [unquote_to_bytes(segment) for segment in encoded.split("/")]
    if any(b"/" in segment or b"\0" in segment for segment in segments):
        return None
    try:
        return b"/".join(segments).decode("utf-8")
    except UnicodeDecodeError:
        return None
