"""Echo requests through the whole gateway, beside a bare echo on the same endpoint.

The benchmark measures CPU time (user and system) of the serving process, not elapsed time:
pytest-benchmark reads that process's clock. The upstream runs in a process of its own, the clients
in this one. One measured call is a round of requests, begun and answered inside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.clients import Client, Clients, EchoClient, GatewayClient
from bench.figures import END_TO_END
from bench.load import Process, serve_echo, serve_gateway, serve_upstream
from bench.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 10
ROUND_REQUESTS = 512
UNMEASURED_CLIENTS = 4
UNMEASURED_REQUESTS = 256

# Clients, requests in flight each, and the target cost in bare echoes at 64 x 1 (DESIGN 4).
CASES = [
    ("qh3", "yardstick", 64, 1, 0),
    ("qh3", "gatesvr", 64, 1, 3.5),
    ("qh3", "gatesvr", 8, 32, 0.8),
    ("aioquic", "yardstick", 64, 1, 0),
    ("aioquic", "gatesvr", 64, 1, 1.4),
]


class Server(Process):
    """A process whose CPU clock is read to the nanosecond."""

    def __init__(self, serve: Any, *args: Any) -> None:
        super().__init__(serve, *args)
        clock = ctypes.c_int()
        error = ctypes.CDLL(None).clock_getcpuclockid(self._process.pid, ctypes.byref(clock))
        if error:
            raise OSError(error, os.strerror(error))
        self.clock = clock.value


class ServerClock:
    """The timer of a benchmark: CPU seconds of the serving process."""

    def __init__(self) -> None:
        self.server: Server | None = None

    def read(self) -> float:
        assert self.server is not None
        return time.clock_gettime(self.server.clock)


CLOCK = ServerClock()
TURNS = Turns()


class Servers:
    """The processes that this module's benchmarks need, each started at first use."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._upstream: Process | None = None
        self._servers: dict[tuple[str, str], Server] = {}

    def get(self, role: str, backend: str) -> Server:
        """Return the gateway, or the bare echo for the yardstick."""
        if (role, backend) not in self._servers:
            if role == "yardstick":
                server = Server(serve_echo, backend, True)
            else:
                server = Server(serve_gateway, backend, True, self._services())
            self._stack.callback(server.stop)
            self._servers[role, backend] = server
        return self._servers[role, backend]

    def _services(self) -> dict[str, str]:
        if self._upstream is None:
            self._upstream = Process(serve_upstream)
            self._stack.callback(self._upstream.stop)
        services: dict[str, str] = self._upstream.hello
        return services


def run_round(load: Clients, requests: int) -> None:
    """Run a round at this process's turn; a server uses no CPU while its clients wait."""
    with TURNS:
        load.run_round(requests)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield Servers(stack)


@pytest.mark.parametrize(("backend", "role", "clients", "in_flight", "max_cost"), CASES)
@pytest.mark.benchmark(timer=CLOCK.read)
def test_echo(
    benchmark: BenchmarkFixture,
    servers: Servers,
    backend: str,
    role: str,
    clients: int,
    in_flight: int,
    max_cost: float,
) -> None:
    """Measure rounds of echo requests on the gateway or on the bare echo."""
    requests = ROUND_REQUESTS
    if benchmark.disabled:
        clients, requests = min(clients, UNMEASURED_CLIENTS), UNMEASURED_REQUESTS
    benchmark.group = f"{END_TO_END}: {backend}, {clients} x {in_flight}"
    yardstick = f"{END_TO_END}: {backend}, 64 x 1"
    benchmark.extra_info.update(role=role, per=requests, max_cost=max_cost, yardstick=yardstick)
    kind: type[Client] = EchoClient if role == "yardstick" else GatewayClient
    CLOCK.server = servers.get(role, backend)
    load = Clients(kind, clients, in_flight)
    try:
        load.connect(tuple(CLOCK.server.hello))
        benchmark.pedantic(run_round, (load, requests), rounds=ROUNDS, warmup_rounds=1)
    finally:
        load.close()
