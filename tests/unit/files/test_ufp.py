"""Packages as Cura writes them, broken ones, and ones that are meant to do harm."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import pytest

from moonfast.errors import BadRequest, InsufficientStorage
from moonfast.files import thumbnail_child, ufp

GCODE = b";FLAVOR:Marlin\n" + b"G1 X10.5 Y20.25 E0.033\n" * 50
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)
WHOLE = {"/[Content_Types].xml": b"<Types/>", "/3D/model.gcode": GCODE, "/Metadata/thumbnail.png": PICTURE}


def package(folder: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "part.ufp"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def declare(path: Path, size: int, part: bytes = b"/3D/model.gcode") -> None:
    """Change the inflated size that the list of parts gives for a part (APPNOTE.TXT, 4.3.12)."""
    data = bytearray(path.read_bytes())
    at = data.rindex(part) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    struct.pack_into("<I", data, at + 24, size)
    path.write_bytes(data)


def refusal(path: Path, kind: type[BadRequest | InsufficientStorage] = BadRequest) -> str:
    """Unpack what must be refused: nothing is left behind, and an older file stays as it was."""
    target = path.parent / "out" / "a.gcode"
    target.parent.mkdir()
    target.write_bytes(b"older")
    with pytest.raises(kind) as caught:
        ufp.unpack(path, target, "my cube.ufp")
    assert os.listdir(target.parent) == ["a.gcode"]
    assert target.read_bytes() == b"older"
    assert "'my cube.ufp'" in caught.value.message
    assert str(path.parent) not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_gcode_and_picture(tmp_path: Path, compression: int) -> None:
    target = tmp_path / "a.gcode"
    assert ufp.unpack(package(tmp_path, WHOLE, compression), target) == PICTURE
    assert target.read_bytes() == GCODE
    assert sorted(os.listdir(tmp_path)) == ["a.gcode", "part.ufp"]


def test_model_larger_than_a_piece(tmp_path: Path) -> None:
    gcode = os.urandom(64 * 1024) * 40
    target = tmp_path / "a.gcode"
    assert ufp.unpack(package(tmp_path, {"/3D/model.gcode": gcode}), target) is None
    assert target.read_bytes() == gcode


def test_names_have_no_case_and_may_lack_the_slash(tmp_path: Path) -> None:
    path = package(tmp_path, {"3d/Model.GCODE": GCODE, "metadata/Thumbnail.png": PICTURE})
    assert ufp.unpack(path, tmp_path / "a.gcode") == PICTURE


def test_replaces_a_file_and_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / "a.gcode").symlink_to(tmp_path / "elsewhere")
    ufp.unpack(package(tmp_path, WHOLE), tmp_path / "a.gcode")
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"
    assert (tmp_path / "a.gcode").read_bytes() == GCODE


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", b"no package at all", bytes(70_000)])
def test_no_zip(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "part.ufp"
    path.write_bytes(data)
    assert "no ZIP file" in refusal(path)


def test_without_gcode(tmp_path: Path) -> None:
    assert "no gcode in it" in refusal(package(tmp_path, {"/Metadata/thumbnail.png": PICTURE}))


def test_cut_off(tmp_path: Path) -> None:
    path = package(tmp_path, WHOLE)
    path.write_bytes(path.read_bytes()[:-40])
    refusal(path)


def test_damaged_gcode(tmp_path: Path) -> None:
    path = package(tmp_path, WHOLE, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"FLAVOR", b"FLAWOR"))
    assert "its gcode is damaged" in refusal(path)


def test_damaged_picture_is_left_out(tmp_path: Path) -> None:
    path = package(tmp_path, WHOLE, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"\x89PNG", b"\x89PNX"))
    assert ufp.unpack(path, tmp_path / "a.gcode") is None
    assert (tmp_path / "a.gcode").read_bytes() == GCODE


def test_picture_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    huge = bytes(thumbnail_child.MAX_THUMBNAIL_BYTES + 1)
    path = package(tmp_path, {**WHOLE, "/Metadata/thumbnail.png": huge})
    assert ufp.unpack(path, tmp_path / "a.gcode") is None


def test_zeros_that_inflate_a_thousandfold(tmp_path: Path) -> None:
    zeros = bytes(ufp.ANY_RATIO_BYTES + 1)
    assert "too large" in refusal(package(tmp_path, {"/3D/model.gcode": zeros}))


def test_more_than_declared_is_never_written(tmp_path: Path) -> None:
    path = package(tmp_path, WHOLE)
    declare(path, 100)
    assert "damaged" in refusal(path)


def test_less_than_declared(tmp_path: Path) -> None:
    path = package(tmp_path, WHOLE)
    declare(path, len(GCODE) + 1)
    assert "shorter than announced" in refusal(path)


def test_more_than_the_disk_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*free[:4], 0, *free[5:])))
    assert "disk space" in refusal(package(tmp_path, WHOLE), InsufficientStorage)


def test_disk_full_while_unpacking(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    path = package(tmp_path, WHOLE)
    target = tmp_path / "out" / "a.gcode"
    target.parent.mkdir()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
        with pytest.raises(InsufficientStorage):
            ufp.unpack(path, target)
    assert os.listdir(target.parent) == []


def test_packed_in_a_way_that_takes_memory(tmp_path: Path) -> None:
    assert "other than deflate" in refusal(package(tmp_path, WHOLE, zipfile.ZIP_LZMA))


def test_encrypted(tmp_path: Path) -> None:
    path = package(tmp_path, WHOLE)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"/3D/model.gcode") - 46 + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


def test_too_many_parts(tmp_path: Path) -> None:
    parts = {f"/{number:060}": b"" for number in range(2000)}
    assert "list of parts is too long" in refusal(package(tmp_path, {**WHOLE, **parts}))


@pytest.mark.parametrize("zip64", [False, True])
def test_list_of_parts_said_to_be_huge(tmp_path: Path, zip64: bool) -> None:
    """What an end record says is refused before it is read (APPNOTE.TXT, 4.3.14 to 4.3.16)."""
    path = package(tmp_path, WHOLE)
    data = bytes(400_000) + path.read_bytes()
    records, end = data[:-22], bytearray(data[-22:])
    if zip64:
        at = len(records)
        records += struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, 300_000, at - 300_000)
        records += struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    else:
        struct.pack_into("<I", end, 12, 300_000)
    path.write_bytes(records + end)
    assert "list of parts is too long" in refusal(path)


def test_missing_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ufp.unpack(tmp_path / "none.ufp", tmp_path / "a.gcode")
