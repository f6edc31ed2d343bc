"""Http2Connection against a server on ``h2``: every stream comes to what the server did on it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from .http2_life import check_life

ENDS = {"0", "1", "2", "3", "5", "8", "12", "13", "14", "cancelled", "unprocessed"}


def check(cases: int, seed: int) -> None:
    seen: Counter[str] = Counter()
    for case in range(cases):
        try:
            seen += check_life(Random(f"{seed} {case}"))
        except BaseException as error:
            error.add_note(f"case: {seed} {case}")
            raise
    assert set(seen) >= ENDS
    assert seen["0"] >= cases


def test_lives_with_h2() -> None:
    check(200, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_lives_with_h2_long(seed: int) -> None:
    check(2_000, seed)
