"""Runs `async def test_*` on a fresh event loop (uvloop where it is installed) and says what is being tested.

`MOONFAST_BLOCK=uvloop,orjson` makes packages unavailable, as on machines that have no wheel of them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from typing import Any

import pytest

for _name in filter(None, os.environ.get("MOONFAST_BLOCK", "").split(",")):
    sys.modules[_name] = None  # type: ignore[assignment]

try:
    import uvloop

    _new_loop = uvloop.new_event_loop
except ImportError:
    _new_loop = asyncio.new_event_loop


def pytest_configure() -> None:
    """A run that lost the compiled extensions fails; MOONFAST_PURE=1 says that the twins are meant.

    How the machine does is told each hour instead of each second: a test that counts frames or bytes is not disturbed.
    """
    from moonfast.components.machine import stats

    stats.PERIOD_S = 3600.0
    from moonfast.speedups import IMPLEMENTATION

    if IMPLEMENTATION == "pure" and os.environ.get("MOONFAST_PURE") != "1":
        pytest.exit("the extensions are not built: run ./build_ext.sh release, or set MOONFAST_PURE=1", returncode=1)


def pytest_report_header() -> str:
    from moonfast.speedups import IMPLEMENTATION

    loop = "uvloop" if _new_loop is not asyncio.new_event_loop else "asyncio"
    from moonfast import codec

    json = "json" if codec.orjson is None else "orjson"
    return f"moonfast: {IMPLEMENTATION}, {loop}, {json}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    function: Any = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(function(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
