"""The allow list, and what is ours among processes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from moonfast.components.machine import services as module
from moonfast.components.machine.providers import programs
from moonfast.components.machine.providers.base import Action, Owner, PowerAction, Provider
from moonfast.components.machine.providers.programs import refused
from moonfast.components.machine.providers.supervisord_cli import SupervisordCli
from moonfast.components.machine.providers.systemd_cli import service_in, states_in
from moonfast.components.machine.services import ALLOW_LIST, DEFAULT_NAMES, Services
from moonfast.errors import BadRequest, Unavailable
from moonfast.host.shell import NOT_FOUND, TIMED_OUT, Ended


class FakeProvider(Provider):
    """`own` is the service that this server is."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self.owner = owner
        self.acted: list[tuple[str, str]] = []
        self.own: str | None = None
        self.refuses = False

    async def begin(self) -> None:
        self.take({"klipper": {"active_state": "active", "sub_state": "running"}})

    async def act(self, action: Action, name: str) -> None:
        self.acted.append((action, name))
        if self.refuses:
            raise Unavailable("no")

    async def power(self, action: PowerAction) -> None:
        self.acted.append((action, ""))

    def own_service(self) -> str | None:
        return self.own


class Made:
    """Services with a fake provider, and what they told."""

    def __init__(self, folder: Path, *, is_used: bool = True) -> None:
        self.provider: FakeProvider | None = None
        self.told: list[Any] = []
        self.restarts = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.services = Services(
            self._make,
            is_used=is_used,
            folder=str(folder),
            emit=lambda _, payload: self.told.append(payload),
            spawn=self._spawn,
            restart=self._restart,
            klippy_pid=lambda: None,
            has_listeners=lambda: True,
        )
        self.services.start()

    def _make(self, owner: Owner) -> Provider:
        self.provider = FakeProvider(owner)
        return self.provider

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        return task

    def _restart(self) -> None:
        self.restarts += 1

    async def begun(self) -> FakeProvider:
        await self.services.provider()
        assert self.provider is not None
        return self.provider


def test_the_list_is_made_with_the_known_names(tmp_path: Path) -> None:
    services = Made(tmp_path).services
    assert (tmp_path / ALLOW_LIST).read_text().split() == list(DEFAULT_NAMES)
    assert all(services.is_allowed(name) for name in DEFAULT_NAMES)
    for name in ("klipper", "moonraker", "klipper-1", "moonraker_2", "klipper_x", "klipper@1", "klipper-voron-2"):
        assert services.is_allowed(name), name
    for name in ("ssh", "klipper.service", "klippers", "klipper-", "moonraker-1/x", "klipper-1\n", "", "--force"):
        assert not services.is_allowed(name), name


def test_the_list_of_the_user_counts(tmp_path: Path) -> None:
    (tmp_path / ALLOW_LIST).write_text("crowsnest\r\n\n  ssh  \n--now\nwebcamd")  # without an end of line at the end
    services = Made(tmp_path).services
    assert [services.is_allowed(name) for name in ("crowsnest", "ssh", "webcamd", "sonar", "--now", "klipper")] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert ["--now" in text for text in services.warnings] == [True]


def test_a_list_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / ALLOW_LIST).mkdir()
    services = Made(tmp_path).services
    assert len(services.warnings) == 1
    assert not services.is_allowed("sonar")
    assert services.is_allowed("klipper")
    missing = Made(tmp_path / "missing").services
    assert "cannot be written" in missing.warnings[0]
    assert missing.is_allowed("sonar")


async def test_without_a_provider_nothing_is_allowed(tmp_path: Path) -> None:
    made = Made(tmp_path, is_used=False)
    with pytest.raises(BadRequest, match="^Service 'klipper' not allowed$"):
        await made.services.act("restart", "klipper")
    assert made.provider is None


async def test_what_is_found_at_the_beginning_is_no_change(tmp_path: Path) -> None:
    made = Made(tmp_path)
    provider = await made.begun()
    assert (await made.services.seen())["available_services"] == ["klipper"]
    provider.take({"klipper": {"active_state": "active", "sub_state": "running"}})
    provider.take({})
    assert made.told == []
    provider.take({"klipper": {"active_state": "inactive", "sub_state": "dead"}})
    assert made.told == [{"klipper": {"active_state": "inactive", "sub_state": "dead"}}]


async def test_what_is_found_too_late_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEGIN_TIMEOUT_S", 0.01)
    made, go_on = Made(tmp_path), asyncio.Event()

    async def begin(provider: FakeProvider) -> None:
        await go_on.wait()
        provider.take({"klipper": {"active_state": "active", "sub_state": "running"}})

    monkeypatch.setattr(FakeProvider, "begin", begin)
    assert (await made.services.seen())["service_state"] == {}
    go_on.set()
    await asyncio.gather(*made.tasks)
    assert made.told == [{"klipper": {"active_state": "active", "sub_state": "running"}}]


async def test_this_server_restarts_after_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0)
    made = Made(tmp_path)
    provider = await made.begun()

    async def restart(name: str) -> None:
        before = (len(provider.acted), made.restarts)
        await made.services.act("restart", name)
        assert (len(provider.acted), made.restarts) == before
        await asyncio.gather(*made.tasks)

    await restart("moonraker")
    assert (provider.acted, made.restarts) == ([], 1)  # it is no service: in place
    provider.own = "moonfast-2"
    await restart("moonraker")
    assert (provider.acted, made.restarts) == ([("restart", "moonfast-2")], 1)
    provider.refuses, provider.acted = True, []
    await restart("moonraker")
    assert (len(provider.acted), made.restarts) == (1, 2)  # in place, if the system refuses
    with pytest.raises(BadRequest, match="not stopped by itself"):
        await made.services.act("stop", "moonraker")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0::/system.slice/moonraker.service\n", "moonraker"),
        ("12:cpu:/system.slice\n1:name=systemd:/system.slice/klipper-1.service\n", "klipper-1"),
        ("0::/system.slice/moonraker.service/payload\n", "moonraker"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/moonraker.service\n", None),
        ("0::/user.slice/user-1000.slice/session-1.scope\n", None),
        ("4:memory:/system.slice/other.service\n", None),
        ("0::/docker/4f\n", None),
        ("garbage", None),
        ("", None),
    ],
)
def test_the_service_of_a_process(text: str, name: str | None) -> None:
    assert service_in(text) == name


def test_states_of_systemctl() -> None:
    text = (
        "Id=klipper.service\nLoadState=loaded\nActiveState=active\nSubState=running\n\n"
        "Id=sonar.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n\n"
        "Id=webcamd.service\nLoadState=masked\nActiveState=inactive\nSubState=dead\n\nnonsense"
    )
    assert states_in(text) == {
        "klipper": {"active_state": "active", "sub_state": "running"},
        "webcamd": {"active_state": "inactive", "sub_state": "dead"},
    }


def test_why_it_was_refused() -> None:
    for ended, word in (
        (Ended(1, "", "sudo: a password is required\n"), "docs/guide/machine.md"),
        (Ended(1, "", "sudo: 1 incorrect password attempt\n"), "docs/guide/machine.md"),
        (Ended(5, "", "Unit sonar.service not found."), "no such service"),
        (Ended(NOT_FOUND, "", ""), "provider"),
        (Ended(TIMED_OUT, "", ""), "within 60 s"),
        (Ended(1, "", "Job for sonar.service failed"), "journalctl -u sonar"),
    ):
        error = refused(ended, "restart", "sonar")
        assert "Service 'sonar' could not be restarted" in error.message
        assert word in error.message


async def test_states_are_looked_at_while_somebody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PERIOD_S", 0.005)
    listeners: list[str] = []
    looks: list[int] = []

    class Looking(programs.PolledProvider):
        async def look(self) -> None:
            looks.append(len(listeners))

    provider = Looking(Owner(lambda _: True, lambda _: None, lambda: bool(listeners)))
    task = asyncio.get_running_loop().create_task(provider.watch())
    await asyncio.sleep(0.03)
    assert looks == []
    provider.hurry()
    await asyncio.sleep(0.03)
    assert looks == [0]
    listeners.append("somebody")
    await asyncio.sleep(0.03)
    assert len(looks) > 2
    task.cancel()


async def test_states_of_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = SupervisordCli(Owner(lambda name: name != "ssh", lambda _: None, lambda: True), None)
    provider._read(
        "printer:klipper    RUNNING   pid 17, uptime 0:01:00\nmoonraker  STARTING\nssh  RUNNING  pid 3, uptime 1\n"
        "sonar  FATAL  Exited too quickly\nunix:///var/run/supervisor.sock no such file\n\n"
    )
    assert {name: state["sub_state"] for name, state in provider.states.items()} == {
        "klipper": "running",
        "moonraker": "start",
        "sonar": "failed",
    }
    assert (provider.service_of(17), provider.service_of(3)) == ("klipper", None)
    monkeypatch.setenv("SUPERVISOR_PROCESS_NAME", "moonraker-1")
    assert provider.own_service() == "moonraker-1"
