"""The toolhead: a queue of straight moves, each taking its distance divided by its speed.

As in Klipper, commands run ahead of the motion by one to two seconds of queued moves; a print of many tiny moves
therefore wakes up about once a second, not once a move. Acceleration is not simulated.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .clock import Clock

START_DELAY_S = 0.25  # between the first command and the first step, as Klipper's toolhead.py buffers at the start
QUEUE_HIGH_S = 2.0  # commands wait once this much motion is queued ...
QUEUE_LOW_S = 1.0  # ... until it is down to this
HOMING_SPEED = 50.0  # mm/s
HOMING_MIN_S = 0.3  # an axis that stands on its endstop already still takes this long

Position = tuple[float, float, float, float]
AXES = "xyz"


@dataclass(slots=True, frozen=True)
class Limits:
    """Axis range in mm and speed limits in mm/s."""

    minimum: tuple[float, float, float] = (0.0, 0.0, 0.0)
    maximum: tuple[float, float, float] = (235.0, 235.0, 250.0)
    z_velocity: float = 15.0
    extrude_velocity: float = 79.8


ARC_STEP_MM = 1.0  # as Klipper's gcode_arcs resolution


def arc_points(start: Position, end: Position, center: tuple[float, float], is_clockwise: bool) -> list[Position]:
    """Cut an arc in the XY plane into straight pieces; Z and E are shared out evenly. The last point is `end`."""
    radius = math.dist(start[:2], center)
    begin = math.atan2(start[1] - center[1], start[0] - center[0])
    sweep = math.atan2(end[1] - center[1], end[0] - center[0]) - begin
    if is_clockwise:
        sweep -= math.tau * math.ceil(sweep / math.tau)
    else:
        sweep -= math.tau * math.floor(sweep / math.tau)
    if math.dist(start[:2], end[:2]) < 1e-9:
        sweep = -math.tau if is_clockwise else math.tau
    pieces = max(1, math.floor(abs(sweep) * radius / ARC_STEP_MM))
    points = []
    for index in range(1, pieces):
        part = index / pieces
        angle = begin + sweep * part
        points.append(
            (
                center[0] + radius * math.cos(angle),
                center[1] + radius * math.sin(angle),
                start[2] + (end[2] - start[2]) * part,
                start[3] + (end[3] - start[3]) * part,
            )
        )
    return [*points, end]


@dataclass(slots=True, frozen=True)
class Move:
    """One queued move; times on the print clock, in seconds."""

    begins: float
    duration: float
    start: Position
    end: Position

    @property
    def length(self) -> float:
        """Travel of the head in mm; 0 for a move of the extruder alone."""
        return math.dist(self.start[:3], self.end[:3])

    def at(self, print_time: float) -> Position:
        part = min(1.0, max(0.0, (print_time - self.begins) / self.duration))
        a, b = self.start, self.end
        return (
            a[0] + (b[0] - a[0]) * part,
            a[1] + (b[1] - a[1]) * part,
            a[2] + (b[2] - a[2]) * part,
            a[3] + (b[3] - a[3]) * part,
        )


class Toolhead:
    """Commanded and live position, homing, and the queue between them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._origin = clock.now()
        self._moves: deque[Move] = deque()
        self.limits = Limits()
        self.max_velocity = 300.0
        self.max_accel = 3000.0
        self.minimum_cruise_ratio = 0.5
        self.square_corner_velocity = 5.0
        self.position: Position = (0.0, 0.0, 0.0, 0.0)
        self.live: Position = self.position
        self.live_velocity = 0.0
        self.live_extruder_velocity = 0.0
        self.homed: set[str] = set()
        self.enabled = {"stepper_x": False, "stepper_y": False, "stepper_z": False, "extruder": False}
        self.print_time = 0.0  # when the last queued move ends
        self.on_move: Callable[[Move], None] | None = None  # told of every queued move
        self._halts = 0

    def clock_time(self) -> float:
        """Return the print clock: seconds since this Klippy started (`estimated_print_time`)."""
        return self._clock.now() - self._origin

    @property
    def ends_at(self) -> float:
        """When all queued motion will have ended, on Klippy's clock."""
        return self._origin + self.print_time

    def refuses(self, end: Position) -> str | None:
        """Say why a move to `end` is not possible, in Klipper's words; None if it is."""
        for index, axis in enumerate(AXES):
            if end[index] == self.position[index]:
                continue
            where = "{:.3f} {:.3f} {:.3f} [{:.3f}]".format(*end)
            if axis not in self.homed:
                return f"Must home axis first: {where}"
            if not self.limits.minimum[index] <= end[index] <= self.limits.maximum[index]:
                return f"Move out of range: {where}"
        return None

    def queue(self, end: Position, speed: float) -> None:
        """Queue a straight move to `end` at `speed` mm/s, cut to the limits of the machine."""
        start, self.position = self.position, end
        travel = math.dist(start[:3], end[:3])
        if travel:
            speed = min(speed, self.max_velocity)
            rise = abs(end[2] - start[2])
            if rise:
                speed = min(speed, self.limits.z_velocity * travel / rise)
            duration = travel / speed
        else:
            duration = abs(end[3] - start[3]) / min(speed, self.limits.extrude_velocity)
        if duration <= 0.0:
            return
        for index, axis in enumerate(AXES):
            if end[index] != start[index]:
                self.enabled["stepper_" + axis] = True
        if end[3] != start[3]:
            self.enabled["extruder"] = True
        self._append(Move(self._next_start(), duration, start, end))

    def dwell(self, seconds: float) -> None:
        """Queue a pause."""
        self.print_time = self._next_start() + seconds

    def _next_start(self) -> float:
        now = self.clock_time()
        return self.print_time if self.print_time > now else now + START_DELAY_S

    def _append(self, move: Move) -> None:
        self._moves.append(move)
        self.print_time = move.begins + move.duration
        if self.on_move is not None:
            self.on_move(move)

    async def throttle(self) -> None:
        """Wait while enough motion is queued."""
        ahead = self.print_time - self.clock_time()
        if ahead > QUEUE_HIGH_S:
            await self._clock.sleep(ahead - QUEUE_LOW_S)

    async def drain(self) -> None:
        """Wait until all queued motion is done."""
        ahead = self.print_time - self.clock_time()
        if ahead > 0.0:
            await self._clock.sleep(ahead)

    async def home(self, axis: str) -> None:
        """Move one axis to its endstop at 0; it stays unhomed if `halt` comes in between."""
        halts = self._halts
        await self.drain()
        if self._halts != halts:
            return
        index = AXES.index(axis)
        at = self.position[index]
        self.enabled["stepper_" + axis] = True
        # a machine that does not know where it is must assume to be somewhere in the lower half
        duration = max(HOMING_MIN_S, abs(at) / HOMING_SPEED)
        end = (*self.position[:index], 0.0, *self.position[index + 1 :])
        assert len(end) == 4
        start, self.position = self.position, end
        self._append(Move(self._next_start(), duration, start, end))
        await self.drain()
        if self._halts == halts:
            self.homed.add(axis)

    def halt(self) -> None:
        """Stop where the head is: the micro-controller is gone, and with it the knowledge of where that is."""
        self._halts += 1
        self.advance()
        self._moves.clear()
        self.print_time = min(self.print_time, self.clock_time())
        self.position = self.live
        self.live_velocity = self.live_extruder_velocity = 0.0
        self.disable()

    def disable(self) -> None:
        """Switch the motors off; positions are lost with them."""
        self.enabled = dict.fromkeys(self.enabled, False)
        self.homed.clear()

    def advance(self) -> None:
        """Bring `live` and the velocities up to date."""
        now = self.clock_time()
        moves = self._moves
        while moves and moves[0].begins + moves[0].duration <= now:
            self.live = moves.popleft().end
        if moves and moves[0].begins <= now:
            move = moves[0]
            self.live = move.at(now)
            self.live_velocity = move.length / move.duration
            self.live_extruder_velocity = (move.end[3] - move.start[3]) / move.duration
        else:
            self.live_velocity = self.live_extruder_velocity = 0.0
