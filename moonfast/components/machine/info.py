"""What the machine is: processor, memory card, distribution, virtualization, network. Read when somebody asks."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, TypedDict

from moonfast.host import netlink, procfs

MAX_TEXT_BYTES = 65536

CARD_MAKERS = {
    "01": "Panasonic",
    "02": "Toshiba",
    "03": "Sandisk",
    "08": "Silicon Power",
    "09": "ATP",
    "1b": "Samsung",
    "1d": "ADATA",
    "27": "Phison",
    "28": "Lexar",
    "31": "Silicon Power",
    "41": "Kingston",
    "74": "Transcend",
    "76": "Patriot",
    "82": "Sony",
    "9f": "Kingston",
}
"""Manufacturers by the number in a card's CID register."""
CAN_KIND = 280
CONTAINERS = ("docker", "lxc", "podman", "kubepods", "garden", "systemd-nspawn")
VM_VENDORS = {
    "qemu": "qemu",
    "kvm": "kvm",
    "vmware": "vmware",
    "innotek": "oracle",
    "virtualbox": "oracle",
    "xen": "xen",
    "bochs": "bochs",
    "parallels": "parallels",
    "bhyve": "bhyve",
    "hyper-v": "microsoft",
    "virtual machine": "microsoft",
    "amazon ec2": "amazon",
    "google compute engine": "google",
}
"""What the firmware of a virtual machine calls itself, and the name that systemd-detect-virt(1) has for it."""


class CpuInfo(TypedDict):
    cpu_count: int
    bits: str
    processor: str
    cpu_desc: str
    serial_number: str
    hardware_desc: str
    model: str
    total_memory: int
    memory_units: str


class SystemInfo(TypedDict):
    python: dict[str, Any]
    cpu_info: CpuInfo
    sd_info: dict[str, Any]
    distribution: dict[str, Any]
    virtualization: dict[str, str]
    network: dict[str, Any]
    canbus: dict[str, Any]
    provider: str
    available_services: list[str]
    service_state: dict[str, Any]
    instance_ids: dict[str, str]


def fixed(root: Path) -> dict[str, Any]:
    """What does not change while the server runs."""
    return {
        "python": {"version": list(sys.version_info), "version_string": sys.version.replace("\n", " ")},
        "cpu_info": cpu_info(root),
        "sd_info": sd_info(root),
        "distribution": distribution(root),
        "virtualization": virtualization(root),
    }


def text(path: Path) -> str:
    """A small file of the system; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TEXT_BYTES).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""


def _table(content: str, separator: str) -> dict[str, str]:
    """Lines "key: value"; the first of those with one key counts, as for the first processor."""
    found: dict[str, str] = {}
    for line in content.splitlines():
        key, is_pair, value = line.partition(separator)
        if is_pair:
            found.setdefault(key.strip(), value.strip().strip('"'))
    return found


def cpu_info(root: Path) -> CpuInfo:
    """From /proc/cpuinfo, /proc/meminfo and the device tree."""
    content = text(root / "proc/cpuinfo")
    about = _table(content, ":")
    model = about.get("Model") or text(root / "proc/device-tree/model")
    processors = re.findall(r"^processor\s*:\s*\d+", content, re.MULTILINE)
    machine = os.uname().machine
    return {
        "cpu_count": len(processors) or os.cpu_count() or 1,
        "bits": "64bit" if sys.maxsize > 1 << 32 else "32bit",
        "processor": machine,
        "cpu_desc": about.get("model name", ""),
        "serial_number": about.get("Serial", "").lstrip("0"),
        "hardware_desc": about.get("Hardware", ""),
        "model": model,
        "total_memory": procfs.memory(text(root / "proc/meminfo").encode())["total"],
        "memory_units": "kB",
    }


def sd_info(root: Path) -> dict[str, Any]:
    """The memory card, from the registers that the kernel shows below /sys/block; empty without one."""
    for name in ("mmcblk0", "mmcblk1"):
        device = root / "sys/block" / name / "device"
        if text(device / "type") in ("SD", "MMC"):
            break
    else:
        return {}
    maker = text(device / "manfid").removeprefix("0x")[-2:].lower()
    month, _, year = text(device / "date").partition("/")
    total = int(text(root / "sys/block" / name / "size") or 0) * 512
    hardware, firmware = (text(device / key).removeprefix("0x") or "0" for key in ("hwrev", "fwrev"))
    return {
        "manufacturer_id": maker,
        "manufacturer": CARD_MAKERS.get(maker, "Unknown"),
        "oem_id": text(device / "oemid").removeprefix("0x"),
        "product_name": text(device / "name"),
        "product_revision": f"{hardware}.{firmware}",
        "serial_number": text(device / "serial").removeprefix("0x").lstrip("0"),
        "manufacturer_date": f"{month.lstrip('0')}/{year}",
        "capacity": _binary_size(total),
        "total_bytes": total,
    }


def _binary_size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def distribution(root: Path) -> dict[str, Any]:
    """From os-release(5)."""
    about = _table(text(root / "etc/os-release") or text(root / "usr/lib/os-release"), "=")
    version = about.get("VERSION_ID", "")
    major, minor, build = (*version.split("."), "", "", "")[:3]
    return {
        "name": about.get("PRETTY_NAME", ""),
        "id": about.get("ID", ""),
        "version": version,
        "version_parts": {"major": major, "minor": minor, "build_number": build},
        "like": about.get("ID_LIKE", ""),
        "codename": about.get("VERSION_CODENAME", ""),
        "release_info": {},
        "kernel_version": text(root / "proc/sys/kernel/osrelease"),
    }


def virtualization(root: Path) -> dict[str, str]:
    """Whether this is a container or a virtual machine, by what they leave in the file system."""
    told = text(root / "run/systemd/container")
    for line in text(root / "proc/1/environ").split("\0"):
        if line.startswith("container="):
            told = told or line.partition("=")[2]
    if not told and (root / ".dockerenv").exists():
        told = "docker"
    if not told and (root / "run/.containerenv").exists():
        told = "podman"
    groups = text(root / "proc/1/cgroup")
    told = told or next((name for name in CONTAINERS if name in groups), "")
    if told:
        return {"virt_type": "container", "virt_identifier": told}
    hardware = root / "sys/class/dmi/id"
    firmware = " ".join(text(hardware / key) for key in ("sys_vendor", "product_name", "bios_vendor")).lower()
    for word, identifier in VM_VENDORS.items():
        if word in firmware:
            return {"virt_type": "vm", "virt_identifier": identifier}
    hypervisor = text(root / "sys/hypervisor/type")
    if hypervisor:
        return {"virt_type": "vm", "virt_identifier": hypervisor}
    if re.search(r"^flags\s*:.*\bhypervisor\b", text(root / "proc/cpuinfo"), re.MULTILINE):
        return {"virt_type": "vm", "virt_identifier": "vm-other"}
    return {"virt_type": "none", "virt_identifier": "none"}


def network(found: list[netlink.Link]) -> dict[str, Any]:
    """Interfaces that have an address, but for the loopback."""
    return {
        link.name: {
            "mac_address": link.mac_address,
            "ip_addresses": [
                {"family": f"ipv{item.version}", "address": str(item), "is_link_local": item.is_link_local}
                for item in link.addresses
            ],
        }
        for link in found
        if link.addresses and not all(item.is_loopback for item in link.addresses)
    }


def canbus(root: Path, found: list[netlink.Link]) -> dict[str, Any]:
    """CAN interfaces, with their speed."""
    return {
        link.name: {
            "tx_queue_len": link.queue_length,
            "bitrate": link.can_bitrate,
            "driver": _driver(root, link.name),
        }
        for link in found
        if link.kind == CAN_KIND
    }


def _driver(root: Path, interface: str) -> str:
    try:
        return os.path.basename(os.readlink(root / "sys/class/net" / interface / "device/driver"))
    except OSError:
        return "unknown"
