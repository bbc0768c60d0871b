"""Keeps the trees true: looks again wherever the kernel says that something has happened, or a request made it so.

    inotify -> _read -> dirty names of a folder -> (SETTLE_S) -> probe in a worker -> Tree.merge -> on_changes

Each root has its own dirty names and its own task, so that a storm in one does not delay the others. What is made by
requests is looked at by `sync` and told by whoever made it; while a request works on a path, `hold` keeps the watcher
from telling what is not finished. Where the kernel tells nothing (network drives, watch limit, observer switched off)
folders are looked at every POLL_S, and when they are listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from moonfast.files.roots import Root, Roots, is_below, is_part
from moonfast.files.tree import (
    CREATE,
    DELETE,
    MODIFY,
    MOVE,
    UNWALKED,
    Change,
    Entry,
    Folder,
    Listed,
    Look,
    Tree,
    descend,
    join,
    probe,
    scan,
    walk,
)
from moonfast.files.workers import Workers
from moonfast.host import inotify

log = logging.getLogger(__name__)

SETTLE_S = 0.05
"""Between a notice and the look: what happens together is looked at once."""
MODIFY_INTERVAL_S = 1.0
"""A file that is written over and over is told of once in this time."""
POLL_S = 30.0
MERGE_SLICE = 300
"""Names merged before the loop may do something else."""
MANY_NAMES = 2000
"""Dirty names of one folder beyond which the whole folder is looked at."""
MAX_READS = 100
"""Of the kernel's queue before a listing."""
MAX_EARLY = 100_000
"""Notices kept of folders that are still being walked."""
BLIND_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone", "vboxsf", "afs", "ceph")
"""What others do there the kernel does not hear of."""

OnChanges = Callable[[Tree, list[Change]], None]


class _Dirty:
    """What is to be looked at in one root."""

    __slots__ = ("due", "folders", "is_all", "moves", "opened", "task")

    def __init__(self) -> None:
        self.folders: dict[Folder, set[str] | None] = {}  # None: everything in it
        self.opened: set[tuple[Folder, str]] = set()  # made, not closed yet
        self.moves: list[tuple[Folder, str, Folder, str]] = []
        self.is_all = False
        self.task: asyncio.Task[None] | None = None
        self.due: asyncio.TimerHandle | None = None


class Watcher:
    """Watches all roots that are given to `add`. `on_changes` is called on the loop, in the order of what happened."""

    def __init__(self, workers: Workers, roots: Roots, on_changes: OnChanges, *, observes: bool = True) -> None:
        self._workers, self._roots, self._on_changes = workers, roots, on_changes
        self._observes = observes
        self._queue: inotify.Inotify | None = None
        self._by_watch: dict[int, list[tuple[Tree, Folder]]] = {}
        self._early: dict[int, set[str]] = {}  # notices of folders that no tree knows yet
        self._moving: dict[int, tuple[Tree, Folder, str]] = {}  # by cookie: a name that has left its folder
        self._dirty: dict[Tree, _Dirty] = {}
        self._held: list[str] = []  # paths that requests work on
        self._told: dict[tuple[str, str], float] = {}
        self._filled: dict[Tree, asyncio.Future[None]] = {}
        self._poll: asyncio.TimerHandle | None = None
        self._is_blind: dict[Tree, bool] = {}
        self._is_stopping = False
        self.trees: dict[str, Tree] = {}
        self.warnings: list[str] = []

    # life

    def start(self) -> None:
        """Open the kernel's queue. Without one the folders are polled."""
        self._is_stopping = False
        if self._observes:
            try:
                self._queue = inotify.Inotify()
            except (OSError, AttributeError) as exc:
                self._warn(
                    f"The kernel gives no notices of changed files ({exc}): folders are looked at from time to time"
                )
            else:
                asyncio.get_running_loop().add_reader(self._queue.fd, self._read)
        self._poll = asyncio.get_running_loop().call_later(POLL_S, self._poll_unwatched)

    async def stop(self) -> None:
        """Watch nothing more."""
        self._is_stopping = True
        if self._poll is not None:
            self._poll.cancel()
        tasks = []
        for dirty in self._dirty.values():
            if dirty.due is not None:
                dirty.due.cancel()
            if dirty.task is not None:
                dirty.task.cancel()
                tasks.append(dirty.task)
        if tasks:
            await asyncio.wait(tasks)
        if self._queue is not None:
            asyncio.get_running_loop().remove_reader(self._queue.fd)
            self._queue.close()
            self._queue = None

    def add(self, root: Root) -> Tree:
        """Watch a root from now on, in place of an earlier one of this name. It is read in the background."""
        old = self.trees.get(root.name)
        if old is not None:
            self._drop(old)
        tree = self.trees[root.name] = Tree(root, self._roots.permissions)
        self._dirty[tree] = _Dirty()
        self._is_blind[tree] = self._queue is None or is_blind(root.real)
        self._filled[tree] = asyncio.get_running_loop().create_future()
        self._dirty[tree].is_all = True
        self._schedule(tree, 0.0)
        return tree

    def _drop(self, tree: Tree) -> None:
        dirty = self._dirty.pop(tree)
        if dirty.due is not None:
            dirty.due.cancel()
        if dirty.task is not None:
            dirty.task.cancel()
        tree.lost += descend(tree.top)
        self._let_go(tree)
        filled = self._filled.pop(tree)
        if not filled.done():
            filled.set_result(None)

    def has_been_filled(self, tree: Tree) -> bool:
        """Whether the whole root has been read once."""
        future = self._filled.get(tree)
        return future is not None and future.done()

    async def filled(self, tree: Tree) -> None:
        """Wait until the whole root has been read once."""
        future = self._filled.get(tree)
        if future is not None and not future.done():
            await asyncio.shield(future)

    # notices of the kernel

    def _read(self) -> bool:
        """Take in some events; False: there were none."""
        assert self._queue is not None
        events = self._queue.read()
        for event in events:
            if event.mask & inotify.OVERFLOW:
                for tree, dirty in self._dirty.items():
                    dirty.is_all = True
                    dirty.opened.clear()  # that they were closed may be among what is lost
                    self._schedule(tree)
                continue
            places = self._by_watch.get(event.watch)
            if event.mask & inotify.IGNORED:
                self._unwatched(event.watch)
            elif not event.name or is_part(event.name):
                continue
            elif places is None:
                early = self._early.setdefault(event.watch, set())
                if len(early) < MAX_EARLY:
                    early.add(event.name)
            else:
                for tree, folder in places:
                    self._notice(tree, folder, event)
        return bool(events)

    def _notice(self, tree: Tree, folder: Folder, event: inotify.Event) -> None:
        dirty, name = self._dirty[tree], event.name
        if event.mask & inotify.CREATE and not event.mask & inotify.IS_DIR:
            dirty.opened.add((folder, name))
        elif event.mask & (inotify.CLOSE_WRITE | inotify.DELETE | inotify.MOVED_TO | inotify.MOVED_FROM):
            dirty.opened.discard((folder, name))
        if event.mask & inotify.MOVED_FROM:
            if len(self._moving) > MANY_NAMES:
                self._moving.clear()  # names that have left for good
            self._moving[event.cookie] = (tree, folder, name)
        elif event.mask & inotify.MOVED_TO:
            origin = self._moving.pop(event.cookie, None)
            if origin is not None and origin[0] is tree:
                dirty.moves.append((origin[1], origin[2], folder, name))
        self._mark(tree, folder, name)

    def _mark(self, tree: Tree, folder: Folder, name: str) -> None:
        folders = self._dirty[tree].folders
        names = folders.setdefault(folder, set())
        if names is not None:
            names.add(name)
            if len(names) > MANY_NAMES:
                folders[folder] = None
        self._schedule(tree)

    def _unwatched(self, watch: int) -> None:
        """The kernel has let go of a folder: it is gone, or what it lies on was unmounted."""
        for tree, folder in self._by_watch.pop(watch, ()):
            if folder.watch == watch:
                folder.watch = -1
            if folder is tree.top:
                self._dirty[tree].is_all = True
                self._schedule(tree)

    # looking

    def _schedule(self, tree: Tree, delay_s: float = SETTLE_S) -> None:
        dirty = self._dirty.get(tree)
        if dirty is not None and dirty.due is None and dirty.task is None and not self._is_stopping:
            dirty.due = asyncio.get_running_loop().call_later(delay_s, self._begin, tree)

    def _begin(self, tree: Tree) -> None:
        dirty = self._dirty[tree]
        dirty.due = None
        dirty.task = asyncio.get_running_loop().create_task(self._refresh(tree, dirty), name=f"files {tree.root.name}")
        dirty.task.add_done_callback(lambda task: self._ended(tree, dirty, task))

    def _ended(self, tree: Tree, dirty: _Dirty, task: asyncio.Task[None]) -> None:
        dirty.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Looking at the root %s failed", tree.root.name, exc_info=error)
        filled = self._filled.get(tree)
        if filled is not None and not filled.done() and not dirty.is_all:
            filled.set_result(None)
        if dirty.is_all or dirty.moves or dirty.folders:
            self._schedule(tree, MODIFY_INTERVAL_S if self._is_all_waiting(tree, dirty) else SETTLE_S)

    def _is_all_waiting(self, tree: Tree, dirty: _Dirty) -> bool:
        """Whether what is left has to wait: it is held, or was told of just now."""
        return not dirty.is_all and not dirty.moves

    async def _refresh(self, tree: Tree, dirty: _Dirty) -> None:
        """Look at everything that is dirty now."""
        if dirty.is_all:
            dirty.is_all = False
            dirty.folders.clear()
            await self._merge(tree, await self._workers.quick(walk, tree.root.path, "", self._add_watch), dirty)
            return
        moves, dirty.moves = dirty.moves, []
        for move in moves:
            await self._take_move(tree, dirty, *move)
        folders, dirty.folders = dirty.folders, {}
        for folder, names in folders.items():
            if tree.folder(folder.relative) is not folder:
                continue
            if names is None:
                await self._merge(tree, await self._list(tree, folder), dirty)
                continue
            ready = []
            for name in names:
                if self._must_wait(tree, join(folder.relative, name)):
                    dirty.folders.setdefault(folder, set())
                    waiting = dirty.folders[folder]
                    if waiting is not None:
                        waiting.add(name)
                else:
                    ready.append(name)
            if ready:
                await self._merge(tree, await self._probe(tree, folder, ready), dirty)

    def _must_wait(self, tree: Tree, relative: str) -> bool:
        if self._is_held(tree, relative):
            return True
        told = self._told.get((tree.root.name, relative))
        return told is not None and asyncio.get_running_loop().time() - told < MODIFY_INTERVAL_S

    def _is_held(self, tree: Tree, relative: str) -> bool:
        path = tree.path(relative)
        return any(_overlap(path, held) for held in self._held)

    def _probe(self, tree: Tree, folder: Folder, names: list[str]) -> asyncio.Future[list[Listed]]:
        known = frozenset(folder.children)
        return self._workers.quick(probe, tree.root.path, folder.relative, names, known, self._add_watch)

    async def _list(self, tree: Tree, folder: Folder) -> list[Listed]:
        """Look at everything in one folder, and walk the folders in it that are new."""
        looks = await self._workers.quick(scan, tree.path(folder.relative))
        new = [item.name for item in looks if _is_folder(item) and item.name not in folder.children]
        walked = (await self._probe(tree, folder, new))[1:] if new else []
        return [Listed(folder.relative, looks, True), *walked]

    async def _take_move(self, tree: Tree, dirty: _Dirty, old: Folder, name: str, new: Folder, new_name: str) -> None:
        """Tell of a move as such, if the thing was known where it was and is now where it is said to be."""
        source, target = join(old.relative, name), join(new.relative, new_name)
        entry = old.entries.get(name)
        if entry is None or not entry.is_announced or self._is_held(tree, source) or self._is_held(tree, target):
            return
        listed = await self._probe(tree, new, [new_name])
        seen = listed[0].looks[0].seen
        if seen is None or (seen.device, seen.inode) != entry.inode or old.entries.get(name) is not entry:
            return
        if tree.move(source, target):
            self._let_go(tree)
            changed = tree.entry(target)
            if changed is not None:
                self._tell(tree, [Change(MOVE, target, changed, source)], dirty)

    async def _merge(self, tree: Tree, found: list[Listed], dirty: _Dirty, *, is_told: bool = True) -> list[Change]:
        """Take over what was found, in slices."""
        changes: list[Change] = []
        for listed in found:
            relative, looks, is_whole = listed
            pieces = [looks] if is_whole and len(looks) <= MERGE_SLICE else _sliced(looks)
            if is_whole and len(pieces) > 1:  # what is missing from all of them
                folder = tree.folder(relative)
                names = {item.name for item in looks}
                gone = [name for name in folder.entries if name not in names] if folder is not None else []
                pieces.append([Look(name, None) for name in gone])
            for piece in pieces:
                self._close_links(tree, relative, piece, dirty)
                new = tree.merge(Listed(relative, piece, is_whole and len(pieces) == 1))
                self._let_go(tree)
                if is_told:
                    self._tell(tree, new, dirty)
                changes += new
                if len(pieces) > 1 or len(found) > 1:
                    await asyncio.sleep(0)
            self._adopt(tree, relative, dirty)
        return changes

    def _close_links(self, tree: Tree, relative: str, looks: list[Look], dirty: _Dirty) -> None:
        """A link is made, but never written to: nobody will close it."""
        folder = tree.folder(relative)
        if folder is not None and dirty.opened:
            dirty.opened.difference_update(
                (folder, item.name) for item in looks if item.seen is not None and item.seen.has_other_names
            )

    def _tell(self, tree: Tree, changes: list[Change], dirty: _Dirty) -> None:
        """Hand changes on, but for files that are still being written: those are told when they are closed."""
        now = asyncio.get_running_loop().time()
        if len(self._told) > MANY_NAMES:
            self._told = {key: at for key, at in self._told.items() if now - at < MODIFY_INTERVAL_S}
        filled = self._filled.get(tree)
        is_first = filled is not None and not filled.done()
        told = []
        for change in changes:
            entry = change.entry
            if change.kind in (CREATE, MODIFY) and not entry.is_dir and not is_first:
                if self._is_open(tree, dirty, change.relative):
                    entry.is_announced = False
                    continue
                if not entry.is_announced:
                    entry.is_announced = True
                    change = change._replace(kind=CREATE)
            elif change.kind is DELETE and not entry.is_announced:
                continue
            if change.kind is MODIFY:
                self._told[tree.root.name, change.relative] = now
            told.append(change)
        if told:
            self._on_changes(tree, told)

    def _is_open(self, tree: Tree, dirty: _Dirty, relative: str) -> bool:
        head, _, name = relative.rpartition("/")
        folder = tree.folder(head)
        return folder is not None and (folder, name) in dirty.opened

    # watches

    def _add_watch(self, relative: str, path: str) -> None:
        """Ask the kernel to tell of a folder; in a worker thread."""
        queue = self._queue
        if queue is None:
            return
        try:
            queue.watch(path)
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                self._warn(
                    "There are more folders than the kernel may watch (fs.inotify.max_user_watches): the others are "
                    "looked at from time to time. Raise the limit with sysctl."
                )

    def _adopt(self, tree: Tree, relative: str, dirty: _Dirty) -> None:
        """Connect a folder that was read to the kernel's watch on it."""
        folder = tree.folder(relative)
        if folder is None or self._queue is None or folder.watch >= 0:
            return
        try:
            watch = self._queue.watch(tree.path(relative))  # the same watch as before it was read
        except OSError:
            return
        folder.watch = watch
        self._by_watch.setdefault(watch, []).append((tree, folder))
        for name in self._early.pop(watch, ()):
            self._mark(tree, folder, name)

    def _let_go(self, tree: Tree) -> None:
        """Give back the watches of folders that are gone."""
        lost, tree.lost = tree.lost, []
        for folder in lost:
            places = self._by_watch.get(folder.watch)
            if places is None:
                continue
            places[:] = [place for place in places if place[1] is not folder]
            if not places:
                del self._by_watch[folder.watch]
                if self._queue is not None:
                    self._queue.unwatch(folder.watch)
            folder.watch = -1

    # what requests do

    @contextlib.contextmanager
    def hold(self, *paths: str) -> Iterator[None]:
        """While a request works on these paths, do not tell what is seen there."""
        self._held.extend(paths)
        try:
            yield
        finally:
            for path in paths:
                self._held.remove(path)

    async def sync(self, tree: Tree, relative: str) -> tuple[Entry | None, list[Change]]:
        """Look at one path now, and at the folders above it that are not known.

        Return what is there, and all that has changed there and below: the caller tells of that. What else is new,
        such as folders made on the way, is told here.
        """
        dirty = self._dirty[tree]
        changes: list[Change] = []
        folder, parts = tree.top, relative.split("/") if relative else []
        for index, name in enumerate(parts):
            is_last = index == len(parts) - 1
            if is_last or name not in folder.children:
                changes += await self._merge(tree, await self._probe(tree, folder, [name]), dirty, is_told=False)
            if is_last or name not in folder.children:
                break
            folder = folder.children[name]
        own = [change for change in changes if is_below(change.relative, relative)]
        for change in own:
            change.entry.is_announced = True
        entry = tree.entry(relative)
        if entry is not None:
            entry.is_announced = True
        if len(own) < len(changes):
            self._tell(tree, [change for change in changes if not is_below(change.relative, relative)], dirty)
        return entry, own

    async def settle(self, tree: Tree) -> None:
        """Before a listing: take in what the kernel has told until now, and look at it."""
        for _ in range(MAX_READS):
            if self._queue is None or not self._read():
                break
        dirty = self._dirty[tree]
        if dirty.task is not None:
            await asyncio.wait([dirty.task])
        if dirty.due is not None:
            dirty.due.cancel()
            self._begin(tree)
            if dirty.task is not None:
                await asyncio.wait([dirty.task])

    async def look_again(self, tree: Tree, relative: str, *, below: bool = False) -> None:
        """Before a folder is listed of which nobody tells: look at it, and at all `below` it if that is wanted."""
        folder = tree.folder(relative)
        if folder is None:
            return
        dirty = self._dirty[tree]
        if below:
            found = await self._workers.quick(walk, tree.root.path, relative, self._add_watch)
        else:
            found = await self._list(tree, folder)
        await self._merge(tree, found, dirty)

    def is_told(self, tree: Tree, folder: Folder | None = None) -> bool:
        """Whether the kernel tells of changes in a folder, or in all of them."""
        if self._is_blind[tree]:
            return False
        if folder is not None:
            return folder.watch >= 0
        return all(item.watch >= 0 for item in descend(tree.top))

    def _poll_unwatched(self) -> None:
        loop = asyncio.get_running_loop()
        self._poll = loop.call_later(POLL_S, self._poll_unwatched)
        for tree, dirty in self._dirty.items():
            if self._is_blind[tree]:
                dirty.is_all = True
            else:
                for folder in descend(tree.top):
                    if folder.watch < 0:
                        dirty.folders[folder] = None
            if dirty.is_all or dirty.folders:
                self._schedule(tree)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            log.warning("%s", text)


def is_blind(path: str, mounts: str = "/proc/self/mountinfo") -> bool:
    """Whether a path lies on a file system of which the kernel cannot tell what others do there."""
    best, kind = "", ""
    try:
        text = Path(mounts).read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    for line in text.splitlines():  # proc(5), /proc/pid/mountinfo
        left, _, right = line.partition(" - ")
        fields, more = left.split(), right.split()
        if len(fields) > 4 and more:
            point = fields[4].encode().decode("unicode_escape") if "\\" in fields[4] else fields[4]
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, more[0]
    return kind in BLIND_FILE_SYSTEMS


def _is_folder(item: Look) -> bool:
    return item.seen is not None and item.seen.is_dir and item.name not in UNWALKED


def _sliced(looks: list[Look]) -> list[list[Look]]:
    return [looks[at : at + MERGE_SLICE] for at in range(0, len(looks), MERGE_SLICE)]


def _overlap(path: str, other: str) -> bool:
    """Whether two paths are the same, or one lies in the other."""
    return path == other or path.startswith(other + "/") or other.startswith(path + "/")
