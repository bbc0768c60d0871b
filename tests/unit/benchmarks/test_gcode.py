"""Sliced files for the benchmarks: size, repeatability, and what a slicer's file must hold."""

import base64
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import gcode


def made(size: int, slicer: str = "prusaslicer", *, seed: int = 1, objects: str = "none") -> bytes:
    return b"".join(gcode.content(size, slicer, seed=seed, objects=objects))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks of a PNG file, whose checksums must be right."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at = 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(kind + content),)
        yield kind, content
        at += 12 + size


@pytest.mark.parametrize("slicer", gcode.SLICERS)
@pytest.mark.parametrize("objects", gcode.OBJECTS)
@pytest.mark.parametrize("size", [100_000, 345_678, 2_000_000])
def test_size_is_met_to_the_byte(slicer: str, objects: str, size: int) -> None:
    for seed in range(3):
        content = made(size, slicer, seed=seed, objects=objects)
        assert len(content) == size
        assert content.endswith(b"\n")


def test_the_seed_decides_the_bytes() -> None:
    assert made(200_000, seed=4) == made(200_000, seed=4)
    assert made(200_000, seed=4) != made(200_000, seed=5)


@pytest.mark.parametrize("slicer", gcode.SLICERS)
def test_layers_rise_and_are_as_many_as_the_comments_say(slicer: str) -> None:
    text = made(1_000_000, slicer).decode()
    heights = [float(z) for z in re.findall(r"^G1 Z([\d.]+) F", text, re.MULTILINE)]
    assert heights == sorted(set(heights))
    assert len(heights) == len(re.findall(r"^;(?:LAYER_CHANGE$|LAYER:)", text, re.MULTILINE)) > 20
    stated = re.findall(r"(?:total layer number: |LAYER_COUNT:)(\d+)", text)
    assert stated == ([] if slicer == "prusaslicer" else [str(len(heights))])


def test_extrusion_is_relative_and_positive_while_drawing() -> None:
    text = made(300_000).decode()
    assert "\nM83 " in text
    assert all(float(e) > 0 for e in re.findall(r"^G1 X\S+ Y\S+ E(\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("slicer", gcode.SLICERS)
def test_thumbnails_are_pictures_of_the_stated_size(slicer: str) -> None:
    text = made(200_000, slicer).decode()
    found = re.findall(r"; thumbnail begin (\d+)x\d+ (\d+)\n(.*?); thumbnail end", text, re.DOTALL)
    assert [int(width) for width, _, _ in found] == [32, 300]
    for width, length, lines in found:
        encoded = re.sub(r"[; \n]", "", lines)
        assert len(encoded) == int(length)
        chunks = dict(png_chunks(base64.b64decode(encoded)))
        assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (int(width), int(width))
        assert len(zlib.decompress(chunks[b"IDAT"])) == int(width) * (4 * int(width) + 1)


@pytest.mark.parametrize("slicer", gcode.SLICERS)
def test_objects_begin_and_end_in_turn(slicer: str) -> None:
    text = made(500_000, slicer, objects="exclude").decode()
    defined = re.findall(r"^EXCLUDE_OBJECT_DEFINE NAME=(\S+) ", text, re.MULTILINE)
    marks = re.findall(r"^EXCLUDE_OBJECT_(START|END) NAME=(\S+)$", text, re.MULTILINE)
    assert [kind for kind, _ in marks] == ["START", "END"] * (len(marks) // 2)
    assert all(begun == ended for (_, begun), (_, ended) in zip(marks[::2], marks[1::2], strict=True))
    assert {name for _, name in marks} == set(defined)
    assert "EXCLUDE_OBJECT" not in made(500_000, slicer, objects="comments").decode()


def test_a_size_too_small_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        gcode.write(tmp_path / "small.gcode", 20_000)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "out.gcode"
    assert gcode.main(["--mb", "0.25", "--slicer", "cura", "--seed", "7", str(path)]) == 0
    assert path.read_bytes() == made(250_000, "cura", seed=7)
