"""The job queue: what waits is printed in order, whatever happens in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from moonfast.components import job_queue
from moonfast.components.job_queue import JobQueue
from moonfast.errors import InsufficientStorage
from moonfast.storage.database import Database
from moonfast.vocab import KlippyState
from tests.wire.fake_klippy import FakeKlippy, Refused
from tests.wire.running import Client, RpcError, Running, restarted, running, until
from tests.wire.site import Client as HttpClient
from tests.wire.test_history import stats
from tests.wire.test_uploads import FORM, field, file, form

AUTOMATIC = "[job_queue]\nautomatic_transition: True\n"


class Printer:
    """A fake Klippy that prints what it is told to."""

    def __init__(self, served: Running) -> None:
        self.klippy = served.klippy
        self.scripts: list[str] = []
        self.refuses = ""
        self.klippy.handlers["gcode/script"] = self.run
        for name in ("a", "b", "c"):
            Path(served.data_path, "gcodes", f"{name}.gcode").write_text("G28\n")

    def run(self, params: dict[str, Any]) -> Any:
        script = params["script"]
        self.scripts.append(script)
        if self.refuses and self.refuses in script:
            raise Refused("it does not work")
        if script.startswith("SDCARD_PRINT_FILE"):
            self.klippy.push(stats("printing", script.split('"')[1], total_duration=0.1 * len(self.scripts)))
        return {}

    def end(self, state: str = "complete") -> None:
        self.klippy.push({"print_stats": {"state": state}})


def names(status: dict[str, Any]) -> list[str]:
    return [item["filename"].removesuffix(".gcode") for item in status["queued_jobs"]]


async def post(client: Client, *files: str, **params: Any) -> dict[str, Any]:
    filenames = [f"{name}.gcode" for name in files]
    answer: dict[str, Any] = await client.call("server.job_queue.post_job", {"filenames": filenames, **params})
    return answer


async def status(client: Client) -> tuple[list[str], str]:
    found = await client.call("server.job_queue.status")
    return names(found), found["queue_state"]


async def reaches(client: Client, expected: tuple[list[str], str]) -> None:
    async with asyncio.timeout(10):
        while await status(client) != expected:
            await asyncio.sleep(0.005)


def told(client: Client) -> list[tuple[str, str]]:
    return [(item["action"], item["queue_state"]) for (item,) in client.of("notify_job_queue_changed")]


async def test_ids_and_times() -> None:
    async with running() as served:
        Printer(served)
        client = await served.client()
        first, second = (await post(client, "a", "a"))["queued_jobs"]
        assert first["job_id"] != second["job_id"]
        for job in (first, second):
            assert len(job["job_id"]) == 16
            int(job["job_id"], 16)
        later = (await client.call("server.job_queue.status"))["queued_jobs"][0]
        assert later["time_in_queue"] > first["time_in_queue"]
        assert later["time_added"] == first["time_added"]


async def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_queue, "MAX_JOBS", 4)
    async with running() as served:
        Printer(served)
        client = await served.client()
        await post(client, "a", "b")
        for bad in (["a.gcode", "none.gcode"], ["../config/moonraker.conf"], ["a.gcode"] * 3, [], [""]):
            with pytest.raises(RpcError) as caught:
                await client.call("server.job_queue.post_job", {"filenames": bad})
            assert caught.value.code == 400
        assert await status(client) == (["a", "b"], "paused")
        assert names(await post(client, "c", reset=True)) == ["c"]


async def test_a_disk_that_is_full_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as served:
        Printer(served)
        client = await served.client()
        await post(client, "a")

        async def full(*_: Any) -> None:
            raise InsufficientStorage("The disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "write_now", full)
            with pytest.raises(RpcError) as caught:
                await post(client, "b")
            assert caught.value.code == 507
        assert (await status(client))[0] == ["a"]


async def test_one_by_one() -> None:
    """Without automatic transition each job is started by hand."""
    async with running() as served:
        printer, client = Printer(served), await served.client()
        await post(client, "a", "b")
        started = await client.call("server.job_queue.start")
        assert started["queue_state"] == "loading"
        await reaches(client, (["b"], "paused"))
        await client.wait_for("notify_job_queue_changed", 4)
        assert told(client) == [
            ("jobs_added", "paused"),
            ("state_changed", "loading"),
            ("state_changed", "starting"),
            ("job_loaded", "paused"),
        ]
        assert printer.scripts == ['SDCARD_PRINT_FILE FILENAME="a.gcode"']
        printer.end()
        await asyncio.sleep(0.05)
        assert await status(client) == (["b"], "paused")


async def test_one_after_the_other() -> None:
    config = AUTOMATIC + "job_transition_delay: 0.02\njob_transition_gcode:\n    CLEAR_BED\n    G28\n"
    async with running(config) as served:
        printer, client = Printer(served), await served.client()
        await post(client, "a", "b", "c")
        await client.call("server.job_queue.pause")
        await client.call("server.job_queue.start")
        await reaches(client, (["b", "c"], "ready"))
        printer.end()
        await reaches(client, (["c"], "ready"))
        assert printer.scripts[1].split() == ["CLEAR_BED", "G28"]
        assert printer.scripts[2] == 'SDCARD_PRINT_FILE FILENAME="b.gcode"'
        printer.end("cancelled")  # something is wrong: the rest waits for the user
        await reaches(client, (["c"], "paused"))
        await client.call("server.job_queue.start")
        await reaches(client, ([], "ready"))


async def test_a_pause_calls_a_job_back() -> None:
    async with running(AUTOMATIC + "job_transition_delay: 30\n") as served:
        printer, client = Printer(served), await served.client()
        served.klippy.push(stats("printing", "x.gcode"))
        await until(lambda: served.server.job.is_active)
        await post(client, "a")
        printer.end()
        await reaches(client, (["a"], "loading"))
        assert (await client.call("server.job_queue.pause"))["queue_state"] == "paused"
        await asyncio.sleep(0.05)
        assert await status(client) == (["a"], "paused")
        assert printer.scripts == []


@pytest.mark.parametrize("what", ["gcode", "print", "file", "klippy"])
async def test_what_goes_wrong_pauses_and_keeps_the_job(what: str) -> None:
    async with running(AUTOMATIC + "job_transition_gcode: CLEAR_BED\n") as served:
        printer, client = Printer(served), await served.client()
        served.klippy.push(stats("printing", "x.gcode"))
        await until(lambda: served.server.job.is_active)
        await post(client, "a")
        if what == "file":
            Path(served.data_path, "gcodes", "a.gcode").unlink()
        else:
            printer.refuses = "CLEAR_BED" if what == "gcode" else "SDCARD"
        if what == "klippy":
            await served.klippy.close()
        else:
            printer.end()
        await reaches(client, (["a"], "paused"))
        if what != "klippy":
            (text,) = await client.wait_for("notify_gcode_response")
            assert text.startswith("!! Job queue paused: ")
            assert ("a.gcode" in text) == (what == "file")


async def test_deleting_and_jumping() -> None:
    async with running() as served:
        Printer(served)
        client = await served.client()
        ids = [job["job_id"] for job in (await post(client, "a", "b", "c"))["queued_jobs"]]
        assert names(await client.call("server.job_queue.jump", {"job_id": ids[2]})) == ["c", "a", "b"]
        assert names(await client.call("server.job_queue.delete_job", {"job_ids": [ids[0], "unknown"]})) == ["c", "b"]
        count = len(told(client))
        assert names(await client.call("server.job_queue.delete_job", {"job_ids": ["unknown"]})) == ["c", "b"]
        assert names(await client.call("server.job_queue.delete_job", {"all": True})) == []
        await client.wait_for("notify_job_queue_changed", count + 1)
        assert told(client)[-1] == ("jobs_removed", "paused")
        assert len(told(client)) == count + 1  # nothing was told where nothing changed


async def test_it_survives_a_restart() -> None:
    async with running() as served:
        Printer(served)
        client = await served.client()
        before = (await post(client, "a", "b"))["queued_jobs"]
        async with restarted(served) as later:
            client = await later.client()
            after = (await client.call("server.job_queue.status"))["queued_jobs"]
            assert [item | {"time_in_queue": 0} for item in after] == [item | {"time_in_queue": 0} for item in before]


@pytest.mark.parametrize("loads", [True, False])
async def test_the_first_job_at_startup(loads: bool) -> None:
    klippy = FakeKlippy()
    klippy.objects["webhooks"]["state"] = "startup"
    async with running(f"[job_queue]\nload_on_startup: {loads}\n", klippy=klippy, is_ready=False) as served:
        printer, client = Printer(served), await served.client()
        await until(lambda: served.server.klippy.is_connected)
        await post(client, "a")
        queue = served.server.components.find(JobQueue)
        assert queue is not None
        queue._follow_klippy(KlippyState.READY)
        if not loads:
            await asyncio.sleep(0.05)
        await reaches(client, ([] if loads else ["a"], "paused"))
        assert len(printer.scripts) == loads


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_uploads_wait_while_the_printer_is_busy(is_wanted: bool) -> None:
    async with running(f"[file_manager]\nqueue_gcode_uploads: {is_wanted}\n") as served:
        printer, client = Printer(served), await served.client()
        http = HttpClient(*await asyncio.open_connection("127.0.0.1", served.port))
        try:
            answer = await http.post("/server/files/upload", FORM, form(field("print", "true"), file("one.gcode")))
            assert (answer.json["print_started"], answer.json["print_queued"]) == (True, False)
            await until(lambda: served.server.job.is_active)
            answer = await http.post("/server/files/upload", FORM, form(field("print", "true"), file("two.gcode")))
            assert (answer.json["print_started"], answer.json["print_queued"]) == (False, is_wanted)
            await http.post("/server/files/upload", FORM, form(file("three.gcode")))
            assert (await status(client))[0] == (["two"] if is_wanted else [])
            assert len(printer.scripts) == 1
        finally:
            await http.close()


async def test_macros_pause_and_start_it() -> None:
    async with running(AUTOMATIC) as served:
        printer = Printer(served)
        client = await served.client()
        offered = {params["remote_method"] for params in served.klippy.asked("register_remote_method")}
        assert {"pause_job_queue", "start_job_queue"} <= offered
        served.klippy.peer.send({"method": "pause_job_queue", "params": {}})
        await until(lambda: client.of("notify_job_queue_changed"))
        await post(client, "a")
        assert await status(client) == (["a"], "paused")
        served.klippy.peer.send({"method": "start_job_queue", "params": {}})
        await until(lambda: printer.scripts)
        await until(lambda: client.of("notify_job_queue_changed")[-1][0]["action"] == "job_loaded")
        assert printer.scripts == ['SDCARD_PRINT_FILE FILENAME="a.gcode"']
