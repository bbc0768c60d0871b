"""Failed logins: who guesses waits, and only who guesses."""

from __future__ import annotations

import pytest

from moonfast.access.attempts import FIRST_WAIT_S, LONGEST_WAIT_S, MAX_ADDRESSES, Attempts
from moonfast.errors import Unauthorized


def is_locked(attempts: Attempts, address: str, now: float) -> bool:
    try:
        attempts.check(address, now)
    except Unauthorized as exc:
        return exc.reason == "too_many_attempts"
    return False


def test_an_address_waits_longer_each_time_and_others_never() -> None:
    attempts, now = Attempts(3), 1000.0
    for _ in range(2):
        attempts.failed("a", now)
        assert not is_locked(attempts, "a", now)
    wait = FIRST_WAIT_S
    for _ in range(10):
        attempts.failed("a", now)
        assert is_locked(attempts, "a", now + wait - 1)
        assert not is_locked(attempts, "b", now)
        now += wait
        assert not is_locked(attempts, "a", now)
        wait = min(wait * 2, LONGEST_WAIT_S)
    attempts.succeeded("a")
    attempts.failed("a", now)
    assert not is_locked(attempts, "a", now)


def test_without_a_limit() -> None:
    attempts = Attempts(None)
    for _ in range(100):
        attempts.failed("a", 0.0)
    assert not is_locked(attempts, "a", 0.0)


def test_the_table_has_a_bound() -> None:
    attempts = Attempts(1)
    for number in range(MAX_ADDRESSES + 10):
        attempts.failed(str(number), 0.0)
    assert len(attempts._failed) <= MAX_ADDRESSES
    assert not is_locked(attempts, "0", 1.0)
    assert is_locked(attempts, str(MAX_ADDRESSES + 9), 1.0)


def test_the_unix_socket_has_no_address() -> None:
    attempts = Attempts(1)
    attempts.failed(None, 0.0)
    with pytest.raises(Unauthorized):
        attempts.check(None, 1.0)
