# rings.pyx: rings of fixed capacity, of numbers and of messages.
#
# Memory  SeriesRing: one array of doubles, allocated in __cinit__, freed in __dealloc__; MessageRing: one list.
# Bounds  `first` is below the capacity and `count` not above it; every index goes through position().
# Twin    moonfast/_pure/rings.py; tests/twins/test_rings.py.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.math cimport NAN, fabs, isfinite, isnan, llrint
from libc.string cimport memcpy

cdef enum:
    FAST_DECIMALS = 4  # repr() writes a smaller number with an exponent
    NUMBER_BYTES = 25  # the longest repr(float), as of -2.2250738585072014e-308, and a comma
cdef double FAST_LIMIT = 1e9  # below it value * 10**FAST_DECIMALS is exact enough to find the integer it stands for


cdef int check_capacity(Py_ssize_t capacity) except -1:
    if capacity < 1:
        raise ValueError(f"the capacity of a ring is at least 1, not {capacity}")
    return 0


cdef Py_ssize_t write_number(char* out, double value, long long scale) noexcept nogil:
    """Write a value that is a multiple of 1/scale, below FAST_LIMIT, as repr() does; return how many bytes."""
    cdef long long units = llrint(fabs(value) * scale)
    cdef long long whole = units // scale
    cdef long long fraction = units % scale
    cdef char digits[NUMBER_BYTES]
    cdef Py_ssize_t size = 0, i = 0
    if value < 0:
        out[size] = c"-"
        size += 1
    while True:
        digits[i] = <char>(c"0" + whole % 10)
        whole //= 10
        i += 1
        if whole == 0:
            break
    while i:
        i -= 1
        out[size] = digits[i]
        size += 1
    out[size] = c"."
    size += 1
    if fraction == 0:
        out[size] = c"0"
        return size + 1
    while fraction:
        scale //= 10
        out[size] = <char>(c"0" + fraction // scale)
        fraction %= scale
        size += 1
    return size


cdef class SeriesRing:
    cdef double* samples  # a missing one is NaN
    cdef Py_ssize_t capacity
    cdef Py_ssize_t first  # index of the oldest
    cdef Py_ssize_t count
    cdef int decimals
    cdef long long scale  # 10**decimals, up to FAST_DECIMALS

    def __cinit__(self, Py_ssize_t capacity, int decimals=2):
        check_capacity(capacity)
        if not 0 <= decimals <= 15:
            raise ValueError(f"decimals are 0 to 15, not {decimals}")
        self.samples = <double*>PyMem_Calloc(capacity, sizeof(double))  # it knows when the product is too large
        if self.samples == NULL:
            raise MemoryError
        self.capacity = capacity
        self.decimals = decimals
        self.scale = (1, 10, 100, 1000, 10000)[min(decimals, FAST_DECIMALS)]

    def __dealloc__(self):
        PyMem_Free(self.samples)

    def __len__(self):
        return self.count

    def append(self, value):
        cdef double sample = self.rounded(value)
        if self.count < self.capacity:
            self.count += 1
        else:
            self.first = self.position(1)
        self.samples[self.position(self.count - 1)] = sample

    def fill(self, value):
        cdef double sample = self.rounded(value)
        cdef Py_ssize_t i
        for i in range(self.capacity):
            self.samples[i] = sample
        self.first = 0
        self.count = self.capacity

    def values(self):
        cdef Py_ssize_t i
        cdef double sample
        cdef list values = []
        for i in range(self.count):
            sample = self.samples[self.position(i)]
            values.append(None if isnan(sample) else sample)
        return values

    def json(self):
        cdef char* text = <char*>PyMem_Malloc(self.count * NUMBER_BYTES + 2)
        cdef Py_ssize_t size = 1, i
        cdef double sample
        cdef bytes slow
        if text == NULL:
            raise MemoryError
        try:
            text[0] = c"["
            for i in range(self.count):
                sample = self.samples[self.position(i)]
                if i:
                    text[size] = c","
                    size += 1
                if isnan(sample):
                    memcpy(text + size, b"null", 4)
                    size += 4
                elif self.decimals <= FAST_DECIMALS and fabs(sample) < FAST_LIMIT:
                    size += write_number(text + size, sample, self.scale)
                else:
                    slow = repr(sample).encode()
                    memcpy(text + size, PyBytes_AS_STRING(slow), PyBytes_GET_SIZE(slow))
                    size += PyBytes_GET_SIZE(slow)
            text[size] = c"]"
            return PyBytes_FromStringAndSize(text, size + 1)
        finally:
            PyMem_Free(text)

    cdef inline Py_ssize_t position(self, Py_ssize_t age) noexcept:
        """Index of a sample; age 0 is the oldest, at most `capacity` counts."""
        cdef Py_ssize_t at = self.first + age
        return at if at < self.capacity else at - self.capacity

    cdef double rounded(self, value) except? -1.0:
        cdef double number
        if value is None:
            return NAN
        number = value
        if not isfinite(number):
            return NAN
        return <double>round(number, self.decimals) + 0.0  # + 0.0: never "-0.0"


cdef class MessageRing:
    cdef readonly Py_ssize_t nbytes
    cdef list messages  # up to `capacity`; then the slot of the oldest is the next to be written
    cdef Py_ssize_t capacity
    cdef Py_ssize_t first  # index of the oldest

    def __cinit__(self, Py_ssize_t capacity):
        check_capacity(capacity)
        self.capacity = capacity
        self.messages = []

    def __len__(self):
        return len(self.messages)

    def append(self, bytes message not None):
        self.nbytes += PyBytes_GET_SIZE(message)
        if len(self.messages) < self.capacity:
            self.messages.append(message)
            return
        self.nbytes -= PyBytes_GET_SIZE(<bytes>self.messages[self.first])
        self.messages[self.first] = message
        self.first = self.first + 1 if self.first + 1 < self.capacity else 0

    def tail(self, count=None):
        cdef list ordered = self.messages[self.first :] + self.messages[: self.first]
        if count is None:
            return ordered
        return ordered[max(len(ordered) - count, 0) :] if count > 0 else []

    def json(self, count=None):
        return b"[" + b",".join(self.tail(count)) + b"]"
