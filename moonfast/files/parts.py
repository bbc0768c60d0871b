"""Files that take their place only when they are whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

from moonfast.files.roots import PART_PREFIX, PART_SUFFIX


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BufferedWriter]:
    """Open a part file beside `target`, which takes its place at the end, or is deleted if anything was raised.

    A link in the target's place is replaced, not followed. OSError: the folder is missing, full or not writable.
    """
    part = target.with_name(f"{PART_PREFIX}{os.urandom(8).hex()}{PART_SUFFIX}")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
