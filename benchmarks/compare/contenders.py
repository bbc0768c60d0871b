"""The servers that are compared: moonfast, Moonraker 0.11.0 with its speedups on, and the limit of the kernel in C."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.compare.measure import Memory, cpu_s
from benchmarks.load.tools import SCRATCH, Process, ToolError, build

REPOSITORY = Path(__file__).resolve().parents[2]
MOONRAKER = ["moonraker==0.11.0", "uvloop==0.23.0", "msgspec==0.22.0"]
START_TIMEOUT_S = 30.0

# The server has a core of its own where there are two; the tools and the measuring process share another.
_ALL_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(_ALL_CORES[:1])
TOOL_CORES = set(_ALL_CORES[1:2] or _ALL_CORES)

# Moonraker's default set of components, and nothing that reaches beyond this machine. Both servers read this file.
CONFIG = """\
[server]
host: 127.0.0.1
port: {port}
max_upload_size: 4096
klippy_uds_address: {klippy}
max_websocket_connections: 4000

[machine]
provider: none
validate_service: False
validate_config: False

[authorization]
trusted_clients:
    127.0.0.1

[file_manager]
check_klipper_config_path: False

[data_store]
temperature_store_size: {store_samples}

[history]

[job_queue]

[octoprint_compat]

[announcements]
dev_mode: True
"""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return the environment without what would slow one of the servers down or change it."""
    # Without byte code files every start would compile every module again, which no installed server does.
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and not name.startswith(("MOONRAKER_", "MOONFAST_"))
    }


@dataclass(frozen=True)
class Setup:
    """Where and for what a server is started."""

    folder: Path
    klippy: Path
    port: int
    limit_mode: str = ""  # options of load/limits.c, or "files" for load/filelimits.c
    store_samples: int = 1200

    @property
    def gcodes(self) -> Path:
        return self.folder / "printer_data" / "gcodes"


class Contender(ABC):
    """Something that can be started next to a Klippy socket and then loaded."""

    name: str

    def prepare(self) -> None:  # noqa: B027  (most need nothing)
        """Install or build what is missing; costs nothing when all is there."""

    @abstractmethod
    def start(self, setup: Setup) -> Process:
        """Start without waiting for anything."""

    @abstractmethod
    def wait_until_ready(self, port: int) -> None:
        """Return when Klippy's status can be subscribed to; ToolError after START_TIMEOUT_S."""

    def version(self) -> str:
        return ""


class _ApiServer(Contender):
    """What moonfast and Moonraker have in common: a data folder, a configuration file, /server/info."""

    def __init__(self, python: Path) -> None:
        self.python = python
        self._version = ""

    module: str

    def _environment(self) -> dict[str, str]:
        return clean_environment()

    def command(self, data: Path) -> list[str]:
        return [str(self.python), "-m", self.module, "-d", str(data)]

    def start(self, setup: Setup) -> Process:
        data = setup.folder / "printer_data"
        for name in ("config", "logs", "gcodes", "database", "comms", "certs", "backup", "misc"):
            (data / name).mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(port=setup.port, klippy=setup.klippy, store_samples=setup.store_samples)
        (data / "config" / "moonraker.conf").write_text(config)
        return Process(
            self.command(data),
            cores=SERVER_CORES,
            environment=self._environment(),
            cwd=REPOSITORY,
            log=setup.folder / f"{self.name}.log",
        )

    def wait_until_ready(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        last: object = "no answer"
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/server/info", timeout=5) as response:
                    info = json.load(response)["result"]
            except (OSError, ValueError) as error:
                last = error
            else:
                self._version = str(info.get("moonfast_version") or info["moonraker_version"])
                last = info["klippy_state"]
                if last == "ready" and not info["failed_components"]:
                    return
                last = f"{last}, failed: {info['failed_components']}"
            time.sleep(0.1)
        raise ToolError(f"{self.name} did not become ready: {last}")

    def version(self) -> str:
        return self._version


class Moonraker(_ApiServer):
    name = "moonraker"
    module = "moonraker"

    def __init__(self, python: Path | None) -> None:
        super().__init__(python or SCRATCH / "moonraker" / "bin" / "python")

    def prepare(self) -> None:
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.python.parents[1])], check=True)
            subprocess.run([str(self.python), "-m", "pip", "install", "--quiet", *MOONRAKER], check=True)

    def _environment(self) -> dict[str, str]:
        return clean_environment() | {"MOONRAKER_ENABLE_UVLOOP": "y", "MOONRAKER_ENABLE_MSGSPEC": "y"}


class Moonfast(_ApiServer):
    name = "moonfast"
    module = "moonfast"

    def _environment(self) -> dict[str, str]:
        return clean_environment() | {"MOONFAST_REQUIRE_SPEEDUPS": "1"}


class Limit(Contender):
    """The C server of load/limits.c, in the mode that fits the work, or that of load/filelimits.c."""

    name = "limit"

    def __init__(self, python: Path) -> None:
        self.python = python  # for the cost of an interpreter that only imports

    def start(self, setup: Setup) -> Process:
        command = [str(build() / "limits"), "--port", str(setup.port), *setup.limit_mode.split()]
        if setup.limit_mode == "files":
            setup.gcodes.mkdir(parents=True)
            command = [str(build() / "filelimits"), "--port", str(setup.port), "--folder", str(setup.gcodes)]
        elif "echo" not in setup.limit_mode:
            command += ["--klippy", str(setup.klippy)]
        return Process(command, cores=SERVER_CORES, log=setup.folder / "limit.log")

    def wait_until_ready(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise ToolError("the limit server does not listen")


class Stage:
    """A Klippy, one server beside it and the tools that load it, all gone at the end of the `with` block."""

    def __init__(
        self,
        contender: Contender,
        *,
        rate: float = 4.0,
        gcode_rate: float = 0.0,
        sensors: int = 0,
        limit_mode: str = "",
        store_samples: int = 1200,
        prepare: Callable[[Path], None] | None = None,
    ) -> None:
        """`prepare` fills the data folder before the server starts."""
        self.contender, self._prepare = contender, prepare
        self._feed = {"--rate": rate, "--gcode-rate": gcode_rate, "--sensors": sensors}
        self._limit_mode, self._store_samples = limit_mode, store_samples
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moonfast-bench-")))
            klippy = folder / "klippy.sock"
            self.setup = Setup(folder, klippy, free_port(), self._limit_mode, self._store_samples)
            self.port = self.setup.port
            options = {"--socket": klippy, "--gcodes": self.setup.gcodes}
            self.pusher = self.tool("pusher", options | self._feed, stack)
            self.pusher.answer(5)
            if self._prepare is not None:
                self._prepare(folder / "printer_data")
            self.server = self.contender.start(self.setup)
            stack.callback(self.server.end)
            self._wait()
            self._stack = stack.pop_all()
        return self

    def _wait(self) -> None:
        try:
            self.contender.wait_until_ready(self.port)
        except ToolError as error:
            logs = [path.read_text(errors="replace")[-2000:] for path in self.setup.folder.rglob("*.log")]
            raise ToolError("\n".join([str(error), *logs])) from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def tool(self, name: str, options: dict[str, Any], stack: ExitStack | None = None) -> Process:
        """Start a load tool; it ends with the stage."""
        arguments = [str(part) for pair in options.items() for part in pair]
        process = Process([str(build() / name), *arguments, "--seconds", "900"], cores=TOOL_CORES)
        (stack or self._stack).callback(process.end)
        return process

    def cpu_s(self) -> float:
        if not self.server.is_running():
            raise ToolError(f"{self.contender.name} has ended")
        return cpu_s(self.server.pid)

    def memory(self) -> Memory:
        return Memory.of(self.server.pid)
