"""What a machine is, from recorded ones."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from moonfast.components.machine import info
from moonfast.host.netlink import Link, links
from tests.unit.components.machine.trees import CONTAINER, PI, VM, build


def test_a_raspberry_pi(tmp_path: Path) -> None:
    found = info.fixed(build(tmp_path, PI))
    cpu = found["cpu_info"]
    assert (cpu["cpu_count"], cpu["cpu_desc"]) == (4, "ARMv7 Processor rev 4 (v7l)")
    assert (cpu["serial_number"], cpu["hardware_desc"]) == ("b898bdb4", "BCM2835")
    assert (cpu["model"], cpu["total_memory"]) == ("Raspberry Pi 3 Model B Rev 1.2", 945364)
    assert found["sd_info"] == {  # as in the specification, "Get System Info"
        "manufacturer_id": "03",
        "manufacturer": "Sandisk",
        "oem_id": "5344",
        "product_name": "SU32G",
        "product_revision": "8.0",
        "serial_number": "46ba46",
        "manufacturer_date": "4/2018",
        "capacity": "29.7 GiB",
        "total_bytes": 31914983424,
    }
    assert found["distribution"] == {
        "name": "Raspbian GNU/Linux 10 (buster)",
        "id": "raspbian",
        "version": "10",
        "version_parts": {"major": "10", "minor": "", "build_number": ""},
        "like": "debian",
        "codename": "buster",
        "release_info": {},
        "kernel_version": "6.1.21-v7+",
    }
    assert found["virtualization"] == {"virt_type": "none", "virt_identifier": "none"}


def test_a_virtual_machine(tmp_path: Path) -> None:
    found = info.fixed(build(tmp_path, VM))
    assert (found["cpu_info"]["cpu_count"], found["cpu_info"]["cpu_desc"]) == (2, "AMD EPYC")
    assert found["sd_info"] == {}
    assert found["distribution"]["version_parts"] == {"major": "22", "minor": "04", "build_number": ""}
    assert found["virtualization"] == {"virt_type": "vm", "virt_identifier": "qemu"}
    (tmp_path / "sys/class/dmi/id/sys_vendor").write_text("Somebody")
    assert info.virtualization(tmp_path) == {"virt_type": "vm", "virt_identifier": "vm-other"}


def test_a_container(tmp_path: Path) -> None:
    found = info.fixed(build(tmp_path, CONTAINER))
    assert found["virtualization"] == {"virt_type": "container", "virt_identifier": "lxc"}
    assert found["distribution"]["version_parts"] == {"major": "3", "minor": "20", "build_number": "1"}
    (tmp_path / "proc/1/environ").write_text("")
    (tmp_path / ".dockerenv").touch()
    assert info.virtualization(tmp_path)["virt_identifier"] == "docker"


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = info.fixed(tmp_path)
    assert found["cpu_info"]["cpu_count"] >= 1
    assert (found["cpu_info"]["total_memory"], found["sd_info"], found["distribution"]["name"]) == (0, {}, "")


def test_networks(tmp_path: Path) -> None:
    addresses = [ip_address("192.168.1.5"), ip_address("fe80::1")]
    driver = tmp_path / "sys/class/net/can0/device"
    driver.mkdir(parents=True)
    (driver / "driver").symlink_to("/sys/bus/usb/drivers/gs_usb")
    found = [
        Link("lo", 772, "00:00:00:00:00:00", 1000, 0, [ip_address("127.0.0.1")]),
        Link("wlan0", 1, "b8:27:eb:01:02:03", 1000, 0, addresses),
        Link("eth0", 1, "b8:27:eb:01:02:04", 1000, 0, []),
        Link("can0", 280, "", 128, 1_000_000, []),
    ]
    assert info.network(found) == {
        "wlan0": {
            "mac_address": "b8:27:eb:01:02:03",
            "ip_addresses": [
                {"family": "ipv4", "address": "192.168.1.5", "is_link_local": False},
                {"family": "ipv6", "address": "fe80::1", "is_link_local": True},
            ],
        }
    }
    assert info.canbus(tmp_path, found) == {"can0": {"tx_queue_len": 128, "bitrate": 1_000_000, "driver": "gs_usb"}}


def test_the_kernel_tells_of_the_loopback() -> None:
    loopback = next(link for link in links() if link.name == "lo")
    assert ip_address("127.0.0.1") in loopback.addresses
    assert loopback.kind == 772
