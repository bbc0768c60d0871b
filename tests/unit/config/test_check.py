from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import pytest

from moonfast import registry
from moonfast.component import Component
from moonfast.config.check import check
from moonfast.config.options import Option, Section
from moonfast.registry import Entry


class LampConfig(Section, prefix="lamp"):
    pin: Annotated[int, Option(doc="Where.")]


class ClockConfig(Section, name="clock"):
    zone: Annotated[int, Option(doc="Zone.")] = 0


class Lamps(Component):
    def __init__(self, configs: list[LampConfig]) -> None:
        raise AssertionError("checking builds nothing")


class Clock(Component):
    def __init__(self, config: ClockConfig) -> None:
        raise AssertionError("checking builds nothing")


TABLE = (
    Entry("lamp", f"{__name__}:Lamps"),
    Entry("clock", f"{__name__}:Clock", always=True),
    Entry("absent", "moonfast_absent.module:Absent"),
)


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "COMPONENTS", TABLE)


def report(folder: Path, text: str) -> tuple[int, list[str]]:
    path = folder / "moonraker.conf"
    path.write_text(text)
    out = io.StringIO()
    status = check(str(path), str(folder), out)
    return status, [line.replace(str(folder), "") for line in out.getvalue().splitlines()]


def test_a_sound_configuration(tmp_path: Path) -> None:
    assert report(tmp_path, "[server]\n[lamp a]\npin: 1\n") == (0, ["/moonraker.conf: no problems, 0 warnings"])
    assert [path.name for path in tmp_path.iterdir()] == ["moonraker.conf"]


def test_every_problem_is_reported(tmp_path: Path) -> None:
    text = "[server]\nport: x\nprot: 1\n[lamp a]\npin: y\n[lamp b]\n[clock]\nzone: z\nrubbish\n[absent]\n"
    status, lines = report(tmp_path, text)
    assert status == 1
    assert [line.partition(". ")[0] for line in lines] == [
        "error: moonraker.conf:9: [clock] 'rubbish' is neither a [section] nor an option",
        "error: moonraker.conf:2: [server] port: 'x' is not a whole number at least 1 and at most 65535",
        "error: moonraker.conf:5: [lamp a] pin: 'y' is not a whole number",
        "error: moonraker.conf:6: [lamp b] pin: is missing",
        "error: moonraker.conf:8: [clock] zone: 'z' is not a whole number",
        "warning: Component [absent] needs moonfast_absent, which is not installed.",
        "warning: Unparsed config option 'prot' detected in section [server] (moonraker.conf, line 3)",
        "/moonraker.conf: 5 problems, 2 warnings",
    ]


def test_a_missing_file(tmp_path: Path) -> None:
    out = io.StringIO()
    assert check(str(tmp_path / "none.conf"), str(tmp_path), out) == 1
    assert "cannot read 'none.conf': No such file or directory" in out.getvalue()
