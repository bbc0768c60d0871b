from __future__ import annotations

import asyncio
import logging

import pytest

from moonfast.component import Component


class Worker(Component):
    async def work(self) -> str:
        await asyncio.sleep(0)
        return "done"

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def fail(self) -> None:
        raise RuntimeError("no more")


async def test_a_spawned_task_runs_and_is_forgotten() -> None:
    worker = Worker()
    task = worker.spawn(worker.work())
    assert task.get_name() == "Worker.work"
    assert await task == "done"
    await worker.cancel_tasks()


async def test_a_failed_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    with caplog.at_level(logging.ERROR):
        await asyncio.wait([worker.spawn(worker.fail())])
        await asyncio.sleep(0)
    assert "Worker.fail failed" in caplog.text
    assert "RuntimeError: no more" in caplog.text


async def test_cancelling_waits_for_the_end() -> None:
    worker = Worker()
    ended = []

    async def slow_to_end() -> None:
        try:
            await worker.wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)
            worker.spawn(worker.wait())

    tasks = [worker.spawn(slow_to_end()), worker.spawn(worker.wait())]
    await asyncio.sleep(0)
    await worker.cancel_tasks()
    assert ended == [True]
    assert all(task.done() for task in tasks)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_spawned() -> None:
    worker = Worker()
    await worker.start()
    await worker.cancel_tasks()
    await worker.stop()


def test_emit() -> None:
    worker = Worker()
    worker.emit("changed", 1)  # before it is connected there is nobody to tell
    seen: list[tuple[object, object]] = []
    worker.connect(lambda notification, payload: seen.append((notification, payload)))
    worker.emit("changed", 2)
    assert seen == [("changed", 2)]


def test_components_share_no_tasks() -> None:
    assert "_tasks" not in vars(Component)
