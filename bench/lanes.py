"""Compares the two lanes: what a request costs a gateway with ``direct`` and with ``grpcio``.

For each case two gateways stand side by side before one upstream, and differ by ``upstream.lane``
alone. Rounds of load go to one and the other in turn. A figure is
the median of the rounds; a ratio, direct to grpcio, the median of each round's ratio. Run it on an
otherwise idle machine::

    python -m bench.lanes --rounds 5 --json lanes.json
    python -m bench.lanes --only unary --only "stream 1 x 1" --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatesvr.bench.run import Crew
from gatesvr.bench.scenario import Plan
from gatesvr.bench.servers import OwnServers

from .load import Process, figures_of, serve_upstream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = (sys.executable, "-m", "gatesvr.cli.leash")
LANES = {name: (COMMAND, (f"upstream.lane={name}",)) for name in ("direct", "grpcio")}
"""For each side: the command that runs ``gatesvr``, and the gateway's settings."""
LATENCIES = ("p50_ms", "p99_ms")
WORSE = 1.1
"""Ratio above which a latency counts as worse; below it is noise."""
KEYS = ("cpu_us", *LATENCIES, "per_s", "busy")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of upstream, and how clients ask.

    Attributes:
        upstream: ``stream`` for services with ProcessStream, ``unary`` for those without.
        clients: Number of clients.
        in_flight: Requests that each keeps under way.
        rate: Requests a second over all clients, 0 for the closed model.
        reach: The highest ratio of CPU time to reach.
    """

    upstream: str
    clients: int
    in_flight: int = 1
    rate: float = 0.0
    reach: float = 1.0

    @property
    def name(self) -> str:
        """The case in words."""
        if self.rate:
            return f"{self.upstream} {self.clients:,} clients, {self.rate:,.0f} a second"
        return f"{self.upstream} {self.clients} x {self.in_flight}"


CASES = (
    Case("unary", 1, reach=0.5),
    Case("unary", 8, reach=0.45),
    Case("unary", 64, reach=0.4),
    Case("unary", 8, 32, reach=0.4),
    Case("unary", 100, rate=1_000.0, reach=0.5),
    Case("stream", 1, reach=0.6),
    Case("stream", 8, reach=0.65),
    Case("stream", 64, reach=0.85),
    Case("stream", 8, 32, reach=1.0),
    Case("stream", 100, rate=1_000.0, reach=0.55),
    Case("stream", 1_000, rate=4_000.0, reach=0.6),
)


def measure(
    case: Case,
    sides: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    options: argparse.Namespace,
) -> dict[str, list[Figures]]:
    """Return the figures of each round, by side."""
    rounds: dict[str, list[Figures]] = {name: [] for name in sides}
    with ExitStack() as stack:
        upstream = Process(serve_upstream, case.upstream)
        stack.callback(upstream.stop)
        servers = {
            name: stack.enter_context(
                OwnServers(
                    command,
                    options.transport,
                    case.clients,
                    settings,
                    upstreams=upstream.hello,
                )
            )
            for name, (command, settings) in sides.items()
        }
        for number in range(options.rounds):
            order = list(servers) if number % 2 == 0 else list(reversed(servers))
            for name in order:
                rounds[name].append(load(case, servers[name], options))
    return rounds


def load(case: Case, servers: OwnServers, options: argparse.Namespace) -> Figures:
    """Put a round of load on a gateway, and return its figures.

    Raises:
        RuntimeError: The checker found a fault, or a request failed.
    """
    plan = Plan(
        scenario="echo",
        clients=case.clients,
        in_flight=case.in_flight,
        rate=case.rate,
        duration=options.seconds,
        warmup=options.warm_up,
        backend=options.client,
        insecure=True,
        run=int.from_bytes(os.urandom(4), "big"),
    )
    with Crew(1) as crew:
        plan = replace(plan, server=servers.server)
        result = crew.run(plan, servers.pids, lambda phase, part: None, servers.check)
    if result.found or result.failures:
        raise RuntimeError(f"{result.found} broken promises, failures: {dict(result.failures)}")
    usage, seconds = result.usage, result.seconds
    figures = figures_of(usage, result.meter.total, seconds, usage.cpu["load 0"])
    return {key: figures[key] for key in KEYS}


def row_of(case: Case, rounds: Mapping[str, list[Figures]]) -> dict[str, Any]:
    """Return a case's row: the medians of both sides, and the ratios of the first to the second."""
    ours, others = rounds.values()
    row: dict[str, Any] = {
        name: {key: round(statistics.median(one[key] for one in found), 3) for key in KEYS}
        for name, found in rounds.items()
    }
    for key in ("cpu_us", *LATENCIES):
        ratios = [mine[key] / other[key] for mine, other in zip(ours, others, strict=True)]
        row[f"{key.rpartition('_')[0]}_ratio"] = {
            "median": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
    row["reach"] = case.reach
    row["met"] = row["cpu_ratio"]["median"] <= case.reach
    row["worse"] = [
        key.rpartition("_")[0]
        for key in LATENCIES
        if row[f"{key.rpartition('_')[0]}_ratio"]["median"] > WORSE
    ]
    return row


def text_of(name: str, row: dict[str, Any]) -> str:
    """Return a row as a line."""
    sides = "  ".join(
        f"{side} {row[side]['cpu_us']:6.1f} us"
        f" {row[side]['p50_ms']:6.2f} {row[side]['p99_ms']:6.2f} ms"
        for side in list(row)[:2]
    )
    ratio = row["cpu_ratio"]
    words = "met" if row["met"] else "MISSED"
    if row["worse"]:
        words += f", worse: {', '.join(row['worse'])}"
    return (
        f"{name:36} {sides}  ratio {ratio['median']:.2f} ({ratio['lowest']:.2f} …"
        f" {ratio['highest']:.2f}), to reach {row['reach']:g}: {words}"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that measure() reads."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="measured time of a round")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds not measured")
    parser.add_argument("--transport", default="qh3", help="the gateways' QUIC library")
    parser.add_argument("--client", default="qh3", help="the load client's QUIC library")
    parser.add_argument(
        "--only", action="append", default=[], help="cases whose name contains this; repeatable"
    )
    parser.add_argument("--json", type=Path, help="file for the rows")


def chosen(options: argparse.Namespace) -> list[Case]:
    """Return the cases asked for."""
    words = options.only or [""]
    return [case for case in CASES if any(word in case.name for word in words)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lanes", description=__doc__)
    add_options(parser)
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for case in chosen(options):
        row = rows[case.name] = row_of(case, measure(case, LANES, options))
        print(text_of(case.name, row), flush=True)
        if options.json is not None:  # by now: a run that is interrupted keeps what it has
            options.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
