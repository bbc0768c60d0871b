"""Pins: how they are written, what the kernel is asked for, and what users are told."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator

import pytest

from moonfast.host import gpio
from moonfast.host.gpio import GpioError, open_input, open_output, parse
from tests.unit.host.fake_gpio import FakeChip


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeChip]]:
    monkeypatch.setattr(gpio, "Chip", FakeChip)
    yield FakeChip
    FakeChip.clear()


def test_structures_are_as_large_as_the_kernels() -> None:
    """linux/gpio.h; the size is part of the number of an ioctl."""
    sizes = {
        gpio.GET_CHIP_INFO: gpio.CHIP_INFO,
        gpio.GET_LINE_INFO: gpio.LINE_INFO,
        gpio.GET_LINE: gpio.REQUEST,
        gpio.GET_VALUES: gpio.VALUES,
        gpio.SET_VALUES: gpio.VALUES,
    }
    for number, structure in sizes.items():
        assert structure.size == number >> 16 & 0x3FFF
        assert number >> 8 & 0xFF == 0xB4
    assert gpio.EVENT.size == 48
    assert gpio.ATTRIBUTE.size == 24


@pytest.mark.parametrize(
    ("text", "chip_name", "line", "flags"),
    [
        ("gpiochip0/gpio26", "gpiochip0", 26, 0),
        ("gpio26", "gpiochip0", 26, 0),
        ("!gpiochip1/gpio3", "gpiochip1", 3, gpio.ACTIVE_LOW),
        ("^!gpio4", "gpiochip0", 4, gpio.ACTIVE_LOW | gpio.PULL_UP),
        ("~gpiochip2/LIGHT", "gpiochip2", "LIGHT", gpio.PULL_DOWN),
    ],
)
def test_pins(text: str, chip_name: str, line: int | str, flags: int) -> None:
    assert parse(text)[1:] == (chip_name, line, flags)


@pytest.mark.parametrize("text", ["", "26", "gpiochip0", "gpiochip0/", "^~gpio1", "gpio 1", "/dev/gpiochip0/gpio1"])
def test_what_is_no_pin(text: str) -> None:
    with pytest.raises(GpioError):
        parse(text)


async def test_an_output(chip: type[FakeChip]) -> None:
    line = open_output("!gpio5", initial=True)
    asked = chip.lines["gpiochip0", 5]
    assert asked["flags"] == gpio.OUTPUT | gpio.ACTIVE_LOW
    assert line.value is True
    line.set(False)
    assert (line.value, asked["value"]) == (False, False)
    with pytest.raises(GpioError, match="another program"):
        open_output("gpio5", initial=False)
    line.close()
    open_output("gpio5", initial=False).close()
    open_output("gpiochip0/LIGHT", initial=False).close()
    assert ("gpiochip0", 7) in chip.lines


async def test_an_input_tells_of_changes(chip: type[FakeChip]) -> None:
    seen: list[tuple[float, bool]] = []
    line = open_input("^gpio6", lambda time, value: seen.append((time, value)), debounce_s=0.02)
    asked = chip.lines["gpiochip0", 6]
    assert asked["flags"] == gpio.INPUT | gpio.RISING | gpio.FALLING | gpio.PULL_UP
    assert asked["debounce_us"] == 20_000
    chip.press(6, True, 10.0)
    chip.press(6, False, 10.5)
    async with asyncio.timeout(5):
        while len(seen) < 2:
            await asyncio.sleep(0)
    assert seen == [(10.0, True), (10.5, False)]
    line.close()


@pytest.mark.parametrize(
    ("pin", "remedy"),
    [("gpiochip9/gpio1", "gpiodetect"), ("gpio99", "gpioinfo"), ("gpiochip0/NOTHING", "gpioinfo")],
)
async def test_what_users_are_told(chip: type[FakeChip], pin: str, remedy: str) -> None:
    with pytest.raises(GpioError, match=remedy) as caught:
        open_output(pin, initial=False)
    assert pin in str(caught.value)


def test_a_chip_that_may_not_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(gpio.os, "open", refuse)
    with pytest.raises(GpioError, match="group gpio"):
        open_output("gpio1", initial=False)


async def test_what_the_kernel_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a request, and its answer, at their places in struct gpio_v2_line_request."""
    asked = []

    def ioctl(descriptor: int, request: int, data: bytearray) -> int:
        asked.append((request, bytes(data)))
        data[588:592] = os.dup(descriptor).to_bytes(4, "little")
        return 0

    monkeypatch.setattr(gpio.Chip, "folder", "/dev")
    monkeypatch.setattr(gpio.fcntl, "ioctl", ioctl)
    chip = gpio.Chip("null")
    os.close(chip.request(26, gpio.OUTPUT | gpio.ACTIVE_LOW, value=True, debounce_us=5000))
    chip.close()
    request, data = asked[0]
    assert request == 0xC250B407
    assert data[0:4] == (26).to_bytes(4, "little")
    assert data[256:265] == b"moonfast\0"
    assert int.from_bytes(data[288:296], "little") == gpio.OUTPUT | gpio.ACTIVE_LOW
    assert int.from_bytes(data[296:300], "little") == 2  # attributes
    assert data[320:344] == gpio.ATTRIBUTE.pack(gpio.OUTPUT_VALUES, 0, 1, 1)
    assert data[344:368] == gpio.ATTRIBUTE.pack(gpio.DEBOUNCE, 0, 5000, 1)
    assert int.from_bytes(data[560:564], "little") == 1  # lines


SIMULATED = (
    [name for name in sorted(os.listdir("/sys/bus/platform/devices")) if "gpio-sim" in name]
    if os.path.isdir("/sys/bus/platform/devices")
    else []
)


@pytest.mark.skipif(not SIMULATED, reason="the kernel has no gpio-sim chip")
async def test_a_simulated_chip() -> None:
    name = next(item for item in sorted(os.listdir("/dev")) if item.startswith("gpiochip"))
    line = open_output(f"{name}/gpio0", initial=True)
    assert line.value is True
    line.close()
