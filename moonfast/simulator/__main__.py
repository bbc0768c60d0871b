"""Run a simulated Klippy by itself: python -m moonfast.simulator --socket PATH --gcodes FOLDER."""

from __future__ import annotations

import argparse
import asyncio
import signal

from .klippy import SimulatedKlippy


async def _run(options: argparse.Namespace) -> None:
    klippy = SimulatedKlippy(
        options.socket, gcodes_dir=options.gcodes, time_scale=options.time_scale, push_hz=options.push_hz
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await klippy.start()
    print(f"listening on {options.socket}", flush=True)
    await stop.wait()
    await klippy.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m moonfast.simulator", description=__doc__)
    parser.add_argument("--socket", required=True, metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--gcodes", required=True, metavar="FOLDER", help="files that can be printed")
    parser.add_argument("--time-scale", type=float, default=1.0, help="how fast the printer's time passes (default: 1)")
    parser.add_argument("--push-hz", type=float, default=4.0, help="status updates a second (default: 4)")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
