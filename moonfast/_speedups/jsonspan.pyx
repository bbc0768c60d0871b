# jsonspan.pyx: where each value lies in a JSON text; checks it, decodes nothing.
#
# Grammar RFC 8259, strictly: UTF-8 (RFC 3629), no control characters in strings, no leading zeros. One extension, since
#         Klippy sends it: NaN, Infinity and -Infinity, which become null. Escaped lone surrogates pass as they are.
# Memory  a Scan points into bytes that the caller keeps alive; results are copies.
# Bounds  every byte is read through Span; depth is limited to MAX_DEPTH, so the recursion is, too.
# Twin    moonfast/_pure/jsonspan.py; tests/twins/test_jsonspan.py.

import json

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp

from moonfast._speedups.span cimport Span, advance, left, peek, span_of

from moonfast.errors import SpanError

cdef enum:
    C_MAX_DEPTH = 64

MAX_DEPTH = C_MAX_DEPTH

cdef dict FAULTS = {
    BAD_STRING: "bad string",
    BAD_VALUE: "bad value",
    ENDS_EARLY: "text ends early",
    TOO_DEEP: f"nested deeper than {C_MAX_DEPTH}",
    NO_KEY: "key expected",
    NO_COLON: "':' expected",
    NO_COMMA: "',' or end expected",
    NO_OBJECT: "object expected",
    NO_ARRAY: "array expected",
    NO_END: "end of text expected",
}

cdef unsigned char[256] PLAIN  # 1: stands for itself in a string and is one byte long
cdef int _code
for _code in range(256):
    PLAIN[_code] = 0x20 <= _code < 0x80 and _code != ord('"') and _code != ord("\\")


cdef Scan scan_of(bytes text):
    cdef Scan scan
    scan.text = <const unsigned char*>PyBytes_AS_STRING(text)
    scan.s = span_of(scan.text, PyBytes_GET_SIZE(text))
    scan.depth = 0
    scan.constants = 0
    scan.fault = NONE
    return scan


cdef inline bint fail(Scan* scan, Fault fault) noexcept nogil:
    scan.fault = fault
    return False


cdef raise_fault(Scan* scan):
    raise SpanError(f"{FAULTS[scan.fault]} at byte {scan.s.at - scan.text}")


cdef int skip_space(Scan* scan) noexcept nogil:
    cdef int byte = peek(&scan.s)
    while byte == b" " or byte == b"\n" or byte == b"\r" or byte == b"\t":
        advance(&scan.s, 1)
        byte = peek(&scan.s)
    return byte


cdef inline bint is_digit(int byte) noexcept nogil:
    return b"0" <= byte <= b"9"


cdef inline bint is_hex(int byte) noexcept nogil:
    return is_digit(byte) or b"a" <= byte <= b"f" or b"A" <= byte <= b"F"


cdef int skip_utf8(Span* s) noexcept nogil:
    """Go over one character of two to four bytes (RFC 3629 section 4); 0 if it is none."""
    cdef int lead = peek(s)
    cdef int low = 0x80
    cdef int high = 0xBF
    cdef int more
    if 0xC2 <= lead <= 0xDF:
        more = 1
    elif 0xE0 <= lead <= 0xEF:
        more = 2
        low = 0xA0 if lead == 0xE0 else 0x80
        high = 0x9F if lead == 0xED else 0xBF
    elif 0xF0 <= lead <= 0xF4:
        more = 3
        low = 0x90 if lead == 0xF0 else 0x80
        high = 0x8F if lead == 0xF4 else 0xBF
    else:
        return 0
    advance(s, 1)
    while more:
        if not low <= peek(s) <= high:
            return 0
        advance(s, 1)
        low = 0x80
        high = 0xBF
        more -= 1
    return 1


cdef bint scan_string(Scan* scan, Slice* found) noexcept nogil:
    cdef Span s = scan.s
    cdef int byte
    cdef int count
    advance(&s, 1)
    while True:
        byte = peek(&s)
        while byte >= 0 and PLAIN[byte]:
            advance(&s, 1)
            byte = peek(&s)
        if byte == b'"':
            advance(&s, 1)
            found.at = scan.s.at
            found.size = s.at - scan.s.at
            scan.s = s
            return True
        if byte == b"\\":
            advance(&s, 1)
            byte = peek(&s)
            if byte == b"u":
                for count in range(4):
                    advance(&s, 1)
                    if not is_hex(peek(&s)):
                        return fail(scan, BAD_STRING)
            elif byte < 0 or memchr(b'"\\/bfnrt', byte, 8) == NULL:
                return fail(scan, BAD_STRING)
            advance(&s, 1)
        elif byte < 0x80 or not skip_utf8(&s):  # a control character, or the end
            return fail(scan, BAD_STRING)


cdef bint scan_digits(Span* s) noexcept nogil:
    """Go over one digit or more."""
    if not is_digit(peek(s)):
        return False
    while is_digit(peek(s)):
        advance(s, 1)
    return True


cdef bint scan_number(Span* s) noexcept nogil:
    """Go over the longest number that stands here; a fraction or exponent without digits does not belong to it."""
    cdef Span more
    if peek(s) == b"-":
        advance(s, 1)
    if peek(s) == b"0":
        advance(s, 1)
    elif not scan_digits(s):
        return False
    more = s[0]
    if peek(&more) == b".":
        advance(&more, 1)
        if not scan_digits(&more):
            return True
        s[0] = more
    if peek(&more) == b"e" or peek(&more) == b"E":
        advance(&more, 1)
        if peek(&more) == b"+" or peek(&more) == b"-":
            advance(&more, 1)
        if scan_digits(&more):
            s[0] = more
    return True


cdef bint take_word(Span* s, const char* word, Py_ssize_t size) noexcept nogil:
    if left(s) < size or memcmp(s.at, word, size) != 0:
        return False
    advance(s, size)
    return True


cdef bint scan_value(Scan* scan, Slice* found) noexcept nogil:
    cdef int byte = skip_space(scan)
    cdef Slice inner
    cdef bint is_done
    cdef int closing
    cdef Span s
    found.at = scan.s.at
    if byte == b'"':
        return scan_string(scan, found)
    if byte == b"{" or byte == b"[":
        closing = b"}" if byte == b"{" else b"]"
        if not open_container(scan, byte, &is_done):
            return False
        while not is_done:
            if byte == b"{" and not scan_key(scan, &inner):
                return False
            if not scan_value(scan, &inner) or not close_or_comma(scan, closing, &is_done):
                return False
    else:
        s = scan.s
        if take_word(&s, b"NaN", 3) or take_word(&s, b"Infinity", 8) or take_word(&s, b"-Infinity", 9):
            scan.constants += 1
        elif not (
            take_word(&s, b"true", 4) or take_word(&s, b"false", 5) or take_word(&s, b"null", 4)
        ):
            if not scan_number(&s):
                return fail(scan, BAD_VALUE if byte >= 0 else ENDS_EARLY)
        scan.s = s
    found.size = scan.s.at - found.at
    return True


cdef bint open_container(Scan* scan, int opening, bint* is_empty) noexcept nogil:
    """Go into an object or array, which stands here; if it is empty, through it."""
    cdef int closing = b"}" if opening == b"{" else b"]"
    scan.depth += 1
    if scan.depth > C_MAX_DEPTH:
        return fail(scan, TOO_DEEP)
    advance(&scan.s, 1)
    is_empty[0] = skip_space(scan) == closing
    if is_empty[0]:
        advance(&scan.s, 1)
        scan.depth -= 1
    return True


cdef bint scan_key(Scan* scan, Slice* key) noexcept nogil:
    if skip_space(scan) != b'"':
        return fail(scan, NO_KEY)
    if not scan_string(scan, key):
        return False
    if skip_space(scan) != b":":
        return fail(scan, NO_COLON)
    advance(&scan.s, 1)
    return True


cdef bint close_or_comma(Scan* scan, int closing, bint* is_closed) noexcept nogil:
    cdef int byte = skip_space(scan)
    if byte != b"," and byte != closing:
        return fail(scan, NO_COMMA if byte >= 0 else ENDS_EARLY)
    advance(&scan.s, 1)
    is_closed[0] = byte == closing
    if is_closed[0]:
        scan.depth -= 1
    return True


cdef bint scan_end(Scan* scan) noexcept nogil:
    if skip_space(scan) >= 0:
        return fail(scan, NO_END)
    return True


cdef str key_text(Slice key):
    """What a key means: its escapes resolved."""
    if memchr(key.at, b"\\", key.size) == NULL:
        return PyUnicode_DecodeUTF8(<const char*>key.at + 1, key.size - 2, NULL)
    return json.loads(PyBytes_FromStringAndSize(<const char*>key.at, key.size))


cdef bytes value_bytes(Slice value, bint has_constants):
    cdef bytes text = PyBytes_FromStringAndSize(<const char*>value.at, value.size)
    return without_constants(text) if has_constants else text


cdef bytes without_constants(bytes text):
    """Write null for every NaN, Infinity and -Infinity outside of strings. `text` is a checked value."""
    cdef Scan scan = scan_of(text)
    cdef Slice string
    cdef list pieces = []
    cdef const unsigned char* from_ = scan.s.at
    cdef int byte = peek(&scan.s)
    cdef Span s
    while byte >= 0:
        s = scan.s
        if byte == b'"':
            scan_string(&scan, &string)
        elif take_word(&s, b"NaN", 3) or take_word(&s, b"Infinity", 8) or take_word(&s, b"-Infinity", 9):
            pieces.append(PyBytes_FromStringAndSize(<const char*>from_, scan.s.at - from_))
            scan.s = s
            from_ = s.at
        else:
            advance(&scan.s, 1)
        byte = peek(&scan.s)
    pieces.append(PyBytes_FromStringAndSize(<const char*>from_, scan.s.at - from_))
    return b"null".join(pieces)


def members(bytes text not None):
    cdef Scan scan = scan_of(text)
    cdef Slice key
    cdef Slice value
    cdef bint is_done
    cdef list keys = []
    cdef list values = []
    cdef Py_ssize_t before
    if skip_space(&scan) != b"{":
        fail(&scan, NO_OBJECT)
        raise_fault(&scan)
    if not open_container(&scan, b"{", &is_done):
        raise_fault(&scan)
    while not is_done:
        if not scan_key(&scan, &key):
            raise_fault(&scan)
        before = scan.constants
        if not scan_value(&scan, &value):
            raise_fault(&scan)
        keys.append(key_text(key))
        values.append(value_bytes(value, scan.constants > before))
        if not close_or_comma(&scan, b"}", &is_done):
            raise_fault(&scan)
    if not scan_end(&scan):
        raise_fault(&scan)
    return dict(zip(keys, values))


def elements(bytes text not None):
    cdef Scan scan = scan_of(text)
    cdef Slice value
    cdef bint is_done
    cdef list values = []
    cdef Py_ssize_t before
    if skip_space(&scan) != b"[":
        fail(&scan, NO_ARRAY)
        raise_fault(&scan)
    if not open_container(&scan, b"[", &is_done):
        raise_fault(&scan)
    while not is_done:
        before = scan.constants
        if not scan_value(&scan, &value):
            raise_fault(&scan)
        values.append(value_bytes(value, scan.constants > before))
        if not close_or_comma(&scan, b"]", &is_done):
            raise_fault(&scan)
    if not scan_end(&scan):
        raise_fault(&scan)
    return values
