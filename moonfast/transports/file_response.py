"""A file as an HTTP response: headers, conditions, ranges, a ready-made .gz beside it (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from moonfast.api.call import FileAnswer
from moonfast.errors import Forbidden, NotFound, Unavailable
from moonfast.fingerprint import fingerprint
from moonfast.transports.response import STATUS_LINES, header_line, http_date

MAX_RANGES = 16
"""Of one request; with more the whole file is sent, as the RFC allows."""
OCTETS = "application/octet-stream"
TYPES = {
    ".gcode": "text/plain",
    ".g": "text/plain",
    ".gco": "text/plain",
    ".nc": "text/plain",
    ".cfg": "text/plain",
    ".conf": "text/plain",
    ".log": "text/plain",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".css": "text/css",
    ".csv": "text/csv",
    ".html": "text/html",
    ".js": "text/javascript",
    ".pdf": "application/pdf",
    ".zip": "application/zip",
    ".gz": "application/gzip",
}

Part = bytes | tuple[int, int]
"""Bytes as they are, or offset and length of a piece of the file."""


class Prepared(NamedTuple):
    """What is to be sent, in order. `descriptor` belongs to whoever sends it; -1: no file is needed."""

    parts: list[Part]
    descriptor: int


def prepare(answer: FileAnswer, request: Mapping[str, str], extra: bytes, is_head: bool) -> Prepared:
    """Open a file and decide what of it the client gets. NotFound, Forbidden: there is no such file."""
    content_type = TYPES.get(os.path.splitext(answer.path)[1].lower(), OCTETS)
    descriptor = _open(answer.path)
    try:
        status = os.fstat(descriptor)
        encoding = b""
        if "range" not in request and _accepts_gzip(request.get("accept-encoding", "")):
            packed = _open_packed(answer.path, status)
            if packed is not None:
                os.close(descriptor)
                descriptor, status = packed
                encoding = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
        return _prepared(answer, request, extra, is_head, descriptor, status, content_type, encoding)
    except BaseException:
        os.close(descriptor)
        raise


def _prepared(
    answer: FileAnswer,
    request: Mapping[str, str],
    extra: bytes,
    is_head: bool,
    descriptor: int,
    status: os.stat_result,
    content_type: str,
    encoding: bytes,
) -> Prepared:
    size = status.st_size
    etag = f'"{fingerprint([f"{status.st_ino} {size} {status.st_mtime_ns}".encode()])}"'
    modified = http_date(status.st_mtime)
    common = b"%b%b%b%bAccept-Ranges: bytes\r\nCache-Control: no-cache\r\nDate: %b\r\n" % (
        extra,
        encoding,
        header_line("ETag", etag),
        header_line("Last-Modified", modified),
        http_date(time.time()).encode(),
    )
    if _is_unchanged(request, etag, status.st_mtime):
        os.close(descriptor)
        return Prepared([b"%b%b\r\n" % (STATUS_LINES[304], common)], -1)
    described = b"%b%bX-Content-Type-Options: nosniff\r\n" % (common, disposition(answer.name))
    kind = header_line("Content-Type", content_type)
    ranges = None
    if not is_head and "range" in request and _may_range(request.get("if-range"), etag, modified):
        ranges = read_ranges(request["range"], size)
    if ranges is None:
        head = b"%b%b%bContent-Length: %d\r\n\r\n" % (STATUS_LINES[200], described, kind, size)
        parts: list[Part] = [head] if is_head or not size else [head, (0, size)]
    elif not ranges:
        line = b"Content-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % size
        parts = [b"%b%b%b%b" % (STATUS_LINES[416], described, kind, line)]
    elif len(ranges) == 1:
        first, last = ranges[0]
        length = last - first + 1
        line = b"Content-Range: bytes %d-%d/%d\r\nContent-Length: %d\r\n\r\n" % (first, last, size, length)
        parts = [b"%b%b%b%b" % (STATUS_LINES[206], described, kind, line), (first, length)]
    else:
        parts = _several(ranges, described, kind, size)
    if len(parts) == 1:
        os.close(descriptor)
        descriptor = -1
    return Prepared(parts, descriptor)


def _several(ranges: list[tuple[int, int]], described: bytes, kind: bytes, size: int) -> list[Part]:
    """Several ranges as multipart/byteranges (RFC 9110 section 14.6)."""
    boundary = os.urandom(12).hex().encode()
    parts: list[Part] = []
    total = 0
    for first, last in ranges:
        head = b"--%b\r\n%bContent-Range: bytes %d-%d/%d\r\n\r\n" % (boundary, kind, first, last, size)
        if parts:
            head = b"\r\n" + head
        parts += [head, (first, last - first + 1)]
        total += len(head) + last - first + 1
    end = b"\r\n--%b--\r\n" % boundary
    head = b"%b%bContent-Type: multipart/byteranges; boundary=%b\r\nContent-Length: %d\r\n\r\n" % (
        STATUS_LINES[206],
        described,
        boundary,
        total + len(end),
    )
    return [head, *parts, end]


def read_ranges(text: str, size: int) -> list[tuple[int, int]] | None:
    """First and last byte of each range that the file has; None: the header means nothing and is passed over."""
    unit, found, wanted = text.partition("=")
    if not found or unit.strip().lower() != "bytes":
        return None
    items = [item.strip() for item in wanted.split(",")]
    if len(items) > MAX_RANGES:
        return None
    ranges = []
    for item in items:
        if not item:
            continue
        first, dash, last = item.partition("-")
        is_number = all(part.isascii() and part.isdigit() and len(part) < 20 for part in (first, last) if part)
        if not dash or not (first or last) or not is_number:
            return None
        if not first:
            length = min(int(last), size)
            if length:
                ranges.append((size - length, size - 1))
        elif last and int(last) < int(first):
            return None
        elif int(first) < size:
            ranges.append((int(first), min(int(last), size - 1) if last else size - 1))
    return ranges


def disposition(name: str) -> bytes:
    """Tell a browser to save the file, under its name (RFC 6266)."""
    plain = name.encode("ascii", "replace").decode().replace("\\", "\\\\").replace('"', '\\"')
    plain = "".join(letter if letter.isprintable() else "?" for letter in plain)
    exact = quote(name, safe="", encoding="utf-8")
    return header_line("Content-Disposition", f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}")


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("Not Found") from None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise too_many_open() from None
        raise Forbidden("The file cannot be read: give the user of this server the right to") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Forbidden("Forbidden: this is not a file")
    return descriptor


def too_many_open() -> Unavailable:
    return Unavailable("Too many files are open: try again later")


def _open_packed(path: str, status: os.stat_result) -> tuple[int, os.stat_result] | None:
    """The same file packed already, if it is not older."""
    try:
        descriptor = os.open(path + ".gz", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    packed = os.fstat(descriptor)
    if stat.S_ISREG(packed.st_mode) and packed.st_mtime_ns >= status.st_mtime_ns:
        return descriptor, packed
    os.close(descriptor)
    return None


def _accepts_gzip(text: str) -> bool:
    for item in text.split(","):
        coding, _, weight = item.partition(";")
        if coding.strip().lower() in ("gzip", "x-gzip"):
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _is_unchanged(request: Mapping[str, str], etag: str, modified: float) -> bool:
    """Whether the client has it already; If-None-Match outranks the time (RFC 9110 section 13.2.2)."""
    tags = request.get("if-none-match")
    if tags is not None:
        known = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
        return "*" in known or etag in known
    moment = _seconds(request.get("if-modified-since"))
    return moment is not None and int(modified) <= moment


def _may_range(condition: str | None, etag: str, modified: str) -> bool:
    """Whether a range may be sent: what the client has the other part of must be this very file (section 13.1.5)."""
    return condition is None or condition.strip() in (etag, modified)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    import email.utils  # only when a client asks with a date

    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
