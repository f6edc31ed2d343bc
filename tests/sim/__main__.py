"""Replay histories: ``python -m tests.sim SEED [-v]``, or ``python -m tests.sim FIRST COUNT``.

``--processes`` is for those of several processes as one gateway.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter

from .pool import WORLDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int, nargs="?", default=1)
    parser.add_argument("-v", dest="is_verbose", action="store_true", help="print the trace")
    parser.add_argument("--processes", dest="kind", action="store_const", const="processes")
    parser.add_argument("--events", type=int, default=0, help="before the calm")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    counts: Counter[str] = Counter()
    bad = 0
    started = time.process_time()
    for seed in range(options.seed, options.seed + options.count):
        kind = WORLDS[options.kind or "one"]
        world = kind(seed, is_verbose=options.is_verbose, events=options.events)
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
