"""Soak the way to the upstreams: ``python -m tests.soak.upstreams memory --kind unary``.

``memory`` sends 200,000 requests, a tenth of which time out, are cancelled or given up, and reads
the gateway's memory at each tenth. ``restarts`` kills or stops the upstream 50 times under load.
``age`` has it end each connection after a second. Gateway, upstream and load have a process each,
on loopback. Prints a table, and a line for each promise that was broken; exit code 1 where there
is one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from .runs import RUNS, Plan, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

LANES = ("direct", "grpcio")
KINDS = ("unary", "stream")
NUMBERS = ("clients", "requests", "rate", "restarts", "pause_s", "seconds", "age_ms")
HIGHEST_RATE = 100_000.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    results = []
    for plan in plans(options):
        results.append(asyncio.run(RUNS[plan.what](plan).run()))
        if not options.json:
            print(as_text(results[-1]), flush=True)
    if options.json:
        print(json.dumps([result.as_dict() for result in results]))
    return int(any(result.findings for result in results))


def plans(options: argparse.Namespace) -> list[Plan]:
    """Return what to run, one after the other."""
    given = {name: getattr(options, name) for name in NUMBERS if getattr(options, name) is not None}
    made = []
    for what in options.what or RUNS:
        for kind in [options.kind] if options.kind else KINDS:
            for lane in options.lane or [""]:
                rate = {} if what != "memory" else {"rate": HIGHEST_RATE}
                for is_go in (False, True) if what == "age" else (False,):
                    values = {
                        **rate,
                        **given,
                        "is_go": is_go,
                        "backend": options.backend,
                        "how": options.how,
                    }
                    made.append(Plan(what, lane, kind, **values))
    return made


def as_text(result: Result) -> str:
    """Return a run's figures, a line each."""
    plan = result.plan
    go = ", goodbye in two steps" if plan.is_go else ""
    lines = [f"{plan.what}: {plan.lane or 'default'} lane, {plan.kind}{go}, {result.seconds:.0f} s"]
    table: dict[str, object] = {
        "requests": result.sent,
        **{f"ended {end}": number for end, number in sorted(result.ends.items())},
        "left by their clients": result.left,
        "given up in the gateway": result.given_up,
        "executions": result.executed,
        **result.figures,
        **{f"upstream.{name}": number for name, number in result.counters.items()},
        "memory, MiB": " ".join(f"{mib:.1f}" for mib in result.rss_mib),
    }
    lines += [f"  {name:<32} {value}" for name, value in table.items() if value not in (0, "")]
    lines += [f"FINDING {finding}" for finding in result.findings]
    return "\n".join(lines)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = {each.name: each.default for each in fields(Plan)}
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.upstreams", description=text.split("\n")[0]
    )
    parser.add_argument("what", nargs="*", metavar="RUN", help=f"{', '.join(RUNS)}; default: all")
    parser.add_argument("--lane", action="append", choices=LANES, help="repeatable")
    parser.add_argument("--kind", choices=KINDS, help="of upstream; default: both")
    parser.add_argument("--how", default="both", choices=("kill", "stop", "both"), help="restarts")
    parser.add_argument("--backend", default="qh3", choices=("aioquic", "qh3"))
    for name in NUMBERS:
        kind = type(defaults[name])
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=kind, dest=name, help=f"default: {defaults[name]}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for what in options.what:
        if what not in RUNS:
            parser.error(f"no run is named {what!r}: {', '.join(RUNS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
