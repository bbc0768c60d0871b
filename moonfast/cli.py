"""The command line: Moonraker's flags and MOONRAKER_* variables (a flag wins), and what to do with them.

Exit status: 0 stopped in order (or the configuration is sound), 1 could not start (or it is not), 2 wrong usage.
Nothing of the server is imported before it is needed: `moonfast --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from moonfast import __version__
from moonfast.data_path import CONFIG_NAME, Options
from moonfast.errors import ConfigError, StartError

DEFAULT_DATA_PATH = "~/printer_data"

_ON = frozenset(("y", "yes", "true", "on", "1"))
_OFF = frozenset(("n", "no", "false", "off", "0"))
_VARIABLES = """\
moonfast db COMMAND    check, dump, restore, import or export the database: moonfast db --help

environment variables, for what no flag says:
  MOONRAKER_DATA_PATH, MOONRAKER_CONFIG_PATH, MOONRAKER_LOG_PATH, MOONRAKER_UDS_PATH   paths, like -d -c -l -u
  MOONRAKER_DISABLE_FILE_LOG, MOONRAKER_STRUCTURED_LOGGING, MOONRAKER_VERBOSE_LOGGING,
  MOONRAKER_ENABLE_DEBUG, MOONRAKER_ASYNCIO_DEBUG                                      y or n, like -n -s -v -g -o
  MOONRAKER_ENABLE_UVLOOP                                                              y or n, default y
"""


HELP_WIDTH = 100
"""Columns."""


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    # a fixed width: to ask the terminal for its own, argparse imports half a megabyte, also when no help is shown
    return argparse.RawDescriptionHelpFormatter(prog, width=HELP_WIDTH)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="moonfast",
        description="API server for Klipper printers, a drop-in replacement for Moonraker.",
        epilog=_VARIABLES,
        formatter_class=_help_formatter,
    )
    flags.add_argument("-d", "--datapath", metavar="PATH", help=f"data folder (default: {DEFAULT_DATA_PATH})")
    flags.add_argument("-c", "--configfile", metavar="FILE", help=f"default: config/{CONFIG_NAME} in the data folder")
    flags.add_argument("-l", "--logfile", metavar="FILE", help="default: logs/moonraker.log in the data folder")
    flags.add_argument("-u", "--unixsocket", metavar="PATH", help="default: comms/moonraker.sock in the data folder")
    flags.add_argument("-n", "--nologfile", action="store_true", help="write no log file")
    flags.add_argument("-s", "--structured-logging", action="store_true", help="log file with one JSON object a line")
    flags.add_argument("-v", "--verbose", action="store_true", help="log more")
    flags.add_argument("-g", "--debug", action="store_true", help="switch on debug features")
    flags.add_argument("-o", "--asyncio-debug", action="store_true", help="switch on asyncio's debug mode")
    flags.add_argument("--simulate", action="store_true", help="run beside a simulated printer: no Klipper needed")
    flags.add_argument("--check-config", action="store_true", help="report every fault in the configuration, then end")
    flags.add_argument("--version", action="version", version=f"moonfast {__version__}")
    return flags


def options_from(flags: argparse.Namespace, environment: Mapping[str, str]) -> Options:
    """Flags, then variables, then defaults. StartError: a variable that has to be y or n is neither."""
    data_path = _path(flags.datapath or environment.get("MOONRAKER_DATA_PATH") or DEFAULT_DATA_PATH)

    def path(flag: str | None, variable: str, *default: str) -> str:
        return _path(flag or environment.get(variable) or os.path.join(data_path, *default))

    def switch(flag: bool, variable: str) -> bool:
        return flag or _is_on(environment, variable, False)

    log_file = None
    if not switch(flags.nologfile, "MOONRAKER_DISABLE_FILE_LOG"):
        log_file = path(flags.logfile, "MOONRAKER_LOG_PATH", "logs", "moonraker.log")
        if os.path.isdir(log_file):
            log_file = os.path.join(log_file, "moonraker.log")
    return Options(
        data_path=data_path,
        config_file=path(flags.configfile, "MOONRAKER_CONFIG_PATH", "config", CONFIG_NAME),
        unix_socket_path=path(flags.unixsocket, "MOONRAKER_UDS_PATH", "comms", "moonraker.sock"),
        log_file=log_file,
        structured_logging=switch(flags.structured_logging, "MOONRAKER_STRUCTURED_LOGGING"),
        verbose=switch(flags.verbose, "MOONRAKER_VERBOSE_LOGGING"),
        debug=switch(flags.debug, "MOONRAKER_ENABLE_DEBUG"),
        asyncio_debug=switch(flags.asyncio_debug, "MOONRAKER_ASYNCIO_DEBUG"),
        wants_uvloop=_is_on(environment, "MOONRAKER_ENABLE_UVLOOP", True),
        simulate=flags.simulate,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop. Returns the exit status; SystemExit for --help and wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["db"]:
            from moonfast.storage import commands

            return commands.main(given[1:], os.environ.get("MOONRAKER_DATA_PATH") or DEFAULT_DATA_PATH)
        flags = parser().parse_args(given)
        options = options_from(flags, os.environ)
        if flags.check_config:
            from moonfast.config.check import check

            return check(options.config_file, options.data_path, sys.stdout)
        from moonfast.server import run

        return run(options)
    except (StartError, ConfigError) as exc:
        print(f"moonfast: {' '.join(str(exc).split()) or type(exc).__name__}", file=sys.stderr)
        return 1


def _path(text: str) -> str:
    return os.path.abspath(os.path.expanduser(text))


def _is_on(environment: Mapping[str, str], variable: str, default: bool) -> bool:
    word = environment.get(variable, "").strip().lower()
    if word in _ON or word in _OFF:
        return word in _ON
    if word:
        raise StartError(f"{variable}: '{word}' is neither y nor n")
    return default
