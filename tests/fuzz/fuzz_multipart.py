"""Fuzz target of upload forms: any bytes, cut in three ways, give the same file and fields, or the same refusal.

The first byte of the input says how the body is cut; then comes the Content-Type up to a line feed, then the body.

    python -m tests.fuzz.fuzz_multipart [--seconds 60] [--seed N]    # with atheris installed: its options instead
"""

from __future__ import annotations

from moonfast.api.upload import UploadSink
from moonfast.errors import ApiError
from moonfast.files.roots import Roots, is_below, split
from moonfast.transports.upload import MAX_FIELDS, MultipartUpload
from tests.fuzz.target import Target

STATUSES = {400, 403, 405, 413, 415}
PIECES = [
    b"\r\n--b\r\n",
    b"\r\n--b--\r\n",
    b"--b",
    b"\r\n\r\n",
    b'Content-Disposition: form-data; name="path"\r\n\r\n',
    b'Content-Disposition: form-data; name="file"; filename="a.gcode"\r\n\r\n',
    b"; filename*=UTF-8''%2e%2e%2fa.gcode",
    b"../",
    b"%22",
    b'\\"',
]
ROOTS = Roots("/")
ROOTS.add("gcodes", "/nowhere/gcodes", True)

Outcome = tuple[object, ...]


class Sink:
    """Keeps what comes in order, and looks where the file would go."""

    def __init__(self) -> None:
        self.is_full = False
        self.on_drained = self.on_failed = lambda *_: None
        self.got: list[tuple[str, bytes]] = []
        self.abort_count = self.file_count = 0

    def field(self, name: str, value: bytes) -> None:
        assert not self.abort_count
        self.got.append((name, value))

    def begin_file(self, field: str, filename: str) -> None:
        assert not self.abort_count
        self.file_count += 1
        self.got += [("file " + filename, b"")]
        location = ROOTS.inside(ROOTS.all()[0], split(filename), True)
        assert is_below(location.real, "/nowhere/gcodes")

    def write(self, data: bytes) -> None:
        assert self.file_count
        assert not self.abort_count
        name, content = self.got[-1]
        self.got[-1] = name, content + data

    def abort(self) -> None:
        self.abort_count += 1


def _taken(kind: str, body: bytes, cut: int) -> Outcome:
    sink = Sink()
    keeper: UploadSink = sink
    upload = None
    try:
        upload = MultipartUpload(kind, keeper)
        for at in range(0, len(body), cut):
            upload.feed(body[at : at + cut])
        assert upload.fed_bytes == len(body)
        upload.finish()
    except ApiError as exc:
        if exc.status not in STATUSES:
            raise
        if upload is not None:
            upload.abort()
            upload.abort()
        assert sink.abort_count == 1, "whoever refuses a form lets go of its sink once"
        return (exc.status,)
    assert not sink.abort_count
    assert len(sink.got) - sink.file_count <= MAX_FIELDS
    assert sum(len(content) for _, content in sink.got) <= len(body)
    assert all(content in body for _, content in sink.got)
    return tuple(sink.got)


def one_input(data: bytes) -> None:
    """Accept any bytes: AssertionError if the outcome depends on the cuts, or a name leads out of its root."""
    cut = data[0] % 64 + 1 if data else 1
    head, _, body = data[1:].partition(b"\n")
    kind = head.decode("latin-1")
    outcomes = [_taken(kind, body, size) for size in (len(body) + 1, cut, 1)]
    assert outcomes[0] == outcomes[1] == outcomes[2], outcomes


TARGET = Target("multipart", one_input, pieces=PIECES, header_bytes=1)

if __name__ == "__main__":
    TARGET.main()
