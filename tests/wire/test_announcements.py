"""Announcements: fetched, dismissed, woken, and answered without a network."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from moonfast.components import announcements
from moonfast.components.announcements import Announcements, parse
from moonfast.host.http_client import RequestError
from tests.wire.peer import Peer, peer
from tests.wire.running import Client, RpcError, restarted, running

CONFIG = "[announcements]\nsubscriptions:\n    Mine\n"
ITEM = (
    "<item><title>T{0} &amp; more</title><link>http://x/{0}</link><guid>feed/{0}</guid><category>{1}</category>"
    "<description>D</description><pubDate>Mon, 0{0} Jan 2024 10:00:00 GMT</pubDate></item>"
)


def feed(*items: str) -> bytes:
    return f"<?xml version='1.0'?><rss version='2.0'><channel>{''.join(items)}</channel></rss>".encode()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Feeds are fetched when the test says so."""

    async def never(self: Announcements) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Announcements, "_update_always", never)
    return monkeypatch


def point_at(monkeypatch: pytest.MonkeyPatch, server: Peer) -> None:
    monkeypatch.setattr(announcements, "FEED_URL", server.url + "/{}.xml")


async def ids(client: Client, **params: Any) -> list[str]:
    return [entry["entry_id"] for entry in (await client.call("server.announcements.list", params))["entries"]]


async def test_fetching_and_dismissing(unhurried: pytest.MonkeyPatch) -> None:
    async with peer() as web, running(CONFIG) as served:
        point_at(unhurried, web)
        client = await served.client()
        web.put("/mine.xml", feed(ITEM.format(1, "x"), ITEM.format(2, "high")))
        answer = await client.call("server.announcements.update")
        assert answer["modified"] is True
        first, second = answer["entries"]
        assert (first["entry_id"], first["priority"], first["feed"]) == ("feed/2", "high", "mine")
        assert (second["title"], second["url"], second["date"]) == ("T1 & more", "http://x/1", 1704103200.0)
        assert sorted(web.asked) == ["/klipper.xml", "/mine.xml", "/moonraker.xml"]
        (told,) = await client.wait_for("notify_announcement_update")
        assert told["entries"] == answer["entries"]
        assert (await client.call("server.announcements.update"))["modified"] is False
        assert await client.call("server.announcements.dismiss", {"entry_id": "feed/2"}) == {"entry_id": "feed/2"}
        assert await client.wait_for("notify_announcement_dismissed") == [{"entry_id": "feed/2"}]
        assert await ids(client, include_dismissed=False) == ["feed/1"]
        web.put("/mine.xml", feed(ITEM.format(2, "high"), ITEM.format(3, "x")))
        await client.call("server.announcements.update")
        assert await ids(client) == ["feed/3", "feed/2"]
        assert await ids(client, include_dismissed=False) == ["feed/3"]  # what was dismissed stays so
        web.put("/mine.xml", status="500 Oops")
        await client.call("server.announcements.update")
        assert await ids(client) == ["feed/3", "feed/2"]


async def test_everyone_is_told_of_an_update_behind_its_answer(unhurried: pytest.MonkeyPatch) -> None:
    async with peer() as web, running(CONFIG) as served:
        point_at(unhurried, web)
        asking, other = await served.clients(2)
        web.put("/mine.xml", feed(ITEM.format(1, "x")))
        answer = await asking.call("server.announcements.update")
        assert asking.of("notify_announcement_update") == []  # the answer came first
        for client in (asking, other):
            assert await client.wait_for("notify_announcement_update") == [{"entries": answer["entries"]}]
        await asking.call("server.announcements.update")
        await asking.call("server.info")
        assert len(asking.of("notify_announcement_update")) == 1  # nothing was new


# What Moonraker 0.11 had in its database after some were dismissed.
MOVED_OVER: dict[str, Any] = {
    "000000": {
        "entry_id": "arksine/klipper/issue/1",
        "url": "http://x/1",
        "title": "T",
        "description": "D",
        "priority": "normal",
        "date": 1704103200.0,
        "dismissed": True,
        "date_dismissed": 1795486907.18311,
        "dismiss_wake": None,
        "source": "moonlight",
        "feed": "klipper",
    },
    "000001": {
        "entry_id": "feed/1",
        "url": "http://x/1",
        "title": "T",
        "description": "D",
        "priority": "high",
        "date": 1704189600.0,
        "dismissed": True,
        "date_dismissed": 1795486907.184687,
        "dismiss_wake": 1e11,
        "source": "moonlight",
        "feed": "mine",
    },
    "000002": {"entry_id": "feed/2", "feed": "mine", "dismiss_wake": "soon", "date": "x"},  # hardly one
    "000003": {"title": "no id"},
    "000004": 7,
}


async def test_what_moonraker_stored_is_taken_over(unhurried: pytest.MonkeyPatch) -> None:
    async with peer() as web, running(CONFIG) as served:
        database = served.server._database
        await database.namespace("announcements").save_all(MOVED_OVER)
        await database.namespace("moonraker").save("announcements", {"stored_feeds": ["other"]})
        async with restarted(served) as later:
            point_at(unhurried, web)
            client = await later.client()
            found = await client.call("server.announcements.list")
            assert found["feeds"] == ["moonraker", "klipper", "mine", "other"]
            assert found["entries"][:2] == [MOVED_OVER["000001"], MOVED_OVER["000000"]]
            assert [(entry["entry_id"], entry["dismissed"]) for entry in found["entries"][2:]] == [("feed/2", False)]
            web.put("/mine.xml", feed(ITEM.format(1, "x"), ITEM.format(3, "x")))
            await client.call("server.announcements.update")
            assert await ids(client, include_dismissed=False) == ["feed/3"]
            stored = dict(later.server._database.namespace("announcements").items())
            assert sorted(stored) == ["000000", "000001", "000002"]
            assert {item["entry_id"] for item in stored.values()} == {"arksine/klipper/issue/1", "feed/1", "feed/3"}


async def test_dismissed_for_a_time(unhurried: pytest.MonkeyPatch) -> None:
    async with peer() as web, running(CONFIG) as served:
        point_at(unhurried, web)
        client = await served.client()
        web.put("/mine.xml", feed(ITEM.format(1, "x")))
        await client.call("server.announcements.update")
        await client.call("server.announcements.dismiss", {"entry_id": "feed/1", "wake_time": 0.05})
        assert await ids(client, include_dismissed=False) == []
        assert await client.wait_for("notify_announcement_wake") == [{"entry_id": "feed/1"}]
        assert await ids(client, include_dismissed=False) == ["feed/1"]
        for wake in (-1, 0, 1e12, "soon"):
            with pytest.raises(RpcError) as caught:
                await client.call("server.announcements.dismiss", {"entry_id": "feed/1", "wake_time": wake})
            assert caught.value.code == 400


async def test_what_is_dismissed_stays_so_over_a_restart(unhurried: pytest.MonkeyPatch) -> None:
    async with peer() as web, running(CONFIG) as served:
        point_at(unhurried, web)
        client = await served.client()
        web.put("/mine.xml", feed(ITEM.format(1, "x"), ITEM.format(2, "x")))
        await client.call("server.announcements.update")
        await client.call("server.announcements.post_feed", {"name": "Other"})
        await client.call("server.announcements.dismiss", {"entry_id": "feed/1"})
        await client.call("server.announcements.dismiss", {"entry_id": "feed/2", "wake_time": 0.5})
        async with restarted(served) as later:
            client = await later.client()
            found = await client.call("server.announcements.list", {"include_dismissed": False})
            assert found == {"entries": [], "feeds": ["moonraker", "klipper", "mine", "other"]}
            assert await client.wait_for("notify_announcement_wake") == [{"entry_id": "feed/2"}]


async def test_nothing_is_fetched_without_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer() as web, running() as served:
        point_at(monkeypatch, web)
        client = await served.client()
        assert await client.call("server.announcements.update") == {"entries": [], "modified": False}
        await client.call("server.announcements.post_feed", {"name": "other"})
        await asyncio.sleep(0.05)
        assert web.asked == []


async def test_without_a_network(unhurried: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with running(CONFIG) as served:
        unhurried.setattr(announcements, "FEED_URL", "http://127.0.0.1:1/{}.xml")
        client = await served.client()
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                assert (await client.call("server.announcements.update"))["entries"] == []
        told = [record for record in caplog.records if "cannot be fetched" in record.message]
        assert len(told) == 3  # feeds, each once
        assert all(record.levelno == logging.INFO for record in told)


async def test_feeds() -> None:
    async with running(CONFIG) as served:
        client = await served.client()
        for name, action in (("new", "added"), ("NEW", "skipped"), ("klipper", "skipped")):
            found = await client.call("server.announcements.post_feed", {"name": name})
            assert found == {"feed": name.lower(), "action": action}
        for method, name in (
            ("delete_feed", "mine"),
            ("delete_feed", "none"),
            ("post_feed", "../x"),
            ("post_feed", ""),
        ):
            with pytest.raises(RpcError) as caught:
                await client.call(f"server.announcements.{method}", {"name": name})
            assert caught.value.code == 400
        await client.call("server.announcements.delete_feed", {"name": "new"})
        assert "new" not in (await client.call("server.announcements.feeds"))["feeds"]


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><rss><channel>&b;</channel></rss>'


@pytest.mark.parametrize("text", [b"", b"no xml", b"<rss><channel>", b"\xff\xfe", BOMB, BOMB.decode().encode("utf-16")])
def test_feeds_that_are_none(text: bytes) -> None:
    with pytest.raises(RequestError):
        parse(text, "x")


def test_entries_that_lack_something() -> None:
    text = feed("<item/>", "<item><guid>a</guid><pubDate>soon</pubDate></item>", "<item><link>l</link></item>")
    found = parse(text, "x")
    assert [(entry["entry_id"], entry["date"]) for entry in found] == [("a", 0.0), ("l", 0.0)]
    many = feed(*(f"<item><guid>{number}</guid></item>" for number in range(announcements.MAX_ENTRIES + 5)))
    assert len(parse(many, "x")) == announcements.MAX_ENTRIES
    assert parse(feed(f"<item><guid>a</guid><title>{'x' * 10_000}</title></item>"), "x")[0]["title"] == "x" * 4096


async def test_what_is_dismissed_during_a_fetch_stays_so(unhurried: pytest.MonkeyPatch) -> None:
    async with peer() as web, running(CONFIG) as served:
        point_at(unhurried, web)
        client = await served.client()
        web.put("/mine.xml", feed(ITEM.format(1, "x")))
        await client.call("server.announcements.post_feed", {"name": "slow"})
        web.put("/slow.xml", feed(ITEM.format(2, "x")))
        await client.call("server.announcements.update")
        web.answers["/slow.xml"] = None
        unhurried.setattr(announcements, "TIMEOUT_S", 0.5)
        fetching = await client.start_call("server.announcements.update")
        while web.asked.count("/slow.xml") < 2:
            await asyncio.sleep(0.005)
        await client.call("server.announcements.dismiss", {"entry_id": "feed/1"})
        await client.call("server.announcements.delete_feed", {"name": "slow"})
        await fetching
        found = await client.call("server.announcements.list")
        assert [(entry["entry_id"], entry["dismissed"]) for entry in found["entries"]] == [("feed/1", True)]
