"""Serves the API reference for programs."""

from __future__ import annotations

from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import ALL_NOTIFICATIONS, endpoint
from moonfast.api.table import EndpointTable
from moonfast.codec import encode
from moonfast.vocab import GET, Access, Transport


class ReferenceApi:
    """Makes the documents when they are asked for: most servers never are."""

    def __init__(self, table: EndpointTable, version: str) -> None:
        self._table, self._version = table, version

    @endpoint(GET, "/server/openapi.json", transports=Transport.HTTP, access=Access.OPEN, is_wrapped=False)
    def openapi(self, call: Call) -> HttpAnswer:
        """Return an OpenAPI 3.1 document of everything that can be asked for over HTTP, Klippy's endpoints included."""
        from moonfast.api.reference import openapi

        return HttpAnswer(encode(openapi(self._table, self._version)), content_type="application/json")

    @endpoint(GET, "/server/asyncapi.json", transports=Transport.HTTP, access=Access.OPEN, is_wrapped=False)
    def asyncapi(self, call: Call) -> HttpAnswer:
        """Return an AsyncAPI 3.0 document of the notifications."""
        from moonfast.api.reference import asyncapi

        document = asyncapi(ALL_NOTIFICATIONS.values(), self._version)
        return HttpAnswer(encode(document), content_type="application/json")
