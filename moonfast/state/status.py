"""The printer's status, and who gets which changes of it.

Clients that asked for the same fields share a filter group: its diff is spliced once, framed once for each kind of
connection, and the same bytes go to all. Source: specification, "Subscribe to printer object status".
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from moonfast.api.subscriber import Filter, Subscriber
from moonfast.codec import Raw
from moonfast.speedups import fanout, status

log = logging.getLogger(__name__)

Listener = Callable[[], None]
"""Called when a watched object has changed; it reads from the table what it wants to know, raw."""

Audience = tuple[Callable[[bytes], bytes], list[fanout.Outbox]]
"""How to frame, and for whom. `FilterGroup.members` is a list of these, one for each kind of connection."""


class Status:
    """Last known status. Updates go in by `apply` and out through the pump."""

    def __init__(self, pump: fanout.Pump) -> None:
        self.table = status.StatusTable()
        self._pump = pump
        self._groups: dict[status.FilterGroup, Filter] = {}  # those with members
        self._subscribers: set[Subscriber] = set()
        self._listeners: list[tuple[str, Listener]] = []
        self._followers: dict[status.FilterGroup, list[Callable[[bytes], None]]] = {}

    def watch(self, name: str, listener: Listener) -> None:
        """Call `listener` when this object changes. It has to be among those the server subscribes to."""
        self._listeners.append((name, listener))
        self.table.watch(watched for watched, _ in self._listeners)

    def follow(self, objects: Filter, take: Callable[[bytes], None]) -> None:
        """Give every change of these fields to `take`, as the text of the notification that clients get.

        They have to be among those the server subscribes to.
        """
        self._followers.setdefault(self.table.group(objects), []).append(take)

    def subscribe(self, subscriber: Subscriber, objects: Filter) -> None:
        """From now on send changes of these fields, and of no others."""
        self.unsubscribe(subscriber)
        group = self.table.group(objects)
        self._groups.setdefault(group, objects)
        for framing, outboxes in group.members:
            if framing is subscriber.framing:
                outboxes.append(subscriber.outbox)
                break
        else:
            group.members.append((subscriber.framing, [subscriber.outbox]))
        subscriber.group = group
        self._subscribers.add(subscriber)
        subscriber.outbox.status_seq = self.table.seq
        subscriber.outbox.behind = False

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Send no more changes."""
        group = subscriber.group
        if group is None:
            return
        subscriber.group = None
        subscriber.outbox.behind = False
        self._subscribers.discard(subscriber)
        members: list[Audience] = group.members
        for index, (framing, outboxes) in enumerate(members):
            if framing is subscriber.framing:
                outboxes.remove(subscriber.outbox)
                if not outboxes:
                    del members[index]
                break
        if not members:
            del self._groups[group]

    def snapshot(self, subscriber: Subscriber) -> Raw:
        """Everything a subscriber asked for, as `objects.subscribe` answers it."""
        assert subscriber.group is not None
        return Raw(subscriber.group.snapshot())

    def values(self, objects: Filter) -> Raw:
        """The same for somebody who does not subscribe."""
        return Raw(self.table.group(objects).snapshot())

    def filters(self) -> list[Filter]:
        """What is subscribed to now."""
        return list(self._groups.values())

    def retain(self, objects: Filter) -> None:
        """Forget what nobody wants any more."""
        self.table.retain(objects)

    def field(self, name: str, field: str) -> bytes | None:
        """One raw value, None if it is unknown."""
        return self.table.field(name, field)

    def apply(self, status: bytes, eventtime: bytes, only_changes: bool = False) -> None:
        """Merge an update and publish it. SpanError: it is not valid JSON; nothing has changed."""
        table, pump = self.table, self._pump
        before = table.seq
        changed = table.apply(status, eventtime, only_changes)
        if table.seq == before:
            return
        # a client that reads too slowly may be closed, and forgotten, on the way
        for group in [*self._groups, *(group for group in self._followers if group not in self._groups)]:
            text = group.changed()
            if text is not None:
                for framing, outboxes in group.members:
                    pump.publish(outboxes, framing(text), group.base, group.seq)
                if group in self._followers:
                    _hand_over(text, self._followers[group])
        if changed:
            self._tell(changed)

    def _tell(self, changed: list[str]) -> None:
        for name, listener in self._listeners:
            if name in changed:
                try:
                    listener()
                except Exception:  # task edge: one listener's bug must not cost the others their update
                    log.exception("A status listener failed")

    def catch_up(self, subscriber: Subscriber) -> None:
        """Send what a subscriber missed while it did not read: one update with the present values."""
        outbox = subscriber.outbox
        if subscriber.group is None or not outbox.behind:
            return
        outbox.behind = False
        text = subscriber.group.since(outbox.status_seq)
        outbox.status_seq = self.table.seq
        if text is not None:
            subscriber.send(text)

    def clear(self) -> None:
        """Klippy went away: all subscriptions end, all values are forgotten."""
        for subscriber in list(self._subscribers):
            self.unsubscribe(subscriber)
        self.table.clear()


def _hand_over(text: bytes, followers: list[Callable[[bytes], None]]) -> None:
    for take in followers:
        try:
            take(text)
        except Exception:  # task edge: one follower's bug must not cost the others their update
            log.exception("A follower of the status failed")
