"""The last raw JSON value of every printer object field, and the diffs of it that filter groups need.

Source of the shapes: Klipper docs/API_Server.md, "objects/subscribe"; specification, "Status Update".
"""

from collections.abc import Iterable
from typing import Any, Self

from typing_extensions import disjoint_base

NOTIFICATION: bytes
"""How every status notification begins."""

def quote(text: str) -> bytes:
    """Return a text as JSON."""

def canonical(objects: dict[str, list[str] | None]) -> bytes:
    """Return one text for all filters that mean the same."""

@disjoint_base
class StatusTable:
    """What Klippy has told, and who wants to know what of it."""

    @property
    def seq(self) -> int:
        """Number of the last update; never goes back, also not by clear()."""
    @property
    def eventtime(self) -> bytes:
        """Klippy's clock at the last update, a JSON number; b"0.0" at first."""
    def apply(self, status: bytes, eventtime: bytes, only_changes: bool = False) -> list[str]:
        """Merge an update, {"object": {"field": value}}; return the watched objects that it changed.

        Objects whose value is no object are skipped: clones send null. With only_changes a value that is stored already
        does not count, and an update without any other keeps `seq`. SpanError: not valid; the table is unchanged.
        """
    def watch(self, names: Iterable[str]) -> None:
        """Replace the set of watched objects."""
    def object(self, name: str) -> bytes | None:
        """Return all stored fields of an object, None if it is unknown."""
    def field(self, name: str, field: str) -> bytes | None:
        """Return one value, None if it is unknown."""
    def names(self) -> list[str]:
        """Return the names of all objects stored."""
    def clear(self) -> None:
        """Forget all values; groups stay usable."""
    def group(self, objects: dict[str, list[str] | None]) -> FilterGroup:
        """Return the group of a filter: {object: fields, or None for all}; equal filters share one while it lives."""
    def retain(self, objects: dict[str, list[str] | None]) -> None:
        """Drop what is outside this filter."""
    @property
    def nbytes(self) -> int:
        """Bytes of the values stored."""

@disjoint_base
class FilterGroup:
    def __new__(cls, table: StatusTable, key: bytes, objects: dict[str, list[str] | None]) -> Self: ...
    @property
    def key(self) -> bytes:
        """The canonical filter."""
    @property
    def seq(self) -> int:
        """Number of the last update that changed() gave out; 0 at first."""
    @property
    def base(self) -> int:
        """Number of the one before that."""
    members: list[Any]
    """For the owner: who gets what this group gives out."""
    def changed(self) -> bytes | None:
        """Return the notification of the last update for this group, None if it is not concerned.

        To be called once after each apply() that raised `seq`.
        """
    def since(self, seq: int) -> bytes | None:
        """Return one notification of all fields changed after update `seq`, None if there are none."""
    def snapshot(self) -> bytes:
        """Return {"eventtime": ..., "status": {...}}: every object of the filter with what is stored of it."""
    def is_complete(self) -> bool:
        """Return whether every object and every field named in the filter is stored."""
