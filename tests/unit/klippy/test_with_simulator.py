"""The link and the state in front of the built-in printer: a print from start to end, and a restart."""

from __future__ import annotations

import os
import tempfile

from moonfast.simulator.klippy import SimulatedKlippy
from moonfast.vocab import KlippyState

from .fake import until
from .world import World

GCODE = "G28\nG1 X50 Y50 F6000\n" + "G1 X60\nG1 X50\n" * 20


async def test_a_print_and_a_restart() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("gcodes", "config", "logs"):
            os.mkdir(os.path.join(folder, name))
        file = 'a "b" #1; \u00fc.gcode'
        with open(os.path.join(folder, "gcodes", file), "w") as stream:
            stream.write(GCODE)
        path = os.path.join(folder, "klippy.sock")
        simulator = SimulatedKlippy(
            path,
            gcodes_dir=os.path.join(folder, "gcodes"),
            config_dir=os.path.join(folder, "config"),
            log_path=os.path.join(folder, "logs", "klippy.log"),
            time_scale=20.0,
        )
        await simulator.start()
        here = World(path)
        events: list[tuple[str, object]] = []
        here.job.listeners.append(lambda event, before, after: events.append((event, after.get("filename"))))
        here.klippy.start()
        try:
            await until(lambda: here.klippy.state is KlippyState.READY, 20)
            assert here.klippy.missing_requirements == []
            client = here.client()
            names = (await here.ask("printer.objects.list"))["objects"]
            answer = await here.ask("printer.objects.subscribe", {"objects": dict.fromkeys(names)}, client=client)
            assert set(answer["status"]) == set(names)
            store = await here.ask("server.temperature_store")
            assert set(store["extruder"]) == {"temperatures", "targets", "powers"}
            await here.ask("printer.print.start", {"filename": file})
            await until(lambda: len(events) == 2, 30)
            assert events == [("started", file), ("complete", file)]
            assert any("print_stats" in update for update in client.updates)
            assert await here.ask("printer.firmware_restart") == "ok"
            await until(lambda: here.told.count("notify_klippy_ready") == 2, 30)
            assert "notify_klippy_disconnected" in here.told
            assert client.group is None
        finally:
            await here.klippy.stop()
            here.temperatures.pause()
            await simulator.stop()
