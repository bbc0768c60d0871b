# status.pyx: the last value of every printer object field, and what changed for whom.
#
# Theory  moonfast/_pure/status.py, at its top. This is the same; an update is located by one scan over its bytes, and the
#         pieces that groups splice are made at most once for each update.
# Memory  values are copies, as the update's bytes would be kept whole otherwise.
# Bounds  nothing is read but through jsonspan's Scan; written through a pointer is only in `joined`, which has counted
#         the bytes first. The table holds what Klippy was asked for, and no more.
# Twin    moonfast/_pure/status.py; tests/twins/test_status.py.

import json
from json.encoder import encode_basestring
from weakref import WeakValueDictionary

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.set cimport PySet_Contains
from libc.string cimport memcpy

from moonfast._speedups.jsonspan cimport (
    NO_OBJECT,
    Scan,
    Slice,
    close_or_comma,
    key_text,
    open_container,
    raise_fault,
    scan_end,
    scan_key,
    scan_of,
    scan_value,
    skip_space,
    value_bytes,
)

from moonfast.errors import SpanError

cdef bytes C_NOTIFICATION = b'{"jsonrpc":"2.0","method":"notify_status_update","params":[{'
NOTIFICATION = C_NOTIFICATION


def quote(str text not None):
    try:
        return encode_basestring(text).encode()  # json.dumps without a new encoder for each of a thousand names
    except UnicodeEncodeError:
        return json.dumps(text).encode()


cdef unsigned char* put(unsigned char* at, bytes part) noexcept:
    """Copy a part to `at`, which has room for it; return where it ends."""
    memcpy(at, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
    return at + PyBytes_GET_SIZE(part)


cdef bytes joined(bytes head, bytes opening, list pieces, bytes closing, bytes tail):
    """head, opening, the pieces (bytes) with commas between, closing, tail: one allocation, every byte copied once."""
    cdef Py_ssize_t count = len(pieces)
    cdef Py_ssize_t size = len(head) + len(opening) + len(closing) + len(tail) + (count - 1 if count else 0)
    cdef Py_ssize_t number
    cdef bytes piece
    cdef bytes result
    cdef unsigned char* at
    for piece in pieces:
        size += PyBytes_GET_SIZE(piece)
    result = PyBytes_FromStringAndSize(NULL, size)
    at = put(put(<unsigned char*>PyBytes_AS_STRING(result), head), opening)
    for number, piece in enumerate(pieces):
        if number:
            at[0] = b","
            at += 1
        at = put(at, piece)
    put(put(at, closing), tail)
    return result


cdef class _Field:
    cdef str name
    cdef bytes key    # the name as JSON, and a colon
    cdef bytes value
    cdef bytes piece  # key and value, None until somebody splices it
    cdef long long seq

    cdef bytes get_piece(self):
        if self.piece is None:
            self.piece = self.key + self.value
        return self.piece


cdef class _Object:
    cdef bytes key       # the name as JSON, and a colon
    cdef dict fields     # name -> _Field, in the order of first arrival
    cdef list changed    # the _Fields of the last update that touched this object
    cdef bytes piece     # key and all changed fields, None until somebody splices it
    cdef long long seq

    cdef bytes splice(self, list fields):
        cdef _Field field
        cdef list pieces = []
        for field in fields:
            pieces.append(field.get_piece())
        return joined(self.key, b"{", pieces, b"}", b"")

    cdef bytes changed_piece(self):
        if self.piece is None:
            self.piece = self.splice(self.changed)
        return self.piece


cdef _Object new_object(str name):
    cdef _Object item = _Object.__new__(_Object)
    item.key = quote(name) + b":"
    item.fields = {}
    item.changed = []
    return item


cdef _Field new_field(str name):
    cdef _Field field = _Field.__new__(_Field)
    field.name = name
    field.key = quote(name) + b":"
    return field


cdef class StatusTable:
    cdef readonly long long seq
    cdef readonly bytes eventtime
    cdef dict objects       # name -> _Object
    cdef dict last_changed  # name -> _Object, those of the last update
    cdef frozenset watched
    cdef object groups      # WeakValueDictionary: canonical filter -> FilterGroup

    def __cinit__(self):
        self.eventtime = b"0.0"
        self.objects = {}
        self.last_changed = {}
        self.watched = frozenset()
        self.groups = WeakValueDictionary()

    def apply(self, bytes status not None, bytes eventtime not None, bint only_changes=False):
        cdef dict update
        cdef dict changed = {}
        cdef dict fields
        cdef _Object item
        cdef _Field field
        cdef long long seq = self.seq + 1
        check_number(eventtime)
        update = read_update(status)
        for name, fields in update.items():
            if fields is None:
                continue
            item = self.objects.get(name)
            if item is None:
                item = self.objects[name] = new_object(name)
            item.changed = []
            item.piece = None
            for key, value in fields.items():
                field = item.fields.get(key)
                if field is None:
                    field = item.fields[key] = new_field(key)
                elif only_changes and field.value == value:
                    continue
                field.value = value
                field.piece = None
                field.seq = seq
                item.changed.append(field)
            if item.changed:
                item.seq = seq
                changed[name] = item
        if changed or not only_changes:
            self.seq = seq
        self.last_changed = changed
        self.eventtime = eventtime
        return [name for name in update if name in self.watched and name in changed]

    def watch(self, names):
        self.watched = frozenset(names)

    def object(self, str name not None):
        cdef _Object item = self.objects.get(name)
        if item is None:
            return None
        return item.splice(list(item.fields.values()))[len(item.key):]

    def field(self, str name not None, str field not None):
        cdef _Object item = self.objects.get(name)
        cdef _Field found
        if item is None:
            return None
        found = item.fields.get(field)
        return None if found is None else found.value

    def names(self):
        return list(self.objects)

    def clear(self):
        self.objects = {}
        self.last_changed = {}

    def group(self, dict objects not None):
        key = canonical(objects)
        found = self.groups.get(key)
        if found is None:
            found = self.groups[key] = FilterGroup(self, key, objects)
        return found

    def retain(self, dict objects not None):
        cdef _Object item
        cdef _Field field
        for name in list(self.objects):
            if name not in objects:
                del self.objects[name]
                self.last_changed.pop(name, None)
            elif (wanted := objects[name]) is not None:
                item = self.objects[name]
                item.fields = {key: value for key, value in item.fields.items() if key in wanted}
                item.changed = [field for field in item.changed if field.name in wanted]
                item.piece = None
                if not item.changed:
                    self.last_changed.pop(name, None)

    @property
    def nbytes(self):
        cdef _Object item
        cdef _Field field
        cdef Py_ssize_t total = 0
        for item in self.objects.values():
            for field in item.fields.values():
                total += len(field.value)
        return total


cdef class FilterGroup:
    cdef StatusTable table
    cdef readonly bytes key
    cdef dict wanted  # object name -> None (all fields) or a frozenset of names
    cdef dict order   # object name -> None or the names in the order asked for
    cdef readonly long long seq
    cdef readonly long long base
    cdef public list members
    cdef object __weakref__

    def __cinit__(self, StatusTable table not None, bytes key not None, dict objects not None):
        self.table = table
        self.key = key
        self.order = {name: None if fields is None else list(dict.fromkeys(fields)) for name, fields in objects.items()}
        self.wanted = {name: None if fields is None else frozenset(fields) for name, fields in objects.items()}
        self.members = []

    def changed(self):
        cdef list pieces = []
        cdef list parts
        cdef _Object item
        cdef _Field field
        cdef PyObject* found
        cdef object wanted
        for name, item in self.table.last_changed.items():
            found = PyDict_GetItem(self.wanted, name)
            if found == NULL:
                continue
            wanted = <object>found
            if wanted is None:
                pieces.append(item.changed_piece())
                continue
            parts = []
            for field in item.changed:
                if PySet_Contains(wanted, field.name):
                    parts.append(field.get_piece())
            if parts:
                if len(parts) == len(item.changed):
                    pieces.append(item.changed_piece())
                else:
                    pieces.append(joined(item.key, b"{", parts, b"}", b""))
        if not pieces:
            return None
        self.base = self.seq
        self.seq = self.table.seq
        return self.notification(pieces)

    def since(self, long long seq):
        cdef list pieces = []
        cdef list fields
        cdef _Object item
        cdef _Field field
        for name, wanted in self.wanted.items():
            item = self.table.objects.get(name)
            if item is None or item.seq <= seq:
                continue
            fields = []
            for field in item.fields.values():
                if field.seq > seq and (wanted is None or field.name in wanted):
                    fields.append(field)
            if fields:
                pieces.append(item.splice(fields))
        return self.notification(pieces) if pieces else None

    cdef bytes notification(self, list pieces):
        return joined(C_NOTIFICATION, b"", pieces, b"},", self.table.eventtime + b"]}")

    def snapshot(self):
        cdef list pieces = []
        cdef _Object item
        for name, order in self.order.items():
            item = self.table.objects.get(name)
            if item is None:
                item = new_object(name)
            if order is None:
                pieces.append(item.splice(list(item.fields.values())))
            else:
                pieces.append(item.splice([item.fields[key] for key in order if key in item.fields]))
        return b'{"eventtime":%b,"status":{%b}}' % (self.table.eventtime, b",".join(pieces))

    def is_complete(self):
        cdef _Object item
        for name, order in self.order.items():
            item = self.table.objects.get(name)
            if item is None:
                return False
            for key in order or ():
                if key not in item.fields:
                    return False
        return True


def canonical(dict objects not None):
    cdef list pieces = []
    for name in sorted(objects):
        fields = objects[name]
        names = ["*"] if fields is None else [f"{len(field)}:{field}" for field in sorted(set(fields))]
        pieces.append(f"{len(name)}:{name}({''.join(names)})")
    return "".join(pieces).encode("utf-8", "surrogatepass")


cdef int check_number(bytes text) except -1:
    """Refuse what is not one JSON number, without space around it."""
    cdef Scan scan = scan_of(text)
    cdef Slice value
    cdef const char* first = PyBytes_AS_STRING(text)
    if not (
        scan_value(&scan, &value)
        and value.size == PyBytes_GET_SIZE(text)
        and scan.constants == 0
        and (first[0] == b"-" or b"0" <= first[0] <= b"9")
    ):
        raise SpanError("eventtime is not a number at byte 0")
    return 0


cdef dict read_update(bytes status):
    """{object: {field: value}}, None for what is no object. Nothing is kept of a text that is not valid."""
    cdef Scan scan = scan_of(status)
    cdef dict update = {}
    cdef dict fields
    cdef Slice key
    cdef Slice value
    cdef bint is_done
    cdef bint is_inner_done
    cdef Py_ssize_t before
    if skip_space(&scan) != b"{":
        scan.fault = NO_OBJECT
        raise_fault(&scan)
    if not open_container(&scan, b"{", &is_done):
        raise_fault(&scan)
    while not is_done:
        if not scan_key(&scan, &key):
            raise_fault(&scan)
        name = key_text(key)
        if skip_space(&scan) == b"{":
            fields = {}
            if not open_container(&scan, b"{", &is_inner_done):
                raise_fault(&scan)
            while not is_inner_done:
                if not scan_key(&scan, &key):
                    raise_fault(&scan)
                before = scan.constants
                if not scan_value(&scan, &value):
                    raise_fault(&scan)
                fields[key_text(key)] = value_bytes(value, scan.constants > before)
                if not close_or_comma(&scan, b"}", &is_inner_done):
                    raise_fault(&scan)
            update[name] = fields
        else:
            if not scan_value(&scan, &value):
                raise_fault(&scan)
            update[name] = None  # of duplicates the last wins, in the place of the first
        if not close_or_comma(&scan, b"}", &is_done):
            raise_fault(&scan)
    if not scan_end(&scan):
        raise_fault(&scan)
    return update
