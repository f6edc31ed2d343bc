"""Compares the ways in: a request's CPU and a session's memory by QUIC and by the web's ways.

``cpu`` has two gateways side by side, one for each QUIC library, before one upstream. Rounds of
load go to one way after another, each client with one request under way, and the figures are
those of the gateway's process alone; this process is the load. ``memory`` starts a gateway for
each measurement, and logs clients in that then do nothing. A ratio is the median of each round's
ratio to raw QUIC on qh3. Run it on an otherwise idle machine::

    python -m bench.ways cpu --clients 64 --rounds 5
    python -m bench.ways memory --clients 2000 --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from gatesvr import Gateway
from gatesvr.bench.meter import Histogram
from gatesvr.bench.process import Sampler, Usage
from gatesvr.cli.loop import spare_collector
from gatesvr.config import load, parse_address
from gatesvr.transport.client import open_connection
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.driver import Driver

from .clients import GatewayClient, Round
from .load import Process, figures_of, serve_upstream, tell_stats
from .web import open_websocket, open_webtransport

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.protocol.link import Link

WAYS = {
    "quic qh3": ("qh3", "quic"),
    "quic aioquic": ("aioquic", "quic"),
    "websocket": ("qh3", "websocket"),
    "webtransport qh3": ("qh3", "webtransport"),
    "webtransport aioquic": ("aioquic", "webtransport"),
}
"""For each way: the gateway's QUIC library, and how clients come in."""
OPEN: dict[str, Any] = {
    "quic": open_connection,
    "websocket": open_websocket,
    "webtransport": open_webtransport,
}
YARDSTICK = "quic qh3"
CONNECT_BATCH = 25
FIRST_SESSIONS = 50
"""Logged in before memory is counted: what the first ones load stays."""
SETTLE_S = 0.5
ENDLESS = 1 << 60

Figures = dict[str, float]


async def serve_ways(
    pipe: Pipe, backend: str, services: dict[str, str], settings: list[str]
) -> None:
    """Run a gateway with all its ways in until the pipe says stop."""
    sets = [f'upstream.services.{name}=[{{address="{at}"}}]' for name, at in services.items()]
    config = load(
        sets=[
            f"transport.backend={backend}",
            "transport.bind=127.0.0.1:0",
            "transport.max_connections=20000",
            "transport.max_connections_per_prefix=0",
            "transport.web.bind=127.0.0.1:0",
            "transport.web.accept_rate=0",
            "push.bind=127.0.0.1:0",
            "session.max_inited_per_address=20000",
            "session.resume_window=2s",
            *sets,
            *settings,
        ]
    )
    async with Gateway(config) as gateway:
        web = parse_address(gateway.web_address)
        quic = parse_address(gateway.address)
        pipe.send({"quic": quic, "websocket": web, "webtransport": web})
        await tell_stats(pipe, gateway)


class Window(Round):
    """Rounds without an end: requests are sent until ``unsent`` is 0.

    Attributes:
        latencies: Of the requests answered, µs.
    """

    def __init__(self, clients: int) -> None:
        super().__init__(clients)
        self.unsent = ENDLESS
        self.latencies: list[int] = []

    def answered(self) -> None:
        if not self.unsent:
            super().answered()


class Asker(GatewayClient):
    """A client with one request under way; it sends no heartbeats."""

    round: Any

    def get_timer(self) -> float | None:
        return None

    def _send(self, now: float) -> None:
        super()._send(now)
        self._sent_at = now

    def _answered(self, now: float) -> None:
        self.round.latencies.append(int((now - self._sent_at) * 1e6))
        super()._answered(now)


class Crowd:
    """Clients of one way, logged in.

    Attributes:
        clients: Their handlers.
    """

    def __init__(self, way: str, server: Process, client: str) -> None:
        self._how = WAYS[way][1]
        host, port = server.hello[self._how]
        self._address = (host, port)
        self._driver = Driver()
        self._options: dict[str, Any] = {
            "tls": client_tls(host, insecure=True),
            "backend": client,
            "driver": self._driver,
        }
        self._connections: list[Any] = []
        self.clients: list[Asker] = []

    async def join(self, count: int) -> None:
        """Connect and log in some more."""
        connect = OPEN[self._how]
        for first in range(0, count, CONNECT_BATCH):
            size = min(CONNECT_BATCH, count - first)
            logins = Round(size)

            def make(link: Link, logins: Round = logins) -> Asker:
                client = Asker(link)
                client.round = logins
                self.clients.append(client)
                return client

            self._connections += await asyncio.gather(
                *(connect(*self._address, make, **self._options) for _ in range(size))
            )
            await logins.wait()

    async def ask(self, options: argparse.Namespace, server: Process) -> Figures:
        """Send requests for a while, and return the figures."""
        window = Window(len(self.clients))
        now = time.monotonic()
        sampler = Sampler({"gateway": server.pid})
        for client in self.clients:
            client.round = window
            client.begin(1, now)
        await asyncio.sleep(options.warm_up)
        warm = len(window.latencies)
        first, first_cpu = sampler.sample(), time.process_time()
        await asyncio.sleep(options.seconds)
        measured, last_cpu = window.latencies[warm:], time.process_time()
        usage = Usage.between(first, sampler.sample(), sampler.cores)
        window.unsent = 0
        await window.wait()
        latencies = Histogram()
        latencies.record(Counter(measured))
        return figures_of(usage, latencies, usage.seconds, last_cpu - first_cpu)

    async def leave(self) -> None:
        for connection in self._connections:
            await connection.close()
        self._driver.close()


async def cpu_of(way: str, server: Process, options: argparse.Namespace) -> Figures:
    """Return the figures of a round of requests."""
    crowd = Crowd(way, server, options.client)
    await crowd.join(options.clients)
    figures = await crowd.ask(options, server)
    await crowd.leave()
    return figures


async def memory_of(way: str, server: Process, options: argparse.Namespace) -> Figures:
    """Return the memory of a session that does nothing."""
    crowd = Crowd(way, server, options.client)
    await crowd.join(FIRST_SESSIONS)
    server.ask("stats")
    sampler = Sampler({"gateway": server.pid})
    before = sampler.sample().rss["gateway"]
    await crowd.join(options.clients)
    await asyncio.sleep(SETTLE_S)
    stats = server.ask("stats")
    sessions = stats["session"]["sessions"]
    if sessions != options.clients + FIRST_SESSIONS:
        raise RuntimeError(f"{sessions} sessions")
    grown = sampler.sample().rss["gateway"] - before
    await crowd.leave()
    return {"kb_each": grown / options.clients / 1e3}


def run(what: Any, *args: Any) -> Figures:
    """Run a measurement in a loop of its own."""
    spare_collector()
    figures: Figures = uvloop.run(what(*args))
    gc.collect()
    return figures


def measure_cpu(options: argparse.Namespace) -> dict[str, list[Figures]]:
    """Return the figures of each round, by way."""
    rounds: dict[str, list[Figures]] = {way: [] for way in options.ways}
    with ExitStack() as stack:
        upstream = Process(serve_upstream)
        stack.callback(upstream.stop)
        servers = {}
        for backend in {WAYS[way][0] for way in options.ways}:
            servers[backend] = Process(serve_ways, backend, upstream.hello, options.settings)
            stack.callback(servers[backend].stop)
        for number in range(options.rounds):
            for way in options.ways if number % 2 == 0 else reversed(options.ways):
                rounds[way].append(run(cpu_of, way, servers[WAYS[way][0]], options))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    return rounds


def measure_memory(options: argparse.Namespace) -> dict[str, list[Figures]]:
    """Return the memory of each round, by way; each has a gateway of its own."""
    rounds: dict[str, list[Figures]] = {way: [] for way in options.ways}
    upstream = Process(serve_upstream)
    try:
        for number in range(options.rounds):
            for way in options.ways:
                server = Process(serve_ways, WAYS[way][0], upstream.hello, options.settings)
                try:
                    rounds[way].append(run(memory_of, way, server, options))
                finally:
                    server.stop()
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    finally:
        upstream.stop()
    return rounds


def rows_of(rounds: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Return the medians by way, with the ratio to the yardstick."""
    rows = {
        way: {key: round(statistics.median(one[key] for one in found), 3) for key in found[0]}
        for way, found in rounds.items()
    }
    for way, row in rows.items():
        if YARDSTICK in rounds:
            key = next(iter(row))  # cpu_us or kb_each
            pairs = zip(rounds[way], rounds[YARDSTICK], strict=True)
            row["ratio"] = round(statistics.median(mine[key] / its[key] for mine, its in pairs), 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ways", description=__doc__)
    parser.add_argument("what", choices=("cpu", "memory"))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--client", default="qh3", help="the load's QUIC library")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="measured time of a round")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds not measured")
    parser.add_argument(
        "--way", dest="ways", action="append", choices=WAYS, help="only this one; repeatable"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the gateways",
    )
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    options.ways = options.ways or list(WAYS)
    rows = rows_of((measure_cpu if options.what == "cpu" else measure_memory)(options))
    for way, row in rows.items():
        print(f"{way:22}", "  ".join(f"{key}={value:.2f}" for key, value in row.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
