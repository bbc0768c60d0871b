"""A result that is not known yet: lighter than a future, because nobody has to be woken by the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from moonfast.errors import ApiError

Done = Callable[[Any, ApiError | None], None]
"""Called once: with the result, or with the error."""


class Later:
    """Set once, by `resolve` or `fail`; `then` calls back at that moment, in the same step of the loop.

    Coroutines may await it, too. Setting it again is ignored: a reply may come after the request was given up.
    """

    __slots__ = ("_done", "_error", "_is_set", "_result")

    def __init__(self) -> None:
        self._done: Done | None = None
        self._is_set = False
        self._result: Any = None
        self._error: ApiError | None = None

    @property
    def is_set(self) -> bool:
        return self._is_set

    def then(self, done: Done) -> None:
        """Call `done` when it is known, at once if it is. Only one can wait."""
        if self._is_set:
            done(self._result, self._error)
        else:
            assert self._done is None, "somebody waits already"
            self._done = done

    def resolve(self, result: Any) -> None:
        self._set(result, None)

    def fail(self, error: ApiError) -> None:
        self._set(None, error)

    def _set(self, result: Any, error: ApiError | None) -> None:
        if self._is_set:
            return
        self._is_set, self._result, self._error = True, result, error
        done, self._done = self._done, None
        if done is not None:
            done(result, error)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._is_set:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.then(lambda result, error: None if future.done() else future.set_result(None))
            yield from future.__await__()
        if self._error is not None:
            raise self._error
        return self._result


class Mapped(Later):
    """The result of another one, changed by a function on its way. An ApiError of the function becomes its error."""

    __slots__ = ("_change",)

    def __init__(self, source: Later, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self._change = change
        source.then(self._arrived)

    def _arrived(self, result: Any, error: ApiError | None) -> None:
        if error is None:
            try:
                result = self._change(result)
            except ApiError as exc:
                result, error = None, exc
        self._set(result, error)
