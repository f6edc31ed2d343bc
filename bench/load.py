"""What a request costs the gateway: CPU of its process, beside a bare echo on the same endpoint.

Starts, each in a process of its own, a demo upstream, the gateway (or, as the yardstick, a listener
that only echoes bytes), and a load client without a task a request. Rounds of gateway and
yardstick alternate; the medians are printed. Run it as::

    python bench/load.py --transport qh3 --clients 64 --in-flight 1 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import uvloop

from gatesvr import Gateway
from gatesvr.cli.loop import spare_collector
from gatesvr.config import TransportConfig, load
from gatesvr.demo import services
from gatesvr.protocol.client import Answered, ClientProtocol, Started
from gatesvr.transport.client import open_connection
from gatesvr.transport.endpoint import Driver
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.tls import client_tls

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.protocol.link import Disconnect, Link

CLOCK_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAYLOAD_BYTES = 128
CONNECT_BATCH = 50


class Idle:
    """The part of a ConnectionHandler that no load client and no echo needs."""

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
    """The yardstick: every stream byte goes back."""

    def data_received(self, data: bytes, now: float) -> None:
        self.link.write(data)
        self.link.request_flush()


class Load:
    """All clients of a run: what they send, and how long each request took."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.in_flight = options.in_flight
        self.data = os.urandom(options.payload)
        self.action = "slow" if options.slow_ms else "echo"
        self.params = {"ms": str(options.slow_ms)} if options.slow_ms else None
        self.is_running = False
        self.latencies: list[float] = []
        self.errors = 0
        self.ready: asyncio.Queue[object] = asyncio.Queue()


class EchoClient(Idle):
    """Keeps in_flight messages of payload bytes under way against Echo."""

    load: Load

    def connection_made(self, now: float) -> None:
        self._sent: list[float] = []
        self._received = 0
        self.load.ready.put_nowait(self)

    def begin(self, now: float) -> None:
        for _ in range(self.load.in_flight):
            self._send(now)

    def data_received(self, data: bytes, now: float) -> None:
        load = self.load
        self._received += len(data)
        while self._received >= len(load.data) and self._sent:
            self._received -= len(load.data)
            load.latencies.append(time.perf_counter() - self._sent.pop(0))
            if load.is_running:
                self._send(now)

    def _send(self, now: float) -> None:
        self._sent.append(time.perf_counter())
        self.link.write(self.load.data)
        self.link.request_flush()


class GatewayClient(Idle):
    """Logs in, then keeps in_flight echo requests under way."""

    load: Load
    number = 0

    def connection_made(self, now: float) -> None:
        GatewayClient.number += 1
        self._protocol = ClientProtocol(f"load-{GatewayClient.number}")
        self._protocol.connect(now)
        self._sent: dict[int, float] = {}
        self._flush()

    def begin(self, now: float) -> None:
        for _ in range(self.load.in_flight):
            self._send(now)
        self._flush()

    def data_received(self, data: bytes, now: float) -> None:
        load = self.load
        protocol = self._protocol
        for event in protocol.receive_data(data, now):
            if type(event) is Answered:
                protocol.acknowledge(event.seq, now)
                sent = self._sent.pop(event.client_seq, None)
                if sent is None:
                    load.ready.put_nowait(self)
                    continue
                if event.code != 200 or event.data != load.data:
                    load.errors += 1
                load.latencies.append(time.perf_counter() - sent)
                if load.is_running:
                    self._send(now)
            elif type(event) is Started:
                protocol.login(now=now)
            else:
                load.errors += 1
        if protocol.error is not None:
            raise protocol.error
        self._flush()

    def get_timer(self) -> float | None:
        return self._protocol.get_timer()

    def handle_timer(self, now: float) -> None:
        self._protocol.handle_timer(now)
        self._flush()

    def _send(self, now: float) -> None:
        load = self.load
        seq = self._protocol.send_request(load.action, load.data, load.params, now=now)
        self._sent[seq] = time.perf_counter()

    def _flush(self) -> None:
        data = self._protocol.data_to_send()
        if data:
            self.link.write(data)
            self.link.request_flush()


async def serve_upstream(pipe: Pipe) -> None:
    """Serve the demo's services until the pipe says stop; then send their counters."""
    found = services()
    pipe.send({name: await service.serve() for name, service in found.items()})
    await until_readable(pipe)
    pipe.send({name: service.counters.snapshot() for name, service in found.items()})
    for service in found.values():
        await service.stop()


async def serve_gateway(pipe: Pipe, backend: str, batch_io: bool, services: dict[str, str]) -> None:
    """Run the gateway until the pipe says stop; then send its stats."""
    sets = [f'upstream.services.{name}=[{{address="{at}"}}]' for name, at in services.items()]
    config = load(
        sets=[
            f"transport.backend={backend}",
            f"transport.batch_io={str(batch_io).lower()}",
            "transport.bind=127.0.0.1:0",
            "push.bind=127.0.0.1:0",
            "session.max_inited_per_address=10000",
            *sets,
        ]
    )
    async with Gateway(config) as gateway:
        pipe.send(gateway.address)
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


async def until_readable(pipe: Pipe) -> None:
    """Wait until the parent wrote into the pipe (or is gone)."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(pipe.fileno(), lambda: readable.done() or readable.set_result(None))
    await readable
    loop.remove_reader(pipe.fileno())


class Process:
    """A child that serves, its pipe, and the CPU time that it has used."""

    def __init__(self, serve: Any, *args: Any) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=run_child, args=(serve, theirs, *args), daemon=True)
        self._process.start()
        self.hello = self._receive()

    def cpu_s(self) -> float:
        """Return user and system time, seconds."""
        with open(f"/proc/{self._process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * CLOCK_TICK_S

    def rss_bytes(self) -> int:
        with open(f"/proc/{self._process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def ask(self, word: str) -> Any:
        """Say a word to the child and return what it answers."""
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


async def run_load(
    address: tuple[str, int], kind: Any, server: Process, options: argparse.Namespace
) -> dict[str, float]:
    """Connect all clients, run them for a while, and return what it cost the server."""
    load_ = kind.load = Load(options)
    driver = Driver()
    tls = client_tls(address[0], insecure=True)
    rss_before = server.rss_bytes()
    connections = []
    for first in range(0, options.clients, CONNECT_BATCH):
        connections += await asyncio.gather(
            *(
                open_connection(*address, kind, tls=tls, backend=options.client, driver=driver)
                for _ in range(first, min(first + CONNECT_BATCH, options.clients))
            )
        )
    clients = [await asyncio.wait_for(load_.ready.get(), 20) for _ in connections]
    rss_bytes = server.rss_bytes() - rss_before
    load_.is_running = True
    now = asyncio.get_running_loop().time()
    for client in clients:
        client.begin(now)  # type: ignore[attr-defined]
    await asyncio.sleep(options.warm_up)
    warm_requests = len(load_.latencies)
    load_.latencies.clear()
    own, cpu, began = time.process_time(), server.cpu_s(), time.perf_counter()
    await asyncio.sleep(options.seconds)
    latencies = sorted(load_.latencies)
    seconds = time.perf_counter() - began
    cpu = server.cpu_s() - cpu
    own = time.process_time() - own
    load_.is_running = False
    for connection in connections:
        await connection.close()
    driver.close()
    done = len(latencies)
    if load_.errors or not done:
        raise RuntimeError(f"{load_.errors} errors, {done} requests done")
    return {
        "cpu_us": cpu / done * 1e6,
        "client_us": own / done * 1e6,
        "busy": cpu / seconds,
        "per_s": done / seconds,
        "p50_ms": latencies[done // 2] * 1e3,
        "p99_ms": latencies[done * 99 // 100] * 1e3,
        "kb_each": rss_bytes / options.clients / 1e3,
        "requests": warm_requests + len(load_.latencies),
    }


def measure(what: str, options: argparse.Namespace) -> dict[str, float]:
    """Run the gateway or the yardstick once in fresh processes."""
    upstream = None
    batch_io = options.batch_io == "on"
    if what == "gateway":
        upstream = Process(serve_upstream)
        server = Process(serve_gateway, options.transport, batch_io, upstream.hello)
        kind: Any = GatewayClient
    else:
        server = Process(serve_echo, options.transport, batch_io)
        kind = EchoClient
    figures = uvloop.run(run_load(tuple(server.hello), kind, server, options))
    stats = server.stop()
    transport = stats["transport"]
    if "dispatch" in stats:
        figures["workers"] = stats["dispatch"]["peak_workers"]
    figures["datagrams_in"] = transport["datagrams_received"] / max(1, transport["read_wakeups"])
    figures["datagrams_out"] = transport["datagrams_sent"] / max(1, transport["send_calls"])
    figures["in_segments"] = transport["segments_sent"] / max(1, transport["datagrams_sent"])
    # Of the whole run, handshakes and logins included, over the requests of the whole run.
    done = figures.pop("requests") or 1
    figures["receives"] = transport["receive_calls"] / done
    figures["sends"] = transport["send_calls"] / done
    figures["datagrams_a_request"] = transport["datagrams_sent"] / done
    if upstream is not None:
        counters = upstream.stop()["business" if options.slow_ms else "zone"]
        figures["batch"] = counters["batched_requests"] / max(1, counters["batches"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", default="qh3", help="the server's QUIC library")
    parser.add_argument("--client", default="qh3", help="the load client's QUIC library")
    parser.add_argument("--batch-io", default="on", choices=("on", "off"), help="of the server")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=1, help="requests a client")
    parser.add_argument("--payload", type=int, default=PAYLOAD_BYTES, help="bytes a request")
    parser.add_argument("--slow-ms", type=int, default=0, help="time the upstream takes a request")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, a round")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds not measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--yardstick-clients", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    yardstick = argparse.Namespace(**vars(options))
    yardstick.clients, yardstick.in_flight = options.yardstick_clients, 1
    rounds: dict[str, list[dict[str, float]]] = {"gateway": [], "echo": []}
    for number in range(options.rounds):
        rounds["echo"].append(measure("echo", yardstick))
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
