"""Programs of the system, found through PATH; their output has bounds, and so has their time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from typing import NamedTuple

MAX_OUTPUT_BYTES = 1 << 20
END_S = 1.0
NOT_FOUND = 127
"""Exit status where there is no such program, as of a shell."""
TIMED_OUT = 124
"""Exit status of what did not end in time, as of timeout(1)."""
LOCALE = {"LC_ALL": "C.UTF-8"}


class Ended(NamedTuple):
    """`output` and `errors` are cut at MAX_OUTPUT_BYTES."""

    status: int
    output: str
    errors: str

    @property
    def is_good(self) -> bool:
        return self.status == 0


async def run(program: Sequence[str], *, timeout_s: float, given: bytes | None = None) -> Ended:
    """Run a program to its end; `given` is its standard input. Messages are English: they are compared with."""
    try:
        process = await asyncio.create_subprocess_exec(
            *program,
            stdin=DEVNULL if given is None else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, **LOCALE},
            start_new_session=True,
        )
    except OSError:
        return Ended(NOT_FOUND, "", f"{program[0]} cannot be run")
    try:
        async with asyncio.timeout(timeout_s):
            output, errors, _ = await asyncio.gather(
                _read(process.stdout), _read(process.stderr), _give(process, given)
            )
            return Ended(await process.wait(), output, errors)
    except TimeoutError:
        return Ended(TIMED_OUT, "", f"{program[0]} did not end within {timeout_s:g} s")
    finally:
        if process.returncode is None:
            await _kill(process)


async def _kill(process: Process) -> None:
    """End a program and what it has begun. What sudo runs cannot be ended from here: it is left alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError, TimeoutError):
        os.killpg(process.pid, signal.SIGKILL)
        async with asyncio.timeout(END_S):  # until its pipes are closed
            await asyncio.gather(process.wait(), _read(process.stdout), _read(process.stderr))


async def _read(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    kept = bytearray()
    while data := await stream.read(65536):
        kept += data[: MAX_OUTPUT_BYTES - len(kept)]
    return kept.decode("utf-8", "replace")


async def _give(process: Process, given: bytes | None) -> None:
    if process.stdin is None or given is None:
        return
    with contextlib.suppress(ConnectionError):  # it ended without reading
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()
