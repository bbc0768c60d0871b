"""Tokens: only what was signed with the right key counts, and one-shot ones count once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonfast.access.tokens import ACCESS, MAX_ONESHOTS, ONESHOT_S, OneShots, is_signed, make, read

KEY = b"k" * 32


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def signed(header: object, claims: object, key: bytes = KEY) -> str:
    """A token made as RFC 7515 appendix A.1 shows it."""
    text = f"{part(header)}.{part(claims)}"
    mark = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"


CLAIMS = {"iss": "Moonraker", "iat": 1.0, "exp": 9.0, "username": "a", "token_type": "access"}
HEADER = {"alg": "HS256", "typ": "JWT"}


def test_the_example_of_the_standard() -> None:
    """RFC 7515 appendix A.1: the key, and the signature of the text."""
    key = base64.urlsafe_b64decode(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow=="
    )
    text = (
        b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
        b"cGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    mark = base64.urlsafe_b64decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk=")
    assert hmac.digest(key, text, "sha256") == mark


@given(st.text(min_size=1), st.floats(0, 1e10), st.floats(1, 1e8))
def test_what_is_made_is_read(name: str, now: float, lifetime: float) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return
    claims = read(make(KEY, name, ACCESS, now, lifetime))
    assert claims is not None
    assert (claims.username, claims.kind, claims.expires) == (name, ACCESS, now + lifetime)
    assert is_signed(claims, KEY)
    assert not is_signed(claims, b"x" * 32)


def test_others_make_the_same() -> None:
    claims = read(signed(HEADER, CLAIMS))
    assert claims is not None
    assert is_signed(claims, KEY)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        ".",
        "..",
        signed({"alg": "none"}, CLAIMS).rpartition(".")[0] + ".",
        signed({"alg": "none"}, CLAIMS),
        signed({"alg": "HS512"}, CLAIMS),
        signed([], CLAIMS),
        signed(HEADER, []),
        signed(HEADER, {**CLAIMS, "iss": "x"}),
        signed(HEADER, {**CLAIMS, "exp": "9"}),
        signed(HEADER, {**CLAIMS, "exp": True}),
        signed(HEADER, {**CLAIMS, "exp": None}),
        signed(HEADER, {**CLAIMS, "username": 5}),
        signed(HEADER, {**CLAIMS, "token_type": None}),
        "ü" + signed(HEADER, CLAIMS),
        signed(HEADER, {**CLAIMS, "pad": "x" * 5000}),
        signed(HEADER, CLAIMS).replace(".", "..", 1),
    ],
)
def test_what_is_no_token(token: str) -> None:
    assert read(token) is None


@given(st.text())
def test_reading_never_raises(text: str) -> None:
    read(text)
    read(f"{part(HEADER)}.{text}.{text}")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_ends_it(place: int, change: int) -> None:
    token = bytearray(signed(HEADER, CLAIMS).encode())
    place %= len(token)
    token[place] ^= change
    claims = read(token.decode("latin-1"))
    if claims is not None and is_signed(claims, KEY):  # only bits that base64url does not use may differ
        assert place == len(token) - 1


def test_a_oneshot_counts_once_in_time_and_from_its_address() -> None:
    tokens = OneShots()
    one = tokens.make("1.2.3.4", "me", 100.0)
    assert len(one) == 32
    assert tokens.take(one, "1.2.3.4", 101.0) == "me"
    assert tokens.take(one, "1.2.3.4", 101.0) is None
    late = tokens.make("1.2.3.4", "me", 100.0)
    assert tokens.take(late, "1.2.3.4", 100.0 + ONESHOT_S) is None
    stolen = tokens.make("1.2.3.4", "me", 100.0)
    assert tokens.take(stolen, "4.3.2.1", 100.0) is None
    assert tokens.take(stolen, "1.2.3.4", 100.0) is None  # whoever tried it has used it up
    local = tokens.make(None, "me", 100.0)
    assert tokens.take(local, "1.2.3.4", 100.0) == "me"
    assert tokens.take("", "1.2.3.4", 100.0) is None


def test_oneshots_have_a_bound() -> None:
    tokens = OneShots()
    first = tokens.make("a", "me", 0.0)
    last = [tokens.make("a", "me", 0.0) for _ in range(MAX_ONESHOTS)][-1]
    assert len(tokens._waiting) == MAX_ONESHOTS
    assert tokens.take(first, "a", 0.0) is None
    assert tokens.take(last, "a", 0.0) == "me"
    tokens.make("a", "me", 100.0)
    assert len(tokens._waiting) == 1
