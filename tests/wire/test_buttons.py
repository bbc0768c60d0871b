"""Buttons of a whole server, at pins that need no kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from moonfast.components import button
from moonfast.host import gpio
from tests.unit.host.fake_gpio import FakeChip
from tests.wire.running import running, until


@pytest.fixture(autouse=True)
def chip(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gpio, "Chip", FakeChip)
    yield
    FakeChip.clear()


def press(pin: int, is_pressed: bool, time_s: float) -> None:
    FakeChip.press(pin, is_pressed, time_s)


async def ready(*pins: int) -> None:
    await until(lambda: all(("gpiochip0", pin) in FakeChip.lines for pin in pins))


DOUBLE_CLICK = """
[button click]
pin: ^!gpio4
debounce_period: 0.01
on_press:
    {% set clicked = user_data.clicked|default(false) %}
    {% do user_data.__setitem__("clicked", true) %}
    {% if event.elapsed_time < 0.5 and clicked %}
        {% do user_data.__setitem__("double", true) %}
    {% endif %}
on_release:
    {% if user_data.double|default(false) %}
        {% do user_data.__setitem__("double", false) %}
        {% do send_notification({"kind": "double click"}) %}
    {% endif %}
"""


async def test_a_double_click_is_told() -> None:
    async with running(DOUBLE_CLICK) as served:
        client = await served.client()
        await ready(4)
        assert FakeChip.lines["gpiochip0", 4]["debounce_us"] == 10_000
        now = 100_000.0
        for at, is_pressed in ((0, True), (0.1, False), (0.3, True), (0.4, False), (0.41, True)):
            press(4, is_pressed, now + at)
        (told,) = await client.wait_for("notify_button_event")
        event = told.pop("event")
        assert told == {"name": "click", "type": "gpio", "aux": {"kind": "double click"}}
        assert (event["pressed"], event["received_time"]) == (False, now + 0.4)
        assert event["elapsed_time"] == pytest.approx(0.1)
        assert event["render_time"] > 0


async def test_it_calls_methods() -> None:
    text = """
[button stop]
pin: gpio5
on_press:
    {% set found = call_method("printer.objects.query", objects={"toolhead": ["homed_axes"]}) %}
    {% do send_event(found.status.toolhead.homed_axes) %}
    {% do call_method("printer.emergency_stop") %}
"""
    async with running(text) as served:
        served.klippy.objects["toolhead"]["homed_axes"] = "xyz"
        client = await served.client()
        await ready(5)
        press(5, True, 100_000.0)
        (told,) = await client.wait_for("notify_button_event")
        assert told["aux"] == "xyz"
        await until(lambda: served.klippy.asked("emergency_stop"))


async def test_faults_are_told_and_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    text = """
[button fails]
pin: gpio6
on_press:
    {% do send_event("before") %}
    {% do call_method("no.such.method") %}

[button nothing]
pin: gpio7

[button wrong]
pin: seven
on_press: x

[button gone]
pin: gpiochip3/gpio1
on_press: {% do send_event() %}
"""
    async with running(text) as served:
        client = await served.client()
        await ready(6)
        for number in range(3):
            press(6, True, 100_000.0 + number)
        await client.wait_for("notify_button_event", 3)
        await until(lambda: "[button fails] on_press: the template failed" in caplog.text)
        assert "moonraker.conf:5: [button fails]" in caplog.text or "[button fails] on_press" in caplog.text
        info = await client.call("server.info")
        assert info["failed_components"] == []
        warnings = "\n".join(info["warnings"])
        assert "[button nothing]" in warnings
        assert "seven" in warnings
        assert "gpiochip3" in warnings


async def test_fast_events_and_a_slow_template(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(button, "MAX_WAITING", 3)
    text = "[button b]\npin: gpio8\nminimum_event_time: 0.05\non_press: {% do send_event() %}\n"
    async with running(text) as served:
        client = await served.client()
        await ready(8)
        for number in range(20):
            press(8, True, 100_000.0 + number)
        press(8, True, 100_019.01)  # too fast
        await until(lambda: "dropped" in caplog.text)
        await client.wait_for("notify_button_event", 3)
        seen: list[Any] = [item[0]["event"]["received_time"] for item in client.of("notify_button_event")]
        assert 100_019.01 not in seen
