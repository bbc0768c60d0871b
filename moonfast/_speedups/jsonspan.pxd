# jsonspan.pxd: the JSON scanner as other modules of the hot path use it.

from moonfast._speedups.span cimport Span

cdef enum Fault:
    NONE = 0
    BAD_STRING
    BAD_VALUE
    ENDS_EARLY
    TOO_DEEP
    NO_KEY
    NO_COLON
    NO_COMMA
    NO_OBJECT
    NO_ARRAY
    NO_END

cdef struct Scan:
    Span s                     # what is left of the text
    const unsigned char* text  # where it begins
    int depth                  # of open objects and arrays
    Py_ssize_t constants       # NaN, Infinity and -Infinity met so far
    Fault fault                # what is wrong at s.at, once a function has returned False

cdef struct Slice:
    const unsigned char* at
    Py_ssize_t size

cdef Scan scan_of(bytes text)
cdef int skip_space(Scan* scan) noexcept nogil                   # the first byte of the next token, -1 at the end
cdef bint scan_string(Scan* scan, Slice* found) noexcept nogil   # found: with its quotes
cdef bint scan_value(Scan* scan, Slice* found) noexcept nogil    # found: the value without space around it
cdef bint open_container(Scan* scan, int opening, bint* is_empty) noexcept nogil
cdef bint scan_key(Scan* scan, Slice* key) noexcept nogil        # a key and its ':'
cdef bint close_or_comma(Scan* scan, int closing, bint* is_closed) noexcept nogil
cdef bint scan_end(Scan* scan) noexcept nogil
cdef str key_text(Slice key)
cdef bytes value_bytes(Slice value, bint has_constants)
cdef raise_fault(Scan* scan)
