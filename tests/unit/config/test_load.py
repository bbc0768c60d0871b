from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import pytest

from moonfast.config import load as module
from moonfast.config.load import Config, backup_path, keep_backup, load, read_config
from moonfast.config.options import Option, Section
from moonfast.config.sections import AuthorizationConfig, DataStoreConfig, ServerConfig
from moonfast.config.source import read_text
from moonfast.errors import ConfigError, StartError


class LampConfig(Section, prefix="lamp"):
    pin: Annotated[int, Option(doc="Where.")]


def write(folder: Path, text: str, name: str = "moonraker.conf") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_core_sections(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[server]\nport: 7200\nklippy_uds_address: {data_path}/k\n[authorization]\ntrusted_clients: a\n  b\n",
    )
    config = load(path, "/data")
    assert config.section(ServerConfig).port == 7200
    assert config.section(ServerConfig).klippy_uds_address == "/data/k"
    assert config.section(AuthorizationConfig).trusted_clients == ["a", "b"]
    assert config.section(DataStoreConfig).gcode_store_size == 1000
    assert config.section(ServerConfig) is config.section(ServerConfig)
    assert not config.all_warnings()
    assert "server" in config
    assert "data_store" not in config
    assert config.is_given("server", "port")
    assert not config.is_given("server", "host")
    assert not config.is_given("data_store", "x")


def test_old_forms_are_honoured(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[server]\nconfig_path: ~/klipper_config\ndatabase_path: /db\ntemperature_store_size: 60\n"
        "gcode_store_size: 20\nenable_debug_logging: True\n"
        "[authorization]\nenabled: True\napi_key_file: ~/.moonraker_api_key\n[system_args]\n",
    )
    config = load(path, "/data")
    assert config.section(DataStoreConfig).temperature_store_size == 60
    assert config.section(DataStoreConfig).gcode_store_size == 20
    assert config.section(ServerConfig).database_path == "/db"
    assert config.section(ServerConfig).enable_debug_logging
    warnings = config.all_warnings()
    assert len(warnings) == 8
    assert all("deprecated" in warning for warning in warnings)


def test_sections_by_prefix() -> None:
    config = Config(read_text("[lamp b]\npin: 1\n[lamp a]\npin: 2\n[lampe]\n"), "", "")
    assert [(lamp.own_name, lamp.pin) for lamp in config.sections(LampConfig)] == [("b", 1), ("a", 2)]
    assert "lamp" in config


def test_every_broken_section_is_noted_once() -> None:
    config = Config(read_text("[lamp b]\npin: x\n[lamp a]\n[lamp c]\npin: 1\n"), "", "")
    for _ in range(2):
        with pytest.raises(ConfigError, match="'x' is not a whole number"):
            config.sections(LampConfig)
    assert [problem.section for problem in config.problems()] == ["lamp b", "lamp a"]


# -- the last good configuration --


def test_backup_is_used_when_the_file_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "[server]\nport: 7200\n[include more.conf]\n")
    write(tmp_path, "[a]\nx: \\#1\n    2\n", "more.conf")
    good = load(path, "/data")
    keep_backup(good)
    assert backup_path(path) == str(tmp_path / ".moonraker.conf.bkp")
    write(tmp_path, "[server\nport: 7300\nrubbish\n")
    with caplog.at_level(logging.WARNING):
        config = load(path, "/data")
    assert config.is_backup
    assert config.section(ServerConfig).port == 7200
    assert config.source.sections["a"].options["x"].text == "#1\n2"
    warning = config.all_warnings()[0]
    assert warning.startswith("The configuration cannot be used: moonraker.conf:1: the section header '[server'")
    assert "(1 more: see moonfast --check-config)" in warning
    assert warning in caplog.text
    keep_backup(config)
    assert load(path, "/data").is_backup


def test_missing_file_with_and_without_backup(tmp_path: Path) -> None:
    path = str(tmp_path / "moonraker.conf")
    with pytest.raises(StartError, match=r"The configuration cannot be used: .*moonraker.conf: cannot read"):
        load(path, "/data")
    write(tmp_path, "[server]\n", ".moonraker.conf.bkp")
    assert load(path, "/data").is_backup


def test_broken_backup_is_no_help(tmp_path: Path) -> None:
    path = write(tmp_path, "[server]\nport: x\nssl_port: x\n")
    write(tmp_path, "rubbish\n", ".moonraker.conf.bkp")
    with pytest.raises(StartError, match=r"port: 'x' is not .* \(1 more: see moonfast --check-config\)"):
        load(path, "/data")


def test_backup_is_written_only_when_it_changes_and_only_if_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "[server]\n")
    config = load(path, "/data")
    keep_backup(config)
    backup = Path(backup_path(path))
    first = backup.stat()
    assert first.st_mode & 0o777 == 0o600
    keep_backup(config)
    assert backup.stat().st_ino == first.st_ino
    config.source.sections.clear()
    monkeypatch.setattr(module.os, "open", refuse)
    keep_backup(config)
    assert "could not be backed up: Read-only file system" in caplog.text


def refuse(*arguments: object) -> int:
    raise OSError(30, "Read-only file system")


def test_a_configuration_with_problems_is_not_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "[lamp a]\n")
    config = load(path, "/data")
    with pytest.raises(ConfigError):
        config.sections(LampConfig)
    keep_backup(config)
    assert not Path(backup_path(path)).exists()


# -- secrets --


@pytest.mark.parametrize("text", ["[mqtt]\npassword: pw # x\n", '\ufeff {"mqtt": {"password": "pw"}}'])
def test_secrets(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "[secrets]\nsecrets_path: {data_path}/my.secrets\n")
    write(tmp_path, text, "my.secrets")
    (tmp_path / "my.secrets").chmod(0o600)
    config = read_config(path, str(tmp_path))
    assert config.secrets == {"mqtt": {"password": "pw"}}
    assert not config.all_warnings()


def test_secrets_in_the_data_folder(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert read_config(path, str(tmp_path)).secrets == {}
    write(tmp_path, "[a]\nb: c\n", "moonraker.secrets")
    (tmp_path / "moonraker.secrets").chmod(0o644)
    config = read_config(path, str(tmp_path))
    assert config.secrets == {"a": {"b": "c"}}
    assert config.all_warnings() == [
        "[secrets] other users of this machine have access to 'moonraker.secrets'. Run: chmod 600 moonraker.secrets"
    ]


@pytest.mark.parametrize("content", [b"{", b"rubbish", b"\xff", b"{]}"])
def test_broken_secrets_are_a_warning_that_shows_nothing_of_them(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, "[secrets]\nsecrets_path: {data_path}/my.secrets\n")
    (tmp_path / "my.secrets").write_bytes(content)
    (tmp_path / "my.secrets").chmod(0o600)
    config = read_config(path, str(tmp_path))
    assert config.secrets == {}
    assert len(config.all_warnings()) == 1
    assert "is neither json nor ini" in config.all_warnings()[0]
    assert "rubbish" not in config.all_warnings()[0]


def test_missing_and_unreadable_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "[secrets]\nsecrets_path: {data_path}/my.secrets\n")
    assert read_config(path, str(tmp_path)).all_warnings() == [
        "[secrets] secrets_path: there is no file 'my.secrets'. Create it or correct the option."
    ]
    monkeypatch.setattr(module, "MAX_SECRETS_BYTES", 3)
    write(tmp_path, "[a]\nb: c\n", "my.secrets")
    assert read_config(path, str(tmp_path)).all_warnings() == [
        "[secrets] the file 'my.secrets' cannot be read: it is too large."
    ]
