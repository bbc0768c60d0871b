# gcodescan.pyx: head and tail of a gcode file: what its comments say, where its pictures and commands lie.
#
# Lines   end with "\n"; blanks and "\r" around their text do not count. A piece begins and ends anywhere.
# Finding by memchr for the rare byte of each thing (";", "M", "Z"), so that moves cost next to nothing.
# Memory  only what is returned; MAX_LINES and MAX_KEYS bound it.
# Twin    moonfast/_pure/gcodescan.py; tests/twins/test_gcodescan.py.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_SetDefault, PyDict_SetItem, PyDict_Size
from libc.string cimport memchr, memcmp

from moonfast._speedups.gcodeline cimport is_blank, is_digit, strip, take_number
from moonfast._speedups.span cimport Span, advance, left, peek, span_of

cdef extern from "string.h" nogil:
    void* memmem(const void*, size_t, const void*, size_t)  # of glibc and musl, as memrchr is
    void* memrchr(const void*, int, size_t)

cdef enum:
    C_MAX_LINES = 200
    C_MAX_KEYS = 4096

MAX_LINES = C_MAX_LINES
MAX_KEYS = C_MAX_KEYS

ctypedef const unsigned char* Place


cdef inline Span whole(bytes data) noexcept:
    return span_of(<Place>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline bytes text_of(Span s):
    return PyBytes_FromStringAndSize(<const char*>s.at, left(&s))


cdef inline bint go_to_byte(Span* s, int byte) noexcept nogil:
    """Go to where the byte is next; False: nowhere."""
    cdef Place found = <Place>memchr(s.at, byte, left(s))
    if found == NULL:
        return False
    s.at = found
    return True


cdef inline bint go_to_text(Span* s, const char* text, Py_ssize_t size) noexcept nogil:
    cdef Place found = <Place>memmem(s.at, left(s), text, size)
    if found == NULL:
        return False
    s.at = found
    return True


cdef inline Span take_line(Span* s) noexcept nogil:
    """The rest of the line without its end; `s` goes behind it."""
    cdef Span line = s[0]
    if go_to_byte(s, c"\n"):
        line.end = s.at
        advance(s, 1)
    else:
        s.at = s.end
    return line


cdef inline Span line_at(Span s) noexcept nogil:
    return take_line(&s)


cdef inline bint begins_line(Place begin, Place at) noexcept nogil:
    return at == begin or (at - 1)[0] == c"\n"


cdef inline bint stands_at(Span s, const char* text, Py_ssize_t size) noexcept nogil:
    return left(&s) >= size and memcmp(s.at, text, size) == 0


cdef inline bint has(Span s, const char* text, Py_ssize_t size) noexcept nogil:
    return memmem(s.at, left(&s), text, size) != NULL


# Comments.

cdef bint add_key(Span text, dict first, dict last) except -1:
    """Take the key and the value of one comment."""
    cdef Span at = text
    cdef Span key, value
    cdef int byte
    cdef Py_ssize_t index
    cdef unsigned char* letters
    advance(&at, 1)
    byte = peek(&at)
    while byte >= 0 and byte != c"=" and byte != c":" and byte != c",":
        advance(&at, 1)
        byte = peek(&at)
    if byte < 0:
        return False
    key = span_of(text.at, at.at - text.at)
    value = span_of(at.at + 1, at.end - at.at - 1)
    strip(&key)
    strip(&value)
    name = PyBytes_FromStringAndSize(NULL, left(&key))
    letters = <unsigned char*>PyBytes_AS_STRING(name)
    for index in range(left(&key)):
        byte = key.at[index]
        letters[index] = byte | 0x20 if c"A" <= byte <= c"Z" else byte
    if PyDict_Size(last) >= C_MAX_KEYS and not PyDict_Contains(last, name):
        return False
    said = text_of(value)
    PyDict_SetItem(last, name, said)
    PyDict_SetDefault(first, name, said)
    return True


def comments(bytes data not None, dict first not None, dict last not None):
    cdef Span s = whole(data)
    cdef Span text, behind
    cdef Place begin = s.at
    cdef Py_ssize_t count = 0
    cdef list lines = []
    while go_to_byte(&s, c";"):
        if not begins_line(begin, s.at):
            advance(&s, 1)
            continue
        advance(&s, 1)
        text = take_line(&s)
        strip(&text)
        if left(&text) == 0:
            continue
        if count < C_MAX_LINES:
            lines.append(text_of(text))
            count += 1
        add_key(text, first, last)
        if stands_at(text, b"thumbnail", 9) and has(text, b" begin ", 7):
            behind = s
            if go_to_text(&behind, b"thumbnail", 9):  # the line that ends the picture
                take_line(&behind)
                s = behind
    return lines


cdef inline bint go_to_mark(Span* s, Place begin) noexcept nogil:
    """Go to the next line that says where a picture begins or ends."""
    while go_to_text(s, b"; thumbnail", 11):
        if begins_line(begin, s.at):
            return True
        advance(s, 11)
    return False


def pictures(bytes data not None):
    cdef Span s = whole(data)
    cdef Span line, body
    cdef Place begin = s.at
    cdef list found = []
    while go_to_mark(&s, begin):
        advance(&s, 11)
        line = take_line(&s)
        strip(&line)
        if not has(line, b"begin ", 6):
            continue
        body = s
        if not go_to_mark(&s, begin):
            break
        body.end = s.at
        if has(line_at(s), b" end", 4):
            found.append((text_of(line), text_of(body).translate(None, b"; \t\r\n")))
    return found


# Commands.

cdef inline bint is_command(Span s) noexcept nogil:
    cdef int byte = peek(&s)
    advance(&s, 1)
    return (byte == c"G" or byte == c"M") and is_digit(peek(&s))


def first_command(bytes data not None):
    cdef Span s = whole(data)
    cdef Place begin = s.at
    while left(&s):
        if is_command(s):
            return s.at - begin
        take_line(&s)
    return -1


def last_command_end(bytes data not None):
    cdef Span s = whole(data)
    cdef Place begin = s.at
    cdef Place line
    cdef Place limit = s.end  # everything from here on has been looked at
    while limit > begin:
        line = <Place>memrchr(begin, c"\n", limit - begin)
        line = line + 1 if line != NULL else begin
        s.at = line
        if is_command(s):
            advance(&s, 1)
            while is_digit(peek(&s)):
                advance(&s, 1)
            if is_blank(peek(&s)):
                take_line(&s)
                return s.at - begin
            s.at = line
            if go_to_byte(&s, c"\n"):
                advance(&s, 1)
                if go_to_byte(&s, c"\n"):
                    return s.at + 1 - begin
        if line == begin:
            break
        limit = line - 1
    return -1


def heights(bytes data not None):
    cdef Span s = whole(data)
    cdef Place begin = s.at
    cdef double first = -1.0
    cdef double greatest = -1.0
    cdef double value
    with nogil:
        while go_to_byte(&s, c"Z"):
            advance(&s, 1)
            if s.at - begin < 5 or not (memcmp(s.at - 5, b"\nG1 ", 4) == 0 or memcmp(s.at - 5, b"\nG0 ", 4) == 0):
                continue
            if take_number(&s, &value) and value >= 0.0:
                if first < 0.0:
                    first = value
                if value > greatest:
                    greatest = value
    return None if first < 0.0 else (first, greatest)


def setpoint(bytes data not None, tuple codes not None):
    cdef Span s = whole(data)
    cdef Span line
    cdef Place begin = s.at
    cdef double value
    cdef bytes code
    while go_to_byte(&s, c"M"):
        if not begins_line(begin, s.at):
            advance(&s, 1)
            continue
        line = take_line(&s)
        for code in codes:
            if stands_at(line, PyBytes_AS_STRING(code), PyBytes_GET_SIZE(code)):
                advance(&line, PyBytes_GET_SIZE(code))
                if peek(&line) == c" " and take_s(line, &value) and value > 0.0:
                    return value
    return None


cdef inline bint take_s(Span line, double* value) noexcept nogil:
    """The number behind the first S that a blank goes before."""
    cdef Span comment = line
    if go_to_byte(&comment, c";"):
        line.end = comment.at
    while go_to_byte(&line, c" "):
        advance(&line, 1)
        if peek(&line) == c"S":
            advance(&line, 1)
            return take_number(&line, value)
    return False
