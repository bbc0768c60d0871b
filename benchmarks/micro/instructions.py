"""How many instructions does one step of the hot path take?

Reported: instructions (callgrind's Ir) per call, for the compiled modules and for their twins: a figure that does not
depend on the load of the machine. It is the difference of two runs of different length, so that start-up drops out.

    python -m benchmarks.micro.instructions [--step NAME] [--json FILE]     # needs valgrind; half a minute a step
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMPLEMENTATIONS = ("_speedups", "_pure")
SHORT, LONG = 200, 1200
PUSH = json.dumps(
    {
        "toolhead": {"position": [101.125, 99.25, 0.2, 45.5], "print_time": 123.4, "estimated_print_time": 121.9},
        "extruder": {"temperature": 210.03, "power": 0.31, "target": 210.0},
        "heater_bed": {"temperature": 60.01, "power": 0.2},
        "motion_report": {"live_position": [101.0, 99.0, 0.2, 45.2], "live_velocity": 60.0},
        "print_stats": {"print_duration": 60.25, "total_duration": 80.5, "filament_used": 450.3},
        "virtual_sdcard": {"progress": 0.123, "file_position": 123456},
    },
    separators=(",", ":"),
).encode()
MESSAGE = b'{"method":"process_status_update","params":{"eventtime":730.95,"status":' + PUSH + b"}}"
FRAME = b"\x81\xaf\x00\x00\x00\x00" + b'{"jsonrpc":"2.0","id":1,"method":"server.info"}'


def steps(package: str) -> dict[str, Callable[[], object]]:
    """What is counted, by name."""

    def module(name: str) -> Any:
        return importlib.import_module(f"moonfast.{package}.{name}")

    framer = module("framing").Framer()
    members, wsframe = module("jsonspan").members, module("wsframe")
    parser = wsframe.FrameParser()
    table = module("status").StatusTable()
    table.apply(PUSH, b"1.0")
    whole = table.group(dict.fromkeys(table.names()))
    some = table.group({"toolhead": ["position"], "extruder": ["temperature", "target"], "print_stats": None})
    stream = MESSAGE + b"\x03"
    assert parser.feed(FRAME)[0][0] == wsframe.TEXT
    return {
        "frame a push": lambda: framer.feed(stream),
        "scan a push": lambda: members(MESSAGE),
        "apply a push": lambda: table.apply(PUSH, b"2.0"),
        "diff, all fields": whole.changed,
        "diff, some fields": some.changed,
        "snapshot": whole.snapshot,
        "parse a request frame": lambda: parser.feed(FRAME),
        "make a status frame": lambda: wsframe.encode_frame(MESSAGE),
    }


def count(package: str, step: str, calls: int) -> int:
    """Instructions of a whole process that does one step `calls` times."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m", __spec__.name]
    command += ["--child", package, step, str(calls)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "0"})
    found = re.search(r"Collected : ([0-9]+)", run.stderr)
    if run.returncode or found is None:
        raise SystemExit(f"valgrind: {run.stderr[-500:]}")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--step", action="append", choices=list(steps("_pure")), help="may be repeated (default: all)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        package, step, calls = options.child
        work = steps(package)[step]
        for _ in range(int(calls)):
            work()
        return
    numbers: dict[str, dict[str, float]] = {}
    print(f"{'instructions per call':26}{'speedups':>12}{'pure':>12}")
    for step in options.step or steps("_pure"):
        found = [(count(name, step, LONG) - count(name, step, SHORT)) / (LONG - SHORT) for name in IMPLEMENTATIONS]
        numbers[step] = dict(zip(IMPLEMENTATIONS, found, strict=True))
        print(f"{step:26}{found[0]:12.0f}{found[1]:12.0f}", flush=True)
    if options.json:
        environment = {"python": platform.python_version(), "machine": platform.machine()}
        record = {"benchmark": "micro/instructions", "unit": "Ir", "numbers": numbers, "environment": environment}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
