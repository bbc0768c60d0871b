"""Unpacks the Ultimaker Format Package that Cura uploads: a ZIP in which the gcode and one picture are named parts.

A package is a stranger's file: the list of its parts, what it inflates to and the disk space that this takes are
bounded before a byte is written, and nothing is left behind of one that turns out broken. Source: UltiMaker's
libCharon, "Ultimaker Format Package"; ECMA-376 part 2 for the container, where the names of parts have no case.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonfast.errors import ApiError, BadRequest, InsufficientStorage
from moonfast.files.parts import replacing
from moonfast.files.thumbnail_child import MAX_THUMBNAIL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zipfile import ZipFile, ZipInfo

log = logging.getLogger(__name__)

MODEL = "/3d/model.gcode"
EXTENSION = ".ufp"
PICTURE = "/metadata/thumbnail.png"
PIECE_BYTES = 1024 * 1024
MAX_DIRECTORY_BYTES = 128 * 1024  # the list of parts, which a package of Cura needs 1 KiB for
MAX_MODEL_BYTES = 8 * 1024**3
MAX_RATIO = 100  # of inflated to packed bytes: gcode reaches 10, zeros 1000
ANY_RATIO_BYTES = 16 * 1024 * 1024  # a model up to this may have any ratio

STORED, DEFLATED, ENCRYPTED_FLAG = 0, 8, 1  # APPNOTE.TXT, 4.4.4 and 4.4.5


class _Broken(Exception):
    """What is wrong with a package, in words that follow its name."""


class _BoundedFile(io.FileIO):
    """A file that is never read in pieces larger than `max_read_bytes`: zipfile asks for what the package says."""

    max_read_bytes = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > self.max_read_bytes:
            raise _Broken("its list of parts is too long")
        return super().read(size) or b""


def is_package(name: str) -> bool:
    return name.lower().endswith(EXTENSION)


def unpacked_name(name: str) -> str:
    """What the gcode of a package is called."""
    return name[: -len(EXTENSION)] + ".gcode"


def unpack(package: Path, target: Path, name: str | None = None) -> bytes | None:
    """Write the gcode of a package to `target`, in one step, and return the package's picture if it has one.

    Blocks: for a worker thread. `name` is what users call the package. A picture that cannot be read is left out.
    BadRequest: the package is broken. InsufficientStorage: its gcode does not fit on the disk.
    """
    name = name or package.name
    try:
        with _BoundedFile(package) as file:
            return _unpack(file, target, name)
    except _Broken as exc:
        raise BadRequest(f"The package '{name}' cannot be unpacked: {exc}. Slice and save it again") from None
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(name) from None
        raise


def _unpack(file: _BoundedFile, target: Path, name: str) -> bytes | None:
    import zipfile

    faults = (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
        *(NotImplementedError, RuntimeError, ValueError, OverflowError),
    )
    try:
        archive = zipfile.ZipFile(file)
    except (*faults, OSError) as exc:  # OSError: the list of parts is said to lie before the file's beginning
        raise _Broken("it is no ZIP file, or damaged") from exc
    file.max_read_bytes = PIECE_BYTES
    parts = {"/" + info.filename.lstrip("/").lower(): info for info in archive.infolist()}
    model = parts.get(MODEL)
    if model is None:
        raise _Broken("it has no gcode in it")
    _check(model, "gcode", MAX_MODEL_BYTES)
    free = os.statvfs(target.parent)
    if model.file_size > free.f_bavail * free.f_frsize:
        raise _no_space(name)
    with replacing(target) as out:
        for piece in _inflated(archive, model, "gcode", faults):
            out.write(piece)
    try:
        if (picture := parts.get(PICTURE)) is not None:
            _check(picture, "picture", MAX_THUMBNAIL_BYTES)
            return b"".join(_inflated(archive, picture, "picture", faults))
    except _Broken as exc:
        log.info("The package '%s' is unpacked without its picture: %s", name, exc)
    return None


def _check(part: ZipInfo, what: str, max_bytes: int) -> None:
    """Refuse a part for what the list of parts says of it. _Broken: why."""
    if part.compress_type not in (STORED, DEFLATED) or part.flag_bits & ENCRYPTED_FLAG:
        raise _Broken(f"its {what} is encrypted, or packed in a way other than deflate")
    if part.file_size > max_bytes or part.file_size > max(ANY_RATIO_BYTES, part.compress_size * MAX_RATIO):
        raise _Broken(f"its {what} would be too large")


def _inflated(archive: ZipFile, part: ZipInfo, what: str, faults: Any) -> Iterator[bytes]:
    """Yield a part in pieces, at most what was declared (zipfile cuts the rest off). _Broken: damaged, or less."""
    left = part.file_size
    try:
        with archive.open(part) as stream:
            while piece := stream.read(PIECE_BYTES):
                left -= len(piece)
                yield piece
    except (*faults, OSError) as exc:
        raise _Broken(f"its {what} is damaged") from exc
    if left:
        raise _Broken(f"its {what} is shorter than announced")


def _no_space(name: str) -> ApiError:
    return InsufficientStorage(f"There is not enough disk space to unpack '{name}': delete some files")
