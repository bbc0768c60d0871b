"""What is plugged in, from a recorded /sys, and drivers that are made up."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from moonfast.components.machine import can, tty, usb, video
from moonfast.errors import ApiError
from tests.unit.components.machine.trees import build

USB = "sys/devices/platform/3f980000.usb/usb1"
TREE = {
    f"{USB}/busnum": "1\n",
    f"{USB}/devnum": "1\n",
    f"{USB}/idVendor": "1d6b\n",
    f"{USB}/idProduct": "0002\n",
    f"{USB}/manufacturer": "Linux 6.1.0-rpi7-rpi-v8 dwc_otg_hcd\n",
    f"{USB}/product": "DWC OTG Controller\n",
    f"{USB}/serial": "3f980000.usb\n",
    f"{USB}/bDeviceClass": "09\n",
    f"{USB}/bDeviceSubClass": "00\n",
    f"{USB}/bDeviceProtocol": "01\n",
    f"{USB}/1-1.2/busnum": "1\n",
    f"{USB}/1-1.2/devnum": "4\n",
    f"{USB}/1-1.2/idVendor": "1d50\n",
    f"{USB}/1-1.2/idProduct": "614e\n",
    f"{USB}/1-1.2/manufacturer": "Klipper\n",
    f"{USB}/1-1.2/product": "stm32f407xx\n",
    f"{USB}/1-1.2/bDeviceClass": "02\n",
    f"{USB}/1-1.2/bDeviceSubClass": "00\n",
    f"{USB}/1-1.2/bDeviceProtocol": "00\n",
    f"{USB}/1-1.2/1-1.2:1.0/bInterfaceClass": "02\n",
    f"{USB}/1-1.4/busnum": "1\n",
    f"{USB}/1-1.4/devnum": "5\n",
    f"{USB}/1-1.4/idVendor": "0403\n",
    f"{USB}/1-1.4/idProduct": "6001\n",
    f"{USB}/1-1.4/bDeviceClass": "00\n",
    f"{USB}/1-1.4/bDeviceSubClass": "00\n",
    f"{USB}/1-1.4/bDeviceProtocol": "00\n",
    f"{USB}/1-1.4/1-1.4:1.0/ttyUSB0/port_number": "0\n",
    f"{USB}/1-1.9/product": "gone while it was looked at\n",
    "sys/devices/platform/serial8250/x": "",
    "sys/devices/platform/3f201000.serial/3f201000.serial:0/3f201000.serial:0.0/x": "",
    "sys/devices/virtual/tty/tty0/active": "tty1\n",
    "sys/class/tty/ttyS0/type": "4\n",
    "sys/class/tty/ttyS1/type": "0\n",
    "sys/class/tty/ttyAMA0/type": "32\n",
    "sys/class/tty/tty0/dev": "4:0\n",
    "sys/class/tty/ttyACM0/dev": "166:0\n",
    "sys/class/tty/ttyUSB0/dev": "188:0\n",
    "sys/class/video4linux/video1/name": "UVC Camera (046d:0825)\n",
    "sys/class/video4linux/video0/name": "bcm2835-codec-decode\n",
    "sys/class/video4linux/video10/name": "silent\n",
    "sys/class/video4linux/video11/name": "not in /dev\n",
    "dev/video0": "",
    "dev/video1": "",
    "dev/video10": "",
}
LINKS = {
    "sys/bus/usb/devices/usb1": f"../../../../{USB}",
    "sys/bus/usb/devices/1-1.2": f"../../../../{USB}/1-1.2",
    "sys/bus/usb/devices/1-1.4": f"../../../../{USB}/1-1.4",
    "sys/bus/usb/devices/1-1.9": f"../../../../{USB}/1-1.9",
    "sys/bus/usb/devices/1-1.2:1.0": f"../../../../{USB}/1-1.2/1-1.2:1.0",
    f"{USB}/1-1.2/1-1.2:1.0/driver": "/sys/bus/usb/drivers/cdc_acm",
    f"{USB}/1-1.4/1-1.4:1.0/ttyUSB0/driver": "/sys/bus/usb-serial/drivers/ftdi_sio",
    "sys/devices/platform/serial8250/driver": "/sys/bus/platform/drivers/serial8250",
    "sys/devices/platform/3f201000.serial/driver": "/sys/bus/amba/drivers/uart-pl011",
    "sys/devices/platform/3f201000.serial/3f201000.serial:0/driver": "/sys/bus/serial-base/drivers/ctrl",
    "sys/devices/platform/3f201000.serial/3f201000.serial:0/3f201000.serial:0.0/driver": "/sys/bus/x/drivers/port",
    "sys/class/tty/ttyS0/device": "../../../devices/platform/serial8250",
    "sys/class/tty/ttyS1/device": "../../../devices/platform/serial8250",
    "sys/class/tty/ttyAMA0/device": "../../../devices/platform/3f201000.serial/3f201000.serial:0/3f201000.serial:0.0",
    "sys/class/tty/ttyACM0/device": f"../../../../{USB}/1-1.2/1-1.2:1.0",
    "sys/class/tty/ttyUSB0/device": f"../../../../{USB}/1-1.4/1-1.4:1.0/ttyUSB0",
    "sys/class/tty/ttyUSB9/device": "../../../devices/gone",
    "sys/class/video4linux/video1/device": f"../../../../{USB}/1-1.4",
    "dev/serial/by-id/usb-Klipper_stm32f407xx_1-if00": "../../ttyACM0",
    "dev/serial/by-path/platform-3f980000.usb-usb-0:1.2:1.0": "../../ttyACM0",
    "dev/v4l/by-id/usb-046d_0825_66EF0390-video-index0": "../../video1",
}
IDS = """# comment

0403  Future Technology Devices International, Ltd
\t6001  FT232 Serial (UART) IC
\t6010  FT2232
1d50  OpenMoko, Inc.
\t614e  Klipper 3d-Printer Firmware
\t\t01  interface
1d6b  Linux Foundation
\t0002  2.0 root hub

C 00  (Defined at Interface level)
C 02  Communications
\t01  Direct Line
C 09  Hub
\t00  Unused
\t\t00  Full speed (or root) hub
\t\t01  Single TT
AT 0100  USB Undefined
\t09  no class
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build(tmp_path, TREE)
    for name, target in LINKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return tmp_path


def test_usb(root: Path) -> None:
    build(root, {"usr/share/misc/usb.ids": IDS})
    klipper, ftdi, hub = usb.devices(root)
    assert hub == {  # as in Moonraker's documentation, "List USB Devices"
        "device_num": 1,
        "bus_num": 1,
        "vendor_id": "1d6b",
        "product_id": "0002",
        "usb_location": "1:1",
        "manufacturer": "Linux 6.1.0-rpi7-rpi-v8 dwc_otg_hcd",
        "product": "DWC OTG Controller",
        "serial": "3f980000.usb",
        "class": "Hub",
        "subclass": None,
        "protocol": "Single TT",
        "description": "Linux Foundation 2.0 root hub",
    }
    assert (ftdi["class"], ftdi["serial"], ftdi["usb_location"]) == (None, None, "1:5")
    assert ftdi["description"] == "Future Technology Devices International, Ltd FT232 Serial (UART) IC"
    assert (klipper["class"], klipper["subclass"], klipper["protocol"]) == ("Communications", None, None)
    assert klipper["description"] == "OpenMoko, Inc. Klipper 3d-Printer Firmware"


def test_usb_without_names(root: Path) -> None:
    klipper, _, hub = usb.devices(root)
    assert (klipper["description"], klipper["class"], hub["class"]) == (None, "Communications", "Hub")
    assert usb.devices(root / "nowhere") == []


def test_serial(root: Path) -> None:
    found = {item["device_name"]: item for item in tty.devices(root)}
    assert list(found) == ["ttyACM0", "ttyAMA0", "ttyS0", "ttyUSB0"]
    assert found["ttyACM0"] == {
        "device_type": "usb",
        "device_path": "/dev/ttyACM0",
        "device_name": "ttyACM0",
        "driver_name": "cdc_acm",
        "path_by_hardware": "/dev/serial/by-path/platform-3f980000.usb-usb-0:1.2:1.0",
        "path_by_id": "/dev/serial/by-id/usb-Klipper_stm32f407xx_1-if00",
        "usb_location": "1:4",
    }
    assert (found["ttyUSB0"]["driver_name"], found["ttyUSB0"]["usb_location"]) == ("ftdi_sio", "1:5")
    assert (found["ttyAMA0"]["driver_name"], found["ttyAMA0"]["device_type"]) == ("uart-pl011", "hardware_uart")
    assert (found["ttyS0"]["driver_name"], found["ttyS0"]["path_by_id"]) == ("serial8250", None)


class Drivers:
    """A decoder, a camera and one that does not answer, by the name of the device."""

    def __call__(self, descriptor: int, request: int, answer: bytearray) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if request == video.QUERYCAP:
            if name == "video10":
                raise OSError(25, "no tty")
            capture = 0x85200001 if name == "video1" else 0x84204000
            texts = (b"uvcvideo", b"UVC Camera (046d:0825)", b"usb-3f980000.usb-1.1")
            struct.pack_into("=16s32s32sIII", answer, 0, *texts, 0x06013F, capture | 0x2, capture & 0x7FFFFFFF)
        elif request == video.ENUM_FMT:
            index, kind = struct.unpack_from("=II", answer)
            formats = [(0, b"YUYV 4:2:2", b"YUYV"), (1, b"Motion-JPEG", b"MJPG"), (3, b"any size", b"RAW ")]
            if kind != 1 or index >= len(formats):
                raise OSError(22, "invalid")
            flags, text, code = formats[index]
            struct.pack_into("=III32s4s", answer, 0, index, kind, flags, text, code)
        elif request == video.ENUM_FRAMESIZES:
            index, code = struct.unpack_from("=I4s", answer)
            sizes = [(640, 480), (1280, 960)]
            if index >= len(sizes):
                raise OSError(22, "invalid")
            struct.pack_into("=III", answer, 8, 2 if code == b"RAW " else 1, *sizes[index])


def test_video(root: Path) -> None:
    (camera,) = video.devices(root, Drivers())
    assert camera == {
        "device_name": "video1",
        "device_path": "/dev/video1",
        "camera_name": "UVC Camera (046d:0825)",
        "driver_name": "uvcvideo",
        "alt_name": "UVC Camera (046d:0825)",
        "hardware_bus": "usb-3f980000.usb-1.1",
        "capabilities": ["VIDEO_CAPTURE", "EXT_PIX_FORMAT", "READWRITE", "STREAMING"],
        "version": "6.1.63",
        "path_by_hardware": None,
        "path_by_id": "/dev/v4l/by-id/usb-046d_0825_66EF0390-video-index0",
        "usb_location": "1:5",
        "modes": [
            {"format": "YUYV", "description": "YUYV 4:2:2", "flags": [], "resolutions": ["640x480", "1280x960"]},
            {
                "format": "MJPG",
                "description": "Motion-JPEG",
                "flags": ["COMPRESSED"],
                "resolutions": ["640x480", "1280x960"],
            },
        ],
    }
    assert video.devices(root) == []  # files are no devices


def test_structures_are_those_of_the_kernel() -> None:
    """The size of the argument is part of the number of a request (ioctl(2), _IOC_SIZE)."""
    for request, layout in (
        (video.QUERYCAP, video._CAPABILITY),
        (video.ENUM_FMT, video._FORMAT),
        (video.ENUM_FRAMESIZES, video._SIZE),
    ):
        assert request >> 16 & 0x3FFF == layout.size


def test_libcamera() -> None:
    listing = """Available cameras
-----------------
0 : ov5647 [2592x1944 10-bit GBRG] (/base/soc/i2c0mux/i2c@1/ov5647@36)
    Modes: 'SGBRG10_CSI2P' : 640x480 [58.92 fps - (16, 0)/2560x1920 crop]
                             1296x972 [46.34 fps - (0, 0)/2592x1944 crop]

1 : imx219 [3280x2464 10-bit RGGB] (/base/soc/i2c0mux/i2c@0/imx219@10)
    Modes: 'SRGGB10_CSI2P' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]
           'SRGGB8' : 1640x1232 [83.70 fps - (0, 0)/3280x2464 crop]
"""
    assert video.cameras_in(listing) == [
        {
            "libcamera_id": "/base/soc/i2c0mux/i2c@1/ov5647@36",
            "model": "ov5647",
            "modes": [{"format": "SGBRG10_CSI2P", "resolutions": ["640x480", "1296x972"]}],
        },
        {
            "libcamera_id": "/base/soc/i2c0mux/i2c@0/imx219@10",
            "model": "imx219",
            "modes": [
                {"format": "SRGGB10_CSI2P", "resolutions": ["640x480"]},
                {"format": "SRGGB8", "resolutions": ["1640x1232"]},
            ],
        },
    ]
    assert video.cameras_in("No cameras available!\n") == []


def test_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(can, "QUERY_S", 0.05)

    def frame(number: int, data: bytes) -> bytes:
        return struct.pack("=IB3x8s", number, len(data), data)

    ours, bus = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, bus:
        for data in (
            frame(0x3F1, bytes.fromhex("20 11aabbccddee 01")),
            frame(0x3F1, bytes.fromhex("20 11aabbccddee 01")),
            frame(0x3F1, bytes.fromhex("20 22aabbccddee 11")),
            frame(0x3F1, bytes.fromhex("20 33aabbccddee")),  # of before Klipper said which it is
            frame(0x3F1, bytes.fromhex("21 44aabbccddee 01")),
            frame(0x3F1, bytes.fromhex("20 44")),
            frame(0x123, bytes.fromhex("20 44aabbccddee 01")),
            b"short",
        ):
            bus.send(data)
        assert can.query(ours) == [
            {"uuid": "11aabbccddee", "application": "Klipper"},
            {"uuid": "22aabbccddee", "application": "Katapult"},
            {"uuid": "33aabbccddee", "application": "Klipper"},
        ]
        assert bus.recv(100) == frame(0x3F0, b"\0")


@pytest.mark.parametrize("name", ["nosuch0", "", "x" * 100, "a\0b", "../can0", "\udc80"])
def test_can_interfaces_that_are_not(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        can.unassigned(name)
    assert "CAN" in caught.value.message
    assert len(caught.value.message) < 200
