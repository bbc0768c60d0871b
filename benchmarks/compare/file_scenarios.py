"""The work with files that is measured: transfers, metadata, listings, and how long the server was silent meanwhile.

The load is a fixed number of transfers or requests. What a file's bytes are for matters: transfers use names that are
no gcode, so that metadata, which has its own rows, does not count twice.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

from benchmarks.compare.contenders import Contender, Limit, Stage
from benchmarks.compare.measure import forget_peak, peak_mb
from benchmarks.compare.scenarios import Numbers, Scenario
from benchmarks.load import bulk, gcode
from benchmarks.load.tools import SCRATCH, Process, ToolError

WATCH_RATE = 200.0  # questions a second
NOISE_S = 3.0  # how long the server is watched while it has nothing to do
QUIET_S, QUIET_SHARE = 0.5, 0.08  # a server that takes less of a core for two such spans is done
QUIET_TIMEOUT_S = 600.0
TRANSFER_MB = 100
SMALL_BYTES = 100_000
SMALL_KINDS = 10  # different contents among the small files
AT_ONCE = 4
LISTINGS_PER_S = 50.0  # more than some servers answer: they are asked one after the other


@dataclass(frozen=True)
class Spent:
    """What the server needed for a piece of work, less what it needs when it is idle."""

    cpu_s: float
    wall_s: float
    stall_ms: (
        float | None
    )  # the longest time to the answer of another client; None for the limit, which serves only one


class Watch:
    """Measures what the server spends on some work, and whether it keeps another client waiting meanwhile.

    That client asks something cheap every 5 ms. Its longest wait on an idle server is the noise of the machine.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._is_on = not isinstance(stage.contender, Limit)
        self._idle_share, self._asked_share = 0.0, 0.0
        self.noise_ms: float | None = None
        settle(stage)
        rest = partial(time.sleep, NOISE_S)
        self._idle_share = self._cpu(rest)[0] / (NOISE_S + 2 * QUIET_S)
        if self._is_on:
            self.noise_ms, _, answered, cpu_s = self._asked(rest)
            self._asked_share = cpu_s / answered

    def over(self, work: Callable[[], object]) -> Spent:
        """Do `work` twice, first undisturbed and then watched."""
        cpu_s, wall_s = self._cpu(work)
        return Spent(cpu_s, wall_s, self._asked(work)[0] if self._is_on else None)

    def over_once(self, work: Callable[[], object]) -> Spent:
        """Do `work` once and take the cost of the questions off: for work that is long or cannot be repeated."""
        if not self._is_on:
            return Spent(*self._cpu(work), None)
        stall_ms, wall_s, answered, cpu_s = self._asked(work)
        return Spent(cpu_s - answered * self._asked_share, wall_s, stall_ms)

    def numbers(self, spent: Spent, prefix: str = "") -> Numbers:
        """Return the stall of some work beside that of an idle server; nothing for the limit."""
        if spent.stall_ms is None or self.noise_ms is None:
            return {}
        return {f"{prefix}stall_ms": spent.stall_ms, "idle_stall_ms": self.noise_ms}

    def _cpu(self, work: Callable[[], object]) -> tuple[float, float]:
        """Return the CPU time of `work` with what it leaves to be done, and how long `work` took."""
        start, before_s = time.monotonic(), self._stage.cpu_s()
        work()
        wall_s = time.monotonic() - start
        settle(self._stage)
        idle_s = self._idle_share * (time.monotonic() - start)
        return self._stage.cpu_s() - before_s - idle_s, wall_s

    def _asked(self, work: Callable[[], object]) -> tuple[float, float, int, float]:
        """Do `work` with questions beside it; return the longest wait in ms, wall time, number and CPU time."""
        asker = self._ask()
        cpu_s, wall_s = self._cpu(work)
        asker.say("stop")
        counted = asker.answer(60)
        asker.end()
        return counted["largest_us"] / 1e3, wall_s, int(counted["requests"]), cpu_s

    def _ask(self) -> Process:
        options = {"--port": self._stage.port, "--kind": "rpc", "--method": "server.info"}
        asker = self._stage.tool("caller", options | {"--rate": WATCH_RATE, "--bursts": 0})
        with suppress(PermissionError):  # else the load, which shares its core, adds to what it measures
            os.sched_setscheduler(asker.pid, os.SCHED_FIFO, os.sched_param(1))
        asker.answer(10)
        asker.say("go")
        return asker


def settle(stage: Stage) -> None:
    """Return when the server has next to nothing to do any more."""
    quiet, deadline = 0, time.monotonic() + QUIET_TIMEOUT_S
    while quiet < 2:
        if time.monotonic() > deadline:
            raise ToolError(f"{stage.contender.name} is busy without an end")
        before_s = stage.cpu_s()
        time.sleep(QUIET_S)
        quiet = quiet + 1 if stage.cpu_s() - before_s < QUIET_S * QUIET_SHARE else 0


def sample(size: int, seed: int = 1) -> Path:
    """Return a sliced file that is kept for later runs."""
    path = SCRATCH / "gcode" / f"{size}-{seed}.gcode"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.stat().st_mtime < Path(gcode.__file__).stat().st_mtime:
        gcode.write(path, size, seed=seed)
    return path


@cache
def sha256(path: Path) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def download(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Read a file of 100 MB again and again, a new connection each time."""
    times = max(1, round(seconds))
    source = sample(TRANSFER_MB * gcode.MB)
    with Stage(contender, limit_mode=mode) as stage:
        shutil.copyfile(source, stage.setup.gcodes / "big.bin")
        read = hashlib.sha256()
        fetch = partial(bulk.download, stage.port, "/server/files/gcodes/big.bin")
        fetch(read.update)
        if read.hexdigest() != sha256(source):
            raise ToolError(f"{contender.name}: the download differs from the file")
        watch = Watch(stage)
        spent = watch.over(partial(_repeat, fetch, times))
    return _transferred(spent, times * TRANSFER_MB * gcode.MB) | watch.numbers(spent)


def upload(with_checksum: bool, contender: Contender, mode: str, seconds: float) -> Numbers:
    """Write a file of 100 MB again and again: CPU, and by how much the server grows meanwhile."""
    times = max(1, round(seconds))
    source = sample(TRANSFER_MB * gcode.MB)
    checksum = sha256(source) if with_checksum else ""
    with Stage(contender, limit_mode=mode) as stage:
        send = partial(bulk.upload_file, stage.port, "big.bin", source, checksum)
        send()  # what is imported and allocated once is no growth
        if not isinstance(contender, Limit) and _sha256(stage.setup.gcodes / "big.bin") != sha256(source):
            raise ToolError(f"{contender.name}: the stored file differs from the upload")
        watch = Watch(stage)
        growth = Growth(stage)
        spent = watch.over(partial(_repeat, send, times))
        grown_mb = growth.mb()
    return _transferred(spent, times * TRANSFER_MB * gcode.MB) | watch.numbers(spent) | {"growth_mb": grown_mb}


def upload_huge(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Write one file of 2 GB (100 MB for each second asked for)."""
    size = round(seconds * 100 * gcode.MB)
    with Stage(contender, limit_mode=mode) as stage:
        if shutil.disk_usage(stage.setup.gcodes).free < 4 * size:
            raise ToolError(f"an upload of {size} bytes needs {4 * size} bytes free at {stage.setup.folder}")
        bulk.upload_made_up(stage.port, "huge.bin", gcode.MB)
        watch = Watch(stage)
        growth = Growth(stage)
        spent = watch.over_once(partial(bulk.upload_made_up, stage.port, "huge.bin", size))
        grown_mb = growth.mb()
        if not isinstance(contender, Limit) and (stage.setup.gcodes / "huge.bin").stat().st_size != size:
            raise ToolError(f"{contender.name}: the stored file has another size")
    return _transferred(spent, size) | watch.numbers(spent) | {"growth_mb": grown_mb}


class Growth:
    """How far the server's own process rises above what it has now."""

    def __init__(self, stage: Stage) -> None:
        self._pid = stage.server.pid
        forget_peak(self._pid)
        self._before_mb = peak_mb(self._pid)

    def mb(self) -> float:
        return peak_mb(self._pid) - self._before_mb


def _transferred(spent: Spent, size: int) -> Numbers:
    gigabytes = size / 1e9
    return {"cpu_s": spent.cpu_s, "cpu_s_per_gb": spent.cpu_s / gigabytes, "gb_per_s": gigabytes / spent.wall_s}


def metadata(megabytes: int, contender: Contender, mode: str, seconds: float) -> Numbers:
    """Let a file with two thumbnails be scanned again after each touch."""
    times = max(2, round(2 * seconds))
    with Stage(contender, limit_mode=mode) as stage:
        path = stage.setup.gcodes / "sliced.gcode"
        shutil.copyfile(sample(megabytes * gcode.MB), path)

        def scan() -> None:
            os.utime(path)
            found = bulk.ask(stage.port, "POST", f"/server/files/metascan?filename={path.name}")
            if not found.get("estimated_time") or len(found.get("thumbnails", ())) != 2:
                raise ToolError(f"{contender.name}: metadata is incomplete: {str(found)[:500]}")

        settle(stage)
        scan()
        watch = Watch(stage)
        spent = watch.over(partial(_repeat, scan, times))
    return {"cpu_s": spent.cpu_s, "cpu_ms_per_file": spent.cpu_s / times * 1e3} | watch.numbers(spent)


def many_files(contender: Contender, mode: str, seconds: float) -> Numbers:
    """1000 small files appear in gcodes (100 for each second asked for) and are listed when all have their metadata."""
    count = max(SMALL_KINDS, round(100 * seconds))
    contents = [b"".join(gcode.content(SMALL_BYTES, seed=kind)) for kind in range(SMALL_KINDS)]
    with Stage(contender, limit_mode=mode) as stage:
        listing = f"/server/files/directory?path={quote('gcodes', safe='')}&extended=true"

        def appear() -> None:
            for number in range(count):
                (stage.setup.gcodes / f"part {number:04d}.gcode").write_bytes(contents[number % SMALL_KINDS])

        watch = Watch(stage)
        spent = watch.over_once(appear)
        files = bulk.ask(stage.port, "GET", listing)["files"]
        complete = sum(1 for file in files if file.get("estimated_time"))
        if complete != count:
            raise ToolError(f"{contender.name}: {complete} of {count} files have metadata")
        numbers: Numbers = {"appear_cpu_s": spent.cpu_s, "files": count} | watch.numbers(spent, "appear_")
        for name, path in (("list", "/server/files/list?root=gcodes"), ("directory", listing)):
            numbers |= _listed(stage, watch, name, path, requests=max(2, round(3 * seconds)))
    return numbers


def _listed(stage: Stage, watch: Watch, name: str, path: str, requests: int) -> Numbers:
    for _ in range(3):
        bulk.ask(stage.port, "GET", path)
    options = {"--port": stage.port, "--kind": "http", "--path": path, "--rate": LISTINGS_PER_S, "--bursts": requests}
    sizes: list[float] = []

    def run() -> None:
        caller = stage.tool("caller", options)
        caller.answer(10)
        caller.say("go")
        counted = caller.answer(requests * 10)
        if counted["errors"]:
            raise ToolError(f"{stage.contender.name}: {counted['errors']} listings were refused, see tools.log")
        sizes.append(counted["reply_bytes"])

    spent = watch.over(run)
    cost = {f"{name}_cpu_ms": spent.cpu_s / requests * 1e3, f"{name}_bytes": sizes[-1]}
    return cost | watch.numbers(spent, f"{name}_")


def uploads_at_once(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Four different sliced files are sent at the same time; each must be stored with its own bytes."""
    rounds = max(1, round(seconds))
    sources = [sample(25 * gcode.MB, seed=number + 1) for number in range(AT_ONCE)]
    refused: list[str] = []

    def send(port: int, name: str, source: Path) -> None:
        try:
            bulk.upload_file(port, name, source)
        except OSError as error:
            refused.append(f"{name}: {error}")

    with Stage(contender, limit_mode=mode) as stage:
        targets = {
            stage.setup.gcodes / f"round {number} file {index}.gcode": source
            for number in range(rounds)
            for index, source in enumerate(sources)
        }

        def run() -> None:
            for first in range(0, len(targets), AT_ONCE):
                batch = list(targets.items())[first : first + AT_ONCE]
                threads = [threading.Thread(target=send, args=(stage.port, to.name, source)) for to, source in batch]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        watch = Watch(stage)
        spent = watch.over_once(run)
        wrong = sum(1 for path, source in targets.items() if path.exists() and _sha256(path) != sha256(source))
        missing = sum(1 for path in targets if not path.exists())
    numbers = {"uploads": len(targets), "refused": len(refused), "wrong": wrong, "lost": wrong + missing}
    return numbers | {"cpu_s": spent.cpu_s} | watch.numbers(spent)


FILE_SCENARIOS: list[Scenario] = [
    Scenario("file-download", download, "files", 10),
    Scenario("file-upload", partial(upload, False), "files", 10),
    Scenario("file-upload-checksum", partial(upload, True), "files", 10),
    Scenario("file-upload-2gb", upload_huge, "files", 20),
    Scenario("file-metadata-10mb", partial(metadata, 10), "files", 10),
    Scenario("file-metadata-500mb", partial(metadata, 500), "files", 10),
    Scenario("file-many", many_files, seconds=10),
    Scenario("file-upload-four", uploads_at_once, seconds=3),
]
