"""The limit on failures: it ends by itself, no crowd gets past it, and it keeps no user out."""

from __future__ import annotations

import pytest

from gatesvr.auth import limit
from gatesvr.auth.limit import FailureLimit
from gatesvr.auth.reasons import Reason

ANN, HOME, AWAY = "ann", "192.0.2.1", "192.0.2.2"


def fail(failures: FailureLimit, ip: str, openid: str, now: float, reason: Reason) -> bool:
    """Fail one attempt; return whether it was allowed."""
    attempt = failures.begin(ip, openid, now)
    if attempt is None:
        return False
    attempt.end(now, failure=reason)
    return True


def many(failures: FailureLimit, ip: str, now: float, openid: str = "", count: int = 100) -> int:
    """Return how many of many attempts, one after another, were allowed; all fail."""
    return sum(fail(failures, ip, openid, now, Reason.SIGNATURE) for _ in range(count))


def test_failures_of_an_address_are_allowed_as_many_at_once_and_one_a_second() -> None:
    failures = FailureLimit(20, 0)
    assert many(failures, HOME, 100.0) == 20
    assert many(failures, HOME, 100.5) == 0
    assert many(failures, HOME, 101.0) == 1
    assert many(failures, AWAY, 101.0) == 20
    assert many(failures, HOME, 1_000.0) == 20


def test_a_crowd_that_fails_at_once_locks_its_address_for_a_second_only() -> None:
    failures = FailureLimit(20, 0)
    crowd = [failures.begin(HOME, "", 100.0) for _ in range(1_000)]
    for attempt in crowd:
        assert attempt is not None  # nobody has failed yet: they may be many good clients
        attempt.end(100.0, failure=Reason.EXPIRED)
    assert failures.begin(HOME, "", 100.5) is None
    assert failures.begin(HOME, "", 101.0) is not None


def test_attempts_under_way_take_the_places_that_failures_have_left() -> None:
    failures = FailureLimit(20, 0)
    assert many(failures, HOME, 100.0) == 20
    under_way = [failures.begin(HOME, "", 103.0) for _ in range(100)]
    allowed = [attempt for attempt in under_way if attempt is not None]
    assert len(allowed) == 3
    allowed[0].end(103.0)  # it could not be said whether it is good
    allowed[1].end(103.0, openid=ANN)
    allowed[2].end(103.0, failure=Reason.SIGNATURE)
    assert sum(failures.begin(HOME, "", 103.0) is not None for _ in range(100)) == 2


def test_an_ipv6_network_is_one_address() -> None:
    failures = FailureLimit(20, 0)
    assert many(failures, "2001:db8::1", 100.0) == 20
    assert many(failures, "2001:db8::ffff:2", 100.0) == 0
    assert many(failures, "2001:db8:0:1::1", 100.0) == 20


def test_guesses_at_an_openid_count_from_everywhere_together() -> None:
    failures = FailureLimit(0, 20)
    guessed = [fail(failures, f"198.51.100.{i}", ANN, 100.0, Reason.SIGNATURE) for i in range(100)]
    assert guessed == [True] * 20 + [False] * 80
    assert failures.begin(AWAY, ANN, 100.0) is None
    assert failures.begin(AWAY, "bob", 100.0) is not None
    assert failures.begin(AWAY, "", 100.0) is not None
    assert failures.begin(AWAY, ANN, 101.0) is not None


def test_the_address_that_an_openid_came_from_last_is_not_kept_out() -> None:
    failures = FailureLimit(0, 20)
    attempt = failures.begin(HOME, ANN, 90.0)
    assert attempt is not None
    attempt.end(90.0, openid=ANN)
    assert many(failures, AWAY, 100.0, ANN) == 20
    assert failures.begin(HOME, ANN, 100.0) is not None


@pytest.mark.parametrize("reason", sorted(set(Reason) - limit.GUESSES))
def test_what_is_no_guess_does_not_count_against_an_openid(reason: Reason) -> None:
    failures = FailureLimit(0, 20)
    assert all(fail(failures, HOME, ANN, 100.0, reason) for _ in range(100))


def test_guesses_at_an_openid_at_the_same_time_are_no_more_than_its_bucket_holds() -> None:
    failures = FailureLimit(0, 20)
    guesses = [failures.begin(f"198.51.100.{i}", ANN, 100.0) for i in range(100)]
    assert sum(guess is not None for guess in guesses) == 20


def test_many_keys_do_not_bring_back_what_one_has_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "MAX_KEYS", 50)
    failures = FailureLimit(20, 0)
    assert many(failures, HOME, 100.0) == 20
    for i in range(500):
        assert fail(failures, f"10.0.{i // 256}.{i % 256}", "", 100.0, Reason.DENIED)
    assert many(failures, HOME, 100.0) == 0
    assert many(failures, "10.9.9.9", 100.0) < 20


def test_zero_is_no_limit() -> None:
    assert many(FailureLimit(0, 0), HOME, 100.0, ANN, 1_000) == 1_000


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "MAX_KEYS", 50)
    failures = FailureLimit(20, 20)
    for i in range(200):
        ip, openid = f"10.0.{i // 256}.{i % 256}", f"user-{i}"
        assert fail(failures, ip, openid, 100.0 + i, Reason.DENIED)
        attempt = failures.begin(ip, openid, 100.0 + i)
        assert attempt is not None
        attempt.end(100.0 + i, openid=openid)
    assert len(failures._addresses._buckets) <= 50
    assert len(failures._openids._buckets) <= 50
    assert len(failures._homes) == 50


def test_an_address_without_failures_is_not_remembered() -> None:
    failures = FailureLimit(20, 20)
    attempts = [failures.begin(HOME, ANN, 100.0) for _ in range(2)]
    for attempt in attempts:
        assert attempt is not None
        attempt.end(100.0, openid=ANN)
    assert not failures._addresses._buckets
    assert not failures._openids._buckets


def test_a_limit_that_is_taken_away_keeps_nobody_out() -> None:
    limit = FailureLimit(1, 1)
    for _ in range(3):
        limit.failed("192.0.2.1", "alice", Reason.SIGNATURE, 100.0)
    assert not limit.allows("192.0.2.9", "alice", 100.0)
    limit.apply(0, 0)
    assert limit.allows("192.0.2.9", "alice", 100.0)
    assert limit.allows("192.0.2.1", "alice", 100.0)
