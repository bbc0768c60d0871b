"""What is plugged into the machine. Looked for when somebody asks, in a thread: devices may be slow to answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TypedDict

from moonfast.api.call import Call
from moonfast.api.endpoint import endpoint
from moonfast.vocab import GET

UsbDevice = TypedDict(
    "UsbDevice",
    {
        "bus_num": int,
        "device_num": int,
        "usb_location": str,
        "vendor_id": str,
        "product_id": str,
        "manufacturer": str | None,
        "product": str | None,
        "serial": str | None,
        "class": str | None,
        "subclass": str | None,
        "protocol": str | None,
        "description": str | None,
    },
)


class UsbDevices(TypedDict):
    usb_devices: list[UsbDevice]


class SerialDevice(TypedDict):
    """`device_type` is "usb" or "hardware_uart"."""

    device_type: str
    device_path: str
    device_name: str
    driver_name: str
    path_by_hardware: str | None
    path_by_id: str | None
    usb_location: str | None


class SerialDevices(TypedDict):
    serial_devices: list[SerialDevice]


class VideoMode(TypedDict):
    """`flags`: "COMPRESSED", "EMULATED"; resolutions as "640x480"."""

    format: str
    description: str
    flags: list[str]
    resolutions: list[str]


class VideoDevice(TypedDict):
    device_name: str
    device_path: str
    camera_name: str
    driver_name: str
    alt_name: str | None
    hardware_bus: str
    capabilities: list[str]
    version: str
    path_by_hardware: str | None
    path_by_id: str | None
    usb_location: str | None
    modes: list[VideoMode]


class LibcameraMode(TypedDict):
    format: str
    resolutions: list[str]


class LibcameraDevice(TypedDict):
    libcamera_id: str
    model: str
    modes: list[LibcameraMode]


class VideoDevices(TypedDict):
    v4l2_devices: list[VideoDevice]
    libcamera_devices: list[LibcameraDevice]


class CanNode(TypedDict):
    """`application` is "Klipper", "Katapult" or "Unknown"."""

    uuid: str
    application: str


class CanNodes(TypedDict):
    can_uuids: list[CanNode]


class Peripherals:
    """`root` is where /sys and /dev are."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @endpoint(GET, "/machine/peripherals/usb")
    async def usb(self, call: Call) -> UsbDevices:
        """Return the USB devices. Names of vendors, products and classes are those of the file usb.ids, if it is there.

        `usb_location` is the bus and the device number.
        """
        from moonfast.components.machine import usb

        return {"usb_devices": await asyncio.to_thread(usb.devices, self._root)}

    @endpoint(GET, "/machine/peripherals/serial")
    async def serial(self, call: Call) -> SerialDevices:
        """Return the serial devices: of USB, and the ports of the board."""
        from moonfast.components.machine import tty

        return {"serial_devices": await asyncio.to_thread(tty.devices, self._root)}

    @endpoint(GET, "/machine/peripherals/video", runs_as_task=True)
    async def video(self, call: Call) -> VideoDevices:
        """Return the cameras: those of V4L2, and those that libcamera's `rpicam-hello --list-cameras` tells of."""
        from moonfast.components.machine import video

        found = await asyncio.to_thread(video.devices, self._root)
        return {"v4l2_devices": found, "libcamera_devices": await video.libcamera_devices()}

    @endpoint(GET, "/machine/peripherals/canbus")
    async def canbus(self, call: Call, interface: str = "can0") -> CanNodes:
        """Ask on a CAN bus for nodes of Klipper and Katapult that have no id yet; it takes two seconds.

        Error 400: there is no such interface, or it is down.
        """
        from moonfast.components.machine import can

        return {"can_uuids": await asyncio.to_thread(can.unassigned, interface)}
