"""What a transport tells of a multipart form while it arrives, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from moonfast.errors import ApiError


class UploadSink(Protocol):
    """Takes in one form: fields in any order, and a file. Any method may raise an ApiError, which ends the upload.

    `is_full`: it can take no more for now, `on_drained` is called when it can. `on_failed` is called with the error
    when writing has failed meanwhile. The handler of the endpoint gets the sink when the form is whole; `abort` is
    called if it never will be.
    """

    is_full: bool
    on_drained: Callable[[], None]
    on_failed: Callable[[ApiError], None]

    def field(self, name: str, value: bytes) -> None: ...

    def begin_file(self, field: str, filename: str) -> None: ...

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...


class Received:
    """A parameter of this type gets the sink of the form, see `endpoint(receiver=...)`."""


Receiver = Callable[[int | None], UploadSink]
"""Makes the sink of a form from its Content-Length, None if that is not known. ApiError: it is not wanted."""
