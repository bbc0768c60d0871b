"""Recorded machines: what files below /proc, /sys and /etc say on them, as far as the server reads it."""

from __future__ import annotations

from pathlib import Path

PI = {
    "proc/cpuinfo": "".join(
        f"processor\t: {number}\nmodel name\t: ARMv7 Processor rev 4 (v7l)\nBogoMIPS\t: 38.40\n\n"
        for number in range(4)
    )
    + "Hardware\t: BCM2835\nRevision\t: a02082\n"
    "Serial\t\t: 00000000b898bdb4\nModel\t\t: Raspberry Pi 3 Model B Rev 1.2\n",
    "proc/meminfo": "MemTotal:         945364 kB\nMemFree:          512000 kB\nMemAvailable:     700000 kB\n",
    "proc/stat": "cpu  100 10 50 800 20 0 5 0 0 0\ncpu0 25 5 15 200 5 0 5 0 0 0\n"
    "cpu1 75 5 35 600 15 0 0 0 0 0\nintr 123 4\n",
    "proc/net/dev": "Inter-|   Receive   |  Transmit\n face |bytes ... |bytes ...\n"
    "    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0\n"
    " wlan0: 48471767 200 1 2 0 0 0 0 113430843 300 3 4 0 0 0 0\n",
    "proc/uptime": "57389.27 100000.00\n",
    "proc/self/statm": "10000 6181 3000 1 0 5000 0\n",
    "proc/sys/kernel/osrelease": "6.1.21-v7+\n",
    "sys/class/thermal/thermal_zone0/temp": "45622\n",
    "etc/os-release": 'PRETTY_NAME="Raspbian GNU/Linux 10 (buster)"\nNAME="Raspbian GNU/Linux"\nVERSION_ID="10"\n'
    "VERSION_CODENAME=buster\nID=raspbian\nID_LIKE=debian\n",
    "sys/block/mmcblk0/device/type": "SD\n",
    "sys/block/mmcblk0/device/manfid": "0x000003\n",
    "sys/block/mmcblk0/device/oemid": "0x5344\n",
    "sys/block/mmcblk0/device/name": "SU32G\n",
    "sys/block/mmcblk0/device/hwrev": "0x8\n",
    "sys/block/mmcblk0/device/fwrev": "0x0\n",
    "sys/block/mmcblk0/device/serial": "0x0046ba46\n",
    "sys/block/mmcblk0/device/date": "04/2018\n",
    "sys/block/mmcblk0/size": "62333952\n",
}

VM = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor lahf_lm\n\n"
    "processor\t: 1\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor lahf_lm\n",
    "proc/meminfo": "MemTotal:       24684092 kB\nMemAvailable:   23743112 kB\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.3 LTS"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n'
    "VERSION_CODENAME=jammy\n",
    "sys/class/dmi/id/sys_vendor": "QEMU\n",
    "sys/class/dmi/id/product_name": "Standard PC (i440FX + PIIX, 1996)\n",
    "proc/1/cgroup": "0::/init.scope\n",
}

CONTAINER = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) N100\n",
    "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:   8000000 kB\n",
    "proc/1/environ": "PATH=/bin\0container=lxc\0HOME=/\0",
    "etc/os-release": 'PRETTY_NAME="Alpine Linux v3.20"\nID=alpine\nVERSION_ID=3.20.1\n',
}


def build(root: Path, tree: dict[str, str]) -> Path:
    """Write a machine below a folder."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root
