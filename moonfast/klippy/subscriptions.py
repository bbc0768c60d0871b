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
from moonfast.errors import ApiError, BadRequest, KlippyDisconnected, SpanError, Unavailable
from moonfast.klippy.requests import DISCONNECTED
from moonfast.speedups import jsonspan

Request = Callable[[str, dict[str, Any]], Later]

UPDATE_METHOD = "process_status_update"
UPDATE_METHOD_TEXT = encode(UPDATE_METHOD)

MAX_UNION = 50_000
"""Objects and fields in the union; a printer has some thousand. What would lead beyond it is refused."""


class _Wish:
    """What somebody waits for. `subscriber` is None for the server itself.

    `is_replaced`: the client has asked for something else meanwhile, or is gone. It gets its answer, but no changes.
    """

    __slots__ = ("is_replaced", "later", "objects", "subscriber")

    def __init__(self, subscriber: Subscriber | None, objects: Filter) -> None:
        self.subscriber, self.objects, self.later, self.is_replaced = subscriber, objects, Later(), False


class Subscriptions:
    """Who wants what. `request` asks Klippy; `status` keeps the values and publishes changes."""

    def __init__(self, status: StatusKeeper, request: Request) -> None:
        self._status, self._request = status, request
        self._own: Filter = {}
        self._known: Filter = {}  # the union that Klippy has confirmed
        self._wanted: Filter = {}  # the one that it is asked for now
        self._asking: list[_Wish] = []  # those for whom it is asked now
        self._waiting: list[_Wish] = []  # those who come after them
        self._newest: dict[int, _Wish] = {}  # uid of a client -> its last wish, while it waits
        self._is_one_by_one = False  # Klippy refused a union: find out for whose sake

    def want(self, objects: Filter) -> Later:
        """Let the server itself know these, besides what it wanted before; resolved when they are known."""
        self._own = union([self._own, objects])
        return self._enter(_Wish(None, self._own))

    def subscribe(self, subscriber: Subscriber, objects: Filter) -> Later:
        """Replace what a client wants; resolved with all values of it. None of it: cancel."""
        self._replace(subscriber)
        if not objects:
            self._status.unsubscribe(subscriber)
            later = Later()
            later.resolve(Raw(b'{"eventtime":0.0,"status":{}}'))
            return later
        return self._enter(_Wish(subscriber, objects))

    def forget(self, subscriber: Subscriber) -> None:
        """A client is gone."""
        self._replace(subscriber)
        self._status.unsubscribe(subscriber)

    def clear(self) -> None:
        """Klippy is gone, and with it all subscriptions."""
        self._own, self._known, self._wanted, self._is_one_by_one = {}, {}, {}, False
        wishes = self._asking + self._waiting
        self._asking, self._waiting = [], []
        self._newest.clear()
        self._status.clear()
        for wish in wishes:
            wish.later.fail(KlippyDisconnected(DISCONNECTED))

    def _replace(self, subscriber: Subscriber) -> None:
        wish = self._newest.pop(subscriber.uid, None)
        if wish is not None:
            wish.is_replaced = True

    def _enter(self, wish: _Wish) -> Later:
        if covers(self._known, wish.objects) and (not self._asking or covers(self._wanted, wish.objects)):
            self._fulfil(wish)
        else:
            if wish.subscriber is not None:
                self._newest[wish.subscriber.uid] = wish
            self._waiting.append(wish)
            self._ask()
        return wish.later

    def _fulfil(self, wish: _Wish) -> None:
        subscriber = wish.subscriber
        if subscriber is None:
            wish.later.resolve(None)
        elif wish.is_replaced:
            wish.later.resolve(self._status.values(wish.objects))
        else:
            self._newest.pop(subscriber.uid, None)
            self._status.subscribe(subscriber, wish.objects)
            wish.later.resolve(self._status.snapshot(subscriber))

    def _ask(self) -> None:
        while self._waiting and not self._asking:
            wishes = self._waiting[:1] if self._is_one_by_one else self._waiting
            wanted = union([self._own, *self._status.filters(), *(wish.objects for wish in wishes)])
            self._waiting = self._waiting[len(wishes) :]
            if size(wanted) > MAX_UNION:
                self._refuse(wishes, BadRequest(f"All clients together want more than {MAX_UNION} objects and fields"))
                continue
            self._asking, self._wanted = wishes, wanted
            params = {"objects": wanted, "response_template": {"method": UPDATE_METHOD}}
            self._request("objects/subscribe", params).then(self._answered)
        if not self._waiting and not self._asking:
            self._is_one_by_one = False

    def _refuse(self, wishes: list[_Wish], error: ApiError) -> None:
        """One client's wish must not cost the others theirs: of several, each is tried by itself."""
        if len(wishes) > 1 and isinstance(error, BadRequest):
            self._is_one_by_one = True
            self._waiting = wishes + self._waiting
            return
        for wish in wishes:
            if wish.subscriber is not None and not wish.is_replaced:
                self._newest.pop(wish.subscriber.uid, None)
            wish.later.fail(error)

    def _answered(self, result: Any, error: ApiError | None) -> None:
        wishes, self._asking = self._asking, []
        if error is None:
            try:
                answer = jsonspan.members(bytes(result))
                self._status.retain(self._wanted)
                self._status.apply(answer["status"], answer.get("eventtime", b"0.0"), True)
            except (SpanError, KeyError):
                error = Unavailable("Klippy's answer to a subscription is not readable")
        if error is None:
            self._known = self._wanted
            for wish in wishes:
                self._fulfil(wish)
        else:
            self._refuse(wishes, error)
        if not isinstance(error, KlippyDisconnected):
            self._ask()


def size(objects: Filter) -> int:
    """Objects and fields named in a filter."""
    return sum(1 + len(fields or ()) for fields in objects.values())


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
