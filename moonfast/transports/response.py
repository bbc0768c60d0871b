"""Responses as bytes: status line, headers, body; each response is one piece, made to be sent by one call."""

from __future__ import annotations

import re
import time
from functools import cached_property
from http import HTTPStatus

from moonfast.api.call import HttpAnswer
from moonfast.codec import encode
from moonfast.errors import ApiError, MethodNotAllowed, Unauthorized
from moonfast.fingerprint import fingerprint

JSON = "application/json; charset=UTF-8"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

CORS_METHODS = "GET, POST, PUT, DELETE, OPTIONS"
CORS_HEADERS = "Origin, Accept, Content-Type, X-Requested-With, X-CRSF-Token, Authorization, X-Access-Token, X-Api-Key"
CORS_MAX_AGE_S = 600
"""How long a browser may remember that it may ask."""

_HEADER_TEXT = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
STATUS_LINES = {item.value: f"HTTP/1.1 {item.value} {item.phrase}\r\n".encode() for item in HTTPStatus}
_WITHOUT_BODY = (204, 304)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(moment: float) -> str:
    """Seconds since 1970 as an IMF-fixdate (RFC 9110 section 5.6.7), whatever the locale."""
    at = time.gmtime(moment)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year} {clock} GMT"


class ExpectationFailed(ApiError):
    status = 417


class UnsupportedMediaType(ApiError):
    status = 415


class RequestTimeout(ApiError):
    status = 408


class Composer:
    """Makes responses; keeps the parts that change only once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._date = b""
        self._json_head = b""

    def _refresh(self) -> None:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = b"Date: %b\r\n" % http_date(second).encode()
            self._json_head = b"%b%b%b" % (STATUS_LINES[200], _content_type(JSON), self._date)

    def result(self, text: bytes, extra: bytes, is_wrapped: bool, is_head: bool) -> bytes:
        """A result that is JSON text, with status 200; `extra` are whole header lines."""
        self._refresh()
        if is_wrapped:
            if is_head:
                return b"%b%bContent-Length: %d\r\n\r\n" % (self._json_head, extra, len(text) + 11)
            return b'%b%bContent-Length: %d\r\n\r\n{"result":%b}' % (self._json_head, extra, len(text) + 11, text)
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._json_head, extra, len(text), b"" if is_head else text)

    def answer(self, answer: HttpAnswer, extra: bytes, is_head: bool) -> bytes:
        """What a handler or a page answers by itself. ValueError: a header that would break the response."""
        self._refresh()
        body, content_type = answer.body, answer.content_type or (JSON if answer.body else None)
        lines = [STATUS_LINES[answer.status], self._date, extra]
        if content_type is not None:
            lines.append(_content_type(content_type))
        lines += [header_line(name, value) for name, value in answer.headers]
        if answer.status in _WITHOUT_BODY:
            body = b""
        else:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        return b"%b\r\n%b" % (b"".join(lines), b"" if is_head else body)

    def error(self, error: ApiError, extra: bytes, is_head: bool) -> bytes:
        described: dict[str, object] = {"code": error.status, "message": error.message}
        if error.data is not None:
            described["data"] = error.data
        headers: tuple[tuple[str, str], ...] = ()
        if isinstance(error, MethodNotAllowed):
            headers = (("Allow", ", ".join(error.allowed)),)
        elif error.status == 426:
            headers = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))
        elif isinstance(error, Unauthorized):
            headers = (("WWW-Authenticate", "Bearer"),)
        answer = HttpAnswer(encode({"error": described}), status=error.status, content_type=JSON, headers=headers)
        return self.answer(answer, extra, is_head)


def _content_type(value: str) -> bytes:
    return header_line("Content-Type", value) + b"X-Content-Type-Options: nosniff\r\n"


def header_line(name: str, value: str) -> bytes:
    """One header. ValueError: the value has control characters or such as no header can carry."""
    if not _HEADER_TEXT.fullmatch(value):
        raise ValueError(f"the header {name} cannot have this value")
    return f"{name}: {value}\r\n".encode("latin-1")


class Page:
    """A document that is ready to be sent; browsers that have it already are told so."""

    def __init__(self, answer: HttpAnswer) -> None:
        self._given = answer

    @cached_property
    def etag(self) -> str:
        """What names the content; made when it is first asked for."""
        names = {name.lower(): value for name, value in self._given.headers}
        return names.get("etag") or f'"{fingerprint([self._given.body])}"'

    @cached_property
    def _headers(self) -> tuple[tuple[str, str], ...]:
        headers = self._given.headers
        names = {name.lower() for name, _ in headers}
        if "etag" not in names:
            headers = (*headers, ("ETag", self.etag))
        if "cache-control" not in names:
            headers = (*headers, ("Cache-Control", "no-cache"))
        return headers

    def answer(self, if_none_match: str | None) -> HttpAnswer:
        """The document, or that it has not changed (RFC 9110 section 13.1.2)."""
        if if_none_match is not None:
            known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
            if self.etag in known or "*" in known:
                return HttpAnswer(status=304, headers=self._headers)
        given = self._given
        return HttpAnswer(given.body, status=given.status, content_type=given.content_type, headers=self._headers)
