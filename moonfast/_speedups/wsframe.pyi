"""WebSocket frames, the server's side (RFC 6455).

Every rule of the wire is checked as soon as the byte that breaks it has arrived, so how the stream was cut never
changes what comes out.
"""

from typing_extensions import disjoint_base

CONT: int
TEXT: int
BINARY: int
CLOSE: int
PING: int
PONG: int
MAX_CONTROL_BYTES: int
"""Payload of a control frame at most (RFC 6455 section 5.5)."""

def encode_frame(payload: bytes, opcode: int = ...) -> bytes:
    """Make one whole, unmasked frame (RFC 6455 section 5.2); TEXT by default.

    ValueError: unknown opcode, or over 125 bytes in a control frame.
    """

def encode_close(code: int, reason: str = "") -> bytes:
    """Make a close frame; a reason over 123 bytes of UTF-8 is cut between characters.

    ValueError: the code is not 1000 to 4999.
    """

def accept_key(key: bytes) -> bytes:
    """Answer a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""

@disjoint_base
class FrameParser:
    """Turns the bytes of one client into whole messages and control frames."""

    def __init__(self, max_message_bytes: int = 16777216) -> None: ...
    @property
    def failed(self) -> tuple[int, str] | None:
        """Close code (1002, 1007 or 1009) and reason of the violation that ended this stream."""
    @property
    def pending_bytes(self) -> int:
        """Bytes held: the payload so far of the unfinished message and control frame, and an unfinished header."""
    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes; return what they complete, as (opcode, payload), in order.

        TEXT and BINARY are whole messages, put together from their fragments; text is valid UTF-8. PING, PONG and CLOSE
        are frames. Never raises on any input: after a violation `failed` is set, and as after a CLOSE frame all later
        bytes are ignored.
        """
