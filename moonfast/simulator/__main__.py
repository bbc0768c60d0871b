"""Run a simulated Klippy by itself: python -m moonfast.simulator --socket PATH --gcodes FOLDER.

With --replay it plays a captured session instead.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from .klippy import SimulatedKlippy
from .replay import ReplayedKlippy, load_tape


def _make(options: argparse.Namespace) -> SimulatedKlippy | ReplayedKlippy:
    """Build what was asked for; ValueError and OSError: it is not possible."""
    if options.replay is not None:
        tape = load_tape(options.replay, options.gcodes or "")
        return ReplayedKlippy(
            options.socket, tape, section=options.section, speed=options.speed, repeats=options.repeat
        )
    return SimulatedKlippy(
        options.socket, gcodes_dir=options.gcodes, time_scale=options.time_scale, push_hz=options.push_hz
    )


async def _run(options: argparse.Namespace) -> None:
    klippy = _make(options)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await klippy.start()
    print(f"listening on {options.socket}", flush=True)
    await stop.wait()
    await klippy.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m moonfast.simulator", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--socket", required=True, metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--gcodes", metavar="FOLDER", help="files that can be printed")
    parser.add_argument("--time-scale", type=float, default=1.0, help="how fast the printer's time passes (default: 1)")
    parser.add_argument("--push-hz", type=float, default=4.0, help="status updates a second (default: 4)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play a captured session instead")
    parser.add_argument("--section", default="print", help="which part of the session to play (default: print)")
    parser.add_argument("--speed", type=float, default=1.0, help="its pace; 0: as fast as it is read (default: 1)")
    parser.add_argument("--repeat", action="store_true", help="play the session again and again")
    options = parser.parse_args()
    if options.replay is None and options.gcodes is None:
        parser.error("--gcodes is needed")
    try:
        asyncio.run(_run(options))
    except (OSError, ValueError) as exc:
        sys.exit(f"simulator: {exc}")


if __name__ == "__main__":
    main()
