"""Measures a request's cost: the gateway's CPU, beside a bare echo on the same endpoint.

Starts a demo upstream and the gateway under the load of ``gatesvr bench echo``, or, as the
yardstick, a listener that only echoes bytes; each in its own process. Rounds of gateway and
yardstick alternate, and the medians are printed. With a rate the load is open: a latency counts
from the message's intended send time. Run it as::

    python -m bench.load --transport qh3 --clients 64 --in-flight 1 --rounds 5
    python -m bench.load --transport qh3 --clients 64 --rate 4000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter, deque
from itertools import cycle
from typing import TYPE_CHECKING, Any

import uvloop

from gatesvr import Gateway
from gatesvr.bench.meter import Histogram
from gatesvr.bench.process import Sampler, Usage
from gatesvr.bench.run import Crew
from gatesvr.bench.scenario import Plan
from gatesvr.bench.schedule import Alarm, Schedule
from gatesvr.cli.loop import spare_collector
from gatesvr.config import TransportConfig, load, parse_address
from gatesvr.demo import services
from gatesvr.transport.addresses import Place
from gatesvr.transport.client import open_connection
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.protocol.link import Disconnect, Link

PAYLOAD_BYTES = 128
CONNECT_BATCH = 50


class Idle:
    """The methods of a ConnectionHandler that no echo needs."""

    def __init__(self, link: Link) -> None:
        self.link = link

    def connection_made(self, now: float) -> None: ...

    async def work(self) -> None: ...

    def write_ready(self, now: float) -> None: ...

    def get_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None: ...

    def stream_ended(self, now: float) -> None: ...

    def path_limit_near(self, now: float) -> None: ...

    def connection_lost(self, how: Disconnect, now: float) -> None: ...


class Echo(Idle):
    """The yardstick: returns every stream byte."""

    def data_received(self, data: bytes, now: float) -> None:
        self.link.write(data)
        self.link.request_flush()


class EchoClient(Idle):
    """Sends the next message to Echo after each answer; in the open model, when it is due."""

    latencies: list[int]  # of all clients, µs
    data: bytes
    is_running: bool
    schedule: Schedule | None

    def connection_made(self, now: float) -> None:
        self._meant_at: deque[float] = deque()  # intended send times of the open messages
        self._received = 0

    def send(self, meant_at: float) -> None:
        self._meant_at.append(meant_at)
        self.link.write(self.data)
        self.link.request_flush()

    def data_received(self, data: bytes, now: float) -> None:
        self._received += len(data)
        while self._received >= len(self.data):
            self._received -= len(self.data)
            self.latencies.append(int((now - self._meant_at.popleft()) * 1e6))
            if self.is_running:
                meant_at = now if self.schedule is None else self.schedule.take(now)
                if meant_at is not None:
                    self.send(meant_at)


async def serve_upstream(pipe: Pipe, kind: str = "stream") -> None:
    """Serve the demo's services until the pipe says stop; then send their counters.

    Args:
        pipe: To the parent.
        kind: ``stream``, or ``unary`` for a cheap service without ProcessStream.
    """
    if kind == "unary":
        from bench.plain import serve_plain  # it needs this module

        await serve_plain(pipe)
        return
    found = services()
    pipe.send({name: await service.serve() for name, service in found.items()})
    await until_readable(pipe)
    pipe.send({name: service.counters.snapshot() for name, service in found.items()})
    for service in found.values():
        await service.stop()


async def serve_gateway(
    pipe: Pipe,
    backend: str,
    batch_io: bool,
    services: dict[str, str],
    settings: Sequence[str] = (),
) -> None:
    """Run the gateway until the pipe says stop; then send its stats.

    Args:
        pipe: To the parent.
        backend: Its QUIC library.
        batch_io: Whether it reads and writes many datagrams a system call.
        services: The services' addresses by name.
        settings: Further settings, ``section.key=value``.
    """
    sets = [f'upstream.services.{name}=[{{address="{at}"}}]' for name, at in services.items()]
    config = load(
        sets=[
            f"transport.backend={backend}",
            f"transport.batch_io={str(batch_io).lower()}",
            "transport.bind=127.0.0.1:0",
            "push.bind=127.0.0.1:0",
            "session.max_inited_per_address=10000",
            *sets,
            *settings,
        ]
    )
    async with Gateway(config) as gateway:
        at: Any = gateway.address  # a tuple in older revisions, which bench.compare runs
        pipe.send(parse_address(at) if isinstance(at, str) else at)
        await until_readable(pipe)
        pipe.send(gateway.stats())


async def serve_echo(pipe: Pipe, backend: str, batch_io: bool) -> None:
    """Run the yardstick until the pipe says stop; then send its counters."""
    config = TransportConfig(
        bind="127.0.0.1:0",
        backend=backend,  # type: ignore[arg-type]
        batch_io=batch_io,
    )
    listener = ConnectionListener(config, Echo)
    await listener.start()
    pipe.send(listener.address)
    await until_readable(pipe)
    pipe.send({"transport": listener.counters.snapshot()})
    await listener.stop()


async def tell_stats(pipe: Pipe, gateway: Gateway) -> None:
    """Answer each ``stats`` with the gateway's, and with no garbage left, until told to stop."""
    while True:
        await until_readable(pipe)
        if pipe.recv() != "stats":
            pipe.send("stopped")
            return
        gc.collect()
        pipe.send(gateway.stats())


async def until_readable(pipe: Pipe) -> None:
    """Wait until the parent writes into the pipe (or is gone)."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(pipe.fileno(), lambda: readable.done() or readable.set_result(None))
    await readable
    loop.remove_reader(pipe.fileno())


class Process:
    """A child that serves, and its pipe."""

    def __init__(self, serve: Any, *args: Any) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=run_child, args=(serve, theirs, *args), daemon=True)
        self._process.start()
        self.hello = self._receive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, word: str) -> Any:
        """Send a word to the child and return its answer."""
        self._pipe.send(word)
        return self._receive()

    def stop(self) -> Any:
        last = self.ask("stop")
        self._process.join(10)
        return last

    def _receive(self) -> Any:
        if not self._pipe.poll(20):
            raise TimeoutError(f"{self._process.name} said nothing")
        return self._pipe.recv()


def run_child(serve: Any, pipe: Pipe, *args: Any) -> None:
    spare_collector()  # as `gatesvr serve` does
    uvloop.run(serve(pipe, *args))


def figures_of(
    usage: Usage, latencies: Histogram, seconds: float, client_s: float
) -> dict[str, float]:
    """Return the figures that both sides of the comparison report."""
    done = latencies.count
    if not done:
        raise RuntimeError("nothing was done")
    summary = latencies.summary()
    return {
        "cpu_us": usage.cpu["gateway"] / done * 1e6,
        "client_us": client_s / done * 1e6,
        "busy": usage.share("gateway"),
        "client_busy": client_s / usage.seconds,
        "per_s": done / seconds,
        "p50_ms": summary["p50"] / 1e3,
        "p99_ms": summary["p99"] / 1e3,
    }


def load_gateway(server: Process, options: argparse.Namespace) -> dict[str, float]:
    """Put the load of ``gatesvr bench echo`` on the gateway."""
    plan = Plan(
        scenario="echo",
        clients=options.clients,
        in_flight=options.in_flight,
        rate=options.rate,
        duration=options.seconds,
        warmup=options.warm_up,
        payload=options.payload,
        backend=options.client,
        server=Place(*server.hello),
        insecure=True,
        upstream_delay_ms=options.slow_ms,
        run=int.from_bytes(os.urandom(4), "big"),
    )
    with Crew(1) as crew:
        result = crew.run(plan, {"gateway": server.pid}, lambda phase, part: None)
    if result.found or result.failures:
        raise RuntimeError(f"{result.found} broken promises, failures: {dict(result.failures)}")
    figures = figures_of(
        result.usage, result.meter.total, result.seconds, result.usage.cpu["load 0"]
    )
    return {**figures, "kb_each": (result.session_bytes or 0) / 1e3, **result.figures}


def begin_echo(clients: list[EchoClient], schedule: Schedule | None) -> Alarm | None:
    """Start all clients; in the open model, send what is due from one after another."""
    EchoClient.schedule = schedule
    EchoClient.is_running = True
    if schedule is None:
        for client in clients:
            client.send(time.monotonic())
        return None
    ring = cycle(clients)

    def send_due(now: float) -> None:
        while (meant_at := schedule.take(now)) is not None:
            next(ring).send(meant_at)
        alarm.set(schedule.next_at)

    alarm = Alarm(send_due)
    alarm.set(schedule.next_at)
    return alarm


async def load_echo(server: Process, options: argparse.Namespace) -> dict[str, float]:
    """Load the yardstick with 64 clients (or the given number): one in flight each, or a rate."""
    spare_collector()  # as the load processes of `gatesvr bench` do
    host, port = server.hello
    driver = Driver()
    told = EchoClient.latencies = []
    EchoClient.data = os.urandom(options.payload)
    tls = client_tls(host, insecure=True)
    clients: list[EchoClient] = []

    def make(link: Link) -> EchoClient:
        clients.append(EchoClient(link))
        return clients[-1]

    sampler = Sampler({"gateway": server.pid, "load 0": os.getpid()})
    before = sampler.sample()
    connections = []
    count = options.yardstick_clients
    for first in range(0, count, CONNECT_BATCH):
        connections += await asyncio.gather(
            *(
                open_connection(host, port, make, tls=tls, backend=options.client, driver=driver)
                for _ in range(first, min(first + CONNECT_BATCH, count))
            )
        )
    connected = sampler.sample()
    schedule = Schedule(options.rate, time.monotonic()) if options.rate else None
    alarm = begin_echo(clients, schedule)
    await asyncio.sleep(options.warm_up)
    warm_requests = len(told)
    if schedule is not None:
        schedule.max_lag = 0.0
    first_sample = sampler.sample()  # takes some ms, and delays what is due then: see max_lag
    await asyncio.sleep(options.seconds)
    measured, last_sample = told[warm_requests:], sampler.sample()
    EchoClient.is_running = False
    if alarm is not None:
        alarm.close()
    for connection in connections:
        await connection.close()
    driver.close()
    latencies = Histogram()
    latencies.record(Counter(measured))
    usage = Usage.between(first_sample, last_sample, sampler.cores)
    client_s = usage.cpu["load 0"] - usage.cpu["gateway"]  # the server is a child of this process
    figures = figures_of(usage, latencies, usage.seconds, client_s)
    if schedule is not None:
        figures["max_lag_ms"] = schedule.max_lag * 1e3
    rss = connected.rss["gateway"] - before.rss["gateway"]
    return {
        **figures,
        "kb_each": rss / count / 1e3,
        "requests": len(told),
    }


def measure(what: str, options: argparse.Namespace) -> dict[str, float]:
    """Run the gateway or the yardstick once in fresh processes."""
    upstream = None
    batch_io = options.batch_io == "on"
    if what == "gateway":
        upstream = Process(serve_upstream, options.upstream)
        server = Process(
            serve_gateway, options.transport, batch_io, upstream.hello, options.settings
        )
        figures = load_gateway(server, options)
    else:
        server = Process(serve_echo, options.transport, batch_io)
        figures = uvloop.run(load_echo(server, options))
    stats = server.stop()
    transport = stats["transport"]
    if "dispatch" in stats:
        figures["workers"] = stats["dispatch"]["peak_workers"]
        figures["requests"] = stats["dispatch"]["answers"]
    figures["datagrams_in"] = transport["datagrams_received"] / max(1, transport["read_wakeups"])
    figures["datagrams_out"] = transport["datagrams_sent"] / max(1, transport["send_calls"])
    figures["in_segments"] = transport["segments_sent"] / max(1, transport["datagrams_sent"])
    # Over the whole run, handshakes and logins included.
    done = figures.pop("requests") or 1
    figures["receives"] = transport["receive_calls"] / done
    figures["sends"] = transport["send_calls"] / done
    figures["datagrams_a_request"] = transport["datagrams_sent"] / done
    if upstream is not None:
        services = upstream.stop().values()
        requests = sum(counters["batched_requests"] for counters in services)
        figures["batch"] = requests / (sum(counters["batches"] for counters in services) or 1)
    return figures


def add_gateway_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what stands behind the gateway, and how it is set."""
    parser.add_argument("--upstream", default="stream", choices=("stream", "unary"))
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the gateway",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", default="qh3", help="the server's QUIC library")
    parser.add_argument("--client", default="qh3", help="the load client's QUIC library")
    parser.add_argument("--batch-io", default="on", choices=("on", "off"), help="of the server")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=1, help="requests a client")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, 0: closed")
    parser.add_argument("--payload", type=int, default=PAYLOAD_BYTES, help="bytes a request")
    parser.add_argument("--slow-ms", type=int, default=0, help="upstream's time for a request")
    add_gateway_options(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of a round")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds not measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--yardstick-clients", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {"gateway": [], "echo": []}
    for number in range(options.rounds):
        rounds["echo"].append(measure("echo", options))
        rounds["gateway"].append(measure("gateway", options))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    result = {
        what: {key: statistics.median(f[key] for f in figures) for key in figures[0]}
        for what, figures in rounds.items()
    }
    result["ratio"] = {
        "cpu": statistics.median(
            g["cpu_us"] / e["cpu_us"]
            for g, e in zip(rounds["gateway"], rounds["echo"], strict=True)
        )
    }
    if options.json:
        print(json.dumps(result))
        return
    for what, figures in result.items():
        print(f"{what:8}", "  ".join(f"{key}={value:.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
