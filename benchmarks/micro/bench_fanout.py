"""How much does a broadcast through the pump cost over a bare C loop of send(2) on the same connections?

Every round sends one frame to every connection three times, in turn: by the C loop, by `Pump.broadcast`, and by
`Pump.publish` with a group per client, each after the peers have read everything. The peers are loopback TCP sockets
in this process, the near ends uvloop transports as in the server. Reported: microseconds per frame (median over the
rounds) and the median of the ratios within a round. The bytes that the peers read are counted and compared.

    python -m benchmarks.micro.bench_fanout [--clients 1000] [--bytes 400] [--rounds 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import platform
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moonfast import speedups

try:
    import uvloop

    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:
    new_loop = asyncio.new_event_loop

C_LOOP = """
#include <stddef.h>
#include <sys/socket.h>
long send_all(const int *fds, int count, const char *frame, size_t size) {
    long sent = 0;
    for (int i = 0; i < count; i++)
        sent += send(fds[i], frame, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent;
}
"""


class Near(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, pump: Any) -> None:
        self.pump = pump

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=0, low=0)
        self.transport = transport
        self.fd = transport.get_extra_info("socket").fileno()
        self.outbox = speedups.fanout.Outbox(self.pump, transport, self.fd)

    def connection_lost(self, exc: Exception | None) -> None:
        self.outbox.close()


def compile_c_loop(folder: str) -> Any:
    source = Path(folder, "loop.c")
    source.write_text(C_LOOP)
    library = source.with_suffix(".so")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    function = ctypes.CDLL(str(library)).send_all
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    return function


async def measure(clients: int, size: int, rounds: int, send_all: Any) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    pump = speedups.fanout.Pump(loop.call_soon, slice_ns=10**12)
    frame = b"x" * size
    nears: list[Near] = []
    peers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        for _ in range(clients):
            peer = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, near = await loop.connect_accepted_socket(lambda: Near(pump), accepted)
            nears.append(near)
            peers.append(peer)
    outboxes = [near.outbox for near in nears]
    alone = [[outbox] for outbox in outboxes]
    fds = (ctypes.c_int * clients)(*(near.fd for near in nears))
    seq = 0

    def by_c_loop() -> None:
        send_all(fds, clients, frame, size)

    def by_broadcast() -> None:
        pump.broadcast(outboxes, frame)

    def by_publish() -> None:
        nonlocal seq
        seq += 1
        pump.cork()
        for members in alone:
            pump.publish(members, frame, seq - 1, seq)
        pump.uncork()

    ways = {"c_loop": by_c_loop, "broadcast": by_broadcast, "publish_each": by_publish}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 5):
        order = list(ways) if number % 2 else list(reversed(ways))
        for name in order:
            begin = time.perf_counter()
            ways[name]()
            spent = time.perf_counter() - begin
            for peer in peers:
                if len(peer.recv(size + 1, socket.MSG_DONTWAIT)) != size:
                    raise SystemExit(f"{name}: a peer did not get exactly one frame")
            if number >= 5:
                times[name].append(spent / clients * 1e6)
    for near, peer in zip(nears, peers, strict=True):
        near.outbox.close()
        near.transport.abort()
        peer.close()
    await asyncio.sleep(0.05)
    result = {f"{name}_us": statistics.median(values) for name, values in times.items()}
    for name in ("broadcast", "publish_each"):
        result[f"{name}_ratio"] = statistics.median(a / b for a, b in zip(times[name], times["c_loop"], strict=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--bytes", type=int, default=400, help="size of the frame")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=new_loop) as runner:
        numbers = runner.run(measure(options.clients, options.bytes, options.rounds, compile_c_loop(folder)))
    print(f"{options.clients} clients, {options.bytes} bytes, {speedups.IMPLEMENTATION}")
    for name in ("c_loop", "broadcast", "publish_each"):
        print(f"  {name:13} {numbers[name + '_us']:7.3f} us/frame", end="")
        print(f"  {numbers[name + '_ratio']:5.3f} x" if name + "_ratio" in numbers else "")
    if options.json:
        environment = {"python": platform.python_version(), "machine": platform.machine(), "kernel": platform.release()}
        options.json.write_text(
            json.dumps(
                {
                    "benchmark": "micro/bench_fanout",
                    "implementation": speedups.IMPLEMENTATION,
                    "clients": options.clients,
                    "bytes": options.bytes,
                    "rounds": options.rounds,
                    "numbers": numbers,
                    "environment": environment,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
