"""USB devices, from /sys/bus/usb/devices; names from usb.ids (the format is described in that file)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from moonfast.components.machine.info import text
from moonfast.components.machine.peripherals import UsbDevice

MAX_DEVICES = 256
IDS_FILES = ("usr/share/misc/usb.ids", "usr/share/hwdata/usb.ids", "var/lib/usbutils/usb.ids")
CLASSES = {
    "01": "Audio",
    "02": "Communications",
    "03": "Human Interface Device",
    "05": "Physical Interface Device",
    "06": "Imaging",
    "07": "Printer",
    "08": "Mass Storage",
    "09": "Hub",
    "0a": "CDC Data",
    "0b": "Chip/SmartCard",
    "0e": "Video",
    "e0": "Wireless",
    "ef": "Miscellaneous Device",
    "fe": "Application Specific Interface",
    "ff": "Vendor Specific Class",
}
"""Where there is no usb.ids. Source: usb.org, "Defined Class Codes"."""
NO_NAMES = ("?", "Unused", "None", "(Defined at Interface level)")
"""What usb.ids has where there is nothing to say."""

Names = dict[tuple[str, ...], str]
"""Of ("1d50",), ("1d50", "614e"), ("C", "09"), ("C", "09", "00"), ("C", "09", "00", "01")."""


def devices(root: Path) -> list[UsbDevice]:
    """Blocking."""
    folders = [
        path for path in sorted((root / "sys/bus/usb/devices").glob("*"))[: 4 * MAX_DEVICES] if ":" not in path.name
    ]
    raw = [found for found in map(_raw, folders) if found is not None][:MAX_DEVICES]
    wanted = {vendor for _, vendor, *_ in raw} | {"C"}
    names: Names = {("C", code): name for code, name in CLASSES.items()}
    for file in IDS_FILES:
        try:
            with (root / file).open(encoding="utf-8", errors="replace") as stream:
                names.update(_names(stream, wanted))
            break
        except OSError:
            continue
    return [_device(folder, vendor, product, names) for folder, vendor, product in raw]


def location(device: Path) -> str | None:
    """The `usb_location` of what a path in /sys belongs to."""
    try:
        folder = device.resolve(strict=True)
    except OSError:
        return None
    for parent in (folder, *folder.parents):
        if (parent / "busnum").exists():
            return _location(parent)
    return None


def _location(folder: Path) -> str:
    return f"{_number(folder / 'busnum')}:{_number(folder / 'devnum')}"


def _raw(folder: Path) -> tuple[Path, str, str] | None:
    vendor = text(folder / "idVendor").lower()
    return (folder, vendor, text(folder / "idProduct").lower()) if vendor else None


def _number(path: Path) -> int:
    told = text(path)
    return int(told) if told.isdecimal() else 0


def _device(folder: Path, vendor: str, product: str, names: Names) -> UsbDevice:
    codes = [text(folder / key).lower() for key in ("bDeviceClass", "bDeviceSubClass", "bDeviceProtocol")]
    vendor_name, product_name = names.get((vendor,)), names.get((vendor, product))
    has_class = codes[0] != "00"  # 0: each interface has its own
    return {
        "bus_num": _number(folder / "busnum"),
        "device_num": _number(folder / "devnum"),
        "usb_location": _location(folder),
        "vendor_id": vendor,
        "product_id": product,
        "manufacturer": text(folder / "manufacturer") or None,
        "product": text(folder / "product") or None,
        "serial": text(folder / "serial") or None,
        "class": names.get(("C", codes[0])) if has_class else None,
        "subclass": names.get(("C", *codes[:2])) if has_class else None,
        "protocol": names.get(("C", *codes)) if has_class else None,
        "description": f"{vendor_name} {product_name}" if vendor_name and product_name else None,
    }


def _names(lines: Iterable[str], wanted: set[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names of the wanted vendors ("C": of classes), with what stands below them."""
    key: list[str] = []
    top = 1
    for line in lines:
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        depth = len(line) - len(line.lstrip("\t"))
        code, _, name = content.partition("  ")
        if depth == 0:
            key = code.split(maxsplit=1)  # a vendor, or a kind of list and a code of it
            top = len(key)
        elif key and depth < 3:
            key = [*key[: top + depth - 1], code]
        if key and key[0] in wanted and depth < 3 and name and name.strip() not in NO_NAMES:
            yield tuple(key), name.strip()
