"""Requests in flight."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from moonfast.codec import Raw
from moonfast.errors import ApiError, KlippyError
from moonfast.klippy import requests
from moonfast.klippy.requests import Requests, Tolerant
from moonfast.speedups import jsonspan


class Wire:
    def __init__(self) -> None:
        self.requests = Requests()
        self.sent: list[tuple[dict[str, Any], bool]] = []
        self.requests.write = lambda data, urgent: self.sent.append((json.loads(data), urgent))

    def reply(self, text: bytes) -> bool:
        message = jsonspan.members(text)
        return self.requests.answer(message["id"], message)


async def test_the_result_is_passed_on_as_it_came() -> None:
    wire = Wire()
    later = wire.requests.send("info", {"a": "\u00fc"})
    assert wire.sent == [({"id": 1, "method": "info", "params": {"a": "\u00fc"}}, False)]
    assert wire.reply(b'{"id": 1, "result": {"b" : 1e-05}}')
    result = await later
    assert type(result) is Raw
    assert result == b'{"b" : 1e-05}'
    assert not wire.reply(b'{"id": 1, "result": {}}')
    assert not wire.reply(b'{"id": "1", "result": {}}')
    assert not wire.reply(b'{"id": null, "result": {}}')


async def test_replies_may_overtake() -> None:
    wire = Wire()
    first, second = wire.requests.send("a"), wire.requests.send("b")
    wire.reply(b'{"id": 2, "result": 2}')
    assert await second == b"2"
    assert not first.is_set
    wire.reply(b'{"id": 1, "result": {}}')
    assert await first == b'"ok"'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (b'{"error": "WebRequestError", "message": "no\\nway"}', "no\nway"),
        (b'"plain"', "plain"),
        (b"{}", "without a message"),
        (b"7", "7"),
        (b'{"message": "\\ud800"}', "not readable"),
    ],
)
async def test_errors(error: bytes, text: str) -> None:
    wire = Wire()
    later = wire.requests.send("a")
    wire.reply(b'{"id": 1, "error": %b}' % error)
    with pytest.raises(KlippyError, match=text):
        await later


async def test_a_null_error_is_none() -> None:
    wire = Wire()
    later = wire.requests.send("a")
    wire.reply(b'{"id": 1, "error": null, "result": [1]}')
    assert await later == b"[1]"


async def test_time_limit() -> None:
    wire = Wire()
    later = wire.requests.send("a", timeout_s=0.01)
    with pytest.raises(ApiError, match="'a'") as caught:
        await later
    assert caught.value.status == 503
    assert len(wire.requests) == 0
    assert not wire.reply(b'{"id": 1, "result": {}}')
    done = wire.requests.send("a", timeout_s=0.01)
    wire.reply(b'{"id": 2, "result": 1}')
    await asyncio.sleep(0.02)
    assert await done == b"1"


async def test_without_a_link_and_when_it_goes() -> None:
    wire = Wire()
    waits = [wire.requests.send("a") for _ in range(3)]
    wire.requests.write = None
    wire.requests.fail_all()
    for later in waits:
        with pytest.raises(ApiError, match="^Klippy Disconnected$"):
            await later
    with pytest.raises(ApiError, match="^Klippy Host not connected$"):
        await wire.requests.send("a")
    assert len(wire.requests) == 0


async def test_in_flight_is_bounded_but_an_emergency_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_IN_FLIGHT", 3)
    monkeypatch.setattr(requests, "MAX_URGENT", 1)
    wire = Wire()
    for _ in range(3):
        wire.requests.send("a")
    with pytest.raises(ApiError, match="already") as caught:
        await wire.requests.send("a")
    assert caught.value.status == 503
    wire.requests.send("emergency_stop", urgent=True)
    assert wire.sent[-1] == ({"id": 4, "method": "emergency_stop", "params": {}}, True)
    with pytest.raises(ApiError, match="already"):
        await wire.requests.send("emergency_stop", urgent=True)


async def test_broken_answers_find_who_waits() -> None:
    wire = Wire()
    later = wire.requests.send("a")
    for text in (b"", b"{", b'{"method": "x", "id": 1, ', b'{"id": 12, "result": \xff}', b'{"id": 1'):
        wire.requests.answer_broken(text)
    assert not later.is_set
    wire.requests.answer_broken(b'{"id": 1, "result": \xff}')
    with pytest.raises(ApiError, match="not readable"):
        await later


async def test_tolerant_passes_the_rest_on() -> None:
    wire = Wire()
    good, bad = Tolerant(wire.requests.send("a")), Tolerant(wire.requests.send("a"))
    wire.reply(b'{"id": 1, "result": 5}')
    wire.reply(b'{"id": 2, "error": {"message": "no"}}')
    assert await good == b"5"
    with pytest.raises(KlippyError, match="no"):
        await bad
