"""The union of what clients and the server itself want to know of the printer.

Klippy keeps one subscription for a connection, and answers each request for one with everything in it. So: what is in
the union already is answered from what is known here; only a field outside of it makes a request, for the new union,
and those who wait for one share it. The union is let shrink when it is next sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moonfast.api.later import Later
from moonfast.api.subscriber import Filter, StatusKeeper, Subscriber
from moonfast.codec import Raw, encode
from moonfast.errors import ApiError, KlippyDisconnected, KlippyError, SpanError
from moonfast.klippy.requests import DISCONNECTED
from moonfast.speedups import jsonspan

Request = Callable[[str, dict[str, Any]], Later]

UPDATE_METHOD = "process_status_update"
UPDATE_METHOD_TEXT = encode(UPDATE_METHOD)

_Wish = tuple[Subscriber | None, Filter, Later]


class Subscriptions:
    """Who wants what. `request` asks Klippy; `status` keeps the values and publishes changes."""

    def __init__(self, status: StatusKeeper, request: Request) -> None:
        self._status, self._request = status, request
        self._own: Filter = {}
        self._asked: Filter = {}  # the union that Klippy has confirmed
        self._waiting: list[_Wish] = []
        self._is_asking = False

    def want(self, objects: Filter) -> Later:
        """Let the server itself know these, besides what it wanted before; resolved when they are known."""
        self._own = union([self._own, objects])
        return self._enter(None, self._own)

    def subscribe(self, subscriber: Subscriber, objects: Filter) -> Later:
        """Replace what a client wants; resolved with all values of it. None of it: cancel."""
        if not objects:
            self._status.unsubscribe(subscriber)
            later = Later()
            later.resolve(Raw(b'{"eventtime":0.0,"status":{}}'))
            return later
        return self._enter(subscriber, objects)

    def forget(self, subscriber: Subscriber) -> None:
        """A client is gone."""
        self._status.unsubscribe(subscriber)
        self._waiting = [wish for wish in self._waiting if wish[0] is not subscriber]

    def clear(self) -> None:
        """Klippy is gone, and with it all subscriptions."""
        self._own, self._asked, self._is_asking = {}, {}, False
        self._status.clear()
        waiting, self._waiting = self._waiting, []
        for _, _, later in waiting:
            later.fail(KlippyDisconnected(DISCONNECTED))

    def _enter(self, subscriber: Subscriber | None, objects: Filter) -> Later:
        later = Later()
        if covers(self._asked, objects):
            self._fulfil(subscriber, objects, later)
        else:
            self._waiting.append((subscriber, objects, later))
            self._ask()
        return later

    def _fulfil(self, subscriber: Subscriber | None, objects: Filter, later: Later) -> None:
        if subscriber is None:
            later.resolve(None)
        else:
            self._status.subscribe(subscriber, objects)
            later.resolve(self._status.snapshot(subscriber))

    def _ask(self) -> None:
        if self._is_asking or not self._waiting:
            return
        wishes = self._waiting
        wanted = union([self._own, *self._status.filters(), *(objects for _, objects, _ in wishes)])
        self._is_asking = True
        params = {"objects": wanted, "response_template": {"method": UPDATE_METHOD}}
        self._request("objects/subscribe", params).then(
            lambda result, error: self._answered(wanted, list(wishes), result, error)
        )

    def _answered(self, wanted: Filter, wishes: list[_Wish], result: Any, error: ApiError | None) -> None:
        self._is_asking = False
        if error is None:
            try:
                answer = jsonspan.members(bytes(result))
                self._status.retain(wanted)
                self._status.apply(answer["status"], answer.get("eventtime", b"0.0"), True)
            except (SpanError, KeyError):
                error = KlippyError("Klippy's answer to a subscription is not readable")
            else:
                self._asked = wanted
        still_waiting = [wish for wish in self._waiting if wish not in wishes]
        answered = [wish for wish in wishes if wish in self._waiting]
        self._waiting = still_waiting
        for subscriber, objects, later in answered:
            if error is not None:
                later.fail(error)
            else:
                self._fulfil(subscriber, objects, later)
        if not isinstance(error, KlippyDisconnected):
            self._ask()


def union(filters: Iterable[Filter]) -> Filter:
    """Everything that any of them wants."""
    found: Filter = {}
    for objects in filters:
        for name, fields in objects.items():
            have = found.get(name, [])
            found[name] = None if have is None or fields is None else list(dict.fromkeys([*have, *fields]))
    return found


def covers(wide: Filter, narrow: Filter) -> bool:
    """Whether one filter has everything that another wants."""
    for name, fields in narrow.items():
        if name not in wide:
            return False
        have = wide[name]
        if have is not None and (fields is None or not set(fields) <= set(have)):
            return False
    return True
