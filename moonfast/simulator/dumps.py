"""motion_report/dump_trapq and dump_stepper: the moves themselves, for who wants to draw them.

Source: Klipper docs/API_Server.md, "motion_report/dump_stepper" and "motion_report/dump_trapq".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .motion import Move
from .requests import Request, RequestError
from .wire import Connection, Message

CLOCK_HZ = 50_000_000
STEP_MM = {"stepper_x": 0.0125, "stepper_y": 0.0125, "stepper_z": 0.0025, "extruder": 33.0 / 3200}
AXIS = {"stepper_x": 0, "stepper_y": 1, "stepper_z": 2, "extruder": 3}
TRAPQS = ("toolhead", "extruder")
HEADERS = {
    "motion_report/dump_stepper": ["interval", "count", "add"],
    "motion_report/dump_trapq": ["time", "duration", "start_velocity", "acceleration", "start_position", "direction"],
}
KEPT_MOVES = 20_000
"""Between two pushes; of a faster printer only these are told."""


class Dumps:
    """Collects moves while a client has asked for them, and sends them in batches."""

    def __init__(self) -> None:
        self._moves: list[Move] = []
        self._clients: set[Connection] = set()

    def note(self, move: Move) -> None:
        if self._clients and len(self._moves) < KEPT_MOVES:
            self._moves.append(move)

    def subscribe(self, connection: Connection, request: Request) -> Message:
        """Answer a request for one of the two dumps; it is sent until the client disconnects."""
        name = request.text("name")
        known = AXIS if request.method == "motion_report/dump_stepper" else TRAPQS
        if name not in known:
            raise RequestError(f"The value '{name}' is not valid for name")
        connection.dumps[request.method, name] = request.mapping("response_template")
        self._clients.add(connection)
        return {"header": HEADERS[request.method]}

    def forget(self, connection: Connection) -> None:
        self._clients.discard(connection)

    def push(self) -> None:
        """Send what has been collected."""
        moves, self._moves = self._moves, []
        if not moves:
            return
        made: dict[tuple[str, str], Message] = {}
        for connection in self._clients:
            for key, template in connection.dumps.items():
                if key not in made:
                    make: Callable[[str, list[Move]], Message] = (
                        _steps if key[0] == "motion_report/dump_stepper" else _segments
                    )
                    made[key] = make(key[1], moves)
                if made[key]["data"]:
                    connection.send(template | {"params": made[key]})


def _segments(name: str, moves: list[Move]) -> Message:
    """Rows of a dump_trapq; the extruder's positions stand in the first coordinate."""
    rows: list[list[Any]] = []
    for move in moves:
        start, end = (move.start[:3], move.end[:3]) if name == "toolhead" else (move.start[3:], move.end[3:])
        way = [b - a for a, b in zip(start, end, strict=True)]
        length = sum(part * part for part in way) ** 0.5
        if length:
            direction = [part / length for part in way]
            filled = [0.0] * (3 - len(way))
            rows.append(
                [move.begins, move.duration, length / move.duration, 0.0, [*start, *filled], [*direction, *filled]]
            )
    return {"data": rows}


def _steps(name: str, moves: list[Move]) -> Message:
    """Rows of a dump_stepper: ticks between steps, number of steps with its sign, change of the ticks."""
    axis, step = AXIS[name], STEP_MM[name]
    rows: list[list[int]] = []
    stepped: list[Move] = []
    for move in moves:
        count = round(move.end[axis] / step) - round(move.start[axis] / step)
        if count:
            rows.append([round(move.duration * CLOCK_HZ / abs(count)), count, 0])
            stepped.append(move)
    if not stepped:
        return {"data": []}
    first, last = stepped[0], stepped[-1]
    first_time, last_time = first.begins + rows[0][0] / CLOCK_HZ, last.begins + last.duration
    return {
        "data": rows,
        "start_position": first.start[axis],
        "start_mcu_position": round(first.start[axis] / step),
        "step_distance": step,
        "first_clock": round(first_time * CLOCK_HZ),
        "first_step_time": first_time,
        "last_clock": round(last_time * CLOCK_HZ),
        "last_step_time": last_time,
    }
