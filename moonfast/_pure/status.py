"""Twin of moonfast/_speedups/status.pyx: the last value of every printer object field, and what changed for whom.

Theory. Values are raw JSON. Every update has a number; a field carries the number of its last change, an object that of
its last changed field. A filter group is a filter that one or more clients asked for: for each object all fields, or
some. Of an update a group gets the changed fields that it wants; of several that a client missed, all fields changed
since the last one it got, with their present values. So nothing has to be kept for a client but one number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

from moonfast._pure.jsonspan import members
from moonfast.errors import SpanError

NOTIFICATION = b'{"jsonrpc":"2.0","method":"notify_status_update","params":[{'
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

Filter = dict[str, list[str] | None]


def quote(text: str) -> bytes:
    """A JSON string. Lone surrogates, which have no UTF-8 form, stay escaped."""
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(text).encode()


class _Field:
    __slots__ = ("piece", "seq", "value")

    def __init__(self, name: str, value: bytes, seq: int) -> None:
        self.seq = seq
        self.put(name, value)

    def put(self, name: str, value: bytes) -> None:
        self.value = value
        self.piece = quote(name) + b":" + value


class _Object:
    __slots__ = ("changed", "fields", "key", "seq")

    def __init__(self, name: str) -> None:
        self.key = quote(name) + b":"
        self.fields: dict[str, _Field] = {}
        self.changed: list[str] = []  # by the last update, if that touched this object
        self.seq = 0

    def splice(self, names: Iterable[str]) -> bytes:
        return self.key + b"{" + b",".join(self.fields[name].piece for name in names) + b"}"


class StatusTable:
    def __init__(self) -> None:
        self.seq = 0
        self.eventtime = b"0.0"
        self._objects: dict[str, _Object] = {}
        self._changed: dict[str, _Object] = {}  # by the last update
        self._watched: frozenset[str] = frozenset()
        self._groups: WeakValueDictionary[bytes, FilterGroup] = WeakValueDictionary()

    def apply(self, status: bytes, eventtime: bytes, only_changes: bool = False) -> list[str]:
        if _NUMBER.fullmatch(eventtime) is None:
            raise SpanError("eventtime is not a number at byte 0")
        update = {name: members(value) for name, value in members(status).items() if value.startswith(b"{")}
        seq = self.seq + 1
        changed: dict[str, _Object] = {}
        for name, fields in update.items():
            item = self._objects.get(name)
            if item is None:
                item = self._objects[name] = _Object(name)
            item.changed = []
            for key, value in fields.items():
                field = item.fields.get(key)
                if field is None:
                    item.fields[key] = _Field(key, value, seq)
                elif only_changes and field.value == value:
                    continue
                else:
                    field.put(key, value)
                    field.seq = seq
                item.changed.append(key)
            if item.changed:
                item.seq = seq
                changed[name] = item
        if changed or not only_changes:
            self.seq = seq
        self._changed = changed
        self.eventtime = eventtime
        return [name for name in update if name in self._watched and name in changed]

    def watch(self, names: Iterable[str]) -> None:
        self._watched = frozenset(names)

    def object(self, name: str) -> bytes | None:
        item = self._objects.get(name)
        return None if item is None else item.splice(item.fields)[len(item.key) :]

    def field(self, name: str, field: str) -> bytes | None:
        item = self._objects.get(name)
        found = None if item is None else item.fields.get(field)
        return None if found is None else found.value

    def names(self) -> list[str]:
        return list(self._objects)

    def clear(self) -> None:
        self._objects.clear()
        self._changed = {}

    def group(self, objects: Filter) -> FilterGroup:
        key = canonical(objects)
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = FilterGroup(self, key, objects)
        return found

    def retain(self, objects: Filter) -> None:
        for name in list(self._objects):
            if name not in objects:
                del self._objects[name]
                self._changed.pop(name, None)
            elif (wanted := objects[name]) is not None:
                item = self._objects[name]
                item.fields = {key: field for key, field in item.fields.items() if key in wanted}
                item.changed = [key for key in item.changed if key in wanted]
                if not item.changed:
                    self._changed.pop(name, None)

    @property
    def nbytes(self) -> int:
        return sum(len(field.value) for item in self._objects.values() for field in item.fields.values())


class FilterGroup:
    def __init__(self, table: StatusTable, key: bytes, objects: Filter) -> None:
        self._table, self.key = table, key
        self._wanted = {name: None if fields is None else dict.fromkeys(fields) for name, fields in objects.items()}
        self.seq = self.base = 0
        self.members: list[Any] = []

    def changed(self) -> bytes | None:
        table = self._table
        pieces = []
        for name, item in table._changed.items():
            if name in self._wanted:
                wanted = self._wanted[name]
                names = item.changed if wanted is None else [key for key in item.changed if key in wanted]
                if names:
                    pieces.append(item.splice(names))
        if not pieces:
            return None
        self.base, self.seq = self.seq, table.seq
        return self._notification(pieces)

    def since(self, seq: int) -> bytes | None:
        pieces = []
        for name, wanted in self._wanted.items():
            item = self._table._objects.get(name)
            if item is not None and item.seq > seq:
                names = [
                    key for key, field in item.fields.items() if field.seq > seq and (wanted is None or key in wanted)
                ]
                if names:
                    pieces.append(item.splice(names))
        return self._notification(pieces) if pieces else None

    def _notification(self, pieces: list[bytes]) -> bytes:
        return NOTIFICATION + b",".join(pieces) + b"}," + self._table.eventtime + b"]}"

    def snapshot(self) -> bytes:
        pieces = []
        for name, wanted in self._wanted.items():
            item = self._table._objects.get(name) or _Object(name)
            names = item.fields if wanted is None else [key for key in wanted if key in item.fields]
            pieces.append(item.splice(names))
        return b'{"eventtime":' + self._table.eventtime + b',"status":{' + b",".join(pieces) + b"}}"

    def is_complete(self) -> bool:
        for name, wanted in self._wanted.items():
            item = self._table._objects.get(name)
            if item is None or any(key not in item.fields for key in wanted or ()):
                return False
        return True


def canonical(objects: Filter) -> bytes:
    """One text for all filters that mean the same; with their lengths in front no names run into one another."""
    pieces = []
    for name in sorted(objects):
        fields = objects[name]
        names = ["*"] if fields is None else [f"{len(field)}:{field}" for field in sorted(set(fields))]
        pieces.append(f"{len(name)}:{name}({''.join(names)})")
    return "".join(pieces).encode("utf-8", "surrogatepass")
