"""How the machine does, once a second. The last samples of this process are kept; the rest is read when it is needed.

While nobody is connected only this process is looked at: that costs a few microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.component import Audience
from moonfast.host import procfs
from moonfast.vocab import GET

log = logging.getLogger(__name__)

PERIOD_S = 1.0
LOOK_S = 0.25
"""Between two looks, for somebody who asks while nobody listens."""
SAMPLES = 30
FRESH_S = 1.5
"""Rates are of the time since the last look, if it is no older than this."""
BLOCKED_S = 4.0
"""A tick that comes so late is told in the log: nobody was served in the meantime."""


class Sample(TypedDict):
    """`time` in seconds since 1970, `cpu_usage` in percent of one processor, `memory` resident, in `mem_units`."""

    time: float
    cpu_usage: float
    memory: int | None
    mem_units: str | None


class System(TypedDict):
    """`bandwidth` of the network in bytes a second; `cpu` usage in percent; memory in kB."""

    cpu_temp: float | None
    network: dict[str, dict[str, Any]]
    system_cpu_usage: dict[str, float]
    system_memory: dict[str, int]


class ProcStats(System):
    moonraker_stats: list[Sample]
    throttled_state: dict[str, Any] | None
    system_uptime: float
    websocket_connections: int


class ProcStatUpdate(System):
    moonraker_stats: Sample
    websocket_connections: int


class ThrottledState(TypedDict):
    bits: int
    flags: list[str]


UPDATE = notification("proc_stat_update", ProcStatUpdate, "How the machine does; once a second.")
THROTTLED = notification("cpu_throttled", ThrottledState, "The processor's throttling has changed.")


class Stats:
    """Samples from `start` to `stop`. `emit` sends to all clients."""

    def __init__(self, files: procfs.ProcFiles, audience: Audience, emit: Callable[[Any, Any], None]) -> None:
        self._files, self._audience, self._emit = files, audience, emit
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer goes off
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._looked_at = 0.0  # when the system was read last
        self._cpu_times: dict[str, tuple[int, int]] = {}
        self._system: System | None = None
        self._bits: int | None = None

    def start(self) -> None:
        self._sample()
        self._read_system()
        self._bits = self._files.throttled()
        loop = asyncio.get_running_loop()
        self._due = math.ceil(loop.time() / PERIOD_S) * PERIOD_S  # timers of a whole second wake the loop once
        self._timer = loop.call_at(self._due, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @endpoint(GET, "/machine/proc_stats")
    async def proc_stats(self, call: Call) -> ProcStats:
        """Return the last 30 seconds of this process, and how the machine does now.

        `throttled_state` is null where the machine is no Raspberry Pi, `cpu_temp` where it has no sensor.
        """
        system = self._system
        if system is None or time.monotonic() - self._looked_at > FRESH_S:
            self._read_system()
            await asyncio.sleep(LOOK_S)  # rates are of a time that has just passed
            system = self._read_system()
        bits = self._files.throttled()
        return {
            "moonraker_stats": list(self._samples),
            "throttled_state": None if bits is None else procfs.throttled_state(bits),
            **system,
            "system_uptime": procfs.uptime(self._files.read("/proc/uptime")),
            "websocket_connections": self._audience.websockets(),
        }

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        late_s = loop.time() - self._due
        if late_s > BLOCKED_S:
            worked_s = time.process_time() - self._cpu
            log.warning("The server stood still for %.1f s, and computed for %.1f s of it", late_s, worked_s)
        self._due = max(self._due + PERIOD_S, loop.time())
        self._timer = loop.call_at(self._due, self._tick)
        sample = self._sample()
        if not self._audience.listeners():
            return
        if time.monotonic() - self._looked_at > FRESH_S:  # somebody has just come: there are no rates yet
            self._read_system()
            return
        self._emit(
            UPDATE,
            {
                "moonraker_stats": sample,
                **self._read_system(),
                "websocket_connections": self._audience.websockets(),
            },
        )
        bits = self._files.throttled()
        if bits != self._bits and bits is not None:
            self._bits = bits
            self._emit(THROTTLED, procfs.throttled_state(bits))

    def _sample(self) -> Sample:
        wall, cpu = time.monotonic(), time.process_time()
        usage = 100.0 * (cpu - self._cpu) / (wall - self._wall) if wall > self._wall else 0.0
        self._wall, self._cpu = wall, cpu
        memory = procfs.resident_kb(self._files.read("/proc/self/statm", 128))
        sample: Sample = {
            "time": time.time(),
            "cpu_usage": round(usage, 2),
            "memory": memory,
            "mem_units": None if memory is None else "kB",
        }
        self._samples.append(sample)
        return sample

    def _read_system(self) -> System:
        files = self._files
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        times = procfs.cpu_times(files.read("/proc/stat", procfs.MAX_STAT_BYTES))
        usage, self._cpu_times = procfs.cpu_usage(self._cpu_times, times), times
        network = procfs.network(files.read("/proc/net/dev"))
        old = self._system["network"] if self._system is not None else {}
        for name, counters in network.items():
            before = old.get(name, counters)
            moved = sum(counters[key] - before[key] for key in ("rx_bytes", "tx_bytes"))
            counters["bandwidth"] = round(max(moved, 0) / passed, 2) if passed > 0 else 0.0
        self._system = {
            "cpu_temp": procfs.celsius(files.read("/sys/class/thermal/thermal_zone0/temp", 32)),
            "network": network,
            "system_cpu_usage": usage,
            "system_memory": procfs.memory(files.read("/proc/meminfo", 4096)),
        }
        return self._system
