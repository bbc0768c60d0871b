from __future__ import annotations

import contextlib
import enum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.config.options import Notes, Option, Path, Section, Template
from moonfast.config.source import read_text
from moonfast.errors import ConfigError


class Colour(enum.Enum):
    RED = "Red"
    BLUE = "blue"


class LampConfig(Section, prefix="lamp", legacy_prefixes=("lamp client",)):
    kind: ClassVar[str] = "lamp"
    pin: Annotated[str, Option(doc="Where.")]
    count: Annotated[int, Option(doc="How many.", minimum=1, maximum=9)] = 3
    period: Annotated[float, Option(doc="How often.", above=0.0, below=10.0, unit="s")] = 2.5
    is_on: Annotated[bool, Option(doc="On.")] = False
    colour: Annotated[Colour, Option(doc="Colour.")] = Colour.RED
    mode: Annotated[Literal["Slow", "fast"], Option(doc="Mode.")] = "fast"
    service: Annotated[str, Option(doc="Service.", choices=("a", "B"))] = "a"
    folder: Annotated[Path | None, Option(doc="Folder.")] = None
    body: Annotated[Template | None, Option(doc="Text.")] = None
    hosts: Annotated[list[str], Option(doc="Hosts.")] = []
    pins: Annotated[list[int], Option(doc="Pins.", separator=",", minimum=0)] = []
    limit: Annotated[int | None, Option(doc="Limit.")] = 7
    old: Annotated[bool, Option(doc="Old.", deprecated="remove it.")] = False
    size: Annotated[int, Option(doc="Size.", legacy=(("server", "lamp_size"), ("lamps", "size")))] = 1


def section(text: str, name: str = "lamp x", notes: Notes | None = None) -> LampConfig:
    return LampConfig.read(read_text(text, "c"), name, "/data", notes or Notes())


def value(line: str) -> LampConfig:
    return section(f"[lamp x]\npin: 1\n{line}\n")


def test_defaults() -> None:
    lamp = section("[lamp x]\npin: gpio27\n")
    assert (lamp.pin, lamp.count, lamp.period, lamp.is_on) == ("gpio27", 3, 2.5, False)
    assert (lamp.colour, lamp.mode, lamp.folder, lamp.hosts, lamp.limit) == (Colour.RED, "fast", None, [], 7)


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("count: 9", "count", 9),
        ("period: 1e-3", "period", 0.001),
        ("is_on: Yes", "is_on", True),
        ("is_on: 1", "is_on", True),
        ("is_on: OFF", "is_on", False),
        ("colour: red", "colour", Colour.RED),
        ("colour: BLUE", "colour", Colour.BLUE),
        ("mode: SLOW", "mode", "Slow"),
        ("service: b", "service", "B"),
        ("folder: /a/../b/", "folder", "/b"),
        ("folder: {data_path}/x", "folder", "/data/x"),
        ("folder: x", "folder", "/data/x"),
        ("folder:", "folder", None),
        ("body:\n  {% if a %}\n  {data_path}/{b}", "body", "\n{% if a %}\n/data/{b}"),
        ("hosts: a\n  b c\n\n  d", "hosts", ["a", "b c", "d"]),
        ("pins: 1, 2\n  3", "pins", [1, 2, 3]),
        ("limit:", "limit", None),
    ],
)
def test_values(line: str, name: str, expected: object) -> None:
    assert getattr(value(line), name) == expected


def test_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/pi")
    assert value("folder: ~/x").folder == "/home/pi/x"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("count: ten", "'ten' is not a whole number at least 1 and at most 9."),
        ("count: 0", "'0' is not a whole number at least 1 and at most 9."),
        ("count:", "has no value."),
        ("period: 10", "'10' is not a number above 0 and below 10."),
        ("period: nan", "'nan' is not a number above 0 and below 10."),
        ("is_on: maybe", "'maybe' is not true or false."),
        ("colour: green", "'green' is not one of red, blue."),
        ("service: c", "'c' is not one of a, b."),
        ("pins: 1, x", "'1, x' is not a list, one item a line, each a whole number at least 0."),
        ("limit: x", "'x' is not a whole number."),
    ],
)
def test_faults_name_file_line_section_option_and_remedy(line: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        value(line)
    name = line.partition(":")[0]
    exc = error.value
    assert exc.message == fault
    assert (exc.file, exc.line, exc.section, exc.option) == ("c", 3, "lamp x", name)
    assert str(exc).startswith(f"c:3: [lamp x] {name}: {fault} Write ")


def test_all_faults_of_a_section_are_noted() -> None:
    notes = Notes()
    with pytest.raises(ConfigError, match="pin: is missing"):
        section("[lamp x]\ncount: 0\nis_on: x\n", notes=notes)
    assert [problem.option for problem in notes.problems] == ["pin", "count", "is_on"]


def test_old_places_are_read_with_a_warning() -> None:
    notes = Notes()
    assert section("[server]\nlamp_size: 5\n[lamp x]\npin: 1\n", notes=notes).size == 5
    assert notes.moved == {("server", "lamp_size"): 5}
    assert notes.warnings == [
        "Option 'lamp_size' in section [server] is deprecated (c, line 2): move it to section [lamp x] as 'size'."
    ]
    assert section("[server]\nlamp_size: 5\n[lamp x]\npin: 1\nsize: 6\n").size == 6
    with pytest.raises(ConfigError) as error:
        section("[server]\nlamp_size: x\n[lamp x]\npin: 1\n")
    assert (error.value.section, error.value.option) == ("server", "lamp_size")


def test_deprecated_option() -> None:
    notes = Notes()
    section("[lamp x]\npin: 1\nold: True\n", notes=notes)
    assert notes.warnings == ["Option 'old' in section [lamp x] is deprecated (c, line 3): remove it."]


def test_names() -> None:
    lamp = section("[lamp client  desk]\npin: 1\n", "lamp client  desk")
    assert (lamp.section_name, lamp.own_name) == ("lamp client  desk", "desk")
    assert LampConfig.instance_of("lamp desk") == "desk"
    assert LampConfig.instance_of("lamps") is None


def test_instances_are_values() -> None:
    lamp = LampConfig(pin="1", hosts=["a"])
    assert lamp == LampConfig(pin="1", hosts=["a"]) != LampConfig(pin="2")
    assert "1" not in repr(lamp)
    lamp.hosts.append("b")
    assert LampConfig(pin="1").hosts == []
    with pytest.raises(AttributeError, match="immutable"):
        lamp.pin = "2"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del lamp.pin
    with pytest.raises(TypeError, match="missing: \\['pin'\\], unknown: \\['pim'\\]"):
        LampConfig(pim="1")  # type: ignore[call-arg]


def test_wrong_declarations() -> None:
    with pytest.raises(TypeError, match="either"):
        type("Both", (Section,), {}, name="a", prefix="b")

    class NoDoc(Section, name="x"):
        a: int = 1

    class Odd(Section, name="x"):
        a: Annotated[int | str, Option(doc="x")] = 1

    class Taken(Section, name="x"):
        read: Annotated[int, Option(doc="x")] = 1  # type: ignore[assignment]

    for kind, text in ((NoDoc, "no Option"), (Odd, "union"), (Taken, "cannot be names")):
        with pytest.raises(TypeError, match=text):
            kind.fields()


@given(st.sampled_from(list(LampConfig.fields())), st.text())
def test_any_value_is_read_or_refused(name: str, text: str) -> None:
    source = read_text("[lamp x]\npin: 1\n")
    option: Any = source.sections["lamp x"].options["pin"]
    source.sections["lamp x"].options[name] = type(option)(text, "c", 2)
    notes = Notes()
    with contextlib.suppress(ConfigError):
        LampConfig.read(source, "lamp x", "/data", notes)
    assert all(problem.option == name for problem in notes.problems)
    assert all("\n" not in str(problem) for problem in notes.problems)
