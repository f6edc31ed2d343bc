"""``python -m bench.moves``: what it costs to move a session to another process, in CPU time.

Both sides of a move without the directory and the way between them: the owner exports and forgets,
the other process installs and owns.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from tests.session.rig import CUT, Sessions, notify

SIZES = ((0, 0), (10, 100), (1_000, 100), (1_000, 1_000))
"""Messages that are not acked, and bytes of each."""
MOVES = 300


def measure(messages: int, size: int) -> str:
    """Return a line about sessions with so many messages."""
    limits = {"max_queue_size": 2_048, "max_queue_bytes": 64 << 20}
    here, there = Sessions(**limits), Sessions(**limits)
    costs: list[tuple[int, int]] = []
    data = b""
    for number in range(MOVES):
        here.now += 1
        there.now += 1
        session, link, _ = here.login(f"user {number}")
        for _ in range(messages):
            session.push(notify(bytes(size)), now=here.now)
        here.manager.detach(session, link, CUT, here.now)
        began = time.process_time_ns()
        data = here.manager.moves.export(session, (), here.now)
        here.manager.moves.forget(session, here.now)
        exported = time.process_time_ns()
        arrived = there.manager.moves.install(data, there.now)
        there.manager.moves.own(arrived, 1, there.now)
        costs.append((exported - began, time.process_time_ns() - exported))
        there.manager.close(arrived, 0, "", there.now)
    out, into = (median(cost[side] for cost in costs) / 1_000 for side in (0, 1))
    return f"{messages:8,} {size:8,} {len(data):10,} {out:10.0f} {into:10.0f} {out + into:10.0f}"


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(prog="python -m bench.moves", description=__doc__).parse_args()
    print("messages    bytes    to move     µs out      µs in     µs all")
    for messages, size in SIZES:
        print(measure(messages, size))


if __name__ == "__main__":
    main()
