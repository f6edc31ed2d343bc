"""Token buckets, alone and in a table, against a plain model."""

from __future__ import annotations

import random
from itertools import count

import pytest

from gatesvr._core.limits import TokenBucket, TokenBuckets

SEED = 0x1234_5678_9ABC_DEF0


class Model:
    """A bucket as the textbook has it."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at = burst, 0.0

    def take(self, now: float) -> float:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - 1e-6:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return 0.0


@pytest.mark.parametrize(("rate", "burst"), [(1.0, 1.0), (0.25, 3.0), (100.0, 1_000.0)])
def test_a_bucket_is_the_model(rate: float, burst: float) -> None:
    choose = random.Random(7)
    bucket, model, table = (
        TokenBucket(rate, burst),
        Model(rate, burst),
        TokenBuckets(rate, burst, 8, SEED),
    )
    now = 0.0
    for _ in range(3_000):
        now += choose.choice([0, 0, 0.1, 0.5, 1, 4]) / rate
        expected = pytest.approx(model.take(now), abs=1e-5 / rate)
        assert bucket.wait(now) == expected
        assert table.wait("ann", now) == expected
        assert bucket.take(now) == expected
        assert table.take("ann", now) == expected


def test_a_refusal_says_when_there_is_a_token() -> None:
    bucket = TokenBucket(2.0, 3.0)
    assert [bucket.take(10.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert bucket.take(10.25) == 0.25
    assert bucket.take(10.5) == 0


def test_each_key_has_its_own_bucket() -> None:
    table = TokenBuckets(1.0, 2.0, 1 << 10, SEED)
    keys = ["ann", b"bob", 7, ("v6", b"\x20\x01")]
    assert [[table.take(key, 5.0) for key in keys] for _ in range(3)] == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
    ]


def test_ever_new_keys_push_out_no_bucket_that_is_empty() -> None:
    table = TokenBuckets(0.001, 100.0, 64, SEED)
    while not table.take("greedy", 0.0):
        pass
    for number in range(20_000):
        table.take(f"new-{number}", 0.0)
    assert table.evictions > 10_000
    assert table.take("greedy", 1.0) > 0


def test_ever_new_keys_gain_no_tokens() -> None:
    """They share the places of the table, and each goes on where another was pushed out."""
    places, burst = 64, 5
    table = TokenBuckets(0.001, burst, places, SEED)
    taken = sum(not table.take(f"key-{number}", 0.0) for number in range(20_000))
    assert taken <= places * burst


def test_full_buckets_make_room_without_loss() -> None:
    table = TokenBuckets(10.0, 2.0, 8, SEED)
    for step in count():
        table.take(f"key-{step}", step * 1.0)
        if step == 1_000:
            break
    assert table.evictions == 0


@pytest.mark.parametrize(
    ("rate", "burst", "keys"),
    [(0, 1, 8), (-1, 1, 8), (float("inf"), 1, 8), (1, 0.5, 8), (1, 1, 0), (1, 1, 12), (1, 1, 4)],
)
def test_arguments_out_of_range(rate: float, burst: float, keys: int) -> None:
    with pytest.raises(ValueError, match=r"rate|max_keys"):
        TokenBuckets(rate, burst, keys, SEED)
