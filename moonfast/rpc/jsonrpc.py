"""JSON-RPC 2.0 without I/O: bytes in, and through a callback bytes out.

Source: https://www.jsonrpc.org/specification; error codes as in errors.py. Deviations, which clients rely on: `params`
has to be an object, and a message with `result` or `error` answers a request of the server's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moonfast.api.call import Call, HttpAnswer
from moonfast.api.endpoint import Endpoint
from moonfast.api.invoke import Invoker
from moonfast.api.table import EndpointTable
from moonfast.codec import DecodeError, Raw, decode, encode
from moonfast.errors import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, ApiError

MAX_BATCH = 100

Reply = Callable[[bytes | None], None]
"""Called once for each text received: with the answer, or None where nothing is to be answered."""
Answered = Callable[[dict[str, Any]], None]
"""Called with a response of the client to a request of the server's."""


def encode_request(method: str, params: Any, request_id: int | None = None) -> bytes:
    """The text of a request of the server's own, or, without an id, of a notification."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    if request_id is not None:
        message["id"] = request_id
    return encode(message)


class JsonRpc:
    """Answers JSON-RPC texts from the endpoints of one table.

    `refuse_unknown` may give a better error than "not found" for a method that is not in the table.
    """

    def __init__(
        self,
        table: EndpointTable,
        invoker: Invoker,
        refuse_unknown: Callable[[str], ApiError | None] = lambda method: None,
    ) -> None:
        self._table, self._invoker, self._refuse_unknown = table, invoker, refuse_unknown

    def receive(self, text: bytes, call: Call, reply: Reply, answered: Answered | None = None) -> None:
        """Take one text: a request, a notification, a batch of them, or a response. Never raises."""
        try:
            message = decode(text)
        except DecodeError as exc:
            reply(_failure(PARSE_ERROR, f"Parse error: {exc}", b"null"))
            return
        if type(message) is dict:
            self._one(message, call, reply, answered)
        elif type(message) is list:
            self._batch(message, call, reply, answered)
        else:
            reply(_failure(INVALID_REQUEST, "Invalid Request: send an object, or an array of objects", b"null"))

    def _one(self, message: dict[str, Any], call: Call, reply: Reply, answered: Answered | None) -> None:
        method = message.get("method")
        request_id = message.get("id")
        if type(request_id) is int:
            id_text = b"%d" % request_id
        elif request_id is None:
            id_text = b"null"
        elif type(request_id) is str or type(request_id) is float:
            id_text = encode(request_id)
        else:
            reply(_failure(INVALID_REQUEST, "Invalid Request: 'id' must be a text or a number", b"null"))
            return
        if message.get("jsonrpc") != "2.0":
            reply(_failure(INVALID_REQUEST, "Invalid Request: 'jsonrpc' must be \"2.0\"", id_text))
            return
        if type(method) is not str:
            if method is None and answered is not None and ("result" in message or "error" in message):
                answered(message)
                reply(None)
            else:
                reply(_failure(INVALID_REQUEST, "Invalid Request: 'method' must be a text", id_text))
            return
        is_notification = "id" not in message
        endpoint = self._table.by_method(method)
        if endpoint is None or not endpoint.ways & call.ways:
            reply(None if is_notification else _failure(*self._unknown(method, endpoint, call), id_text))
            return
        params = message.get("params")
        if params is None:
            params = {}
        elif type(params) is not dict:
            text = "Invalid params: 'params' must be an object with the arguments by name"
            reply(None if is_notification else _failure(INVALID_PARAMS, text, id_text))
            return
        if is_notification:
            self._invoker.invoke(endpoint, call, params, lambda result, error: reply(None))
        else:

            def done(result: Any, error: ApiError | None) -> None:
                if error is not None:
                    reply(_failure(error.rpc_code, error.message, id_text, error.data))
                else:
                    reply(_success(result, id_text))

            self._invoker.invoke(endpoint, call, params, done)

    def _unknown(self, method: str, endpoint: Endpoint | None, call: Call) -> tuple[int, str]:
        if endpoint is not None:
            ways = " or ".join(way.name for way in endpoint.transports if way.name)
            return METHOD_NOT_FOUND, f"Method '{method}' is not available over {call.transport.name}: use {ways}"
        refusal = self._refuse_unknown(method)
        if refusal is not None:
            return refusal.rpc_code, refusal.message
        return METHOD_NOT_FOUND, f"Method '{method}' not found"

    def _batch(self, messages: list[Any], call: Call, reply: Reply, answered: Answered | None) -> None:
        """Run all members at once; answer when the last one is done, in the order of the members."""
        if not messages or len(messages) > MAX_BATCH:
            text = f"Invalid Request: a batch has 1 to {MAX_BATCH} members, this one has {len(messages)}"
            reply(_failure(INVALID_REQUEST, text, b"null"))
            return
        answers: list[bytes | None] = [None] * len(messages)
        waiting = len(messages)

        def member_reply(index: int) -> Reply:
            def take(answer: bytes | None) -> None:
                nonlocal waiting
                answers[index] = answer
                waiting -= 1
                if waiting == 0:
                    texts = [text for text in answers if text is not None]
                    reply(b"[%b]" % b",".join(texts) if texts else None)

            return take

        for index, message in enumerate(messages):
            if type(message) is dict:
                self._one(message, call, member_reply(index), answered)
            else:
                member_reply(index)(_failure(INVALID_REQUEST, "Invalid Request: not an object", b"null"))


def _success(result: Any, id_text: bytes) -> bytes:
    if type(result) is not Raw:
        if isinstance(result, HttpAnswer):
            result = result.body.decode("utf-8", "replace")
        try:
            result = encode(result)
        except TypeError:
            return _failure(500, "The result cannot be written as JSON", id_text)
    return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result, id_text)


def _failure(code: int, message: str, id_text: bytes, data: object = None) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return b'{"jsonrpc":"2.0","error":%b,"id":%b}' % (encode(error), id_text)
