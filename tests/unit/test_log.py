from __future__ import annotations

import io
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast import log as module
from moonfast.data_path import Options
from moonfast.errors import MoonfastError
from moonfast.log import Log, redact, start

logger = logging.getLogger("moonfast.test")


class Session:
    """One started log with its folder and what went to standard error."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.stream = folder, folder / "moonraker.log", io.StringIO()
        self.log: Log | None = None

    def start(
        self, log_file: str | None = "moonraker.log", *, verbose: bool = False, structured_logging: bool = False
    ) -> Log:
        options = Options(
            data_path=str(self.folder),
            config_file=str(self.folder / "c"),
            unix_socket_path=str(self.folder / "u"),
            log_file=str(self.folder / log_file) if log_file else None,
            verbose=verbose,
            structured_logging=structured_logging,
        )
        self.log = start(options, self.stream)
        return self.log

    def lines(self, name: str = "moonraker.log") -> list[str]:
        """The lines of a file after its title."""
        return (self.folder / name).read_text().splitlines()[1:]

    def old(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("moonraker.log.*"))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    if session.log is not None:
        session.log.close()


TODAY = "2024-05-06"


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> float:
    """The clock stands at noon of TODAY, so that the names of files do not depend on when the test runs."""
    noon = time.mktime((2024, 5, 6, 12, 0, 0, 0, 0, -1))
    monkeypatch.setattr(time, "time", lambda: noon)
    return noon


# -- where messages go, and how they look --


def test_lines_look_as_moonrakers_do(session: Session) -> None:
    session.start()
    logger.info("hello %s", "there")
    line = session.lines()[-1]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
        r"\[test_log\.py:test_lines_look_as_moonrakers_do\(\)\] - hello there",
        line,
    )
    assert session.stream.getvalue().splitlines()[-1] == (
        "[test_log.py:test_lines_look_as_moonrakers_do()] - hello there"
    )
    assert "- Log Start | " in session.path.read_text().splitlines()[0]


def test_verbose_details_go_to_the_file_only(session: Session) -> None:
    log = session.start()
    logger.debug("one")
    log.set_verbose(True)
    logger.debug("two")
    log.set_verbose(False)
    logger.debug("three")
    assert [line[-3:] for line in session.lines()] == ["two"]
    assert session.stream.getvalue() == ""


def test_verbose_by_command_line_without_a_file(session: Session) -> None:
    log = session.start(None, verbose=True)
    log.set_verbose(False)
    logger.debug("detail")
    assert "detail" in session.stream.getvalue()
    assert list(session.folder.iterdir()) == []


def test_structured_lines(session: Session) -> None:
    session.start(structured_logging=True).pin("config", "[a]\npassword: pw")
    try:
        raise ValueError("token=abc")
    except ValueError:
        logger.exception("broken\n%s", "\x1b[31mé")
    first, _, last = map(json.loads, session.path.read_text().splitlines())
    assert "Log Start" in first["message"]
    assert last.pop("exception").endswith("ValueError: token=<redacted>")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", last.pop("time"))
    assert isinstance(last.pop("line"), int)
    assert last == {
        "level": "ERROR",
        "file": "test_log.py",
        "function": "test_structured_lines",
        "message": "broken\n\x1b[31mé",
    }


def test_no_message_passes_for_two(session: Session) -> None:
    session.start()
    logger.info("name %s", "x\n2026-01-01 00:00:00,000 [a.py:b()] - forged\x1b[2J\r\x9b")
    assert session.lines()[-1] == "    2026-01-01 00:00:00,000 [a.py:b()] - forged\\x1b[2J\\x0d\\x9b"
    logger.info("odd \udcff")
    assert session.lines()[-1].endswith("odd \\udcff")


def test_warnings_of_python_are_logged(session: Session) -> None:
    session.start()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("careful", stacklevel=1)
    assert "careful" in session.path.read_text()


def test_closing_leaves_nothing(session: Session) -> None:
    root = logging.getLogger()
    handlers, level, descriptors = list(root.handlers), root.level, os.listdir("/proc/self/fd")
    log = session.start()
    log.close()
    log.close()
    assert (root.handlers, root.level, os.listdir("/proc/self/fd")) == (handlers, level, descriptors)


# -- faults --


def test_a_file_that_cannot_be_opened_is_a_warning(session: Session) -> None:
    log = session.start("none/moonraker.log")
    assert log.warnings == [
        "The log file 'moonraker.log' cannot be written: No such file or directory. "
        "Make its folder writable and restart."
    ]
    assert log.warnings[0] in session.stream.getvalue()
    with pytest.raises(MoonfastError, match="File Logging Disabled"):
        log.rollover()


def test_a_full_disk_drops_messages_and_says_so(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.start()
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", refuse)
        logger.info("one")
        logger.info("two")
    logger.info("three")
    assert session.lines()[0] == "2 messages are missing here: the log file could not be written"
    assert session.lines()[1].endswith("three")
    assert "two" in session.stream.getvalue()


def refuse(*arguments: object) -> int:
    raise OSError(28, "No space left on device")


def test_nobody_reads_standard_error(session: Session) -> None:
    session.start()
    session.stream.close()
    logger.info("one")
    assert session.lines()[-1].endswith("one")


def test_a_wrong_logging_call_does_not_raise(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.start()
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%d", ("x",), None)
    for handler in logging.getLogger().handlers:
        if handler.__class__.__module__ == module.__name__:
            handler.handle(record)
    assert "Logging error" in capsys.readouterr().err


# -- rollover --


def test_rollover_on_demand(session: Session, noon: float) -> None:
    log = session.start()
    log.pin("config", "[old]")
    log.pin("config", "[server]\nport = 7125\napi_key = 123")
    logger.info("before")
    log.rollover()
    logger.info("after")
    assert session.old() == [f"moonraker.log.{TODAY}"]
    assert session.lines()[:-1] == ["    [server]", "    port = 7125", "    api_key = <redacted>"]
    assert session.lines()[-1].endswith("after")
    assert "before" in (session.folder / session.old()[0]).read_text()
    log.rollover()
    assert session.old() == [f"moonraker.log.{TODAY}", f"moonraker.log.{TODAY}.1"]


def test_rollover_without_a_file(session: Session) -> None:
    with pytest.raises(MoonfastError, match="File Logging Disabled"):
        session.start(None).rollover()


def test_rollover_that_fails_leaves_the_file(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    log = session.start()
    monkeypatch.setattr(module.os, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        log.rollover()
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1)
    logger.info("one")
    logger.info("two")
    assert [line[-3:] for line in session.lines()] == ["one", "two"]


def test_a_device_is_never_renamed(session: Session) -> None:
    log = session.start("/dev/null")
    with pytest.raises(MoonfastError, match="File Logging Disabled"):
        log.rollover()
    logger.info("x")
    assert os.path.exists("/dev/null")


def test_rollover_by_size_keeps_the_newest(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 200)
    (session.folder / "moonraker.log.gz").write_text("not ours")
    (session.folder / "moonraker.log.2020-01-01").write_text("ancient")
    os.utime(session.folder / "moonraker.log.2020-01-01", (0, 0))
    session.start()
    for number in range(20):
        logger.info("%s %d", "x" * 100, number)
    assert len(session.old()) == module.KEPT_FILES + 1
    assert "moonraker.log.gz" in session.old()
    assert "moonraker.log.2020-01-01" not in session.old()
    assert session.lines()[-1].endswith("x 19")


def test_rollover_at_midnight(session: Session, noon: float) -> None:
    session.start()
    logger.info("today")
    tomorrow = logging.LogRecord("x", logging.INFO, __file__, 1, "tomorrow", (), None, "f")
    tomorrow.created = noon + 86400
    logging.getLogger().handle(tomorrow)
    assert session.old() == [f"moonraker.log.{TODAY}"]
    assert "today" in (session.folder / session.old()[0]).read_text()
    assert session.lines()[-1].endswith("tomorrow")


def test_a_file_of_an_earlier_day_is_rolled_over_at_start(session: Session) -> None:
    session.path.write_text("old\n")
    then = time.time() - 3 * 86400
    os.utime(session.path, (then, then))
    session.start()
    assert session.old() == ["moonraker.log." + time.strftime("%Y-%m-%d", time.localtime(then))]
    assert "old" not in session.path.read_text()


def test_a_file_of_today_is_continued(session: Session) -> None:
    session.path.write_text("first\n")
    session.start()
    logger.info("second")
    assert session.path.read_text().startswith("first\n")
    assert session.old() == []


def test_a_deleted_file_is_made_again(session: Session) -> None:
    session.start()
    session.path.unlink()
    logger.info("here")
    assert session.lines()[-1].endswith("here")


# -- redaction --


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET /access/x?token=ABC-1&a=1", "GET /access/x?token=<redacted>&a=1"),
        ('{"password": "a \\" b", "x": 1}', '{"password": <redacted>, "x": 1}'),
        ("{'api_key': 'a b'}", "{'api_key': <redacted>}"),
        ("password = pw\nuser = x", "password = <redacted>\nuser = x"),
        ("sudo_password: pw", "sudo_password: <redacted>"),
        ("X-Api-Key: 0123", "X-Api-Key: <redacted>"),
        ("Authorization: Bearer abc.def", "Authorization: <redacted>"),
        ("authorization=Basic dXNlcjpwdw==", "authorization=<redacted>"),
        ("with bearer abcdefgh.ijk", "with bearer <redacted>"),
        ("refresh_token: 1, jwt_secret: 2", "refresh_token: <redacted>, jwt_secret: <redacted>"),
        ("mqtt://user:pw@host:1883/x", "mqtt://user:<redacted>@host:1883/x"),
        ("http://host:7125/x@y", "http://host:7125/x@y"),
        ("see eyJhbGciOiJI.eyJpc3M.c2ln!", "see eyJ<redacted>!"),
        ("secrets_path: /x, tokens 5, keyboard: y", "secrets_path: /x, tokens 5, keyboard: y"),
        ("the password is wrong", "the password is wrong"),
    ],
)
def test_redaction(text: str, expected: str) -> None:
    assert redact(text) == expected


@given(st.text("abc=: \"'\\\n&,;@/"), st.text("xyz0123", min_size=4))
def test_a_password_never_survives(before: str, secret: str) -> None:
    assert f"password={secret}" not in redact(f"{before} password={secret}")
    assert f'"{secret}"' not in redact(f'{{"api_key":"{secret}"}}{before}')


def test_redaction_takes_linear_time() -> None:
    began = time.process_time()
    for piece in ("password", "://a:", "eyJaaaaaaaaa.", "bearer ", 'token: "', "secret:  "):
        redact(piece * 20_000)
    assert time.process_time() - began < 1.0
