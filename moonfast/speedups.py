"""Picks the compiled hot path or its plain-Python twins; the only module that imports either.

`MOONFAST_PURE=1` picks the twins, `MOONFAST_REQUIRE_SPEEDUPS=1` refuses them. What reads gcode files is imported when
the first one is there.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

IMPLEMENTATION = "pure"
FALLBACK_REASON: str | None = None
LATER = ("gcodepass", "gcodescan")

if TYPE_CHECKING:
    from moonfast._speedups import fanout, framing, gcodepass, gcodescan, jsonspan, kernel, rings, status, wsframe
else:
    if os.environ.get("MOONFAST_PURE") != "1":
        try:
            from moonfast._speedups import fanout, framing, jsonspan, kernel, rings, status, wsframe

            IMPLEMENTATION = "speedups"
        except ImportError as exc:
            if os.environ.get("MOONFAST_REQUIRE_SPEEDUPS") == "1":
                raise
            FALLBACK_REASON = str(exc)
    if IMPLEMENTATION == "pure":
        if os.environ.get("MOONFAST_REQUIRE_SPEEDUPS") == "1":
            raise ImportError("MOONFAST_REQUIRE_SPEEDUPS=1 and MOONFAST_PURE=1 contradict each other: unset one")
        from moonfast._pure import fanout, framing, jsonspan, kernel, rings, status, wsframe

    def __getattr__(name: str) -> Any:
        if name not in LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = importlib.import_module(f"moonfast._{IMPLEMENTATION}.{name}")
        return found


__all__ = [
    "FALLBACK_REASON",
    "IMPLEMENTATION",
    "fanout",
    "framing",
    "gcodepass",
    "gcodescan",
    "jsonspan",
    "kernel",
    "rings",
    "status",
    "wsframe",
]
