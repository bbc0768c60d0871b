"""How handlers run, and what becomes of their results and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from moonfast.api.call import Call
from moonfast.api.endpoint import Endpoint
from moonfast.api.invoke import Invoker
from moonfast.api.later import Later, Mapped
from moonfast.api.params import Parameters
from moonfast.errors import ApiError, BadRequest, NotFound
from moonfast.vocab import GET, Access, Transport

CALL = Call(Transport.HTTP)


class Outcome:
    """Takes what a handler leads to; a second time would be a fault."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: ApiError | None = None
        self.is_done = asyncio.Event()

    def __call__(self, result: Any, error: ApiError | None) -> None:
        assert not self.is_done.is_set()
        self.result, self.error = result, error
        self.is_done.set()


def make(handler: Callable[..., Any], **keywords: Any) -> Endpoint:
    return Endpoint(GET, "/x", handler=handler, parameters=Parameters(handler), doc="X.", **keywords)


def run(handler: Callable[..., Any], arguments: dict[str, Any] | None = None, **keywords: Any) -> Outcome:
    outcome = Outcome()
    Invoker().invoke(make(handler, **keywords), keywords.pop("call", CALL), arguments or {}, outcome)
    return outcome


async def test_values_come_at_once() -> None:
    async def no_wait(call: Call, a: int) -> int:
        return a + 1

    async def twice(call: Call, a: int) -> int:
        return await no_wait(call, a) * 2

    for handler, expected in ((lambda call: 5, 5), (no_wait, 4), (twice, 8)):
        outcome = run(handler, {"a": "3"})
        assert outcome.is_done.is_set()
        assert outcome.result == expected


async def test_a_handler_that_waits() -> None:
    async def slow(call: Call) -> list[str]:
        words = []
        for word in ("a", "b"):
            await asyncio.sleep(0.001)
            words.append(word)
        try:
            await failing()
        except KeyError:
            words.append("caught")
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return words

    async def failing() -> None:
        await asyncio.sleep(0)
        raise KeyError

    outcome = run(slow)
    assert not outcome.is_done.is_set()
    await outcome.is_done.wait()
    assert outcome.result == ["a", "b", "caught"]


async def test_a_handler_that_asks_for_its_task() -> None:
    async def timed(call: Call) -> str:
        async with asyncio.timeout(5):
            return "in time"

    outcome = run(timed, runs_as_task=True)
    await outcome.is_done.wait()
    assert outcome.result == "in time"


@pytest.mark.parametrize("is_async", [False, True])
async def test_errors(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    def wanted(call: Call) -> None:
        raise NotFound("no such thing")

    def bug(call: Call) -> None:
        raise ZeroDivisionError("secret detail")

    async def wanted_later(call: Call) -> None:
        await asyncio.sleep(0)
        wanted(call)

    async def bug_later(call: Call) -> None:
        await asyncio.sleep(0)
        bug(call)

    for handler, status in ((wanted_later if is_async else wanted, 404), (bug_later if is_async else bug, 500)):
        outcome = run(handler)
        await outcome.is_done.wait()
        assert outcome.error is not None
        assert outcome.error.status == status
        assert "secret" not in outcome.error.message
    assert "ZeroDivisionError" in caplog.text


async def test_bad_arguments_and_missing_rights() -> None:
    def wants(call: Call, count: int) -> int:
        return count

    outcome = run(wants)
    assert isinstance(outcome.error, BadRequest)
    stranger = Call(Transport.HTTP, refusal="not from here")
    outcome = Outcome()
    Invoker().invoke(make(wants), stranger, {"count": 1}, outcome)
    assert outcome.error is not None
    assert outcome.error.status == 401
    assert outcome.error.message == "Unauthorized"
    assert outcome.error.data == {"reason": "login_required", "remedy": "not from here"}
    outcome = Outcome()
    Invoker().invoke(make(wants, access=Access.OPEN), stranger, {"count": 1}, outcome)
    assert outcome.result == 1


async def test_later() -> None:
    later = Later()
    outcome = run(lambda call: later)
    assert not outcome.is_done.is_set()
    later.resolve(5)
    later.resolve(6)
    later.fail(BadRequest("too late"))
    assert outcome.result == 5
    after = Outcome()
    later.then(after)
    assert after.result == 5
    assert await later == 5


async def test_later_in_a_coroutine() -> None:
    later, other = Later(), Later()

    async def waits(call: Call) -> int:
        return int(await later) + 1

    async def passes_on(call: Call) -> Later:
        await asyncio.sleep(0)
        return other

    first, second = run(waits), run(passes_on)
    await asyncio.sleep(0.001)
    later.resolve(1)
    other.resolve(1)
    await first.is_done.wait()
    await second.is_done.wait()
    assert (first.result, second.result) == (2, 1)


async def test_a_later_that_fails() -> None:
    later = Later()
    mapped = Mapped(later, lambda value: value)
    outcome = run(lambda call: mapped)
    later.fail(NotFound("gone"))
    assert isinstance(outcome.error, NotFound)
    with pytest.raises(NotFound):
        await mapped


async def test_a_mapped_later() -> None:
    def change(value: int) -> int:
        if value > 5:
            raise BadRequest("too much")
        return value * 2

    for value, expected in ((2, 4), (6, None)):
        later = Later()
        outcome = Outcome()
        Mapped(later, change).then(outcome)
        later.resolve(value)
        assert outcome.result == expected
        assert (outcome.error is None) == (expected is not None)


async def test_stop_ends_those_that_wait() -> None:
    invoker, outcome = Invoker(), Outcome()

    async def forever(call: Call) -> None:
        await asyncio.sleep(1000)

    invoker.invoke(make(forever), CALL, {}, outcome)
    await asyncio.sleep(0)
    await invoker.stop()
    assert outcome.error is not None
    assert outcome.error.status == 500
    assert "restarts" in outcome.error.message
