# gcodepass.pyx: whole gcode files read line by line: layers, tools, progress, motion (FilePass), objects (ObjectPass).
#
# Lines   end with "\n"; blanks and "\r" around them do not count. A line longer than MAX_LINE_BYTES is skipped.
# Words   numbers and motion: gcodeline.pxd.
# Memory  the unfinished line, and arrays that grow to named bounds; freed in __dealloc__. Nothing of a piece is kept.
# Threads the GIL is released for each piece; who feeds keeps the piece unchanged until feed() returns.
# Twin    moonfast/_pure/gcodepass.py; tests/twins/test_gcodepass.py.

import math

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport NAN, fabs, isnan, llrint
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from moonfast._speedups.gcodeline cimport (
    Motion,
    is_blank,
    is_digit,
    is_numbered,
    skip_blanks,
    skip_text,
    skip_word,
    strip,
    take_code,
    take_motion,
    take_number,
)
from moonfast._speedups.span cimport Span, advance, left, peek, span_of

cdef enum:
    C_MAX_LINE_BYTES = 64 * 1024
    C_MAX_LAYERS = 20000
    C_MAX_PROGRESS = 20000
    C_MAX_DEFINITION_BYTES = 1024 * 1024
    C_MAX_OBJECTS = 1000
    C_MAX_NAME_BYTES = 256
    C_MAX_EVENTS = 500000
    TOOLS = 256
    MAX_SHARE = 100  # percent
    MAX_MINUTES = 10000000
    HALF = 16  # directions of a hull; each one serves for its opposite, too

MAX_LINE_BYTES = C_MAX_LINE_BYTES
MAX_LAYERS = C_MAX_LAYERS
MAX_PROGRESS = C_MAX_PROGRESS
MAX_DEFINITION_BYTES = C_MAX_DEFINITION_BYTES
MAX_OBJECTS = C_MAX_OBJECTS
MAX_NAME_BYTES = C_MAX_NAME_BYTES
MAX_EVENTS = C_MAX_EVENTS
MAX_HULL_POINTS = 2 * HALF

cdef double SAME_LAYER_MM = 0.001
cdef double HULL_LIMIT_MM = 1e6  # beyond it nothing is printed, and products of micrometres would overflow
cdef long long[16] ACROSS  # directions, spread over half a circle; none is parallel to an axis or to a diagonal, where
cdef long long[16] ALONG  # all points of an edge would be equally far
cdef int _step
for _step in range(HALF):
    ACROSS[_step] = round(math.cos((_step + 0.5) * math.pi / HALF) * 4096)
    ALONG[_step] = round(math.sin((_step + 0.5) * math.pi / HALF) * 4096)


cdef bint make_room(void** array, Py_ssize_t item_bytes, Py_ssize_t count, Py_ssize_t* capacity) noexcept nogil:
    """Have room for one item more; False: no memory. Bounds are the caller's."""
    cdef Py_ssize_t wanted
    cdef void* moved
    if count < capacity[0]:
        return True
    wanted = capacity[0] * 2 if capacity[0] else 64
    moved = realloc(array[0], wanted * item_bytes)
    if moved == NULL:
        return False
    array[0] = moved
    capacity[0] = wanted
    return True


# Lines.

cdef class Lines:
    cdef unsigned char* kept  # of the unfinished line
    cdef long long line_bytes  # of the unfinished line, also what was not kept
    cdef long long line_at  # offset of the unfinished line
    cdef bint is_busy
    cdef bint is_finished
    cdef bint has_no_memory

    def __cinit__(self):
        self.kept = <unsigned char*>malloc(C_MAX_LINE_BYTES)
        if self.kept == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.kept)

    def feed(self, const unsigned char[::1] data not None):
        cdef Span s
        self.begin_work()
        if self.is_finished:
            self.is_busy = False
            raise ValueError("the pass is finished")
        if data.shape[0]:
            s = span_of(&data[0], data.shape[0])
            with nogil:
                self.take_piece(s)
        self.end_work()

    cdef int begin_work(self) except -1:
        if self.is_busy:
            raise RuntimeError("a pass is fed by one thread at a time")
        self.is_busy = True
        return 0

    cdef int end_work(self) except -1:
        self.is_busy = False
        if self.has_no_memory:
            raise MemoryError
        return 0

    cdef int end_last_line(self) except -1:
        self.begin_work()
        if not self.is_finished:
            self.is_finished = True
            self.end_line()
        self.end_work()
        return 0

    cdef void take_piece(self, Span s) noexcept nogil:
        cdef const unsigned char* hit
        cdef Py_ssize_t size
        while left(&s):
            hit = <const unsigned char*>memchr(s.at, c"\n", left(&s))
            if hit == NULL:
                self.keep(s)
                return
            size = hit - s.at
            if self.line_bytes:
                self.keep(span_of(s.at, size))
                self.end_line()
            else:
                if size <= C_MAX_LINE_BYTES:
                    self.take_stripped(span_of(s.at, size))
                self.line_at += size
            self.line_at += 1
            advance(&s, size + 1)

    cdef void keep(self, Span s) noexcept nogil:
        if self.line_bytes + left(&s) <= C_MAX_LINE_BYTES:
            memcpy(self.kept + self.line_bytes, s.at, left(&s))
        self.line_bytes += left(&s)

    cdef void end_line(self) noexcept nogil:
        if self.line_bytes <= C_MAX_LINE_BYTES:
            self.take_stripped(span_of(self.kept, self.line_bytes))
        self.line_at += self.line_bytes
        self.line_bytes = 0

    cdef void take_stripped(self, Span s) noexcept nogil:
        cdef Py_ssize_t size = left(&s)
        strip(&s)
        if left(&s):
            self.take_line(s, self.line_at, self.line_at + size + 1)

    cdef void take_line(self, Span s, long long at, long long end) noexcept nogil:
        """One line that is not empty: what is in it, the offsets where it begins and where the next one does."""


# Files.

cdef enum Marker:  # what tells that a layer begins, in the order in which it is believed
    CHANGE  # ;LAYER_CHANGE (PrusaSlicer and forks), ; CHANGE_LAYER (Bambu Studio)
    NUMBERED  # ;LAYER:3 (Cura, ideaMaker)
    BEFORE_CHANGE  # ;BEFORE_LAYER_CHANGE
    AFTER_CHANGE  # ;AFTER_LAYER_CHANGE
    WORDED  # ; layer 3, Z = 0.600 (Simplify3D)
    LAYER_OBJECT  # ; BEGIN_LAYER_OBJECT z=0.600 (KISSlicer)
    DASHED  # ;; --- layer 3 (0.2 @ 0.6) --- (Kiri:Moto)
    TAGGED  # ;<layer>3 (IceSL)
    COMMANDED  # SET_PRINT_STATS_INFO CURRENT_LAYER=3
    HEIGHT  # plastic is laid level at another height
    MARKERS


cdef struct Layer:
    long long at
    double z  # NaN: not known


cdef struct Layers:
    Layer* items
    Py_ssize_t stored
    Py_ssize_t capacity
    long long count


cdef struct Progress:
    long long at
    int percent
    int minutes  # -1: not given


cdef class FilePass(Lines):
    cdef bint has_motion
    cdef Motion motion
    cdef Layers[10] layers  # one per Marker
    cdef unsigned int waiting  # bit per Marker: the height of its last layer is not known yet
    cdef double level  # where plastic was laid last
    cdef double commanded  # the last CURRENT_LAYER
    cdef double object_z  # the last BEGIN_LAYER_OBJECT
    cdef unsigned int bounded  # bit per axis: low and high are known
    cdef double[3] low
    cdef double[3] high
    cdef unsigned char[256] tools
    cdef Progress* progress
    cdef Py_ssize_t progress_count
    cdef Py_ssize_t progress_capacity
    cdef unsigned char* definitions  # lines, each with its "\n"
    cdef Py_ssize_t definition_bytes

    def __cinit__(self, bint motion=True):
        self.has_motion = motion
        self.level = NAN
        self.commanded = NAN
        self.object_z = NAN

    def __dealloc__(self):
        cdef int marker
        for marker in range(<int>MARKERS):
            free(self.layers[marker].items)
        free(self.progress)
        free(self.definitions)

    def finish(self):
        cdef Py_ssize_t i
        cdef int marker
        cdef Layers* layers
        cdef double max_z = NAN
        cdef list definitions = []
        self.end_last_line()
        layers = &self.layers[self.best_marker()]
        for i in range(layers.stored):
            if isnan(max_z) or layers.items[i].z > max_z:
                max_z = layers.items[i].z
        if self.bounded & 4:
            max_z = self.high[2]
        if self.definition_bytes:
            definitions = PyBytes_FromStringAndSize(<char*>self.definitions, self.definition_bytes).split(b"\n")
            definitions.pop()  # behind the last "\n"
        return {
            "layer_count": layers.count,
            "layers": [(layers.items[i].at, known(layers.items[i].z)) for i in range(layers.stored)],
            "max_z": known(max_z),
            "bounds": {
                "min": [self.low[i] if self.bounded & 1 << i else None for i in range(3)],
                "max": [self.high[i] if self.bounded & 1 << i else None for i in range(3)],
            } if self.bounded else None,
            "tools": [i for i in range(TOOLS) if self.tools[i]],
            "progress": [
                (
                    self.progress[i].at,
                    self.progress[i].percent,
                    None if self.progress[i].minutes < 0 else self.progress[i].minutes,
                )
                for i in range(self.progress_count)
            ],
            "definitions": definitions,
        }

    cdef int best_marker(self) noexcept nogil:
        """The most believed one of those that are at least half as frequent as the most frequent."""
        cdef long long most = 0
        cdef int marker
        for marker in range(<int>HEIGHT):
            if self.layers[marker].count > most:
                most = self.layers[marker].count
        for marker in range(<int>HEIGHT):
            if most and self.layers[marker].count * 2 >= most:
                return marker
        return HEIGHT

    cdef void take_line(self, Span s, long long at, long long end) noexcept nogil:
        cdef int byte = peek(&s)
        if byte == c";":
            self.take_comment(&s, at)
            return
        byte |= 0x20
        if byte == c"g":
            if self.has_motion and take_motion(&self.motion, &s):
                self.lay(at)
        elif byte == c"m":
            self.take_machine(&s, at)
        elif byte == c"t":
            self.take_tool(&s)
        elif byte == c"e":
            if skip_word(&s, b"EXCLUDE_OBJECT_DEFINE"):
                self.take_definition(&s)
        elif byte == c"s":
            self.take_statistics(&s, at)

    cdef void take_comment(self, Span* s, long long at) noexcept nogil:
        cdef int byte
        cdef double z = NAN
        while peek(s) == c";":
            advance(s, 1)
        skip_blanks(s)
        byte = peek(s)
        if byte == c"L" or byte == c"l":
            if skip_word(s, b"LAYER_CHANGE"):
                self.begin_layer(CHANGE, at, NAN)
            elif skip_text(s, b"LAYER:"):
                if is_numbered(s):
                    self.begin_layer(NUMBERED, at, NAN)
            elif (skip_text(s, b"layer ") or skip_text(s, b"Layer ")) and is_digit(peek(s)):
                self.begin_layer(WORDED, at, z_behind(s, b"Z"))
        elif byte == c"C":
            if skip_word(s, b"CHANGE_LAYER"):
                self.begin_layer(CHANGE, at, NAN)
        elif byte == c"B":
            if skip_word(s, b"BEFORE_LAYER_CHANGE"):
                self.begin_layer(BEFORE_CHANGE, at, NAN)
            elif skip_word(s, b"BEGIN_LAYER_OBJECT"):
                z = z_behind(s, b"z")
                if not isnan(z) and z != self.object_z:
                    self.object_z = z
                    self.begin_layer(LAYER_OBJECT, at, z)
        elif byte == c"A":
            if skip_word(s, b"AFTER_LAYER_CHANGE"):
                self.begin_layer(AFTER_CHANGE, at, NAN)
        elif byte == c"-":
            if skip_text(s, b"--- layer ") and is_digit(peek(s)):
                self.begin_layer(DASHED, at, NAN)
        elif byte == c"<":
            if skip_text(s, b"<layer>") and is_digit(peek(s)):
                self.begin_layer(TAGGED, at, NAN)
        elif byte == c"Z":
            if skip_text(s, b"Z:") or skip_text(s, b"Z_HEIGHT:"):
                skip_blanks(s)
                if take_number(s, &z):
                    self.set_heights(z)

    cdef void take_machine(self, Span* s, long long at) noexcept nogil:
        cdef int code
        cdef int byte
        cdef double value
        cdef double percent = -1
        cdef double minutes = -1
        advance(s, 1)
        code = take_code(s)
        if code == 82 or code == 83:
            self.motion.is_relative_e = code == 83
        if code != 73 or self.progress_count == C_MAX_PROGRESS:
            return
        byte = peek(s)
        while byte >= 0 and byte != c";":
            advance(s, 1)
            byte |= 0x20
            if byte == c"p" or byte == c"r":
                skip_blanks(s)
                if take_number(s, &value):
                    if byte == c"p":
                        percent = value
                    else:
                        minutes = value
            byte = peek(s)
        if not 0 <= percent <= MAX_SHARE:
            return
        if not make_room(<void**>&self.progress, sizeof(Progress), self.progress_count, &self.progress_capacity):
            self.has_no_memory = True
            return
        self.progress[self.progress_count].at = at
        self.progress[self.progress_count].percent = <int>percent
        self.progress[self.progress_count].minutes = <int>minutes if 0 <= minutes <= MAX_MINUTES else -1
        self.progress_count += 1

    cdef void take_tool(self, Span* s) noexcept nogil:
        cdef int tool
        advance(s, 1)
        tool = take_code(s)
        if 0 <= tool < TOOLS and (left(s) == 0 or is_blank(peek(s)) or peek(s) == c";"):
            self.tools[tool] = 1

    cdef void take_statistics(self, Span* s, long long at) noexcept nogil:
        cdef double layer
        if not skip_word(s, b"SET_PRINT_STATS_INFO"):
            return
        while left(s):
            if skip_text(s, b"CURRENT_LAYER="):
                if take_number(s, &layer) and layer != self.commanded:
                    self.commanded = layer
                    self.begin_layer(COMMANDED, at, NAN)
                return
            advance(s, 1)

    cdef void take_definition(self, Span* s) noexcept nogil:
        cdef Py_ssize_t size
        skip_blanks(s)
        size = left(s)
        if self.definitions == NULL:
            self.definitions = <unsigned char*>malloc(C_MAX_DEFINITION_BYTES)
            if self.definitions == NULL:
                self.has_no_memory = True
                return
        if self.definition_bytes + size + 1 > C_MAX_DEFINITION_BYTES:
            return
        memcpy(self.definitions + self.definition_bytes, s.at, size)
        self.definitions[self.definition_bytes + size] = c"\n"
        self.definition_bytes += size + 1

    cdef void begin_layer(self, int marker, long long at, double z) noexcept nogil:
        cdef Layers* layers = &self.layers[marker]
        layers.count += 1
        self.waiting &= ~(1 << marker)
        if layers.stored == C_MAX_LAYERS:
            return
        if not make_room(<void**>&layers.items, sizeof(Layer), layers.stored, &layers.capacity):
            self.has_no_memory = True
            return
        layers.items[layers.stored].at = at
        layers.items[layers.stored].z = z
        layers.stored += 1
        if isnan(z):
            self.waiting |= 1 << marker

    cdef void set_heights(self, double z) noexcept nogil:
        """The height of the layers that began before it was said."""
        cdef int marker
        for marker in range(<int>MARKERS):
            if self.waiting & 1 << marker:
                self.layers[marker].items[<size_t>self.layers[marker].stored - 1].z = z
        self.waiting = 0

    cdef void lay(self, long long at) noexcept nogil:
        """Plastic is laid from motion.start to motion.position."""
        cdef Motion* m = &self.motion
        cdef int axis
        for axis in range(3):
            if m.start_known & 1 << axis:
                self.widen(axis, m.start[axis])
            if m.known & 1 << axis:
                self.widen(axis, m.position[axis])
        if not m.known & 4:
            return
        if self.waiting:
            self.set_heights(m.position[2])
        if m.start_known & 4 and m.start[2] == m.position[2]:
            if not fabs(self.level - m.position[2]) <= SAME_LAYER_MM:
                self.level = m.position[2]
                self.begin_layer(HEIGHT, at, self.level)

    cdef inline void widen(self, int axis, double value) noexcept nogil:
        if not self.bounded & 1 << axis:
            self.bounded |= 1 << axis
            self.low[axis] = value
            self.high[axis] = value
        elif value < self.low[axis]:
            self.low[axis] = value
        elif value > self.high[axis]:
            self.high[axis] = value


cdef known(double value):
    return None if isnan(value) else value


cdef double z_behind(Span* s, const char* letter) noexcept nogil:
    """The number behind `letter` and an equals sign, NaN if there is none."""
    cdef double z
    while left(s) and not skip_text(s, letter):
        advance(s, 1)
    skip_blanks(s)
    if peek(s) != c"=":
        return NAN
    advance(s, 1)
    skip_blanks(s)
    return z if take_number(s, &z) else NAN


# Objects.

cdef enum Dialect:
    UNKNOWN
    SLIC3R  # ; printing object NAME id:0 copy 0 ... ; stop printing object
    CURA  # ;MESH:NAME ... ;MESH:NONMESH, ;LAYER:, ;TIME_ELAPSED:, ;End of Gcode
    IDEAMAKER  # ;PRINTING: NAME, ;PRINTING_ID: 0 ... ;PRINTING_ID: -1
    MARLIN  # M486 S0, M486 ANAME ... M486 S-1

cdef enum EventKind:
    START
    END
    SILENCE

DIALECTS = (None, "slic3r", "cura", "ideamaker", "m486")
cdef tuple EVENTS = ("start", "end", "silence")


cdef struct Label:
    unsigned char[256] text  # C_MAX_NAME_BYTES
    Py_ssize_t size


cdef struct Thing:  # an object of the print
    Label key
    Label name
    bint has_points
    long long[32] x  # micrometres; of the point that is farthest in each direction
    long long[32] y
    long long[32] reach


cdef struct Event:
    long long at
    int kind
    int index


cdef void set_label(Label* label, Span* s) noexcept nogil:
    strip(s)
    label.size = left(s) if left(s) < C_MAX_NAME_BYTES else C_MAX_NAME_BYTES
    memcpy(label.text, s.at, label.size)


cdef inline void reach_out(Thing* thing, double x_mm, double y_mm) noexcept nogil:
    """Take a point into the hull."""
    cdef long long x, y, distance
    cdef int i
    if not (fabs(x_mm) < HULL_LIMIT_MM and fabs(y_mm) < HULL_LIMIT_MM):
        return
    x = llrint(x_mm * 1000)
    y = llrint(y_mm * 1000)
    for i in range(HALF):
        distance = x * ACROSS[i] + y * ALONG[i]
        if distance > thing.reach[i] or not thing.has_points:
            thing.reach[i] = distance
            thing.x[i] = x
            thing.y[i] = y
        if -distance > thing.reach[i + HALF] or not thing.has_points:
            thing.reach[i + HALF] = -distance
            thing.x[i + HALF] = x
            thing.y[i + HALF] = y
    thing.has_points = True


cdef class ObjectPass(Lines):
    cdef bint has_motion
    cdef Motion motion
    cdef int dialect
    cdef bint is_marked
    cdef long long definitions_at  # -1: not known yet
    cdef Thing* things
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef Py_ssize_t current  # -1: none
    cdef bint is_continued  # where this move begins is in the hull already
    cdef Label spoken  # the last ;PRINTING:
    cdef Event* events
    cdef Py_ssize_t event_count
    cdef Py_ssize_t event_capacity
    cdef bint has_lost_events

    def __cinit__(self, bint motion=True, dialect=None):
        self.has_motion = motion
        if dialect not in DIALECTS:
            raise ValueError(f"there is no dialect {dialect!r}")
        self.dialect = DIALECTS.index(dialect)
        self.definitions_at = -1
        self.current = -1

    def __dealloc__(self):
        free(self.things)
        free(self.events)

    def take_events(self):
        cdef Py_ssize_t i
        cdef list taken
        if self.has_lost_events:
            raise ValueError(f"there are more than {C_MAX_EVENTS} events: take them more often")
        taken = [(self.events[i].at, EVENTS[self.events[i].kind], self.events[i].index) for i in range(self.event_count)]
        self.event_count = 0
        return taken

    def finish(self):
        cdef Py_ssize_t i
        self.end_last_line()
        return {
            "dialect": DIALECTS[self.dialect],
            "is_marked": self.is_marked,
            "definitions_at": None if self.definitions_at < 0 else self.definitions_at,
            "current": None if self.current < 0 else self.current,
            "objects": [
                (text_of(&self.things[i].key), text_of(&self.things[i].name), points_of(&self.things[i]))
                for i in range(self.count)
            ],
        }

    cdef void take_line(self, Span s, long long at, long long end) noexcept nogil:
        cdef int byte = peek(&s)
        cdef int code
        if byte == c";":
            self.take_comment(&s, end)
            return
        if self.definitions_at < 0:
            self.definitions_at = at
        byte |= 0x20
        if byte == c"g":
            if self.has_motion:
                if take_motion(&self.motion, &s):
                    self.lay()
                else:
                    self.is_continued = False
        elif byte == c"m":
            advance(&s, 1)
            code = take_code(&s)
            if code == 82 or code == 83:
                self.motion.is_relative_e = code == 83
            elif code == 486:
                self.add_event(SILENCE, at, -1)
                self.take_label(&s, end)
        elif byte == c"e":
            if skip_word(&s, b"EXCLUDE_OBJECT_START"):
                self.is_marked = True
            elif skip_word(&s, b"EXCLUDE_OBJECT_DEFINE"):
                skip_blanks(&s)
                if not skip_text(&s, b"RESET"):
                    self.is_marked = True

    cdef void take_comment(self, Span* s, long long end) noexcept nogil:
        cdef int byte
        advance(s, 1)
        skip_blanks(s)
        byte = peek(s)
        if byte == c"p":
            if skip_text(s, b"printing object "):
                self.begin_object(SLIC3R, s, NULL, end)
        elif byte == c"s":
            if skip_word(s, b"stop printing object"):
                self.end_object(SLIC3R, end)
        elif byte == c"M":
            if skip_text(s, b"MESH:"):
                if skip_word(s, b"NONMESH"):
                    self.end_object(CURA, end)
                else:
                    self.begin_object(CURA, s, NULL, end)
        elif byte == c"L":
            if skip_text(s, b"LAYER:"):
                self.end_object(CURA, end)
        elif byte == c"T":
            if skip_text(s, b"TIME_ELAPSED:"):
                self.end_object(CURA, end)
        elif byte == c"E":
            if skip_text(s, b"End of Gcode"):
                self.end_object(CURA, end)
        elif byte == c"P":
            if skip_text(s, b"PRINTING:"):
                set_label(&self.spoken, s)
            elif skip_text(s, b"PRINTING_ID:"):
                self.take_index(IDEAMAKER, s, &self.spoken, end)

    cdef void take_label(self, Span* s, long long end) noexcept nogil:
        """The words of M486: S is an index, A a name up to the end of the line."""
        cdef int byte
        while left(s) and peek(s) != c";":
            byte = peek(s) | 0x20
            advance(s, 1)
            if byte == c"s":
                self.take_index(MARLIN, s, NULL, end)
            elif byte == c"a":
                if self.dialect == MARLIN and self.current >= 0:
                    set_label(&self.things[self.current].name, s)
                return

    cdef void take_index(self, int dialect, Span* s, Label* name, long long end) noexcept nogil:
        """An object told by its index; a negative one is none."""
        cdef Span digits
        skip_blanks(s)
        if peek(s) == c"-":
            self.end_object(dialect, end)
            return
        digits = s[0]
        while is_digit(peek(s)):
            advance(s, 1)
        digits.end = s.at
        if left(&digits):
            self.begin_object(dialect, &digits, name, end)

    cdef void begin_object(self, int dialect, Span* key, Label* name, long long end) noexcept nogil:
        cdef Py_ssize_t index
        cdef Label label
        if self.dialect == UNKNOWN:
            self.dialect = dialect
        if self.dialect != dialect:
            return
        set_label(&label, key)
        index = self.find(&label)
        if index == self.current:
            return
        self.end_object(dialect, end)
        if index < 0:
            return
        if name != NULL:
            self.things[index].name = name[0]
        if self.definitions_at < 0:
            self.definitions_at = end
        self.current = index
        self.add_event(START, end, index)

    cdef void end_object(self, int dialect, long long end) noexcept nogil:
        if self.dialect == dialect and self.current >= 0:
            self.add_event(END, end, self.current)
            self.current = -1
        self.is_continued = False

    cdef Py_ssize_t find(self, Label* key) noexcept nogil:
        """Index of the object, which is made if it is new; -1: there are too many."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.things[i].key.size == key.size and memcmp(self.things[i].key.text, key.text, key.size) == 0:
                return i
        if self.count == C_MAX_OBJECTS:
            return -1
        if not make_room(<void**>&self.things, sizeof(Thing), self.count, &self.capacity):
            self.has_no_memory = True
            return -1
        memset(&self.things[self.count], 0, sizeof(Thing))
        self.things[self.count].key = key[0]
        self.count += 1
        return self.count - 1

    cdef void lay(self) noexcept nogil:
        cdef Motion* m = &self.motion
        if self.current < 0:
            return
        if not self.is_continued and m.start_known & 3 == 3:
            reach_out(&self.things[self.current], m.start[0], m.start[1])
        if m.known & 3 == 3:
            reach_out(&self.things[self.current], m.position[0], m.position[1])
        self.is_continued = True

    cdef void add_event(self, int kind, long long at, int index) noexcept nogil:
        if self.has_motion:
            return
        if self.event_count == C_MAX_EVENTS:
            self.has_lost_events = True
            return
        if not make_room(<void**>&self.events, sizeof(Event), self.event_count, &self.event_capacity):
            self.has_no_memory = True
            return
        self.events[self.event_count].at = at
        self.events[self.event_count].kind = kind
        self.events[self.event_count].index = index
        self.event_count += 1


cdef bytes text_of(Label* label):
    return PyBytes_FromStringAndSize(<char*>label.text, label.size)


cdef list points_of(Thing* thing):
    """The points of the hull, counterclockwise, each once."""
    cdef list points = []
    cdef int i
    if thing.has_points:
        for i in range(2 * HALF):
            if i == 0 or thing.x[i] != thing.x[i - 1] or thing.y[i] != thing.y[i - 1]:
                points.append((thing.x[i], thing.y[i]))
        if len(points) > 1 and points[0] == points[len(points) - 1]:
            points.pop()
    return points
