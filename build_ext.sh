#!/bin/sh
# Builds the extensions in place; any failure is an error.
#
#   ./build_ext.sh release    what users get: -O2, no bounds checks
#   ./build_ext.sh debug      Cython's bounds, wraparound and initialised checks, address and undefined sanitizers
#   ./build_ext.sh annotate   as release, and one moonfast/_speedups/*.html per module: yellow lines call into Python
#
# PYTHON picks the interpreter (default: python3).
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
mode=${1:-release}

case $mode in
    release) MOONFAST_BUILD=release MOONFAST_ANNOTATE=0 ;;
    annotate) MOONFAST_BUILD=release MOONFAST_ANNOTATE=1 ;;
    debug) MOONFAST_BUILD=debug MOONFAST_ANNOTATE=0 ;;
    *)
        echo "usage: $0 release|debug|annotate" >&2
        exit 2
        ;;
esac
export MOONFAST_BUILD MOONFAST_ANNOTATE
export MOONFAST_REQUIRE_SPEEDUPS=1

# An interpreter without the tools, or with those of an old distribution, gets them beside the build, not installed.
have_tools() {
    "$python" -c 'import Cython, setuptools
assert int(setuptools.__version__.split(".")[0]) >= 77 and Cython.__version__ >= "3.1"' 2>/dev/null
}
export PYTHONPATH="$PWD/build/tools${PYTHONPATH:+:$PYTHONPATH}"
have_tools || "$python" -m pip install --quiet --disable-pip-version-check --upgrade --target build/tools \
    'cython>=3.1' 'setuptools>=77'
have_tools || {
    echo "$0: $python has no cython>=3.1 or no setuptools>=77, and pip could not fetch them" >&2
    exit 1
}
# Each mode has its own folder, so that "pip install ." never picks up the objects of another; --force, because the
# extension in place may be one of another mode and newer than the source.
"$python" setup.py --quiet build_ext --inplace --force --build-lib "build/$mode" --build-temp "build/$mode"

if [ "$mode" = debug ]; then
    # The interpreter itself is not instrumented, so the sanitizer has to be loaded before it. Python's own allocator would
    # hide an overrun inside its arenas; interned objects at exit look like leaks.
    echo "run with: LD_PRELOAD='$(${CC:-cc} -print-file-name=libasan.so) $(${CC:-cc} -print-file-name=libubsan.so)'" \
        "ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc $python -m pytest"
else
    # An import of every module proves that each was really built.
    for source in moonfast/_speedups/*.pyx; do
        "$python" -c "import importlib, sys
path = importlib.import_module('moonfast._speedups.' + sys.argv[1]).__file__
sys.exit(None if path.endswith('.so') else path + ' is not an extension')" "$(basename "$source" .pyx)"
    done
fi
