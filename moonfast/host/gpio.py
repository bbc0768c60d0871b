"""Pins of this computer, over the kernel's GPIO character device, version 2 (linux/gpio.h).

    pin text -> Pin -> Chip (the kernel's interface, one small class) -> line: a file descriptor of its own

A pin is written as Moonraker does: `gpiochip0/gpio26`, `gpio26` (of gpiochip0), `gpiochip1/NAME` by the name of a line;
in front of it `!` inverts, `^` switches the pull-up resistor on, `~` the pull-down one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from moonfast.errors import MoonfastError

CONSUMER = b"moonfast"
MAX_LINES = 1024
MAX_EVENTS = 64
"""Events read at once; the kernel keeps as many."""

# ioctls and flags of linux/gpio.h
GET_CHIP_INFO = 0x8044B401
GET_LINE_INFO = 0xC100B405
GET_LINE = 0xC250B407
GET_VALUES = 0xC010B40E
SET_VALUES = 0xC010B40F
ACTIVE_LOW, INPUT, OUTPUT, RISING, FALLING, PULL_UP, PULL_DOWN = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 8, 1 << 9
OUTPUT_VALUES, DEBOUNCE = 2, 3

CHIP_INFO = struct.Struct("=32s32sI")
LINE_INFO = struct.Struct("=32s32sIIQ160x16x")
ATTRIBUTE = struct.Struct("=IIQQ")  # id, padding, value, mask of lines
REQUEST = struct.Struct("=64I32sQI20x240sII20xi")  # offsets, consumer, flags, attributes, lines, buffer, descriptor
VALUES = struct.Struct("=QQ")  # bits, mask
EVENT = struct.Struct("=QIIII24x")  # nanoseconds (monotonic), 1 rising or 2 falling, offset, numbers

_PIN = re.compile(r"([!^~]*)(?:(gpiochip\d+)/)?(?:gpio(\d+)|(\S+))")


class GpioError(MoonfastError):
    """A pin cannot be used; the text names it and the remedy."""


class Pin(NamedTuple):
    """`line` is its number on the chip, or its name."""

    text: str
    chip: str
    line: int | str
    flags: int


def parse(text: str) -> Pin:
    """Read a pin. GpioError: it is none."""
    match = _PIN.fullmatch(text.strip())
    if match is None or (match[2] is None and match[3] is None):
        raise GpioError(f"'{text}' is not a pin: write gpiochip0/gpio26, or gpio26")
    signs = match[1]
    if "^" in signs and "~" in signs:
        raise GpioError(f"'{text}' wants a pull-up and a pull-down resistor: choose one")
    flags = (ACTIVE_LOW if "!" in signs else 0) | (PULL_UP if "^" in signs else 0) | (PULL_DOWN if "~" in signs else 0)
    return Pin(text, match[2] or "gpiochip0", int(match[3]) if match[3] is not None else match[4], flags)


class Chip:
    """What the kernel offers of one chip. Errors are OSError."""

    folder = "/dev"

    def __init__(self, name: str) -> None:
        self._descriptor = os.open(f"{self.folder}/{name}", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)

    def find(self, name: str) -> int | None:
        """The number of the line with a name."""
        info = bytearray(CHIP_INFO.size)
        fcntl.ioctl(self._descriptor, GET_CHIP_INFO, info)
        for offset in range(min(CHIP_INFO.unpack(info)[2], MAX_LINES)):
            line = bytearray(LINE_INFO.pack(b"", b"", offset, 0, 0))
            fcntl.ioctl(self._descriptor, GET_LINE_INFO, line)
            if LINE_INFO.unpack(line)[0].rstrip(b"\0").decode("utf-8", "replace") == name:
                return offset
        return None

    def request(self, offset: int, flags: int, *, value: bool = False, debounce_us: int = 0) -> int:
        """Take a line; its descriptor, which has to be closed."""
        attributes = []
        if flags & OUTPUT:
            attributes.append(ATTRIBUTE.pack(OUTPUT_VALUES, 0, int(value), 1))
        if debounce_us:
            attributes.append(ATTRIBUTE.pack(DEBOUNCE, 0, debounce_us, 1))
        offsets = (offset, *([0] * 63))
        packed = b"".join(attributes)
        request = bytearray(REQUEST.pack(*offsets, CONSUMER, flags, len(attributes), packed, 1, MAX_EVENTS, 0))
        fcntl.ioctl(self._descriptor, GET_LINE, request)
        return int(REQUEST.unpack(request)[-1])

    @staticmethod
    def get(descriptor: int) -> bool:
        """Whether a line is active, after inversion."""
        values = bytearray(VALUES.pack(0, 1))
        fcntl.ioctl(descriptor, GET_VALUES, values)
        return bool(VALUES.unpack(values)[0] & 1)

    @staticmethod
    def set(descriptor: int, value: bool) -> None:
        fcntl.ioctl(descriptor, SET_VALUES, bytearray(VALUES.pack(int(value), 1)))


class Line:
    """A line that was taken. Base of both directions."""

    def __init__(self, pin: Pin, descriptor: int) -> None:
        self._pin, self._descriptor = pin, descriptor

    @property
    def value(self) -> bool:
        """Whether it is active. GpioError: it cannot be read."""
        with _explained(self._pin):
            return Chip.get(self._descriptor)

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


class OutputLine(Line):
    def set(self, value: bool) -> None:
        """Make it active or not. GpioError: it cannot be written."""
        with _explained(self._pin):
            Chip.set(self._descriptor, value)


class InputLine(Line):
    """Calls `on_change(time, value)` for every change; time in seconds of the monotonic clock."""

    def __init__(self, pin: Pin, descriptor: int, on_change: Callable[[float, bool], None]) -> None:
        super().__init__(pin, descriptor)
        os.set_blocking(descriptor, False)
        self._on_change, self._loop = on_change, asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, EVENT.size * MAX_EVENTS)
            for at in range(0, len(data) - EVENT.size + 1, EVENT.size):
                nanoseconds, kind, *_ = EVENT.unpack_from(data, at)
                self._on_change(nanoseconds / 1e9, kind == 1)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        super().close()


def open_output(text: str, *, initial: bool) -> OutputLine:
    """Take a pin and set it. GpioError: it cannot be used."""
    pin = parse(text)
    return OutputLine(pin, _take(pin, OUTPUT, value=initial))


def open_input(text: str, on_change: Callable[[float, bool], None], *, debounce_s: float = 0.0) -> InputLine:
    """Take a pin and watch it. GpioError: it cannot be used.

    `debounce_s`: a change counts when it has lasted for so long; the kernel sees to it.
    """
    pin = parse(text)
    return InputLine(pin, _take(pin, INPUT | RISING | FALLING, debounce_us=round(debounce_s * 1e6)), on_change)


def _take(pin: Pin, direction: int, *, value: bool = False, debounce_us: int = 0) -> int:
    with _explained(pin):
        chip = Chip(pin.chip)
        try:
            offset = chip.find(pin.line) if isinstance(pin.line, str) else pin.line
            if offset is None:
                raise GpioError(f"Pin '{pin.text}': {pin.chip} has no line '{pin.line}'. gpioinfo shows them all")
            return chip.request(offset, pin.flags | direction, value=value, debounce_us=debounce_us)
        finally:
            chip.close()


@contextlib.contextmanager
def _explained(pin: Pin) -> Iterator[None]:
    """Turn what the kernel says into something for users."""
    try:
        yield
    except OSError as exc:
        known = {
            errno.ENOENT: f"this machine has no {pin.chip}: gpiodetect shows what it has",
            errno.EBUSY: "another program uses it: choose another pin, or stop that program",
            errno.EINVAL: f"{pin.chip} has no such line, or it cannot do this: gpioinfo shows what it has",
            errno.EACCES: "this user may not use it: add the user to the group gpio",
            errno.EPERM: "this user may not use it: add the user to the group gpio",
            errno.ENOTTY: "the kernel is too old: Linux 5.10 is needed",
        }
        raise GpioError(f"Pin '{pin.text}': {known.get(exc.errno or 0, exc.strerror or 'it does not work')}") from None
