"""What a process costs: CPU time in nanoseconds, resident and proportional memory."""

import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
KB_PER_MB = 1024.0


def children(pid: int) -> list[int]:
    """Return the live descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found + [grandchild for child in found for grandchild in children(child)]


def process_clock_s(pid: int) -> float:
    """Return the user and system time of one process, all its threads, from the scheduler's own nanosecond account.

    /proc/PID/stat counts in samples of 10 ms, which misses a server that works for microseconds at a time. The clock id
    of a foreign process is the kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED), see clock_getcpuclockid(3).
    """
    return time.clock_gettime(~pid << 3 | 2)


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process with its children, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended_s = (int(fields[13]) + int(fields[14])) * TICK_S
    live_s = 0.0
    for child in children(pid):
        try:
            live_s += process_clock_s(child)
        except OSError:
            continue  # ended between the two looks
    return process_clock_s(pid) + live_s + ended_s


def forget_peak(pid: int) -> None:
    """Let the peak of a process's resident memory start again from what it is now, see proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """Return the highest resident memory of one process, without its children, since `forget_peak`."""
    return int(re.findall(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / KB_PER_MB


@dataclass(frozen=True)
class Memory:
    """Memory of a process with its children, MB.

    `alone_mb` is the proportional share that it would have if no other Python ran: pages of the interpreter and its
    modules count whole, those of the C library by the number of processes that map them. The benchmark is itself
    written in Python, so the kernel's own figure (`pss_mb`) flatters.
    """

    rss_mb: float
    pss_mb: float
    alone_mb: float

    @staticmethod
    def of(pid: int) -> "Memory":
        rss = pss = alone = 0
        for one in [pid, *children(pid)]:
            is_python = False
            try:
                maps = Path(f"/proc/{one}/smaps").read_text()
            except OSError:
                continue
            for line in maps.splitlines():
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    is_python = "python" in line or "/.venv" in line or "site-packages" in line
                elif line.startswith("Rss:"):
                    size = int(line.split()[1])
                    rss += size
                    alone += size if is_python else 0
                elif line.startswith("Pss:"):
                    size = int(line.split()[1])
                    pss += size
                    alone += 0 if is_python else size
        return Memory(*(round(kb / KB_PER_MB, 2) for kb in (rss, pss, alone)))


def environment() -> dict[str, str | int]:
    """Describe the machine that the numbers belong to."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "load_average": f"{os.getloadavg()[0]:.2f}",
    }


def commit(repository: Path) -> str:
    """Return the commit that is checked out, with '+' when files differ from it; 'none' before the first one."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "none") + ("+" if git("status", "--porcelain") else "")
