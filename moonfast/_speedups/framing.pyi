"""Klippy's byte stream split at 0x03 (Klipper docs/API_Server.md, "Request format")."""

from typing_extensions import disjoint_base

MAX_BYTES: int
"""The longest message accepted: a configfile object of a large printer is below a tenth of it."""
ETX: bytes

@disjoint_base
class Framer:
    """Takes the stream in whatever pieces it comes."""

    def __init__(self, max_bytes: int = 20971520) -> None: ...
    @property
    def pending_bytes(self) -> int:
        """Bytes of the unfinished message."""
    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete now, in order and without their 0x03.

        FramingError: a message is longer than max_bytes; `completed` holds those before it, and the framer is empty.
        """
    def clear(self) -> None:
        """Forget the unfinished message."""

def frame_message(text: bytes) -> bytes:
    """Return the text with its 0x03. FramingError: it contains one already."""
