"""Multipart forms that are taken in while they arrive: fields in memory, the file piece by piece to its sink.

Sources: RFC 7578; RFC 8187 for names that come as `filename*`; specification, "File upload".
"""

from __future__ import annotations

import logging
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from moonfast.api.upload import UploadSink
from moonfast.errors import BadRequest, PayloadTooLarge
from moonfast.transports.body import MAX_PART_HEAD_BYTES
from moonfast.transports.response import UnsupportedMediaType

MAX_FIELD_BYTES = 64 * 1024
"""Of all fields of a form together."""
MAX_FIELDS = 100
MAX_FORM_BYTES = 512 * 1024
"""Of all that is not the file: fields, headers, boundaries, what comes in front and behind."""

_PARAMETERS = re.compile(rb';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


class MultipartUpload:
    """One form on its way to its sink."""

    def __init__(self, content_type: str | None, sink: UploadSink) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header  # only when a form comes

        logging.getLogger(MultipartParser.__module__).setLevel(logging.CRITICAL)  # it warns of what clients do wrong
        self.sink, self.fed_bytes, self._file_bytes = sink, 0, 0
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data":
            sink.abort()
            raise UnsupportedMediaType("Send the file as multipart/form-data")
        if not options.get(b"boundary"):
            sink.abort()
            raise BadRequest("The form has no boundary: the Content-Type of multipart/form-data must name one")
        self._parse_options = parse_options_header
        self._parser: Any = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._whole,
            },
        )
        self._delimiter = b"\r\n--" + options[b"boundary"]
        self._front: bytes | None = b"\r\n"  # the end of what came before the first delimiter, None behind it
        self._field = self._value = b""
        self._names: dict[bytes, bytes] = {}
        self._content: bytearray | None = None  # of a field; None: the file's goes to the sink
        self._field_count = self._field_bytes = 0
        self._is_whole = self._is_aborted = False

    @property
    def is_full(self) -> bool:
        return self.sink.is_full

    def feed(self, data: bytes) -> None:
        """Take the next bytes. ApiError: the form or the file cannot be taken; `abort` is due."""
        from python_multipart.exceptions import FormParserError

        self.fed_bytes += len(data)
        try:
            self._parser.write(data if self._front is None else self._without_front(self._front + data))
        except FormParserError as exc:
            raise BadRequest(f"The form cannot be read: {exc}") from None
        if self.fed_bytes - self._file_bytes > MAX_FORM_BYTES:
            raise PayloadTooLarge(f"The form has more than {MAX_FORM_BYTES} bytes beside the file")

    def finish(self) -> UploadSink:
        """The end of the body; the sink is the caller's from now on. BadRequest: the form is not whole."""
        if not self._is_whole:
            self.abort()
            raise BadRequest("The form ends before its last boundary: the upload was cut off")
        return self.sink

    def abort(self) -> None:
        if not self._is_aborted:
            self._is_aborted = True
            self.sink.abort()

    def _without_front(self, data: bytes) -> bytes:
        """Drop what stands in front of the first delimiter, where nothing counts (RFC 2046 section 5.1.1)."""
        at = data.find(self._delimiter)
        self._front = data[1 - len(self._delimiter) :] if at < 0 else None
        return data[at + 2 :] if at >= 0 else b""

    # what the parser finds

    def _begin(self) -> None:
        self._field = self._value = b""
        self._names = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        _bound(self._field)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        _bound(self._value)

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._names = self._parse_options(self._value)[1]
            name = _extended_name(self._value)
            if name is None and b"filename" in self._names:
                # browsers write a quote in a name as %22 (HTML standard, "Multipart form data")
                name = self._names[b"filename"].replace(b"%22", b'"')
            if name is not None:
                self._names[b"filename"] = name
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        if b"filename" in self._names:
            self._content = None
            self.sink.begin_file(self._text(b"name"), self._text(b"filename"))
            return
        self._content = bytearray()
        self._field_count += 1
        if self._field_count > MAX_FIELDS:
            raise BadRequest(f"The form has more than {MAX_FIELDS} fields")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._content is None:
            self._file_bytes += end - start
            self.sink.write(data[start:end] if end - start < len(data) else data)
            return
        self._field_bytes += end - start
        if self._field_bytes > MAX_FIELD_BYTES:
            raise BadRequest(f"The fields of the form are longer than {MAX_FIELD_BYTES} bytes")
        self._content += data[start:end]

    def _end(self) -> None:
        if self._content is not None:
            self.sink.field(self._text(b"name"), bytes(self._content))
        self._content = None

    def _whole(self) -> None:
        self._is_whole = True

    def _text(self, name: bytes) -> str:
        return self._names.get(name, b"").decode("utf-8", "replace")


def _extended_name(disposition: bytes) -> bytes | None:
    """The name of a file that comes as `filename*`, in UTF-8; it goes before the plain one (RFC 6266 section 4.3).

    Browsers never write it in a form, but some libraries write nothing else for names that are not ASCII.
    """
    for key, value in _PARAMETERS.findall(disposition):
        if key.lower() == b"filename*":
            charset, _, rest = value.strip().partition(b"'")
            name = unquote_to_bytes(rest.partition(b"'")[2])
            if charset.lower() == b"utf-8":
                return name
            if charset.lower() == b"iso-8859-1":
                return name.decode("latin-1").encode()
    return None


def _bound(text: bytes) -> None:
    if len(text) > MAX_PART_HEAD_BYTES:
        raise BadRequest("The form has a part with too long a header")
