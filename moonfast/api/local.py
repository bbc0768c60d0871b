"""Calls of the server to its own endpoints: from templates, from components."""

from __future__ import annotations

from typing import Any

from moonfast.api.call import INTERNAL, HttpAnswer
from moonfast.api.invoke import Invoker
from moonfast.api.later import Later
from moonfast.api.table import EndpointTable
from moonfast.codec import Raw, decode
from moonfast.errors import ApiError, BadRequest, NotFound
from moonfast.vocab import Transport


class LocalCalls:
    """Endpoints by their JSON-RPC names, with the rights of the server itself."""

    def __init__(self, table: EndpointTable, invoker: Invoker) -> None:
        self._table, self._invoker = table, invoker

    async def call(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """The result, as a client would get it. ApiError: what the endpoint answers; NotFound: there is none."""
        endpoint = self._table.by_method(method)
        if endpoint is None or not endpoint.transports & Transport.INTERNAL:
            raise NotFound(f"Method '{method}' not found: see the API reference for the JSON-RPC names")
        later = Later()

        def done(result: Any, error: ApiError | None) -> None:
            if error is None:
                later.resolve(result)
            else:
                later.fail(error)

        self._invoker.invoke(endpoint, INTERNAL, arguments or {}, done)
        result = await later
        if isinstance(result, Raw):
            return decode(result)
        if isinstance(result, HttpAnswer):
            raise BadRequest(f"Method '{method}' answers with a document: it can be asked over HTTP only")
        return result

    async def call_method(self, method: str, /, **arguments: Any) -> Any:
        """The same as templates write it."""
        return await self.call(method, arguments)
