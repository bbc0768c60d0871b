# span.pxd: a bounded cursor over bytes.
#
# All reads of a text go through it, and it refuses to pass its end. The owner of the bytes has to be kept alive by who
# makes the span; a span is never kept across a call that may free it.

cdef struct Span:
    const unsigned char* at   # the next byte
    const unsigned char* end  # one behind the last


cdef inline Span span_of(const unsigned char* begin, Py_ssize_t size) noexcept nogil:
    cdef Span s
    s.at = begin
    s.end = begin + size
    return s


cdef inline int peek(Span* s) noexcept nogil:
    """The next byte, -1 at the end."""
    return s.at[0] if s.at < s.end else -1


cdef inline Py_ssize_t left(Span* s) noexcept nogil:
    return s.end - s.at


cdef inline void advance(Span* s, Py_ssize_t count) noexcept nogil:
    """Go on by `count` bytes, at most to the end."""
    s.at += count if count <= s.end - s.at else s.end - s.at
