"""WebSocket frames, the server's side (RFC 6455): the twin of moonfast/_speedups/wsframe.pyx.

Every rule of the wire is checked as soon as the byte that breaks it has arrived, so how the stream was cut never
changes what comes out.
"""

from __future__ import annotations

import base64
import codecs
from hashlib import sha1

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PROTOCOL_ERROR, INVALID_DATA, MESSAGE_TOO_BIG = 1002, 1007, 1009
MAX_CONTROL_BYTES = 125  # RFC 6455 section 5.5
_KEY_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_KNOWN_OPCODES = frozenset((CONT, TEXT, BINARY, CLOSE, PING, PONG))


def encode_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Make one whole, unmasked frame (RFC 6455 section 5.2).

    ValueError: unknown opcode, or over 125 bytes in a control frame.
    """
    if opcode not in _KNOWN_OPCODES:
        raise ValueError(f"unknown opcode {opcode}")
    size = len(payload)
    if opcode >= CLOSE and size > MAX_CONTROL_BYTES:
        raise ValueError(f"a control frame holds at most {MAX_CONTROL_BYTES} bytes, not {size}")
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """Make a close frame; a reason over 123 bytes of UTF-8 is cut between characters.

    ValueError: the code is not 1000 to 4999.
    """
    if not 1000 <= code <= 4999:
        raise ValueError(f"a close code is 1000 to 4999, not {code}")
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2].decode("utf-8", "ignore").encode()
    return encode_frame(code.to_bytes(2, "big") + text, CLOSE)


def accept_key(key: bytes) -> bytes:
    """Answer a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(sha1(key + _KEY_GUID, usedforsecurity=False).digest())


def _may_be_received(code: int) -> bool:
    """Tell whether a peer may send this close code: RFC 6455 section 7.4 and the IANA registry."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def _begins_surrogate(held: bytes) -> bool:
    """Tell whether the bytes that Python's decoder holds begin a surrogate: never valid (RFC 3629 section 3)."""
    return len(held) == 2 and held[0] == 0xED and held[1] >= 0xA0


class _Violation(Exception):
    """The peer broke a rule: the close code, and the reason in words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.failure = code, reason


class FrameParser:
    """Turns the bytes of one client into whole messages and control frames."""

    def __init__(self, max_message_bytes: int = 16 * 1024 * 1024) -> None:
        self.failed: tuple[int, str] | None = None
        self._max_bytes = max_message_bytes
        self._is_done = False  # after a CLOSE frame or a violation
        self._input = bytearray()  # fed and not yet used; between feeds: an unfinished header
        self._left = -1  # payload bytes of the current frame still to come; -1: between frames
        self._opcode = CONT
        self._is_final = False
        self._mask = b""
        self._control = bytearray()
        self._message = bytearray()
        self._message_opcode = CONT  # CONT: no message has begun
        self._text = codecs.getincrementaldecoder("utf-8")()

    @property
    def pending_bytes(self) -> int:
        """Bytes held: the payload so far of the unfinished message and control frame, and an unfinished header."""
        return len(self._input) + len(self._control) + len(self._message)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes; return what they complete, as (opcode, payload), in order.

        Never raises: after a violation `failed` is (close code, reason), and as after a CLOSE frame all later bytes are
        ignored.
        """
        events: list[tuple[int, bytes]] = []
        if not self._is_done:
            self._input += data
            try:
                while not self._is_done and (self._read_header() if self._left < 0 else self._read_payload(events)):
                    pass
            except _Violation as violation:
                self.failed = violation.failure
                self._is_done = True
        if self._is_done:
            self._input, self._control, self._message = bytearray(), bytearray(), bytearray()
        return events

    def _read_header(self) -> bool:
        """Begin a frame; False: its header is not complete yet."""
        head = self._input
        if len(head) < 2:
            return False
        opcode = head[0] & 0x0F
        is_final = head[0] >= 0x80
        length = head[1] & 0x7F
        self._check_start(head[0], opcode, is_final, head[1] >= 0x80, length)
        begin = 2 + {126: 2, 127: 8}.get(length, 0)
        if len(head) < begin:
            return False
        if begin > 2:
            length = int.from_bytes(head[2:begin], "big")
        if length >= 1 << 63:
            raise _Violation(PROTOCOL_ERROR, "frame length has its top bit set")
        if opcode < CLOSE and length > self._max_bytes - len(self._message):
            raise _Violation(MESSAGE_TOO_BIG, f"message is longer than {self._max_bytes} bytes")
        if len(head) < begin + 4:
            return False
        self._opcode, self._is_final, self._left = opcode, is_final, length
        self._mask = bytes(head[begin : begin + 4])
        del head[: begin + 4]
        if opcode in (TEXT, BINARY):
            self._message_opcode = opcode
        return True

    def _check_start(self, first: int, opcode: int, is_final: bool, is_masked: bool, length: int) -> None:
        """Check what the first two bytes of a header say (RFC 6455 sections 5.1, 5.2, 5.4, 5.5)."""
        if first & 0x70:
            raise _Violation(PROTOCOL_ERROR, "reserved bits are set")
        if opcode not in _KNOWN_OPCODES:
            raise _Violation(PROTOCOL_ERROR, "unknown opcode")
        if opcode >= CLOSE:
            if not is_final:
                raise _Violation(PROTOCOL_ERROR, "control frame is fragmented")
            if length > MAX_CONTROL_BYTES:
                raise _Violation(PROTOCOL_ERROR, "control frame is longer than 125 bytes")
        elif opcode == CONT and self._message_opcode == CONT:
            raise _Violation(PROTOCOL_ERROR, "continuation without a message")
        elif opcode != CONT and self._message_opcode != CONT:
            raise _Violation(PROTOCOL_ERROR, "new message before the last one ended")
        if not is_masked:
            raise _Violation(PROTOCOL_ERROR, "frame is not masked")

    def _read_payload(self, events: list[tuple[int, bytes]]) -> bool:
        """Take what is there of the current frame's payload; False: the frame goes on."""
        chunk = self._unmask(self._input[: self._left])
        del self._input[: len(chunk)]
        self._left -= len(chunk)
        if self._opcode >= CLOSE:
            self._control += chunk
        else:
            if self._message_opcode == TEXT:
                self._check_text(chunk, is_end=self._is_final and self._left == 0)
            self._message += chunk
        if self._left:
            return False
        self._left = -1
        if self._opcode >= CLOSE:
            if self._opcode == CLOSE:
                self._check_close()
                self._is_done = True
            events.append((self._opcode, bytes(self._control)))
            self._control.clear()
        elif self._is_final:
            events.append((self._message_opcode, bytes(self._message)))
            self._message = bytearray()
            self._message_opcode = CONT
        return True

    def _unmask(self, chunk: bytearray) -> bytes:
        size = len(chunk)
        mask = self._mask * (size // 4 + 1)
        self._mask = (self._mask * 2)[size % 4 : size % 4 + 4]
        return (int.from_bytes(chunk, "big") ^ int.from_bytes(mask[:size], "big")).to_bytes(size, "big")

    def _check_text(self, chunk: bytes, is_end: bool) -> None:
        """Go on with a text message; fail as soon as no continuation could make it valid."""
        try:
            self._text.decode(chunk, is_end)
            is_valid = not _begins_surrogate(self._text.getstate()[0])
        except UnicodeDecodeError:
            is_valid = False
        if not is_valid:
            raise _Violation(INVALID_DATA, "text is not UTF-8")

    def _check_close(self) -> None:
        """Check the payload of a CLOSE frame (RFC 6455 section 5.5.1)."""
        if not self._control:
            return
        if len(self._control) == 1:
            raise _Violation(PROTOCOL_ERROR, "close payload is one byte long")
        try:
            self._control[2:].decode("utf-8")
        except UnicodeDecodeError:
            raise _Violation(INVALID_DATA, "close reason is not UTF-8") from None
        if not _may_be_received(int.from_bytes(self._control[:2], "big")):
            raise _Violation(PROTOCOL_ERROR, "close code is not allowed")
