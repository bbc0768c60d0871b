"""The endpoints of the database: what clients keep in it, and its backups.

A namespace is an object for clients: its first keys are records of the store, what is deeper lies in their values.
Source: specification, "Database APIs".
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import Raw, encode
from moonfast.component import Component, Restart
from moonfast.data_path import Options, read_uuid
from moonfast.errors import ApiError, BadRequest, Forbidden, NotFound, Unavailable
from moonfast.state.job import Job
from moonfast.storage.database import Database, Namespace
from moonfast.vocab import DELETE, GET, POST

log = logging.getLogger(__name__)

PROTECTED = ("moonraker", "gcode_metadata", "gcode_details", "history", "job_queue")
"""Clients may read them."""
FORBIDDEN = ("authorized_users", "database")
MAX_DEPTH = 64
"""Names in one key."""
SUFFIX = ".db"
DAILY = "daily-"
REPLACED = "replaced-"
KEPT = 5
"""Of the backups that the server makes by itself, of each kind."""
DAILY_S = 24 * 3600.0
LOOK_S = 3600.0
"""Between two looks whether the daily backup is due."""
FIRST_LOOK_S = 600.0
MAX_NAME_BYTES = 200
_ABSENT: Any = object()


class NamespaceList(TypedDict):
    namespaces: list[str]
    backups: list[str]


class Item(TypedDict):
    namespace: str
    key: Any
    value: Any


class Sizes(TypedDict):
    previous_size: int
    new_size: int


class Backup(TypedDict):
    backup_path: str


class Restored(TypedDict):
    restored_tables: list[str]
    restored_namespaces: list[str]


class Items:
    """Values at keys that lead into values."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, namespace: str, key: str | list[str] | None) -> Raw:
        space = self._database.namespace(namespace)
        if key is None:
            text = space.raw_all()
            if text is None:
                raise NotFound(f"Namespace {namespace} not found")
        else:
            path = _path(key)
            if len(path) == 1:
                text = space.raw(path[0])
            else:
                found = _inner(space, path)
                text = None if found is _ABSENT else encode(found)
            if text is None:
                raise _not_found(namespace, key)
        return Raw(b'{"namespace":%b,"key":%b,"value":%b}' % (encode(namespace), encode(key), text))

    async def post(self, namespace: str, key: str | list[str], value: Any) -> Item:
        space, path = self._database.namespace(namespace), _path(key)
        await space.save(path[0], _with(space.get(path[0], _ABSENT), path, 1, value, namespace))
        return {"namespace": namespace, "key": key, "value": value}

    async def delete(self, namespace: str, key: str | list[str]) -> Item:
        space, path = self._database.namespace(namespace), _path(key)
        if len(path) == 1:
            value = space.get(path[0], _ABSENT)
            if value is not _ABSENT:
                await space.remove(path[0])
        else:
            top = space.get(path[0])
            holder = _descend(top, path[1:-1])
            value = holder.pop(path[-1], _ABSENT) if isinstance(holder, dict) else _ABSENT
            if value is not _ABSENT:
                await space.save(path[0], top)
        if value is _ABSENT:
            raise _not_found(namespace, key)
        return {"namespace": namespace, "key": key, "value": value}


class DatabaseApi(Component):
    def __init__(self, database: Database, options: Options, job: Job, restart: Restart) -> None:
        self._database, self._job, self._restart = database, job, restart
        self._data_path = options.data_path
        self._folder = Path(options.data_path, "backup", "database")
        self._items = Items(database)
        if options.debug:
            self.parts = (DebugDatabaseApi(database, self._items),)

    async def start(self) -> None:
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        if self._database.damaged is not None:
            self.warnings = [await self._describe_damage(Path(self._database.damaged).name)]
        own = self._database.namespace("moonraker")
        said = own.get("database", {})
        said["unsafe_shutdowns"] = said.get("unsafe_shutdowns", 0) + self._database.was_cut_off
        said |= {"protected_namespaces": list(PROTECTED), "forbidden_namespaces": list(FORBIDDEN)}
        own.update({"instance_id": await asyncio.to_thread(read_uuid, self._data_path), "database": said})
        self.spawn(self._back_up_daily())

    async def _describe_damage(self, name: str) -> str:
        backups = await asyncio.to_thread(_backups, self._folder)
        remedy = "there is no backup to restore"
        if backups:
            remedy = f"restore the newest backup with POST /server/database/restore?filename={max(backups)[1]}"
        kept = f"it is kept as '{name}' in the folder 'database', and a new one is used"
        return f"The database was damaged; {kept}: {remedy}."

    # items

    @endpoint(GET, "/server/database/list")
    async def list_namespaces(self, call: Call) -> NamespaceList:
        """Return the namespaces that hold something, and the names of the backups."""
        backups = await asyncio.to_thread(_backups, self._folder)
        return {
            "namespaces": [name for name in self._database.namespaces() if name not in FORBIDDEN],
            "backups": sorted(name for _, name in backups),
        }

    @endpoint(GET, "/server/database/item")
    def get_item(self, call: Call, namespace: str, key: str | list[str] | None = None) -> Raw:
        """Return the value of a key, or, without one, the whole namespace.

        `key` is "outer.inner" or ["outer", "inner"]. Error 403: the namespace is not for clients; 404: there is no such
        key or namespace.
        """
        if namespace in FORBIDDEN:
            raise Forbidden(f"Read/Write access to namespace '{namespace}' is forbidden")
        return self._items.get(namespace, key)

    @endpoint(POST, "/server/database/item")
    async def post_item(self, call: Call, namespace: str, key: str | list[str], value: Any) -> Item:
        """Store a value; what is missing on the way to it is made. It is on the disk when the answer comes.

        Error 400: a value on the way is no object; 403: the namespace belongs to the server; 507: the disk is full, and
        the old value stays.
        """
        _check_writable(namespace)
        return await self._items.post(namespace, key, value)

    @endpoint(DELETE, "/server/database/item")
    async def delete_item(self, call: Call, namespace: str, key: str | list[str]) -> Item:
        """Delete a key and return its value. A namespace goes with its last key. Error 403, 404: as for the others."""
        _check_writable(namespace)
        return await self._items.delete(namespace, key)

    # the whole store

    @endpoint(POST, "/server/database/compact")
    async def compact(self, call: Call) -> Sizes:
        """Make the file of the database as small as what is in it; sizes in bytes. Error 507: the disk is full."""
        before = self._database.size_bytes
        await self._database.compact()
        return {"previous_size": before, "new_size": self._database.size_bytes}

    @endpoint(POST, "/server/database/backup")
    async def post_backup(self, call: Call, filename: str | None = None) -> Backup:
        """Write a copy of the database into the folder `backup/database`. Error 400: the name cannot be used."""
        path = self._path_of(filename) if filename else self._new_path("moonfast-")
        await self._database.copy(path)
        return {"backup_path": str(path)}

    @endpoint(DELETE, "/server/database/backup")
    async def delete_backup(self, call: Call, filename: str) -> Backup:
        """Delete a backup. Error 404: there is none of this name."""
        path = self._path_of(filename)
        try:
            await asyncio.to_thread(path.unlink)
        except FileNotFoundError:
            raise NotFound(f"Backup file {filename} does not exist") from None
        except OSError:
            raise Forbidden(f"The backup {filename} cannot be deleted: check the rights in its folder") from None
        return {"backup_path": str(path)}

    @endpoint(POST, "/server/database/restore")
    async def restore(self, call: Call, filename: str) -> Restored:
        """Have the contents of a backup instead of what is in the database, then restart this server.

        What was there is kept as a backup named "replaced-". Error 400: there is no such backup, or it is damaged; 503:
        a print is running.
        """
        path = self._path_of(filename)
        if not await asyncio.to_thread(path.is_file):
            raise BadRequest(f"Restoration File {path} does not exist")
        if self._job.is_active:
            raise Unavailable("The database is not restored while Klipper prints: wait for the end of the print")
        await self._database.copy(self._new_path(REPLACED))
        await self._database.restore(path)
        await asyncio.to_thread(_prune, self._folder, REPLACED)
        log.info("The database was restored from '%s'", path.name)
        self._restart()
        return {"restored_tables": [], "restored_namespaces": self._database.namespaces()}

    def _path_of(self, filename: str) -> Path:
        if Path(filename).name != filename or "\0" in filename or filename.startswith(".") or not filename:
            raise BadRequest(f"Invalid name {filename}. It must be the name of a file, without a folder")
        if len(filename.encode()) > MAX_NAME_BYTES:
            raise BadRequest(f"The name is too long: at most {MAX_NAME_BYTES} bytes")
        return self._folder / filename

    async def _back_up_daily(self) -> None:
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            if not self._job.is_active:
                try:
                    await self._back_up_if_due()
                except (ApiError, OSError) as exc:
                    log.warning("The daily backup of the database could not be written: %s", exc)
            await asyncio.sleep(LOOK_S)

    async def _back_up_if_due(self) -> None:
        """Write a backup if the newest daily one is a day old."""
        newest = max(await asyncio.to_thread(_backups, self._folder, DAILY), default=(0.0, ""))
        if not 0 <= time.time() - newest[0] < DAILY_S:
            await self._database.copy(self._new_path(DAILY))
            await asyncio.to_thread(_prune, self._folder, DAILY)

    def _new_path(self, prefix: str) -> Path:
        """A name with the time in it that no backup has yet."""
        stem = time.strftime(f"{prefix}%Y%m%d-%H%M%S")
        path, number = self._folder / f"{stem}{SUFFIX}", 1
        while path.exists():
            number += 1
            path = self._folder / f"{stem}-{number}{SUFFIX}"
        return path


class DebugDatabaseApi:
    """The same without any protection, for developers: only with `--debug`."""

    def __init__(self, database: Database, items: Items) -> None:
        self._database, self._items = database, items

    @endpoint(GET, "/debug/database/list")
    def list_namespaces(self, call: Call) -> dict[str, list[str]]:
        """Return all namespaces."""
        return {"namespaces": self._database.namespaces(), "tables": []}

    @endpoint(GET, "/debug/database/item")
    def get_item(self, call: Call, namespace: str, key: str | list[str] | None = None) -> Raw:
        """Return any value."""
        return self._items.get(namespace, key)

    @endpoint(POST, "/debug/database/item")
    async def post_item(self, call: Call, namespace: str, key: str | list[str], value: Any) -> Item:
        """Store any value."""
        return await self._items.post(namespace, key, value)

    @endpoint(DELETE, "/debug/database/item")
    async def delete_item(self, call: Call, namespace: str, key: str | list[str]) -> Item:
        """Delete any key."""
        return await self._items.delete(namespace, key)


def _check_writable(namespace: str) -> None:
    if namespace in FORBIDDEN:
        raise Forbidden(f"Read/Write access to namespace '{namespace}' is forbidden")
    if namespace in PROTECTED:
        raise Forbidden(f"Write access to namespace '{namespace}' is forbidden")


def _path(key: str | list[str]) -> list[str]:
    """The names of a key from the outer one to the inner one. BadRequest: it has none, or too many."""
    path = key.split(".") if isinstance(key, str) else key
    if not path or len(path) > MAX_DEPTH or not all(path):
        raise BadRequest(f"Argument 'key' must be 1 to {MAX_DEPTH} names with a dot between them, or an array of names")
    return path


def _inner(space: Namespace, path: list[str]) -> Any:
    return _descend(space.get(path[0], _ABSENT), path[1:])


def _descend(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _with(value: Any, path: list[str], depth: int, inner: Any, namespace: str) -> Any:
    """A value with another one at the inner end of the path; `depth` names of the path lead to the value."""
    if depth == len(path):
        return inner
    if value is _ABSENT:
        value = {}
    elif not isinstance(value, dict):
        key = ".".join(path[:depth])  # clients know this text
        raise BadRequest(f"Item at key '{key}' in namespace '{namespace}'is not a dictionary object, cannot insert")
    value[path[depth]] = _with(value.get(path[depth], _ABSENT), path, depth + 1, inner, namespace)
    return value


def _not_found(namespace: str, key: str | list[str]) -> NotFound:
    shown = key if isinstance(key, str) else ".".join(key)
    return NotFound(f"Key '{shown}' in namespace '{namespace}' not found")


def _backups(folder: Path, prefix: str = "") -> list[tuple[float, str]]:
    """Time and name of all backups with this prefix. Blocking."""
    try:
        with os.scandir(folder) as entries:
            return [
                (item.stat().st_mtime, item.name)
                for item in entries
                if item.is_file() and item.name.startswith(prefix) and not item.name.startswith(".")
            ]
    except OSError:
        return []


def _prune(folder: Path, prefix: str) -> None:
    """Delete the oldest of the backups that the server makes by itself. Blocking."""
    for _, name in sorted(_backups(folder, prefix))[:-KEPT]:
        (folder / name).unlink(missing_ok=True)
