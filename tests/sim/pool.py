"""Many histories at once, over all the processors there are."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat

from gatesvr.dispatch.processor import usable_cpus

from .processes.world import ProcessesWorld
from .world import World

WORLDS: dict[str, type[World]] = {"one": World, "processes": ProcessesWorld}
"""Histories of one process, and of several as one gateway."""
REPLAY = {"one": "", "processes": "--processes "}
CHUNK = 50
MAX_SHOWN = 10


@dataclass
class Result:
    """What a number of histories came to.

    Attributes:
        histories: How many.
        kind: Of WORLDS.
        counts: What happened in them.
        fewest_events: Events of the shortest one.
        bad: Seed to what was found, or to the exception.
    """

    histories: int = 0
    kind: str = "one"
    counts: Counter[str] = field(default_factory=Counter)
    fewest_events: int = 1 << 30
    bad: dict[int, str] = field(default_factory=dict)

    def add(self, other: Result) -> None:
        self.histories += other.histories
        self.counts += other.counts
        self.fewest_events = min(self.fewest_events, other.fewest_events)
        self.bad.update(other.bad)

    def complaint(self) -> str:
        """Return what to print where it is bad."""
        lines = [f"{len(self.bad)} of {self.histories} histories are bad; replay one alone by"]
        for seed, why in sorted(self.bad.items())[:MAX_SHOWN]:
            lines.append(f"  python -m tests.sim {REPLAY[self.kind]}{seed} -v     # {why}")
        return "\n".join(lines)


def run_some(first: int, count: int, kind: str = "one") -> Result:
    """Run the histories of consecutive seeds in this process."""
    logging.disable(logging.CRITICAL)
    result = Result(kind=kind)
    for seed in range(first, first + count):
        one = Result(1)
        try:
            world = WORLDS[kind](seed).run()
        except Exception as error:
            one.bad[seed] = f"{error!r}"
        else:
            one.counts = world.counts
            one.counts["events"] = world.events
            one.fewest_events = world.events
            if world.checker.findings:
                one.bad[seed] = str(world.checker.findings[0])
        result.add(one)
    logging.disable(logging.NOTSET)
    return result


def run_many(first: int, count: int, kind: str = "one") -> Result:
    """Run the histories of consecutive seeds in as many processes as there are processors."""
    result = Result(kind=kind)
    # Fresh ones: other tests have threads, which a forked process would be without.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cpus(), mp_context=context) as pool:
        firsts = range(first, first + count, CHUNK)
        sizes = [min(CHUNK, first + count - start) for start in firsts]
        for part in pool.map(run_some, firsts, sizes, repeat(kind)):
            result.add(part)
    return result
