from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from moonfast import cli
from moonfast.data_path import Options
from moonfast.errors import ConfigError, StartError

DATA = "/data"


def options(*arguments: str, **environment: str) -> Options:
    return cli.options_from(cli.parser().parse_args(arguments), {f"MOONRAKER_{k}": v for k, v in environment.items()})


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/pi")
    assert options() == Options(
        data_path="/home/pi/printer_data",
        config_file="/home/pi/printer_data/config/moonraker.conf",
        unix_socket_path="/home/pi/printer_data/comms/moonraker.sock",
        log_file="/home/pi/printer_data/logs/moonraker.log",
    )


LONG = (
    "--configfile /c --logfile /l --unixsocket /u --structured-logging --verbose --debug --asyncio-debug "
    "--datapath /data"
)


@pytest.mark.parametrize("flags", ["-d /data -c /c -l /l -u /u -s -v -g -o", LONG])
def test_flags(flags: str) -> None:
    assert options(*flags.split()) == Options(
        data_path=DATA,
        config_file="/c",
        unix_socket_path="/u",
        log_file="/l",
        structured_logging=True,
        verbose=True,
        debug=True,
        asyncio_debug=True,
    )


def test_variables() -> None:
    found = options(
        DATA_PATH=DATA,
        CONFIG_PATH="/c",
        LOG_PATH="/l",
        UDS_PATH="/u",
        STRUCTURED_LOGGING="y",
        VERBOSE_LOGGING="Yes",
        ENABLE_DEBUG="1",
        ASYNCIO_DEBUG="true",
        ENABLE_UVLOOP="n",
        ENABLE_MSGSPEC="n",
        ARGS="-m moonraker",
    )
    assert found == Options(
        data_path=DATA,
        config_file="/c",
        unix_socket_path="/u",
        log_file="/l",
        structured_logging=True,
        verbose=True,
        debug=True,
        asyncio_debug=True,
        wants_uvloop=False,
    )


def test_a_flag_wins_over_its_variable() -> None:
    found = options("-d", DATA, "-c", "/c", "-v", DATA_PATH="/x", CONFIG_PATH="/x", VERBOSE_LOGGING="n", LOG_PATH="")
    assert (found.data_path, found.config_file, found.verbose) == (DATA, "/c", True)
    assert found.log_file == "/data/logs/moonraker.log"


def test_no_log_file() -> None:
    assert options("-n", "-l", "/l").log_file is None
    assert options(DISABLE_FILE_LOG="y").log_file is None
    assert options("-d", DATA, DISABLE_FILE_LOG="n").log_file == "/data/logs/moonraker.log"


def test_a_folder_as_log_file(tmp_path: Path) -> None:
    assert options("-l", str(tmp_path)).log_file == f"{tmp_path}/moonraker.log"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/pi")
    found = options("-d", "data", "-c", "~/c", "-l", "../l")
    assert found.data_path == f"{tmp_path}/data"
    assert found.config_file == "/home/pi/c"
    assert found.log_file == f"{tmp_path.parent}/l"


def test_a_switch_that_is_neither_on_nor_off() -> None:
    with pytest.raises(StartError, match="MOONRAKER_ENABLE_DEBUG: 'perhaps' is neither y nor n"):
        options(ENABLE_DEBUG="perhaps")


# -- main --


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options], int]], None]:
    def install(run: Callable[[Options], int]) -> None:
        fake = types.ModuleType("moonfast.server")
        vars(fake)["run"] = run
        monkeypatch.setitem(sys.modules, "moonfast.server", fake)

    return install


@pytest.mark.parametrize("status", [0, 1])
def test_the_server_gets_the_options(server: Callable[[Callable[[Options], int]], None], status: int) -> None:
    given = []

    def run(options: Options) -> int:
        given.append(options)
        return status

    server(run)
    assert cli.main(["-d", DATA, "--simulate"]) == status
    assert given[0].simulate
    assert given[0].data_path == DATA


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StartError("port 7125 is taken"), "moonfast: port 7125 is taken\n"),
        (ConfigError("is wrong.", file="c", line=3, section="a", option="b"), "moonfast: c:3: [a] b: is wrong.\n"),
        (StartError("two\nlines"), "moonfast: two lines\n"),
        (StartError(""), "moonfast: StartError\n"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    server: Callable[[Callable[[Options], int]], None],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    def run(options: Options) -> int:
        raise error

    server(run)
    assert cli.main(["-d", DATA]) == 1
    assert capsys.readouterr().err == line


def test_a_wrong_variable_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONRAKER_ASYNCIO_DEBUG", "x")
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "moonfast: MOONRAKER_ASYNCIO_DEBUG: 'x' is neither y nor n\n"


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--nonsense"])
    assert end.value.code == 2
    assert "--nonsense" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("moonfast ")


def test_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.conf"
    path.write_text("[server]\nport: 7125\n")
    arguments = ["-d", str(tmp_path / "data"), "-c", str(path), "--check-config"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"{path}: no problems, 0 warnings\n"
    path.write_text("[server]\nport: x\n")
    assert cli.main(arguments) == 1
    assert "error: my.conf:2: [server] port: 'x' is not" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()


def test_the_command_imports_little() -> None:
    code = (
        "import sys, moonfast.cli\n"
        "print(sorted(set(sys.modules) & {'asyncio', 'orjson', 'uvloop', 'httptools', 'logging', 'moonfast.server', "
        "'moonfast.registry', 'moonfast.codec', 'moonfast.config.load'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_python_m_moonfast() -> None:
    environment = os.environ | {"MOONRAKER_VERBOSE_LOGGING": "odd"}
    command = [sys.executable, "-m", "moonfast"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "moonfast: MOONRAKER_VERBOSE_LOGGING: 'odd' is neither y nor n\n")
