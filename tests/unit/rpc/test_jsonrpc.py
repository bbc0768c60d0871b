"""JSON-RPC 2.0: texts in, texts out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, rpc_method
from moonfast.api.invoke import Invoker
from moonfast.api.later import Later
from moonfast.api.table import EndpointTable
from moonfast.codec import Raw
from moonfast.errors import AgentFailed, NotFound, Unavailable
from moonfast.rpc.jsonrpc import MAX_BATCH, JsonRpc, encode_request
from moonfast.vocab import GET, POST, Access, Transport

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CALL = Call(Transport.WEBSOCKET)


class Things:
    def __init__(self) -> None:
        self.later = Later()
        self.seen: list[int] = []

    @endpoint(POST, "/thing/add")
    def add(self, call: Call, a: int, b: int = 1) -> int:
        """Add."""
        self.seen.append(a)
        return a + b

    @endpoint(GET, "/thing/raw")
    def raw(self, call: Call) -> Raw:
        """Raw."""
        return Raw(b'{"x":1e-05}')

    @endpoint(GET, "/thing/slow")
    async def slow(self, call: Call) -> str:
        """Slow."""
        await asyncio.sleep(0.005)
        return "slow"

    @endpoint(GET, "/thing/later")
    def wait(self, call: Call) -> Later:
        """Later."""
        return self.later

    @endpoint(GET, "/thing/fail")
    def fail(self, call: Call, status: int) -> None:
        """Fail."""
        raise {
            404: NotFound("no\nsuch <thing>"),
            503: Unavailable("away"),
            424: AgentFailed("agent", data={"code": 1}),
        }[status]

    @endpoint(GET, "/thing/bug")
    def bug(self, call: Call) -> None:
        """Bug."""
        raise RuntimeError("detail")

    @endpoint(GET, "/thing/odd")
    def odd(self, call: Call) -> Any:
        """Return what is not JSON."""
        return object()

    @rpc_method("thing.here")
    def here(self, call: Call) -> str:
        """Here."""
        return "here"

    @endpoint(GET, "/thing/open", access=Access.OPEN)
    def open(self, call: Call) -> str:
        """Open."""
        return "open"


class Peer:
    """One client: what it sends, and what comes back."""

    def __init__(self) -> None:
        self.things = Things()
        table = EndpointTable()
        table.collect(self.things)
        table.complete()
        self.rpc = JsonRpc(table, Invoker(), lambda method: Unavailable("later") if method == "klippy.x" else None)
        self.answers: list[bytes | None] = []
        self.responses: list[dict[str, Any]] = []

    def send(self, text: bytes, call: Call = CALL) -> None:
        self.rpc.receive(text, call, self.answers.append, self.responses.append)

    def ask(self, message: Any, call: Call = CALL) -> Any:
        """Send something that is answered at once."""
        before = len(self.answers)
        self.send(json.dumps(message).encode(), call)
        assert len(self.answers) == before + 1
        answer = self.answers[-1]
        return None if answer is None else json.loads(answer)


def request(method: str, request_id: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params, "id": request_id}


@pytest.mark.parametrize("request_id", [0, 354, -1, 1.5, "abc", "ü\n", None, 2**60])
def test_ids_come_back(request_id: Any) -> None:
    assert Peer().ask(request("thing.add", request_id, a=1)) == {"jsonrpc": "2.0", "result": 2, "id": request_id}


@pytest.mark.parametrize(
    ("message", "code", "request_id"),
    [
        (5, -32600, None),
        ("x", -32600, None),
        (None, -32600, None),
        ([], -32600, None),
        ({}, -32600, None),
        ({"jsonrpc": "2.0", "id": 4}, -32600, 4),
        ({"jsonrpc": "2.0", "method": 5, "id": 4}, -32600, 4),
        ({"jsonrpc": "1.0", "method": "thing.add", "id": 4}, -32600, 4),
        ({"method": "thing.add", "id": 4}, -32600, 4),
        ({"jsonrpc": "2.0", "method": "thing.add", "id": {"a": 1}}, -32600, None),
        ({"jsonrpc": "2.0", "method": "thing.add", "id": [1]}, -32600, None),
        ({"jsonrpc": "2.0", "method": "thing.add", "id": True}, -32600, None),
        ({"jsonrpc": "2.0", "method": "nosuch", "id": 4}, -32601, 4),
        ({"jsonrpc": "2.0", "method": "thing.add", "params": "x", "id": 4}, -32602, 4),
        ({"jsonrpc": "2.0", "method": "thing.add", "params": [1], "id": 4}, -32602, 4),
        (request("thing.add", 4), 400, 4),
        (request("thing.add", 4, a="x"), 400, 4),
        (request("thing.fail", 4, status=404), -32601, 4),
        (request("thing.fail", 4, status=503), 503, 4),
        (request("thing.bug", 4), 500, 4),
        (request("thing.odd", 4), 500, 4),
        (request("klippy.x", 4), 503, 4),
    ],
)
def test_error_codes(message: Any, code: int, request_id: Any) -> None:
    answer = Peer().ask(message)
    assert answer["error"]["code"] == code
    assert answer["id"] == request_id
    assert answer["jsonrpc"] == "2.0"
    assert answer["error"]["message"]


@pytest.mark.parametrize("text", [b"{not json", b"", b"\xff", b'{"a":NaN}', b"[1,", b"[" * 100_000])
def test_parse_errors(text: bytes) -> None:
    peer = Peer()
    peer.send(text)
    (answer,) = peer.answers
    assert answer is not None
    assert json.loads(answer)["error"]["code"] == -32700


def test_texts_and_data_of_errors_arrive_whole() -> None:
    peer = Peer()
    assert peer.ask(request("thing.fail", status=404))["error"]["message"] == "no\nsuch <thing>"
    assert peer.ask(request("thing.fail", status=424))["error"] == {
        "code": 424,
        "message": "agent",
        "data": {"code": 1},
    }


def test_raw_results_are_spliced() -> None:
    peer = Peer()
    peer.send(json.dumps(request("thing.raw")).encode())
    assert peer.answers == [b'{"jsonrpc":"2.0","result":{"x":1e-05},"id":1}']


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "thing.add", "params": {"a": 7}},
        {"jsonrpc": "2.0", "method": "nosuch"},
        {"jsonrpc": "2.0", "method": "thing.add", "params": 5},
    ],
)
def test_notifications_are_not_answered(message: Any) -> None:
    assert Peer().ask(message) is None


def test_rights_and_transports() -> None:
    peer = Peer()
    stranger = Call(Transport.WEBSOCKET, refusal="log in")
    answer = peer.ask(request("thing.add", a=1), stranger)
    assert answer["error"] == {
        "code": -32602,
        "message": "Unauthorized",
        "data": {"reason": "login_required", "remedy": "log in"},
    }
    assert peer.ask(request("thing.open"), stranger)["result"] == "open"
    assert peer.ask(request("thing.here"))["result"] == "here"
    over_http = peer.ask(request("thing.here"), Call(Transport.HTTP))
    assert over_http["error"]["code"] == -32601
    assert "WEBSOCKET" in over_http["error"]["message"]


async def test_a_batch_runs_at_once_and_is_answered_in_order() -> None:
    peer = Peer()
    batch = [
        request("thing.slow", "a"),
        {"jsonrpc": "2.0", "method": "thing.add", "params": {"a": 5}},
        request("thing.later", "b"),
        request("nosuch", "c"),
        7,
        request("thing.add", "d", a=1),
    ]
    peer.send(json.dumps(batch).encode())
    assert peer.answers == []
    assert peer.things.seen == [5, 1]
    await asyncio.sleep(0.05)
    assert peer.answers == []
    peer.things.later.resolve("now")
    (answer,) = peer.answers
    assert answer is not None
    found = json.loads(answer)
    assert [item["id"] for item in found] == ["a", "b", "c", None, "d"]
    assert found[0]["result"] == "slow"
    assert found[1]["result"] == "now"
    assert found[3]["error"]["code"] == -32600


def test_a_batch_of_notifications_is_not_answered() -> None:
    peer = Peer()
    assert peer.ask([{"jsonrpc": "2.0", "method": "thing.add", "params": {"a": 1}}] * 2) is None
    assert peer.things.seen == [1, 1]


def test_a_batch_has_a_bound() -> None:
    peer = Peer()
    assert len(peer.ask([request("thing.add", index, a=index) for index in range(MAX_BATCH)])) == MAX_BATCH
    answer = peer.ask([request("thing.add", index, a=index) for index in range(MAX_BATCH + 1)])
    assert answer["error"]["code"] == -32600
    assert len(peer.things.seen) == MAX_BATCH


def test_responses_to_own_requests() -> None:
    peer = Peer()
    assert json.loads(encode_request("m", {"a": 1}, 3)) == {
        "jsonrpc": "2.0",
        "method": "m",
        "params": {"a": 1},
        "id": 3,
    }
    assert json.loads(encode_request("m", None)) == {"jsonrpc": "2.0", "method": "m"}
    assert peer.ask({"jsonrpc": "2.0", "result": 5, "id": 3}) is None
    assert peer.ask({"jsonrpc": "2.0", "error": {"code": 1, "message": "x"}, "id": 4}) is None
    assert [item["id"] for item in peer.responses] == [3, 4]


@given(
    JSON
    | st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "jsonrpc": st.just("2.0"),
                "id": JSON,
                "method": st.sampled_from(["thing.add", "thing.raw", "x"]),
                "params": JSON,
                "result": JSON,
            },
        )
    )
)
def test_any_value_gets_one_answer_at_most(message: Any) -> None:
    peer = Peer()
    try:
        text = json.dumps(message).encode()
    except UnicodeEncodeError:
        return
    peer.send(text)
    assert len(peer.answers) == 1
    answer = peer.answers[0]
    if answer is not None:
        found = json.loads(answer)
        for item in found if isinstance(found, list) else [found]:
            assert item["jsonrpc"] == "2.0"
            assert ("result" in item) != ("error" in item)


@given(st.binary())
def test_any_bytes_get_one_answer(text: bytes) -> None:
    peer = Peer()
    peer.send(text)
    assert len(peer.answers) == 1
