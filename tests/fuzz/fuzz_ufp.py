"""Fuzz target of UFP packages: whatever the bytes are, a file that is whole and within its bounds, or a named error.

    python -m tests.fuzz.fuzz_ufp [--seconds 60] [--seed N]    # with atheris installed: its options instead

The seeds are whole packages, small ones: gcode with and without a picture, stored and deflated, with comments.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from moonfast.errors import BadRequest, InsufficientStorage
from moonfast.files import ufp
from moonfast.files.thumbnail_child import MAX_THUMBNAIL_BYTES
from tests.fuzz.target import Target

PIECES = [
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"/3D/model.gcode",
    b"/Metadata/thumbnail.png",
    b"\xff\xff\xff\xff",
    b"\x01\x00\x10\x00",
]


def one_input(data: bytes) -> None:
    """Accept any bytes: another exception, or a file left behind, is a fault."""
    with tempfile.TemporaryDirectory(prefix="moonfast-fuzz-") as name:
        folder = Path(name)
        package, target = folder / "a.ufp", folder / "a.gcode"
        package.write_bytes(data)
        try:
            picture = ufp.unpack(package, target)
        except (BadRequest, InsufficientStorage):
            assert os.listdir(folder) == ["a.ufp"]
            return
        assert sorted(os.listdir(folder)) == ["a.gcode", "a.ufp"]
        assert target.stat().st_size <= max(ufp.ANY_RATIO_BYTES, len(data) * ufp.MAX_RATIO)
        assert picture is None or len(picture) <= MAX_THUMBNAIL_BYTES


TARGET = Target("ufp", one_input, pieces=PIECES, header_bytes=0)

if __name__ == "__main__":
    TARGET.main()
