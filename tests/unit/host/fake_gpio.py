"""A GPIO chip that needs no kernel: lines are pipes and numbers, taken through the same calls."""

from __future__ import annotations

import errno
import os
from typing import Any

from moonfast.host import gpio


class FakeChip:
    """Takes the place of `gpio.Chip`. `lines` maps (chip, offset) to what was asked for and its value."""

    chips = ("gpiochip0",)
    names = {"LIGHT": 7}
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    _by_descriptor: dict[int, dict[str, Any]] = {}

    def __init__(self, name: str) -> None:
        if name not in self.chips:
            raise OSError(errno.ENOENT, "No such file or directory")
        self._name = name

    def close(self) -> None:
        pass

    def find(self, name: str) -> int | None:
        return self.names.get(name)

    def request(self, offset: int, flags: int, *, value: bool = False, debounce_us: int = 0) -> int:
        key = (self._name, offset)
        old = self.lines.get(key)
        if old is not None and not _is_closed(old["reader"]):
            raise OSError(errno.EBUSY, "Device or resource busy")
        if offset > 53:
            raise OSError(errno.EINVAL, "Invalid argument")
        reader, writer = os.pipe()
        line = {"flags": flags, "value": value, "debounce_us": debounce_us, "reader": reader, "writer": writer}
        self.lines[key] = self._by_descriptor[reader] = line
        return reader

    @classmethod
    def get(cls, descriptor: int) -> bool:
        return bool(cls._by_descriptor[descriptor]["value"])

    @classmethod
    def set(cls, descriptor: int, value: bool) -> None:
        line = cls._by_descriptor[descriptor]
        line["value"] = value
        line.setdefault("history", []).append(value)

    @classmethod
    def press(cls, offset: int, is_active: bool, time_s: float, chip: str = "gpiochip0") -> None:
        """Have the kernel tell of a change."""
        line = cls.lines[chip, offset]
        line["value"] = is_active
        os.write(line["writer"], gpio.EVENT.pack(round(time_s * 1e9), 1 if is_active else 2, offset, 0, 0))

    @classmethod
    def clear(cls) -> None:
        for line in cls.lines.values():
            os.close(line["writer"])
        cls.lines.clear()
        cls._by_descriptor.clear()


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
