"""The server calls its own endpoints."""

from __future__ import annotations

import pytest

from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import endpoint
from moonfast.api.invoke import Invoker
from moonfast.api.local import LocalCalls
from moonfast.api.table import EndpointTable
from moonfast.codec import Raw
from moonfast.errors import BadRequest, NotFound
from moonfast.vocab import GET, POST, Transport


class Owner:
    @endpoint(GET, "/a/plain")
    def plain(self, call: Call, x: int) -> int:
        """Return one more."""
        return x + 1

    @endpoint(GET, "/a/raw")
    async def raw(self, call: Call) -> Raw:
        """Return JSON text."""
        return Raw(b'{"b": 1}')

    @endpoint(POST, "/a/page")
    def page(self, call: Call) -> HttpAnswer:
        """Return a page."""
        return HttpAnswer(b"<html>")

    @endpoint(GET, "/a/outside", transports=Transport.HTTP)
    def outside(self, call: Call) -> int:
        """Return a number, over HTTP alone."""
        return 1


def calls() -> LocalCalls:
    table = EndpointTable()
    table.collect(Owner())
    table.complete()
    return LocalCalls(table, Invoker())


async def test_results_as_clients_get_them() -> None:
    assert await calls().call("a.plain", {"x": 1}) == 2
    assert await calls().call_method("a.raw") == {"b": 1}


@pytest.mark.parametrize("method", ["a.nothing", "a.outside"])
async def test_what_cannot_be_called(method: str) -> None:
    with pytest.raises(NotFound):
        await calls().call(method)


async def test_errors_of_the_endpoint() -> None:
    with pytest.raises(BadRequest):
        await calls().call("a.plain", {"x": "y"})
    with pytest.raises(BadRequest):
        await calls().call("a.page")
