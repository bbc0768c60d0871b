"""Secrets are compared in a time that says nothing about where they differ."""

from __future__ import annotations


def is_same(one: bytes, other: bytes) -> bool:
    from hmac import compare_digest  # needs half a megabyte: only where secrets are shown

    return compare_digest(one, other)
