"""Cameras: what V4L2 tells of each video device (linux/videodev2.h), and what libcamera's own program lists."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

from moonfast.components.machine.info import text
from moonfast.components.machine.peripherals import LibcameraDevice, VideoDevice, VideoMode
from moonfast.components.machine.tty import links
from moonfast.components.machine.usb import location
from moonfast.host.shell import run

QUERYCAP, ENUM_FMT, ENUM_FRAMESIZES = 0x80685600, 0xC0405602, 0xC02C564A
_CAPABILITY = struct.Struct("=16s32s32sIII12x")  # driver, card, bus_info, version, capabilities, device_caps
_FORMAT = struct.Struct("=III32sI16x")  # index, type, flags, description, pixelformat
_SIZE = struct.Struct("=IIIII24x")  # index, pixel_format, type, width, height
CAPTURE, CAPTURE_PLANES, DEVICE_CAPS = 0x1, 0x1000, 0x80000000
CAPTURE_TYPE, CAPTURE_PLANES_TYPE = 1, 9
DISCRETE = 1
CAPABILITIES = {
    0x00000001: "VIDEO_CAPTURE",
    0x00000002: "VIDEO_OUTPUT",
    0x00000004: "VIDEO_OVERLAY",
    0x00000010: "VBI_CAPTURE",
    0x00000020: "VBI_OUTPUT",
    0x00001000: "VIDEO_CAPTURE_MPLANE",
    0x00002000: "VIDEO_OUTPUT_MPLANE",
    0x00004000: "VIDEO_M2M_MPLANE",
    0x00008000: "VIDEO_M2M",
    0x00010000: "TUNER",
    0x00020000: "AUDIO",
    0x00200000: "EXT_PIX_FORMAT",
    0x00800000: "META_CAPTURE",
    0x01000000: "READWRITE",
    0x04000000: "STREAMING",
    0x08000000: "META_OUTPUT",
    0x20000000: "IO_MC",
}
FORMAT_FLAGS = {1: "COMPRESSED", 2: "EMULATED"}
MAX_DEVICES, MAX_FORMATS, MAX_SIZES = 64, 64, 256
LIST_PROGRAMS = ("rpicam-hello", "libcamera-hello")
LIST_TIMEOUT_S = 10.0

Ask = Callable[[int, int, bytearray], object]  # descriptor, request, argument that is answered in place


def devices(root: Path, ask: Ask = fcntl.ioctl) -> list[VideoDevice]:
    """Devices that capture. Blocking."""
    by_path, by_id = (links(root / "dev/v4l" / name) for name in ("by-path", "by-id"))
    found = []
    for folder in sorted((root / "sys/class/video4linux").glob("video*"), key=_number)[:MAX_DEVICES]:
        name = folder.name
        try:
            descriptor = os.open(root / "dev" / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            device = _device(descriptor, ask)
        except OSError:
            device = None
        finally:
            os.close(descriptor)
        if device is not None:
            device["device_name"], device["device_path"] = name, f"/dev/{name}"
            device["alt_name"] = text(folder / "name") or None
            device["path_by_hardware"], device["path_by_id"] = by_path.get(name), by_id.get(name)
            device["usb_location"] = location(folder / "device")
            found.append(device)
    return found


async def libcamera_devices() -> list[LibcameraDevice]:
    """None where the program is not installed."""
    for program in LIST_PROGRAMS:
        ended = await run((program, "--list-cameras"), timeout_s=LIST_TIMEOUT_S)
        if ended.is_good:
            return cameras_in(ended.output)
    return []


def cameras_in(listing: str) -> list[LibcameraDevice]:
    """Read what `rpicam-hello --list-cameras` prints: a line for each camera, then its modes with their sizes."""
    found: list[LibcameraDevice] = []
    for line in listing.splitlines():
        if camera := re.match(r"\d+ : (.+?) \[.*\((/.*)\)\s*$", line):
            if len(found) == MAX_DEVICES:
                break
            found.append({"libcamera_id": camera[2], "model": camera[1], "modes": []})
        elif found:
            modes = found[-1]["modes"]
            if (mode := re.search(r"'(\w+)' :", line)) and len(modes) < MAX_FORMATS:
                modes.append({"format": mode[1], "resolutions": []})
            if modes and (size := re.search(r"(?:^|:)\s+(\d+x\d+)\s", line)):
                modes[-1]["resolutions"].append(size[1])
    return found


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("video")
    return int(digits) if digits.isdecimal() else 0


def _device(descriptor: int, ask: Ask) -> VideoDevice | None:
    """What the driver tells; None: it does not capture. OSError: it does not answer."""
    answer = bytearray(_CAPABILITY.size)
    ask(descriptor, QUERYCAP, answer)
    driver, card, bus, version, all_of_it, of_device = _CAPABILITY.unpack(answer)
    can = of_device if all_of_it & DEVICE_CAPS else all_of_it
    if not can & (CAPTURE | CAPTURE_PLANES):
        return None
    return {
        "device_name": "",
        "device_path": "",
        "camera_name": _text(card),
        "driver_name": _text(driver),
        "alt_name": None,
        "hardware_bus": _text(bus),
        "capabilities": [name for bit, name in CAPABILITIES.items() if can & bit],
        "version": f"{version >> 16}.{version >> 8 & 0xFF}.{version & 0xFF}",
        "path_by_hardware": None,
        "path_by_id": None,
        "usb_location": None,
        "modes": _modes(descriptor, CAPTURE_TYPE if can & CAPTURE else CAPTURE_PLANES_TYPE, ask),
    }


def _modes(descriptor: int, kind: int, ask: Ask) -> list[VideoMode]:
    """Formats with sizes of their own; a device whose sizes are a range has none."""
    found: list[VideoMode] = []
    for index in range(MAX_FORMATS):
        answer = bytearray(_FORMAT.pack(index, kind, 0, b"", 0))
        try:
            ask(descriptor, ENUM_FMT, answer)
        except OSError:  # there are no more
            break
        _, _, flags, description, pixels = _FORMAT.unpack(answer)
        if sizes := _sizes(descriptor, pixels, ask):
            found.append(
                {
                    "format": pixels.to_bytes(4, "little").decode("ascii", "replace").strip(),
                    "description": _text(description),
                    "flags": [name for bit, name in FORMAT_FLAGS.items() if flags & bit],
                    "resolutions": sizes,
                }
            )
    return found


def _sizes(descriptor: int, pixels: int, ask: Ask) -> list[str]:
    found: list[str] = []
    for index in range(MAX_SIZES):
        answer = bytearray(_SIZE.pack(index, pixels, 0, 0, 0))
        try:
            ask(descriptor, ENUM_FRAMESIZES, answer)
        except OSError:
            break
        _, _, kind, width, height = _SIZE.unpack(answer)
        if kind != DISCRETE:
            break
        found.append(f"{width}x{height}")
    return found


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
