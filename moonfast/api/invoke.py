"""Runs the handler of an endpoint and hands on what comes of it, without a task unless the handler really waits.

A handler is a plain function or a coroutine function. It returns a value, `Raw` JSON text, or a `Later`, such as a
reply of Klippy that only has to be spliced into the answer.
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Coroutine, Generator
from typing import Any

from moonfast.api.call import Call
from moonfast.api.endpoint import Endpoint
from moonfast.api.later import Done, Later
from moonfast.api.params import Arguments
from moonfast.errors import ApiError, InternalError
from moonfast.vocab import Access

log = logging.getLogger(__name__)


class Invoker:
    """Runs handlers; knows those that are still waiting, so that they end with the server."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def invoke(self, endpoint: Endpoint, call: Call, arguments: Arguments, done: Done) -> None:
        """Check the caller's rights and the arguments, run the handler. `done` may be called before this returns."""
        if not call.is_authorized and endpoint.access is not Access.OPEN:
            done(None, call.refused())
            return
        try:
            if endpoint.parameters:
                result = endpoint.handler(call, **endpoint.parameters.bind(arguments))
            else:
                result = endpoint.handler(call)
        except Exception as exc:  # transport edge: whatever a handler does, the client gets an answer
            done(None, as_api_error(exc, endpoint))
            return
        if type(result) is types.CoroutineType:
            if endpoint.runs_as_task:
                self._continue(_finish(result, endpoint, done))
            else:
                self._step(result, endpoint, done)
        elif isinstance(result, Later):
            result.then(done)
        else:
            done(result, None)

    def _step(self, coroutine: Coroutine[Any, Any, Any], endpoint: Endpoint, done: Done) -> None:
        try:
            waited = coroutine.send(None)
        except StopIteration as stop:
            if isinstance(stop.value, Later):
                stop.value.then(done)
            else:
                done(stop.value, None)
        except Exception as exc:  # transport edge
            done(None, as_api_error(exc, endpoint))
        else:
            self._continue(_finish(_resume(coroutine, waited), endpoint, done))

    def _continue(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End the handlers that wait; their callers get an error."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._tasks.difference_update(tasks)


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, Any], waited: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was stepped once: what it waits for is waited for by the task that runs this."""
    while True:
        sent: Any = None
        error: BaseException | None = None
        try:
            sent = yield waited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as exc:
            error = exc
        try:
            waited = coroutine.send(sent) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value


async def _finish(coroutine: Any, endpoint: Endpoint, done: Done) -> None:
    try:
        result = await coroutine
    except asyncio.CancelledError:
        done(None, InternalError("The server stops or restarts: try again"))
        raise
    except Exception as exc:  # transport edge
        done(None, as_api_error(exc, endpoint))
        return
    if isinstance(result, Later):
        result.then(done)
    else:
        done(result, None)


def as_api_error(error: BaseException, endpoint: Endpoint) -> ApiError:
    """An error for the client. What was not raised on purpose is a bug: it goes to the log, not to the client."""
    if isinstance(error, ApiError):
        return error
    log.error("%r failed", endpoint, exc_info=error)
    return InternalError(f"Internal error in {endpoint.path or endpoint.rpc_name}: see the server's log")
