from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest

from moonfast import registry
from moonfast.component import Component
from moonfast.config.load import Config
from moonfast.config.options import Option, Section
from moonfast.config.source import read_text
from moonfast.errors import StartError
from moonfast.registry import Components, Entry, needs, section_classes

events: list[str] = []
BROKEN = "failed to load (RuntimeError): the log has the details"


class Part:
    pass


class ClockConfig(Section, name="clock"):
    zone: Annotated[int, Option(doc="Zone.")] = 0


class LampConfig(Section, prefix="lamp"):
    pin: Annotated[int, Option(doc="Pin.")]


class Noted(Component):
    async def start(self) -> None:
        events.append(f"start {type(self).__name__}")

    async def stop(self) -> None:
        events.append(f"stop {type(self).__name__}")


class Clock(Noted):
    def __init__(self, config: ClockConfig, part: Part) -> None:
        self.config, self.part = config, part


class Lamps(Noted):
    def __init__(self, configs: list[LampConfig], clock: Clock) -> None:
        self.configs, self.clock = configs, clock


class Optional(Noted):
    def __init__(self, clock: Clock | None = None, absent: Absent | None = None) -> None:
        self.clock, self.absent = clock, absent


class Absent(Component):
    pass


class Broken(Component):
    def __init__(self) -> None:
        raise RuntimeError("boom")


class Unstartable(Component):
    async def start(self) -> None:
        self.task = self.spawn(asyncio.Event().wait())
        raise StartError("no such device")


class Crashing(Component):
    async def start(self) -> None:
        raise ValueError

    async def stop(self) -> None:
        raise AssertionError("never started")


class NeedsUnstartable(Component):
    def __init__(self, other: Unstartable) -> None:
        pass


class Slow(Component):
    async def start(self) -> None:
        await asyncio.sleep(10)


class Stubborn(Noted):
    async def stop(self) -> None:
        await asyncio.sleep(10)


class Left(Component):
    def __init__(self, right: Right) -> None:
        pass


class Right(Component):
    def __init__(self, left: Left) -> None:
        pass


class Wrong(Component):
    def __init__(self, what: complex) -> None:
        pass


def entry(kind: type[Component], always: bool = True) -> Entry:
    return Entry(kind.__name__.lower(), f"{__name__}:{kind.__qualname__}", always)


def components(*kinds: type[Component] | Entry, text: str = "") -> Components:
    events.clear()
    table = [kind if isinstance(kind, Entry) else entry(kind) for kind in kinds]
    found = Components(Config(read_text(text), "", ""), lambda *_: None, table)
    found.build({Part: Part()})
    return found


async def test_order_comes_from_the_constructors() -> None:
    found = components(Entry("lamp", f"{__name__}:Lamps"), Clock, text="[lamp a]\npin: 1\n[lamp b]\npin: 2\n")
    await found.start()
    built: dict[str, Any] = found.running()
    assert list(built) == ["clock", "lamp"]
    assert [config.pin for config in built["lamp"].configs] == [1, 2]
    assert built["lamp"].clock is built["clock"]
    assert isinstance(built["clock"].part, Part)
    await found.stop()
    assert events == ["start Clock", "start Lamps", "stop Lamps", "stop Clock"]
    assert found.running() == {}
    assert found.failed == {}
    assert found.names() == ["lamp", "clock"]


def test_only_what_is_configured_is_imported() -> None:
    found = components(Entry("clock", f"{__name__}:Clock"), Entry("other", "moonfast_absent:Other"))
    assert found.built() == {}
    assert found.failed == {}


def test_a_missing_package_is_a_clear_reason() -> None:
    found = components(Entry("other", "moonfast_absent.sub:Other", always=True))
    assert found.failed == {"other": "needs moonfast_absent, which is not installed"}


def test_a_broken_section_is_a_failed_component() -> None:
    found = components(Clock, text="[clock]\nzone: x\n")
    assert list(found.failed) == ["clock"]
    assert found.failed["clock"].startswith("moonraker.conf:2: [clock] zone: 'x' is not a whole number.")


def test_optional_needs() -> None:
    built: dict[str, Any] = components(Clock, Optional, entry(Absent, always=False)).built()
    assert built["optional"].clock is built["clock"]
    assert built["optional"].absent is None
    assert components(Optional).built()["optional"].clock is None  # type: ignore[attr-defined]


async def test_one_that_fails_does_not_stop_the_others() -> None:
    found = components(Broken, Clock, Unstartable, Crashing, NeedsUnstartable)
    assert found.failed == {"broken": BROKEN}
    await found.start()
    assert list(found.running()) == ["clock"]
    assert list(found.built()) == ["clock"]
    assert found.failed == {
        "broken": BROKEN,
        "unstartable": "no such device",
        "crashing": "failed to start (ValueError): the log has the details",
        "needsunstartable": "needs [unstartable], which failed",
    }
    await found.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_need_that_failed_or_is_not_configured() -> None:
    lamp = Entry("lamp", f"{__name__}:Lamps", always=True)
    assert components(lamp, Clock, text="[clock]\nzone: x\n").failed["lamp"] == "needs [clock], which failed"
    found = components(lamp, entry(Clock, always=False))
    assert found.failed == {"lamp": "needs section [clock]: add it to the configuration"}


def test_a_cycle_names_both_ends() -> None:
    with pytest.raises(StartError, match=r"components \[right\] and \[left\] need each other"):
        components(Left, Right)


def test_a_need_that_nothing_provides(caplog: pytest.LogCaptureFixture) -> None:
    assert "wrong" in components(Wrong).failed
    assert "nothing provides 'what' of type <class 'complex'>" in caplog.text


async def test_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "START_TIMEOUT_S", 0.01)
    monkeypatch.setattr(registry, "STOP_TIMEOUT_S", 0.01)
    found = components(Slow, Stubborn, Clock)
    await found.start()
    assert found.failed == {"slow": "did not start within 0.01 s"}
    await found.stop()
    assert events == ["start Stubborn", "start Clock", "stop Clock"]
    assert found.running() == {}


def test_needs() -> None:
    assert [(need.parameter, need.type, need.is_list, need.is_optional) for need in needs(Lamps)] == [
        ("configs", LampConfig, True, False),
        ("clock", Clock, False, False),
    ]
    assert needs(Optional)[0][1:] == (Clock, False, True)
    assert needs(Component) == []


def test_section_classes() -> None:
    found = section_classes([entry(Clock), entry(Lamps)])
    assert found[-2:] == [ClockConfig, LampConfig]
    assert "server" in [kind.config_name for kind in found]
    assert all(kind.fields() for kind in section_classes())
