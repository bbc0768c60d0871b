"""Trees: what two looks at a folder differ in, and the JSON of listings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.files import tree as tree_module
from moonfast.files.roots import Root
from moonfast.files.tree import (
    Change,
    Listed,
    Look,
    Seen,
    Tree,
    descend,
    entry_json,
    folder_json,
    is_gcode,
    join,
    look,
    probe,
    scan,
    walk,
)


def seen(*, is_dir: bool = False, size: int = 1, at: int = 1, inode: int = 1) -> Seen:
    return Seen(is_dir, size, at, False, 0, inode, False)


def make(path: str = "/nowhere", name: str = "top") -> Tree:
    return Tree(Root(name, path, True), lambda root, path: root.permissions)


def told(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.kind, change.relative) for change in changes]


def watch_nothing(relative: str, path: str) -> None: ...


def fill(tree: Tree) -> list[Change]:
    return [change for listed in walk(tree.root.path, "", watch_nothing) for change in tree.merge(listed)]


def test_differences() -> None:
    tree = make()
    looks = [Look("d", seen(is_dir=True)), Look("a", seen())]
    assert told(tree.merge(Listed("", looks, True))) == [("create", "d"), ("create", "a")]
    assert tree.merge(Listed("", looks, True)) == []  # seen twice is one change
    assert told(tree.merge(Listed("d", [Look("x", seen())], True))) == [("create", "d/x")]
    assert tree.count == 3
    for other in (seen(size=2), seen(at=2), seen(inode=2)):
        assert told(tree.merge(Listed("", [Look("a", other)], False))) == [("modify", "a")]
    assert tree.merge(Listed("", [Look("d", seen(is_dir=True, at=9))], False)) == []  # a folder's time is no news
    entry = tree.entry("d")
    assert entry is not None
    assert entry.modified_ns == 9
    assert told(tree.merge(Listed("", [Look("d", seen())], False))) == [("delete", "d"), ("create", "d")]
    assert tree.entry("d/x") is None
    assert [folder.relative for folder in tree.lost] == ["d"]
    assert told(tree.merge(Listed("", [Look("a", None), Look("never", None)], False))) == [("delete", "a")]
    assert told(tree.merge(Listed("", [], True))) == [("delete", "d")]
    assert tree.count == 0
    assert tree.merge(Listed("gone/deep", [Look("a", seen())], True)) == []


def test_names_that_are_not_shown() -> None:
    tree = make()
    looks = [Look(name, seen()) for name in (".moonfast-1.part", os.fsdecode(b"\xff"), "日本", ".hidden")]
    assert told(tree.merge(Listed("", looks, True))) == [("create", "日本"), ("create", ".hidden")]


def test_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_ENTRIES", 3)
    tree = make()
    changes = tree.merge(Listed("", [Look(f"{number}", seen()) for number in range(5)], True))
    assert len(changes) == tree.count == 3
    tree.merge(Listed("", [Look("0", None)], False))
    assert told(tree.merge(Listed("", [Look("4", seen())], False))) == [("create", "4")]


def test_moves() -> None:
    tree = make()
    for relative, name, is_dir in (("", "a", True), ("a", "b", True), ("a/b", "x", False), ("", "c", True)):
        tree.merge(Listed(relative, [Look(name, seen(is_dir=is_dir))], False))
    inner = tree.folder("a/b")
    assert tree.move("a", "c/new")
    assert {path for path, _ in tree.files()} == {"c/new/b/x"}
    assert tree.folder("c/new/b") is inner
    assert inner is not None
    assert inner.relative == "c/new/b"
    assert not tree.move("a", "d")
    assert not tree.move("c/new", "missing/x")
    tree.merge(Listed("", [Look("over", seen())], False))
    assert tree.move("c/new/b/x", "over")
    assert tree.count == 4
    assert tree.entry("over") is not None
    assert {folder.relative for folder in descend(tree.top)} == {"", "c", "c/new", "c/new/b"}


def test_walks_with_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("x")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "broken").symlink_to("nothing")
    (tmp_path / "side").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "y").write_text("y")
    tree = make(str(tmp_path))
    fill(tree)
    assert {path for path, _ in tree.files()} == {"a/b/x", "side/b/x"}
    assert set(tree.top.entries) == {"a", "side", ".git"}
    assert tree.entry("a/b/up") is not None  # shown, but not entered
    assert look(str(tmp_path / "pipe")) is None
    assert look(f"{tmp_path}/a\0b") is None
    assert scan(str(tmp_path / "missing")) == []


def test_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_DEPTH", 3)
    deep = tmp_path / "/".join("abcdef")
    deep.mkdir(parents=True)
    assert [listed.relative for listed in walk(str(tmp_path), "", watch_nothing)] == ["", "a", "a/b", "a/b/c"]


def test_watched_before_it_is_read(tmp_path: Path) -> None:
    """What is made between the watch and the look is seen by the look."""
    (tmp_path / "d").mkdir()
    made = walk(str(tmp_path), "", lambda relative, path: Path(path, f"made in {relative or 'top'}").touch())
    assert {join(listed.relative, item.name) for listed in made for item in listed.looks} >= {
        "made in top",
        "d/made in d",
    }


def test_probe(tmp_path: Path) -> None:
    (tmp_path / "new" / "in").mkdir(parents=True)
    (tmp_path / "old" / "in").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / ".thumbs" / "x").mkdir(parents=True)
    watched = []
    names = ["new", "old", "gone", "loop", ".thumbs"]
    found = probe(str(tmp_path), "", names, {"old"}, lambda relative, path: watched.append(relative))
    assert [item.name for item in found[0].looks] == names
    assert [item.name for item in found[0].looks if item.seen is None] == ["gone"]
    assert not found[0].is_whole
    assert [listed.relative for listed in found[1:]] == watched == ["new", "new/in"]


def test_listings(tmp_path: Path) -> None:
    for name in ("b.gcode", "A.GCODE", 'q"\\%é.g', "x.txt", "y.ufp"):
        (tmp_path / name).write_text(name)
    (tmp_path / "Sub").mkdir()
    (tmp_path / "Sub" / "z.nc").write_text("z")
    tree = make(str(tmp_path), "gcodes")
    fill(tree)
    listing = json.loads(tree.listing())
    assert [item["path"] for item in listing] == ["A.GCODE", "b.gcode", 'q"\\%é.g', "Sub/z.nc", "y.ufp"]
    item = listing[0]
    assert item == {
        "path": "A.GCODE",
        "modified": (tmp_path / "A.GCODE").stat().st_mtime_ns / 1e9,
        "size": 7,
        "permissions": "rw",
    }
    ready = tree.listing()
    assert tree.listing() is ready
    tree.merge(Listed("Sub", [Look("z.nc", None)], False))
    assert len(json.loads(tree.listing())) == 4
    found: Any = json.loads(b"{%b}" % folder_json(tree.top.entries.values(), None))
    assert [item["dirname"] for item in found["dirs"]] == ["Sub"]
    assert [item["filename"] for item in found["files"]] == ["A.GCODE", "b.gcode", 'q"\\%é.g', "x.txt", "y.ufp"]
    extended: Any = json.loads(
        b"{%b}"
        % folder_json(
            tree.top.entries.values(),
            lambda entry: b'{"size":7,"modified":1.0,"slicer":"S"}' if entry.name == "b.gcode" else None,
        )
    )
    assert extended["files"][1] == {
        "filename": "b.gcode",
        "permissions": "rw",
        "size": 7,
        "modified": 1.0,
        "slicer": "S",
    }
    entry = tree.top.entries["x.txt"]
    assert entry_json(entry) is entry_json(entry)


@pytest.mark.parametrize(
    ("name", "answer"),
    [("a.gcode", True), ("a.G", True), ("a.gco", True), ("a.ufp", True), ("a.NC", True), ("gcode", False), ("", False)],
)
def test_what_can_be_printed(name: str, answer: bool) -> None:
    assert is_gcode(name) is answer


states = st.dictionaries(st.sampled_from("abcde"), st.builds(seen, is_dir=st.booleans(), size=st.integers(0, 2)))


@given(st.lists(states, max_size=8))
def test_any_looks(states: list[dict[str, Seen]]) -> None:
    """Changes that are told, replayed, are the last look; the count is what there is."""
    tree, replayed = make(), set[str]()
    for state in states:
        for change in tree.merge(Listed("", [Look(name, item) for name, item in state.items()], True)):
            if change.kind == "create":
                assert change.relative not in replayed
                replayed.add(change.relative)
            elif change.kind == "delete":
                replayed.remove(change.relative)
            else:
                assert change.relative in replayed
        assert replayed == set(state) == set(tree.top.entries)
        assert tree.count == len(state)
        assert set(tree.top.children) == {name for name, item in state.items() if item.is_dir}
