"""What does a status update cost: merging it, and making the diff of every filter group?

The update has the shape of a printing machine's: 8 objects with 25 fields, other numbers each time. Reported: the best
of several repeats, in microseconds, for both implementations; `changed` is per group, with one group that wants
everything, with eight groups and with 1000 different ones (each wants other fields). The texts are checked first.

    python -m benchmarks.micro.bench_status [--tape FILE] [--json FILE]

--tape  a file of recorded updates (JSON; every {"eventtime", "status"} in it is an update), applied one after the other
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

REPEATS = 7
Update = tuple[bytes, bytes]  # status and eventtime
Filter = dict[str, list[str] | None]


def update(number: int) -> Update:
    """An update of 8 objects and 25 fields."""
    step = number / 64
    status = {
        "toolhead": {
            "print_time": 177.25 + step,
            "estimated_print_time": 177.125 + step,
            "position": [1.0, 2.0, step, 3.7],
        },
        "gcode_move": {"position": [352.5, 0.0, 0.3, step], "gcode_position": [352.5, 0.0, 0.3, step], "speed": 1500.0},
        "motion_report": {
            "live_position": [352.5, 0.0, 0.3, step],
            "live_velocity": step,
            "live_extruder_velocity": 0.5,
        },
        "extruder": {"temperature": 200.0 + step % 1, "power": step % 1, "target": 200.0, "can_extrude": True},
        "heater_bed": {"temperature": 60.0 + step % 1, "power": step % 1},
        "print_stats": {"total_duration": step, "print_duration": step, "filament_used": step, "state": "printing"},
        "virtual_sdcard": {"progress": step % 1, "file_position": number, "is_active": True, "file_size": 480000},
        "system_stats": {"cputime": step, "memavail": 23088700 + number},
    }
    return json.dumps(status).encode(), b"%d.25" % number


def reply() -> Update:
    """The 42 kB that the first subscription of all objects is answered with."""
    sections = {
        f"gcode_macro PRINT_{number}": {
            "gcode": f'\n  G1 X{number} ; "go"\n' * 4,
            "variable_x": number / 7,
            "list": [1, 2.5],
        }
        for number in range(197)
    }
    printer = json.loads(update(0)[0]) | {f"temperature_sensor {number}": {"temperature": 20.5} for number in range(20)}
    sensors = {f"gcode_macro M{number}": {"x": number, "y": "text", "z": [1, 2, 3]} for number in range(100)}
    status = {"configfile": {"settings": sections, "config": {}, "warnings": []}} | printer | sensors
    return json.dumps(status).encode(), b"1.5"


def groups_of(table: Any, count: int) -> list[Any]:
    """Groups with `count` different filters; the first one wants everything."""
    fields = {name: list(values) for name, values in json.loads(update(0)[0]).items()}
    found: list[Any] = []
    wants: Iterator[Filter] = itertools.chain(
        [dict.fromkeys(fields)],
        (
            {
                name: [key for bit, key in enumerate(keys, place) if not number >> bit % 11 & 1]
                for place, (name, keys) in enumerate(fields.items())
            }
            | {f"client {number}": None}
            for number in itertools.count()
        ),
    )
    for objects in itertools.islice(wants, count):
        found.append(table.group(objects))
    return found


def best_us(work: Callable[[], object], prepare: Callable[[], object], calls: int) -> float:
    """The time of `work` alone; `prepare` runs before each call."""
    best = float("inf")
    for _ in range(REPEATS):
        spent = 0
        for _ in range(calls):
            prepare()
            begin = time.perf_counter_ns()
            work()
            spent += time.perf_counter_ns() - begin
        best = min(best, spent / calls / 1000)
    return best


def measure(status: Any, tape: list[Update]) -> dict[str, float]:
    result: dict[str, float] = {}
    updates = itertools.cycle(update(number) for number in range(1000))
    table = status.StatusTable()
    whole = table.group(dict.fromkeys(json.loads(update(0)[0])))
    table.watch(["print_stats", "toolhead", "extruder"])
    first = next(updates)
    table.apply(*first)
    if json.loads(whole.changed() or b"{}").get("params") != [json.loads(first[0]), float(first[1])]:
        raise SystemExit(f"{status.__name__} does not give out what changed")
    result["apply an update"] = best_us(lambda: table.apply(*next(updates)), lambda: None, 300)
    for count in (1, 8, 1000):
        groups = groups_of(table, count)
        if len({group.key for group in groups}) != count:
            raise SystemExit("the groups are not different")

        def every(groups: list[Any] = groups) -> None:
            for group in groups:
                group.changed()

        spent = best_us(every, lambda: table.apply(*next(updates)), 300 if count < 1000 else 5)
        result[f"changed, per group, of {count}"] = spent / count
    result["since, everything"] = best_us(lambda: whole.since(0), lambda: None, 300)
    large = reply()
    size = f"{len(large[0]) // 1000} kB"
    result[f"apply a first reply of {size}"] = best_us(lambda: table.apply(*large), table.clear, 20)
    result[f"apply it again, nothing changed ({size})"] = best_us(lambda: table.apply(*large, True), lambda: None, 20)
    everything = table.group(dict.fromkeys(json.loads(large[0])))
    result[f"snapshot of all of it ({size})"] = best_us(everything.snapshot, lambda: None, 50)
    if tape:
        recorded = itertools.cycle(tape)
        result["apply, mean over the tape"] = best_us(lambda: table.apply(*next(recorded)), lambda: None, len(tape))
    return result


def recorded_updates(value: Any) -> Iterator[Update]:
    """Every pushed update in a decoded file, in order."""
    if isinstance(value, dict):
        if value.get("method") == "process_status_update":
            yield json.dumps(value["params"]["status"]).encode(), str(value["params"]["eventtime"]).encode()
            return
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from recorded_updates(inner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tape", type=Path, help="also apply the updates recorded in this file")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    tape = list(recorded_updates(json.loads(options.tape.read_bytes()))) if options.tape else []
    numbers = {
        name: measure(importlib.import_module(f"moonfast.{name}.status"), tape) for name in ("_speedups", "_pure")
    }
    print(f"{'microseconds':44}{'speedups':>10}{'pure':>10}")
    for name, spent in numbers["_speedups"].items():
        print(f"{name:44}{spent:10.2f}{numbers['_pure'][name]:10.2f}")
    if options.json:
        environment = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
        record = {"benchmark": "micro/bench_status", "unit": "us", "numbers": numbers, "environment": environment}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
