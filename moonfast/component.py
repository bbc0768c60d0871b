"""What a component is: keeps what its constructor is given, does its work between start() and stop()."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

Emit = Callable[[Any, Any], None]  # (notification, payload)


class Restart:
    """Called to restart this server in place, after the present answers have gone out."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin

    def __call__(self) -> None:
        self._begin()


class Audience:
    """Who is connected. `websockets` counts WebSockets, `listeners` all connections that get notifications."""

    def __init__(self, websockets: Callable[[], int], listeners: Callable[[], int]) -> None:
        self.websockets, self.listeners = websockets, listeners


class Listening:
    """Where this server listens: known when all components have started and the ports are open."""

    def __init__(self) -> None:
        self.sockets: list[tuple[str, int, bool]] = []  # address, port, whether it speaks TLS
        self.is_complete = asyncio.Event()


class Component:
    """Base of all components.

    Its needs stand in the constructor, by type: its Section (or a list of them, for `[power lamp]`-like ones), other
    components, built-in parts. A constructor does no I/O. `start` may fail: then the component is listed as failed.
    """

    section_types: Mapping[str, str] = {}
    """Where the option `type` of a section says what else it has: its values -> "module:Section"."""
    parts: tuple[object, ...] = ()
    """Further objects with endpoints of this component."""
    warnings: Sequence[str] = ()
    """For users, in `server.info`; they may change while the server runs."""
    _emit: Emit | None = None
    _tasks: set[asyncio.Task[Any]]

    async def start(self) -> None:
        """Begin to work; what it needs has been started before."""

    async def stop(self) -> None:
        """End. Called once after every `start` that succeeded, when the spawned tasks have ended."""

    def emit(self, notification: Any, payload: Any) -> None:
        """Send a notification to everyone connected."""
        if self._emit is not None:
            self._emit(notification, payload)

    def emit_soon(self, notification: Any, payload: Any) -> None:
        """The same when the loop comes to it: the answer to the present request goes out first."""
        asyncio.get_running_loop().call_soon(self.emit, notification, payload)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run beside the server until it ends, or until just before `stop`. An exception is logged."""
        if "_tasks" not in self.__dict__:
            self._tasks = set()
        task = asyncio.get_running_loop().create_task(
            coroutine, name=f"{type(self).__name__}.{getattr(coroutine, '__name__', 'task')}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def connect(self, emit: Emit) -> None:
        """Give the way to `emit`; the registry does it after construction."""
        self._emit = emit

    async def cancel_tasks(self) -> None:
        """Cancel what was spawned and wait for its end. A task that spawns while it is cancelled is met again."""
        while tasks := list(self.__dict__.get("_tasks", ())):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._tasks.difference_update(tasks)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
