"""What does it cost to find the values in a JSON text, compared with decoding it?

Reported: microseconds per text, the best of several repeats, for both implementations and for the standard library's
decoder and orjson where it is installed; for the large text also the throughput.

    python -m benchmarks.micro.bench_jsonspan [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import platform
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

PUSH = (
    b'{"method": "process_status_update", "params": {"eventtime": 1364.273315364, "status": {"heater_bed":'
    b' {"temperature": 24.55, "power": 0.125}, "toolhead": {"print_time": 177.59660970000002, "position":'
    b' [0.0, 0.0, 0.3, 3.700000000000002]}, "extruder": {"temperature": 193.81, "target": 200.0}}}}'
)


def reply() -> bytes:
    """A reply of 42 kB: a large configfile, as the first of a subscription is."""
    sections = {
        f"gcode_macro PRINT_{number}": {
            "gcode": f'\n  G1 X{number} ; "go"\n' * 4,
            "variable_x": number / 7,
            "list": [1, 2.5],
        }
        for number in range(278)
    }
    return json.dumps({"result": {"eventtime": 1.5, "status": {"configfile": {"settings": sections}}}}).encode()


def best_us(work: Callable[[], object], calls: int) -> float:
    return min(timeit.repeat(work, number=calls, repeat=7)) / calls * 1e6


def measure(decode: Callable[[bytes], object]) -> dict[str, float]:
    large = reply()
    array = b"[" + b",".join([b"21.05"] * 1200) + b"]"
    return {
        "members of a push of 0.3 kB": best_us(lambda: decode(PUSH), 5000),
        f"members of a reply of {len(large) // 1000} kB": best_us(lambda: decode(large), 30),
        "elements of 1200 numbers": best_us(lambda: decode(array), 100),
    }


def values_of(jsonspan: Any) -> Callable[[bytes], object]:
    def decode(text: bytes) -> object:
        return jsonspan.elements(text) if text.startswith(b"[") else jsonspan.members(text)

    if decode(b'{"a":[1 ,2]}') != {"a": b"[1 ,2]"} or decode(b"[1 ,[2]]") != [b"1", b"[2]"]:
        raise SystemExit(f"{jsonspan.__name__} does not find the values")
    return decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    decoders = {
        "speedups": values_of(importlib.import_module("moonfast._speedups.jsonspan")),
        "pure": values_of(importlib.import_module("moonfast._pure.jsonspan")),
        "json": json.loads,
    }
    with contextlib.suppress(ImportError):
        decoders["orjson"] = importlib.import_module("orjson").loads
    numbers = {name: measure(decode) for name, decode in decoders.items()}
    print(f"{'microseconds':34}" + "".join(f"{name:>10}" for name in numbers))
    for name in numbers["speedups"]:
        print(f"{name:34}" + "".join(f"{spent[name]:10.2f}" for spent in numbers.values()))
    if options.json:
        environment = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
        record = {"benchmark": "micro/bench_jsonspan", "unit": "us", "numbers": numbers, "environment": environment}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
