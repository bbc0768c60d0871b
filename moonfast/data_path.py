"""The data folder, where everything of one printer lies, and the options with which the server was started.

The layout is Moonraker's ("Installation", "Data Folder Structure"), so that either program can be started on it:

    config      moonraker.conf, printer.cfg       comms    Unix sockets
    logs        moonraker.log, klippy.log         certs    moonraker.cert, moonraker.key
    gcodes      files to print                    backup   for scripts that save the database
    database    the store of this server          misc     anything else
    .moonraker.uuid   names this installation; made once

Only one server may use a data folder; the lock on `.moonfast.lock` sees to it, and ends with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass

from moonfast.errors import StartError

FOLDERS = ("config", "logs", "gcodes", "database", "comms", "certs", "backup", "misc")
UUID_FILE = ".moonraker.uuid"
LOCK_FILE = ".moonfast.lock"
CONFIG_NAME = "moonraker.conf"

_MAX_UUID_BYTES = 256
_DEFAULT_CONFIG = """\
# Configuration of the API server. docs/config has every section and option.

[server]
# Without `host` every IPv4 address of this machine is served.
#host: 0.0.0.0
port: 7125
klippy_uds_address: {data_path}/comms/klippy.sock

[authorization]
trusted_clients:
    127.0.0.0/8
    10.0.0.0/8
    169.254.0.0/16
    172.16.0.0/12
    192.168.0.0/16
    FE80::/10
    FD00::/8
    ::1/128
cors_domains:
    *.lan
    *.local
    *://localhost
    *://localhost:*
    *://my.mainsail.xyz
    *://app.fluidd.xyz
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the server was started. All paths are absolute."""

    data_path: str
    config_file: str
    unix_socket_path: str
    log_file: str | None = None  # None: no log file is wanted
    structured_logging: bool = False  # the log file has one JSON object a line
    verbose: bool = False
    debug: bool = False
    asyncio_debug: bool = False
    wants_uvloop: bool = True
    simulate: bool = False


class DataFolder:
    """A data folder that belongs to this process until `release()`."""

    def __init__(self, path: str, uuid: str, lock: int, warnings: list[str]) -> None:
        self.path, self.uuid, self.warnings = path, uuid, warnings
        self._lock = lock

    def release(self) -> None:
        """Let another server have the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def claim(options: Options) -> DataFolder:
    """Create what is missing in the data folder and take possession of it. StartError: it cannot be used."""
    path = options.data_path
    _make_folder(path, "the data folder")
    warnings: list[str] = []
    lock = _lock(path, warnings)
    try:
        for name in FOLDERS:
            _make_folder(os.path.join(path, name), f"the folder '{name}' of the data folder")
        uuid = read_uuid(path) or _new_uuid(path)
        if options.config_file == os.path.join(path, "config", CONFIG_NAME):
            _write_default_config(options.config_file)
    except BaseException:
        os.close(lock)
        raise
    return DataFolder(path, uuid, lock, warnings)


def _make_folder(path: str, what: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as exc:
        raise StartError(f"{what} '{path}' cannot be created: {_reason(exc)}") from None


def _lock(path: str, warnings: list[str]) -> int:
    """Lock the folder. flock, not fcntl locks: those end as soon as anything in this process closes the file."""
    name = os.path.join(path, LOCK_FILE)
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as exc:
        raise StartError(f"the data folder '{path}' is not writable: {_reason(exc)}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EACCES):
            owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            os.close(lock)
            by = f" (process {owner})" if owner.isdigit() else ""
            raise StartError(
                f"the data folder '{path}' is in use by another moonfast{by}: stop that one first"
            ) from None
        warnings.append(
            "The data folder is on a file system without locks: nothing keeps a second server from using it. "
            "Use a local disk."
        )
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except OSError as exc:
        os.close(lock)
        raise StartError(f"the data folder '{path}' is not writable: {_reason(exc)}") from None
    return lock


def read_uuid(path: str) -> str | None:
    """The identity of the installation in a data folder, None if it has none yet."""
    try:
        with open(os.path.join(path, UUID_FILE), "rb") as stream:
            text = stream.read(_MAX_UUID_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.replace("-", "").isalnum() else None


def _new_uuid(path: str) -> str:
    from uuid import uuid4

    uuid = uuid4().hex
    try:
        write_atomically(os.path.join(path, UUID_FILE), uuid.encode("ascii"), 0o644)
    except OSError as exc:
        raise StartError(f"the data folder '{path}' is not writable: {_reason(exc)}") from None
    return uuid


def _write_default_config(path: str) -> None:
    """Give a new installation something to start from; a lost file whose backup is there is the backup's business."""
    folder, name = os.path.split(path)
    if os.path.lexists(path) or os.path.exists(os.path.join(folder, f".{name}.bkp")):
        return
    try:
        write_atomically(path, _DEFAULT_CONFIG.encode("utf-8"), 0o644)
    except OSError as exc:
        raise StartError(f"the configuration '{path}' cannot be written: {_reason(exc)}") from None


def write_atomically(path: str, content: bytes, mode: int) -> None:
    """Replace a small file: whoever reads it, now or after a power cut, finds the old content or the new."""
    part = path + ".part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    os.replace(part, path)


def _reason(exc: OSError) -> str:
    return exc.strerror or str(exc)
