"""The groups of the Autobahn suite that need no extension, in short, over the echo server.

The suite itself runs on Python 2: start `python -m tests.wire.echo_server --port 9001` and point its fuzzing client at
ws://127.0.0.1:9001. What stands here are the same questions, so that every run of the tests asks them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from tests.wire.echo_server import echoing
from tests.wire.raw import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    WAIT_S,
    RawSocket,
    close_frame,
    frame,
    raw_socket,
)

VALID_TEXTS = [
    "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "κόσμε".encode(),
    *(chr(point).encode() for point in (0x00, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFE, 0xFFFF)),
    *(chr(point).encode() for point in (0x10000, 0x1FFFF, 0x2FFFE, 0x10FFFF)),
]
INVALID_TEXTS = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\x80",
    b"\xbf",
    b"\x80\xbf" * 3,
    b"\xc0 \xc1 ",
    b"\xf5 ",
    b"\xc0",
    b"\xe0\x80",
    b"\xf0\x80\x80",
    b"\xf8\x80\x80\x80",
    b"\xfc\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xed\xa0\x80",
    b"\xed\xaf\xbf",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf7\xbf\xbf\xbf",
]
UNFINISHED_TEXTS = [b"\xce", b"\xe1\xbd", b"\xf0\x90\x80"]


async def failed(client: RawSocket, code: int) -> None:
    """The server closes for a violation, and ends the connection."""
    assert (await client.recv()).code == code
    assert await client.end()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 65537])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_1_framing_of_all_sizes(size: int, opcode: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        payload = b"*" * size if opcode == TEXT else os.urandom(size)
        await client.send(frame(payload, opcode))
        assert await client.recv() == (opcode, payload, True)
        await client.send_bytewise(frame(payload, opcode), 997 if size > 1000 else 1)
        assert await client.recv() == (opcode, payload, True)
        await client.send(close_frame(1000))
        await failed(client, 1000)


async def test_1_bytes_beside_a_length_form_that_is_longer_than_needed() -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(
            b"\x81\xfe\x00\x05" + bytes(4) + b"hello" + b"\x81\xff" + bytes(7) + b"\x02" + bytes(4) + b"hi"
        )
        assert (await client.recv()).payload == b"hello"
        assert (await client.recv()).payload == b"hi"


async def test_2_pings_and_pongs() -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        for payload in (b"", b"Hello, world!", bytes(range(125)), b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"x" * 125):
            await client.send_bytewise(frame(payload, PING))
            assert await client.recv() == (PONG, payload, True)
        await client.send(frame(b"", PONG) + frame(b"unasked", PONG) + frame(b"now", PING))
        assert await client.recv() == (PONG, b"now", True)
        await client.send(b"".join(frame(b"%d" % number, PING) for number in range(10)))
        assert [(await client.recv()).payload for _ in range(10)] == [b"%d" % number for number in range(10)]
        await client.send(frame(b"x" * 126, PING))
        await failed(client, 1002)


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
async def test_3_reserved_bits(rsv: int, opcode: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send_bytewise(frame(b"before") + frame(b"", opcode, rsv=rsv) + frame(b"", PING), 3)
        assert await client.recv() == (TEXT, b"before", True)
        await failed(client, 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"reserved"])
async def test_4_reserved_opcodes(opcode: int, payload: bytes) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(frame(b"before") + frame(payload, opcode) + frame(b"", PING))
        assert await client.recv() == (TEXT, b"before", True)
        await failed(client, 1002)


@pytest.mark.parametrize("chop", [1, 5, 10_000])
async def test_5_fragments(chop: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send_bytewise(
            frame(b"one", TEXT, fin=False)
            + frame(b"ping 1", PING)
            + frame(b"", CONT, fin=False)
            + frame(b"two", CONT, fin=False)
            + frame(b"ping 2", PING)
            + frame(b"three", CONT)
            + frame(b"", BINARY, fin=False)
            + frame(b"", CONT),
            chop,
        )
        assert await client.recv() == (PONG, b"ping 1", True)
        assert await client.recv() == (PONG, b"ping 2", True)
        assert await client.recv() == (TEXT, b"onetwothree", True)
        assert await client.recv() == (BINARY, b"", True)


@pytest.mark.parametrize(
    "data",
    [
        frame(b"x", PING, fin=False) + frame(b"y", CONT),
        frame(b"x", PONG, fin=False) + frame(b"y", CONT),
        frame(b"x", CLOSE, fin=False) + frame(b"y", CONT),
        frame(b"x", CONT),
        frame(b"x", CONT, fin=False) + frame(b"y", TEXT),
        frame(b"x", TEXT, fin=False) + frame(b"y", TEXT),
        frame(b"x", TEXT, fin=False) + frame(b"y", BINARY, fin=False),
        frame(b"x", TEXT) + frame(b"y", CONT),
    ],
)
async def test_5_fragments_in_the_wrong_place(data: bytes) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(data + frame(b"after"))
        if data.startswith(frame(b"x", TEXT)):
            assert await client.recv() == (TEXT, b"x", True)
        await failed(client, 1002)


@pytest.mark.parametrize("text", VALID_TEXTS)
async def test_6_valid_texts(text: bytes) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(frame(text))
        assert await client.recv() == (TEXT, text, True)
        pieces = [frame(bytes((byte,)), CONT if index else TEXT, fin=False) for index, byte in enumerate(text)]
        await client.send(b"".join(pieces) + frame(b"", CONT))
        assert await client.recv() == (TEXT, text, True)


@pytest.mark.parametrize("text", INVALID_TEXTS)
async def test_6_invalid_texts_fail_at_the_first_wrong_byte(text: bytes) -> None:
    async with echoing() as port:
        async with raw_socket(port, "/") as client:
            await client.send(frame(text))
            await failed(client, 1007)
        async with raw_socket(port, "/") as client:  # a frame that has not ended, in a message that has not ended
            await client.send(frame(text + b"more", TEXT, fin=False)[:-4])
            await failed(client, 1007)
        async with raw_socket(port, "/") as client:
            pieces = [frame(bytes((byte,)), CONT if index else TEXT, fin=False) for index, byte in enumerate(text)]
            await client.send(b"".join(pieces))
            await failed(client, 1007)


@pytest.mark.parametrize("text", UNFINISHED_TEXTS)
async def test_6_texts_that_end_within_a_character(text: bytes) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(frame(b"fine" + text, TEXT, fin=False) + frame(b"", PING))
        assert (await client.recv()).opcode == PONG  # it may go on
        await client.send(frame(b"", CONT))
        await failed(client, 1007)


async def test_6_binary_may_be_anything() -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        for payload in INVALID_TEXTS:
            await client.send(frame(payload, BINARY))
            assert await client.recv() == (BINARY, payload, True)


@pytest.mark.parametrize(
    "code",
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999, None],
)
async def test_7_close_codes_that_are_allowed(code: int | None) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        reason = b"" if code is None else b"*" * 123
        await client.send(frame(b"before") + close_frame(code, reason) + frame(b"after") + frame(b"", PING))
        assert await client.recv() == (TEXT, b"before", True)
        await failed(client, code)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
async def test_7_close_codes_that_are_not_allowed(code: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(close_frame(code))
        await failed(client, 1002)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"\x03", CLOSE), 1002),
        (frame(b"\x03\xe8" + b"*" * 124, CLOSE), 1002),
        (close_frame(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), 1007),
        (close_frame(1000) + close_frame(1001), 1000),
        (frame(b"x", TEXT, fin=False) + close_frame(1000) + frame(b"y", CONT), 1000),
    ],
)
async def test_7_close_frames(data: bytes, code: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        await client.send(data)
        await failed(client, code)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [256 * 1024, 4 * 1024 * 1024, 16 * 1024 * 1024])
async def test_9_large_messages(opcode: int, size: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        payload = "aé€𝄞".encode() * (size // 10) if opcode == TEXT else os.urandom(1024) * (size // 1024)
        sending = asyncio.get_running_loop().create_task(client.send(frame(payload, opcode)))
        assert await client.recv() == (opcode, payload, True)
        await sending


@pytest.mark.parametrize("piece", [64, 1024, 65536])
async def test_9_large_messages_in_fragments(piece: int) -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        payload = "aé€𝄞".encode() * (piece * 20)
        pieces = [payload[start : start + piece] for start in range(0, len(payload), piece)]
        frames = [frame(data, CONT if index else TEXT, fin=False) for index, data in enumerate(pieces)]
        sending = asyncio.get_running_loop().create_task(client.send(b"".join(frames) + frame(b"", CONT)))
        assert await client.recv() == (TEXT, payload, True)
        await sending


async def test_9_many_small_messages() -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        sent = [b"%d" % number * (number % 50) for number in range(3000)]
        sending = asyncio.get_running_loop().create_task(client.send(b"".join(map(frame, sent))))
        assert [(await client.recv()).payload for _ in sent] == sent
        await sending


async def test_10_automatic_fragments() -> None:
    async with echoing() as port, raw_socket(port, "/") as client:
        payload = b"*" * 65536
        pieces = [payload[start : start + 1300] for start in range(0, 65536, 1300)]
        frames = [
            frame(data, CONT if index else TEXT, fin=index == len(pieces) - 1) for index, data in enumerate(pieces)
        ]
        for data in frames:
            await client.send(data)
        assert await client.recv() == (TEXT, payload, True)


async def test_runs_as_a_program_until_a_signal() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.wire.echo_server", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WAIT_S):
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        async with raw_socket(int(line.rstrip("/\n").rpartition(":")[2]), "/") as client:
            await client.send(frame(b"hello"))
            assert (await client.recv()).payload == b"hello"
            process.send_signal(signal.SIGTERM)
            assert (await client.recv()).code == 1001
            await client.send(close_frame(1001))
            assert await client.end()
        assert await process.wait() == 0
        assert await process.stdout.read() == b""
