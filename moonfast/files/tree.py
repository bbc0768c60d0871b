"""What lies in a root: its folders and files as they were last seen, and the differences to what is there now.

Theory. Nothing here believes what an event says has happened. An event, a request or a poll only names places to look
at; `probe` looks (in a worker thread), `Tree.merge` compares with what was known (on the loop) and returns what has
changed. So whatever was seen twice is a change once, and it does not matter who made it.

Listings are kept as ready JSON: that of an entry until it changes, that of a folder until anything in it does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from moonfast.codec import encode
from moonfast.files.roots import Root, is_part

GCODE_EXTENSIONS = (".gcode", ".g", ".gco", ".ufp", ".nc")
"""Of files that are shown as printable, in lower case (specification, "List available files")."""
MAX_DEPTH = 64
MAX_ENTRIES = 500_000
"""Of one root, in all its folders; what comes beyond is not shown."""

CREATE, MODIFY, DELETE, MOVE = "create", "modify", "delete", "move"


class Seen(NamedTuple):
    """One look at a name; None stands for "nothing is there"."""

    is_dir: bool
    size: int
    modified_ns: int
    is_link: bool
    device: int
    inode: int
    has_other_names: bool  # of a file: no one has to close it


class Entry:
    """A file or a folder as it was last seen."""

    __slots__ = ("inode", "is_announced", "is_dir", "json", "modified_ns", "name", "permissions", "size")

    def __init__(self, name: str, seen: Seen, permissions: str) -> None:
        self.name, self.is_dir, self.size, self.modified_ns = name, seen.is_dir, seen.size, seen.modified_ns
        self.permissions, self.inode = permissions, (seen.device, seen.inode)
        self.is_announced = True  # clients know of it
        self.json: bytes | None = None  # as in a listing of its folder

    @property
    def modified(self) -> float:
        """Seconds since 1970."""
        return self.modified_ns / 1e9

    def describe(self) -> dict[str, object]:
        return {"modified": self.modified, "size": self.size, "permissions": self.permissions}


class Change(NamedTuple):
    """One difference. `relative` is the path inside of the root; `entry` is what is there now, or was there."""

    kind: str
    relative: str
    entry: Entry
    source: str | None = None  # of a move: where it was


class Look(NamedTuple):
    """What was found at one name."""

    name: str
    seen: Seen | None


class Listed(NamedTuple):
    """What was found in one folder. `is_whole`: what is not among the looks is not there."""

    relative: str
    looks: list[Look]
    is_whole: bool


class Folder:
    """A folder of a tree. Those in UNWALKED have none: they are read when asked for."""

    __slots__ = ("children", "entries", "json", "parent", "relative", "watch")

    def __init__(self, relative: str, parent: Folder | None) -> None:
        self.relative, self.parent = relative, parent
        self.entries: dict[str, Entry] = {}
        self.children: dict[str, Folder] = {}
        self.json: dict[bool, bytes] = {}  # is_extended -> "dirs" and "files" of a listing
        self.watch = -1  # inotify's descriptor; -1: nobody tells of changes here


UNWALKED = (".thumbs", ".git")


def look(path: str) -> Seen | None:
    """Look at one path, following a link. A link to nothing is nothing."""
    try:
        return _seen(os.stat(path), os.path.islink(path))
    except (OSError, ValueError):
        return None


def _seen(found: os.stat_result, is_link: bool) -> Seen | None:
    is_dir = stat.S_ISDIR(found.st_mode)
    if not is_dir and not stat.S_ISREG(found.st_mode):
        return None  # a socket, a device, a pipe: reading it could hang
    has_other_names = is_link or (not is_dir and found.st_nlink > 1)
    return Seen(is_dir, found.st_size, found.st_mtime_ns, is_link, found.st_dev, found.st_ino, has_other_names)


def probe(
    top: str, relative: str, names: Iterable[str], known: Iterable[str], add_watch: Callable[[str, str], None]
) -> list[Listed]:
    """Look at some names of the folder `relative` of the root at `top`; blocking, for a worker thread.

    Folders that are not among the `known` names are walked. See `walk` for `add_watch`.
    """
    folder = join(top, relative)
    looks = [Look(name, look(f"{folder}/{name}")) for name in names]
    found = [Listed(relative, looks, False)]
    new = [
        item
        for item in looks
        if item.seen is not None and item.seen.is_dir and item.name not in UNWALKED and item.name not in known
    ]
    if new:
        above = _ancestors(folder)
        for item in new:
            if (item.seen.device, item.seen.inode) not in above:  # type: ignore[union-attr]
                found += walk(top, join(relative, item.name), add_watch, above)
    return found


def _ancestors(folder: str) -> frozenset[tuple[int, int]]:
    """Device and inode of a folder and of all those above it: a link to one of them would be a loop."""
    found = set()
    path = os.path.realpath(folder)
    while True:
        seen = look(path)
        if seen is not None:
            found.add((seen.device, seen.inode))
        if path == "/":
            return frozenset(found)
        path = os.path.dirname(path)


def walk(
    top: str, relative: str, add_watch: Callable[[str, str], None], above: frozenset[tuple[int, int]] | None = None
) -> list[Listed]:
    """Everything in a folder and below it, each folder after the one it lies in; blocking, for a worker thread.

    A folder that cannot be read is empty. `add_watch(relative, path)` is called for each before it is read, so that
    nothing that is made meanwhile is missed. `above` are the folders around it: a link to one of them is not followed.
    """
    found: list[Listed] = []
    waiting = [(relative, _ancestors(os.path.dirname(join(top, relative))) if above is None else above, 0)]
    while waiting:
        relative, above, depth = waiting.pop()
        path = join(top, relative)
        add_watch(relative, path)
        looks: list[Look] = []
        here = look(path)
        if here is not None:
            above |= {(here.device, here.inode)}
        for item in scan(path):
            looks.append(item)
            seen = item.seen
            if seen is not None and seen.is_dir and item.name not in UNWALKED and depth < MAX_DEPTH:
                is_loop = seen.is_link and (seen.device, seen.inode) in above
                if not is_loop:
                    waiting.append((join(relative, item.name), above, depth + 1))
        found.append(Listed(relative, looks, True))
    return found


def scan(path: str) -> list[Look]:
    """What lies in one folder; nothing if it cannot be read. Blocking."""
    looks = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    seen = _seen(entry.stat(), entry.is_symlink())
                except OSError:  # gone already, or a link to nothing
                    continue
                if seen is not None:
                    looks.append(Look(entry.name, seen))
    except OSError:
        pass
    return looks


def is_text(name: str) -> bool:
    """Whether a name can be shown: one that is not UTF-8 cannot be written in JSON."""
    return name.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in name)


class Tree:
    """One root as it was last seen."""

    def __init__(self, root: Root, permissions: Callable[[Root, str], str]) -> None:
        self.root, self._permissions = root, permissions
        self.top = Folder("", None)
        self.count = 0
        self.list_json: bytes | None = None
        self.lost: list[Folder] = []  # folders that are gone, for the watcher to let go

    def merge(self, listed: Listed) -> list[Change]:
        """Compare with what was found in one folder; return what has changed since it was last seen."""
        folder = self.folder(listed.relative)
        if folder is None:
            return []  # gone meanwhile: its own disappearance tells the rest
        real = os.path.realpath(self.path(listed.relative)) if folder is not self.top else self.root.real
        changes: list[Change] = []
        if listed.is_whole:
            names = {item.name for item in listed.looks}
            for name in [name for name in folder.entries if name not in names]:
                self._forget(folder, name, changes)
        for item in listed.looks:
            if not is_part(item.name) and is_text(item.name):
                self._compare(folder, item, real, changes)
        if changes:
            self.touched(folder)
        return changes

    def _compare(self, folder: Folder, item: Look, real: str, changes: list[Change]) -> None:
        name, seen = item.name, item.seen
        known = folder.entries.get(name)
        if known is not None and (seen is None or seen.is_dir is not known.is_dir):
            self._forget(folder, name, changes)
            known = None
        if seen is None:
            return
        relative = join(folder.relative, name)
        if known is None:
            if self.count >= MAX_ENTRIES:
                return
            self.count += 1
            entry = folder.entries[name] = self._entry(seen, name, real)
            changes.append(Change(CREATE, relative, entry))
            if seen.is_dir and name not in UNWALKED:
                folder.children[name] = Folder(relative, folder)
        elif (known.size, known.modified_ns, known.inode) != (seen.size, seen.modified_ns, (seen.device, seen.inode)):
            entry = folder.entries[name] = self._entry(seen, name, real)
            entry.is_announced = known.is_announced
            self.touched(folder)
            if not seen.is_dir:  # of a folder the time is no news, but shown
                changes.append(Change(MODIFY, relative, entry))

    def _entry(self, seen: Seen, name: str, real: str) -> Entry:
        path = f"{real}/{name}"
        return Entry(name, seen, self._permissions(self.root, os.path.realpath(path) if seen.is_link else path))

    def _forget(self, folder: Folder, name: str, changes: list[Change]) -> None:
        """Take an entry out, with all that was below it; only the entry itself is told as a change."""
        entry = folder.entries.pop(name)
        self.count -= 1
        changes.append(Change(DELETE, join(folder.relative, name), entry))
        child = folder.children.pop(name, None)
        if child is not None:
            gone = list(descend(child))
            self.count -= sum(len(item.entries) for item in gone)
            self.lost += gone

    def move(self, source: str, target: str) -> bool:
        """Take over that a file or folder has been renamed inside of this root. False: it is not known here."""
        old, name = self._parent(source)
        new, new_name = self._parent(target)
        entry = old.entries.get(name) if old is not None else None
        if old is None or new is None or entry is None or not is_text(new_name):
            return False
        changes: list[Change] = []
        if new_name in new.entries:
            self._forget(new, new_name, changes)
        del old.entries[name]
        entry.name, entry.json = new_name, None
        new.entries[new_name] = entry
        child = old.children.pop(name, None)
        if child is not None:
            new.children[new_name] = child
            child.parent = new
            for item in descend(child):
                item.relative = target + item.relative[len(source) :]
        self.touched(old)
        self.touched(new)
        return True

    # finding

    def path(self, relative: str) -> str:
        return f"{self.root.path}/{relative}" if relative else self.root.path

    def folder(self, relative: str) -> Folder | None:
        """The folder with this path, None if there is none."""
        found: Folder | None = self.top
        for part in relative.split("/") if relative else ():
            found = found.children.get(part) if found is not None else None
        return found

    def entry(self, relative: str) -> Entry | None:
        folder, name = self._parent(relative)
        return folder.entries.get(name) if folder is not None else None

    def _parent(self, relative: str) -> tuple[Folder | None, str]:
        head, _, name = relative.rpartition("/")
        return self.folder(head), name

    def files(self, below: str = "") -> Iterator[tuple[str, Entry]]:
        """Path and entry of every file, in no order."""
        start = self.folder(below)
        for folder in descend(start) if start is not None else ():
            for entry in folder.entries.values():
                if not entry.is_dir:
                    yield join(folder.relative, entry.name), entry

    # listings

    def touched(self, folder: Folder) -> None:
        """Something in a folder is not as it was."""
        folder.json.clear()
        self.list_json = None

    def listing(self) -> bytes:
        """All files as a JSON array, sorted without regard to case; of gcodes only what can be printed."""
        if self.list_json is None:
            items = [(path, entry) for path, entry in self.files() if self.root.name != "gcodes" or is_gcode(path)]
            items.sort(key=_by_name)
            self.list_json = b"[%b]" % b",".join(
                b'{"path":%b,%b}' % (encode(path), entry_json(entry)) for path, entry in items
            )
        return self.list_json


def _by_name(item: tuple[str, Entry]) -> tuple[str, str]:
    return item[0].lower(), item[0]


def entry_json(entry: Entry) -> bytes:
    """What every listing says of an entry: the members of an object, without braces."""
    if entry.json is None:
        entry.json = b'"modified":%b,"size":%d,"permissions":"%b"' % (
            encode(entry.modified),
            entry.size,
            entry.permissions.encode(),
        )
    return entry.json


def folder_json(entries: Iterable[Entry], metadata: Callable[[Entry], bytes | None] | None) -> bytes:
    """ "dirs" and "files" of a listing, sorted by name; `metadata` gives the stored record of a file, if it has one.

    A record has size and time itself, which are those of the file.
    """
    folders: list[bytes] = []
    files: list[bytes] = []
    for entry in sorted(entries, key=lambda item: (item.name.lower(), item.name)):
        name = encode(entry.name)
        if entry.is_dir:
            folders.append(b'{"dirname":%b,%b}' % (name, entry_json(entry)))
            continue
        record = metadata(entry) if metadata is not None else None
        if record is None:
            files.append(b'{"filename":%b,%b}' % (name, entry_json(entry)))
        else:
            permissions = entry.permissions.encode()
            files.append(b'{"filename":%b,"permissions":"%b",%b' % (name, permissions, record[1:]))
    return b'"dirs":[%b],"files":[%b]' % (b",".join(folders), b",".join(files))


def descend(folder: Folder) -> Iterator[Folder]:
    """A folder and all below it."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        yield folder
        waiting.extend(folder.children.values())


def join(folder: str, name: str) -> str:
    """A path of two parts, either of which may be empty."""
    return f"{folder}/{name}" if folder and name else folder or name


def is_gcode(name: str) -> bool:
    """Whether a file can be printed, by its name."""
    return name.lower().endswith(GCODE_EXTENSIONS)
