"""Announcements: whatever a feed holds becomes entries that clients can show, and what users did to them stays."""

from __future__ import annotations

import contextlib
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.components.announcements import MAX_TEXT, Entry, _merged, parse
from moonfast.host.http_client import RequestError

TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
DATES = st.sampled_from(
    ("Mon, 01 Jan 2024 10:00:00 GMT", "Mon, 01 Jan 2024 10:00:00 -0000", "31 Dec 9999 23:59:59 -1200")
)
ITEMS = st.lists(
    st.dictionaries(st.sampled_from(("guid", "link", "title", "category", "description", "other")), TEXT, max_size=6)
    | st.fixed_dictionaries({"guid": TEXT, "pubDate": TEXT | DATES}),
    max_size=4,
)


def feed(items: list[dict[str, str]]) -> bytes:
    lines = ("".join(f"<{name}>{escape(text)}</{name}>" for name, text in item.items()) for item in items)
    return f"<rss><channel>{''.join(f'<item>{line}</item>' for line in lines)}</channel></rss>".encode()


@given(ITEMS)
def test_every_item_with_an_id_is_an_entry(items: list[dict[str, str]]) -> None:
    found = parse(feed(items), "mine")
    ids = [item.get("guid", "").strip() or item.get("link", "").strip() for item in items]
    assert [entry["entry_id"] for entry in found] == [uid for uid in ids if uid]
    for entry in found:
        assert entry.keys() == Entry.__required_keys__
        assert isinstance(entry["date"], float)
        assert entry["priority"] in ("high", "normal")
        assert (entry["feed"], entry["source"], entry["dismissed"]) == ("mine", "moonlight", False)


@given(
    st.binary(max_size=200) | st.binary(max_size=60).map(lambda inner: b"<rss><channel>" + inner + b"</channel></rss>")
)
def test_any_bytes(text: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert isinstance(parse(text, "x"), list)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_entities_cannot_hide(encoding: str) -> None:
    text = (
        "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'b'>]><rss><channel><item><guid>&b;</guid></item></channel></rss>"
    )
    with pytest.raises(RequestError):
        parse(text.encode(encoding), "x")


def test_dates() -> None:
    def date(text: str) -> float:
        return parse(feed([{"guid": "a", "pubDate": text}]), "x")[0]["date"]

    assert date("Mon, 01 Jan 2024 10:00:00 GMT") == date("Mon, 01 Jan 2024 12:00:00 +0200") == 1704103200.0
    assert date("yesterday") == date("") == date("Mon, 99 Jan 2024 10:00:00 GMT") == 0.0


def test_texts_are_cut() -> None:
    (entry,) = parse(feed([dict.fromkeys(("guid", "link", "title", "description"), "x" * 10_000)]), "x")
    assert {len(str(entry[name])) for name in ("entry_id", "url", "title", "description")} == {MAX_TEXT}  # type: ignore[literal-required]


def test_what_users_did_stays() -> None:
    (entry,) = parse(feed([{"guid": "a", "title": "new"}]), "x")
    before: Any = {**entry, "title": "old", "dismissed": True, "date_dismissed": 5.0, "dismiss_wake": 9.0}
    merged = _merged(entry, {"a": before})
    assert (merged["title"], merged["dismissed"], merged["date_dismissed"], merged["dismiss_wake"]) == (
        "new",
        True,
        5.0,
        9.0,
    )
    assert _merged(entry, {}) == entry
