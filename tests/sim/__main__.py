"""Replay histories: ``python -m tests.sim SEED [-v]``, or ``python -m tests.sim FIRST COUNT``."""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter

from .world import EVENTS, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("-v", dest="is_verbose", action="store_true", help="print the trace")
    parser.add_argument("--events", type=int, default=EVENTS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    bad = 0
    started = time.process_time()
    for seed in range(options.seed, options.seed + options.count):
        world = World(seed, is_verbose=options.is_verbose, events=options.events)
        try:
            world.run()
        except Exception:
            print("\n".join(world.trace))
            raise
        counts += world.counts
        counts["events"] += world.events
        if options.is_verbose:
            print("\n".join(world.trace))
        if world.checker.findings:
            bad += 1
            print(f"seed {seed}: {world.checker.findings[:3]}")
    for name, count in sorted(counts.items()):
        print(f"{name:28} {count}")
    print(f"{bad} bad of {options.count}, {time.process_time() - started:.1f} s")
    return bool(bad)


raise SystemExit(main())
