"""JSON-RPC over plain HTTP: one text in the body, one in the answer, always with status 200."""

from __future__ import annotations

from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import endpoint
from moonfast.api.later import Later
from moonfast.api.params import Body
from moonfast.codec import Raw
from moonfast.rpc.jsonrpc import JsonRpc
from moonfast.vocab import POST, Access, Transport


class JsonRpcOverHttp:
    """The endpoint. Rights are checked for each method, not here."""

    def __init__(self, rpc: JsonRpc) -> None:
        self._rpc = rpc

    @endpoint(POST, "/server/jsonrpc", transports=Transport.HTTP, access=Access.OPEN, is_wrapped=False)
    def post(self, call: Call, body: Body) -> Later:
        """Answer a JSON-RPC request or batch. What belongs to a lasting connection is not available here."""
        later = Later()
        self._rpc.receive(
            body, call, lambda answer: later.resolve(HttpAnswer() if answer is None else Raw(answer)), None
        )
        return later
