"""Run the same load against moonfast, Moonraker 0.11.0 and a C server that does the least possible, in turns.

python -m benchmarks.compare.run --help
"""

import argparse
import fnmatch
import json
import os
import shlex
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.compare.contenders import REPOSITORY, TOOL_CORES, Contender, Limit, Moonfast, Moonraker
from benchmarks.compare.file_scenarios import FILE_SCENARIOS
from benchmarks.compare.measure import commit, environment
from benchmarks.compare.scenarios import SCENARIOS, Numbers, Scenario
from benchmarks.compare.state_scenarios import STATE_SCENARIOS
from benchmarks.load.tools import ToolError, build

RESULTS = REPOSITORY / "benchmarks" / "results"
SHOWN = (
    "cpu_us_per_frame", "cpu_percent_status_only", "cpu_us_per_request", "cpu_ms_per_join", "cpu_percent", "cpu_s",
    "p50_us", "p99_us", "slowest_of_second_us", "gaps", "repeats", "rss_mb", "pss_mb", "alone_mb",
    "growth_mb", "kept_mb", "cpu_s_per_gb", "gb_per_s", "cpu_ms_per_file", "appear_cpu_s", "list_cpu_ms",
    "directory_cpu_ms", "uploads", "refused", "wrong", "lost", "stall_ms", "appear_stall_ms", "list_stall_ms",
    "directory_stall_ms", "idle_stall_ms",
)  # fmt: skip


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare.run", description=__doc__)
    parser.add_argument(
        "--scenario", action="append", help="name or pattern such as 'fanout-*', may be repeated (default: all)"
    )
    parser.add_argument(
        "--contenders", default="moonraker,limit,moonfast", help="comma-separated (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs, in turns (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the length of each measurement")
    parser.add_argument("--name", default="compare", help="results go to results/NAME-<number>.json")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter that runs moonfast")
    parser.add_argument(
        "--moonraker-python", type=Path, help="an interpreter that has Moonraker (default: one is set up)"
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    return parser.parse_args(arguments)


def chosen(patterns: list[str] | None) -> list[Scenario]:
    found = [
        s
        for s in [*SCENARIOS, *FILE_SCENARIOS, *STATE_SCENARIOS]
        if not patterns or any(fnmatch.fnmatch(s.name, p) for p in patterns)
    ]
    if not found:
        raise SystemExit(f"no scenario matches {patterns}; --list names them")
    return found


def show(scenario: Scenario, results: dict[str, list[Numbers]]) -> None:
    """Print one line per server: the medians over the rounds so far."""
    print(f"\n{scenario.name}")
    for name, rounds in results.items():
        medians = {key: statistics.median(numbers[key] for numbers in rounds) for key in SHOWN if key in rounds[0]}
        print(f"  {name:10}" + "  ".join(f"{key} {value:.2f}" for key, value in medians.items()), flush=True)


def measure(
    scenarios: list[Scenario], contenders: list[Contender], rounds: int, scale: float
) -> list[dict[str, object]]:
    runs: list[dict[str, object]] = []
    for scenario in scenarios:
        results: dict[str, list[Numbers]] = {}
        for number in range(rounds):
            # every other round goes backwards: nobody always has the cold or the warm machine
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                if isinstance(contender, Limit) and not scenario.limit_mode:
                    continue
                try:
                    numbers = scenario.measure(contender, scenario.limit_mode, scenario.seconds * scale)
                except (ToolError, OSError) as error:
                    print(f"{scenario.name}, {contender.name}: {error}", file=sys.stderr)
                    continue
                numbers = {key: round(value, 4) for key, value in numbers.items()}
                results.setdefault(contender.name, []).append(numbers)
                runs.append(
                    {"scenario": scenario.name, "contender": contender.name, "round": number, "numbers": numbers}
                )
        show(scenario, results)
    return runs


def write(name: str, content: dict[str, object]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    number = 1
    while (RESULTS / f"{name}-{number}.json").exists():
        number += 1
    path = RESULTS / f"{name}-{number}.json"
    # one run a line: readable, and a diff shows which numbers are new
    runs = content.get("runs")
    text = json.dumps({key: value for key, value in content.items() if key != "runs"}, indent=1)
    if isinstance(runs, list):
        text = text[:-2] + ',\n "runs": [\n  ' + ",\n  ".join(json.dumps(run) for run in runs) + "\n ]\n}"
    path.write_text(text + "\n")
    return path


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    scenarios = chosen(options.scenario)
    if options.list:
        print("\n".join(scenario.name for scenario in scenarios))
        return 0
    known: dict[str, Contender] = {
        "moonraker": Moonraker(options.moonraker_python),
        "limit": Limit(options.python),
        "moonfast": Moonfast(options.python),
    }
    try:
        contenders = [known[name] for name in options.contenders.split(",")]
    except KeyError as error:
        raise SystemExit(f"unknown contender {error}; there are {', '.join(known)}") from None
    build()
    for contender in contenders:
        contender.prepare()
    os.sched_setaffinity(0, TOOL_CORES)
    content: dict[str, object] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.compare.run " + shlex.join(sys.argv[1:]),
        "commit": commit(REPOSITORY),
        "environment": environment(),
    }
    runs = measure(scenarios, contenders, options.rounds, options.scale)
    content["versions"] = {contender.name: contender.version() for contender in contenders}
    if not runs:
        return 1
    print(f"\n{write(options.name, content | {'runs': runs})}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
