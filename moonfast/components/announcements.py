"""News of the projects that a printer runs on, from RSS feeds that users subscribe to.

Nothing is fetched unless the section is in the configuration; without a network the endpoints answer with what is
known. What users have dismissed is stored. Source: Moonraker's documentation, "Announcements"; RSS 2.0.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated, Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint, notification
from moonfast.component import Component
from moonfast.config.load import Config
from moonfast.config.options import Option, Section
from moonfast.errors import BadRequest
from moonfast.host.http_client import HttpClient, RequestError
from moonfast.storage.database import Database
from moonfast.vocab import DELETE, GET, POST

log = logging.getLogger(__name__)

NAMESPACE = "announcements"
"""Entries by number, as Moonraker stores them; feeds of users are under this name in the namespace of the server."""
FEEDS = "stored_feeds"
FEED_URL = "https://arksine.github.io/moonlight/assets/{}.xml"
OWN_FEEDS = ("moonraker", "klipper")
FIRST_UPDATE_S = 60.0
"""A machine that boots has other things to do."""
UPDATE_S = 30 * 60.0
TIMEOUT_S = 15.0
MAX_FEEDS = 50
MAX_ENTRIES = 200
"""Of one feed."""
MAX_TEXT = 4096
"""Characters of one text in an entry."""
MAX_WAKE_S = 365 * 24 * 3600.0


class AnnouncementsConfig(Section, name="announcements"):
    subscriptions: Annotated[list[str], Option(doc="Further feeds, by name.")] = []
    enable_moonlight: Annotated[bool, Option(doc="Fetch the feeds. Only if this section is in the configuration.")] = (
        True
    )
    dev_mode: Annotated[bool, Option(doc="Fetch nothing.")] = False


class Entry(TypedDict):
    entry_id: str
    url: str
    title: str
    description: str
    priority: str
    date: float
    dismissed: bool
    date_dismissed: float | None
    dismiss_wake: float | None
    source: str
    feed: str


class EntryList(TypedDict):
    entries: list[Entry]
    feeds: list[str]


class FeedList(TypedDict):
    feeds: list[str]


class FeedChange(TypedDict):
    feed: str
    action: str


class UpdateAnswer(TypedDict):
    entries: list[Entry]
    modified: bool


class EntryId(TypedDict):
    entry_id: str


class Entries(TypedDict):
    entries: list[Entry]


UPDATED = notification("announcement_update", Entries, "There are other announcements: all of them.")
DISMISSED = notification("announcement_dismissed", EntryId, "A user has dismissed an announcement.")
WOKEN = notification("announcement_wake", EntryId, "An announcement that was dismissed for a time is shown again.")


class Announcements(Component):
    def __init__(self, config: AnnouncementsConfig, all_config: Config, database: Database) -> None:
        self._fetches = config.enable_moonlight and not config.dev_mode and "announcements" in all_config
        self._configured = list(dict.fromkeys((*OWN_FEEDS, *(name.lower() for name in config.subscriptions))))
        self._store, self._own = database.namespace(NAMESPACE), database.namespace("moonraker")
        self._client = HttpClient()
        self._added: list[str] = []  # by users
        self._entries: dict[str, Entry] = {}
        self._wakers: dict[str, asyncio.TimerHandle] = {}
        self._updating = asyncio.Lock()
        self._broken: set[str] = set()  # feeds whose failure has been told

    async def start(self) -> None:
        notes = self._own.get(NAMESPACE)
        stored = notes.get(FEEDS) if isinstance(notes, dict) else None
        self._added = [str(name) for name in stored if name not in self._configured] if isinstance(stored, list) else []
        for _, item in self._store.items():
            entry = _stored(item)
            if entry is not None:
                self._entries[entry["entry_id"]] = entry
                self._wait_for(entry)
        if self._fetches:
            self.spawn(self._update_always())

    async def stop(self) -> None:
        for handle in self._wakers.values():
            handle.cancel()

    @property
    def _feeds(self) -> list[str]:
        return [*self._configured, *self._added]

    # for clients

    @endpoint(GET, "/server/announcements/list")
    def list_entries(self, call: Call, include_dismissed: bool = True) -> EntryList:
        """Return the announcements, the newest first, and the feeds they come from."""
        return {"entries": self._listed(include_dismissed), "feeds": self._feeds}

    @endpoint(GET, "/server/announcements/feeds")
    def list_feeds(self, call: Call) -> FeedList:
        """Return the feeds."""
        return {"feeds": self._feeds}

    @endpoint(POST, "/server/announcements/update", runs_as_task=True)
    async def update(self, call: Call) -> UpdateAnswer:
        """Fetch the feeds now, if that is enabled."""
        is_modified = self._fetches and await self._update()
        entries = self._listed(True)
        if is_modified:
            self.emit_soon(UPDATED, {"entries": entries})
        return {"entries": entries, "modified": is_modified}

    @endpoint(POST, "/server/announcements/dismiss")
    async def dismiss(self, call: Call, entry_id: str, wake_time: float | None = None) -> EntryId:
        """Dismiss an announcement, for ever or for `wake_time` seconds. Error 400: there is none with this id."""
        entry = self._entries.get(entry_id)
        if entry is None:
            raise BadRequest(f"No key matching entry id: {entry_id}")
        if wake_time is not None and not 0 < wake_time <= MAX_WAKE_S:
            raise BadRequest(f"Argument 'wake_time' must be above 0 and at most {MAX_WAKE_S:.0f} seconds")
        now = time.time()
        wake = None if wake_time is None else now + wake_time
        dismissed: Entry = {**entry, "dismissed": True, "date_dismissed": now, "dismiss_wake": wake}
        await self._save({**self._entries, entry_id: dismissed})
        self._wait_for(dismissed)
        self.emit_soon(DISMISSED, {"entry_id": entry_id})
        return {"entry_id": entry_id}

    @endpoint(POST, "/server/announcements/feed")
    async def post_feed(self, call: Call, name: str) -> FeedChange:
        """Subscribe to a feed."""
        name = name.lower()
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > MAX_TEXT:
            raise BadRequest("The name of a feed consists of letters, digits, '-' and '_'")
        if name in self._feeds:
            return {"feed": name, "action": "skipped"}
        if len(self._feeds) >= MAX_FEEDS:
            raise BadRequest(f"There are {MAX_FEEDS} feeds already: remove one first")
        await self._own.save(NAMESPACE, {FEEDS: [*self._added, name]})
        self._added.append(name)
        if self._fetches:
            self.spawn(self._update_and_tell())
        return {"feed": name, "action": "added"}

    @endpoint(DELETE, "/server/announcements/feed")
    async def delete_feed(self, call: Call, name: str) -> FeedChange:
        """End a subscription. Error 400: there is none, or it comes from the configuration."""
        name = name.lower()
        if name not in self._added:
            if name in self._configured:
                raise BadRequest(f"Feed '{name}' exists in the configuration, cannot remove")
            raise BadRequest(f"Feed '{name}' not stored")
        kept = [item for item in self._added if item != name]
        await self._own.save(NAMESPACE, {FEEDS: kept})
        self._added = kept
        await self._save({key: entry for key, entry in self._entries.items() if entry["feed"] != name})
        return {"feed": name, "action": "removed"}

    def _listed(self, with_dismissed: bool) -> list[Entry]:
        found = (entry for entry in self._entries.values() if with_dismissed or not entry["dismissed"])
        return sorted(found, key=lambda entry: -entry["date"])

    # entries

    async def _save(self, entries: dict[str, Entry]) -> None:
        """Have these entries from now on. ApiError: they cannot be stored, and stay as they were."""
        await self._store.save_all(*self._records(entries))
        for key in self._entries.keys() - entries.keys():
            if (handle := self._wakers.pop(key, None)) is not None:
                handle.cancel()
        self._entries = entries

    def _records(self, entries: dict[str, Entry]) -> tuple[dict[str, Entry], list[str]]:
        """What is to be stored, by key, and the keys that are to go."""
        records = {f"{number:06}": entry for number, entry in enumerate(entries.values())}
        return records, sorted(set(self._store.keys()).difference(records))

    def _wait_for(self, entry: Entry) -> None:
        """Show it again when its time has come."""
        uid, wake = entry["entry_id"], entry["dismiss_wake"]
        if (handle := self._wakers.pop(uid, None)) is not None:
            handle.cancel()
        if wake is not None:
            delay = max(wake - time.time(), 0.0)
            self._wakers[uid] = asyncio.get_running_loop().call_later(delay, self._wake, uid)

    def _wake(self, uid: str) -> None:
        self._wakers.pop(uid, None)
        entry = self._entries.get(uid)
        if entry is not None:
            self._entries[uid] = {**entry, "dismissed": False, "date_dismissed": None, "dismiss_wake": None}
            self._store.update(*self._records(self._entries))
            self.emit(WOKEN, {"entry_id": uid})

    # feeds

    async def _update_always(self) -> None:
        await asyncio.sleep(FIRST_UPDATE_S)
        while True:
            await self._update_and_tell()
            await asyncio.sleep(UPDATE_S)

    async def _update_and_tell(self) -> None:
        if await self._update():
            self.emit(UPDATED, {"entries": self._listed(True)})

    async def _update(self) -> bool:
        """Fetch all feeds; whether anything is new. What one feed had stays if it cannot be fetched."""
        async with self._updating:
            fetched = [(feed, await self._fetch(feed)) for feed in self._feeds]
            before = self._entries  # as it is now: users may have dismissed some meanwhile
            entries = {key: entry for key, entry in before.items() if entry["feed"] in self._feeds}
            for feed, found in fetched:
                if found is not None and feed in self._feeds:
                    kept = {key: entry for key, entry in entries.items() if entry["feed"] != feed}
                    entries = kept | {entry["entry_id"]: _merged(entry, before) for entry in found}
            if entries == before:
                return False
            await self._save(entries)
            return True

    async def _fetch(self, feed: str) -> list[Entry] | None:
        try:
            status, _, body = await self._client.get(FEED_URL.format(feed), timeout_s=TIMEOUT_S)
            if status != 200:
                raise RequestError(f"status {status}")
            found = await asyncio.to_thread(parse, body, feed)
        except RequestError as exc:
            if feed not in self._broken:
                self._broken.add(feed)
                log.info("The announcements of '%s' cannot be fetched: %s. They are tried again.", feed, exc)
            return None
        self._broken.discard(feed)
        return found


def parse(text: bytes, feed: str) -> list[Entry]:
    """Read a feed. RequestError: it is none."""
    from email.utils import parsedate_to_datetime
    from xml.etree import ElementTree

    if b"\0" in text or b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # UTF-16 could hide the others
        raise RequestError("the feed is not UTF-8, or defines entities, which could grow without a bound")
    try:
        items = ElementTree.fromstring(text).findall("channel/item")
    except ElementTree.ParseError as exc:
        raise RequestError(f"the feed is no XML: {exc}") from None
    found: list[Entry] = []
    for item in items[:MAX_ENTRIES]:
        values = {child.tag.rpartition("}")[2]: (child.text or "").strip()[:MAX_TEXT] for child in item}
        uid = values.get("guid") or values.get("link")
        if not uid:
            continue
        try:
            date = parsedate_to_datetime(values.get("pubDate", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            date = 0.0
        found.append(
            {
                "entry_id": uid,
                "url": values.get("link", ""),
                "title": values.get("title", ""),
                "description": values.get("description", ""),
                "priority": "high" if values.get("category") == "high" else "normal",
                "date": date,
                "dismissed": False,
                "date_dismissed": None,
                "dismiss_wake": None,
                "source": "moonlight",
                "feed": feed,
            }
        )
    return found


def _stored(item: Any) -> Entry | None:
    """An entry out of the database, where clients and other programs may have put anything; None: it is none."""
    if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in ("entry_id", "feed")):
        return None
    numbers = {name: item.get(name) for name in ("date", "date_dismissed", "dismiss_wake")}
    known = {name: value if isinstance(value, int | float) else None for name, value in numbers.items()}
    texts = {name: str(item.get(name, "")) for name in ("entry_id", "url", "title", "description", "feed")}
    rest = {"priority": str(item.get("priority", "normal")), "source": str(item.get("source", "moonlight"))}
    entry: Any = {**texts, **rest, **known, "date": known["date"] or 0.0, "dismissed": item.get("dismissed") is True}
    return entry  # type: ignore[no-any-return]


def _merged(entry: Entry, before: dict[str, Entry]) -> Entry:
    """What was fetched, with what the user has done to it."""
    old: Any = before.get(entry["entry_id"], {})
    kept: Any = {key: old[key] for key in ("dismissed", "date_dismissed", "dismiss_wake") if key in old}
    merged: Any = {**entry, **kept}
    return merged  # type: ignore[no-any-return]
