"""Measures the gateway's speed and size figures, each beside its yardstick in the same run.

Rounds of ours and the yardstick alternate; the printed figures are medians of the rounds' ratios,
with their targets. They are CPU time of the server's process, not wall-clock time, except for the
latency rows. Run it on an otherwise idle machine::

    python -m bench.table --rounds 5 --json table.json
    python -m bench.table --only latency --rounds 3
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qh3.asyncio import QuicConnectionProtocol
from qh3.asyncio import serve as serve_qh3
from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration

from gatesvr.transport.quic.interface import ALPN
from gatesvr.transport.tls import load_server_tls

from .load import Process, load_echo, measure, until_readable

GROWTH = (10, 100, 1_000, 5_000, 10_000)
GROWTH_RATES = {"qh3": 4_000.0, "aioquic": 1_500.0}  # requests a second
PAYLOADS = (64, 1 << 10, 8 << 10, 64 << 10)
IN_FLIGHT = (1, 4, 16, 64)
ASKING: tuple[tuple[str, dict[str, float], int], ...] = (
    # How clients ask, with the clients of the echo beside it, each with one message in flight.
    ("1 x 1", {"clients": 1}, 1),
    ("8 x 1", {"clients": 8}, 8),
    ("64 x 1", {"clients": 64}, 64),
    ("8 x 32", {"clients": 8, "in_flight": 32}, 64),
    ("100 clients, 1,000 a second", {"clients": 100, "rate": 1_000.0}, 100),
    ("1,000 clients, 4,000 a second", {"clients": 1_000, "rate": 4_000.0}, 1_000),
)
Figures = dict[str, float]


class LibraryEcho(QuicConnectionProtocol):
    """The yardstick of the endpoint: an echo in qh3's own asyncio server."""

    def quic_event_received(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data)
            self.transmit()


async def serve_library(pipe: Any) -> None:
    """Run qh3's own server until the pipe says stop."""
    tls = load_server_tls("", "")
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN])
    configuration.load_cert_chain(tls.cert_pem, tls.key_pem)
    server = await serve_qh3(
        "127.0.0.1", 0, configuration=configuration, create_protocol=LibraryEcho
    )
    pipe.send(server._transport.get_extra_info("sockname")[:2])
    await until_readable(pipe)
    server.close()
    pipe.send("stopped")


def options(arguments: argparse.Namespace, **changed: Any) -> argparse.Namespace:
    """Return the options of one measurement, as for bench/load.py."""
    values = {
        "transport": "qh3",
        "client": "qh3",
        "batch_io": "on",
        "clients": 64,
        "in_flight": 1,
        "rate": 0.0,
        "payload": 128,
        "slow_ms": 0,
        "upstream": "stream",
        "settings": (),
        "seconds": arguments.seconds,
        "warm_up": 1.0,
        "yardstick_clients": 64,
    }
    return argparse.Namespace(**{**values, **changed})


def library(arguments: argparse.Namespace) -> Figures:
    """Measure the echo in qh3's own server."""
    server = Process(serve_library)
    try:
        return asyncio.run(load_echo(server, options(arguments)))
    finally:
        server.stop()


def bench(*words: str) -> dict[str, Any]:
    """Run ``gatesvr bench --self`` and return its report."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [sys.executable, "-m", "gatesvr", "bench", *words, "--self", "--quiet"]
        subprocess.run([*command, "--json", str(file)], check=True)
        report: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return report


def medians(rounds: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}


class Table:
    """Measures rows and prints each when it is done.

    Args:
        arguments: The command's arguments.

    Attributes:
        rows: The measurements by row.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self._arguments = arguments

    def ratio(
        self,
        name: str,
        reach: float,
        ours: Callable[[], Figures],
        yardstick: Callable[[], Figures],
        figure: str = "cpu_us",
    ) -> None:
        """Measure ours and a yardstick in turn; a smaller ratio is better."""
        pairs = [(yardstick(), ours()) for _ in range(self._arguments.rounds)]
        ratios = [mine[figure] / other[figure] for other, mine in pairs]
        row = {
            "ratio": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
            "reach": reach,
            "ours": medians([mine for _, mine in pairs]),
            "yardstick": medians([other for other, _ in pairs]),
        }
        self._add(name, row, row["ratio"] <= reach)

    def figure(self, name: str, reach: float, unit: str, figures: list[float]) -> None:
        """Add a figure without a yardstick; reach above 0 is a minimum, below 0 a maximum."""
        value = round(statistics.median(figures), 2)
        is_met = value >= reach if reach > 0 else value <= -reach
        self._add(name, {"value": value, "unit": unit, "reach": abs(reach)}, is_met)

    def beside(self, name: str, rounds: dict[str, list[Figures]], yardstick: str) -> None:
        """Add measurements by name, each with the ratio of its CPU time to the yardstick's."""
        row: dict[str, Any] = {what: dict(medians(found)) for what, found in rounds.items()}
        for what, found in rounds.items():
            if what != yardstick:
                pairs = zip(found, rounds[yardstick], strict=True)
                ratios = [mine["cpu_us"] / other["cpu_us"] for mine, other in pairs]
                row[what]["ratio"] = round(statistics.median(ratios), 2)
        self._add(name, row, None)

    def series(self, name: str, figures: dict[int, Figures]) -> None:
        """Add a growth series."""
        self._add(name, {str(key): value for key, value in figures.items()}, None)

    def _add(self, name: str, row: dict[str, Any], is_met: bool | None) -> None:
        if is_met is not None:
            row["met"] = is_met
        self.rows[name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        file = self._arguments.json
        if file is not None:  # by now: a run that is interrupted keeps what it has
            file.write_text(json.dumps(self.rows, indent=2) + "\n", "utf-8")


def measure_speed(table: Table, arguments: argparse.Namespace) -> None:
    """Measure CPU a request against the bare echo, and the echo against qh3's own server."""

    def echo(backend: str) -> Callable[[], Figures]:
        return lambda: measure("echo", options(arguments, transport=backend))

    def gateway(**changed: Any) -> Callable[[], Figures]:
        return lambda: measure("gateway", options(arguments, **changed))

    table.ratio("qh3 64 x 1 / echo", 3.5, gateway(), echo("qh3"))
    table.ratio("qh3 8 x 32 / echo", 0.8, gateway(clients=8, in_flight=32), echo("qh3"))
    table.ratio("aioquic 64 x 1 / echo", 1.4, gateway(transport="aioquic"), echo("aioquic"))
    table.ratio("echo / qh3's server", 0.6, echo("qh3"), lambda: library(arguments))


def measure_requests(table: Table, arguments: argparse.Namespace) -> None:
    """Measure a request by how clients ask, of services with and without ProcessStream."""
    keys = ("cpu_us", "per_s", "p50_ms", "p99_ms", "busy")
    for name, how, echoing in ASKING:
        rounds: dict[str, list[Figures]] = {"echo": [], "stream": [], "unary": []}
        for _ in range(arguments.rounds):
            for what, found in rounds.items():
                kind = "echo" if what == "echo" else "gateway"
                upstream = "stream" if what == "echo" else what
                chosen = options(arguments, upstream=upstream, yardstick_clients=echoing, **how)
                figures = measure(kind, chosen)
                found.append({key: figures[key] for key in keys})
        table.beside(name, rounds, "echo")


def measure_latency(table: Table, arguments: argparse.Namespace) -> None:
    """Measure p99 / p50 at half of the saturating load, against the bare echo at the same rate.

    The saturating rate is that of 64 clients that send again as soon as they are answered. It is
    the whole machine's limit: on two cores, gateway, upstream and load process compete. The bare
    echo could go faster, but that would measure nothing: at half of its own rate on qh3 the load
    process is saturated, and its lateness is all that shows.
    """

    def tail(what: str, backend: str, rate: float) -> Figures:
        found = measure(what, options(arguments, transport=backend, rate=rate))
        keys = ("per_s", "p50_ms", "p99_ms", "max_lag_ms", "busy", "client_busy")
        return {"tail": found["p99_ms"] / found["p50_ms"], **{key: found[key] for key in keys}}

    for backend in ("qh3", "aioquic"):
        closed = [
            measure("gateway", options(arguments, transport=backend))["per_s"]
            for _ in range(arguments.rounds)
        ]
        rate = round(statistics.median(closed) / 2)
        table.ratio(
            f"{backend} p99 / p50 at half load / echo",
            2.0,
            partial(tail, "gateway", backend, rate),
            partial(tail, "echo", backend, rate),
            "tail",
        )


def measure_sizes(table: Table, arguments: argparse.Namespace) -> None:
    """Measure an idle session's memory, and the deliveries of a broadcast."""
    words = ["--clients", str(arguments.sessions), "--duration", f"{2 * arguments.seconds}s"]
    for backend, most in (("qh3", 60.0), ("aioquic", 110.0)):
        idle = [bench("idle", *words, "--transport", backend) for _ in range(arguments.rounds)]
        sizes = [report["session_bytes"] / 1e3 for report in idle]
        table.figure(f"{backend} idle session", -most, "KB", sizes)
    words += ["--transport", "qh3", "--rate", "30"]
    reports = [bench("broadcast", *words) for _ in range(arguments.rounds)]
    costs = [report["cpu"]["gateway"]["us_per_operation"] for report in reports]
    rates = [1e6 / cost for cost in costs]
    table.figure("broadcast", 40_000, "deliveries a second and core", rates)


def measure_growth(table: Table, arguments: argparse.Namespace) -> None:
    """Measure a request's cost by connections, by payload and by requests in flight."""

    def one(**changed: Any) -> Figures:
        found = measure("gateway", options(arguments, **changed))
        keys = ("cpu_us", "per_s", "p50_ms", "p99_ms")
        return {key: round(found[key], 3) for key in keys}

    for backend, rate in GROWTH_RATES.items():
        # At one rate for all connections together: if each sent as fast as it could, more
        # connections would mean more load.
        table.series(
            f"{backend} by connections",
            {count: one(transport=backend, clients=count, rate=rate) for count in GROWTH},
        )
    table.series("qh3 by payload", {size: one(payload=size) for size in PAYLOADS})
    table.series(
        "qh3 by in flight", {count: one(clients=8, in_flight=count) for count in IN_FLIGHT}
    )


PARTS = {
    "speed": measure_speed,
    "requests": measure_requests,
    "latency": measure_latency,
    "sizes": measure_sizes,
    "growth": measure_growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a round")
    parser.add_argument("--sessions", type=int, default=1_000, help="idle, and of a broadcast")
    parser.add_argument("--only", choices=PARTS, help="measure only this part of the table")
    parser.add_argument("--json", type=Path, help="file for the measurements")
    arguments = parser.parse_args()
    table = Table(arguments)
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            part(table, arguments)


if __name__ == "__main__":
    main()
