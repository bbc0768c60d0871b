"""Writes docs/api from the endpoints of the whole server.

python -m moonfast.reference            write the files
python -m moonfast.reference --check    say what is not current; status 1 if there is something
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from moonfast.api.endpoint import ALL_NOTIFICATIONS
from moonfast.api.reference import markdown
from moonfast.config.load import read_config
from moonfast.data_path import Options
from moonfast.server import Server

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "api"
OPTIONAL = """\
[octoprint_compat]

[button lamp]
pin: gpio26
on_press: {% do send_event() %}

[mqtt]
address: 127.0.0.1

[wled case]
address: 127.0.0.1

[sensor room]
type: mqtt
state_topic: room

[power lamp]
type: klipper_device
object_name: output_pin lamp

[notifier phone]
url: json://127.0.0.1
events: *

[spoolman]
server: http://127.0.0.1:7912

[zeroconf]
enable_ssdp: True
"""
"""Sections of components that run only where they are configured, and have endpoints."""


def build() -> dict[str, str]:
    """File name -> text."""

    async def make(folder: str) -> dict[str, str]:
        config = Path(folder) / "moonraker.conf"
        config.write_text(OPTIONAL)
        options = Options(
            data_path=folder, config_file=str(config), unix_socket_path=str(Path(folder) / "moonraker.sock")
        )
        server = Server(options, read_config(str(config), folder))
        return markdown(server.table, ALL_NOTIFICATIONS.values())

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(make(folder))


def outdated(folder: Path, files: dict[str, str]) -> list[str]:
    """Names of files that are missing, too many, or not what they should be."""
    there = {path.name: path.read_text() for path in folder.glob("*.md")}
    return sorted(name for name in there.keys() | files.keys() if there.get(name) != files.get(name))


def main(arguments: list[str]) -> int:
    files = build()
    wrong = outdated(FOLDER, files)
    if "--check" in arguments:
        for name in wrong:
            print(f"docs/api/{name} is not current: run python -m moonfast.reference")
        return 1 if wrong else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in wrong:
        if name in files:
            (FOLDER / name).write_text(files[name])
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
