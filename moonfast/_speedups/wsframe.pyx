# wsframe.pyx: WebSocket frames, the server's side.
#
# Wire    RFC 6455 section 5.2: 2 bytes, 0, 2 or 8 bytes of length, 4 bytes of mask, payload.
# Memory  an unfinished message grows in one bytes object that nobody else sees, and becomes the event without a copy.
# Bounds  header and control payload live in arrays of the greatest legal size; a message is refused by its header as
#         soon as that announces more than max_message_bytes, and memory is only taken for bytes that have arrived
#         (doubling).
# Twin    moonfast/_pure/wsframe.py; tests/twins/test_wsframe.py.

import base64

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_XDECREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

try:
    from _sha1 import sha1  # hashlib would load every method of OpenSSL: half a megabyte
except ImportError:
    from hashlib import sha1

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* text, Py_ssize_t size) except NULL
    char* bytes_at "PyBytes_AS_STRING"(PyObject* text) noexcept nogil

cdef enum:
    OP_CONT = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    MESSAGE_TOO_BIG = 1009
    MAX_CONTROL = 125  # bytes, RFC 6455 section 5.5
    MAX_HEADER = 14  # bytes: 2 + 8 + 4
    NOGIL_BYTES = 65536  # from here on a scan lets other threads run

CONT, TEXT, BINARY, CLOSE, PING, PONG = OP_CONT, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG
MAX_CONTROL_BYTES = MAX_CONTROL

cdef bytes KEY_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def encode_frame(bytes payload not None, int opcode=OP_TEXT):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef Py_ssize_t begin = 2 if size < 126 else 4 if size < 65536 else 10
    cdef bytes frame
    cdef uint8_t* out
    cdef Py_ssize_t i
    if not is_known(opcode):
        raise ValueError(f"unknown opcode {opcode}")
    if opcode >= OP_CLOSE and size > MAX_CONTROL:
        raise ValueError(f"a control frame holds at most {MAX_CONTROL} bytes, not {size}")
    frame = PyBytes_FromStringAndSize(NULL, begin + size)
    out = <uint8_t*>PyBytes_AS_STRING(frame)
    out[0] = <uint8_t>(0x80 | opcode)
    out[1] = <uint8_t>(size if begin == 2 else 126 if begin == 4 else 127)
    for i in range(2, begin):
        out[i] = <uint8_t>(<uint64_t>size >> (8 * (begin - 1 - i)))
    memcpy(out + begin, PyBytes_AS_STRING(payload), size)
    return frame


def encode_close(int code, str reason not None=""):
    if not 1000 <= code <= 4999:
        raise ValueError(f"a close code is 1000 to 4999, not {code}")
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL - 2].decode("utf-8", "ignore").encode()
    return encode_frame(code.to_bytes(2, "big") + text, OP_CLOSE)


def accept_key(bytes key not None):
    return base64.b64encode(sha1(key + KEY_GUID, usedforsecurity=False).digest())


cdef inline bint is_known(int opcode) noexcept nogil:
    return OP_CONT <= opcode <= OP_BINARY or OP_CLOSE <= opcode <= OP_PONG


cdef inline bint may_be_received(int code) noexcept nogil:
    """Tell whether a peer may send this close code: RFC 6455 section 7.4 and the IANA registry."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef struct Utf8:  # where a text stands between two bytes (RFC 3629 section 4)
    uint8_t needed  # continuation bytes still to come; 0: at a character boundary
    uint8_t low  # bounds of the next one: they exclude overlong forms, surrogates, and code points over 10FFFF
    uint8_t high


cdef inline bint begin_character(Utf8* state, uint8_t byte) noexcept nogil:
    """Take the first byte of a character over 7F; False: none begins so."""
    state.low = 0x80
    state.high = 0xBF
    if byte < 0xC2 or byte > 0xF4:
        return False
    if byte < 0xE0:
        state.needed = 1
    elif byte < 0xF0:
        state.needed = 2
        if byte == 0xE0:
            state.low = 0xA0
        elif byte == 0xED:
            state.high = 0x9F
    else:
        state.needed = 3
        if byte == 0xF0:
            state.low = 0x90
        elif byte == 0xF4:
            state.high = 0x8F
    return True


cdef bint check_utf8(Utf8* state, const uint8_t* text, Py_ssize_t size) noexcept nogil:
    """Go on with a text; False as soon as no continuation could make it valid."""
    cdef Py_ssize_t i = 0
    cdef uint64_t word
    while i < size:
        if state.needed:
            if text[i] < state.low or text[i] > state.high:
                return False
            state.needed -= 1
            state.low = 0x80
            state.high = 0xBF
            i += 1
        elif text[i] >= 0x80:
            if not begin_character(state, text[i]):
                return False
            i += 1
        else:
            i += 1
            while size - i >= 8:
                memcpy(&word, text + i, 8)
                if word & <uint64_t>0x8080808080808080:
                    break
                i += 8
    return True


cdef uint64_t unmask(
    uint8_t* out, const uint8_t* payload, Py_ssize_t size, const uint8_t* mask, unsigned int phase
) noexcept nogil:
    """Copy `size` bytes from payload to out, XORed with the mask from its byte `phase` on; return the OR of all."""
    cdef uint8_t turned[8]
    cdef uint64_t key, word, other, seen = 0
    cdef Py_ssize_t i
    for i in range(8):
        turned[i] = mask[(phase + i) & 3]
    memcpy(&key, turned, 8)
    i = 0
    while size - i >= 16:
        memcpy(&word, payload + i, 8)
        memcpy(&other, payload + i + 8, 8)
        word ^= key
        other ^= key
        seen |= word | other
        memcpy(out + i, &word, 8)
        memcpy(out + i + 8, &other, 8)
        i += 16
    while i < size:
        out[i] = payload[i] ^ turned[i & 7]
        seen |= out[i]
        i += 1
    return seen


cdef bint take_payload(
    uint8_t* out, const uint8_t* payload, Py_ssize_t size, const uint8_t* mask, unsigned int phase, Utf8* text
) noexcept nogil:
    """Unmask a piece of payload; with `text` also check that it goes on as UTF-8, and return False if it does not."""
    cdef uint64_t seen = unmask(out, payload, size, mask, phase)
    if text == NULL or (text.needed == 0 and not seen & <uint64_t>0x8080808080808080):
        return True
    return check_utf8(text, out, size)


cdef class FrameParser:
    cdef readonly object failed
    cdef Py_ssize_t max_bytes
    cdef bint is_done  # after a CLOSE frame or a violation

    cdef uint8_t header[MAX_HEADER]
    cdef int header_size

    # the current frame
    cdef bint in_payload
    cdef int opcode
    cdef bint is_final
    cdef uint8_t mask[4]
    cdef unsigned int phase  # payload bytes taken, modulo 4
    cdef Py_ssize_t left  # payload bytes to come

    cdef uint8_t control[MAX_CONTROL]
    cdef Py_ssize_t control_size

    cdef int message_opcode  # OP_CONT: no message has begun
    cdef PyObject* message  # bytes object of `capacity` bytes, owned; NULL while capacity is 0
    cdef Py_ssize_t message_size
    cdef Py_ssize_t capacity
    cdef Utf8 text

    def __init__(self, Py_ssize_t max_message_bytes=16 * 1024 * 1024):
        self.max_bytes = max_message_bytes

    def __dealloc__(self):
        Py_XDECREF(self.message)

    @property
    def pending_bytes(self):
        return self.header_size + self.control_size + self.message_size

    def feed(self, bytes data not None):
        cdef list events = []
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef const uint8_t* end = at + PyBytes_GET_SIZE(data)
        while not self.is_done:
            if not self.in_payload:
                at = self.read_header(at, end)
                if not self.in_payload:
                    break
            at = self.read_payload(at, end, events)
            if self.in_payload:
                break
        return events

    cdef const uint8_t* read_header(self, const uint8_t* at, const uint8_t* end) except NULL:
        """Begin a frame once its header is complete: then in_payload is set. Return the first byte not taken."""
        cdef uint64_t length
        cdef int begin, i
        at = self.fill_header(at, end, 2)
        if self.header_size < 2:
            return at
        length = self.header[1] & 0x7F
        begin = 2 if length < 126 else 4 if length == 126 else 10
        if not self.check_start(length):
            return at
        at = self.fill_header(at, end, begin)
        if self.header_size < begin:
            return at
        if begin > 2:
            length = 0
            for i in range(2, begin):
                length = length << 8 | self.header[i]
        if not self.check_length(length):
            return at
        at = self.fill_header(at, end, begin + 4)
        if self.header_size < begin + 4:
            return at
        self.opcode = self.header[0] & 0x0F
        self.is_final = self.header[0] >= 0x80
        memcpy(self.mask, self.header + begin, 4)
        self.phase = 0
        self.left = <Py_ssize_t>length
        self.header_size = 0
        self.in_payload = True
        if self.opcode == OP_TEXT or self.opcode == OP_BINARY:
            self.message_opcode = self.opcode
        return at

    cdef const uint8_t* fill_header(self, const uint8_t* at, const uint8_t* end, int wanted) noexcept:
        """Move bytes until the header has `wanted`, at most MAX_HEADER, or there are no more."""
        while self.header_size < wanted and at < end:
            self.header[self.header_size] = at[0]
            self.header_size += 1
            at += 1
        return at

    cdef bint check_start(self, uint64_t length) except -1:
        """Check what the first two bytes of a header say (RFC 6455 sections 5.1, 5.2, 5.4, 5.5)."""
        cdef int opcode = self.header[0] & 0x0F
        if self.header[0] & 0x70:
            return self.fail(PROTOCOL_ERROR, "reserved bits are set")
        if not is_known(opcode):
            return self.fail(PROTOCOL_ERROR, "unknown opcode")
        if opcode >= OP_CLOSE:
            if self.header[0] < 0x80:
                return self.fail(PROTOCOL_ERROR, "control frame is fragmented")
            if length > MAX_CONTROL:
                return self.fail(PROTOCOL_ERROR, "control frame is longer than 125 bytes")
        elif opcode == OP_CONT and self.message_opcode == OP_CONT:
            return self.fail(PROTOCOL_ERROR, "continuation without a message")
        elif opcode != OP_CONT and self.message_opcode != OP_CONT:
            return self.fail(PROTOCOL_ERROR, "new message before the last one ended")
        if self.header[1] < 0x80:
            return self.fail(PROTOCOL_ERROR, "frame is not masked")
        return True

    cdef bint check_length(self, uint64_t length) except -1:
        cdef Py_ssize_t room = self.max_bytes - self.message_size
        if length >> 63:
            return self.fail(PROTOCOL_ERROR, "frame length has its top bit set")
        if self.header[0] & 0x0F < OP_CLOSE and (room < 0 or length > <uint64_t>room):
            return self.fail(MESSAGE_TOO_BIG, f"message is longer than {self.max_bytes} bytes")
        return True

    cdef const uint8_t* read_payload(self, const uint8_t* at, const uint8_t* end, list events) except NULL:
        """Take what is there of the current frame's payload. Return the first byte not taken."""
        cdef Py_ssize_t size = min(self.left, end - at)
        cdef Utf8* text = &self.text if self.message_opcode == OP_TEXT else NULL
        cdef uint8_t* out
        cdef bint is_valid = True
        if self.opcode >= OP_CLOSE:
            unmask(self.control + self.control_size, at, size, self.mask, self.phase)
            self.control_size += size
        elif size:
            self.reserve(size)
            out = <uint8_t*>bytes_at(self.message) + self.message_size
            if size < NOGIL_BYTES:
                is_valid = take_payload(out, at, size, self.mask, self.phase, text)
            else:
                with nogil:
                    is_valid = take_payload(out, at, size, self.mask, self.phase, text)
            self.message_size += size
        if not is_valid:
            self.fail(INVALID_DATA, "text is not UTF-8")
            return at
        self.phase = <unsigned int>((self.phase + size) & 3)
        self.left -= size
        if self.left == 0:
            self.in_payload = False
            self.end_frame(events)
        return at + size

    cdef int reserve(self, Py_ssize_t more) except -1:
        """Make room for `more` bytes: doubling, but never over what the message can still come to."""
        cdef Py_ssize_t needed = self.message_size + more
        cdef Py_ssize_t most = self.message_size + self.left if self.is_final else self.max_bytes
        if needed <= self.capacity:
            return 0
        self.capacity = min(max(needed, 2 * self.capacity), most)
        try:
            if self.message == NULL:
                self.message = new_bytes(NULL, self.capacity)
            else:
                _PyBytes_Resize(&self.message, self.capacity)  # on failure frees the object and clears the pointer
        except MemoryError:
            self.end()
            raise
        return 0

    cdef int end_frame(self, list events) except -1:
        if self.opcode >= OP_CLOSE:
            if self.opcode == OP_CLOSE and not self.check_close():
                return 0
            events.append((self.opcode, PyBytes_FromStringAndSize(<char*>self.control, self.control_size)))
            self.control_size = 0
            if self.opcode == OP_CLOSE:
                self.end()
        elif self.is_final:
            if self.text.needed:
                self.fail(INVALID_DATA, "text is not UTF-8")
                return 0
            events.append((self.message_opcode, self.take_message()))
            self.message_opcode = OP_CONT
        return 0

    cdef bytes take_message(self):
        """Give the collected message away."""
        cdef bytes message = b""
        cdef Py_ssize_t size = self.message_size
        cdef bint has_more = self.capacity != size
        self.capacity = self.message_size = 0  # first: a failed resize leaves no object to write into
        if self.message != NULL:
            if has_more:
                _PyBytes_Resize(&self.message, size)
            message = <bytes>self.message
            Py_CLEAR(self.message)
        return message

    cdef bint check_close(self) except -1:
        """Check the payload of a CLOSE frame (RFC 6455 section 5.5.1)."""
        cdef Utf8 reason
        if self.control_size == 0:
            return True
        if self.control_size == 1:
            return self.fail(PROTOCOL_ERROR, "close payload is one byte long")
        reason.needed = 0
        if not check_utf8(&reason, self.control + 2, self.control_size - 2) or reason.needed:
            return self.fail(INVALID_DATA, "close reason is not UTF-8")
        if not may_be_received(self.control[0] << 8 | self.control[1]):
            return self.fail(PROTOCOL_ERROR, "close code is not allowed")
        return True

    cdef bint fail(self, int code, str reason) except -1:
        """Note a violation; returns False for the caller to pass on."""
        self.failed = (code, reason)
        self.end()
        return False

    cdef void end(self) noexcept:
        """Take no more bytes, hold none."""
        self.is_done = True
        Py_CLEAR(self.message)
        self.header_size = 0
        self.control_size = 0
        self.message_size = 0
        self.capacity = 0
