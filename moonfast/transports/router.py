"""From the target of an HTTP request to what answers it (RFC 9112 section 3.2)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from moonfast.errors import BadRequest


class Target(NamedTuple):
    """A decoded path and the query string as it came."""

    path: str
    query: str


def split_target(raw: bytes, prefix: str) -> Target | None:
    """Take a request target apart; `prefix` is `route_prefix` as "/printer1", or empty. None: outside of the prefix.

    The path is percent-decoded once. BadRequest: it is not UTF-8 or holds NUL.
    """
    if not raw.startswith(b"/"):
        if raw.lower().startswith((b"http://", b"https://")):  # absolute form, as to a proxy
            raw = b"/" + raw.split(b"//", 1)[1].partition(b"/")[2]
        elif raw != b"*":
            raise BadRequest("The request target must begin with '/'")
    path_text, _, query = raw.partition(b"?")
    query = query.partition(b"#")[0]
    if b"%" in path_text:
        path_text = unquote_to_bytes(path_text)
    try:
        path = path_text.decode("utf-8")
        query_text = query.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("The request target is not UTF-8: encode it as UTF-8, then as %XX") from None
    if "\0" in path:
        raise BadRequest("The path contains NUL")
    if prefix:
        if path != prefix and not path.startswith(prefix + "/"):
            return None
        path = path[len(prefix) :] or "/"
    return Target(path, query_text)
