# fanout.pyx: one frame to many connections, and what each still has to be sent.
#
# Theory  moonfast/_pure/fanout.py, above its code: order, jobs, slices, blocked outboxes. This is the same, step by
#         step.
# Memory  frames are shared, immutable bytes objects; nothing is copied but the joints of queued frames.
# Bounds  the only C buffer is that of a bytes object handed to send(2) with its own size.
# Twin    moonfast/_pure/fanout.py; tests/twins/test_fanout.py.

import logging
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    Py_ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)

log = logging.getLogger(__name__)

cdef enum:
    C_TOTAL_CAP_BYTES = 64 * 1024 * 1024
    C_CAP_BYTES = 8 * 1024 * 1024
    C_PIECE_BYTES = 256 * 1024  # queued frames are joined up to this size for one send
    C_SLICE_NS = 1000000
    C_JOBS_CAP_BYTES = 16 * 1024 * 1024  # waiting jobs beyond it are served at once, whatever the slice
    SENDS_PER_LOOK = 4  # a look at the clock costs a hundredth of a send(2)
    JOB_BYTES = 256  # what a job takes, about
    MEMBER_BYTES = 8  # and each of its members

TOTAL_CAP_BYTES = C_TOTAL_CAP_BYTES
CAP_BYTES = C_CAP_BYTES
PIECE_BYTES = C_PIECE_BYTES
SLICE_NS = C_SLICE_NS
JOBS_CAP_BYTES = C_JOBS_CAP_BYTES


cdef inline long long now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <long long>now.tv_sec * 1000000000 + now.tv_nsec


cdef class _Job:
    """One frame for a list of outboxes; a status update if seq > 0. An outbox served ahead of its turn leaves None."""

    cdef list outboxes
    cdef Py_ssize_t next  # index of the first outbox not served
    cdef bytes frame
    cdef long long base
    cdef long long seq
    cdef Py_ssize_t held_bytes

    cdef int serve(self, Outbox outbox) except -1:
        """Send, merge later, or skip: what this job means for one of its members."""
        outbox.waiting -= 1
        if outbox.is_ended or outbox.has_overflowed:
            return 0
        if self.seq:
            if outbox.status_seq >= self.seq:
                return 0
            if outbox.blocked or outbox.status_seq < self.base:
                outbox.behind = True
                return 0
            outbox.status_seq = self.seq
        outbox.put(self.frame)
        return 0


cdef class Pump:
    cdef readonly Py_ssize_t queued_bytes
    cdef object call_soon
    cdef Py_ssize_t total_cap_bytes
    cdef long long slice_ns
    cdef int corks
    cdef list corked  # outboxes with frames to send at the last uncork
    cdef dict loaded  # outboxes with anything queued, oldest first
    cdef object jobs  # deque of _Job
    cdef Py_ssize_t jobs_bytes
    cdef bint is_running
    cdef bint is_scheduled
    cdef bint is_closed

    def __init__(self, call_soon, Py_ssize_t total_cap_bytes=C_TOTAL_CAP_BYTES, long long slice_ns=C_SLICE_NS):
        self.call_soon = call_soon
        self.total_cap_bytes = total_cap_bytes
        self.slice_ns = slice_ns
        self.corked = []
        self.loaded = {}
        self.jobs = deque()

    def cork(self):
        self.corks += 1

    def uncork(self):
        cdef Outbox outbox
        if self.corks == 0:
            raise RuntimeError("uncork without cork")
        self.corks -= 1
        if self.corks:
            return
        if self.corked:
            corked, self.corked = self.corked, []
            for outbox in corked:
                outbox.is_corked = False
                outbox.flush()
        if not self.is_scheduled:
            self.run()

    def broadcast(self, list outboxes not None, bytes frame not None):
        self.add(outboxes, frame, 0, 0)

    def publish(self, list outboxes not None, bytes frame not None, long long base, long long seq):
        if seq < 1:
            raise ValueError(f"status updates are numbered from 1, not {seq}")
        self.add(outboxes, frame, base, seq)

    def close(self):
        self.is_closed = True
        self.jobs.clear()

    def _continue(self):
        self.is_scheduled = False
        self.run()

    cdef int add(self, list outboxes, bytes frame, long long base, long long seq) except -1:
        cdef _Job job
        cdef Outbox outbox
        if self.is_closed or not outboxes or not frame:
            return 0
        job = _Job.__new__(_Job)
        job.outboxes = []
        job.frame = frame
        job.base = base
        job.seq = seq
        for outbox in outboxes:
            job.outboxes.append(outbox)
            outbox.waiting += 1
        job.held_bytes = JOB_BYTES + MEMBER_BYTES * len(job.outboxes) + len(frame)
        self.jobs.append(job)
        self.jobs_bytes += job.held_bytes
        if not self.is_scheduled or self.jobs_bytes > C_JOBS_CAP_BYTES:
            self.run()
        return 0

    cdef int run(self) except -1:
        """Serve jobs in order until none waits, a cork is set, or the slice is used up."""
        cdef _Job job
        cdef object outbox
        cdef long long end
        cdef int served = 0
        if self.is_running or self.corks or not self.jobs:
            return 0
        self.is_running = True
        end = now_ns() + self.slice_ns
        try:
            while self.jobs and not self.corks:
                job = self.jobs[0]
                outbox = job.outboxes[job.next]
                job.next += 1
                if job.next == len(job.outboxes):
                    self.jobs.popleft()
                    self.jobs_bytes -= job.held_bytes
                if outbox is None:
                    continue
                job.serve(<Outbox>outbox)
                served += 1
                if served % SENDS_PER_LOOK or now_ns() < end:
                    continue
                if self.jobs and self.jobs_bytes <= C_JOBS_CAP_BYTES:
                    if not self.is_scheduled:
                        self.call_soon(self._continue)
                        self.is_scheduled = True
                    break
        finally:
            self.is_running = False
        return 0

    cdef int serve_first(self, Outbox outbox) except -1:
        """Give one outbox all that the jobs hold for it, ahead of the others."""
        cdef _Job job
        cdef Py_ssize_t index
        for job in tuple(self.jobs):
            for index in range(job.next, len(job.outboxes)):
                if job.outboxes[index] is outbox:
                    job.outboxes[index] = None
                    job.serve(outbox)
            if not outbox.waiting:
                break
        return 0

    cdef int shed(self) except -1:
        """Get below the total cap: the largest queue goes first."""
        cdef Outbox outbox, largest
        while self.loaded and self.queued_bytes > self.total_cap_bytes:
            largest = None
            for outbox in self.loaded:
                if largest is None or outbox.queued_bytes > largest.queued_bytes:
                    largest = outbox
            if largest.can_write():
                largest.flush()  # it was only corked
            else:
                largest.overflow()
        return 0


cdef class Outbox:
    # First what every frame looks at: in a broadcast these lines of memory are no longer cached.
    cdef readonly bint blocked
    cdef bint is_busy  # inside transport.write, which may call back
    cdef bint is_clear  # the transport's own buffer is known to be empty
    cdef bint is_closed
    cdef bint is_ended  # closed, or its last frame is in the queue
    cdef bint has_overflowed
    cdef int fd
    cdef readonly Py_ssize_t queued_bytes
    cdef Py_ssize_t waiting  # places in jobs that have not been served
    cdef public long long status_seq
    cdef Pump pump
    cdef public bint behind
    cdef bint is_corked  # is in the pump's list of those to flush at the last uncork
    cdef Py_ssize_t cap_bytes
    cdef list queue
    cdef object transport
    cdef public object on_overflow
    cdef public object on_drained

    def __cinit__(self, Pump pump not None, transport, int fd, Py_ssize_t cap_bytes=C_CAP_BYTES):
        self.pump = pump
        self.transport = transport
        self.fd = fd
        self.cap_bytes = cap_bytes
        self.queue = []

    def send(self, bytes frame not None):
        if self.waiting:
            self.pump.serve_first(self)
        if frame and not self.is_ended:
            self.put(frame)

    def finish(self, bytes frame not None):
        self.send(frame)
        self.is_ended = True

    def paused(self):
        self.blocked = True
        self.is_clear = False

    def resumed(self):
        self.blocked = False
        self.flush()
        if not self.blocked and not self.queued_bytes and self.on_drained is not None:
            self.call(self.on_drained)

    def close(self):
        self.end()

    cdef int end(self) except -1:
        self.is_closed = self.is_ended = True
        self.fd = -1
        self.transport = self.on_overflow = self.on_drained = None
        self.drop_queue()
        return 0

    cdef int put(self, bytes frame) except -1:
        cdef Pump pump = self.pump
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        if self.queued_bytes and self.can_write() and self.queued_bytes + size > min(C_PIECE_BYTES, self.cap_bytes):
            self.flush()  # many corked frames go out early: the caps are for peers that do not read
        if self.is_closed:
            return 0
        if not self.queued_bytes and not pump.corks and self.can_write():
            self.write(frame)
            self.flush()  # what came in by callbacks meanwhile
            return 0
        if self.queued_bytes and self.queued_bytes + size > self.cap_bytes:
            if not self.has_overflowed:
                self.overflow()
            return 0
        self.queue.append(frame)
        self.count(size)
        if not pump.corks:
            self.flush()
        elif not self.is_corked:
            self.is_corked = True
            pump.corked.append(self)
        if pump.queued_bytes > pump.total_cap_bytes:
            pump.shed()
        return 0

    cdef inline bint can_write(self) noexcept:
        return not self.blocked and not self.is_busy

    cdef int flush(self) except -1:
        """Write queued frames, joined to pieces, until none is left or the transport is blocked."""
        cdef Py_ssize_t count, size, more
        cdef bytes piece
        while self.queued_bytes and self.can_write():
            count, size = 1, PyBytes_GET_SIZE(<bytes>self.queue[0])
            while count < len(self.queue):
                more = PyBytes_GET_SIZE(<bytes>self.queue[count])
                if size + more > C_PIECE_BYTES:
                    break
                size += more
                count += 1
            piece = <bytes>self.queue[0] if count == 1 else b"".join(self.queue[:count])
            del self.queue[:count]
            self.count(-size)
            self.write(piece)
        return 0

    cdef int write(self, bytes piece) except -1:
        """Send a piece on the descriptor; what the kernel does not take, and all without one, goes to the transport."""
        cdef Py_ssize_t sent = 0
        if self.fd >= 0 and (self.is_clear or self.look_clear()):
            sent = send_direct(self.fd, piece)
            if sent == PyBytes_GET_SIZE(piece):
                return 0
        self.hand_over(memoryview(piece)[sent:] if sent else piece)
        return 0

    cdef bint look_clear(self) except -1:
        """Ask the transport whether it holds bytes of its own; from then on pause_writing tells."""
        try:
            self.is_clear = self.transport.get_write_buffer_size() == 0
        except Exception:
            self.drop_connection()
        return self.is_clear

    cdef int hand_over(self, piece) except -1:
        cdef object transport = self.transport
        if transport is None:
            return 0
        self.is_clear = False
        self.is_busy = True
        try:
            transport.write(piece)
            if self.fd >= 0 and transport.get_write_buffer_size() > 0:
                self.blocked = True
        except Exception:
            self.drop_connection()
        finally:
            self.is_busy = False
        return 0

    cdef int drop_connection(self) except -1:
        """Give up a connection whose transport raised; to be called while the exception is handled."""
        cdef object transport = self.transport
        log.warning("dropping a connection: its transport failed", exc_info=True)
        self.end()
        try:
            if transport is not None:
                transport.abort()
        except Exception:
            log.debug("abort of a failed transport failed", exc_info=True)
        return 0

    cdef int overflow(self) except -1:
        self.drop_queue()
        if not self.has_overflowed:
            self.has_overflowed = True
            if self.on_overflow is not None:
                self.call(self.on_overflow)
        return 0

    cdef int call(self, callback) except -1:
        """Call the owner; its failure must not keep others from being served."""
        try:
            callback()
        except Exception:
            log.exception("a callback of an outbox failed")
        return 0

    cdef int drop_queue(self) except -1:
        self.queue = []
        self.count(-self.queued_bytes)
        return 0

    cdef int count(self, Py_ssize_t added_bytes) except -1:
        """Keep the byte counts, and the pump's list of outboxes with anything queued."""
        self.queued_bytes += added_bytes
        self.pump.queued_bytes += added_bytes
        if self.queued_bytes:
            self.pump.loaded[self] = None
        else:
            self.pump.loaded.pop(self, None)
        return 0


cdef Py_ssize_t send_direct(int fd, bytes piece) noexcept:
    """Return how many bytes the kernel took. An error is left for the transport to meet, and to report."""
    cdef Py_ssize_t sent
    while True:
        sent = c_send(fd, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece), MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent >= 0:
            return sent
        if errno != EINTR:
            return 0
