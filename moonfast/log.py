"""Where log messages go: standard error, and a file that is replaced every day and before it grows large.

Messages are written at once, by the thread that logs: a write into the page cache costs a few microseconds, nothing
above DEBUG is logged per message, and a queue would lose the last lines before a crash, which are the ones wanted.
Lines look as Moonraker's do, so that what people and scripts know about moonraker.log holds.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import time
from typing import TextIO

from moonfast.codec import encode
from moonfast.data_path import Options
from moonfast.errors import MoonfastError

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 8 * 1024 * 1024
KEPT_FILES = 5  # beside the one being written
RETRY_S = 3600.0  # after a rollover that failed

REDACTED = "<redacted>"
_SECRETS = re.compile(
    r"""
    (   (?: passw(?:or)?d | secret | token | api[_-]?key | authorization ) ["']? \s* [:=] \s* )
        (?: "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | (?:bearer|basic) \s+ [^\s"']+ | [^\s"',;&)}\]]+ )
    | ( :// [^\s/:@]* : ) [^\s/@]+ (?=@)                        # a password in an address
    | ( bearer \s+ ) [\w.~+/-]{8,} =*
    | ( eyJ ) [\w-]{8,} \. [\w-]+ \. [\w-]*                     # a JSON web token, wherever it stands
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MARKS = ("passw", "secret", "token", "key", "authorization", "://", "bearer", "eyj")  # no match without one of them
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if code not in (9, 10)}


def redact(text: str) -> str:
    """Take passwords, tokens and API keys out of a text, as far as their names or their form give them away."""
    lowered = text.lower()
    if any(mark in lowered for mark in _MARKS):
        return _SECRETS.sub(_redacted, text)
    return text


def _redacted(match: re.Match[str]) -> str:
    kept: str = next(filter(None, match.groups()))
    return kept + REDACTED


class Log:
    """The logging of this process, from `start()` to `close()`."""

    def __init__(self, options: Options, stream: TextIO) -> None:
        self.warnings: list[str] = []  # for users: what does not work
        self._is_verbose = options.verbose
        self._file: FileHandler | None = None
        self._pinned: dict[str, str] = {}
        self._console = ConsoleHandler(stream)
        self._console.setFormatter(TextFormatter("[%(filename)s:%(funcName)s()] - %(message)s"))
        if options.log_file is not None:
            try:
                self._file = FileHandler(options.log_file, self._pinned)
            except OSError as exc:
                self.warnings.append(
                    f"The log file '{os.path.basename(options.log_file)}' cannot be written: {exc.strerror or exc}. "
                    "Make its folder writable and restart."
                )
            else:
                text = TextFormatter("%(asctime)s [%(filename)s:%(funcName)s()] - %(message)s")
                self._file.setFormatter(JsonFormatter() if options.structured_logging else text)
        root = logging.getLogger()
        self._level_before = root.level
        root.addHandler(self._console)
        if self._file is not None:
            self._file.begin()
            root.addHandler(self._file)
            self._console.setLevel(logging.INFO)  # details go to the file: the journal costs more than they are worth
        self.set_verbose(False)
        logging.captureWarnings(True)
        for warning in self.warnings:
            log.warning("%s", warning)

    def set_verbose(self, is_verbose: bool) -> None:
        """Log details too, if this or the command line asks for them."""
        logging.getLogger().setLevel(logging.DEBUG if is_verbose or self._is_verbose else logging.INFO)

    def pin(self, name: str, text: str) -> None:
        """Write a text to the log file now and at the start of every new one. The same name replaces the text."""
        self._pinned[name] = text
        if self._file is not None:
            self._file.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, "%s", (text,), None, "pin"))

    def rollover(self) -> None:
        """Start a new log file now. OSError: it cannot be renamed; MoonfastError: there is none."""
        if self._file is None:
            raise MoonfastError("File Logging Disabled")
        self._file.rollover()

    def close(self) -> None:
        """Take the handlers away again."""
        root = logging.getLogger()
        logging.captureWarnings(False)
        for handler in (self._console, self._file):
            if handler is not None:
                root.removeHandler(handler)
                handler.close()
        root.setLevel(self._level_before)


def start(options: Options, stream: TextIO | None = None) -> Log:
    """Send the messages of all loggers of this process to standard error (or `stream`) and to the log file."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # not shown, so not looked up
    return Log(options, sys.stderr if stream is None else stream)


class TextFormatter(logging.Formatter):
    """One message, its later lines indented: no message can pass for two, or write control characters to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        text = redact(super().format(record)).translate(_CONTROL)
        return text.replace("\n", "\n    ") if "\n" in text else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with Moonraker's members."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        members: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "file": record.filename,
            "function": record.funcName,
            "line": record.lineno,
            "message": redact(record.message),
        }
        if record.exc_info:
            members["exception"] = redact(self.formatException(record.exc_info))
        return encode(members).decode("utf-8")


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Standard error. When nobody reads it any more, messages are dropped."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError | ValueError):  # ValueError: the stream is closed
            super().handleError(record)


class FileHandler(logging.Handler):
    """Appends to a file; renames it to `<name>.<day>` at midnight, at MAX_FILE_BYTES and on demand.

    A message that cannot be written (disk full) is dropped; how many were is said as soon as writing works again.
    """

    def __init__(self, path: str, pinned: dict[str, str]) -> None:
        super().__init__()
        self._path, self._pinned = path, pinned
        self._descriptor = -1
        self._dropped = 0
        self._retry_at = 0.0  # seconds since the epoch
        self._open()

    def begin(self) -> None:
        """Begin the part of this process: in a new file, if the present one is of an earlier day or too large."""
        if self._is_due(time.time(), os.fstat(self._descriptor)):
            self._try_rollover()
        else:
            self._write_header()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # task edge: a wrong logging call must not harm the caller
            self.handleError(record)
            return
        try:
            info = os.fstat(self._descriptor)
            if info.st_nlink == 0:  # deleted: nobody would ever read it, and its space would stay taken
                self._reopen()
            elif self._is_due(record.created, info):
                self._try_rollover()
            if self._dropped:
                self._write(f"{self._dropped} messages are missing here: the log file could not be written")
                self._dropped = 0
            self._write(line)
        except OSError:
            self._dropped += 1

    def rollover(self) -> None:
        """Rename the file and begin a new one. OSError: renaming failed, the file is as it was."""
        self.acquire()
        try:
            self._rollover()
        finally:
            self.release()

    def close(self) -> None:
        self.acquire()
        try:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
        finally:
            self.release()
        super().close()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)
        info = os.fstat(self._descriptor)
        self._is_regular = stat.S_ISREG(info.st_mode)  # /dev/null is a fine log file, but must not be renamed
        began = info.st_mtime if info.st_size else time.time()
        self._day = time.strftime("%Y-%m-%d", time.localtime(began))
        self._ends_at = _next_midnight(began)

    def _reopen(self) -> None:
        before = self._descriptor
        self._open()
        os.close(before)
        self._write_header()

    def _is_due(self, now: float, info: os.stat_result) -> bool:
        is_full = info.st_size >= MAX_FILE_BYTES or (now >= self._ends_at and info.st_size > 0)
        return is_full and self._is_regular and now >= self._retry_at

    def _try_rollover(self) -> None:
        try:
            self._rollover()
        except OSError:  # go on with the present file
            self._retry_at = time.time() + RETRY_S

    def _rollover(self) -> None:
        if not self._is_regular:
            raise MoonfastError("File Logging Disabled")
        target = f"{self._path}.{self._day}"
        number = 1
        while os.path.lexists(target):
            target = f"{self._path}.{self._day}.{number}"
            number += 1
        os.rename(self._path, target)
        self._reopen()
        self._delete_old()

    def _delete_old(self) -> None:
        folder, name = os.path.split(self._path)
        is_old_file = re.compile(re.escape(name) + r"\.\d{4}-\d\d-\d\d(\.\d+)?").fullmatch
        with os.scandir(folder) as entries:
            old = [entry for entry in entries if is_old_file(entry.name)]
        old.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
        for entry in old[:-KEPT_FILES]:
            os.unlink(entry.path)

    def _write_header(self) -> None:
        title = f" Log Start | {time.asctime()} "
        text = "\n".join((f"{title:-^79}", *self._pinned.values()))
        record = logging.LogRecord(__name__, logging.INFO, __file__, 0, "%s", (text,), None, "start")
        self._write(self.format(record))

    def _write(self, line: str) -> None:
        os.write(self._descriptor, f"{line}\n".encode("utf-8", "backslashreplace"))


def _next_midnight(moment: float) -> float:
    year, month, day, *_ = time.localtime(moment)
    return time.mktime((year, month, day + 1, 0, 0, 0, 0, 0, -1))
