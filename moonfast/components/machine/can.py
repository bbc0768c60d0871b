"""CAN nodes without an id. Source: Klipper's documentation, "CAN bus protocol"; can(7)."""

from __future__ import annotations

import socket
import struct
import time

from moonfast.components.machine.peripherals import CanNode
from moonfast.errors import BadRequest, Unavailable

_FRAME = struct.Struct("=IB3x8s")  # id, length, data
ADMIN_ID, ANSWER_ID = 0x3F0, 0x3F1
QUERY_UNASSIGNED, NEED_NODE_ID = 0x00, 0x20
APPLICATIONS = {0x01: "Klipper", 0x11: "Katapult"}
"""By the command that gives a node its id."""
ID_MASK = 0x7FF
QUERY_S = 2.0
MAX_NODES = 128


def unassigned(interface: str) -> list[CanNode]:
    """Blocking, for two seconds. BadRequest: the interface cannot be used."""
    try:
        sock = socket.socket(socket.AF_CAN, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.CAN_RAW)
    except OSError:
        raise Unavailable("This system has no support for CAN: load the kernel module can_raw") from None
    with sock:
        try:
            sock.bind((interface,))
            return query(sock)
        except (OSError, ValueError):
            raise BadRequest(
                f"The CAN interface '{interface[:16]}' is missing or down: bring it up with 'ip link set up'"
            ) from None


def query(sock: socket.socket) -> list[CanNode]:
    """Ask, and collect answers until the time is over. OSError: nothing can be sent."""
    sock.settimeout(QUERY_S)
    sock.send(_FRAME.pack(ADMIN_ID, 1, bytes([QUERY_UNASSIGNED])))
    found: dict[str, CanNode] = {}
    end = time.monotonic() + QUERY_S
    while (left := end - time.monotonic()) > 0 and len(found) < MAX_NODES:
        sock.settimeout(left)
        try:
            frame = sock.recv(_FRAME.size)
        except TimeoutError:
            break
        if len(frame) < _FRAME.size:
            continue
        number, length, data = _FRAME.unpack(frame)
        if number & ID_MASK != ANSWER_ID or length < 7 or data[0] != NEED_NODE_ID:
            continue
        uuid = data[1:7].hex()
        application = APPLICATIONS.get(data[7], "Unknown") if length > 7 else "Klipper"
        found[uuid] = {"uuid": uuid, "application": application}
    return list(found.values())
