"""The arguments of an HTTP request: query, then form or JSON body, the later ones winning.

Source: specification, "HTTP API Overview".
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlencode

from moonfast.api.params import MAX_ARGUMENTS, Arguments, from_json, from_query
from moonfast.errors import BadRequest, PayloadTooLarge

MAX_PART_HEAD_BYTES = 8192
MAX_FORM_BYTES = 1024 * 1024
"""Of a form, without the files in it: forms are read much slower than JSON, and the loop waits for it."""


def read_arguments(query: str, content_type: str | None, body: bytes) -> Arguments:
    """Merge all arguments of a request. BadRequest: one of the places cannot be read; PayloadTooLarge: too big a form.

    A body of another type than JSON or a form is left alone, as Moonraker leaves it.
    """
    arguments = from_query(query) if query else {}
    if not body or content_type is None:
        return arguments
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json":
        arguments.update(from_json(body))
    elif media_type == "application/x-www-form-urlencoded":
        _bound_form(len(body))
        try:
            form = body.decode("ascii")
        except UnicodeDecodeError:
            raise BadRequest("The form is not ASCII: encode it as UTF-8, then as %XX.") from None
        arguments.update(from_query(form))
    elif media_type == "multipart/form-data":
        # Through the query form, so that type hints and bounds are the same for all three.
        arguments.update(from_query(urlencode(_fields(content_type, body))))
    return arguments


def _fields(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Name and value of each part of a small multipart form; parts that are files are left out."""
    from python_multipart.exceptions import FormParserError  # only when a form comes
    from python_multipart.multipart import MultipartParser, parse_options_header

    logging.getLogger(MultipartParser.__module__).setLevel(logging.CRITICAL)  # it warns of what clients do wrong
    _, options = parse_options_header(content_type)
    if b"boundary" not in options:
        raise BadRequest("The form has no boundary: the Content-Type of multipart/form-data must name one")
    found: list[tuple[str, bytes]] = []
    part: dict[str, Any] = {}
    field_bytes = 0

    def begin() -> None:
        part.update(field=b"", value=b"", names={}, data=[])

    def field(data: bytes, start: int, end: int) -> None:
        part["field"] += data[start:end]
        _bound(part["field"])

    def value(data: bytes, start: int, end: int) -> None:
        part["value"] += data[start:end]
        _bound(part["value"])

    def header_end() -> None:
        if part["field"].lower() == b"content-disposition":
            part["names"] = parse_options_header(part["value"])[1]
        part["field"] = part["value"] = b""

    def content(data: bytes, start: int, end: int) -> None:
        nonlocal field_bytes
        if b"filename" not in part["names"]:
            field_bytes += end - start
            _bound_form(field_bytes)
            part["data"].append(data[start:end])

    def end() -> None:
        names = part["names"]
        if b"name" in names and b"filename" not in names:
            found.append((names[b"name"].decode("utf-8", "replace"), b"".join(part["data"])))
            if len(found) > MAX_ARGUMENTS:
                raise BadRequest(f"More than {MAX_ARGUMENTS} arguments: send them as a JSON body.")

    is_whole = False

    def whole() -> None:
        nonlocal is_whole
        is_whole = True

    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": begin,
            "on_header_field": field,
            "on_header_value": value,
            "on_header_end": header_end,
            "on_part_data": content,
            "on_part_end": end,
            "on_end": whole,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise BadRequest(f"The form cannot be read: {exc}") from None
    if not is_whole:
        raise BadRequest("The form ends before its last boundary")
    return found


def _bound_form(size: int) -> None:
    if size > MAX_FORM_BYTES:
        raise PayloadTooLarge(f"The form is larger than {MAX_FORM_BYTES} bytes: send the arguments as a JSON body")


def _bound(text: bytes) -> None:
    if len(text) > MAX_PART_HEAD_BYTES:
        raise BadRequest("The form has a part with too long a header")
