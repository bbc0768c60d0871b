"""Who gets status updates, and what keeps them: so that the link to Klippy, the state and the transports can meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from moonfast.codec import Raw
from moonfast.speedups import fanout, status

Filter = dict[str, list[str] | None]
"""Printer object -> the fields wanted of it, None for all."""


class Subscriber(Protocol):
    """A lasting connection. `framing` makes a frame of a JSON text; `group` belongs to who keeps the status."""

    uid: int
    outbox: fanout.Outbox
    framing: Callable[[bytes], bytes]
    group: status.FilterGroup | None

    def send(self, text: bytes) -> None: ...


class StatusKeeper(Protocol):
    """The status as Klippy's side of the server sees it; `state.status.Status` is one."""

    def subscribe(self, subscriber: Subscriber, objects: Filter) -> None: ...

    def unsubscribe(self, subscriber: Subscriber) -> None: ...

    def snapshot(self, subscriber: Subscriber) -> Raw: ...

    def values(self, objects: Filter) -> Raw: ...

    def filters(self) -> list[Filter]: ...

    def retain(self, objects: Filter) -> None: ...

    def apply(self, status: bytes, eventtime: bytes, only_changes: bool = False) -> None: ...

    def clear(self) -> None: ...

    def field(self, name: str, field: str) -> bytes | None: ...
