"""A thousand clients for five minutes: does each get every update, once and in order, and does memory stay flat?

python -m benchmarks.load.soak [--clients N] [--seconds S] [--feed simulator|pusher]

With the built-in simulator the clients' sequences of event times are compared with one another; with the pusher its
update counter proves each sequence on its own. Exit status 1 when something is missing, repeated or growing.
"""

import argparse
import json
import shlex
import sys
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.compare.contenders import REPOSITORY, Moonfast, Setup, Stage
from benchmarks.compare.measure import commit, environment
from benchmarks.compare.run import write
from benchmarks.load.tools import Process, ToolError

SAMPLE_S = 10.0
SETTLE_S = 30.0  # buffers and pools reach their size
MAX_GROWTH_MB = 1.0


class Simulated(Moonfast):
    """moonfast with its built-in printer; the Klippy socket of the stage is not used."""

    def start(self, setup: Setup) -> Process:
        return super().start(replace(setup, klippy=setup.folder / "simulator.sock"))

    def command(self, data: Path) -> list[str]:
        return [*super().command(data), "--simulate"]


def ask(port: int, path: str, method: str = "GET") -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["result"]


def soak(contender: Moonfast, clients: int, seconds: float) -> tuple[dict[str, Any], list[float]]:
    """Return what the swarm counted and the resident memory every SAMPLE_S seconds, MB."""
    with Stage(contender) as stage, ExitStack() as stack:
        options: dict[str, Any] = {"--port": stage.port, "--clients": clients}
        if isinstance(contender, Simulated):
            # a printer that heats has something to tell with every update
            ask(stage.port, "/printer/gcode/script?script=" + urllib.parse.quote("M140 S60\nM104 S210"), "POST")
            names = ask(stage.port, "/printer/objects/list")["objects"]
            options |= {"--order": "eventtime", "--objects": json.dumps(dict.fromkeys(names))}
        swarm = stage.tool("swarm", options, stack)
        swarm.answer(120)
        time.sleep(SETTLE_S)
        swarm.say("start")
        begun_s, memory = stage.cpu_s(), [stage.memory().rss_mb]
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(SAMPLE_S, left))
            memory.append(stage.memory().rss_mb)
        spent_s = stage.cpu_s() - begun_s
        swarm.say("stop")
        counted = swarm.answer(30)
    counted["cpu_percent"] = round(spent_s / seconds * 100, 3)
    return counted, memory


def faults(counted: dict[str, Any], memory: list[float], seconds: float) -> list[str]:
    """Name everything that is not as it must be."""
    found = [f"{counted[name]} {name}" for name in ("gaps", "repeats", "closed") if counted[name]]
    if counted["most_per_client"] - counted["fewest_per_client"] > 1:  # the count ends in the middle of one update
        found.append(f"some got {counted['fewest_per_client']} frames, some {counted['most_per_client']}")
    if counted["fewest_per_client"] < 3.5 * seconds:
        found.append(f"only {counted['fewest_per_client']} updates in {seconds:.0f} s")
    growth = max(memory[len(memory) // 2 :]) - memory[0]
    if growth > MAX_GROWTH_MB:
        found.append(f"memory grew by {growth:.1f} MB")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.soak", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--feed", choices=("simulator", "pusher"), default="simulator")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter that runs moonfast")
    options = parser.parse_args()
    contender = (Simulated if options.feed == "simulator" else Moonfast)(options.python)
    try:
        counted, memory = soak(contender, options.clients, options.seconds)
    except ToolError as error:
        print(error, file=sys.stderr)
        return 1
    found = faults(counted, memory, options.seconds)
    content: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.load.soak " + shlex.join(sys.argv[1:]),
        "commit": commit(REPOSITORY),
        "environment": environment(),
        "versions": {"moonfast": contender.version()},
        "clients": options.clients,
        "seconds": options.seconds,
        "feed": options.feed,
        "counted": counted,
        "rss_mb": memory,
        "faults": found,
    }
    print(json.dumps(counted))
    print("memory, MB:", *memory)
    print("; ".join(found) or "every update delivered once and in order, memory flat")
    print(write("soak", content))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
