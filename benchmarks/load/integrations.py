"""How much memory does each integration cost, over a server without it?

    python -m benchmarks.load.integrations [ROUNDS]

A server is started with the default components, then once with each section; the medians of its resident and private
memory are compared after it has answered and settled. What an integration talks to need not be there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PORT = 7555
SETTLE_S = 3.0
BASE = f"""\
[server]
host: 127.0.0.1
port: {PORT}
[authorization]
trusted_clients:
    127.0.0.1
[history]
[job_queue]
[announcements]
[file_manager]
[machine]
"""
INTEGRATIONS = {
    "octoprint_compat": "[octoprint_compat]\n",
    "power, klipper_device": "[power a]\ntype: klipper_device\nobject_name: output_pin a\n",
    "power, tasmota": "[power a]\ntype: tasmota\naddress: 127.0.0.1:1\n",
    "power, http (templates)": (
        "[power a]\ntype: http\non_url: http://127.0.0.1:1\noff_url: http://127.0.0.1:1\n"
        "status_url: http://127.0.0.1:1\nresponse_template: on\n"
    ),
    "button": "[button a]\npin: gpio26\non_press: {1}\n",
    "mqtt": "[mqtt]\naddress: 127.0.0.1\nport: 1\n",
    "sensor, with mqtt": "[mqtt]\naddress: 127.0.0.1\nport: 1\n[sensor a]\ntype: mqtt\nstate_topic: a\n",
    "zeroconf": "[zeroconf]\n",
    "spoolman": "[spoolman]\nserver: http://127.0.0.1:1\n",
    "notifier": "[notifier a]\nurl: json://127.0.0.1:1\nevents: *\n",
    "ldap": "[ldap]\nldap_host: 127.0.0.1\nbase_dn: dc=a\n",
}


def measure(more: str) -> tuple[float, float]:
    """Resident and private memory of a server with these sections, MB."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config")
        config.mkdir()
        (config / "moonraker.conf").write_text(BASE + more)
        command = [sys.executable, "-m", "moonfast", "-n", "-d", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/server/info", timeout=5).read()
                    break
                except OSError:
                    if server.poll() is not None:
                        raise SystemExit(f"The server ended with {server.returncode}: {more}") from None
                    time.sleep(0.02)
            time.sleep(SETTLE_S)
            lines = Path(f"/proc/{server.pid}/smaps_rollup").read_text().splitlines()
        finally:
            server.terminate()
            server.wait()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kilobytes["Rss"] / 1024, (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1024


def main(rounds: int) -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    names = ["", *INTEGRATIONS]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    measure("".join(INTEGRATIONS[name] for name in ("octoprint_compat", "mqtt")))  # compiles
    for _ in range(rounds):
        for name in names:
            found[name].append(measure(INTEGRATIONS.get(name, "")))
    base = [statistics.median(item[index] for item in found[""]) for index in (0, 1)]
    print(f"| server with default components | {base[0]:.1f} | {base[1]:.1f} |")
    for name in INTEGRATIONS:
        resident, private = (statistics.median(item[index] for item in found[name]) for index in (0, 1))
        print(f"| {name} | +{resident - base[0]:.1f} | +{private - base[1]:.1f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
