"""Backups: copies of the store in the folder `backup/database`, made on request and once a day.

Those that the server makes by itself have names that begin with AUTOMATIC, and the oldest of them go when there are
more than AUTOMATIC_KEPT. Those that users make stay until users delete them.

A file is put in the place of the store only after all of its pages have been looked at. What is replaced is kept as one
more automatic backup. Backups that Moonraker made can be restored, too.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import lmdb

from moonfast.errors import BadRequest, InsufficientStorage, NotFound
from moonfast.storage.check import Damage, check
from moonfast.storage.database import Database

log = logging.getLogger(__name__)

MANUAL, AUTOMATIC = "moonfast-backup-", "moonfast-automatic-"
AUTOMATIC_KEPT = 7
AUTOMATIC_PERIOD_S = 24 * 3600.0
MAX_BACKUPS = 200
MAX_NAME_BYTES = 200
SQL_NAME, LEGACY_NAME = "moonraker-sql.db", "data.mdb"  # what Moonraker leaves in the folder of the database
_PART = ".part"


class Backups:
    """The backups of one data folder, and its database. `warnings` are for users.

    `imports`: on the first start, what Moonraker left is taken over.
    """

    def __init__(self, data_path: Path, *, imports: bool = True) -> None:
        self.folder = data_path / "backup" / "database"
        self.warnings: list[str] = []
        self.database = Database(data_path / "database", first=self._import_old if imports else None)

    async def start(self) -> None:
        """Open the database; if it was damaged, say which backup is sound. StartError: it cannot be opened."""
        await self.database.start()
        with suppress(OSError):  # a backup says so, when one is made
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.database.damaged is not None:
            newest = self.newest_good()
            advice = (
                "There is no backup of it."
                if newest is None
                else f"Restore its newest good backup with POST /server/database/restore?filename={newest}, or stop "
                f"the server and run `moonfast db restore {newest}`."
            )
            self.warnings.append(
                f"The database was damaged. It was moved to '{Path(self.database.damaged).name}' in the folder "
                f"'database', and an empty one was made. {advice}"
            )

    def names(self) -> list[str]:
        """The files in the folder, in order."""
        with suppress(OSError), os.scandir(self.folder) as entries:
            return sorted(item.name for item in entries if _is_name(item.name) and item.is_file())
        return []

    async def make(self, name: str | None = None) -> Path:
        """Make a backup; one of the same name is replaced. ApiError: it cannot be made."""
        names = self.names()
        name = _new_name(MANUAL, names) if name is None else name
        path = self._path_of(name)
        if len(names) >= MAX_BACKUPS and name not in names:
            raise InsufficientStorage(f"There are {MAX_BACKUPS} backups already: delete some, then try again")
        with _writable():
            self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{name}{_PART}"
        await self.database.copy(part)
        with _writable():
            part.replace(path)
        return path

    async def make_automatic(self) -> Path:
        """Make a backup and delete the oldest of its kind. ApiError: it cannot be made."""
        path = await self.make(_new_name(AUTOMATIC, self.names()))
        for name in self._automatic()[:-AUTOMATIC_KEPT]:
            with suppress(OSError):
                (self.folder / name).unlink()
        return path

    def seconds_to_next(self) -> float:
        """Until an automatic backup is due; 0: it is."""
        automatic = self._automatic()
        if not automatic:
            return 0.0
        with suppress(FileNotFoundError):
            age_s = time.time() - (self.folder / automatic[-1]).stat().st_mtime
            if 0.0 <= age_s < AUTOMATIC_PERIOD_S:  # a clock that was set back is no reason to wait for months
                return AUTOMATIC_PERIOD_S - age_s
        return 0.0

    def delete(self, name: str) -> Path:
        """BadRequest, NotFound: there is no such backup."""
        path = self._path_of(name)
        if not path.is_file():
            raise NotFound(f"Backup file {name} does not exist")
        with _writable():
            path.unlink()
        return path

    async def restore(self, name: str) -> None:
        """Put a backup in the place of the store, which is kept as a backup. ApiError: it cannot be used.

        The server has to be restarted then: see `Database.replace`.
        """
        path = self._path_of(name)
        if not path.is_file():
            raise BadRequest(f"Restoration File {path} does not exist")
        await self.restore_file(path)

    async def restore_file(self, path: Path) -> int:
        """The same for any file that `importers.stage` takes; how many of its values cannot be read."""
        lost = 0

        def make(target: Path) -> None:
            from moonfast.storage.importers import stage  # with what it imports, half a megabyte

            nonlocal lost
            lost = stage(path, target)

        if self.database.namespaces():
            await self._keep_present(path)
        await self.database.replace(make)
        return lost

    async def _keep_present(self, wanted: Path) -> None:
        """Back up what is about to be replaced, but never at the cost of the file that is to be restored."""
        if wanted.parent == self.folder and wanted.name in self._automatic()[: -AUTOMATIC_KEPT + 1]:
            await self.make()
        else:
            await self.make_automatic()

    def newest_good(self) -> str | None:
        """The newest backup that is sound, looking through whole files."""
        dated = []
        for name in self.names():
            with suppress(OSError):
                dated.append(((self.folder / name).stat().st_mtime, name))
        for _, name in sorted(dated, reverse=True):
            if self.fault_of(self.folder / name) is None:
                return name
        return None

    def fault_of(self, path: Path) -> str | None:
        """What is wrong with a backup of this server; None: nothing."""
        try:
            check(path, is_thorough=True)
            return None if path.stat().st_size else "it is empty"
        except Damage as exc:
            return str(exc)
        except OSError as exc:
            return exc.strerror or "it cannot be read"

    def find_old(self) -> Path | None:
        """The store that Moonraker left, the newest kind of it."""
        return next((path for name in (SQL_NAME, LEGACY_NAME) if (path := self.database.folder / name).is_file()), None)

    def _automatic(self) -> list[str]:
        return [name for name in self.names() if name.startswith(AUTOMATIC)]

    def _path_of(self, name: str) -> Path:
        if not _is_name(name):
            raise BadRequest(f"Invalid name {name}.")
        return self.folder / name

    def _import_old(self, staged: Path) -> bool:
        """On the first start: take over what Moonraker left. That it cannot be read does not stop the server."""
        source = self.find_old()
        if source is None or self._was_damaged():
            return False
        from moonfast.storage.importers import stage

        try:
            lost = stage(source, staged)
        except (BadRequest, OSError, lmdb.Error) as exc:
            reason = str(exc) if isinstance(exc, BadRequest) else "see the log, check for free disk space"
            log.warning("Moonraker's database was not taken over", exc_info=exc)
            self.warnings.append(
                f"Moonraker's database was not taken over: {reason}. This server begins with an empty one; to try "
                "again, stop it and run `moonfast db import`."
            )
            return False
        log.info("Moonraker's database '%s' was taken over; it stays as it is", source.name)
        if lost:
            self.warnings.append(f"{lost} values of Moonraker's database could not be read: the log names them.")
        return True

    def _was_damaged(self) -> bool:
        """A store that was set aside is no first start: years-old settings must not come back instead of a backup."""
        return any(self.database.folder.glob("moonfast.lmdb.damaged-*"))


def _is_name(name: str) -> bool:
    is_plain = bool(name) and not name.startswith(".") and "/" not in name and name.isprintable()
    return is_plain and len(os.fsencode(name)) <= MAX_NAME_BYTES


def _new_name(start: str, names: list[str]) -> str:
    """A name that says when, and comes behind those of older backups."""
    start += time.strftime("%Y%m%d-%H%M%S")
    same_second = [name for name in names if name.startswith(start)]
    if not same_second:
        return f"{start}.db"
    number = same_second[-1].removeprefix(start).removesuffix(".db").removeprefix("_")
    return f"{start}_{int(number) + 1 if number.isdecimal() else 1:03}.db"


class _writable:
    """Turns what a full or read-only disk says into an answer."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, _: object) -> None:
        if isinstance(exc, OSError):
            raise InsufficientStorage(
                "The folder 'backup/database' cannot be written: make it writable and check for free disk space"
            ) from exc
