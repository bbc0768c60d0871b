"""WebSocket frames: RFC 6455 as a table, the `websockets` library as an oracle, and the twins against each other."""

from __future__ import annotations

import codecs
import random
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from moonfast._pure import wsframe as pure

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x9a\x00\xff\x37"

Event = tuple[int, bytes]


def client_frame(payload: bytes, opcode: int = TEXT, *, first: int | None = None, mask: bytes = MASK) -> bytes:
    """Make a masked frame; `first` overrides the first byte (FIN, reserved bits, opcode)."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    pad = mask * (size // 4 + 1)
    masked = bytes(a ^ b for a, b in zip(payload, pad, strict=False))
    return bytes((0x80 | opcode if first is None else first,)) + length + mask + masked


def part(payload: bytes, opcode: int) -> bytes:
    """Make a frame that is not the last of its message."""
    return client_frame(payload, first=opcode)


def feed_all(parser: Any, stream: bytes, cuts: list[int]) -> list[Event]:
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for begin, end in pairwise(edges):
        events += parser.feed(stream[begin:end])
    return events


def code_of(parser: Any) -> int | None:
    return None if parser.failed is None else int(parser.failed[0])


def ask_websockets(stream: bytes) -> tuple[list[Event], int | None]:
    """Return what the library makes of whole frames: messages and control frames, and the code it fails with."""
    protocol = ServerProtocol(state=State.OPEN, max_size=None)
    protocol.receive_data(stream)
    events: list[Event] = []
    message, opcode, decoder = b"", CONT, codecs.getincrementaldecoder("utf-8")()
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode >= CLOSE:
            events.append((int(frame.opcode), bytes(frame.data)))
            continue
        opcode = opcode or int(frame.opcode)
        message += frame.data
        if opcode == TEXT:  # the library's sans-I/O layer leaves this to the caller
            try:
                decoder.decode(bytes(frame.data), frame.fin)
            except UnicodeDecodeError:
                return events, 1007
        if frame.fin:
            events.append((opcode, message))
            message, opcode = b"", CONT
    if protocol.parser_exc is None:
        return events, None
    if str(protocol.parser_exc) == "incomplete fragmented message":
        # The library takes a CLOSE inside a message for an error; RFC 6455 section 5.4 allows any control frame there.
        assert protocol.close_rcvd is not None
        code, reason = protocol.close_rcvd.code, protocol.close_rcvd.reason
        payload = b"" if code == 1005 else code.to_bytes(2, "big") + reason.encode()
        return [*events, (CLOSE, payload)], None
    assert protocol.close_sent is not None
    return events, int(protocol.close_sent.code)


TEXTS = st.text(max_size=300).map(str.encode)
PAYLOADS = st.one_of(
    TEXTS, st.binary(max_size=40), st.sampled_from([b"\xc3", b"\xf0\x9f", b"\xed\xa0\x80", b"x" * 126])
)
MASKS = st.binary(min_size=4, max_size=4)
CLOSES = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.sampled_from([0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000]),
    st.one_of(st.text(max_size=20).map(str.encode), st.binary(max_size=3)),
)
GOOD_FRAMES = st.one_of(
    st.builds(client_frame, TEXTS, st.just(TEXT), mask=MASKS),
    st.builds(client_frame, PAYLOADS, st.just(BINARY), mask=MASKS),
    st.builds(client_frame, st.binary(max_size=125), st.sampled_from([PING, PONG]), mask=MASKS),
)
ANY_FRAMES = st.one_of(
    GOOD_FRAMES,
    st.builds(client_frame, PAYLOADS, first=st.sampled_from([TEXT, BINARY, CONT, 0x80 | CONT]), mask=MASKS),
    st.builds(client_frame, PAYLOADS, first=st.integers(0, 255), mask=MASKS),
    st.builds(client_frame, CLOSES, st.just(CLOSE), mask=MASKS),
    st.builds(lambda payload: Frame(Opcode.TEXT, payload).serialize(mask=False), TEXTS),
)
FRAGMENTED = st.builds(
    lambda opcode, parts, last: (
        b"".join(client_frame(piece, first=opcode if i == 0 else CONT) for i, piece in enumerate(parts))
        + client_frame(last, CONT if parts else opcode)
    ),
    st.sampled_from([TEXT, BINARY]),
    st.lists(PAYLOADS, max_size=4),
    PAYLOADS,
)
STREAMS = st.lists(st.one_of(GOOD_FRAMES, FRAGMENTED, ANY_FRAMES), max_size=8).map(b"".join)
CUTS = st.lists(st.integers(0, 2000), max_size=12)


@pytest.mark.parametrize("name", ["pure", "speedups"])
@given(stream=STREAMS, cuts=CUTS)
def test_any_cut_gives_what_websockets_gives(name: str, stream: bytes, cuts: list[int]) -> None:
    wsframe = pytest.importorskip(f"moonfast._{name}.wsframe")
    parser = wsframe.FrameParser()
    assert (feed_all(parser, stream, cuts), code_of(parser)) == ask_websockets(stream)
    bytewise = wsframe.FrameParser()
    feed_all(bytewise, stream, list(range(len(stream))))
    assert bytewise.failed == parser.failed


@given(
    st.one_of(STREAMS, st.binary(max_size=200)), CUTS, st.integers(0, 2000), st.integers(0, 255), st.integers(0, 300)
)
@example(b"\x81\xff\x80" + b"\0" * 7, [], 0, 0, 300)
def test_speedup_equals_twin(stream: bytes, cuts: list[int], at: int, flip: int, limit: int) -> None:
    """Damaged streams too, and after every feed: events, failure with its words, bytes held."""
    speedups = pytest.importorskip("moonfast._speedups.wsframe")
    if stream:
        damaged = bytearray(stream)
        damaged[at % len(damaged)] ^= flip
        stream = bytes(damaged)
    parser, twin = speedups.FrameParser(limit), pure.FrameParser(limit)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for begin, end in pairwise(edges):
        assert parser.feed(stream[begin:end]) == twin.feed(stream[begin:end])
        assert parser.failed == twin.failed
        assert parser.pending_bytes == twin.pending_bytes


VIOLATIONS = {
    "reserved bit 1": (client_frame(b"", first=0xC1), 1002, "reserved bits are set"),
    "reserved bit 2": (client_frame(b"", first=0xA1), 1002, "reserved bits are set"),
    "reserved bit 3 in a control frame": (client_frame(b"", first=0x99), 1002, "reserved bits are set"),
    "data opcode 3": (client_frame(b"", 3), 1002, "unknown opcode"),
    "control opcode 11": (client_frame(b"", 11), 1002, "unknown opcode"),
    "fragmented ping": (part(b"", PING), 1002, "control frame is fragmented"),
    "fragmented close": (part(b"", CLOSE), 1002, "control frame is fragmented"),
    "ping of 126 bytes": (client_frame(b"x" * 126, PING), 1002, "control frame is longer than 125 bytes"),
    "continuation first": (client_frame(b"x", CONT), 1002, "continuation without a message"),
    "continuation after the end": (
        part(b"x", TEXT) + client_frame(b"y", CONT) + client_frame(b"z", CONT),
        1002,
        "continuation without a message",
    ),
    "text inside a message": (part(b"x", TEXT) + client_frame(b"y"), 1002, "new message before the last one ended"),
    "binary inside a message": (
        part(b"x", TEXT) + client_frame(b"y", BINARY),
        1002,
        "new message before the last one ended",
    ),
    "no mask": (b"\x81\x01x", 1002, "frame is not masked"),
    "no mask on a close": (b"\x88\x00", 1002, "frame is not masked"),
    "top bit of the length": (b"\x82\xff\x80" + b"\0" * 7, 1002, "frame length has its top bit set"),
    "too long": (b"\x82\xff\0\0\0\0\x01\0\0\x01", 1009, "message is longer than 16777216 bytes"),
    "far too long": (b"\x82\xff\x7f" + b"\xff" * 7, 1009, "message is longer than 16777216 bytes"),
    "close of one byte": (client_frame(b"\x03", CLOSE), 1002, "close payload is one byte long"),
    "close reason": (client_frame(b"\x03\xe8\xff", CLOSE), 1007, "close reason is not UTF-8"),
    "close reason cut": (client_frame(b"\x03\xe8\xe2\x82", CLOSE), 1007, "close reason is not UTF-8"),
    "text": (client_frame(b"caf\xe9!"), 1007, "text is not UTF-8"),
    "text ends inside a character": (client_frame(b"caf\xc3"), 1007, "text is not UTF-8"),
    "message ends inside a character": (part(b"\xe2\x82", TEXT) + client_frame(b"", CONT), 1007, "text is not UTF-8"),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_violations(impl: Any, case: str) -> None:
    stream, code, reason = VIOLATIONS[case]
    parser = impl.wsframe.FrameParser()
    before = client_frame(b"before") + client_frame(b"p", PING)
    events = parser.feed(before + stream + client_frame(b"after"))
    assert events[:2] == [(TEXT, b"before"), (PING, b"p")]
    assert not any(b"after" in payload for _, payload in events)
    assert parser.failed == (code, reason)
    assert parser.feed(client_frame(b"more")) == []
    assert parser.pending_bytes == 0


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_close_codes_a_client_may_send(impl: Any, code: int) -> None:
    parser = impl.wsframe.FrameParser()
    payload = code.to_bytes(2, "big") + "Tschüß".encode()
    assert parser.feed(client_frame(payload, CLOSE)) == [(CLOSE, payload)]
    assert parser.failed is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_a_client_may_not_send(impl: Any, code: int) -> None:
    parser = impl.wsframe.FrameParser()
    assert parser.feed(client_frame(code.to_bytes(2, "big"), CLOSE)) == []
    assert parser.failed == (1002, "close code is not allowed")


def test_bytes_after_a_close_are_ignored(impl: Any) -> None:
    parser = impl.wsframe.FrameParser()
    assert parser.feed(part(b"half", TEXT) + client_frame(b"", CLOSE) + b"\xff" * 50) == [(CLOSE, b"")]
    assert parser.feed(client_frame(b"late")) == []
    assert parser.failed is None
    assert parser.pending_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 16, 17, 125, 126, 127, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_length(impl: Any, size: int, opcode: int) -> None:
    payload = bytes(random.Random(size).choices(b"abcdefgh", k=size))
    stream = client_frame(payload, opcode)
    assert impl.wsframe.FrameParser().feed(stream * 2) == [(opcode, payload)] * 2
    parser = impl.wsframe.FrameParser()
    assert feed_all(parser, stream, list(range(0, len(stream), 65536 // 7))) == [(opcode, payload)]
    assert parser.pending_bytes == 0


def test_lengths_need_not_be_minimal(impl: Any) -> None:
    body = MASK + bytes(a ^ b for a, b in zip(b"hey", MASK, strict=False))
    for header in (b"\x81\xfe\x00\x03", b"\x81\xff" + b"\0" * 7 + b"\x03"):
        assert impl.wsframe.FrameParser().feed(header + body) == [(TEXT, b"hey")]


def test_control_frames_between_fragments(impl: Any) -> None:
    parser = impl.wsframe.FrameParser()
    stream = (
        part(b"a\xe2", TEXT)
        + client_frame(b"1", PING)
        + part(b"", CONT)
        + client_frame(b"2", PONG)
        + part(b"\x82\xac", CONT)
        + client_frame(b"z", CONT)
        + part(b"\xff", BINARY)
        + client_frame(b"", CONT)
    )
    expected = [(PING, b"1"), (PONG, b"2"), (TEXT, "a€z".encode()), (BINARY, b"\xff")]
    assert parser.feed(stream) == expected
    bytewise = impl.wsframe.FrameParser()
    assert feed_all(bytewise, stream, list(range(len(stream)))) == expected


INVALID_TEXTS = {  # text: how many bytes are read before it is known to be wrong
    b"\x80": 1,
    b"a\xbf": 2,
    b"\xc0\x80": 1,
    b"\xc1\xbf": 1,
    b"\xc3\x28": 2,
    b"\xe0\x9f\xbf": 2,
    b"\xe2\x82\x28": 3,
    b"\xed\xa0\x80": 2,
    b"\xf0\x8f\xbf\xbf": 2,
    b"\xf0\x9f\x98\x28": 4,
    b"\xf4\x90\x80\x80": 2,
    b"\xf5\x80\x80\x80": 1,
    b"\xfe": 1,
    b"\xff": 1,
    b"0123456789abcdef\xf8more": 17,
}


@pytest.mark.parametrize("text", INVALID_TEXTS)
def test_wrong_text_fails_at_its_first_wrong_byte(impl: Any, text: bytes) -> None:
    stream = part(text, TEXT)
    begin = len(stream) - len(text)
    parser = impl.wsframe.FrameParser()
    for at in range(len(stream)):
        assert parser.feed(stream[at : at + 1]) == []
        assert (parser.failed is not None) == (at >= begin + INVALID_TEXTS[text] - 1)
    assert parser.failed == (1007, "text is not UTF-8")


@pytest.mark.parametrize(
    "text", ["\x00\x7f", "\x80\u07ff", "\u0800\ud7ff\ue000\uffff", "\U00010000\U0010ffff", "κόσμε 😀" * 40]
)
def test_right_texts(impl: Any, text: str) -> None:
    stream = client_frame(text.encode())
    for step in (1, 3, 1000):
        parser = impl.wsframe.FrameParser()
        assert feed_all(parser, stream, list(range(0, len(stream), step))) == [(TEXT, text.encode())]


@pytest.mark.parametrize("header", [b"\x82\xff\x7f" + b"\xff" * 7, b"\x02\xfe\x01\x00", b"\x81\x80"])
def test_a_limit_below_nothing_refuses_all(impl: Any, header: bytes) -> None:
    parser = impl.wsframe.FrameParser(-1)
    assert parser.feed(header + MASK + b"x" * 300) == []
    assert parser.failed == (1009, "message is longer than -1 bytes")


def test_limit_counts_the_whole_message(impl: Any) -> None:
    parser = impl.wsframe.FrameParser(10)
    assert parser.feed(client_frame(b"0123456789")) == [(TEXT, b"0123456789")]
    assert parser.feed(client_frame(b"x" * 125, PING)) == [(PING, b"x" * 125)]
    assert parser.feed(part(b"012345", TEXT) + client_frame(b"6789", CONT)) == [(TEXT, b"0123456789")]
    assert parser.feed(part(b"012345", TEXT) + b"\x80") == []
    assert parser.failed is None
    assert parser.feed(b"\x85") == []  # the header alone says so
    assert parser.failed == (1009, "message is longer than 10 bytes")


def test_an_announced_message_takes_no_memory(impl: Any) -> None:
    parser = impl.wsframe.FrameParser()
    tracemalloc.start()
    try:
        parser.feed(b"\x82\xff\0\0\0\0\0\xff\xff\xff" + MASK + b"x" * 1000)
        assert parser.pending_bytes == 1000
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


def test_pending_bytes(impl: Any) -> None:
    parser = impl.wsframe.FrameParser()
    held = []
    for chunk in (b"\x02", b"\x83", MASK, b"1", b"2", b"3", b"\x8a\x82", MASK + b"1", b"2", b"\x80\x80", MASK):
        parser.feed(chunk)
        held.append(parser.pending_bytes)
    assert held == [1, 2, 0, 1, 2, 3, 5, 4, 3, 5, 0]


@pytest.mark.parametrize("opcode", [CONT, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_encode_frame(impl: Any, opcode: int, size: int) -> None:
    payload = bytes(i & 0xFF for i in range(size))
    if opcode >= CLOSE and size > 125:
        with pytest.raises(ValueError, match=f"^a control frame holds at most 125 bytes, not {size}$"):
            impl.wsframe.encode_frame(payload, opcode)
    else:
        assert impl.wsframe.encode_frame(payload, opcode) == Frame(Opcode(opcode), payload).serialize(mask=False)


@pytest.mark.parametrize("opcode", [-1, 3, 7, 11, 16, 257])
def test_encode_frame_refuses_unknown_opcodes(impl: Any, opcode: int) -> None:
    with pytest.raises(ValueError, match=f"^unknown opcode {opcode}$"):
        impl.wsframe.encode_frame(b"", opcode)


def test_encode_close(impl: Any) -> None:
    encode_close = impl.wsframe.encode_close
    assert encode_close(1000) == b"\x88\x02\x03\xe8"
    assert encode_close(1013, "slöw") == b"\x88\x07\x03\xf5" + "slöw".encode()
    assert encode_close(1000, "\udc80") == b"\x88\x03\x03\xe8?"
    for code in (0, 999, 5000):
        with pytest.raises(ValueError, match=f"^a close code is 1000 to 4999, not {code}$"):
            encode_close(code)


@pytest.mark.parametrize("name", ["pure", "speedups"])
@given(reason=st.text(max_size=200))
def test_close_reasons_are_cut_between_characters(name: str, reason: str) -> None:
    wsframe = pytest.importorskip(f"moonfast._{name}.wsframe")
    frame = wsframe.encode_close(1008, reason)
    close = Close.parse(frame[2:])
    assert len(frame) <= 127
    assert reason.startswith(close.reason)
    assert close.reason == reason or len(frame) > 127 - 4


def test_accept_key(impl: Any) -> None:
    """The example of RFC 6455 section 1.3."""
    assert impl.wsframe.accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_opcodes(impl: Any) -> None:
    w = impl.wsframe
    assert (w.CONT, w.TEXT, w.BINARY, w.CLOSE, w.PING, w.PONG) == (CONT, TEXT, BINARY, CLOSE, PING, PONG)


def test_two_parsers_share_nothing(impl: Any) -> None:
    one, other = impl.wsframe.FrameParser(), impl.wsframe.FrameParser()
    stream = client_frame(b"message one")
    one.feed(stream[:10])
    assert other.feed(client_frame(b"two")) == [(TEXT, b"two")]
    assert one.feed(stream[10:]) == [(TEXT, b"message one")]
