"""Fuzz target of multipart forms: any bytes, cut in two ways, are taken as the same form or refused alike.

The first byte of the input says how the form is cut; the rest is its body, the boundary is "b".

    python -m tests.fuzz.fuzz_multipart [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moonfast.errors import ApiError
from moonfast.transports.upload import MAX_FIELDS, MultipartUpload
from tests.fuzz.target import Target

KIND = "multipart/form-data; boundary=b"
PIECES = [
    b"\r\n",
    b"--b\r\n",
    b"--b--",
    b"\r\n--b",
    b"Content-Disposition: form-data; ",
    b'name="file"; filename="a.gcode"',
    b"filename*=utf-8''%C3%BC.gcode",
    b'name="path"',
    b"Content-Type: text/plain\r\n\r\n",
    b"Content-Transfer-Encoding: base64\r\n\r\n",
]


class Kept:
    """A sink that keeps what it is given, and sees to the order."""

    is_full = False
    on_drained: Callable[[], None]
    on_failed: Callable[[ApiError], None]

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.content = b""
        self.is_aborted = False

    def field(self, name: str, value: bytes) -> None:
        assert not self.is_aborted
        self.told.append((name, value))

    def begin_file(self, field: str, filename: str) -> None:
        assert not self.is_aborted
        self.told.append((field, filename))

    def write(self, data: bytes) -> None:
        assert not self.is_aborted
        assert data
        self.content += data

    def abort(self) -> None:
        self.is_aborted = True


def outcome(body: bytes, step: int) -> Any:
    """What a form holds that comes in pieces of `step` bytes; the status if it is refused."""
    sink = Kept()
    upload = MultipartUpload(KIND, sink)
    try:
        for at in range(0, len(body), step):
            upload.feed(body[at : at + step])
        assert upload.finish() is sink
    except ApiError as exc:
        upload.abort()
        assert sink.is_aborted
        return exc.status
    assert not sink.is_aborted
    assert len(sink.told) <= 2 * MAX_FIELDS
    return sink.told, sink.content


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the cut matters."""
    step = data[0] % 64 + 1 if data else 1
    body = data[1:]
    found = outcome(body, step)
    assert found == outcome(body, len(body) + 1)
    assert isinstance(found, tuple) or found in (400, 413)


TARGET = Target("multipart", one_input, pieces=PIECES, header_bytes=1)

if __name__ == "__main__":
    TARGET.main()
