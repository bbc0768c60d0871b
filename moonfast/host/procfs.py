"""What Linux tells of the running system once a second: load, memory, network, temperature, throttling.

The files stay open and are read from their beginning each time (proc(5): the kernel writes them anew). All paths are
below a root, so that a recorded tree can stand in for the machine.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Any

MAX_STAT_BYTES = 16384  # the lines of 128 processors
MAX_BYTES = 65536
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024

THROTTLED_FLAGS = {
    0: "Under-Voltage Detected",
    1: "Frequency Capped",
    2: "Currently Throttled",
    3: "Temperature Limit Active",
    16: "Previously Under-Volted",
    17: "Previously Frequency Capped",
    18: "Previously Throttled",
    19: "Previously Temperature Limited",
}
"""Bits that the firmware of a Raspberry Pi reports (specification: "Get Moonraker Process Stats")."""
ACTIVE_BITS = 0xF

# The property mailbox of the VideoCore (Linux include/soc/bcm2835/raspberrypi-firmware.h, GET_THROTTLED): length of the
# message, 0 for a request, tag, bytes for its value, 0, the value (no bits to reset), end.
_MAILBOX = struct.Struct("=7I")
_GET_THROTTLED = 0x00030046
_MAILBOX_REQUEST = _MAILBOX.pack(_MAILBOX.size, 0, _GET_THROTTLED, 4, 0, 0, 0)
_MAILBOX_DONE = 0x80000000
_IOCTL_MBOX_PROPERTY = 0xC0006400 | struct.calcsize("P") << 16  # _IOWR(100, 0, char *)


class ProcFiles:
    """Files below a root, kept open. One that cannot be read is empty, and not tried again."""

    def __init__(self, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self._open: dict[str, int | None] = {}

    def close(self) -> None:
        for descriptor in self._open.values():
            if descriptor is not None:
                os.close(descriptor)
        self._open.clear()

    def read(self, path: str, size: int = MAX_BYTES) -> bytes:
        """The present contents of a file: "/proc/stat"."""
        descriptor = self._descriptor(path, os.O_RDONLY)
        if descriptor is None:
            return b""
        try:
            return os.pread(descriptor, size, 0)
        except OSError:
            return b""

    def throttled(self) -> int | None:
        """The bits of THROTTLED_FLAGS; None: this is no Raspberry Pi, or the mailbox may not be used."""
        descriptor = self._descriptor("/dev/vcio", os.O_RDWR)
        if descriptor is None:
            return None
        message = bytearray(_MAILBOX_REQUEST)
        try:
            fcntl.ioctl(descriptor, _IOCTL_MBOX_PROPERTY, message)
        except OSError:
            return None
        _, code, _, _, _, bits, _ = _MAILBOX.unpack(message)
        return int(bits) if code == _MAILBOX_DONE else None

    def _descriptor(self, path: str, flags: int) -> int | None:
        try:
            return self._open[path]
        except KeyError:
            pass
        try:
            found: int | None = os.open(self._root + path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            found = None
        self._open[path] = found
        return found


def cpu_times(stat: bytes) -> dict[str, tuple[int, int]]:
    """Of /proc/stat: busy and total clock ticks of all processors together ("cpu") and of each ("cpu0")."""
    found = {}
    for line in stat.split(b"\n"):
        if not line.startswith(b"cpu"):
            break
        name, *fields = line.split()
        ticks = [int(field) for field in fields[:8]]  # guest times are part of user times
        total = sum(ticks)
        found[name.decode()] = (total - ticks[3] - ticks[4], total)  # idle, iowait
    return found


def cpu_usage(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Percent of the time in between that each processor was busy."""
    usage = {}
    for name, (busy, total) in now.items():
        old_busy, old_total = before.get(name, (0, 0))
        passed = total - old_total
        usage[name] = round(100.0 * min(max(busy - old_busy, 0) / passed, 1.0), 2) if passed > 0 else 0.0
    return usage


_COUNTERS = (
    ("rx_bytes", 0),
    ("tx_bytes", 8),
    ("rx_packets", 1),
    ("tx_packets", 9),
    ("rx_errs", 2),
    ("tx_errs", 10),
    ("rx_drop", 3),
    ("tx_drop", 11),
)


def network(dev: bytes) -> dict[str, dict[str, Any]]:
    """Of /proc/net/dev: counters of each interface since it came up."""
    found = {}
    for line in dev.split(b"\n")[2:]:
        name, _, rest = line.partition(b":")
        fields = rest.split()
        if len(fields) >= 16:
            found[name.strip().decode("utf-8", "replace")] = {key: int(fields[at]) for key, at in _COUNTERS}
    return found


def memory(meminfo: bytes) -> dict[str, int]:
    """Of /proc/meminfo: kB in all, available to programs, and used."""
    total = _kilobytes(meminfo, b"MemTotal:")
    available = _kilobytes(meminfo, b"MemAvailable:")
    return {"total": total, "available": available, "used": total - available}


def _kilobytes(meminfo: bytes, key: bytes) -> int:
    at = meminfo.find(key)
    fields = meminfo[at + len(key) : at + 64].split(maxsplit=1) if at >= 0 else ()
    return int(fields[0]) if fields else 0


def resident_kb(statm: bytes) -> int | None:
    """Of /proc/self/statm: memory of this process that is in RAM."""
    fields = statm.split(maxsplit=2)
    return int(fields[1]) * PAGE_KB if len(fields) > 1 else None


def celsius(temp: bytes) -> float | None:
    """Of /sys/class/thermal/thermal_zone0/temp, which has millidegrees."""
    try:
        return int(temp) / 1000.0
    except ValueError:
        return None


def uptime(text: bytes) -> float:
    """Of /proc/uptime: seconds since the machine started."""
    try:
        return float(text.partition(b" ")[0])
    except ValueError:
        return 0.0


def throttled_state(bits: int) -> dict[str, Any]:
    """What clients get of the bits."""
    return {"bits": bits, "flags": [text for bit, text in THROTTLED_FLAGS.items() if bits >> bit & 1]}
