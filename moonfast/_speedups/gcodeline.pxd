# gcodeline.pxd: what stands in a line of gcode, and where the head is after it.
#
# Numbers 15 digits; more integer digits make no number, more decimals are dropped. No exponents (E is an axis).
# Motion  as Klipper reads it (Klipper docs/G-Codes.md): G0 to G3, G28, G90, G91, G92, M82, M83; G91 holds for E, too.
# Bounds  every byte is read through Span.

from libc.string cimport memcmp, memset, strlen

from moonfast._speedups.span cimport Span, advance, left, peek

cdef extern from *:
    """
    static const double POWERS[16] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    };
    static const long long MANTISSA_LIMIT = 100000000000000;
    """
    const double[16] POWERS
    const long long MANTISSA_LIMIT  # one digit more is still exact in a double

cdef enum:
    MAX_DECIMALS = 15


# Text.

cdef inline bint is_digit(int byte) noexcept nogil:
    return c"0" <= byte <= c"9"


cdef inline bint is_blank(int byte) noexcept nogil:
    return byte == c" " or byte == c"\t" or byte == c"\r"


cdef inline void skip_blanks(Span* s) noexcept nogil:
    while is_blank(peek(s)):
        advance(s, 1)


cdef inline void strip(Span* s) noexcept nogil:
    skip_blanks(s)
    while left(s) and is_blank((s.end - 1)[0]):
        s.end -= 1


cdef inline bint skip_text(Span* s, const char* text) noexcept nogil:
    """Go over the text if it stands here."""
    cdef Py_ssize_t size = strlen(text)
    if left(s) < size or memcmp(s.at, text, size):
        return False
    advance(s, size)
    return True


cdef inline bint skip_word(Span* s, const char* text) noexcept nogil:
    """Go over the text if it stands here and a blank or the end follows."""
    cdef Span behind = s[0]
    if not skip_text(&behind, text) or not (left(&behind) == 0 or is_blank(peek(&behind))):
        return False
    s[0] = behind
    return True


cdef inline bint is_numbered(Span* s) noexcept nogil:
    """Whether an integer stands here, after blanks."""
    skip_blanks(s)
    if peek(s) == c"-":
        advance(s, 1)
    return is_digit(peek(s))


cdef inline bint take_number(Span* place, double* value) noexcept nogil:
    """Read a number; what looks like one is gone over even if it is none."""
    cdef Span s = place[0]  # in registers
    cdef long long mantissa = 0
    cdef int decimals = 0
    cdef int byte = peek(&s)
    cdef bint is_negative = byte == c"-"
    cdef bint has_digits = False
    cdef bint is_large = False
    if byte == c"-" or byte == c"+":
        advance(&s, 1)
        byte = peek(&s)
    while is_digit(byte):
        if mantissa < MANTISSA_LIMIT:
            mantissa = mantissa * 10 + (byte - c"0")
        else:
            is_large = True
        has_digits = True
        advance(&s, 1)
        byte = peek(&s)
    if byte == c".":
        advance(&s, 1)
        byte = peek(&s)
        while is_digit(byte):
            if mantissa < MANTISSA_LIMIT and decimals < MAX_DECIMALS:
                mantissa = mantissa * 10 + (byte - c"0")
                decimals += 1
            has_digits = True
            advance(&s, 1)
            byte = peek(&s)
    place[0] = s
    if is_large or not has_digits:
        return False
    value[0] = <double>mantissa / POWERS[decimals]
    if is_negative and mantissa:
        value[0] = -value[0]
    return True


cdef inline int take_code(Span* s) noexcept nogil:
    """The number of a command, as the 28 of G28, or -1: there is none, or it goes on (G92.1)."""
    cdef int code = 0
    cdef int digits = 0
    cdef int byte = peek(s)
    while is_digit(byte):
        if digits == 3:
            return -1
        code = code * 10 + (byte - c"0")
        digits += 1
        advance(s, 1)
        byte = peek(s)
    return -1 if digits == 0 or byte == c"." or byte == c"_" else code


# Motion.

cdef struct Motion:
    double[4] position  # X, Y, Z of the machine in mm; E as the file counts it
    double[3] base  # what G92 moved: position = base + coordinate
    unsigned int known  # bit per axis: the position is known
    double[3] start  # where the last move began
    unsigned int start_known
    bint is_relative
    bint is_relative_e


cdef inline unsigned int take_words(Span s, double* values, unsigned int* seen) noexcept nogil:
    """Read the words X, Y, Z and E; returns a bit per word that has a number, `seen` gets one per letter."""
    cdef unsigned int given = 0
    cdef int byte = peek(&s)
    cdef int axis
    seen[0] = 0
    while byte >= 0 and byte != c";":
        advance(&s, 1)
        byte |= 0x20
        axis = byte - c"x" if c"x" <= byte <= c"z" else 3 if byte == c"e" else -1
        if axis >= 0:
            seen[0] |= 1 << axis
            skip_blanks(&s)
            if take_number(&s, &values[axis]):
                given |= 1 << axis
        byte = peek(&s)
    return given


cdef inline bint move(Motion* m, Span* s, bint is_arc) noexcept nogil:
    """Apply G0 to G3; whether plastic is laid: E goes forward and the head elsewhere."""
    cdef double[4] values
    cdef unsigned int seen
    cdef unsigned int given = take_words(s[0], values, &seen)
    cdef bint is_moved = is_arc
    cdef bint is_extruding = False
    cdef double target
    cdef int axis
    m.start_known = m.known
    for axis in range(3):
        m.start[axis] = m.position[axis]
        if not given & 1 << axis:
            continue
        if m.is_relative:
            is_moved |= values[axis] != 0
            m.position[axis] += values[axis]
        else:
            target = m.base[axis] + values[axis]
            is_moved |= target != m.position[axis] or not m.known & 1 << axis
            m.position[axis] = target
            m.known |= 1 << axis
    if given & 8:
        if m.is_relative or m.is_relative_e:
            is_extruding = values[3] > 0
            m.position[3] += values[3]
        else:
            is_extruding = values[3] > m.position[3]
            m.position[3] = values[3]
    return is_moved and is_extruding


cdef inline void set_coordinates(Motion* m, Span* s) noexcept nogil:
    """G92: say what the coordinates of this place are; without words, all are 0."""
    cdef double[4] values
    cdef unsigned int seen
    cdef unsigned int given = take_words(s[0], values, &seen)
    cdef int axis
    if not seen:
        memset(values, 0, sizeof(values))
        given = 15
    for axis in range(3):
        if given & 1 << axis:
            m.base[axis] = m.position[axis] - values[axis] if m.known & 1 << axis else 0.0
    if given & 8:
        m.position[3] = values[3]


cdef inline void home(Motion* m, Span* s) noexcept nogil:
    """G28: where the axes stand afterwards only the printer knows."""
    cdef double[4] values
    cdef unsigned int seen
    cdef int axis
    take_words(s[0], values, &seen)
    for axis in range(3):
        if seen & 1 << axis or not seen & 7:
            m.base[axis] = 0
            m.position[axis] = 0
            m.known &= ~(1 << axis)


cdef inline bint take_motion(Motion* m, Span* s) noexcept nogil:
    """Apply a line that begins with G; whether plastic is laid."""
    cdef int code
    advance(s, 1)
    code = take_code(s)
    if 0 <= code <= 3:
        return move(m, s, code >= 2)
    if code == 28:
        home(m, s)
    elif code == 90 or code == 91:
        m.is_relative = code == 91
    elif code == 92:
        set_coordinates(m, s)
    return False
