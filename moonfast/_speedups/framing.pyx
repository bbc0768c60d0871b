# framing.pyx: Klippy's byte stream split at 0x03.
#
# Wire    JSON text, then one 0x03 byte (Klipper docs/API_Server.md, "Request format").
# Memory  the parts of an unfinished message are kept as they came and joined once, when it is complete.
# Bounds  a message longer than max_bytes raises FramingError; every byte is examined once.
# Twin    moonfast/_pure/framing.py; tests/twins/test_framing.py.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr

from moonfast._speedups.span cimport Span, advance, left, span_of

from moonfast.errors import FramingError

cdef enum:
    C_MAX_BYTES = 20 * 1024 * 1024
    C_ETX = 3

MAX_BYTES = C_MAX_BYTES
ETX = b"\x03"


cdef Py_ssize_t find_etx(Span* s) noexcept nogil:
    """How many bytes come before the next 0x03, or -1."""
    cdef const unsigned char* hit = <const unsigned char*>memchr(s.at, C_ETX, left(s)) if left(s) else NULL
    return -1 if hit == NULL else hit - s.at


cdef class Framer:
    cdef Py_ssize_t max_bytes
    cdef list tail
    cdef Py_ssize_t tail_bytes

    def __init__(self, Py_ssize_t max_bytes=C_MAX_BYTES):
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        self.max_bytes = max_bytes
        self.clear()

    @property
    def pending_bytes(self):
        return self.tail_bytes

    def feed(self, bytes data not None):
        cdef list completed = []
        cdef Span s = span_of(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        cdef Py_ssize_t size = find_etx(&s)
        while size >= 0:
            self.check(size, completed)
            part = PyBytes_FromStringAndSize(<const char*>s.at, size)
            if self.tail_bytes:
                self.tail.append(part)
                part = b"".join(self.tail)
                self.tail = []
                self.tail_bytes = 0
            completed.append(part)
            advance(&s, size + 1)
            size = find_etx(&s)
        size = left(&s)
        self.check(size, completed)
        if size:
            part = data if size == PyBytes_GET_SIZE(data) else PyBytes_FromStringAndSize(<const char*>s.at, size)
            self.tail.append(part)
            self.tail_bytes += size
        return completed

    cdef int check(self, Py_ssize_t added, list completed) except -1:
        if self.tail_bytes + added > self.max_bytes:
            self.clear()
            raise FramingError(f"a message is longer than {self.max_bytes} bytes", completed)
        return 0

    cpdef clear(self):
        self.tail = []
        self.tail_bytes = 0


def frame_message(bytes text not None):
    if memchr(PyBytes_AS_STRING(text), C_ETX, PyBytes_GET_SIZE(text)) != NULL:
        raise FramingError("a message must not contain the byte 0x03")
    return text + ETX
