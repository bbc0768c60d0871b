"""`moonfast db ...`: the database from the command line, while no server uses it.

Exit status: 0 done (or all is sound), 1 it could not be done (or something is damaged), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import lmdb

from moonfast.errors import ApiError, StartError
from moonfast.storage import exporters
from moonfast.storage.backups import SQL_NAME, Backups
from moonfast.storage.database import DATA_NAME, STORE_NAME
from moonfast.storage.importers import SIDE_FILES
from moonfast.storage.store_file import Row


def parser(default_data_path: str) -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="moonfast db", description="Look after the database of a data folder. Stop the server first."
    )
    flags.add_argument("-d", "--datapath", metavar="PATH", default=default_data_path, help="data folder (%(default)s)")
    commands = flags.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, file_help: str | None, is_optional: bool = False) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.add_argument("-d", "--datapath", metavar="PATH", default=argparse.SUPPRESS, help="data folder")
        if file_help is not None:
            found.add_argument("file", metavar="FILE", nargs="?" if is_optional else None, help=file_help)
        return found

    command("check", "Look through the database and its backups for damage.", None)
    importing = command(
        "import",
        "Take over a database of Moonraker, or a dump of its dbtool.py. What is there now is kept as a backup.",
        f"default: {SQL_NAME} in the folder 'database', else the older data.mdb there",
        True,
    )
    exporting = command(
        "export",
        "Write a database that Moonraker starts from.",
        f"default: {SQL_NAME} in the folder 'database'",
        True,
    )
    command("dump", "Write everything as text, which machines of any kind can read.", "- for the standard output")
    command(
        "restore",
        "Put a backup, a dump, or a database of Moonraker in the place of the database, which is kept as a backup.",
        "a file, or the name of a backup",
    )
    importing.add_argument("--replace", action="store_true", help="even if the database holds something already")
    exporting.add_argument("--replace", action="store_true", help="even if the file exists: it is renamed to FILE.old")
    return flags


def main(arguments: Sequence[str], default_data_path: str) -> int:
    """Run one command and return the exit status. StartError: it cannot be done."""
    flags = parser(default_data_path).parse_args(arguments)
    data_path = Path(os.path.abspath(os.path.expanduser(flags.datapath)))
    if not (data_path / "database").is_dir():
        raise StartError(f"'{data_path}' is no data folder: name it with -d")
    try:
        return asyncio.run(_COMMANDS[flags.command](Backups(data_path, imports=False), flags))
    except OSError as exc:
        raise StartError(f"'{exc.filename}': {exc.strerror}" if exc.filename else str(exc)) from exc
    except (ApiError, lmdb.Error) as exc:
        raise StartError(str(exc)) from exc


async def _check(backups: Backups, flags: argparse.Namespace) -> int:
    """Report on every file. The store is not opened: that would move a damaged one aside."""
    store = backups.database.folder / STORE_NAME / DATA_NAME
    faults = 0
    for path in (*([store] if store.exists() else []), *(backups.folder / name for name in backups.names())):
        fault = backups.fault_of(path)
        print(f"{'database' if path == store else path.name}: {fault or 'sound'}")
        faults += fault is not None
    return 1 if faults else 0


async def _import(backups: Backups, flags: argparse.Namespace) -> int:
    source = Path(flags.file) if flags.file else backups.find_old()
    if source is None:
        raise StartError("there is no database of Moonraker in the folder 'database': name the file")
    async with _Opened(backups):
        if backups.database.namespaces() and not flags.replace:
            raise StartError("the database holds something already: add --replace to put the other one in its place")
        return _report(source, await backups.restore_file(source))


async def _restore(backups: Backups, flags: argparse.Namespace) -> int:
    source = _file_or_backup(backups, flags.file)
    async with _Opened(backups):
        return _report(source, await backups.restore_file(source))


async def _export(backups: Backups, flags: argparse.Namespace) -> int:
    target = Path(flags.file) if flags.file else backups.database.folder / SQL_NAME
    if target.exists() and not flags.replace:
        raise StartError(f"'{target}' exists: add --replace to have it renamed, or name another file")
    async with _Opened(backups):
        _set_aside(target)
        strange = exporters.to_sqlite(_rows(backups), target)
    print(f"Written: {target}")
    for user in strange:
        print(
            f"Moonraker cannot check the password of '{user}': delete this user there with the API key, and create it "
            "again."
        )
    return 0


async def _dump(backups: Backups, flags: argparse.Namespace) -> int:
    async with _Opened(backups):
        _write_dump(_rows(backups), flags.file)
    return 0


_COMMANDS = {"check": _check, "import": _import, "restore": _restore, "export": _export, "dump": _dump}


class _Opened:
    """The database while it is this process's own. StartError: a server has it, or it is damaged."""

    def __init__(self, backups: Backups) -> None:
        self._backups = backups

    async def __aenter__(self) -> None:
        await self._backups.start()
        for warning in self._backups.warnings:
            print(warning, file=sys.stderr)

    async def __aexit__(self, *_: object) -> None:
        await self._backups.database.stop()


def _rows(backups: Backups) -> Iterator[Row]:
    for namespace in backups.database.namespaces():
        for key, value in backups.database.namespace(namespace).items():
            yield namespace, key, value


def _file_or_backup(backups: Backups, given: str) -> Path:
    path = Path(given)
    return path if path.is_file() else backups.folder / given


def _write_dump(rows: Iterator[Row], name: str) -> None:
    if name == "-":
        exporters.dump(rows, sys.stdout.buffer)
        sys.stdout.flush()
    else:
        with open(name, "xb", opener=_private) as stream:
            exporters.dump(rows, stream)


def _set_aside(path: Path) -> None:
    """Keep what is about to be overwritten, with its journal, which would spoil the new file."""
    for suffix in ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{path}.old{suffix}")


def _report(source: Path, lost: int) -> int:
    print(f"In use from the next start: {source}")
    if lost:
        print(f"{lost} values could not be read and were left out.", file=sys.stderr)
    return 0


def _private(path: str, flags: int) -> int:
    """Dumps hold password hashes and the API key."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
