"""Serial devices, from /sys/class/tty and the links of udev below /dev/serial."""

from __future__ import annotations

import os
from pathlib import Path

from moonfast.components.machine.info import text
from moonfast.components.machine.peripherals import SerialDevice
from moonfast.components.machine.usb import location

MAX_DEVICES = 256
PORT_DRIVERS = ("port", "ctrl")
"""From Linux 6.8 on a port of the board hangs below these two; its own driver is above."""


def devices(root: Path) -> list[SerialDevice]:
    """Blocking."""
    by_path, by_id = (links(root / "dev/serial" / name) for name in ("by-path", "by-id"))
    found: list[SerialDevice] = []
    for folder in sorted((root / "sys/class/tty").glob("*")):
        driver = _driver(folder / "device")
        if not driver or len(found) == MAX_DEVICES:
            continue
        place = location(folder / "device")
        if place is None and text(folder / "type") in ("", "0"):  # the kernel made it, but there is no such port
            continue
        found.append(
            {
                "device_type": "hardware_uart" if place is None else "usb",
                "device_path": f"/dev/{folder.name}",
                "device_name": folder.name,
                "driver_name": driver,
                "path_by_hardware": by_path.get(folder.name),
                "path_by_id": by_id.get(folder.name),
                "usb_location": place,
            }
        )
    return found


def links(folder: Path) -> dict[str, str]:
    """Which link of a folder below /dev leads to which device, by the name of the device."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*")):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        found.setdefault(os.path.basename(target), "/dev/" + "/".join(path.parts[-3:]))
    return found


def _driver(device: Path) -> str:
    """The driver of a device, or of what it belongs to."""
    try:
        folder = device.resolve(strict=True)
    except OSError:
        return ""
    for parent in (folder, *folder.parents[:3]):
        try:
            name = os.path.basename(os.readlink(parent / "driver"))
        except OSError:
            continue
        if name not in PORT_DRIVERS:
            return name
    return ""
