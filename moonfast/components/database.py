"""The database as clients see it: values by namespace and key, and the backups of all of it.

A key is a path: "a.b.c" or ["a", "b", "c"]. Its first part is a record of the store, the others lead into the JSON of
that record, which is read, changed and saved as a whole. A value that was posted is on the disk before the answer.

Source: specification, "Database APIs".
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, TypedDict, cast

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.codec import Raw, decode, encode
from moonfast.component import Component, Restart
from moonfast.config.options import Option, Section
from moonfast.data_path import Options, read_uuid
from moonfast.errors import ApiError, BadRequest, Forbidden, NotFound, PayloadTooLarge, Unavailable
from moonfast.state.job import Job
from moonfast.storage.backups import Backups
from moonfast.storage.database import Database
from moonfast.vocab import DELETE, GET, POST

log = logging.getLogger(__name__)

ALWAYS_LISTED = ("moonraker", "gcode_metadata")
PROTECTED = frozenset(("moonraker", "gcode_metadata", "gcode_details", "history", "job_queue", "announcements"))
FORBIDDEN = frozenset(("authorized_users", "database"))  # password hashes and the API key; notes of the program

MAX_KEY_PARTS = 64
MAX_RECORD_BYTES = 16 * 1024**2
MAX_ANSWER_BYTES = 64 * 1024**2
KEYS_AT_ONCE = 200
"""Records read before the loop may do something else."""
FIRST_BACKUP_S = 600.0
"""From the start of the server to its first look at the backups: a machine that boots has other things to do."""
BACKUP_RETRY_S = 3600.0

Key = str | list[str]


class DatabaseConfig(Section, name="database"):
    enable_database_debug: Annotated[bool, Option(doc="Not used: start with `-g` to have the debug endpoints.")] = False


class Contents(TypedDict):
    namespaces: list[str]
    backups: list[str]


class Item(TypedDict):
    namespace: str
    key: Key | None
    value: Any


class Sizes(TypedDict):
    previous_size: int
    new_size: int


class BackupPath(TypedDict):
    backup_path: str


class Restored(TypedDict):
    restored_tables: list[str]
    restored_namespaces: list[str]


class Items:
    """Values by path, without a look at who may have them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, namespace: str, key: Key | None) -> Item:
        """NotFound: it is not there."""
        if key is None:
            return _answer(namespace, key, await self._whole(namespace))
        first, *rest = parts_of(key)
        text = self._database.namespace(namespace).raw(first)
        if text is None:
            raise _no_key(namespace, key)
        if rest:
            value = decode(text)
            for part in rest:
                if not isinstance(value, dict) or part not in value:
                    raise _no_key(namespace, key)
                value = value[part]
            text = encode(value)
        return _answer(namespace, key, text)

    async def write(self, namespace: str, key: Key, value: Any) -> Item:
        """BadRequest: a part of the path is a value without fields."""
        parts = parts_of(key)
        store = self._database.namespace(namespace)
        text = _encoded(value)
        record = text
        if len(parts) > 1:
            top = inner = store.get(parts[0], {})
            for depth, part in enumerate(parts[1:], 1):
                if not isinstance(inner, dict):
                    raise BadRequest(
                        f"Item at key '{'.'.join(parts[:depth])}' in namespace '{namespace}' is not a dictionary "
                        "object, cannot insert"
                    )
                if depth == len(parts) - 1:
                    inner[part] = value
                else:
                    inner = inner.setdefault(part, {})
            record = _encoded(top)
        await store.save_text(parts[0], record)
        return _answer(namespace, key, text)

    async def remove(self, namespace: str, key: Key) -> Item:
        """Delete a value; a record that is left empty goes, too. NotFound: it is not there."""
        first, *rest = parts_of(key)
        store = self._database.namespace(namespace)
        text = store.raw(first)
        if text is None:
            raise _no_key(namespace, key)
        if rest:
            top = inner = decode(text)
            for part in rest[:-1]:
                inner = inner.get(part) if isinstance(inner, dict) else None
            if not isinstance(inner, dict) or rest[-1] not in inner:
                raise _no_key(namespace, key)
            text = encode(inner.pop(rest[-1]))
            if top:
                await store.save_text(first, encode(top))
                return _answer(namespace, key, text)
        await store.remove(first)
        return _answer(namespace, key, text)

    async def _whole(self, namespace: str) -> bytes:
        """All of a namespace as one object. PayloadTooLarge: it is more than one answer should hold."""
        store = self._database.namespace(namespace)
        pieces: list[bytes] = []
        size_bytes = 0
        keys = store.keys()
        for at in range(0, len(keys), KEYS_AT_ONCE):
            if at:
                await asyncio.sleep(0)
            some = keys[at : at + KEYS_AT_ONCE]
            read = zip(some, store.raws(some), strict=True)
            added = [_key_text(key) + b":" + text for key, text in read if text is not None]  # None: deleted meanwhile
            pieces += added
            size_bytes += sum(map(len, added))
            if size_bytes > MAX_ANSWER_BYTES:
                raise PayloadTooLarge(f"Namespace {namespace} is too large to be read at once: ask for single keys")
        if not pieces and namespace not in ALWAYS_LISTED:
            raise NotFound(f"Namespace {namespace} not found")
        return b"{" + b",".join(pieces) + b"}"


class DatabaseApi(Component):
    """The endpoints, and the backup once a day."""

    def __init__(
        self,
        config: DatabaseConfig,
        database: Database,
        backups: Backups,
        options: Options,
        job: Job,
        restart: Restart,
    ) -> None:
        self._database, self._backups, self._options = database, backups, options
        self._job, self._restart = job, restart
        self._items = Items(database)
        if options.debug:
            self.parts = (DebugDatabaseApi(database, backups, self._items),)

    async def start(self) -> None:
        self.warnings = self._backups.warnings
        store = self._database.namespace("moonraker")
        uuid = read_uuid(self._options.data_path)
        if uuid is not None and "instance_id" not in store:
            store.put("instance_id", uuid)
        if self._database.was_cut_off:
            said = store.get("database", {})
            store.put("database", {**said, "unsafe_shutdowns": said.get("unsafe_shutdowns", 0) + 1})
        self.spawn(self._back_up_daily())

    @endpoint(GET, "/server/database/list")
    def contents(self, call: Call) -> Contents:
        """List the namespaces, and the backups in `backup/database` of the data folder."""
        names = {*self._database.namespaces(), *ALWAYS_LISTED} - FORBIDDEN
        return {"namespaces": sorted(names), "backups": self._backups.names()}

    @endpoint(GET, "/server/database/item")
    async def get_item(self, call: Call, namespace: str, key: Key | None = None) -> Item:
        """Return a value, or all of a namespace. `key`: "a.b.c" or an array of texts.

        Error 403: the namespace is closed to clients. 404: it is not there. 413: the namespace is too large to be read
        at once.
        """
        _check_open(namespace)
        return await self._items.read(namespace, key)

    @endpoint(POST, "/server/database/item")
    async def post_item(self, call: Call, namespace: str, key: Key, value: Any) -> Item:
        """Store a value; what is missing of the path to it is created. It is on the disk before the answer.

        Error 400: a part of the path holds a value that has no fields. 403: clients may not write into the namespace.
        413: the value is too large. 507: the disk is full; the old value stays.
        """
        _check_writable(namespace)
        return await self._items.write(namespace, key, value)

    @endpoint(DELETE, "/server/database/item")
    async def delete_item(self, call: Call, namespace: str, key: Key) -> Item:
        """Delete a value and return it. A namespace goes with its last value.

        Error 403: clients may not write into the namespace. 404: it is not there.
        """
        _check_writable(namespace)
        return await self._items.remove(namespace, key)

    @endpoint(POST, "/server/database/compact")
    async def compact(self, call: Call) -> Sizes:
        """Give the space of what was deleted back to the disk. Sizes in bytes. Error 507: the disk is full."""
        before, after = await self._database.compact()
        return {"previous_size": before, "new_size": after}

    @endpoint(POST, "/server/database/backup")
    async def post_backup(self, call: Call, filename: str | None = None) -> BackupPath:
        """Make a backup in `backup/database` of the data folder; one of the same name is replaced.

        Error 400: the name is not that of a file in the folder. 507: the disk is full, or there are too many backups.
        """
        return {"backup_path": str(await self._backups.make(filename))}

    @endpoint(DELETE, "/server/database/backup")
    def delete_backup(self, call: Call, filename: str) -> BackupPath:
        """Delete a backup. Error 404: there is none of that name."""
        return {"backup_path": str(self._backups.delete(filename))}

    @endpoint(POST, "/server/database/restore")
    async def restore(self, call: Call, filename: str) -> Restored:
        """Put a backup, also one made by Moonraker, in the place of the database, and restart the server.

        What is replaced is kept as a backup. `restored_tables` is there for clients that expect it.
        Error 400: there is no such backup, or it is damaged. 503: a print is running.
        """
        if self._job.is_active:
            raise Unavailable("The database is not restored while Klipper prints: wait for the end of the print")
        await self._backups.restore(filename)
        self._restart()
        return {"restored_tables": [], "restored_namespaces": self._database.namespaces()}

    async def _back_up_daily(self) -> None:
        pause_s = FIRST_BACKUP_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = self._backups.seconds_to_next()
            if pause_s > 0.0:
                continue
            if self._job.is_active:  # a print has the card for itself
                pause_s = BACKUP_RETRY_S
                continue
            try:
                await self._backups.make_automatic()
            except ApiError as exc:
                log.warning("The daily backup of the database was not made: %s", exc)
                pause_s = BACKUP_RETRY_S


class DebugDatabaseApi:
    """What developers may do beyond that: read and write protected namespaces. Credentials stay closed to them."""

    def __init__(self, database: Database, backups: Backups, items: Items) -> None:
        self._database, self._backups, self._items = database, backups, items

    @endpoint(GET, "/debug/database/list")
    def contents(self, call: Call) -> dict[str, Any]:
        """List all namespaces, and all backups."""
        names = self._database.namespaces()
        return {"namespaces": names, "backups": self._backups.names(), "tables": names}

    @endpoint(GET, "/debug/database/item")
    async def get_item(self, call: Call, namespace: str, key: Key | None = None) -> Item:
        """Return a value, or all of a namespace."""
        _check_open(namespace)
        return await self._items.read(namespace, key)

    @endpoint(POST, "/debug/database/item")
    async def post_item(self, call: Call, namespace: str, key: Key, value: Any) -> Item:
        """Store a value in any namespace."""
        _check_open(namespace)
        return await self._items.write(namespace, key, value)

    @endpoint(DELETE, "/debug/database/item")
    async def delete_item(self, call: Call, namespace: str, key: Key) -> Item:
        """Delete a value of any namespace."""
        _check_open(namespace)
        return await self._items.remove(namespace, key)

    @endpoint(GET, "/debug/database/table")
    async def table(self, call: Call, table: str) -> dict[str, Any]:
        """Return a namespace as rows. Error 404: there is none of that name."""
        _check_open(table)
        store = self._database.namespace(table)
        if not len(store):
            raise NotFound(f"Table name '{table}' does not exist")
        rows = [{"rowid": number, "key": key, "value": value} for number, (key, value) in enumerate(store.items(), 1)]
        return {"table_name": table, "rows": rows}


def parts_of(key: Key) -> list[str]:
    """The parts of a key. BadRequest: one of them is empty, or there are too many."""
    parts = key.split(".") if isinstance(key, str) else key
    if not parts or not all(parts) or len(parts) > MAX_KEY_PARTS:
        raise BadRequest(f"Invalid Key Format: '{key}'")
    return parts


def _check_open(namespace: str) -> None:
    if namespace in FORBIDDEN:
        raise Forbidden(f"Read/Write access to namespace '{namespace}' is forbidden")


def _check_writable(namespace: str) -> None:
    _check_open(namespace)
    if namespace in PROTECTED:
        raise Forbidden(f"Write access to namespace '{namespace}' is forbidden")


def _no_key(namespace: str, key: Key) -> NotFound:
    shown = key if isinstance(key, str) else ".".join(key)
    return NotFound(f"Key '{shown}' in namespace '{namespace}' not found")


def _encoded(value: Any) -> bytes:
    try:
        text = encode(value)
    except (TypeError, ValueError, RecursionError):
        raise BadRequest(
            "Invalid value for argument 'value': it cannot be written as JSON, or is nested too deep"
        ) from None
    if len(text) > MAX_RECORD_BYTES:
        raise PayloadTooLarge(
            f"Invalid value for argument 'value': all below the first part of a key may have {MAX_RECORD_BYTES} bytes"
        )
    return text


def _key_text(key: str) -> bytes:
    """A key as JSON; names of files may hold bytes that are no text."""
    return encode(key.encode("utf-8", "replace").decode("utf-8"))


def _answer(namespace: str, key: Key | None, text: bytes) -> Item:
    """An Item that is JSON text already: values are spliced in as they are stored."""
    return cast(
        "Item", Raw(b'{"namespace":' + encode(namespace) + b',"key":' + encode(key) + b',"value":' + text + b"}")
    )
