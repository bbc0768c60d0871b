"""Sends pieces of files: sendfile(2) in slices, so that nobody else waits and the disk is never waited for.

A slice that is not in the page cache is read in a thread first. The descriptor watched for writability is a duplicate
of the socket's (the loop does not let the same one be watched beside its transport); it is watched only while the
socket is full. Over TLS the pieces go through the transport.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable

from moonfast.speedups import fanout
from moonfast.transports.file_response import Prepared

SLICE_BYTES = 256 * 1024
"""Sent in one turn of the loop; also what is read ahead."""
TLS_SLICE_BYTES = 64 * 1024


class FileSender:
    """Sends what was prepared; `done(is_whole)` is called once, unless `close` comes first.

    The owner calls `go_on` when the transport has become writable again. OSError: no descriptor is free; the file
    stays the caller's.
    """

    def __init__(
        self, transport: asyncio.Transport, outbox: fanout.Outbox, prepared: Prepared, done: Callable[[bool], None]
    ) -> None:
        self._transport, self._outbox, self._done = transport, outbox, done
        self._parts = deque(prepared.parts)
        self._file = prepared.descriptor
        self._loop = asyncio.get_running_loop()
        sock = transport.get_extra_info("socket")
        is_plain = transport.get_extra_info("ssl_object") is None and sock is not None
        self._socket = os.dup(sock.fileno()) if is_plain and self._file >= 0 else -1
        self._is_watching = self._is_warming = self._is_scheduled = self._is_closed = False
        self._at = -1  # of the piece that is being sent: where, and how much is left
        self._left = 0
        self.sent_bytes = 0
        if self._file >= 0:
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def go_on(self) -> None:
        """Send as much as one turn allows."""
        self._is_scheduled = False
        while not (self._is_closed or self._is_watching or self._is_warming):
            if self._outbox.blocked or self._outbox.queued_bytes or self._transport.get_write_buffer_size():
                if not self._outbox.blocked:
                    self._go_on_soon()  # corked: it goes out in this turn
                return
            if self._left:
                if not self._send_slice():
                    return
            elif self._parts:
                part = self._parts.popleft()
                if isinstance(part, bytes):
                    self._outbox.send(part)
                else:
                    self._at, self._left = part
            else:
                self.close()
                self._done(True)

    def _send_slice(self) -> bool:
        """Send the next slice. False: go on in a later turn."""
        length = min(self._left, SLICE_BYTES if self._socket >= 0 else TLS_SLICE_BYTES)
        if not self._is_cached(length):
            self._is_warming = True
            future = self._loop.run_in_executor(None, _warm, self._file, length, self._at)
            future.add_done_callback(self._warmed)
            return False
        return self._send_plain(length) if self._socket >= 0 else self._send_encrypted(length)

    def _send_plain(self, length: int) -> bool:
        try:
            count = os.sendfile(self._socket, self._file, self._at, length)
        except BlockingIOError:
            self._is_watching = True
            self._loop.add_writer(self._socket, self._writable)
            return False
        except OSError:
            count = 0
        if count == 0:  # the file has become shorter, or the client is gone: the promised length cannot be kept
            self._give_up()
            return False
        self._advance(count)
        self._go_on_soon()
        return False

    def _send_encrypted(self, length: int) -> bool:
        data = os.pread(self._file, length, self._at)
        if not data:
            self._give_up()
            return False
        self._advance(len(data))
        self._outbox.send(data)
        self._go_on_soon()
        return False

    def _go_on_soon(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self.go_on)

    def _advance(self, count: int) -> None:
        self._at += count
        self._left -= count
        self.sent_bytes += count

    def _is_cached(self, length: int) -> bool:
        """Whether a slice can be read without waiting for the disk."""
        probe = bytearray(1)
        try:
            return all(
                os.preadv(self._file, [probe], at, os.RWF_NOWAIT) >= 0 for at in (self._at, self._at + length - 1)
            )
        except OSError:  # not there, or a file system that cannot tell
            return False

    def _warmed(self, future: asyncio.Future[int]) -> None:
        self._is_warming = False
        if self._is_closed:
            os.close(self._file)
            return
        if future.cancelled() or future.exception() is not None or not future.result():  # an error, or the file's end
            self._give_up()
            return
        length = min(self._left, SLICE_BYTES if self._socket >= 0 else TLS_SLICE_BYTES)
        if self._outbox.blocked:
            return
        if self._socket >= 0:
            self._send_plain(length)
        else:
            self._send_encrypted(length)

    def _writable(self) -> None:
        self._unwatch()
        self.go_on()

    def _unwatch(self) -> None:
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_writer(self._socket)

    def _give_up(self) -> None:
        self.close()
        self._done(False)

    def close(self) -> None:
        """Send nothing more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unwatch()
        if self._socket >= 0:
            os.close(self._socket)
        if self._file >= 0 and not self._is_warming:  # else the thread still reads it
            os.close(self._file)
        self._parts.clear()


def _warm(descriptor: int, length: int, at: int) -> int:
    """Bring a piece of a file into the page cache; in a thread. How much there was of it."""
    return len(os.pread(descriptor, length, at))
