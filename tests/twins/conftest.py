"""Every test of this folder runs against both implementations of the hot path."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

MODULES = ("framing", "jsonspan", "status", "wsframe", "fanout", "rings", "gcodepass", "gcodescan", "kernel")


@pytest.fixture(params=["pure", "speedups"], scope="session")
def impl(request: pytest.FixtureRequest) -> SimpleNamespace:
    """The modules of one implementation."""
    try:
        found = {name: importlib.import_module(f"moonfast._{request.param}.{name}") for name in MODULES}
    except ImportError:
        pytest.skip("the extensions are not built")
    return SimpleNamespace(**found)
