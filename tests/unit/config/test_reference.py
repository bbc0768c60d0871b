from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import pytest

from moonfast import registry
from moonfast.config import reference
from moonfast.config.options import Option, Section

COMMITTED = Path(__file__).parents[3] / "docs" / "config"


class Colour(enum.Enum):
    RED = "red"


class LampConfig(Section, prefix="lamp"):
    """Lamps."""

    pin: Annotated[str, Option(doc="Where | what.")]
    period: Annotated[float, Option(doc="How often.", above=0.0, unit="s", legacy=(("server", "lamp"),))] = 2.5
    colour: Annotated[Colour, Option(doc="Colour.")] = Colour.RED
    is_on: Annotated[bool, Option(doc="On.")] = False
    hosts: Annotated[list[str], Option(doc="Hosts.")] = ["a", "b"]
    limit: Annotated[int | None, Option(doc="Limit.")] = None
    old: Annotated[bool, Option(doc="Old.", deprecated="remove it.")] = False


def test_the_committed_pages_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check", str(COMMITTED)]) == 0, capsys.readouterr().out


def test_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "section_classes", lambda: [LampConfig])
    pages = reference.pages()
    assert set(pages) == {"README.md", "lamp.md"}
    assert "- [`[lamp NAME]`](lamp.md)" in pages["README.md"]
    assert pages["lamp.md"].split("\n")[2:] == [
        "# `[lamp NAME]`",
        "",
        "Lamps.",
        "",
        "| Option | Default | Values | Meaning |",
        "|---|---|---|---|",
        "| `pin` | required | a text | Where \\| what. |",
        "| `period` | `2.5` | a number above 0, s | How often. Formerly `lamp` in `[server]`. |",
        "| `colour` | `red` | one of red | Colour. |",
        "| `is_on` | `false` | true or false | On. |",
        "| `hosts` | `a, b` | a list, one item a line, each a text | Hosts. |",
        "| `limit` | none | a whole number | Limit. |",
        "",
        "## Deprecated options",
        "",
        "They are read, with a warning.",
        "",
        "| Option | Values | Instead |",
        "|---|---|---|",
        "| `old` | true or false | remove it. |",
        "",
        "",
    ]


def test_writing_and_checking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "config"
    assert reference.main(["--check", str(folder)]) == 1
    assert not folder.exists()
    assert reference.main([str(folder)]) == 0
    assert reference.main(["--check", str(folder)]) == 0
    (folder / "gone.md").write_text("x")
    (folder / "server.md").write_text("x")
    capsys.readouterr()
    assert reference.main(["--check", str(folder)]) == 1
    assert [line.split("/")[-1].split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "gone.md",
        "server.md",
    ]
    assert reference.main([str(folder)]) == 0
    assert not (folder / "gone.md").exists()
