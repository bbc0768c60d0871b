"""The work that is measured: one function per question, each gives a flat table of numbers for one server.

All loads have a fixed rate, decided here and not by the server, so that a slow one does more waiting, not less work.
"""

import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.compare.contenders import SERVER_CORES, Contender, Limit, Stage, clean_environment, free_port
from benchmarks.compare.measure import Memory, cpu_s
from benchmarks.load.tools import Process, ToolError

Numbers = dict[str, float]

FRAMES_PER_S = 4000
QUERY = (
    '{"objects":{"toolhead":["position","print_time"],"extruder":null,"print_stats":["state"],"virtual_sdcard":null}}'
)
# Sizes of the canned answers of the limit server: about what both servers answer to the same question.
INFO_BYTES, STATUS_BYTES, STORE_BYTES = 900, 42_000, 43_000
BARE_IMPORTS = (
    "import asyncio, uvloop, httptools, orjson, lmdb; asyncio.Runner(loop_factory=uvloop.new_event_loop).get_loop()"
)


@dataclass(frozen=True)
class Scenario:
    """One row of the comparison. `limit_mode` is empty if C has no such row."""

    name: str
    measure: Callable[[Contender, str, float], Numbers]
    limit_mode: str = ""
    seconds: float = 10.0


def fanout(clients: int, filters: int, contender: Contender, mode: str, seconds: float) -> Numbers:
    """N clients get every update of Klippy: CPU per frame, delay from Klippy's push to the client's read."""
    rate = FRAMES_PER_S / clients
    with Stage(contender, limit_mode=mode) as stage:
        swarm = stage.tool("swarm", {"--port": stage.port, "--clients": clients, "--filters": filters})
        swarm.answer(120)
        stage.pusher.say(f"rate {rate}")
        time.sleep(1.5)
        updates = round(seconds * rate)
        numbers = _window(stage, swarm, updates / rate)
        memory = stage.memory()
    frames = numbers["frames"] + numbers["other_frames"]
    if not frames:
        raise ToolError(f"{contender.name}: no frames")
    return numbers | {
        "cpu_us_per_frame": numbers["cpu_s"] / frames * 1e6,
        # without the server's own notifications, which the limit does not send
        "cpu_percent_status_only": numbers["cpu_s"] / frames * FRAMES_PER_S * 100,
        "expected_frames": updates * clients,
        "rss_mb": memory.rss_mb,
    }


def _window(stage: Stage, swarm: Process, seconds: float) -> Numbers:
    """Count what the swarm receives and the server spends in a time span that holds a whole number of updates."""
    start = time.monotonic()
    swarm.say("start")
    before_s = stage.cpu_s()
    time.sleep(start + seconds - time.monotonic())
    swarm.say("stop")
    spent_s = stage.cpu_s() - before_s
    counted = swarm.answer(10)
    wall_s = time.monotonic() - start
    numbers = {name: float(value) for name, value in counted.items() if name != "event"}
    return numbers | {"cpu_s": spent_s, "cpu_percent": spent_s / seconds * 100, "wall_s": wall_s}


def calls(
    kind: dict[str, object],
    rate: float,
    depth: int,
    klippy_rate: float,
    contender: Contender,
    mode: str,
    seconds: float,
) -> Numbers:
    """Requests in bursts of `depth`, `rate` bursts a second: CPU per request, time to the answer."""
    bursts = round(rate * seconds)
    with Stage(contender, rate=klippy_rate, limit_mode=mode) as stage:
        options = {"--port": stage.port, "--rate": rate, "--depth": depth, "--bursts": bursts} | kind
        warm_up = stage.tool("caller", options | {"--bursts": max(1, round(rate))})
        warm_up.answer(10)
        warm_up.say("go")
        warm_up.answer(60)
        return _called(stage, stage.tool("caller", options), seconds)


def temperature_store(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Ask for a full store of 43 kB: mostly unchanged since the last answer, once a second right after a new sample.

    Moonraker's store only grows by a sample a second, and 1200 of them take twenty minutes, so 120 sensors with 60
    samples each stand in for a few with 1200.
    """
    samples = 60
    with Stage(contender, rate=1, sensors=120, limit_mode=mode, store_samples=samples) as stage:
        if not isinstance(contender, Limit):
            time.sleep(samples + 5)
        options = {"--port": stage.port, "--kind": "rpc", "--method": "server.temperature_store", "--rate": 100}
        return _called(stage, stage.tool("caller", options | {"--bursts": round(100 * seconds)}), seconds)


def _called(stage: Stage, caller: Process, seconds: float) -> Numbers:
    caller.answer(10)
    time.sleep(0.5)
    before_s = stage.cpu_s()
    caller.say("go")
    counted = caller.answer(seconds * 4 + 30)
    spent_s = stage.cpu_s() - before_s
    if counted["errors"]:
        raise ToolError(f"{stage.contender.name}: {counted['errors']} requests were refused, see tools.log")
    numbers = {name: float(value) for name, value in counted.items() if name != "event"}
    return numbers | {"cpu_s": spent_s, "cpu_us_per_request": spent_s / counted["requests"] * 1e6}


def join(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Clients come, subscribe to every object, and go; one stays, so that Klippy's subscription is unchanged."""
    rate = 20.0
    with Stage(contender, limit_mode=mode) as stage:
        stage.tool("swarm", {"--port": stage.port, "--clients": 1, "--filters": -1}).answer(10)
        options = {"--port": stage.port, "--kind": "join", "--rate": rate}
        warm_up = stage.tool("caller", options | {"--bursts": 20})
        warm_up.answer(10)
        warm_up.say("go")
        warm_up.answer(60)
        time.sleep(2)
        before_s = stage.cpu_s()
        time.sleep(2)
        idle = (stage.cpu_s() - before_s) / 2
        numbers = _called(stage, stage.tool("caller", options | {"--bursts": round(rate * seconds)}), seconds)
    # the client that stays costs something too, and it is no part of a join
    net_s = numbers["cpu_s"] - idle * numbers["wall_s"]
    return numbers | {"idle_percent": idle * 100, "cpu_ms_per_join": net_s / numbers["requests"] * 1e3}


def startup(contender: Contender, mode: str, seconds: float) -> Numbers:
    """From exec to the first answer of /server/info: CPU, time, memory. Limit: an interpreter that only imports."""
    if isinstance(contender, Limit):
        return _bare_interpreter(contender.python)
    with Stage(contender) as stage:  # the first start wrote byte code files and created the data folder
        stage.server.end()
        setup = replace(stage.setup, port=free_port())
        begun = time.monotonic()
        server = contender.start(setup)
        try:
            _wait_for_answer(setup.port)
            wall_s = time.monotonic() - begun
            spent_s = cpu_s(server.pid)
            memory = Memory.of(server.pid)
            time.sleep(3)
            settled = Memory.of(server.pid)
        finally:
            server.end()
    return _startup_numbers(spent_s, memory) | {
        "wall_s": wall_s,
        "settled_rss_mb": settled.rss_mb,
        "settled_alone_mb": settled.alone_mb,
    }


def _startup_numbers(spent_s: float, memory: Memory) -> Numbers:
    return {"cpu_s": spent_s, "rss_mb": memory.rss_mb, "pss_mb": memory.pss_mb, "alone_mb": memory.alone_mb}


def _wait_for_answer(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"GET /server/info HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if connection.recv(4096).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.005)
    raise ToolError("the server did not answer within 30 s of its start")


def _bare_interpreter(python: Path) -> Numbers:
    # -I -S would hide the packages; what a server cannot do without is the same interpreter with the same path.
    program = f"{BARE_IMPORTS}; print('{{}}', flush=True); input()"
    for _ in range(2):  # the first one may have to write byte code
        child = subprocess.Popen(
            [str(python), "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
            preexec_fn=lambda: __import__("os").sched_setaffinity(0, SERVER_CORES),
        )
        assert child.stdout is not None
        child.stdout.readline()
        numbers = _startup_numbers(cpu_s(child.pid), Memory.of(child.pid))
        child.communicate(b"\n", timeout=10)
    return numbers


def idle(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Klippy tells its status four times a second and nobody listens."""
    with Stage(contender, limit_mode=mode) as stage:
        time.sleep(8)
        before_s = stage.cpu_s()
        time.sleep(seconds)
        spent_s = stage.cpu_s() - before_s
        memory = stage.memory()
    return {"cpu_percent": spent_s / seconds * 100, "rss_mb": memory.rss_mb, "alone_mb": memory.alone_mb}


def stalled(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Ten clients stop reading while ten go on: memory before, during and after, and the delay that the others see."""
    clients, rate = 10, 400.0
    numbers: Numbers = {}
    with Stage(contender, gcode_rate=2, limit_mode=mode) as stage:
        swarm = stage.tool("swarm", {"--port": stage.port, "--clients": clients})
        swarm.answer(30)
        stage.pusher.say(f"rate {rate}")
        time.sleep(1.5)
        numbers["p99_us_alone"] = _window(stage, swarm, 8.0)["p99_us"]
    with Stage(contender, gcode_rate=2, limit_mode=mode) as stage:
        swarm = stage.tool("swarm", {"--port": stage.port, "--clients": clients, "--stall": 10})
        swarm.answer(30)
        time.sleep(1)
        before = stage.memory()
        stage.pusher.say(f"rate {rate}")
        numbers |= _window(stage, swarm, seconds)
        during = stage.memory()
        swarm.say("release")
        stage.pusher.say("rate 4")
        time.sleep(5)
        after = stage.memory()
    return numbers | {
        "rss_before_mb": before.rss_mb,
        "growth_mb": during.rss_mb - before.rss_mb,
        "kept_mb": after.rss_mb - before.rss_mb,
    }


def emergency_stop(contender: Contender, mode: str, seconds: float) -> Numbers:
    """Time from a client's `printer.emergency_stop` to its answer, while 500 clients receive and three of them stall.

    The answer comes after the request was on Klippy's socket, so this is an upper bound of the way there.
    """
    with Stage(contender, rate=4, gcode_rate=2, limit_mode=mode) as stage:
        swarm = stage.tool("swarm", {"--port": stage.port, "--clients": 497, "--stall": 3})
        swarm.answer(60)
        time.sleep(2)
        options = {"--port": stage.port, "--rate": 20} | _rpc("printer.emergency_stop")
        return _called(stage, stage.tool("caller", options | {"--bursts": round(20 * seconds)}), seconds)


def _rpc(method: str, params: str | None = None) -> dict[str, object]:
    options: dict[str, object] = {"--kind": "rpc", "--method": method}
    return options | ({"--params": params} if params else {})


def _fanout_scenarios() -> list[Scenario]:
    found = []
    for clients in (1, 10, 100, 500, 1000):
        for filters in sorted({1, min(8, clients), clients}):
            name = f"fanout-n{clients}-k{filters}"
            found.append(Scenario(name, partial(fanout, clients, filters), "--mode fanout"))
    return found


def _echo(reply_bytes: int) -> str:
    return f"--mode echo --reply-bytes {reply_bytes}"


SCENARIOS: list[Scenario] = [
    *_fanout_scenarios(),
    Scenario("join", join, _echo(STATUS_BYTES)),
    Scenario("rpc-info-single", partial(calls, _rpc("server.info"), 1000, 1, 0), _echo(INFO_BYTES), 5),
    Scenario("rpc-info-pipelined", partial(calls, _rpc("server.info"), 40, 50, 0), _echo(INFO_BYTES), 5),
    Scenario("rpc-query-single", partial(calls, _rpc("printer.objects.query", QUERY), 1000, 1, 0), "--mode relay", 5),
    Scenario("rpc-query-pipelined", partial(calls, _rpc("printer.objects.query", QUERY), 40, 50, 0), "--mode relay", 5),
    Scenario(
        "http-info", partial(calls, {"--kind": "http", "--path": "/server/info"}, 800, 1, 0), _echo(INFO_BYTES), 5
    ),
    Scenario("temperature-store", temperature_store, _echo(STORE_BYTES)),
    Scenario("startup", startup, "imports"),
    Scenario("idle", idle, seconds=30),
    Scenario("stalled", stalled, seconds=25),
    Scenario("emergency-stop", emergency_stop, seconds=20),
]
