"""Whatever happened to the file: it passes the check and LMDB can read all of it, or the check says what is wrong."""

from __future__ import annotations

import os
import random
from pathlib import Path

import lmdb
import pytest

from moonfast.storage.check import Damage, check


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with branches, leaves, overflow pages and a list of free pages."""
    with lmdb.open(os.fspath(tmp_path), map_size=16 * 1024**2) as env:
        for turn in range(5):
            with env.begin(write=True) as txn:
                for number in range(0, 600, turn + 1):
                    txn.put(b"%06d" % number, b"v" * (number * 7 % 9000))
                for number in range(turn, 600, 11):
                    txn.delete(b"%06d" % number)
    return tmp_path / "data.mdb"


def test_an_intact_store_passes(file: Path) -> None:
    check(file, is_thorough=True)


def test_a_new_store_passes(tmp_path: Path) -> None:
    lmdb.open(os.fspath(tmp_path)).close()
    check(tmp_path / "data.mdb", is_thorough=True)
    os.truncate(tmp_path / "data.mdb", 0)
    check(tmp_path / "data.mdb", is_thorough=True)


@pytest.mark.parametrize("missing", [1, 4096, 50_000])
def test_a_missing_end_is_found_at_once(file: Path, missing: int) -> None:
    os.truncate(file, file.stat().st_size // 4096 * 4096 - missing)
    with pytest.raises(Damage, match="end of the file is missing"):
        check(file, is_thorough=False)


@pytest.mark.parametrize("size", [1, 100, 4096, 5000])
def test_a_stump_is_found(file: Path, size: int) -> None:
    os.truncate(file, size)
    with pytest.raises(Damage):
        check(file, is_thorough=False)


@pytest.mark.parametrize("seed", range(60))
def test_what_passes_can_be_read(file: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(file.read_bytes())
    page = chance.randrange(2, len(data) // 4096) * 4096
    kind = chance.randrange(4)
    if kind == 0:
        data[page : page + 4096] = bytes(4096)
    elif kind == 1:
        data[page : page + 4096] = chance.randbytes(4096)
    elif kind == 2:  # a page that was never written and holds another's contents
        other = chance.randrange(2, len(data) // 4096) * 4096
        data[page : page + 4096] = data[other : other + 4096]
    else:
        data[page + chance.randrange(64)] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    try:
        check(file, is_thorough=True)
    except Damage:
        return
    with lmdb.open(os.fspath(file.parent), readonly=True) as env, env.begin() as txn, txn.cursor() as cursor:
        assert sum(1 for _ in cursor) > 0
