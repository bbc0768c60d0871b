"""Programs of the system, run to their end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from moonfast.host import shell
from moonfast.host.shell import NOT_FOUND, TIMED_OUT, Ended, run


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_what_it_says() -> None:
    code = "import os, sys; print(os.environ['LC_ALL'], sys.stdin.read()); print('no', file=sys.stderr); sys.exit(3)"
    assert await run(python(code), timeout_s=10) == Ended(3, "C.UTF-8 \n", "no\n")
    assert (await run(python(code), timeout_s=10, given=b"given")).output == "C.UTF-8 given\n"
    assert (await run(("true",), timeout_s=10, given=b"x" * 1_000_000)).is_good  # it does not read


async def test_no_such_program() -> None:
    assert (await run(("moonfast-no-such-program",), timeout_s=10)).status == NOT_FOUND


async def test_one_that_does_not_end() -> None:
    started = time.monotonic()
    ended = await run(("sleep", "60"), timeout_s=0.05)
    assert (ended.status, ended.is_good) == (TIMED_OUT, False)
    assert time.monotonic() - started < 5


async def test_one_that_says_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "MAX_OUTPUT_BYTES", 1000)
    ended = await run(python("print('x' * 500000)"), timeout_s=10)
    assert (ended.status, len(ended.output)) == (0, 1000)


async def test_a_request_that_is_given_up_ends_the_program(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    task = asyncio.ensure_future(
        run(("sh", "-c", f"echo $$ > {told}.new; mv {told}.new {told}; sleep 60"), timeout_s=60)
    )
    while not told.exists():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


async def test_one_that_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under sudo."""
    kill, left = os.killpg, []

    def refuse(group: int, number: int) -> None:
        left.append((group, number))
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    assert (await run(("sleep", "60"), timeout_s=0.05)).status == TIMED_OUT
    kill(*left[0])
    await asyncio.sleep(0.1)  # its pipes are closed
