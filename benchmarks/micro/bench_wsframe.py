"""What does one WebSocket frame cost: parsing a client's, making the server's?

Reported: nanoseconds per frame, the best of several repeats, for both implementations; for the large messages also the
throughput.

    python -m benchmarks.micro.bench_wsframe [--json FILE]
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

MASK = b"\x37\xfa\x21\x3d"


def client_frame(payload: bytes, opcode: int) -> bytes:
    size = len(payload)
    if size < 126:
        header = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        header = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        header = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    pad = (MASK * (size // 4 + 1))[:size]
    return header + MASK + (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def best_ns(work: Callable[[], object], calls: int) -> float:
    return min(timeit.repeat(work, number=calls, repeat=7)) / calls * 1e9


def measure(wsframe: Any) -> dict[str, float]:
    parser = wsframe.FrameParser()
    small = client_frame(b'{"jsonrpc":"2.0","id":1,"method":"server.info"}'.ljust(100), 1)
    many = small * 20
    ascii_text = client_frame(b"x" * 100_000, 1)
    wide_text = client_frame("äöü€😀".encode() * 7692, 1)
    binary = client_frame(bytes(100_000), 2)
    halves = small[:40], small[40:]
    for frame, opcode, size in (
        (small, 1, 100),
        (ascii_text, 1, 100_000),
        (wide_text, 1, 99_996),
        (binary, 2, 100_000),
    ):
        if [(found, len(payload)) for found, payload in parser.feed(frame)] != [(opcode, size)]:
            raise SystemExit(f"{wsframe.__name__} does not parse a message of {size} bytes")
    reply = b"x" * 300
    return {
        "parse 100 bytes": best_ns(lambda: parser.feed(small), 5000),
        "parse 100 bytes, 20 in one read": best_ns(lambda: parser.feed(many), 500) / 20,
        "parse 100 bytes in two reads": best_ns(lambda: (parser.feed(halves[0]), parser.feed(halves[1])), 5000),
        "parse 100 kB of ASCII": best_ns(lambda: parser.feed(ascii_text), 100),
        "parse 100 kB of other text": best_ns(lambda: parser.feed(wide_text), 50),
        "parse 100 kB of binary": best_ns(lambda: parser.feed(binary), 100),
        "encode 300 bytes": best_ns(lambda: wsframe.encode_frame(reply), 5000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    numbers = {name: measure(importlib.import_module(f"moonfast.{name}.wsframe")) for name in ("_speedups", "_pure")}
    print(f"{'nanoseconds':34}{'speedups':>12}{'pure':>12}")
    for name, spent in numbers["_speedups"].items():
        rate = f"{100_000 / spent:8.2f} GB/s" if "100 kB" in name else ""
        print(f"{name:34}{spent:12.0f}{numbers['_pure'][name]:12.0f}{rate}")
    if options.json:
        environment = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
        record = {"benchmark": "micro/bench_wsframe", "unit": "ns", "numbers": numbers, "environment": environment}
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
