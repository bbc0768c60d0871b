"""The simulated machine: everything that changes. What clients are told of it is in `status.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .clock import Clock
from .heaters import AMBIENT_C, Heater
from .idle import IdleTimeout
from .mesh import BedMesh
from .motion import Move, Toolhead
from .settings import BED_MAX_C, EXTRUDER_MAX_C, MIN_EXTRUDE_C

Status = dict[str, Any]

M73_S = 5.0  # a progress set by M73 counts for this long, and for as long as the printer works
STALE_S = 0.25  # a temperature this old is computed anew before it decides something
CHAMBER_SHARE = 0.2  # of the bed's heat that arrives in the chamber

READY = "Printer is ready"
STARTING = (
    "\nPrinter is not ready\nThe klippy host software is attempting to connect.  Please\nretry in a few moments.\n"
)
SHUTDOWN_ADVICE = (
    'Once the underlying issue is corrected, use the\n"FIRMWARE_RESTART" command to reset the firmware, reload the\n'
    "config, and restart the host software.\nPrinter is shutdown\n"
)
ERROR_ADVICE = (
    'Once the underlying issue is corrected, use the "RESTART"\ncommand to reload the config and restart the host '
    "software.\nPrinter is halted\n"
)


class Printer:
    """The state of the machine. A restart makes it anew; only the heat and the saved bed meshes remain."""

    def __init__(self, clock: Clock, before: Printer | None = None) -> None:
        self.clock = clock
        self.state, self.state_message = "startup", STARTING
        self.toolhead = Toolhead(clock)
        self.toolhead.on_move = self._moved
        self.extruder = Heater("extruder", rise=320.0, tau_s=140.0, gain=0.08, max_temp=EXTRUDER_MAX_C)
        self.bed = Heater("heater_bed", rise=110.0, tau_s=300.0, gain=0.15, max_temp=BED_MAX_C)
        if before is not None:
            self.extruder.temperature, self.bed.temperature = before.extruder.temperature, before.bed.temperature
        self.saved_profiles: dict[str, Status] = {} if before is None else before.saved_profiles  # of bed_mesh
        self.mesh = BedMesh(self.saved_profiles)
        self.pending: dict[str, dict[str, str]] = {}  # what SAVE_CONFIG would write
        self.is_busy: Callable[[], bool] = lambda: False
        self.on_move: Callable[[Move], None] | None = None
        self.idle = IdleTimeout(clock, lambda: self.is_busy(), lambda: self.toolhead.ends_at)
        self.fan_speed = self.caselight = self.pressure_advance = 0.0
        self.message: str | None = None
        self._progress: float | None = None  # set by M73
        self._progress_until = 0.0
        self.is_paused = False
        self.endstops: dict[str, str] = {}
        self.objects: list[Status] = []  # of exclude_object
        self.excluded: list[str] = []
        self.current_object: str | None = None
        self.extruded_mm = 0.0
        self.chamber_range = (self.chamber, self.chamber)
        self._last = clock.now()

    @property
    def can_extrude(self) -> bool:
        return self.extruder.temperature >= MIN_EXTRUDE_C

    def is_warm(self) -> bool:
        """Say whether the extruder is warm enough now, even if nobody has looked for a while."""
        if self.clock.now() - self._last > STALE_S:
            self.advance()
        return self.can_extrude

    @property
    def chamber(self) -> float:
        """Temperature of the chamber, in degrees Celsius."""
        return round(AMBIENT_C + (self.bed.temperature - AMBIENT_C) * CHAMBER_SHARE, 2)

    @property
    def m73_progress(self) -> float | None:
        """The progress that M73 set, 0 to 1, as long as it counts."""
        if self.clock.now() > self._progress_until and self.idle.state != "Printing":
            self._progress = None
        return self._progress

    def set_m73_progress(self, progress: float | None) -> None:
        self._progress, self._progress_until = progress, self.clock.now() + M73_S

    def advance(self) -> None:
        """Bring everything that moves by itself up to now."""
        self._heat()
        self.toolhead.advance()
        if self.idle.advance():
            self.switch_heaters_off()
            self.toolhead.disable()

    def _heat(self) -> None:
        now = self.clock.now()
        for heater in (self.extruder, self.bed):
            heater.advance(now - self._last)
        self._last = now
        low, high = self.chamber_range
        self.chamber_range = (min(low, self.chamber), max(high, self.chamber))

    def save_config(self) -> None:
        """Keep what would be lost by a restart."""
        self.saved_profiles, self.pending = self.mesh.profiles, {}

    def switch_heaters_off(self) -> None:
        self._heat()  # up to now the old targets count
        self.extruder.target = self.bed.target = 0.0

    def shut_down(self, reason: str) -> None:
        """Everything off, now."""
        self._leave("shutdown", f"{reason}\n{SHUTDOWN_ADVICE}")
        for heater in (self.extruder, self.bed):
            heater.is_enabled = False

    def fail(self, message: str) -> None:
        """Be as after a fault in the configuration."""
        self._leave("error", f"{message}\n\n{ERROR_ADVICE}")

    def disconnect(self) -> None:
        """Klippy ends: whoever waits for this printer waits in vain."""
        self._leave("disconnected", "Printer is not connected")

    def _leave(self, state: str, message: str) -> None:
        self.advance()
        self.state, self.state_message = state, message
        self.toolhead.halt()
        self.clock.interrupt()

    def _moved(self, move: Move) -> None:
        self.extruded_mm += move.end[3] - move.start[3]
        self.idle.touch()
        if self.on_move is not None:
            self.on_move(move)
