"""Measures the memory that sessions and slow readers cost the gateway: its process's RSS.

``sessions`` connects and logs in clients, drops them all, waits until their sessions have expired,
and repeats; ``slow`` pushes to clients that stop reading. Run it as::

    python bench/memory.py sessions --transport qh3 --clients 10000 --rounds 5
    python bench/memory.py slow --transport qh3 --clients 20
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

import grpc.aio
import psutil
import uvloop

if __package__ in (None, ""):
    from load import Idle, Process, serve_upstream, tell_stats
else:
    from .load import Idle, Process, serve_upstream, tell_stats

from gatesvr import Gateway
from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.config import load, parse_address
from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.events import Answered, Started
from gatesvr.transport.client import open_connection
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.driver import Driver

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.transport.client import ClientConnection

CONNECT_BATCH = 25
READY_S = 60.0
EXPIRED_S = 120.0
POLL_S = 0.2
PUSH_BATCH = 250
PUSH_BYTES = 4 << 10
MIB = 1 << 20


async def serve_gateway(pipe: Pipe, backend: str, services: dict[str, str]) -> None:
    """Run a gateway whose sessions expire soon; answer ``stats`` until told to stop."""
    services_set = [
        f'upstream.services.{name}=[{{address="{at}"}}]' for name, at in services.items()
    ]
    config = load(
        sets=[
            f"transport.backend={backend}",
            "transport.bind=127.0.0.1:0",
            "transport.max_connections=20000",
            f"transport.handshake_timeout={READY_S:.0f}s",
            f"session.start_timeout={READY_S:.0f}s",
            "push.bind=127.0.0.1:0",
            "session.max_inited_per_address=20000",
            "session.resume_window=2s",
            "session.slow_consumer_timeout=60s",
            *services_set,
        ]
    )
    async with Gateway(config) as gateway:
        pipe.send((parse_address(gateway.address), gateway.grpc_address))
        await tell_stats(pipe, gateway)


class Quiet(Idle):
    """Logs in and then does nothing, not even heartbeats."""

    logged_in: asyncio.Queue[Quiet]
    number = 0

    def connection_made(self, now: float) -> None:
        Quiet.number += 1
        self._protocol = ClientProtocol(ClientSession(f"client-{Quiet.number}"))
        self._protocol.connect(now)
        self._flush()

    def data_received(self, data: bytes, now: float) -> None:
        for event in self._protocol.receive_data(data, now):
            if isinstance(event, Started):
                self._protocol.login(now=now)
            elif isinstance(event, Answered):
                self._protocol.acknowledge(event.seq, now)
                self.logged_in.put_nowait(self)
        if self._protocol.error is not None:
            raise self._protocol.error
        self._flush()

    def _flush(self) -> None:
        if data := self._protocol.data_to_send():
            self.link.write(data)
            self.link.request_flush()


class Deaf(Quiet):
    """Logs in and then reads and acknowledges nothing."""

    def data_received(self, data: bytes, now: float) -> None:
        if not self._protocol.session.is_logged_in:
            super().data_received(data, now)


def rss_bytes(server: Process) -> int:
    return int(psutil.Process(server.pid).memory_info().rss)


async def connect_all(
    address: tuple[str, int], kind: Any, options: argparse.Namespace, driver: Driver
) -> list[ClientConnection]:
    """Connect and log in all clients."""
    kind.logged_in = asyncio.Queue()
    tls = client_tls(address[0], insecure=True)
    connections: list[ClientConnection] = []
    for first in range(0, options.clients, CONNECT_BATCH):
        last = min(first + CONNECT_BATCH, options.clients)
        connections += await asyncio.gather(
            *(
                open_connection(
                    *address,
                    kind,
                    tls=tls,
                    backend=options.client,
                    driver=driver,
                    connect_timeout=READY_S,
                )
                for _ in range(first, last)
            )
        )
        for _ in range(first, last):
            await asyncio.wait_for(kind.logged_in.get(), READY_S)
    return connections


async def until_gone(server: Process) -> None:
    """Wait until no session and no connection is left."""
    async with asyncio.timeout(EXPIRED_S):
        while True:
            stats = server.ask("stats")
            if not stats["session"]["sessions"] and not stats["transport"]["connections"]:
                return
            await asyncio.sleep(POLL_S)


async def run_sessions(server: Process, options: argparse.Namespace) -> None:
    address, _ = server.hello
    driver = Driver()
    print(f"start            rss {rss_bytes(server) / MIB:7.1f} MiB")
    expired = []
    for number in range(1, options.rounds + 1):
        connections = await connect_all(tuple(address), Quiet, options, driver)
        stats = server.ask("stats")
        full = rss_bytes(server)
        sessions = stats["session"]["sessions"] - stats["session"]["inited"]
        if sessions != options.clients:
            raise RuntimeError(f"{sessions} sessions of {options.clients}")
        for connection in connections:
            await connection.close()
        del connections
        await until_gone(server)
        expired.append(rss_bytes(server))
        print(
            f"round {number}: sessions {sessions}  rss {full / MIB:7.1f} MiB with all of them,"
            f" {expired[-1] / MIB:7.1f} MiB without"
        )
    driver.close()
    if len(expired) > 2:
        print(f"growth from round 2 to {len(expired)}: {(expired[-1] - expired[1]) / MIB:+.1f} MiB")


async def run_slow(server: Process, options: argparse.Namespace) -> None:
    address, grpc_address = server.hello
    driver = Driver()
    connections = await connect_all(tuple(address), Deaf, options, driver)
    before = rss_bytes(server)
    refused = 0
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        stub = rpc.GatewayServiceStub(channel)  # type: ignore[no-untyped-call]

        async def batches(openid: str) -> Any:
            push = pb.UnicastPushRequest(
                target_type="openid", target_id=openid, data=bytes(PUSH_BYTES)
            )
            for _ in range(0, options.pushes, PUSH_BATCH):
                yield pb.UnicastPushBatch(requests=[push] * PUSH_BATCH)

        numbers = range(Quiet.number - options.clients, Quiet.number)
        for number in numbers:
            async for batch in stub.PushStream(batches(f"client-{number + 1}")):
                refused += sum(not response.success for response in batch.responses)
    grown = rss_bytes(server) - before
    queued = server.ask("stats")["session"]
    print(
        f"{options.clients} slow readers, {options.pushes} pushes of {PUSH_BYTES} bytes to each:"
        f" rss {grown / MIB:+.1f} MiB, {grown / MIB / options.clients:.2f} MiB each;"
        f" {queued['pushes_taken']} taken, {refused} refused"
    )
    for connection in connections:
        await connection.close()
    await until_gone(server)
    print(f"afterwards       rss {(rss_bytes(server) - before) / MIB:+.1f} MiB")
    driver.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("sessions", "slow"))
    parser.add_argument("--transport", default="qh3", help="the server's QUIC library")
    parser.add_argument("--client", default="qh3", help="the clients' QUIC library")
    parser.add_argument("--clients", type=int, default=1_000, help="concurrent clients")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pushes", type=int, default=10_000, help="to each slow reader")
    options = parser.parse_args()
    upstream = Process(serve_upstream)
    server = Process(serve_gateway, options.transport, upstream.hello)
    try:
        uvloop.run((run_sessions if options.what == "sessions" else run_slow)(server, options))
    finally:
        server.stop()
        upstream.stop()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
