from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moonfast import data_path as module
from moonfast.config.load import read_config
from moonfast.data_path import FOLDERS, DataFolder, Options, claim
from moonfast.errors import StartError


def options(path: Path, config_file: str | None = None) -> Options:
    return Options(
        data_path=str(path),
        config_file=config_file or str(path / "config" / "moonraker.conf"),
        unix_socket_path=str(path / "comms" / "moonraker.sock"),
    )


def once(path: Path, config_file: str | None = None) -> DataFolder:
    folder = claim(options(path, config_file))
    folder.release()
    return folder


def test_a_new_folder_gets_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    folder = once(path)
    assert sorted(item.name for item in path.iterdir()) == sorted((*FOLDERS, ".moonraker.uuid", ".moonfast.lock"))
    assert (path / ".moonraker.uuid").read_text() == folder.uuid
    assert len(folder.uuid) == 32
    assert folder.uuid == once(path).uuid
    assert folder.warnings == []


def test_the_default_configuration_is_sound(tmp_path: Path) -> None:
    once(tmp_path)
    config = read_config(str(tmp_path / "config" / "moonraker.conf"), str(tmp_path))
    assert not config.problems()
    assert not config.all_warnings()
    assert not config.is_given("server", "host")
    assert config.view()["config"]["server"]["klippy_uds_address"] == f"{tmp_path}/comms/klippy.sock"


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "moonraker.conf").write_text("[server]\n")
    (tmp_path / ".moonraker.uuid").write_text("58d8c56aaba34b09aafd8a5156347751\n")
    assert once(tmp_path).uuid == "58d8c56aaba34b09aafd8a5156347751"
    assert (tmp_path / "config" / "moonraker.conf").read_text() == "[server]\n"


def test_no_configuration_is_made_beside_a_backup_or_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / ".moonraker.conf.bkp").write_text("[server]\n")
    once(tmp_path)
    assert not (tmp_path / "config" / "moonraker.conf").exists()
    once(tmp_path / "other", str(tmp_path / "typo.conf"))
    assert not (tmp_path / "typo.conf").exists()
    assert not (tmp_path / "other" / "config" / "moonraker.conf").exists()


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"a\x1bb", b"../x"])
def test_a_damaged_uuid_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".moonraker.uuid").write_bytes(content)
    uuid = once(tmp_path).uuid
    assert len(uuid) == 32
    assert once(tmp_path).uuid == uuid


def test_a_second_instance_is_refused(tmp_path: Path) -> None:
    first = claim(options(tmp_path))
    with pytest.raises(StartError) as error:
        claim(options(tmp_path))
    assert error.value.message == (
        f"the data folder '{tmp_path}' is in use by another moonfast (process {os.getpid()}): stop that one first"
    )
    first.release()
    first.release()
    once(tmp_path)


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, os\n"
        "from moonfast.data_path import Options, claim\n"
        "claim(Options(data_path=sys.argv[1], config_file='/c', unix_socket_path='/u'))\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid = child.stdout.readline().strip()
        with pytest.raises(StartError, match=f"process {pid}"):
            claim(options(tmp_path))
        child.kill()
    once(tmp_path)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    once(tmp_path)
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("")
    with pytest.raises(StartError, match="the folder 'logs' of the data folder .* cannot be created: File exists"):
        claim(options(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_a_file_in_the_place_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StartError, match="the data folder '.*/data' cannot be created: File exists"):
        claim(options(tmp_path / "data"))
    with pytest.raises(StartError, match="the data folder '.*/data/x' cannot be created: Not a directory"):
        claim(options(tmp_path / "data" / "x"))


@pytest.mark.parametrize("part", [".moonfast.lock", ".moonraker.uuid", "moonraker.conf"])
def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    real_open = os.open

    def refusing_open(path: str, flags: int, mode: int = 0o777) -> int:
        if part in str(path) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, flags, mode)

    monkeypatch.setattr(module.os, "open", refusing_open)
    with pytest.raises(StartError) as error:
        claim(options(tmp_path))
    assert error.value.message.endswith(": Permission denied")
    assert str(tmp_path) in error.value.message
    assert "\n" not in error.value.message


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "pwrite", refuse)
    with pytest.raises(StartError, match="is not writable: No space left on device"):
        claim(options(tmp_path))


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    assert len(once(tmp_path).warnings) == 1


def test_a_link_is_not_followed_for_the_lock(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".moonfast.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StartError, match="is not writable"):
        claim(options(tmp_path))
    assert (tmp_path / "precious").read_text() == "precious"
