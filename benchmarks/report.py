"""Write the results table of benchmarks/README.md: one row per budget, from the newest measurement of each.

python benchmarks/report.py
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
START, END = "<!-- results: written by report.py -->", "<!-- end of results -->"

Medians = dict[str, dict[str, float]]  # contender -> metric -> median over the rounds


@dataclass(frozen=True)
class Budget:
    """What moonfast may cost at most; every limit that is given binds."""

    work: str
    scenario: str
    metric: str
    unit: str
    times_limit: float | None = None
    over_limit: float | None = None  # the limit plus so much, in the row's unit
    of_moonraker: float | None = None
    at_most: float | None = None
    times_own: tuple[float, str] | None = None  # so many times another metric of moonfast itself
    over_own: tuple[float, str] | None = None  # another metric of moonfast itself plus so much, in the row's unit
    scale: float = 1.0  # from the metric's unit to the row's

    def bounds(self, medians: Medians) -> list[tuple[str, float]]:
        """Return the bounds as text and as a number in the row's unit, as far as there is something to compare with."""
        limit, moonraker, own = (medians.get(name, {}) for name in ("limit", "moonraker", "moonfast"))
        found: list[tuple[str, float]] = []
        if self.times_limit is not None:
            found.append((f"{self.times_limit:g} x limit", self.times_limit * limit.get(self.metric, 0) * self.scale))
        if self.over_limit is not None:
            found.append((f"limit + {self.over_limit:g}", self.over_limit + limit.get(self.metric, 0) * self.scale))
        if self.of_moonraker is not None:
            share = self.of_moonraker * moonraker.get(self.metric, 0) * self.scale
            found.append((f"1/{1 / self.of_moonraker:g} of Moonraker", share))
        if self.at_most is not None:
            found.append((f"{self.at_most:g}", self.at_most))
        if self.times_own is not None:
            factor, metric = self.times_own
            found.append((f"{factor:g} x without", factor * own.get(metric, 0) * self.scale))
        if self.over_own is not None:
            more, metric = self.over_own
            found.append((f"{more:g} + idle's", more + own.get(metric, 0) * self.scale))
        return found


def _fanout_budgets() -> list[Budget]:
    rows = []
    for clients in (1, 10, 100, 500, 1000):
        for groups in sorted({1, min(8, clients), clients}):
            factor = 2.0 if clients < 100 else 1.25 if groups == 1 else 1.6
            plural = "s" if clients > 1 else ""
            work = f"status frame delivered, {clients} client{plural}, {groups} filter group{'s' if groups > 1 else ''}"
            rows.append(Budget(work, f"fanout-n{clients}-k{groups}", "cpu_us_per_frame", "us", times_limit=factor))
    return rows


def _state_budgets() -> list[Budget]:
    return [
        Budget("database item stored, one at a time", "database-post", "cpu_us_per_request", "us", at_most=300),
        Budget("database item stored, 8 in flight", "database-post-8", "cpu_us_per_request", "us", at_most=120),
        Budget("database item read", "database-get", "cpu_us_per_request", "us", at_most=75),
        Budget("history of 10,000 jobs, all", "history-all", "cpu_us_per_request", "us", at_most=40_000),
        Budget("history of 10,000 jobs, a page of 50", "history-page", "cpu_us_per_request", "us", at_most=1000),
    ]


def _stall(work: str, scenario: str, metric: str = "stall_ms") -> Budget:
    return Budget(f"longest wait of a client beside {work}", scenario, metric, "ms", over_own=(20, "idle_stall_ms"))


def _file_budgets() -> list[Budget]:
    appear, huge = "1000 small files appear", "upload of 2 GB"
    with_checksum = "multipart upload of 100 MB with its sha256"
    return [
        Budget("download of 100 MB", "file-download", "cpu_s_per_gb", "s/GB", at_most=0.45),
        Budget("multipart upload of 100 MB", "file-upload", "cpu_s_per_gb", "s/GB", at_most=1.8),
        Budget(with_checksum, "file-upload-checksum", "cpu_s_per_gb", "s/GB", at_most=2.4),
        Budget("multipart upload of 100 MB: growth", "file-upload", "growth_mb", "MB", at_most=1),
        Budget(f"{huge}: growth", "file-upload-2gb", "growth_mb", "MB", at_most=1),
        Budget("metadata of a sliced file of 10 MB", "file-metadata-10mb", "cpu_ms_per_file", "ms", at_most=6),
        Budget("metadata of a sliced file of 500 MB", "file-metadata-500mb", "cpu_ms_per_file", "ms", at_most=6),
        Budget("`files/list` of 1000 files", "file-many", "list_cpu_ms", "ms", at_most=2),
        Budget("`directory?extended=true` of 1000 files", "file-many", "directory_cpu_ms", "ms", at_most=4),
        Budget(f"{appear}, until all have metadata", "file-many", "appear_cpu_s", "s", at_most=5),
        Budget("four uploads at once: lost of 12", "file-upload-four", "lost", "files", at_most=0),
        _stall("a download of 100 MB", "file-download"),
        _stall("an upload of 100 MB", "file-upload"),
        _stall("an upload with its sha256", "file-upload-checksum"),
        _stall(f"an {huge}", "file-upload-2gb"),
        _stall("metadata of 10 MB", "file-metadata-10mb"),
        _stall("metadata of 500 MB", "file-metadata-500mb"),
        _stall("1000 small files that appear", "file-many", "appear_stall_ms"),
        _stall("listings of 1000 files", "file-many", "list_stall_ms"),
        _stall("extended listings of 1000 files", "file-many", "directory_stall_ms"),
        _stall("four uploads at once", "file-upload-four"),
    ]


BUDGETS = [
    *_fanout_budgets(),
    Budget("1000 clients at 4 Hz, CPU", "fanout-n1000-k1", "cpu_percent_status_only", "% of a core", times_limit=1.35),
    Budget("1000 clients at 4 Hz, p99", "fanout-n1000-k1", "p99_us", "ms", at_most=20, scale=1e-3),
    Budget("a client joins, 42 kB of status", "join", "cpu_ms_per_join", "ms", of_moonraker=1 / 5),
    Budget("`server.info`, one at a time", "rpc-info-single", "cpu_us_per_request", "us", times_limit=2),
    Budget("`server.info`, pipelined", "rpc-info-pipelined", "cpu_us_per_request", "us", at_most=12),
    Budget("`printer.objects.query`, one at a time", "rpc-query-single", "cpu_us_per_request", "us", times_limit=2),
    Budget("`printer.objects.query`, pipelined", "rpc-query-pipelined", "cpu_us_per_request", "us", of_moonraker=1 / 5),
    Budget("HTTP keep-alive `GET /server/info`", "http-info", "cpu_us_per_request", "us", times_limit=2.5),
    Budget("`temperature_store`, 43 kB", "temperature-store", "cpu_us_per_request", "us", at_most=40),
    Budget(
        "`temperature_store` right after a tick, to the answer",
        "temperature-store",
        "slowest_of_second_us",
        "us",
        at_most=400,
    ),
    Budget("start to first answer, CPU", "startup", "cpu_s", "s", times_limit=2),
    Budget("start to first answer, resident", "startup", "rss_mb", "MB", over_limit=7),
    Budget("start to first answer, proportional", "startup", "alone_mb", "MB", over_limit=6),
    Budget("idle, Klippy at 4 Hz, nobody connected", "idle", "cpu_percent", "% of a core", at_most=0.1),
    Budget("10 stalled clients: growth", "stalled", "growth_mb", "MB", at_most=5),
    Budget("10 stalled clients: kept after they are gone", "stalled", "kept_mb", "MB", at_most=1),
    Budget(
        "`emergency_stop` beside 500 clients, p99 to the answer",
        "emergency-stop",
        "p99_us",
        "ms",
        at_most=5,
        scale=1e-3,
    ),
    Budget("10 stalled clients: p99 of the others", "stalled", "p99_us", "us", times_own=(1.25, "p99_us_alone")),
    *_file_budgets(),
    *_state_budgets(),
]


def load() -> list[tuple[Path, dict[str, Any]]]:
    """Return all result files of compare/run.py, the newest first."""
    found = [(path, json.loads(path.read_text())) for path in (FOLDER / "results").glob("*.json")]
    return sorted(((p, c) for p, c in found if "runs" in c), key=lambda entry: str(entry[1]["created"]), reverse=True)


def medians_of(content: dict[str, Any], scenario: str) -> Medians:
    rounds: dict[str, list[dict[str, float]]] = {}
    for run in content["runs"]:
        if run["scenario"] == scenario:
            rounds.setdefault(run["contender"], []).append(run["numbers"])
    return {
        contender: {metric: statistics.median(numbers[metric] for numbers in runs) for metric in runs[0]}
        for contender, runs in rounds.items()
    }


def newest(results: list[tuple[Path, dict[str, Any]]], scenario: str) -> tuple[Path | None, Medians]:
    """Return the newest file in which most servers did this work: ratios hold within one run only."""
    best: tuple[Path | None, Medians] = (None, {})
    for path, content in results:
        medians = medians_of(content, scenario)
        if len(medians) > len(best[1]):
            best = (path, medians)
    return best


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def row(budget: Budget, path: Path | None, medians: Medians) -> str:
    values = {
        name: medians[name][budget.metric] * budget.scale if budget.metric in medians.get(name, {}) else None
        for name in ("moonraker", "limit", "moonfast")
    }
    own, bounds = values["moonfast"], budget.bounds(medians)
    ratios = [
        number(own / other) if own is not None and other else "" for other in (values["moonraker"], values["limit"])
    ]
    met = "" if own is None else "yes" if all(own <= bound for _, bound in bounds) else "**no**"
    source = f"[{path.stem}](results/{path.name})" if path else "not measured"
    cells = [
        f"{budget.work}, {budget.unit}",
        *(number(values[name]) for name in ("moonraker", "limit", "moonfast")),
        *ratios,
        ", ".join(text for text, _ in bounds),
        met,
        source,
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: list[tuple[Path, dict[str, Any]]]) -> str:
    lines = [
        "| Work | Moonraker 0.11.0 | limit | moonfast | to Moonraker | to limit | at most | met | from |",
        "|---|--:|--:|--:|--:|--:|---|---|---|",
    ]
    lines += [row(budget, *newest(results, budget.scenario)) for budget in BUDGETS]
    for path, content in results:
        if any(newest(results, budget.scenario)[0] == path for budget in BUDGETS):
            machine = content["environment"]
            lines.append(
                f"\n{path.stem}: {content['created'][:10]}, commit {content['commit']}, {machine['cpu']}, "
                f"{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}."
            )
    return "\n".join(lines)


def main() -> None:
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{table(load())}\n{END}{after}")
    print(readme)


if __name__ == "__main__":
    main()
