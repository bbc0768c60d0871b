"""The work with what a server keeps that is measured: values of clients in the database, and its history."""

import http.client
import json
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

from benchmarks.compare.contenders import Contender, Limit, Stage
from benchmarks.compare.scenarios import Numbers, Scenario
from moonfast.storage.backups import SQL_NAME
from moonfast.storage.exporters import to_sqlite

POSTS, GETS = 1500, 4000
AT_ONCE = 8
JOBS, LISTS, PAGES = 10_000, 20, 200
VALUE = {"console": {"autocomplete": True, "commands": ["G28", "BED_MESH_CALIBRATE"]}, "theme": "x" * 200}


def posts(contender: Contender, mode: str, seconds: float, clients: int) -> Numbers:
    """Values are stored, by so many clients at once; each is on the disk when it is answered."""
    return _requests(contender, clients, int(POSTS * seconds / 10), "POST")


def gets(contender: Contender, mode: str, seconds: float) -> Numbers:
    """One value is read again and again."""
    return _requests(contender, 1, int(GETS * seconds / 10), "GET")


def _requests(contender: Contender, clients: int, count: int, verb: str) -> Numbers:
    if isinstance(contender, Limit):
        return _commits(count)
    with Stage(contender, rate=1) as stage:
        _work(stage.port, 50, "POST", 0)
        _work(stage.port, 50, verb, 0)
        before_s, began = stage.cpu_s(), time.monotonic()
        share = count // clients
        threads = [threading.Thread(target=_work, args=(stage.port, share, verb, at)) for at in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent_s, wall_s = stage.cpu_s() - before_s, time.monotonic() - began
    done = count // clients * clients
    return {"cpu_us_per_request": spent_s / done * 1e6, "wall_us_per_request": wall_s / done * 1e6, "requests": done}


def _commits(count: int) -> Numbers:
    """The limit: nothing but commits, each synced, in an interpreter of their own."""
    program = (
        "import lmdb, sys, tempfile, time\n"
        "with tempfile.TemporaryDirectory() as folder, lmdb.open(folder, metasync=False) as env:\n"
        "    began = time.process_time(), time.monotonic()\n"
        "    for number in range(int(sys.argv[1])):\n"
        "        with env.begin(write=True) as txn:\n"
        "            txn.put(b'benchmark %d' % (number % 20), b'x' * 300)\n"
        "        env.sync(True)\n"
        "    print(time.process_time() - began[0], time.monotonic() - began[1])\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(count)], capture_output=True, text=True, check=True)
    spent_s, wall_s = map(float, run.stdout.split())
    return {"cpu_us_per_request": spent_s / count * 1e6, "wall_us_per_request": wall_s / count * 1e6, "requests": count}


def _work(port: int, count: int, verb: str, client: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"}
    for number in range(count):
        if verb == "POST":
            value = {"namespace": "benchmark", "key": f"k{client}.n{number % 20}", "value": VALUE}
            connection.request("POST", "/server/database/item", json.dumps(value), headers)
        else:
            connection.request("GET", "/server/database/item?namespace=benchmark&key=k0.n1")
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{verb} was answered with {response.status}: {text[:200]!r}")
    connection.close()


def history(contender: Contender, mode: str, seconds: float, limit: int) -> Numbers:
    """A list out of JOBS jobs, sent and read; `limit` 0: all of them."""
    count = int((LISTS if limit == 0 else PAGES) * seconds / 10)
    with Stage(contender, rate=1, prepare=_fill_history) as stage:
        target = f"/server/history/list?limit={limit}"
        size = _read_lists(stage.port, target, 2, limit)
        before_s, began = stage.cpu_s(), time.monotonic()
        _read_lists(stage.port, target, count, limit)
        spent_s, wall_s = stage.cpu_s() - before_s, time.monotonic() - began
    return {
        "cpu_us_per_request": spent_s / count * 1e6,
        "wall_us_per_request": wall_s / count * 1e6,
        "requests": count,
        "bytes": size,
    }


def _fill_history(data: Path) -> None:
    """Leave a database of Moonraker's, which both servers start from."""
    thumbnails = [{"width": side, "height": side, "size": side * 90, "relative_path": "t.png"} for side in (32, 400)]
    metadata = {
        "size": 1_234_567,
        "modified": 1_700_000_000.5,
        "slicer": "PrusaSlicer",
        "slicer_version": "2.7.0",
        "layer_count": 200,
        "object_height": 40.0,
        "estimated_time": 5000,
        "nozzle_diameter": 0.4,
        "layer_height": 0.2,
        "filament_name": "PLA",
        "filament_type": "PLA",
        "filament_total": 4000.0,
        "thumbnails": thumbnails,
    }
    (data / "database").mkdir(parents=True, exist_ok=True)
    to_sqlite(
        (
            (
                "history",
                f"{number:06X}",
                {
                    "filename": f"part_{number % 500}.gcode",
                    "metadata": metadata,
                    "auxiliary_data": [],
                    "user": "No User",
                    "job_id": f"{number:06X}",
                    "status": "completed",
                    "start_time": 1.7e9 + number * 5000,
                    "end_time": 1.7e9 + number * 5000 + 4000,
                    "print_duration": 3900.5,
                    "total_duration": 4000.25,
                    "filament_used": 4000.5,
                },
            )
            for number in range(1, JOBS + 1)
        ),
        data / "database" / SQL_NAME,
    )


def _read_lists(port: int, target: str, count: int, limit: int) -> int:
    """How many bytes one list has."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    text = b""
    for _ in range(count):
        connection.request("GET", target)
        text = connection.getresponse().read()
    connection.close()
    listed = len(json.loads(text)["result"]["jobs"])
    if listed != limit and (limit or listed < JOBS):  # the stage's printer adds one
        raise RuntimeError(f"{listed} of {JOBS} jobs were listed")
    return len(text)


STATE_SCENARIOS: list[Scenario] = [
    Scenario("database-post", partial(posts, clients=1), "commits"),
    Scenario("database-post-8", partial(posts, clients=AT_ONCE)),
    Scenario("database-get", gets),
    Scenario("history-all", partial(history, limit=0)),
    Scenario("history-page", partial(history, limit=50)),
]
