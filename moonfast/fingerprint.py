"""Short names for contents: the same content has the same one, another content almost surely another."""

from __future__ import annotations

from collections.abc import Iterable


def fingerprint(parts: Iterable[bytes]) -> str:
    """16 hex digits; with a letter that tells the method, since not every machine has xxhash."""
    try:
        import xxhash  # two tenths of a megabyte, from the first content on
    except ImportError:
        import hashlib  # half a megabyte, that most machines do without

        slow = hashlib.blake2b(digest_size=8)
        for part in parts:
            slow.update(part)
        return f"b{slow.hexdigest()}"
    fast = xxhash.xxh3_64()
    for part in parts:
        fast.update(part)
    return f"x{fast.hexdigest()}"
