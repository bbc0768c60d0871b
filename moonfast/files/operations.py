"""What can be done with files and folders: make, move, copy, delete, zip. Blocking, for worker threads.

The one lock rule: a request claims all paths it works on at once (`Claims`), and waits while one of them is, contains
or lies in a path that another request has claimed. Nobody claims twice, so nobody can wait in a circle; requests on
other paths never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator

from moonfast.errors import ApiError, BadRequest, Forbidden, InsufficientStorage
from moonfast.files.parts import replacing
from moonfast.files.roots import is_below, is_part

COPY_BYTES = 1024 * 1024


class Claims:
    """The paths that requests work on now."""

    def __init__(self) -> None:
        self._claimed: list[tuple[str, ...]] = []
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def of(self, *paths: str) -> AsyncIterator[None]:
        """Have these paths for oneself."""
        while any(_overlap(path, other) for other in self._all() for path in paths):
            self._freed.clear()
            await self._freed.wait()
        self._claimed.append(paths)
        try:
            yield
        finally:
            self._claimed.remove(paths)
            self._freed.set()

    def _all(self) -> Iterator[str]:
        for paths in self._claimed:
            yield from paths


def _overlap(path: str, other: str) -> bool:
    return is_below(path, other) or is_below(other, path)


def make_folder(path: str) -> None:
    """Make one folder. BadRequest: it is there, or the folder around it is not."""
    with _told("The folder cannot be made"):
        os.mkdir(path)


def make_folders(path: str) -> None:
    """Make a folder and all around it that are missing."""
    with _told("The folder cannot be made"):
        os.makedirs(path, exist_ok=True)


def delete_file(path: str) -> None:
    """Delete a file or a link."""
    with _told("The file cannot be deleted"):
        os.unlink(path)


def delete_folder(path: str, *, force: bool) -> None:
    """Delete a folder, with all that is in it if `force`. A link to a folder is deleted, not what it leads to."""
    with _told("The folder cannot be deleted"):
        if os.path.islink(path):
            os.unlink(path)
        elif force:
            _remove_tree(path)
        else:
            with os.scandir(path) as entries:
                names = [entry.name for entry in entries]
            if any(name != ".thumbs" for name in names):
                raise BadRequest("The folder is not empty: set 'force' to delete it with all that is in it")
            _remove_tree(path)


def move(source: str, target: str) -> None:
    """Move or rename; across file systems by a copy that is whole before the source goes."""
    with _told("It cannot be moved"):
        if is_below(target, source) and source != target:
            raise BadRequest("A folder cannot be moved into itself")
        if source == target:
            raise BadRequest("Source and destination are the same")
        try:
            os.rename(source, target)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
        else:
            return
        if os.path.isdir(source) and not os.path.islink(source):
            copy_folder(source, target)
            _remove_tree(source)
        else:
            copy_file(source, target)
            os.unlink(source)


def copy_file(source: str, target: str) -> None:
    """Copy a file, its time too; a file in the target's place is replaced when the copy is whole."""
    from pathlib import Path

    with _told("It cannot be copied"):
        if os.path.exists(target) and os.path.samefile(source, target):
            raise BadRequest("Source and destination are the same file")
        with open(source, "rb", buffering=0) as old, replacing(Path(target)) as new:
            while piece := old.read(COPY_BYTES):
                new.write(piece)
            new.flush()
            _copy_status(os.fstat(old.fileno()), new.fileno())


def copy_folder(source: str, target: str) -> None:
    """Copy a folder and all that is in it; links stay links. The target must not be there; on an error it is not."""
    with _told("It cannot be copied"):
        if is_below(target, source):
            raise BadRequest("A folder cannot be copied into itself")
        os.mkdir(target)
        try:
            with os.scandir(source) as entries:
                listed = list(entries)
            for entry in listed:
                inside = f"{target}/{entry.name}"
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), inside)
                elif entry.is_dir():
                    copy_folder(entry.path, inside)
                elif entry.is_file() and not is_part(entry.name):
                    copy_file(entry.path, inside)
            _copy_status(os.stat(source), target)
        except BaseException:
            with contextlib.suppress(OSError):
                _remove_tree(target)
            raise


def _copy_status(found: os.stat_result, target: str | int) -> None:
    """Permissions and times."""
    os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _remove_tree(path: str) -> None:
    import shutil  # needs half a megabyte

    shutil.rmtree(path)


def zip_files(target: str, items: list[tuple[str, str]], *, store_only: bool) -> None:
    """Write a zip archive; `items` are path and name in the archive. Folders are packed with all that is in them."""
    import zipfile
    from pathlib import Path

    kind = zipfile.ZIP_STORED if store_only else zipfile.ZIP_DEFLATED
    with (
        _told("The archive cannot be written"),
        replacing(Path(target)) as part,
        zipfile.ZipFile(part, "w", kind, strict_timestamps=False) as archive,
    ):
        packed = {target}  # a folder and a file in it may both be asked for
        for path, name in items:
            for file_path, file_name in _below(path, name):
                if file_path not in packed:
                    packed.add(file_path)
                    archive.write(file_path, file_name)


def _below(path: str, name: str) -> Iterator[tuple[str, str]]:
    """The file itself, or all files in a folder, without hidden program folders and links to elsewhere."""
    if not os.path.isdir(path):
        yield path, name
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(item for item in folders if item not in (".git", ".thumbs"))
        inside = folder[len(path) :]
        for item in sorted(files):
            full = f"{folder}/{item}"
            if not is_part(item) and os.path.isfile(full) and not os.path.islink(full):
                yield full, f"{name}{inside}/{item}"


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what the system says into words for users."""
    try:
        yield
    except FileExistsError:
        raise BadRequest(f"{what}: there is something of this name already") from None
    except (FileNotFoundError, NotADirectoryError):
        raise BadRequest(f"{what}: it does not exist, or the folder around it does not") from None
    except IsADirectoryError:
        raise BadRequest(f"{what}: a folder is in its place") from None
    except PermissionError:
        raise Forbidden(f"{what}: the user of this server has no right to") from None
    except ApiError:
        raise
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientStorage(f"{what}: the disk is full. Delete files and try again") from None
        if exc.errno == errno.ENAMETOOLONG:
            raise BadRequest(f"{what}: the name is too long") from None
        if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BadRequest(f"{what}: there is something of this name already") from None
        if exc.errno == errno.EROFS:
            raise Forbidden(f"{what}: the disk is read-only") from None
        raise BadRequest(f"{what}: {exc.strerror or 'an error of the disk'}") from None
