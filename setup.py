"""The list of extensions; the static facts of the project are in pyproject.toml.

Every moonfast/_speedups/*.pyx becomes one extension. With Cython its C is generated, beside the .pyx; without, the C
that an sdist carries is compiled. MOONFAST_BUILD=release|debug picks the checks (build_ext.sh sets it).
MOONFAST_REQUIRE_SPEEDUPS=1 makes a failed compilation an error, not an installation that runs on the Python twins.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

try:
    from Cython.Build import cythonize
except ImportError:
    cythonize = None

MODE = os.environ.get("MOONFAST_BUILD", "release")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
COMPILE_ARGS = {
    "release": ["-O2", "-g0"],
    "debug": ["-O1", "-g", "-fno-omit-frame-pointer", *SANITIZERS],
}[MODE]
LINK_ARGS = SANITIZERS if MODE == "debug" else []
CHECKS = MODE == "debug"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKS,
    "wraparound": CHECKS,
    "initializedcheck": CHECKS,
    "cdivision": True,
    "embedsignature": False,
    "auto_pickle": False,
    "autotestdict": False,
}

os.chdir(Path(__file__).parent)
sources = sorted(Path("moonfast/_speedups").glob("*.pyx"))
if cythonize is None:
    sources = [path.with_suffix(".c") for path in sources if path.with_suffix(".c").exists()]

extensions = [
    Extension(
        f"moonfast._speedups.{path.stem}", [path.as_posix()], extra_compile_args=COMPILE_ARGS, extra_link_args=LINK_ARGS
    )
    for path in sources
]
if cythonize is not None:
    extensions = cythonize(
        extensions,
        compiler_directives=DIRECTIVES,
        # C with checks is kept apart, so that it never ends in a release or an sdist.
        build_dir="build/debug" if CHECKS else None,
        annotate=os.environ.get("MOONFAST_ANNOTATE") == "1",
        force=os.environ.get("MOONFAST_ANNOTATE") == "1",
    )
for extension in extensions:
    extension.optional = os.environ.get("MOONFAST_REQUIRE_SPEEDUPS") != "1"

setup(ext_modules=extensions)
