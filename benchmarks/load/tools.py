"""Compile the load tools and talk to them: one word a line in, one JSON object a line out."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

SOURCES = Path(__file__).resolve().parent
SCRATCH = SOURCES.parent / ".scratch"
TOOLS = ("swarm", "pusher", "limits", "filelimits", "caller")
SHARED = ("wire.c", "printer.c", "wire.h", "printer.h")


class ToolError(RuntimeError):
    """A load tool or a server did not do what was asked of it; the text has its last words."""


def build() -> Path:
    """Compile what is older than its source; return the folder with the programs."""
    folder = SCRATCH / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    shared = max((SOURCES / name).stat().st_mtime for name in SHARED)
    for tool in TOOLS:
        source, program = SOURCES / f"{tool}.c", folder / tool
        if program.exists() and program.stat().st_mtime > max(shared, source.stat().st_mtime):
            continue
        parts = [str(SOURCES / name) for name in SHARED if name.endswith(".c")]
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), *parts, "-lm"], check=True)
    return folder


class Process:
    """A child that is pinned to given cores and always ended by its own pid."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: set[int] | None = None,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.command = list(command)
        self._errors = (log or SCRATCH / "tools.log").open("ab")
        self._child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if log is None else self._errors,
            stderr=self._errors,
            env=environment,
            cwd=cwd,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        self.pid = self._child.pid
        self._unread = b""

    def say(self, line: str) -> None:
        """Send one line to the child's standard input."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line.encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise ToolError(f"{self.command[0]} has ended, see {SCRATCH / 'tools.log'}") from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Return the next JSON line the child prints."""
        assert self._child.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ToolError(f"no answer within {timeout_s:.0f} s from {' '.join(self.command)[:200]}")
                block = os.read(self._child.stdout.fileno(), 65536)
                if not block:
                    raise ToolError(f"{' '.join(self.command)[:200]} has ended, see {SCRATCH / 'tools.log'}")
                self._unread += block
        line, _, self._unread = self._unread.partition(b"\n")
        return cast(dict[str, Any], json.loads(line))

    def is_running(self) -> bool:
        return self._child.poll() is None

    def end(self) -> None:
        """End the child: its input closes, then SIGTERM, then SIGKILL."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        for send, patience_s in ((None, 0.2), (signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            if send is not None:
                self._child.send_signal(send)
            try:
                self._child.wait(patience_s)
                break
            except subprocess.TimeoutExpired:
                continue
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._errors.close()
