"""Who may import whom, and that every module can be imported by itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "moonfast"

# Lower layers know nothing of higher ones; those in one row do not know one another. `server.py` connects them.
LAYERS: list[tuple[str, ...]] = [
    (
        "vocab",
        "errors",
        "codec",
        "fingerprint",
        "speedups",
        "_pure",
        "_speedups",
        "version",
        "data_path",
        "log",
        "config",
        "__init__",
    ),
    ("component", "registry", "api"),
    ("storage", "host"),
    ("klippy", "state", "access", "rpc"),
    ("files",),
    ("components", "server_api", "pages"),
    ("transports",),
    ("server",),
    ("reference", "cli"),
    ("__main__",),
]
FORBIDDEN = {"transports": {"files", "components"}, "simulator": None}  # None: nothing at all
MAY_IMPORT_ANYWAY = {
    ("server", "simulator"),  # --simulate
    ("config", "registry"),  # --check-config and the config reference look at the sections of all components
    ("__init__", "server"),  # the public names, imported when they are asked for
}
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The folder of the package, or the module, that a file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports_of(path: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in it that stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "moonfast" else [node.module]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "moonfast":
                is_part = len(parts) > 1 and ((PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists())
                found.add(parts[1] if is_part else "__init__")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    for imported in imports_of(path) - {part}:
        if (part, imported) in MAY_IMPORT_ANYWAY:
            continue
        forbidden = FORBIDDEN.get(part, set())
        assert forbidden is not None, f"{part} imports {imported}"
        assert imported not in forbidden, f"{part} imports {imported}"
        assert part in RANK, f"{part} has no place in LAYERS"
        same_row = RANK[part] == RANK[imported]
        assert RANK[imported] < RANK[part] or (same_row and RANK[part] <= 1), f"{part} imports {imported}"


def test_only_speedups_knows_the_two_implementations() -> None:
    for path in MODULES:
        if part_of(path) not in ("speedups", "_pure"):
            assert not imports_of(path) & {"_pure", "_speedups"}, path


def test_every_module_can_be_imported_alone() -> None:
    names = []
    for path in MODULES:
        parts = ["moonfast", *path.relative_to(PACKAGE).with_suffix("").parts]
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    # each in a child of its own, forked from an interpreter that has imported nothing of the package
    program = """
import importlib, os, sys, traceback
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(" ".join(failed))
"""
    run = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, env=os.environ, timeout=60, check=True
    )
    assert run.stdout.strip() == "", run.stderr


def test_importing_the_package_starts_nothing() -> None:
    program = "import sys, moonfast; print(sorted(name for name in sys.modules if name.startswith('moonfast')))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "['moonfast']"
