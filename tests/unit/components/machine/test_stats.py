"""The samples of each second, and what clients are told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from moonfast.api.call import INTERNAL
from moonfast.component import Audience
from moonfast.components.machine import stats
from moonfast.host import procfs
from tests.unit.components.machine.trees import PI, build


class Told(list[tuple[str, Any]]):
    def __call__(self, notification: Any, payload: Any) -> None:
        self.append((notification.method, payload))

    def of(self, method: str) -> list[Any]:
        return [payload for name, payload in self if name == method]


class Machine:
    """Stats of a recorded machine, at twenty times the speed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stats, "PERIOD_S", 0.05)
        self.root = build(root, PI)
        self.files = procfs.ProcFiles(str(root))
        self.told = Told()
        self.listeners = 1
        self.stats = stats.Stats(self.files, Audience(lambda: 3, lambda: self.listeners), self.told)
        self.bits: int | None = None
        monkeypatch.setattr(self.files, "throttled", lambda: self.bits)

    def write(self, name: str, content: str) -> None:
        with (self.root / name).open("r+") as stream:  # in place, as the kernel does it
            stream.truncate()
            stream.write(content)


async def wait(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_is_told_each_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    machine.stats.start()
    machine.write("proc/stat", PI["proc/stat"].replace("100 10 50 800 20", "130 10 50 850 40"))
    machine.write("proc/net/dev", PI["proc/net/dev"].replace("48471767", "48571767"))
    await wait(lambda: len(machine.told) >= 3)
    first, second, *_ = machine.told.of("notify_proc_stat_update")
    assert first["system_cpu_usage"] == {"cpu": 30.0, "cpu0": 0.0, "cpu1": 0.0}
    assert first["system_memory"] == {"total": 945364, "available": 700000, "used": 245364}
    assert first["cpu_temp"] == 45.622
    assert first["websocket_connections"] == 3
    assert first["moonraker_stats"]["memory"] == 6181 * procfs.PAGE_KB
    assert first["network"]["wlan0"]["bandwidth"] > 100_000
    assert {key: value for key, value in first["network"]["wlan0"].items() if key != "bandwidth"} == {
        "rx_bytes": 48571767,
        "tx_bytes": 113430843,
        "rx_packets": 200,
        "tx_packets": 300,
        "rx_errs": 1,
        "tx_errs": 3,
        "rx_drop": 2,
        "tx_drop": 4,
    }
    assert second["network"]["wlan0"]["bandwidth"] == 0.0
    assert second["system_cpu_usage"]["cpu"] == 0.0
    answer = await machine.stats.proc_stats(INTERNAL)
    assert len(answer["moonraker_stats"]) >= 3
    assert answer["system_uptime"] == 57389.27
    assert answer["throttled_state"] is None
    machine.stats.stop()
    machine.files.close()


async def test_samples_are_kept_while_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "FRESH_S", 0.01)
    machine = Machine(tmp_path, monkeypatch)
    machine.listeners = 0
    machine.stats.start()
    await wait(lambda: len(machine.stats._samples) > 3)
    assert machine.told == []
    machine.write("proc/stat", PI["proc/stat"].replace("100 10 50 800 20", "200 10 50 900 20"))
    answer = await machine.stats.proc_stats(INTERNAL)
    assert answer["system_cpu_usage"]["cpu"] == 0.0  # of the moment before the answer, not of all the time before
    assert len(answer["moonraker_stats"]) > 3
    machine.stats.stop()
    machine.files.close()


async def test_no_more_than_thirty_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(stats, "PERIOD_S", 0.002)
    machine.stats.start()
    await asyncio.sleep(0.3)
    assert len(machine.stats._samples) == 30
    machine.stats.stop()
    machine.files.close()


async def test_samples_go_on_after_a_standstill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the loop, for longer than a period: a suspended machine."""
    machine = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(stats, "PERIOD_S", 0.01)
    machine.stats.start()
    time.sleep(0.1)
    await asyncio.sleep(0)
    count = len(machine.stats._samples)
    await wait(lambda: len(machine.stats._samples) > count + 5)
    machine.stats.stop()
    machine.files.close()


async def test_changes_of_throttling_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    machine.bits = 0
    machine.stats.start()
    await wait(lambda: len(machine.told) >= 2)
    assert machine.told.of("notify_cpu_throttled") == []
    machine.bits = 0x50005
    await wait(lambda: machine.told.of("notify_cpu_throttled"))
    machine.bits = 0x50000
    await wait(lambda: len(machine.told.of("notify_cpu_throttled")) == 2)
    assert machine.told.of("notify_cpu_throttled") == [
        {
            "bits": 0x50005,
            "flags": [
                "Under-Voltage Detected",
                "Currently Throttled",
                "Previously Under-Volted",
                "Previously Throttled",
            ],
        },
        {"bits": 0x50000, "flags": ["Previously Under-Volted", "Previously Throttled"]},
    ]
    answer = await machine.stats.proc_stats(INTERNAL)
    assert answer["throttled_state"] == machine.told.of("notify_cpu_throttled")[1]
    machine.stats.stop()
    machine.files.close()


async def test_a_server_that_stood_still_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(stats, "BLOCKED_S", 0.3)
    machine.stats.start()
    await wait(lambda: machine.told)
    assert not caplog.records
    await asyncio.sleep(0)
    time.sleep(0.6)
    seen = len(machine.told)
    await wait(lambda: len(machine.told) >= seen + 3)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("The server stood still for 0.")
    assert message.endswith(", and computed for 0.0 s of it")
    machine.stats.stop()
    machine.files.close()


def test_the_mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request as the firmware expects it; its answer."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vcio").touch()
    asked = []

    def ioctl(descriptor: int, request: int, message: bytearray) -> int:
        asked.append((request, bytes(message)))
        message[4:8] = (0x80000000).to_bytes(4, "little")
        message[20:24] = (0x50005).to_bytes(4, "little")
        return 0

    monkeypatch.setattr(procfs.fcntl, "ioctl", ioctl)
    files = procfs.ProcFiles(str(tmp_path))
    assert files.throttled() == 0x50005
    request, message = asked[0]
    assert request in (0xC0086400, 0xC0046400)  # 64 and 32 bits
    words = [int.from_bytes(message[at : at + 4], "little") for at in range(0, 28, 4)]
    assert words == [28, 0, 0x00030046, 4, 0, 0, 0]
    files.close()
    assert procfs.ProcFiles("/nowhere").throttled() is None


def test_what_is_missing_or_broken(tmp_path: Path) -> None:
    files = procfs.ProcFiles(str(tmp_path))
    assert files.read("/proc/stat") == b""
    assert procfs.cpu_times(b"") == {}
    assert procfs.network(b"") == {}
    assert procfs.memory(b"") == {"total": 0, "available": 0, "used": 0}
    assert procfs.resident_kb(b"") is None
    assert procfs.celsius(b"garbage") is None
    assert procfs.uptime(b"") == 0.0
    assert procfs.cpu_usage({"cpu": (10, 100)}, {"cpu": (5, 90)}) == {"cpu": 0.0}
