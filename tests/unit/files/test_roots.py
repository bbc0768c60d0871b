"""Where a client's path leads, and where it must not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.errors import ApiError, BadRequest, Forbidden, MethodNotAllowed
from moonfast.files.roots import MAX_NAME_BYTES, READ, WRITE, Root, Roots, is_below, split


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a data folder, a program folder, and things that are nobody's business."""
    for name in ("data/gcodes/sub", "data/config", "data/certs", "program/docs", ".ssh", "stuff", "data/gcodes/.git"):
        (tmp_path / "home" / name).mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return tmp_path / "home"


def make(home: Path) -> Roots:
    roots = Roots(str(home))
    roots.reserve("certs", f"{home}/data/certs")
    roots.reserve("program", f"{home}/program", is_readable=True)
    roots.add("gcodes", f"{home}/data/gcodes", True)
    roots.add("config", f"{home}/data/config", True)
    roots.add("docs", f"{home}/program/docs")
    return roots


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("gcodes", ""),
        ("gcodes/", ""),
        ("/gcodes//a/./b/", "a/b"),
        ("gcodes/...", "..."),
        ("gcodes/..a", "..a"),
        ("gcodes/%2e%2e/x", "%2e%2e/x"),  # decoded once by the transport: here it is a name
        ("gcodes/a\\..\\b", "a\\..\\b"),
        ("gcodes/.hidden/x", ".hidden/x"),
        ("gcodes/.gitignore", ".gitignore"),
        ("gcodes/日本 'x\".g", "日本 'x\".g"),
    ],
)
def test_allowed(home: Path, path: str, relative: str) -> None:
    roots = make(home)
    location = roots.locate(path, WRITE)
    assert (location.root.name, location.relative) == ("gcodes", relative)
    assert location.path == f"{home}/data/gcodes/{relative}".rstrip("/")
    assert location.name == f"gcodes/{relative}".rstrip("/")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("", BadRequest),
        ("/", BadRequest),
        ("nowhere/x", BadRequest),
        ("GCODES/x", BadRequest),
        ("/etc/passwd", BadRequest),
        ("../gcodes/x", BadRequest),
        ("gcodes/..", BadRequest),
        ("gcodes/../../x", BadRequest),
        ("gcodes/sub/../x", BadRequest),
        ("gcodes/../config/x", MethodNotAllowed),
        ("gcodes/a\0b", BadRequest),
        ("gcodes/\udcff", BadRequest),
        ("gcodes/" + "x" * (MAX_NAME_BYTES + 1), BadRequest),
        ("gcodes/" + "é" * (MAX_NAME_BYTES // 2 + 1), BadRequest),
        ("gcodes/" + "x/" * 3000, BadRequest),
        ("gcodes/.git", Forbidden),
        ("gcodes/.git/config", Forbidden),
        ("gcodes/sub/.git/config", Forbidden),
    ],
)
def test_refused(home: Path, path: str, error: type[ApiError]) -> None:
    with pytest.raises(error) as caught:
        make(home).locate(path)
    assert str(home) not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("target", "is_allowed"),
    [
        ("data/gcodes/sub", True),
        ("data/config", True),
        ("stuff", True),
        ("data/certs", False),
        (".ssh", False),
        ("data/gcodes/.git", False),
        ("../outside", False),
        ("..", False),
        ("/etc", False),
        ("/", False),
        ("/media/stick", True),
        ("/media", True),
        ("/mediant", False),
    ],
)
def test_links(home: Path, target: str, is_allowed: bool) -> None:
    roots = make(home)
    (home / "data" / "gcodes" / "link").symlink_to(target if target.startswith("/") else home / target)
    for path in ("gcodes/link", "gcodes/link/x/y"):
        if is_allowed:
            assert roots.locate(path, WRITE).path == f"{home}/data/{path}"
        else:
            with pytest.raises(Forbidden):
                roots.locate(path, READ)


def test_a_link_in_a_link(home: Path) -> None:
    (home / "stuff" / "more").symlink_to(home.parent / "outside")
    (home / "data" / "gcodes" / "link").symlink_to(home / "stuff")
    roots = make(home)
    roots.locate("gcodes/link/x")
    with pytest.raises(Forbidden):
        roots.locate("gcodes/link/more/x")
    (home / "data" / "gcodes" / "loop").symlink_to("loop")
    roots.locate("gcodes/loop")  # leads nowhere: whoever opens it finds nothing


def test_reserved(home: Path) -> None:
    roots = make(home)
    roots.add("data", f"{home}/data", True)
    for path in ("data/certs", "data/certs/key.pem"):
        with pytest.raises(Forbidden, match="certs"):
            roots.locate(path)
    roots.locate("data/certs2", WRITE)  # whole components are compared
    roots.locate("docs/a.md", READ)
    with pytest.raises(Forbidden, match="program"):
        roots.locate("docs/a.md", WRITE)
    root = roots.get("data")
    assert isinstance(root, Root)
    assert roots.permissions(root, f"{home}/data/certs/x") == ""
    assert roots.permissions(root, f"{home}/program/x") == "r"
    assert roots.permissions(root, f"{home}/data/x") == "rw"
    assert roots.permissions(root, f"{home}/.ssh/x") == ""
    assert roots.permissions(root, f"{home}/data/.git/x") == ""


def test_a_reserved_path_that_is_a_link(home: Path) -> None:
    (home / "stuff" / "base").mkdir()
    (home / "data" / "base").symlink_to(home / "stuff" / "base")
    roots = make(home)
    roots.reserve("base", f"{home}/data/base")
    roots.add("data", f"{home}/data", True)
    roots.add("stuff", f"{home}/stuff", True)
    for path in ("data/base", "stuff/base/x"):
        with pytest.raises(Forbidden, match="base"):
            roots.locate(path)


def test_a_home_that_is_everything(home: Path) -> None:
    """The home of a service's user may be "/": that opens nothing."""
    roots = Roots("/")
    roots.add("gcodes", f"{home}/data/gcodes", True)
    (home / "data" / "gcodes" / "link").symlink_to("/etc")
    with pytest.raises(Forbidden):
        roots.locate("gcodes/link/passwd")


def test_news_of_roots(home: Path) -> None:
    roots, seen = make(home), list[str]()
    roots.on_update = lambda root: seen.append(f"{root.name} {root.permissions} {root.path}")
    roots.add("gcodes", f"{home}/data/gcodes", True)
    assert seen == []
    roots.add("gcodes", f"{home}/stuff", True)
    roots.add("gcodes", f"{home}/stuff", False)
    roots.add("new", f"{home}/stuff")
    assert seen == [f"gcodes rw {home}/stuff", f"gcodes r {home}/stuff", f"new r {home}/stuff"]
    assert roots.names() == ["gcodes", "config", "docs", "new"]


@given(st.lists(st.sampled_from(["..", ".", "", "a", "gcodes", "config", "certs", "link", "/", ".git", "\0"])))
def test_no_text_leads_out(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    home = tmp_path_factory.getbasetemp() / "everyones"
    if not home.exists():
        (home / "gcodes").mkdir(parents=True)
        (home / "gcodes" / "link").symlink_to("/etc")
    roots = Roots("/")
    roots.add("gcodes", f"{home}/gcodes", True)
    try:
        location = roots.locate("/".join(parts), WRITE)
    except ApiError:
        return
    assert is_below(location.real, roots.all()[0].real)
    assert ".." not in split("/".join(parts))


def test_whole_components() -> None:
    assert is_below("/a/b", "/a/b")
    assert is_below("/a/b/c", "/a/b")
    assert is_below("/a", "/")
    assert not is_below("/a/bc", "/a/b")
    assert not is_below("/a", "/a/b")
