"""One frame to many connections, and what each still has to be sent.

Frames reach one outbox in the order of the calls: `send`, `broadcast` and `publish` alike. A job (a broadcast or a
publish) works through its members in slices, so that other connections are served in between; a `send` to a member
that a job has not reached yet first takes that member's frames out of the waiting jobs.

A frame goes straight to the descriptor while nothing is in front of it. What the kernel does not take becomes the
transport's, in one piece, and from then on the outbox is blocked: frames queue here, where they are counted and
bounded, until the transport reports that it is empty.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol, Self, type_check_only

from typing_extensions import disjoint_base

log: logging.Logger
TOTAL_CAP_BYTES: int
CAP_BYTES: int
PIECE_BYTES: int
"""Queued frames are joined up to this size for one send."""
SLICE_NS: int
JOBS_CAP_BYTES: int
"""Waiting jobs beyond it are served at once, whatever the slice."""

@type_check_only
class _Transport(Protocol):
    """What an outbox uses of asyncio.WriteTransport."""

    def write(self, data: Any, /) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...

@disjoint_base
class Pump:
    """All outgoing bytes of one server: cork, broadcast jobs in slices, total bound. Used on the loop's thread only."""

    def __init__(
        self, call_soon: Callable[..., object], total_cap_bytes: int = 67108864, slice_ns: int = 1000000
    ) -> None: ...
    @property
    def queued_bytes(self) -> int:
        """Bytes queued in all outboxes."""
    def cork(self) -> None:
        """Hold frames back until the matching uncork, so that each outbox sends its own in one piece. Nests."""
    def uncork(self) -> None:
        """End one cork; the last one sends what is held and runs the jobs for up to one slice.

        RuntimeError: there is no cork.
        """
    def broadcast(self, outboxes: list[Outbox], frame: bytes) -> None:
        """Send a frame to all of them; later changes of the list do not matter."""
    def publish(self, outboxes: list[Outbox], frame: bytes, base: int, seq: int) -> None:
        """Send the status update `seq` (from 1), which follows on `base`, to all of them.

        Skipped where `status_seq` is not before `seq`; a blocked outbox, or one that has not had `base`, is marked
        `behind` and gets nothing. ValueError: seq below 1.
        """
    def close(self) -> None:
        """Forget all jobs and ignore later ones; outboxes still send until they are closed themselves."""

@disjoint_base
class Outbox:
    """What one connection has still to be sent. Used on the loop's thread only.

    `fd` is the transport's non-blocking socket for send(2), or -1: everything goes through the transport (TLS). With a
    descriptor the owner calls transport.set_write_buffer_limits(high=0, low=0), so that every byte the transport holds
    is announced by pause_writing and its end by resume_writing: by that the outbox knows of what others write, too.
    A TLS transport takes high=1: at 0 it would pause while it holds nothing.
    """

    behind: bool
    """Has missed a status update; cleared by the owner when it sends the merged one."""
    status_seq: int
    """Of the last status update sent. The owner sets it when it sends status by other ways, before it sends it."""
    on_overflow: Callable[[], None] | None
    """Called once, when a cap was passed: the owner closes the connection."""
    on_drained: Callable[[], None] | None
    """Called by resumed() when the queue is empty again."""

    def __new__(cls, pump: Pump, transport: _Transport, fd: int, cap_bytes: int = 8388608) -> Self: ...
    @property
    def blocked(self) -> bool:
        """The transport holds unsent bytes."""
    @property
    def queued_bytes(self) -> int:
        """Bytes queued here, without those inside the transport."""
    def send(self, frame: bytes) -> None:
        """Send one frame after all those before it; queue it while the transport is blocked or the pump corked.

        A frame that would bring the queue over the cap is refused: then, or when this is the largest queue and the
        pump's total cap is passed, the queue is dropped, jobs pass the outbox by, and on_overflow is called, once. What
        the transport holds ends with a whole frame, so the owner can still send a close frame.
        """
    def finish(self, frame: bytes) -> None:
        """Send the last frame, after all those before it: what comes later is ignored."""
    def paused(self) -> None:
        """Take note of pause_writing: the transport holds bytes that the peer has not read."""
    def resumed(self) -> None:
        """Take note of resume_writing: send what is queued, then call on_drained if nothing is left."""
    def close(self) -> None:
        """Forget the queue, the descriptor and the callbacks; later frames are ignored.

        To be called before the transport is closed or aborted: the number of a closed descriptor is soon another's.
        """
