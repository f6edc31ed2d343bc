"""Measures how sessions fare beside a greedy one, and services beside one that hangs.

100 sessions ask once a second each, and their latencies are taken in rounds without and with a
neighbour, in turn: ``flood`` is one session with 128 requests in flight and 20,000 a second,
``hang`` ten sessions with 120 requests each to a service that does not answer. ``burn`` asks
nothing: it takes as much of the processors as the client and the upstream of a flood do.

The gateway has a core to itself, and the neighbour runs behind all that is measured (placement.py):
what its requests do to the latencies of others is the gateway's doing. Run it as root on a machine
that is otherwise idle, or the processes share their cores, and the scheduler is measured, too::

    python -m bench.fairness --transport qh3 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

from gatesvr import Gateway
from gatesvr.bench.run import Crew
from gatesvr.bench.scenario import Plan
from gatesvr.bench.schedule import Alarm, Schedule
from gatesvr.config import load, parse_address
from gatesvr.transport.addresses import Place
from gatesvr.transport.client import open_connection
from gatesvr.transport.tls import client_tls
from gatesvr.transport.udp.driver import Driver

from .clients import BACKEND, GatewayClient, Round
from .load import PAYLOAD_BYTES, Process, serve_upstream, until_readable
from .placement import Placement, Role

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.protocol.link import Link

WARM_UP_S = 1.0
START_S = 10.0
"""For the processes of a round to start; by then a request to the hanging service is still open."""
IN_FLIGHT = 128
HANGING = 10
HANGING_IN_FLIGHT = 120
LIMITS = {"flood": 2.0, "hang": 1.5}
"""Of the p99 with a neighbour ÷ without."""
LAG_TICK_S = 0.005
ROUTES = ", ".join(
    f'{{action="{action}", service="{service}"}}'
    for action, service in {"hello": "hello", "slow": "business", "*": "zone"}.items()
)
"""``slow`` and ``echo`` go to different services."""


class Endless(Round):
    """Never done; a neighbour may fail, as those whose service hangs do in the end."""

    def __init__(self) -> None:
        super().__init__(1 << 60)

    def failed(self, error: Exception) -> None: ...


class Greedy(GatewayClient):
    """Keeps IN_FLIGHT requests in flight until it is closed, or as many as its rate allows."""

    _in_flight = 0
    _schedule: Schedule | None = None

    def go(self, rate: float, now: float) -> None:
        """Begin.

        Args:
            rate: Requests a second, 0 for as many as it can.
            now: Loop time.
        """
        if rate:
            schedule = self._schedule = Schedule(rate, now)

            def ring(now: float) -> None:
                self._send_due(now)
                alarm.set(schedule.next_at)

            alarm = Alarm(ring)
            alarm.set(now)
        self._send_due(now)

    def _answered(self, now: float) -> None:
        self._in_flight -= 1
        if self._schedule is None:
            self._send_due(now)

    def _send_due(self, now: float) -> None:
        while self._in_flight < IN_FLIGHT and (
            self._schedule is None or self._schedule.take(now) is not None
        ):
            self._in_flight += 1
            self._send(now)
        self._flush()


class Hanging(GatewayClient):
    """Asks for what takes longer than the run."""

    def _send(self, now: float) -> None:
        self.round.unsent -= 1
        self._protocol.send_request("slow", b"", {"ms": "60000"}, now=now)


async def serve_gateway(
    pipe: Pipe, backend: str, services: dict[str, str], task_timeout: float
) -> None:
    """Run the gateway; answer each word with its state, and the loop's delays since the last."""
    sets = [f'upstream.services.{name}=[{{address="{at}"}}]' for name, at in services.items()]
    config = load(
        sets=[
            f"transport.backend={backend}",
            "transport.bind=127.0.0.1:0",
            "push.bind=127.0.0.1:0",
            f"route=[{ROUTES}]",
            f"dispatch.task_timeout={task_timeout}",
            *sets,
        ]
    )
    delays: list[float] = []

    async def watch() -> None:
        while True:
            began, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(LAG_TICK_S)
            late = time.monotonic() - began - LAG_TICK_S
            delays.append(min(late, time.thread_time() - cpu) * 1e3)

    async with Gateway(config) as gateway:
        watcher = asyncio.create_task(watch())
        pipe.send(parse_address(gateway.address))
        while True:
            await until_readable(pipe)
            word = pipe.recv()
            found = sorted(delays) or [0.0]
            delays.clear()
            stats = gateway.stats()
            pipe.send(
                {
                    "loop_p50_ms": found[len(found) // 2],
                    "loop_p99_ms": found[int(len(found) * 0.99)],
                    "answers": stats["dispatch"]["answers"],
                    "running": stats["dispatch"]["running"],
                    "rises": stats["overload"]["rises"],
                }
            )
            if word == "stop":
                break
        watcher.cancel()


async def serve_burn(pipe: Pipe) -> None:
    """Compute until the pipe says stop."""
    pipe.send("up")
    while not pipe.poll():
        sum(range(10_000))
    pipe.send(pipe.recv())


async def serve_neighbour(pipe: Pipe, kind: str, address: tuple[str, int], rate: float) -> None:
    """Be the greedy session, or those of the hanging service, until the pipe says stop.

    Args:
        pipe: To the parent.
        kind: ``flood`` or ``hang``.
        address: The gateway's.
        rate: Requests a second of the greedy session, 0 for as many as it can.
    """
    driver = Driver()
    count = 1 if kind == "flood" else HANGING
    logins, endless = Round(count), Endless()
    clients: list[GatewayClient] = []

    def make(link: Link) -> GatewayClient:
        client = (Greedy if kind == "flood" else Hanging)(link)
        client.round = logins
        clients.append(client)
        return client

    tls = client_tls(address[0], insecure=True)
    connections = [
        await open_connection(*address, make, tls=tls, backend=BACKEND, driver=driver)
        for _ in range(count)
    ]
    await logins.wait()
    now = time.monotonic()
    for client in clients:
        client.round = endless
        if isinstance(client, Greedy):
            client.go(rate, now)
        else:
            client.begin(HANGING_IN_FLIGHT, now)
    pipe.send("up")
    await until_readable(pipe)
    pipe.recv()
    for connection in connections:
        await connection.close()
    driver.close()
    pipe.send("down")


def measure(
    gateway: Process,
    others: dict[str, int],
    placement: Placement,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Return the latencies of sessions that ask once a second each, and what was full.

    Args:
        gateway: The gateway.
        others: Further processes by name, whose CPU is told.
        placement: Of the measured clients.
        options: Of the command.
    """
    plan = Plan(
        scenario="echo",
        clients=options.sessions,
        in_flight=1,
        rate=float(options.sessions),
        duration=options.seconds,
        warmup=WARM_UP_S,
        payload=PAYLOAD_BYTES,
        backend=BACKEND,
        server=Place(*gateway.hello),
        insecure=True,
        upstream_delay_ms=0,
        run=int.from_bytes(os.urandom(4), "big"),
    )
    states: dict[str, tuple[float, dict[str, Any]]] = {}

    def progress(phase: str, part: float) -> None:
        if phase in ("warming up", "draining"):  # the last of one and the first of the other
            states[phase] = time.monotonic(), gateway.ask(phase)

    with placement.starting(Role.MEASURED):
        crew = Crew(1)
    with crew:
        result = crew.run(plan, {"gateway": gateway.pid, **others}, progress)
    if result.found or result.failures:
        raise RuntimeError(f"{result.found} broken promises, failures: {dict(result.failures)}")
    began, first = states["warming up"]
    ended, state = states["draining"]
    answers = state["answers"] - first["answers"]
    summary = result.meter.total.summary()
    return {
        **state,
        "answers": answers,
        "p50_ms": summary["p50"] / 1e3,
        "p99_ms": summary["p99"] / 1e3,
        "answers_per_s": answers / (ended - began),
        **{f"{name}_cpu": result.usage.share(name) for name in result.usage.cpu},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", default="qh3", help="the gateway's QUIC library")
    parser.add_argument("--neighbour", default="burn,flood,hang", help="those to try")
    parser.add_argument("--sessions", type=int, default=100, help="one request a second each")
    parser.add_argument(
        "--rate", type=float, default=20_000.0, help="the greedy session's, 0: as many as it can"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--together",
        action="store_true",
        help="leave all processes to the scheduler, instead of a core for the gateway alone",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    placement = Placement(is_wanted=not options.together)
    with placement.starting(Role.SERVICE):
        upstream = Process(serve_upstream)
    task_timeout = START_S + WARM_UP_S + options.seconds
    with placement.starting(Role.GATEWAY):
        gateway = Process(serve_gateway, options.transport, upstream.hello, task_timeout)
    others = {"upstream": upstream.pid}
    results: dict[str, dict[str, Any]] = {}
    for kind in options.neighbour.split(","):
        rounds: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
        for _ in range(options.rounds):
            rounds["without"].append(measure(gateway, others, placement, options))
            with placement.starting(Role.NEIGHBOUR):
                if kind == "burn":
                    neighbours = [Process(serve_burn) for _ in range(2)]
                else:
                    neighbours = [Process(serve_neighbour, kind, gateway.hello, options.rate)]
            pids = {f"neighbour {i}": process.pid for i, process in enumerate(neighbours)}
            rounds["with"].append(measure(gateway, others | pids, placement, options))
            for neighbour in neighbours:
                neighbour.stop()
            while gateway.ask("read")["running"]:
                time.sleep(0.1)
        results[kind] = {
            what: {key: statistics.median(f[key] for f in figures) for key in figures[0]}
            for what, figures in rounds.items()
        }
        results[kind]["p99s_ms"] = {
            what: [round(f["p99_ms"], 2) for f in figures] for what, figures in rounds.items()
        }
        results[kind]["ratios"] = [
            round(b["p99_ms"] / a["p99_ms"], 2)
            for a, b in zip(rounds["without"], rounds["with"], strict=True)
        ]
    gateway.stop()
    upstream.stop()
    if options.json:
        print(json.dumps(results))
        return
    if placement.missing:
        print(f"the processes are not in their places ({placement.missing}): the scheduler counts")
    for kind, result in results.items():
        print(f"{kind}, {options.transport}")
        for what in ("without", "with"):
            print(f"  {what:8}", "  ".join(f"{k}={v:.2f}" for k, v in result[what].items()))
            print(f"  {what:8} p99_ms of each round: {result['p99s_ms'][what]}")
        ratio, limit = statistics.median(result["ratios"]), LIMITS.get(kind)
        verdict = f", at most {limit}" if limit else ""
        if kind == "hang" and result["with"]["running"] < HANGING * HANGING_IN_FLIGHT / 2:
            print("  the requests that hang had ended before the round: the machine is too slow")
        print(f"  p99 with ÷ without: {ratio:.2f}{verdict} (median of {result['ratios']})")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
