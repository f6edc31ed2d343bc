"""HPACK against the package ``hpack``: whole lives of connections, sound and damaged."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import hpack_checks

VERDICTS = {
    *("decoder good", "decoder too large", "encoder good"),
    *("damaged good", "damaged corrupt", "damaged too large"),
}


def check(cases: int, seed: int) -> None:
    random = Random(seed)
    seen = Counter(hpack_checks.check_one(random) for _ in range(cases))
    assert sum(seen.values()) == cases
    assert set(seen) == VERDICTS
    assert min(seen.values()) >= cases // 200


def test_same_fields_both_ways() -> None:
    check(1_000, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 9))
def test_same_fields_both_ways_long(seed: int) -> None:
    check(5_000, seed)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_same_verdict_on_noise(blocks: list[bytes]) -> None:
    hpack_checks.check_blocks(blocks)
