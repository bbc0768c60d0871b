"""How an HTTP response looks on the wire (RFC 9112 section 4)."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

from moonfast.codec import encode
from moonfast.errors import ApiError

JSON_TYPE = "application/json; charset=UTF-8"

STATUS_LINES = {item.value: b"HTTP/1.1 %d %b\r\n" % (item.value, item.phrase.encode()) for item in HTTPStatus}
_NO_SNIFF = b"X-Content-Type-Options: nosniff\r\n"
_JSON_HEAD = b"%bContent-Type: %b\r\n%bContent-Length: " % (STATUS_LINES[200], JSON_TYPE.encode(), _NO_SNIFF)
CONTINUE = STATUS_LINES[100] + b"\r\n"
CLOSE_HEADER = b"Connection: close\r\n"

_date: tuple[int, bytes] = (0, b"")


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(moment: float) -> str:
    """Seconds since 1970 as an IMF-fixdate (RFC 9110 section 5.6.7), whatever the locale."""
    at = time.gmtime(moment)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} {clock} GMT"


def date_header() -> bytes:
    """The Date header, made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"Date: " + http_date(now).encode() + b"\r\n")
    return _date[1]


def ok_json(body: bytes, extra: bytes, has_body: bool) -> bytes:
    """A 200 with JSON; `extra` is whole header lines. `has_body` is False for HEAD."""
    head = b"%b%d\r\n%b%b\r\n" % (_JSON_HEAD, len(body), date_header(), extra)
    return head + body if has_body else head


def response(
    status: int,
    body: bytes,
    *,
    content_type: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    extra: bytes = b"",
    has_body: bool = True,
) -> bytes:
    """Any response. Statuses that have no content (204, 304) get no length (RFC 9110 section 8.6)."""
    lines = [STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status, date_header()]
    if content_type is not None:
        lines += [f"Content-Type: {content_type}\r\n".encode("latin-1"), _NO_SNIFF]
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers]
    if status not in (204, 304):
        lines.append(b"Content-Length: %d\r\n" % len(body))
    elif status == 204:
        body = b""
    lines += [extra, b"\r\n"]
    if has_body and status not in (204, 304):
        lines.append(body)
    return b"".join(lines)


def error_body(error: ApiError) -> bytes:
    """The JSON of an error; the code is the HTTP status."""
    content: dict[str, Any] = {"code": error.status, "message": error.message}
    if error.data is not None:
        content["data"] = error.data
    return encode({"error": content})
