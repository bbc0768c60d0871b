"""What does it cost to split Klippy's stream into messages?

Reported: microseconds per read of the socket, the best of several repeats, for both implementations; for the large
messages also the throughput.

    python -m benchmarks.micro.bench_framing [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

READ_BYTES = 65536


def best_us(work: Callable[[], object], calls: int) -> float:
    return min(timeit.repeat(work, number=calls, repeat=7)) / calls * 1e6


def measure(framing: Any) -> dict[str, float]:
    framer = framing.Framer()
    push = b"x" * 1400 + b"\x03"
    several = push * 10
    halves = push[:700], push[700:]
    reply = b"x" * 1_000_000 + b"\x03"
    reads = [reply[at : at + READ_BYTES] for at in range(0, len(reply), READ_BYTES)]

    def feed_reads() -> list[bytes]:
        for read in reads:
            messages: list[bytes] = framer.feed(read)
        return messages

    if framer.feed(several) != [push[:-1]] * 10 or feed_reads() != [reply[:-1]]:
        raise SystemExit(f"{framing.__name__} does not give the messages back")
    return {
        "feed one push of 1.4 kB": best_us(lambda: framer.feed(push), 20_000),
        "feed one push in two reads": best_us(lambda: (framer.feed(halves[0]), framer.feed(halves[1])), 10_000),
        "feed ten pushes in one read": best_us(lambda: framer.feed(several), 5000),
        "feed a reply of 1 MB in reads of 64 KiB": best_us(feed_reads, 50),
        "frame a request of 100 bytes": best_us(lambda: framing.frame_message(push[:100]), 20_000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    numbers = {name: measure(importlib.import_module(f"moonfast.{name}.framing")) for name in ("_speedups", "_pure")}
    print(f"{'microseconds':42}{'speedups':>10}{'pure':>10}")
    for name, spent in numbers["_speedups"].items():
        rate = f"{1000 / spent:8.2f} GB/s" if "1 MB" in name else ""
        print(f"{name:42}{spent:10.2f}{numbers['_pure'][name]:10.2f}{rate}")
    if options.json:
        environment = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
        record = {"benchmark": "micro/bench_framing", "unit": "us", "numbers": numbers, "environment": environment}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
