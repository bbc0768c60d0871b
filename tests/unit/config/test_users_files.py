"""Configurations as printers have them: they load without a problem, and no warning calls a right line wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from moonfast.config.load import read_config
from moonfast.config.sections import AuthorizationConfig, ServerConfig
from moonfast.registry import COMPONENTS

MAINSAIL_OS = """\
[server]
host: 0.0.0.0
port: 7125
# The maximum size allowed for a file upload (in MiB).  Default 1024 MiB
max_upload_size: 1024
# Path to klippy Unix Domain Socket
klippy_uds_address: ~/printer_data/comms/klippy.sock

[file_manager]
# post processing for object cancel. Not recommended for low resource SBCs such as a Pi Zero. Default False
enable_object_processing: False

[authorization]
cors_domains:
    https://my.mainsail.xyz
    http://my.mainsail.xyz
    http://*.local
    http://*.lan
trusted_clients:
    10.0.0.0/8
    127.0.0.0/8
    169.254.0.0/16
    172.16.0.0/12
    192.168.0.0/16
    FE80::/10
    ::1/128

# enables partial support of Octoprint API
[octoprint_compat]

[history]

[announcements]
subscriptions:
    mainsail

[update_manager]
refresh_interval: 168
enable_auto_refresh: True

[update_manager mainsail]
type: web
channel: stable
repo: mainsail-crew/mainsail
path: ~/mainsail

[include mainsail-extras/*.conf]
"""

FLUIDD_KIAUH = """\
[server]
host = 0.0.0.0
port = 7125
klippy_uds_address = /home/pi/printer_data/comms/klippy.sock

[authorization]
trusted_clients =
\t10.0.0.0/8
\t127.0.0.0/8
\tmy-pc.lan
cors_domains =
\t*.lan
\t*.local
\t*://localhost
\t*://localhost:*
\t*://my.mainsail.xyz
\t*://app.fluidd.xyz

[octoprint_compat]
[history]

[machine]
provider: systemd_cli

[update_manager fluidd-config]
type: git_repo
primary_branch: master
path: ~/fluidd-config
origin: https://github.com/fluidd-core/fluidd-config.git
managed_services: klipper

[power printer]
type: gpio
pin: !gpiochip0/gpio27
off_when_shutdown: True
bound_services:
  klipper

[webcam front]
location: printer
snapshot_url: http://192.168.1.9/webcam/?action=snapshot#x

[mqtt]
address: mqtt.lan
password: {secrets.mqtt.password}
status_objects:
  webhooks
  toolhead=position,print_time

[notifier telegram]
url: tgram://{secrets.telegram.token}/{secrets.telegram.chat_id}
events: *
body: {% if event_name == "complete" %}
      Done: {event_args[1].filename}
      {% endif %}

[button stop]
pin: gpio26
on_press:
  {% do call_method("printer.emergency_stop") %}

[wled strip]
type: http
address: led-54.lan
initial_preset: 45

[sensor solar]
type: mqtt
state_topic: home/solar
state_response_template:
  {% set data = payload|fromjson %}
  {set_result("power", data["power"]|float)}
parameter_power:
  units=W

[spoolman]
server: http://192.168.0.123:7912
[zeroconf]
[simplyprint]
[ldap]
ldap_host: ldap.local
[paneldue]
[job_queue]
load_on_startup: True
[data_store]
temperature_store_size: 600
"""


@pytest.mark.parametrize("text", [MAINSAIL_OS, FLUIDD_KIAUH])
def test_a_users_file_loads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "moonraker.conf"
    path.write_text(text)
    config = read_config(str(path), "/home/pi/printer_data")
    assert not config.problems()
    assert config.section(ServerConfig).port == 7125
    assert config.section(ServerConfig).klippy_uds_address.endswith("/printer_data/comms/klippy.sock")
    assert config.section(AuthorizationConfig).trusted_clients[:2] == ["10.0.0.0/8", "127.0.0.0/8"]
    warnings = config.all_warnings(entry.name for entry in COMPONENTS)
    assert not [warning for warning in warnings if "Unparsed" in warning or "mean" in warning]
    assert warnings[-1].startswith("These config sections are not supported by this version of moonfast yet")
    assert "[update_manager" in warnings[-1]


def test_templates_are_verbatim(tmp_path: Path) -> None:
    path = tmp_path / "moonraker.conf"
    path.write_text(FLUIDD_KIAUH)
    view = read_config(str(path), "/data").view()
    assert view["config"]["mqtt"]["password"] == "{secrets.mqtt.password}"
    assert view["orig"]["notifier telegram"]["body"] == (
        '{% if event_name == "complete" %}\nDone: {event_args[1].filename}\n{% endif %}'
    )
    assert view["orig"]["power printer"]["pin"] == "!gpiochip0/gpio27"
    assert view["orig"]["webcam front"]["snapshot_url"].endswith("?action=snapshot#x")
