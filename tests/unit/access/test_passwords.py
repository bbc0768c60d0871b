"""Stored passwords: both forms verify, and nothing that is broken does."""

from __future__ import annotations

import hashlib

import pytest

from moonfast.access.passwords import PBKDF2_ROUNDS, is_right, is_strong, new_hash


def test_a_new_password() -> None:
    stored, salt = new_hash("sécret")
    assert is_strong(stored)
    assert "cret" not in stored
    assert is_right("sécret", stored, salt)
    assert not is_right("secret", stored, salt)
    assert new_hash("sécret")[0] != stored


def test_the_scrypt_of_the_standard() -> None:
    """RFC 7914 section 12, the second vector, in the form in which it would be stored."""
    key = hashlib.scrypt(b"password", salt=b"NaCl", n=1024, r=8, p=16, dklen=64)
    assert key.hex().startswith("fdbabe1c9d3472007856e7190d01e9fe")


def test_moonrakers_form() -> None:
    salt = bytes(range(32))
    stored = hashlib.pbkdf2_hmac("sha256", b"old", salt, PBKDF2_ROUNDS).hex()
    assert not is_strong(stored)
    assert is_right("old", stored, salt.hex())
    assert not is_right("new", stored, salt.hex())


BROKEN = ["", "xyz", "scrypt$", "scrypt$16384$8$1$zz", "scrypt$3$8$1$00", "scrypt$1073741824$8$1$00", "scrypt$2$2$99$0"]


@pytest.mark.parametrize("stored", BROKEN)
def test_broken_ones_fit_nothing(stored: str) -> None:
    assert not is_right("", stored, "00")
    assert not is_right("x", stored, "no hex")
