"""Looks through an LMDB file for damage, without LMDB: that ends the process when it meets a page it cannot read.

Format: lmdb.h and mdb.c of LMDB 0.9 (MDB_page, MDB_node, MDB_meta, MDB_db), in the byte order and word size of this
machine. Every page that can be reached from the two roots (free pages, records) must lie in the file, be of the kind
that its depth demands, name itself, be reached once, and hold nodes and overflow pages that stay within their bounds.
What is in the records is not looked at, save for the roots of named databases, which Moonraker's store is made of.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

_WORD = struct.calcsize("P")
_HEADER = struct.Struct("=QHHHH" if _WORD == 8 else "=IHHHH")  # page number, -, flags, lower, upper
_PAGES = struct.Struct("=I")  # instead of lower and upper in the first of a row of overflow pages
_NODE = struct.Struct("=HHHH")  # low, high, flags, size of the key
_NUMBER = struct.Struct("=Q" if _WORD == 8 else "=I")
_META = struct.Struct("=IIQQ" if _WORD == 8 else "=IIII")  # magic, version, address, size
_TREE = struct.Struct("=IHHQQQQQ" if _WORD == 8 else "=IHHIIIII")  # -, flags, depth, three counts, entries, root
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _DIRTY = 1, 2, 4, 0x10
_BIG, _DATABASE = 1, 2
_MAGIC_AT = (16, 12)  # where 64-bit and 32-bit systems have the magic number
_NO_ROOT = 2 ** (8 * _WORD) - 1
_MAX_DEPTH = 32  # CURSOR_STACK


class Damage(Exception):
    """Says what is wrong with the file."""


class ForeignWordSize(Damage):
    """The file is sound, as far as can be seen, but only a system of another word size can read it."""


def check(path: Path, *, is_thorough: bool, has_databases: bool = False) -> None:
    """Check the length of a file, and all its pages if `is_thorough`, which takes about 10 us a page.

    Damage: the file must not be given to LMDB. OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size:  # an empty file is a new store
            _File(descriptor, has_databases).check(is_thorough)
    finally:
        os.close(descriptor)


class _File:
    def __init__(self, descriptor: int, has_databases: bool) -> None:
        self._descriptor, self._has_databases = descriptor, has_databases
        self._databases: list[tuple[int, int]] = []  # depth and root of those that are named in the main tree
        self._page_bytes = 0
        self._seen = bytearray()

    def check(self, is_thorough: bool) -> None:
        newest = max(self._meta(0, 0), self._meta(1, self._page_bytes))
        _, last_page, trees = newest
        if os.fstat(self._descriptor).st_size < (last_page + 1) * self._page_bytes:
            raise Damage("the end of the file is missing")
        self._seen = bytearray(last_page + 1)
        self._seen[0:2] = b"\x01\x01"
        for depth, root in trees if is_thorough else ():
            if root != _NO_ROOT:
                self._tree(root, depth)
        for depth, root in list(self._databases):
            if root != _NO_ROOT:
                self._tree(root, depth)

    def _meta(self, number: int, offset: int) -> tuple[int, int, list[tuple[int, int]]]:
        """Transaction, last page, and depth and root of both trees."""
        data = os.pread(self._descriptor, _HEADER.size + _META.size + 2 * _TREE.size + 2 * _WORD, offset)
        try:
            at = _HEADER.size
            magic, version, _, _ = _META.unpack_from(data, at)
            at += _META.size
            trees = [_TREE.unpack_from(data, at), _TREE.unpack_from(data, at + _TREE.size)]
            at += 2 * _TREE.size
            last_page, transaction = _NUMBER.unpack_from(data, at)[0], _NUMBER.unpack_from(data, at + _WORD)[0]
        except struct.error:
            raise Damage("the file is too short") from None
        page_bytes = trees[0][0]
        if magic != _MAGIC and not number:
            self._refuse_foreign(data)
        if magic != _MAGIC or version != _VERSION or page_bytes not in (4096, 8192, 16384, 32768):
            raise Damage(f"page {number} does not describe a store")
        if number and page_bytes != self._page_bytes:
            raise Damage("the first two pages contradict each other")
        self._page_bytes = page_bytes
        return transaction, last_page, [(tree[2], tree[7]) for tree in trees]

    def _refuse_foreign(self, data: bytes) -> None:
        """ForeignWordSize: the magic number is where the other kind of system has it."""
        bits, at = (32, _MAGIC_AT[1]) if _WORD == 8 else (64, _MAGIC_AT[0])
        if int.from_bytes(data[at : at + 4], sys.byteorder) == _MAGIC:
            raise ForeignWordSize(
                f"it was written by a {bits}-bit system, and this one has {8 * _WORD} bits: LMDB files cannot be "
                "carried from one to the other, a text dump can"
            )

    def _tree(self, root: int, depth: int) -> None:
        if not 0 < depth <= _MAX_DEPTH:
            raise Damage("the depth of a tree is impossible")
        level = [root]
        while level:
            depth -= 1
            below: list[int] = []
            for number in level:
                below.extend(self._page(number, is_leaf=depth == 0))
            level = below

    def _take(self, number: int, count: int = 1) -> None:
        if not 1 < number <= len(self._seen) - count or any(self._seen[number : number + count]):
            raise Damage(f"page {number} is used twice or does not exist")
        self._seen[number : number + count] = b"\x01" * count

    def _page(self, number: int, *, is_leaf: bool) -> list[int]:
        """Check a page; the pages that it names are the result, unless it is a leaf."""
        self._take(number)
        size = self._page_bytes
        page = os.pread(self._descriptor, size, number * size)
        own_number, _, flags, lower, upper = _HEADER.unpack_from(page)
        if own_number != number or flags & ~_DIRTY != (_LEAF if is_leaf else _BRANCH):
            raise Damage(f"page {number} is not what it should be")
        if not _HEADER.size < lower <= upper <= size or lower % 2:
            raise Damage(f"the bounds of page {number} are impossible")
        named = []
        for (at,) in struct.iter_unpack("=H", page[_HEADER.size : lower]):
            if not upper <= at <= size - _NODE.size:
                raise Damage(f"page {number} points outside itself")
            low, high, node_flags, key_bytes = _NODE.unpack_from(page, at)
            data_at = at + _NODE.size + key_bytes
            value = low | high << 16
            if not is_leaf:
                data_bytes = 0
                named.append(value | node_flags << 32 if _WORD == 8 else value)
            else:
                if node_flags == _DATABASE and self._has_databases and value == _TREE.size <= size - data_at:
                    tree = _TREE.unpack_from(page, data_at)
                    self._databases.append((tree[2], tree[7]))
                elif node_flags & ~_BIG:
                    raise Damage(f"page {number} holds an unknown kind of record")
                data_bytes = _WORD if node_flags & _BIG else value
            if data_at + data_bytes > size:
                raise Damage(f"a record in page {number} is too long")
            if is_leaf and node_flags & _BIG:
                self._overflow(_NUMBER.unpack_from(page, data_at)[0], value)
        return named

    def _overflow(self, number: int, value_bytes: int) -> None:
        count = (_HEADER.size - 1 + value_bytes) // self._page_bytes + 1
        self._take(number, count)
        header = os.pread(self._descriptor, _HEADER.size, number * self._page_bytes)
        own_number, _, flags, _, _ = _HEADER.unpack(header)
        if own_number != number or flags & ~_DIRTY != _OVERFLOW or _PAGES.unpack_from(header, _WORD + 4)[0] != count:
            raise Damage(f"page {number} is not what it should be")
