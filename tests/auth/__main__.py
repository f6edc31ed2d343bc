"""Print the table of authentication: ``python -m tests.auth``.

For both modes and both QUIC backends: every case, what the client saw, how long START_RESP took,
and what was counted; then how long the refusal takes of a known openid with a bad token, beside an
openid that is not the token's, asked in turn. Exit code 1 where a case was not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time

from ..e2e.plain_client import plain_client
from .cases import CASES, run_cases, scene
from .tokens import token

BACKENDS = ("aioquic", "qh3")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.auth", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, help="one of both")
    parser.add_argument("--mode", choices=CASES, help="one of both")
    parser.add_argument("--times", type=int, default=100, help="pairs for the comparison; 0: none")
    options = parser.parse_args()
    logging.getLogger("gatesvr").addHandler(logging.NullHandler())
    is_good = True
    for mode in [options.mode] if options.mode else list(CASES):
        for backend in [options.backend] if options.backend else BACKENDS:
            is_good = asyncio.run(_print_cases(mode, backend)) and is_good
            if options.times:
                asyncio.run(_compare(mode, backend, options.times))
    return 0 if is_good else 1


async def _print_cases(mode: str, backend: str) -> bool:
    """Print a row a case; return whether all are as they should be."""
    print(f"\n{mode}, {backend}")
    print(f"{'case':<30} | {'client saw':<10} | {'took ms':>7} | counter")
    is_good = True
    async for row in run_cases(mode, backend):
        case = row.case
        line = f"{case.name:<30} | {row.sees:<10} | {row.took_ms:7.1f} | {', '.join(row.counts)}"
        if (row.sees, row.counts) != (case.sees, case.counts):
            is_good = False
            line += f"   SHOULD BE {case.sees}: {', '.join(case.counts)}"
        print(line, flush=True)
    return is_good


async def _compare(mode: str, backend: str, times: int) -> None:
    """Print how long two kinds of refusal take, asked in turn on connections of their own."""
    if mode == "jwt":
        good = token(kid="r")
        bad_token, bad_openid = ("alice", good[:-8] + "AAAAAAAA"), ("nobody", good)
    else:
        bad_token, bad_openid = ("alice", "wrong"), ("nobody", "wrong")
    took: dict[str, list[float]] = {"good openid, bad token": [], "bad openid": []}
    sets = ("auth.address_failures=0", "auth.openid_failures=0")
    async with scene(mode, backend, *sets) as at:
        for turn in range(times):
            pairs = list(zip(took, (bad_token, bad_openid), strict=True))
            for name, (openid, auth_token) in pairs if turn % 2 else reversed(pairs):
                async with plain_client(at.gateway.address) as client:
                    began = time.perf_counter()
                    await client.start(openid, auth_token=auth_token)
                    took[name].append(1000 * (time.perf_counter() - began))
    medians = []
    for name, values in took.items():
        values.sort()
        medians.append(statistics.median(values))
        low, high = values[len(values) // 20], values[-1 - len(values) // 20]
        print(
            f"{name:<30} | median {medians[-1]:.2f} ms, 5 % below {low:.2f}, 5 % above {high:.2f}"
        )
    print(f"{'difference of the medians':<30} | {medians[0] - medians[1]:+.2f} ms", flush=True)


if __name__ == "__main__":
    sys.exit(main())
