"""Outboxes and the pump: order, corks, slices, caps, failures with a scripted transport; real sockets on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import random
import socket
import tracemalloc
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

KIB = 1024


class FakeTransport:
    """A transport whose peer reads only when told to: what it has not read is the write buffer."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_stuck = False
        self.is_aborted = False
        self.held = 0
        self.outbox: Any = None
        self.failure: Exception | None = None
        self.on_write: Callable[[], object] | None = None

    def write(self, data: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.writes.append(bytes(data))
        if self.is_stuck and self.outbox is not None:
            self.held += len(data)
            self.outbox.paused()
        if self.on_write is not None:
            self.on_write()

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return self.held

    def drain(self) -> None:
        """Let the peer read everything."""
        self.is_stuck = False
        self.held = 0
        self.outbox.resumed()

    @property
    def data(self) -> bytes:
        return b"".join(self.writes)


class Loop:
    """Collects what is given to call_soon."""

    def __init__(self) -> None:
        self.ready: deque[Callable[[], object]] = deque()

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.ready.append(callback)

    def step(self) -> None:
        for _ in range(len(self.ready)):
            self.ready.popleft()()

    def run(self) -> None:
        while self.ready:
            self.step()


class Bench:
    """A pump, its loop, and outboxes over scripted transports."""

    def __init__(self, fanout: Any, count: int = 1, *, cap: int = 8 * KIB * KIB, **pump_options: Any) -> None:
        self.loop = Loop()
        self.pump = fanout.Pump(self.loop.call_soon, **pump_options)
        self.transports = [FakeTransport() for _ in range(count)]
        self.outboxes = [fanout.Outbox(self.pump, transport, -1, cap) for transport in self.transports]
        for transport, outbox in zip(self.transports, self.outboxes, strict=True):
            transport.outbox = outbox
        self.transport, self.outbox = self.transports[0], self.outboxes[0]


def test_a_free_outbox_sends_at_once(impl: Any) -> None:
    bench = Bench(impl.fanout)
    bench.outbox.send(b"one")
    bench.outbox.send(b"")
    bench.outbox.send(b"two")
    assert bench.transport.writes == [b"one", b"two"]
    assert bench.outbox.queued_bytes == bench.pump.queued_bytes == 0


def test_a_cork_joins_the_frames_of_each_outbox(impl: Any) -> None:
    bench = Bench(impl.fanout, 2)
    bench.pump.cork()
    bench.pump.cork()
    for i in range(3):
        bench.outboxes[0].send(b"a%d" % i)
    bench.outboxes[1].send(b"b")
    bench.pump.uncork()
    assert bench.transport.writes == []
    assert (bench.outbox.queued_bytes, bench.pump.queued_bytes) == (6, 7)
    bench.pump.uncork()
    assert [transport.writes for transport in bench.transports] == [[b"a0a1a2"], [b"b"]]
    assert bench.pump.queued_bytes == 0
    with pytest.raises(RuntimeError, match="^uncork without cork$"):
        bench.pump.uncork()


def test_a_blocked_outbox_queues_until_resumed(impl: Any) -> None:
    bench = Bench(impl.fanout)
    bench.transport.is_stuck = True
    bench.outbox.send(b"1")
    assert bench.outbox.blocked
    bench.outbox.send(b"2")
    bench.pump.cork()
    bench.outbox.send(b"3")
    bench.pump.uncork()
    assert bench.transport.writes == [b"1"]
    assert bench.outbox.queued_bytes == 2
    bench.transport.drain()
    assert bench.transport.writes == [b"1", b"23"]
    assert not bench.outbox.blocked
    assert bench.pump.queued_bytes == 0


def test_queued_frames_go_out_in_pieces(impl: Any) -> None:
    bench = Bench(impl.fanout)
    frames = [bytes([i]) * (100 * KIB) for i in range(5)] + [b"L" * (300 * KIB), b"end"]
    bench.transport.is_stuck = True
    bench.outbox.send(b"first")
    for frame in frames:
        bench.outbox.send(frame)
    bench.transport.drain()
    assert [len(piece) for piece in bench.transport.writes[1:]] == [200 * KIB, 200 * KIB, 100 * KIB, 300 * KIB, 3]
    assert bench.transport.data == b"first" + b"".join(frames)


def test_many_corked_frames_do_not_wait_for_the_uncork(impl: Any) -> None:
    """A peer that reads is never over its cap, however much one cork holds."""
    bench = Bench(impl.fanout, cap=1000)
    overflows: list[int] = []
    bench.outbox.on_overflow = lambda: overflows.append(1)
    bench.pump.cork()
    for i in range(50):
        bench.outbox.send(bytes([i]) * 300)
        assert bench.outbox.queued_bytes <= 1000
    bench.pump.uncork()
    assert bench.transport.data == b"".join(bytes([i]) * 300 for i in range(50))
    assert not overflows


def test_the_cap_closes_but_one_large_reply_passes(impl: Any) -> None:
    bench = Bench(impl.fanout, cap=10)
    events: list[str] = []
    bench.outbox.on_overflow = lambda: events.append("overflow")
    bench.transport.is_stuck = True
    bench.outbox.send(b"begin")
    bench.outbox.send(b"x" * 50)
    assert (bench.outbox.queued_bytes, events) == (50, [])
    bench.outbox.send(b"y")
    assert events == ["overflow"]
    assert bench.outbox.queued_bytes == bench.pump.queued_bytes == 0
    bench.pump.broadcast(bench.outboxes, b"news")
    bench.pump.publish(bench.outboxes, b"status", 0, 1)
    assert bench.outbox.queued_bytes == 0
    bench.outbox.send(b"goodbye")  # the close frame
    bench.outbox.send(b"too much")
    assert events == ["overflow"]
    bench.transport.drain()
    assert bench.transport.writes == [b"begin", b"goodbye"]


def test_the_total_cap_takes_the_largest_queue(impl: Any) -> None:
    bench = Bench(impl.fanout, 3, total_cap_bytes=100)
    events: list[int] = []
    for i, (transport, outbox) in enumerate(zip(bench.transports, bench.outboxes, strict=True)):
        outbox.on_overflow = lambda i=i: events.append(i)
        transport.is_stuck = True
        outbox.send(b"s")
    for outbox, size in zip(bench.outboxes, (20, 50, 30), strict=True):
        outbox.send(b"q" * size)
    assert (bench.pump.queued_bytes, events) == (100, [])
    bench.outboxes[0].send(b"!")
    assert events == [1]
    assert [outbox.queued_bytes for outbox in bench.outboxes] == [21, 0, 30]
    assert bench.pump.queued_bytes == 51


def test_a_total_cap_below_nothing(impl: Any) -> None:
    bench = Bench(impl.fanout, total_cap_bytes=-1)
    bench.pump.cork()
    bench.outbox.send(b"a")
    bench.pump.uncork()
    assert (bench.transport.writes, bench.pump.queued_bytes) == ([b"a"], 0)


def test_the_total_cap_spares_who_is_only_corked(impl: Any) -> None:
    bench = Bench(impl.fanout, 2, total_cap_bytes=100)
    bench.outboxes[0].on_overflow = bench.outboxes[1].on_overflow = pytest.fail
    bench.pump.cork()
    bench.outboxes[0].send(b"a" * 80)
    bench.outboxes[1].send(b"b" * 40)
    assert bench.transports[0].writes == [b"a" * 80]
    bench.pump.uncork()
    assert bench.transports[1].writes == [b"b" * 40]


def test_drained_is_told_after_the_queue(impl: Any) -> None:
    bench = Bench(impl.fanout)
    events: list[bytes] = []

    def on_drained() -> None:
        events.append(bench.transport.data)
        bench.outbox.send(b"merged")

    bench.outbox.on_drained = on_drained
    bench.transport.is_stuck = True
    bench.outbox.send(b"1")
    bench.outbox.send(b"2")
    bench.transport.held = 0
    bench.outbox.resumed()  # still stuck: the next piece blocks again
    assert bench.outbox.blocked
    assert events == []
    bench.transport.drain()
    assert events == [b"12"]
    assert bench.transport.data == b"12merged"


def test_publish_skips_marks_or_sends(impl: Any) -> None:
    bench = Bench(impl.fanout, 4)
    fresh, late, ahead, stuck = bench.outboxes
    fresh.status_seq, late.status_seq, ahead.status_seq, stuck.status_seq = 4, 3, 6, 4
    bench.transports[3].is_stuck = True
    stuck.send(b"s")
    bench.pump.publish(bench.outboxes, b"six", 4, 6)
    assert [transport.data for transport in bench.transports] == [b"six", b"", b"", b"s"]
    assert [outbox.behind for outbox in bench.outboxes] == [False, True, False, True]
    assert [outbox.status_seq for outbox in bench.outboxes] == [6, 3, 6, 4]
    assert bench.pump.queued_bytes == 0
    with pytest.raises(ValueError, match="^status updates are numbered from 1, not 0$"):
        bench.pump.publish([], b"", 0, 0)


def test_jobs_run_in_slices(impl: Any) -> None:
    bench = Bench(impl.fanout, 6, slice_ns=0)  # a look at the clock after every fourth send
    bench.pump.broadcast(bench.outboxes, b"1")
    bench.pump.broadcast(bench.outboxes, b"2")
    assert [t.data for t in bench.transports] == [b"1"] * 4 + [b""] * 2
    assert len(bench.loop.ready) == 1
    bench.pump.cork()
    bench.pump.uncork()  # other connections' reads do not run slices of their own
    assert [t.data for t in bench.transports] == [b"1"] * 4 + [b""] * 2
    bench.loop.step()
    assert [t.data for t in bench.transports] == [b"12"] * 2 + [b"1"] * 4
    bench.loop.run()
    assert [t.data for t in bench.transports] == [b"12"] * 6
    assert not bench.loop.ready


def test_a_job_keeps_its_list(impl: Any) -> None:
    bench = Bench(impl.fanout, 6, slice_ns=0)
    members = list(bench.outboxes)
    bench.pump.broadcast(members, b"1")
    members.clear()
    bench.loop.run()
    assert [t.data for t in bench.transports] == [b"1"] * 6


def test_a_reply_does_not_overtake_a_waiting_broadcast(impl: Any) -> None:
    bench = Bench(impl.fanout, 6, slice_ns=0)
    bench.pump.broadcast(bench.outboxes, b"1")
    bench.pump.publish(bench.outboxes, b"2", 0, 1)
    bench.outboxes[5].send(b"reply")
    assert [t.data for t in bench.transports] == [b"1"] * 4 + [b"", b"12reply"]
    bench.loop.run()
    assert [t.data for t in bench.transports] == [b"12"] * 5 + [b"12reply"]

    bench.pump.cork()
    bench.outbox.send(b"a")
    bench.pump.broadcast(bench.outboxes, b"b")
    bench.outbox.send(b"c")
    bench.pump.uncork()
    assert bench.transport.writes[-1] == b"abc"


def test_waiting_jobs_are_bounded(impl: Any) -> None:
    bench = Bench(impl.fanout, 8, slice_ns=0)
    frame = b"x" * (4 * KIB * KIB)
    for _ in range(12):
        bench.pump.broadcast(bench.outboxes, frame)
    assert len(bench.transports[7].writes) * len(frame) >= 12 * len(frame) - impl.fanout.JOBS_CAP_BYTES - len(frame)
    bench.loop.run()
    assert [len(t.writes) for t in bench.transports] == [12] * 8


def test_a_closed_outbox_is_left_alone(impl: Any) -> None:
    bench = Bench(impl.fanout, 6, slice_ns=0)
    bench.pump.broadcast(bench.outboxes, b"1")
    bench.transports[0].is_stuck = True
    bench.outboxes[0].send(b"2")
    bench.outboxes[0].send(b"3")
    bench.outboxes[0].close()
    bench.outboxes[5].close()
    assert bench.pump.queued_bytes == 0
    bench.outboxes[0].send(b"4")
    bench.outboxes[0].resumed()
    bench.outboxes[0].close()
    bench.loop.run()
    assert [t.data for t in bench.transports] == [b"12", b"1", b"1", b"1", b"1", b""]


def test_nothing_follows_the_last_frame(impl: Any) -> None:
    bench = Bench(impl.fanout, 2, slice_ns=0)
    bench.pump.broadcast(bench.outboxes, b"1")
    bench.transports[0].is_stuck = True
    bench.outbox.finish(b"end")
    bench.outbox.send(b"2")
    bench.pump.broadcast(bench.outboxes, b"3")
    bench.pump.publish(bench.outboxes, b"4", 0, 1)
    bench.loop.run()
    bench.transports[0].is_stuck = False
    bench.outbox.resumed()
    bench.loop.run()
    assert [t.data for t in bench.transports] == [b"1end", b"134"]
    assert bench.pump.queued_bytes == 0


def test_closing_under_a_cork(impl: Any) -> None:
    bench = Bench(impl.fanout)
    bench.pump.cork()
    bench.outbox.send(b"1")
    bench.outbox.close()
    bench.pump.uncork()
    assert bench.transport.writes == []
    assert bench.pump.queued_bytes == 0


def test_a_transport_that_raises_is_dropped_alone(impl: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(impl.fanout, 3)
    bench.transports[1].failure = RuntimeError("broken transport")
    with caplog.at_level(logging.WARNING):
        bench.pump.broadcast(bench.outboxes, b"1")
        bench.pump.broadcast(bench.outboxes, b"2")
    assert [t.data for t in bench.transports] == [b"12", b"", b"12"]
    assert [t.is_aborted for t in bench.transports] == [False, True, False]
    assert [record.getMessage() for record in caplog.records] == ["dropping a connection: its transport failed"]


def test_callbacks_that_raise_are_logged(impl: Any, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(impl.fanout, 2, cap=1)

    def fail() -> None:
        raise LookupError("owner")

    bench.transport.is_stuck = True
    bench.outbox.on_overflow = bench.outbox.on_drained = fail
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            bench.pump.broadcast(bench.outboxes, b"x")
        bench.transport.drain()
    assert bench.transports[1].data == b"xxx"
    assert [record.getMessage() for record in caplog.records] == ["a callback of an outbox failed"] * 2


def test_callbacks_may_do_anything(impl: Any) -> None:
    """on_overflow in the middle of a job closes others, sends, corks and broadcasts."""
    bench = Bench(impl.fanout, 5, cap=2)

    def on_overflow() -> None:
        bench.outboxes[3].close()
        bench.pump.broadcast(bench.outboxes, b"n")
        bench.pump.cork()
        bench.outboxes[4].send(b"s")
        bench.outboxes[0].send(b"t")
        bench.pump.uncork()
        bench.outboxes[2].close()

    bench.outboxes[2].on_overflow = on_overflow
    bench.transports[2].is_stuck = True
    for frame in (b"1", b"2", b"3"):
        bench.pump.broadcast(bench.outboxes, frame)
    assert [t.data for t in bench.transports] == [b"123", b"123", b"1", b"123", b"123"]
    bench.pump.broadcast(bench.outboxes, b"4")
    assert [t.data for t in bench.transports] == [b"1234nt", b"1234n", b"1", b"123", b"1234ns"]
    bench.pump.broadcast(bench.outboxes, b"5")
    assert [t.data for t in bench.transports] == [b"1234nt5", b"1234n5", b"1", b"123", b"1234ns5"]


def test_sending_from_inside_a_write_keeps_the_order(impl: Any) -> None:
    bench = Bench(impl.fanout)

    def reenter() -> None:
        bench.transport.on_write = None
        bench.outbox.send(b"2")
        bench.pump.broadcast(bench.outboxes, b"3")

    bench.transport.on_write = reenter
    bench.outbox.send(b"1")
    assert bench.transport.data == b"123"


def test_closing_from_inside_a_write(impl: Any) -> None:
    bench = Bench(impl.fanout, 2)
    bench.transport.on_write = bench.outbox.close
    bench.pump.cork()
    bench.outbox.send(b"1")
    bench.outbox.send(b"2")
    bench.pump.uncork()
    bench.pump.broadcast(bench.outboxes, b"3")
    assert [t.data for t in bench.transports] == [b"12", b"3"]


def test_a_closed_pump_forgets_its_jobs(impl: Any) -> None:
    bench = Bench(impl.fanout, 5, slice_ns=0)
    bench.pump.broadcast(bench.outboxes, b"1")
    bench.pump.close()
    bench.pump.broadcast(bench.outboxes, b"2")
    bench.loop.run()
    bench.outboxes[4].send(b"bye")
    assert [t.data for t in bench.transports] == [b"1"] * 4 + [b"bye"]


def test_memory_is_given_back(impl: Any) -> None:
    bench = Bench(impl.fanout, 4)
    tracemalloc.start()
    try:
        for transport, outbox in zip(bench.transports, bench.outboxes, strict=True):
            transport.is_stuck = True
            outbox.send(b"s")
            transport.writes.clear()
        before = tracemalloc.get_traced_memory()[0]
        for i in range(2000):
            bench.pump.broadcast(bench.outboxes, b"%04d" % i * 100)
        assert tracemalloc.get_traced_memory()[0] - before > 800_000
        for transport in bench.transports:
            transport.drain()
            transport.writes.clear()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()


def test_nothing_keeps_a_closed_outbox_alive(impl: Any) -> None:
    """Owner, outbox and transport refer to one another in a circle until close() breaks it."""
    bench = Bench(impl.fanout, 2)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(200):
        transport = FakeTransport()
        outbox = impl.fanout.Outbox(bench.pump, transport, -1)
        transport.outbox = outbox
        outbox.on_drained = transport.drain
        bench.pump.broadcast([outbox], b"x")
        outbox.close()
    del transport, outbox
    gc.collect()
    assert len(gc.get_objects()) < before + 100


class _Model(RuleBasedStateMachine):
    """Random use of everything; each peer must get, in call order, whole frames, and every status update once.

    Frames are 8 bytes: a kind and a number. R reply, B broadcast, S status update, M merged updates.
    """

    fanout: Any

    @initialize(count=st.integers(1, 6), slice_ns=st.sampled_from([0, 10**9]))
    def begin(self, count: int, slice_ns: int) -> None:
        self.bench = Bench(self.fanout, count, slice_ns=slice_ns)
        self.number = 0
        self.seq = 0
        self.corks = 0
        self.expected: list[list[bytes]] = [[] for _ in range(count)]  # R and B frames
        self.closed: set[int] = set()
        for i, outbox in enumerate(self.bench.outboxes):
            outbox.on_drained = lambda i=i: self.catch_up(i)

    def frame(self, kind: str) -> bytes:
        self.number += 1
        return f"{kind}{self.number:07d}".encode()

    def catch_up(self, i: int) -> None:
        outbox = self.bench.outboxes[i]
        if outbox.behind:
            outbox.behind = False
            outbox.status_seq = self.seq
            outbox.send(f"M{self.seq:07d}".encode())

    def pick(self, number: int) -> int:
        return number % len(self.bench.outboxes)

    @rule(number=st.integers(0, 5))
    def send(self, number: int) -> None:
        i = self.pick(number)
        frame = self.frame("R")
        if i not in self.closed:
            self.expected[i].append(frame)
        self.bench.outboxes[i].send(frame)

    @rule(mask=st.integers(1, 63))
    def broadcast(self, mask: int) -> None:
        members = [i for i in range(len(self.bench.outboxes)) if mask >> i & 1]
        frame = self.frame("B")
        for i in members:
            if i not in self.closed:
                self.expected[i].append(frame)
        self.bench.pump.broadcast([self.bench.outboxes[i] for i in members], frame)

    @rule()
    def publish(self) -> None:
        self.seq += 1
        self.bench.pump.publish(self.bench.outboxes, f"S{self.seq:07d}".encode(), self.seq - 1, self.seq)

    @rule()
    def cork(self) -> None:
        self.corks += 1
        self.bench.pump.cork()

    @rule()
    def uncork(self) -> None:
        if self.corks:
            self.corks -= 1
            self.bench.pump.uncork()

    @rule(number=st.integers(0, 5))
    def stick(self, number: int) -> None:
        self.bench.transports[self.pick(number)].is_stuck = True

    @rule(number=st.integers(0, 5))
    def drain(self, number: int) -> None:
        self.bench.transports[self.pick(number)].drain()

    @rule()
    def step(self) -> None:
        self.bench.loop.step()

    @rule(number=st.integers(0, 9))
    def close(self, number: int) -> None:
        if number < len(self.bench.outboxes):
            self.closed.add(number)
            self.bench.outboxes[number].close()

    def received(self, i: int) -> list[bytes]:
        data = self.bench.transports[i].data
        assert len(data) % 8 == 0
        return [data[at : at + 8] for at in range(0, len(data), 8)]

    @invariant()
    def counts_agree(self) -> None:
        assert self.bench.pump.queued_bytes == sum(outbox.queued_bytes for outbox in self.bench.outboxes)

    @invariant()
    def order_is_kept(self) -> None:
        for i in range(len(self.bench.outboxes)):
            seen = 0
            replies = []
            for frame in self.received(i):
                number = int(frame[1:])
                if frame[:1] in b"RB":
                    replies.append(frame)
                    continue
                assert number == seen + 1 if frame[:1] == b"S" else number > seen
                seen = number
            assert replies == self.expected[i][: len(replies)]

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        while self.corks:
            self.uncork()
        self.bench.loop.run()
        for i, transport in enumerate(self.bench.transports):
            transport.drain()
            received = self.received(i)
            if i in self.closed:
                continue
            assert [frame for frame in received if frame[:1] in b"RB"] == self.expected[i]
            statuses = [int(frame[1:]) for frame in received if frame[:1] in b"SM"]
            assert (statuses[-1] if statuses else 0) == self.seq
        assert self.bench.pump.queued_bytes == 0
        assert not self.bench.loop.ready


@pytest.mark.parametrize("name", ["pure", "speedups"])
def test_random_use(name: str) -> None:
    fanout = pytest.importorskip(f"moonfast._{name}.fanout")
    machine: Any = type("Model", (_Model,), {"fanout": fanout})
    case = machine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    case().runTest()


# Real sockets


class OutboxProtocol(asyncio.Protocol):
    """One connection of a server, as the transports use an outbox."""

    def __init__(self, fanout: Any, pump: Any, *, direct: bool = True, **options: Any) -> None:
        self.fanout, self.pump, self.direct, self.options = fanout, pump, direct, options
        self.was_paused = False
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=0, low=0)
        self.transport = transport
        fd = transport.get_extra_info("socket").fileno() if self.direct else -1
        self.outbox = self.fanout.Outbox(self.pump, transport, fd, **self.options)

    def pause_writing(self) -> None:
        self.was_paused = True
        self.outbox.paused()

    def resume_writing(self) -> None:
        self.outbox.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.outbox.close()
        self.lost.set_result(exc)


def tcp_pair(buffer_bytes: int = 4096) -> tuple[socket.socket, socket.socket]:
    """Connect two TCP sockets whose buffers hold next to nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setblocking(False)
    return near, far


def unix_pair(buffer_bytes: int = 4096) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
    near.setblocking(False)
    far.setblocking(False)
    return near, far


async def adopt(protocol: OutboxProtocol, far: socket.socket) -> OutboxProtocol:
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: protocol, far)
    return protocol


PAIRS = {"tcp": tcp_pair, "unix": unix_pair}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("direct", [True, False])
def test_frames_never_interleave(impl: Any, loop: str, pair: str, direct: bool) -> None:
    """Peers that read in fits and starts get every frame once, whole, and in order."""
    chance = random.Random(f"{loop} {pair} {direct}")

    async def read_all(near: socket.socket, wanted: int) -> bytes:
        got = bytearray()
        while len(got) < wanted:
            got += await asyncio.get_running_loop().sock_recv(near, chance.choice((10, 1000, 100_000)))
            if chance.random() < 0.05:
                await asyncio.sleep(0.001)
        return bytes(got)

    async def scenario() -> None:
        running = asyncio.get_running_loop()
        pump = impl.fanout.Pump(running.call_soon)
        pairs = [PAIRS[pair]() for _ in range(4)]
        servers = [
            await adopt(OutboxProtocol(impl.fanout, pump, direct=direct, cap_bytes=1 << 30), far) for _, far in pairs
        ]
        outboxes = [server.outbox for server in servers]
        sent = [bytearray() for _ in servers]
        sizes = [chance.choice((1, 50, 700, 5000, 40_000)) for _ in range(150)]
        total = sum(sizes)
        for i, size in enumerate(sizes):  # every peer gets the same amount, so that the readers know when to stop
            frame = (b"<%d:" % i).ljust(size, b".")[:size]
            if chance.random() < 0.5:
                pump.broadcast(outboxes, frame)
                for data in sent:
                    data += frame
            else:
                if chance.random() < 0.5:
                    pump.cork()
                    half = len(frame) // 2
                    for outbox, data in zip(outboxes, sent, strict=True):
                        outbox.send(frame[:half])
                        outbox.send(frame[half:])
                        data += frame
                    pump.uncork()
                else:
                    for outbox, data in zip(outboxes, sent, strict=True):
                        outbox.send(frame)
                        data += frame
            if i == 100:
                readers = [asyncio.ensure_future(read_all(near, total)) for near, _ in pairs]
            if i > 100:
                await asyncio.sleep(0)
        received = await asyncio.wait_for(asyncio.gather(*readers), 20)
        assert [len(data) for data in received] == [total] * 4
        assert received == [bytes(data) for data in sent]
        assert pump.queued_bytes == 0
        assert all(server.was_paused and not server.outbox.blocked for server in servers)
        for server, (near, _) in zip(servers, pairs, strict=True):
            server.outbox.close()
            server.transport.close()
            await server.lost
            near.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())


async def test_the_rest_of_a_partial_send_is_the_transports(impl: Any) -> None:
    near, far = unix_pair()
    pump = impl.fanout.Pump(asyncio.get_running_loop().call_soon)
    server = await adopt(OutboxProtocol(impl.fanout, pump), far)
    frame = random.Random(1).randbytes(1_000_000)
    server.outbox.send(frame)
    assert server.outbox.blocked
    assert server.outbox.queued_bytes == 0
    assert 0 < server.transport.get_write_buffer_size() < len(frame)
    server.outbox.send(b"next")
    assert server.outbox.queued_bytes == 4
    got = b""
    while len(got) < len(frame) + 4:
        got += await asyncio.get_running_loop().sock_recv(near, 65536)
    assert got == frame + b"next"
    assert not server.outbox.blocked
    server.outbox.close()
    server.transport.close()
    await server.lost
    near.close()


async def test_bytes_inside_the_transport_go_first(impl: Any) -> None:
    """The answer to the upgrade is written by the transport, before there is an outbox."""
    near, far = unix_pair()
    pump = impl.fanout.Pump(asyncio.get_running_loop().call_soon)
    server = await adopt(OutboxProtocol(impl.fanout, pump), far)
    early = b"101 Switching Protocols".ljust(500_000)
    server.outbox.close()
    server.transport.write(early)
    server.outbox = impl.fanout.Outbox(pump, server.transport, far.fileno())
    server.outbox.send(b"frame")
    server.outbox.send(b"other")
    got = b""
    while len(got) < len(early) + 10:
        got += await asyncio.get_running_loop().sock_recv(near, 65536)
    assert got == early + b"frameother"
    assert not server.outbox.blocked
    server.outbox.close()
    server.transport.close()
    await server.lost
    near.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_lost_peer_is_reported_by_the_transport(impl: Any, loop: str) -> None:
    async def scenario() -> None:
        pump = impl.fanout.Pump(asyncio.get_running_loop().call_soon)
        near, far = unix_pair()
        other_near, other_far = unix_pair()
        server = await adopt(OutboxProtocol(impl.fanout, pump), far)
        other = await adopt(OutboxProtocol(impl.fanout, pump), other_far)
        server.transport.pause_reading()  # it is the write that must notice
        near.close()
        pump.broadcast([server.outbox, other.outbox], b"frame")
        assert isinstance(await asyncio.wait_for(server.lost, 5), OSError)
        assert other_near.recv(100) == b"frame"
        other.outbox.close()
        other.transport.close()
        await other.lost
        other_near.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(scenario())


async def test_a_reused_descriptor_is_never_written(impl: Any) -> None:
    near, far = unix_pair()
    pump = impl.fanout.Pump(asyncio.get_running_loop().call_soon, slice_ns=0)
    server = await adopt(OutboxProtocol(impl.fanout, pump), far)
    number = far.fileno()
    pump.broadcast([server.outbox] * 6, b"frame")
    server.outbox.close()
    server.transport.abort()
    await server.lost
    await asyncio.sleep(0.01)
    far.close()
    new_near, new_far = unix_pair()
    assert number in (new_near.fileno(), new_far.fileno())
    server.outbox.send(b"late")
    await asyncio.sleep(0)
    for end in (new_near, new_far):
        with pytest.raises(BlockingIOError):
            end.recv(1)
    for end in (near, new_near, new_far):
        end.close()


@pytest.mark.parametrize("module", ["fanout", "rings", "wsframe"])
def test_both_implementations_have_the_same_names(module: str) -> None:
    speedups = pytest.importorskip(f"moonfast._speedups.{module}")
    pure = importlib.import_module(f"moonfast._pure.{module}")
    for name in vars(speedups):
        assert name.startswith("_") or hasattr(pure, name), name
