"""One frame to many connections, and what each still has to be sent: the twin of moonfast/_speedups/fanout.pyx.

Theory. Frames reach one outbox in the order of the calls: `send`, `broadcast` and `publish` alike. A job (a broadcast
or a publish) works through its members in slices, so that other connections are served in between; a `send` to a member
that a job has not reached yet first takes that member's frames out of the waiting jobs.

A frame goes straight to the descriptor while nothing is in front of it. What the kernel does not take becomes the
transport's, in one piece, and from then on the outbox is *blocked*: frames queue here, where they are counted and
bounded, until the transport reports that it is empty.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

log = logging.getLogger(__name__)

TOTAL_CAP_BYTES = 64 * 1024 * 1024
CAP_BYTES = 8 * 1024 * 1024
PIECE_BYTES = 256 * 1024  # queued frames are joined up to this size for one send
SLICE_NS = 1_000_000
JOBS_CAP_BYTES = 16 * 1024 * 1024  # waiting jobs beyond it are served at once, whatever the slice: memory stays bounded
_SENDS_PER_LOOK = 4  # a look at the clock costs a hundredth of a send(2)
_JOB_BYTES, _MEMBER_BYTES = 256, 8  # what a job and one member of it take, about


class Transport(Protocol):
    """What an outbox uses of asyncio.WriteTransport."""

    def write(self, data: Any, /) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class _Job:
    """One frame for a list of outboxes; a status update if seq > 0. An outbox served ahead of its turn leaves None."""

    def __init__(self, outboxes: Iterable[Outbox], frame: bytes, base: int, seq: int) -> None:
        self.outboxes: list[Outbox | None] = []
        self.next = 0  # index of the first outbox not served
        self.frame = frame
        self.base = base
        self.seq = seq
        for outbox in outboxes:
            self.outboxes.append(outbox)
            outbox._waiting += 1
        self.held_bytes = _JOB_BYTES + _MEMBER_BYTES * len(self.outboxes) + len(frame)

    def serve(self, outbox: Outbox) -> None:
        """Send, merge later, or skip: what this job means for one of its members."""
        outbox._waiting -= 1
        if outbox._is_ended or outbox._has_overflowed:
            return
        if self.seq:
            if outbox.status_seq >= self.seq:
                return
            if outbox.blocked or outbox.status_seq < self.base:
                outbox.behind = True
                return
            outbox.status_seq = self.seq
        outbox._put(self.frame)


class Pump:
    """All outgoing bytes of one server: cork, broadcast jobs in slices, total bound. Used on the loop's thread only."""

    def __init__(
        self, call_soon: Callable[..., object], total_cap_bytes: int = TOTAL_CAP_BYTES, slice_ns: int = SLICE_NS
    ) -> None:
        self.queued_bytes = 0  # in all outboxes
        self._call_soon = call_soon
        self._total_cap_bytes = total_cap_bytes
        self._slice_ns = slice_ns
        self._corks = 0
        self._corked: list[Outbox] = []  # with frames to send at the last uncork
        self._loaded: dict[Outbox, None] = {}  # with anything queued, oldest first
        self._jobs: deque[_Job] = deque()
        self._jobs_bytes = 0
        self._is_running = False
        self._is_scheduled = False
        self._is_closed = False

    def cork(self) -> None:
        """Hold frames back until the matching uncork, so that each outbox sends its own in one piece. Nests."""
        self._corks += 1

    def uncork(self) -> None:
        """End one cork; the last one sends what is held and runs the jobs for up to one slice."""
        if self._corks == 0:
            raise RuntimeError("uncork without cork")
        self._corks -= 1
        if self._corks:
            return
        corked, self._corked = self._corked, []
        for outbox in corked:
            outbox._is_corked = False
            outbox._flush()
        if not self._is_scheduled:
            self._run()

    def broadcast(self, outboxes: list[Outbox], frame: bytes) -> None:
        """Send a frame to all of them; later changes of the list do not matter."""
        self._add(_Job(outboxes, frame, 0, 0))

    def publish(self, outboxes: list[Outbox], frame: bytes, base: int, seq: int) -> None:
        """Send the status update `seq` (from 1), which follows on `base`, to all of them.

        Skipped where `status_seq` is not before `seq`; a blocked outbox, or one that has not had `base`, is marked
        `behind` and gets nothing.
        """
        if seq < 1:
            raise ValueError(f"status updates are numbered from 1, not {seq}")
        self._add(_Job(outboxes, frame, base, seq))

    def close(self) -> None:
        """Forget all jobs and ignore later ones; outboxes still send until they are closed themselves."""
        self._is_closed = True
        self._jobs.clear()

    def _add(self, job: _Job) -> None:
        if self._is_closed or not job.outboxes or not job.frame:
            return
        self._jobs.append(job)
        self._jobs_bytes += job.held_bytes
        if not self._is_scheduled or self._jobs_bytes > JOBS_CAP_BYTES:
            self._run()

    def _continue(self) -> None:
        self._is_scheduled = False
        self._run()

    def _run(self) -> None:
        """Serve jobs in order until none waits, a cork is set, or the slice is used up."""
        if self._is_running or self._corks or not self._jobs:
            return
        self._is_running = True
        end = time.perf_counter_ns() + self._slice_ns
        served = 0
        try:
            while self._jobs and not self._corks:
                job = self._jobs[0]
                outbox = job.outboxes[job.next]
                job.next += 1
                if job.next == len(job.outboxes):
                    self._jobs.popleft()
                    self._jobs_bytes -= job.held_bytes
                if outbox is None:
                    continue
                job.serve(outbox)
                served += 1
                if served % _SENDS_PER_LOOK or time.perf_counter_ns() < end:
                    continue
                if self._jobs and self._jobs_bytes <= JOBS_CAP_BYTES:
                    if not self._is_scheduled:
                        self._call_soon(self._continue)
                        self._is_scheduled = True
                    break
        finally:
            self._is_running = False

    def _serve_first(self, outbox: Outbox) -> None:
        """Give one outbox all that the jobs hold for it, ahead of the others."""
        for job in tuple(self._jobs):
            for index in range(job.next, len(job.outboxes)):
                if job.outboxes[index] is outbox:
                    job.outboxes[index] = None
                    job.serve(outbox)
            if not outbox._waiting:
                break

    def _shed(self) -> None:
        """Get below the total cap: the largest queue goes first."""
        while self._loaded and self.queued_bytes > self._total_cap_bytes:
            largest = max(self._loaded, key=lambda outbox: outbox.queued_bytes)
            if largest.blocked or largest._is_busy:
                largest._overflow()
            else:
                largest._flush()  # it was only corked


class Outbox:
    """What one connection has still to be sent. Used on the loop's thread only.

    `fd` is the transport's non-blocking socket for send(2), or -1: everything goes through the transport (TLS). With a
    descriptor the owner calls transport.set_write_buffer_limits(high=0, low=0), so that every byte the transport holds
    is announced by pause_writing and its end by resume_writing: by that the outbox knows of what others write, too.
    A TLS transport takes high=1: at 0 it would pause while it holds nothing.
    """

    def __init__(self, pump: Pump, transport: Transport, fd: int, cap_bytes: int = CAP_BYTES) -> None:
        self.blocked = False  # the transport holds unsent bytes
        self.behind = False  # has missed a status update; cleared by the owner
        self.status_seq = 0  # of the last status update sent; the owner may set it
        self.queued_bytes = 0  # here, without those inside the transport
        self.on_overflow: Callable[[], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self._pump = pump
        self._transport: Transport | None = transport
        self._fd = fd
        self._cap_bytes = cap_bytes
        self._queue: list[bytes] = []
        self._waiting = 0  # places in jobs that have not been served
        self._is_corked = False  # is in the pump's list of those to flush at the last uncork
        self._is_busy = False  # inside transport.write, which may call back
        self._is_clear = False  # the transport's own buffer is known to be empty
        self._has_overflowed = False
        self._is_closed = False
        self._is_ended = False  # closed, or its last frame is in the queue

    def send(self, frame: bytes) -> None:
        """Send one frame after all those before it; queue it while the transport is blocked or the pump corked.

        A frame that would bring the queue over the cap is refused: then, or when this is the largest queue and the
        pump's total cap is passed, the queue is dropped, jobs pass the outbox by, and on_overflow is called, once. What
        the transport holds ends with a whole frame, so the owner can still send a close frame.
        """
        if self._waiting:
            self._pump._serve_first(self)
        if frame and not self._is_ended:
            self._put(frame)

    def finish(self, frame: bytes) -> None:
        """Send the last frame, after all those before it: what comes later is ignored."""
        self.send(frame)
        self._is_ended = True

    def paused(self) -> None:
        """Take note of pause_writing: the transport holds bytes that the peer has not read."""
        self.blocked = True
        self._is_clear = False

    def resumed(self) -> None:
        """Take note of resume_writing: send what is queued, then call on_drained if nothing is left."""
        self.blocked = False
        self._flush()
        if not self.blocked and not self.queued_bytes and self.on_drained is not None:
            self._call(self.on_drained)

    def close(self) -> None:
        """Forget the queue, the descriptor and the callbacks; later frames are ignored.

        To be called before the transport is closed or aborted: the number of a closed descriptor is soon another's.
        """
        self._is_closed = self._is_ended = True
        self._fd = -1
        self._transport = self.on_overflow = self.on_drained = None
        self._drop_queue()

    def _put(self, frame: bytes) -> None:
        pump = self._pump
        if (
            self.queued_bytes
            and self._can_write()
            and self.queued_bytes + len(frame) > min(PIECE_BYTES, self._cap_bytes)
        ):
            self._flush()  # many corked frames go out early: the caps are for peers that do not read
        if self._is_closed:
            return
        if not self.queued_bytes and not pump._corks and self._can_write():
            self._write(frame)
            self._flush()  # what came in by callbacks meanwhile
            return
        if self.queued_bytes and self.queued_bytes + len(frame) > self._cap_bytes:
            if not self._has_overflowed:
                self._overflow()
            return
        self._queue.append(frame)
        self._count(len(frame))
        if not pump._corks:
            self._flush()
        elif not self._is_corked:
            self._is_corked = True
            pump._corked.append(self)
        if pump.queued_bytes > pump._total_cap_bytes:
            pump._shed()

    def _can_write(self) -> bool:
        return not self.blocked and not self._is_busy

    def _flush(self) -> None:
        """Write queued frames, joined to pieces, until none is left or the transport is blocked."""
        while self.queued_bytes and self._can_write():
            count, size = 1, len(self._queue[0])
            while count < len(self._queue) and size + len(self._queue[count]) <= PIECE_BYTES:
                size += len(self._queue[count])
                count += 1
            piece = self._queue[0] if count == 1 else b"".join(self._queue[:count])
            del self._queue[:count]
            self._count(-size)
            self._write(piece)

    def _write(self, piece: bytes) -> None:
        """Send a piece on the descriptor; what the kernel does not take, and all without one, goes to the transport."""
        sent = 0
        if self._fd >= 0 and (self._is_clear or self._look_clear()):
            sent = self._send_direct(piece)
            if sent == len(piece):
                return
        self._hand_over(memoryview(piece)[sent:] if sent else piece)

    def _look_clear(self) -> bool:
        """Ask the transport whether it holds bytes of its own; from then on pause_writing tells."""
        try:
            self._is_clear = self._transport is not None and self._transport.get_write_buffer_size() == 0
        except Exception:
            self._drop_connection()
        return self._is_clear

    def _send_direct(self, piece: bytes) -> int:
        """Return how many bytes the kernel took. An error is left for the transport to meet, and to report."""
        try:
            return os.write(self._fd, piece)
        except OSError:
            return 0

    def _hand_over(self, piece: bytes | memoryview) -> None:
        transport = self._transport
        if transport is None:
            return
        self._is_clear = False
        self._is_busy = True
        try:
            transport.write(piece)
            if self._fd >= 0 and transport.get_write_buffer_size() > 0:
                self.blocked = True
        except Exception:
            self._drop_connection()
        finally:
            self._is_busy = False

    def _drop_connection(self) -> None:
        """Give up a connection whose transport raised; to be called while the exception is handled."""
        transport = self._transport
        log.warning("dropping a connection: its transport failed", exc_info=True)
        self.close()
        try:
            if transport is not None:
                transport.abort()
        except Exception:
            log.debug("abort of a failed transport failed", exc_info=True)

    def _overflow(self) -> None:
        self._drop_queue()
        if not self._has_overflowed:
            self._has_overflowed = True
            if self.on_overflow is not None:
                self._call(self.on_overflow)

    def _call(self, callback: Callable[[], None]) -> None:
        """Call the owner; its failure must not keep others from being served."""
        try:
            callback()
        except Exception:
            log.exception("a callback of an outbox failed")

    def _drop_queue(self) -> None:
        self._queue = []
        self._count(-self.queued_bytes)

    def _count(self, added_bytes: int) -> None:
        """Keep the byte counts, and the pump's list of outboxes with anything queued."""
        self.queued_bytes += added_bytes
        self._pump.queued_bytes += added_bytes
        if self.queued_bytes:
            self._pump._loaded[self] = None
        else:
            self._pump._loaded.pop(self, None)
