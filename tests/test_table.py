"""Every endpoint of the real server is documented, and the generated reference is current."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from moonfast import reference
from moonfast.api.endpoint import ALL_NOTIFICATIONS, Endpoint
from moonfast.api.names import candidate_paths
from moonfast.api.reference import asyncapi, openapi
from moonfast.config.load import read_config
from moonfast.data_path import Options
from moonfast.server import Server
from moonfast.vocab import Transport, Verb


@pytest.fixture
def endpoints(tmp_path: Path) -> list[Endpoint]:
    (tmp_path / "moonraker.conf").write_text(reference.OPTIONAL)
    options = Options(
        data_path=str(tmp_path),
        config_file=str(tmp_path / "moonraker.conf"),
        unix_socket_path=str(tmp_path / "moonraker.sock"),
    )

    async def build() -> list[Endpoint]:
        return list(Server(options, read_config(options.config_file, options.data_path)).table)

    return asyncio.run(build())


def test_every_endpoint_says_what_it_does(endpoints: list[Endpoint]) -> None:
    assert len(endpoints) > 25
    for endpoint in endpoints:
        assert endpoint.doc.split("\n")[0].endswith((".", ":")), endpoint
        assert endpoint.path is None or endpoint.path.startswith("/"), endpoint


def test_names_lead_back_to_paths(endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        if endpoint.path is not None and endpoint.rpc_name is not None:
            paths = [path for path, _ in candidate_paths(endpoint.rpc_name)]
            assert endpoint.path in paths


def test_what_changes_something_does_not_answer_get(endpoints: list[Endpoint]) -> None:
    reading = {"/printer/objects/query", "/server/redirect", "/server/openapi.json", "/server/asyncapi.json"}
    reading |= {
        "/server/files/directory",
        "/server/files/metadata",
        "/server/files/{root}/{path}",
        "/server/database/item",
        "/server/history/job",
        "/server/webcams/item",
        "/machine/device_power/device",
        "/machine/device_power/devices",
        "/server/spoolman/spool_id",
        "/access/user",
        "/access/api_key",
        "/access/oneshot_token",
        "/server/zeroconf/ssdp",
        "/machine/peripherals/usb",
        "/machine/peripherals/serial",
        "/machine/peripherals/video",
        "/machine/peripherals/canbus",
        "/api/version",
        "/api/server",
        "/api/login",
        "/api/currentuser",
        "/api/settings",
        "/api/printerprofiles",
        "/api/job",
        "/api/printer",
    }
    words = (
        "stats",
        "strips",
        "strip",
        "measurements",
        "feeds",
        "totals",
        "list",
        "info",
        "help",
        "status",
        "store",
        "config",
        "roots",
        "thumbnails",
        ".log",
    )
    for endpoint in endpoints:
        if endpoint.path is not None and Verb.GET in endpoint.verb:
            assert endpoint.path in reading or endpoint.path.endswith(words), endpoint


def test_the_reference_is_current() -> None:
    assert reference.outdated(reference.FOLDER, reference.build()) == [], "run python -m moonfast.reference"


def test_openapi(endpoints: list[Endpoint]) -> None:
    document = json.loads(json.dumps(openapi(endpoints, "1")))
    assert document["openapi"] == "3.1.0"
    over_http = {item.path for item in endpoints if item.path is not None and item.transports & Transport.HTTP}
    assert set(document["paths"]) == over_http
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    count = document["paths"]["/server/gcode_store"]["get"]["parameters"][0]
    assert count == {
        "name": "count",
        "in": "query",
        "required": False,
        "schema": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    }
    start = document["paths"]["/printer/print/start"]["post"]
    assert start["x-jsonrpc-method"] == "printer.print.start"
    assert start["requestBody"]["content"]["application/json"]["schema"]["required"] == ["filename"]


def test_asyncapi() -> None:
    document = json.loads(json.dumps(asyncapi(ALL_NOTIFICATIONS.values(), "1")))
    messages = document["channels"]["websocket"]["messages"]
    assert {"notify_klippy_ready", "notify_gcode_response", "notify_status_update", "notify_agent_event"} <= set(
        messages
    )
    assert "params" not in messages["notify_klippy_ready"]["payload"]["properties"]
    assert messages["notify_gcode_response"]["payload"]["properties"]["params"]["items"] == {"type": "string"}
