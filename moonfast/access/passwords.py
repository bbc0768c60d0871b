"""Passwords as they are stored: scrypt for new ones, PBKDF2 as Moonraker writes it.

    scrypt    "scrypt$N$r$p$" and the key in hex       RFC 7914
    PBKDF2    the key in hex: HMAC-SHA-256, 100,000    RFC 8018

The salt stands beside it, in hex. All of this takes long: for a worker thread.
"""

from __future__ import annotations

import os

from moonfast.access.secrets import is_same

SALT_BYTES = 32
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 1
"""16 MiB of memory, a tenth of a second on a small board."""
PBKDF2_ROUNDS = 100_000
MAX_PASSWORD_BYTES = 1024
_PREFIX = "scrypt"
NOBODYS = (f"{_PREFIX}${SCRYPT_N}${SCRYPT_R}${SCRYPT_P}$" + "00" * 32, "00" * SALT_BYTES)
"""A stored password that fits none: to check it takes as long as to check a real one."""


def new_hash(password: str) -> tuple[str, str]:
    """The form of a password that is stored, and its salt."""
    salt = os.urandom(SALT_BYTES)
    key = _scrypt(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    return f"{_PREFIX}${SCRYPT_N}${SCRYPT_R}${SCRYPT_P}${key.hex()}", salt.hex()


def is_right(password: str, stored: str, salt: str) -> bool:
    """Whether this is the password; what cannot be read is none."""
    try:
        raw_salt = bytes.fromhex(salt)
        if is_strong(stored):
            _, n, r, p, key = stored.split("$")
            if int(n) * int(r) > SCRYPT_N * SCRYPT_R or int(p) > SCRYPT_P:
                return False  # not ours: it would take any memory it likes
            return is_same(_scrypt(password, raw_salt, int(n), int(r), int(p)), bytes.fromhex(key))
        return is_same(_pbkdf2(password, raw_salt), bytes.fromhex(stored))
    except ValueError:
        return False


def is_strong(stored: str) -> bool:
    """Whether a password is stored in the present form."""
    return stored.startswith(_PREFIX + "$")


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    import hashlib  # needs half a megabyte: only where there are logins

    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _pbkdf2(password: str, salt: bytes) -> bytes:
    import hashlib

    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, PBKDF2_ROUNDS)
