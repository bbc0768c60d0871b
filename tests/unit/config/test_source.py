from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moonfast.config import source as module
from moonfast.config.source import Source, read, read_text, render
from moonfast.errors import ConfigError


def plain(source: Source) -> dict[str, dict[str, str]]:
    return {
        name: {key: option.text for key, option in section.options.items()} for name, section in source.sections.items()
    }


def faults(source: Source) -> list[str]:
    return [str(problem) for problem in source.problems]


# -- the language --


def test_separators_comments_and_case() -> None:
    source = read_text(
        "# top\n; top\n[Server]  # after\nHost: a:b=c ; after\nport=7125\nurl = http://x/#frag\nlist: #5\nempty:\n"
    )
    assert plain(source) == {
        "Server": {"host": "a:b=c", "port": "7125", "url": "http://x/#frag", "list": "", "empty": ""}
    }
    assert not source.problems
    assert not source.warnings


def test_values_of_several_lines() -> None:
    text = "[a]\none:\n    first\n\n    # between\n      second # after\ntwo: x\n\ty\n[b]\n  indented: 1\n    more\n"
    assert plain(read_text(text)) == {"a": {"one": "\nfirst\nsecond", "two": "x\ny"}, "b": {"indented": "1\nmore"}}


def test_templates_stay_as_they_are() -> None:
    text = "[a]\nbody:\n  {% set x = 1 %}\n  {% for i in y %}{i}{% endfor %}\n  {secrets.a.b}\n  [x] = {'a': 1}\n"
    assert plain(read_text(text))["a"]["body"] == (
        "\n{% set x = 1 %}\n{% for i in y %}{i}{% endfor %}\n{secrets.a.b}\n[x] = {'a': 1}"
    )


def test_escaped_comment_signs() -> None:
    assert plain(read_text("[a]\nx: \\#ff0000 \\; y \\\\# z#z\n")) == {"a": {"x": "#ff0000 ; y \\\\# z#z"}}


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_ends(end: str) -> None:
    source = read_text(end.join(["[a]", "x: 1", "bad"]))
    assert plain(source) == {"a": {"x": "1"}}
    assert source.problems[0].line == 3


def test_every_option_remembers_its_place() -> None:
    option = read_text("\n[a]\n\nx:\n  1\n", "main.conf").sections["a"].options["x"]
    assert (option.file, option.line, option.place) == ("main.conf", 4, "main.conf, line 4")


def test_duplicates_are_merged_with_a_warning() -> None:
    source = read_text("[a]\nx: 1\ny: 1\n[b]\n[a]\nx: 2\n", "m.conf")
    assert plain(source) == {"a": {"x": "2", "y": "1"}, "b": {}}
    assert source.files == {"m.conf": ["a", "b"]}
    assert source.warnings == [
        "Section [a] stands twice in m.conf, lines 1 and 5. Both are used; join them.",
        "Option 'x' stands twice in section [a] of m.conf, lines 2 and 6. The last one counts; remove the other.",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x: 1\n", "c:1: option 'x' stands before the first [section]."),
        ("[a]\nrubbish\n", "c:2: [a] 'rubbish' is neither a [section] nor an option."),
        ("[a\nx: 1\n", "c:1: the section header '[a' is not closed."),
        ("[ ]\nx: 1\n", "c:1: a section has no name."),
        ("[a]\n: 1\n", "c:2: [a] ': 1' is neither a [section] nor an option."),
        ("[include nothing.conf]\n", "c:1: [include nothing.conf] finds no file."),
        ("[include]\n", "c:1: [include ] finds no file."),
    ],
)
def test_faults_have_a_place_and_a_remedy(text: str, fault: str) -> None:
    source = read_text(text, "c")
    assert len(source.problems) == 1
    assert str(source.problems[0]).startswith(fault)
    assert source.problems[0].remedy


def test_reading_goes_on_after_a_fault() -> None:
    source = read_text("[a\nx: 1\n[b]\nrubbish\ny: 2\n")
    assert plain(source) == {"b": {"y": "2"}}
    assert [problem.line for problem in source.problems] == [1, 4]


# -- files --


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / f"{name}.conf").write_text(text, encoding="utf-8")
    return str(folder / "moonraker.conf")


def test_includes_are_read_where_they_stand(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = write(tmp_path, moonraker="[a]\nx: 1\n[include sub/*.conf]\n[b]\ny: 1\n")
    write(tmp_path / "sub", one="[a]\nx: 2\n[b]\ny: 2\n[include ../two.conf]", zwei="[a]\nz: 3\n")
    write(tmp_path, two="[c]\n")
    source = read(path)
    assert plain(source) == {"a": {"x": "2", "z": "3"}, "b": {"y": "1"}, "c": {}}
    assert source.files == {
        "moonraker.conf": ["a", "b"],
        "sub/one.conf": ["a", "b"],
        "two.conf": ["c"],
        "sub/zwei.conf": ["a"],
    }
    assert not source.problems
    assert source.sections["a"].options["x"].place == "sub/one.conf, line 2"


def test_include_with_data_path_and_magic_characters_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a[b]*"
    folder.mkdir()
    path = write(folder, moonraker="[include o*.conf]\n[include {data_path}/x.conf]\n", one="[a]\n")
    (tmp_path / "x.conf").write_text("[x]\n")
    assert list(read(path, str(tmp_path)).sections) == ["a", "x"]


def test_include_without_a_match(tmp_path: Path) -> None:
    source = read(write(tmp_path, moonraker="[include x*.conf]\n[include y.conf]\n"))
    assert source.warnings == ["[include x*.conf] in moonraker.conf, line 1 finds no file."]
    assert faults(source)[0].startswith("moonraker.conf:2: [include y.conf] finds no file.")


def test_a_file_is_read_once(tmp_path: Path) -> None:
    source = read(write(tmp_path, moonraker="[include a.conf]\n[include a*.conf]\n", a="[include moonraker.conf]\n"))
    assert [problem.file for problem in source.problems] == ["a.conf", "moonraker.conf"]
    assert "which the command line has read already" in faults(source)[0]
    assert "which moonraker.conf, line 1 has read already" in faults(source)[1]


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    os.mkfifo(tmp_path / "pipe.conf")
    path = write(tmp_path, big="[abcdefghijk]\n", moonraker="#")
    assert faults(read(str(tmp_path / "none.conf")))[0].startswith(
        "none.conf: cannot read 'none.conf': No such file or directory."
    )
    assert "it is larger than" in faults(read(str(tmp_path / "big.conf")))[0]
    assert "it is not a regular file" in faults(read(str(tmp_path / "pipe.conf")))[0]
    assert "not a regular file" in faults(read(str(tmp_path)))[0]
    assert not read(path).problems


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 2)
    source = read(write(tmp_path, moonraker="[include x*.conf]\n", x1="[a]\n", x2="[b]\n"))
    assert "finds too many files" in faults(source)[0]


def test_encoding(tmp_path: Path) -> None:
    path = tmp_path / "moonraker.conf"
    path.write_bytes("\ufeff[a]\nx: ä\n".encode())
    assert plain(read(str(path))) == {"a": {"x": "ä"}}
    path.write_bytes(b"[a]\nx: 1\ny: \xff\n")
    source = read(str(path))
    assert faults(source) == ["moonraker.conf:3: a character is not UTF-8. Save the file with the encoding UTF-8."]
    assert plain(source)["a"]["x"] == "1"


# -- properties --

TOKENS = (
    "[",
    "]",
    ":",
    "=",
    "#",
    ";",
    "\\",
    "\n",
    "\t",
    "\r",
    " ",
    "a",
    "b",
    "include",
    "{",
    "}",
    "%",
    "*",
    "?",
    "/",
    "..",
)
ODD_TOKENS = ("\u2028", "\x1c", "\x00", "é", "İ", "[a]\n", "x:1\n")
CONFIG_LIKE = st.lists(st.sampled_from(TOKENS + ODD_TOKENS)).map("".join)


@given(st.one_of(st.text(), CONFIG_LIKE))
@example("[include " + "*" * 50 + "]")
def test_any_text_is_read_without_an_exception(text: str) -> None:
    source = read_text(text)
    assert all(isinstance(problem, ConfigError) and str(problem) for problem in source.problems)
    assert all(name and name.split()[0] != "include" for name in source.sections)
    for section in source.sections.values():
        assert all(key == key.lower() and key.strip() == key != "" for key in section.options)


@given(st.one_of(st.text(), CONFIG_LIKE))
def test_what_was_read_can_be_written_and_read_again(text: str) -> None:
    source = read_text(text)
    again = read_text(render(source))
    assert not again.problems
    assert not again.warnings
    assert plain(again) == plain(source)


WORD = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Zs", "Zl", "Zp"), exclude_characters="[]:=#;"), min_size=1
)
NAME = WORD.filter(lambda word: word != "include")
VALUE = st.lists(WORD | st.sampled_from(["#", ";x", "a: b", "[c]", "{x}"]), max_size=4).map("\n".join)


@given(st.dictionaries(NAME, st.dictionaries(WORD.map(str.lower).filter(lambda key: key == key.lower()), VALUE)))
def test_everything_that_can_be_said_survives(content: dict[str, dict[str, str]]) -> None:
    source = Source()
    for name, options in content.items():
        section = source.sections[name] = module.RawSection(name, "x", 1)
        section.options = {key: module.RawOption(text, "x", 1) for key, text in options.items()}
    assert plain(read_text(render(source))) == content


@given(st.binary())
def test_any_file_is_read_without_an_exception(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".conf") as file:
        file.write(content)
        file.flush()
        assert all(isinstance(problem, ConfigError) for problem in read(file.name).problems)
