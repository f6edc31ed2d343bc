"""Compare the codec with upb on more random input than the tests have time for.

Run it from the project's root::

    python -m tests.fuzz.codec --cases 1000000 --seed 7

The seed of a failing case is printed; ``--seed SEED --cases 1`` repeats it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from random import Random

from tests.core.codec_checks import check_one


def main() -> None:
    """Check cases with the seeds that follow the first one, and print the verdicts."""
    parser = argparse.ArgumentParser(description="compare the codec with upb on random input")
    parser.add_argument("--cases", type=int, default=100_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first one")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.cases):
        try:
            seen[check_one(Random(seed))] += 1
        except Exception:
            print(f"seed {seed}:")
            raise
    for verdict, cases in sorted(seen.items()):
        print(f"{verdict:16} {cases:9,}")


if __name__ == "__main__":
    main()
