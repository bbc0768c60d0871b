"""What this server is called in the network."""

from __future__ import annotations

import re
import socket
from typing import NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from moonfast.component import Listening
from moonfast.data_path import read_uuid
from moonfast.errors import StartError
from moonfast.version import MOONRAKER_VERSION

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class Identity(NamedTuple):
    """`host` is without ".local", `prefix` empty or with a slash in front; ports are None where nothing listens."""

    uuid: UUID
    host: str
    port: int
    https_port: int | None
    prefix: str
    version: str = MOONRAKER_VERSION

    @property
    def short_name(self) -> str:
        return f"Moonraker-{self.uuid.hex[:8]}"


def host_label(wanted: str | None) -> str:
    """The name before ".local": as the configuration has it, or that of this machine. StartError: it cannot be one."""
    if wanted:
        label = wanted.removesuffix(".").removesuffix(".local")
        if not _HOST.fullmatch(label):
            raise StartError("[zeroconf] mdns_hostname: use letters, digits and hyphens, at most 63")
        return label
    label = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:63].strip("-")
    return label or "moonraker"


def identity(data_path: str, host: str, listening: Listening, prefix: str | None) -> Identity:
    """Put together what is known once the server listens."""
    text = read_uuid(data_path)
    try:
        uuid = UUID(text) if text is not None else uuid4()
    except ValueError:  # somebody has written it by hand
        uuid = uuid5(NAMESPACE_URL, str(text))
    ports = {has_tls: port for _, port, has_tls in listening.sockets}
    inner = (prefix or "").strip("/ ")
    return Identity(uuid, host, ports[False], ports.get(True), f"/{inner}" if inner else "")
