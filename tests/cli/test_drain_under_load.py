"""A gateway drains under load: nothing is lost, and applications are told of nothing but a session.

Run one with ``-s`` to see what it took: ``pytest tests/cli/test_drain_under_load.py -m long -s``.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gatesvr import Client, GatewayClient, Reply, UpstreamService
from gatesvr.bench.checker import DeliveryChecker
from gatesvr.errors import GatesvrError, SessionLost
from gatesvr.protocol import events
from gatesvr.transport import client as transport

from ..fakes import until
from .process import FREE_PORTS, Server, serving, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gatesvr import Request

LOAD_S = 2.0
"""Seconds of load before the drain, and behind it."""
PAUSE_S = 4.0
"""Mean time between two requests of one client."""
CONNECTING = 32
SIZES, SIZE = {"qh3": 300, "aioquic": 150}, 75
"""Clients that go to another gateway, and that come back to the same one. A thousand are no problem
of the gateway's, but on a busy machine of their own process."""


class CheckedClient(Client):
    """A client whose checker hears of every message in the order of the wire."""

    def __init__(self, checker: DeliveryChecker, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._checker = checker
        self._names: dict[int, str] = {}
        self._now_in = ""

    def handle_event(self, event: events.ClientEvent, now: float) -> None:
        checker, session = self._checker, self._now_in
        if isinstance(event, events.Started):
            self._now_in = event.session_id
            checker.started(self.openid, event.session_id, is_resumed=event.is_resumed)
        elif isinstance(event, events.SessionReset):
            checker.session_lost(self.openid, event.session_id, event.reason.name)
        elif isinstance(event, events.Answered):
            checker.delivered(session, event.seq, client_seq=event.client_seq)
        elif isinstance(event, events.Notify):
            checker.delivered(session, event.seq, push=event.data.decode())
        elif isinstance(event, events.Failed) and event.seq:
            checker.delivered(session, event.seq, client_seq=event.client_seq, code=event.code)
        elif isinstance(event, events.Lost):
            checker.lost(session, event.from_seq, event.to_seq, event.reason.name)
        super().handle_event(event, now)


class Crowd:
    """Clients, the applications on them, and all that they saw.

    Attributes:
        failures: Requests that ended without an answer.
        told: Sessions that iterations said were lost.
        waits: Seconds from a request to its answer, of those begun since the drain.
        pushed: Pushes that the gateway took.
        received: Notifies that applications read.
    """

    def __init__(self, checker: DeliveryChecker, servers: list[str], size: int, backend: str):
        self.checker = checker
        self.failures: list[GatesvrError] = []
        self.told: list[SessionLost] = []
        self.waits: list[float] = []
        self.pushed: set[str] = set()
        self.received: set[str] = set()
        self.answers = 0
        self.is_running = True
        self.is_timed = False
        self.clients = [
            CheckedClient(
                checker,
                servers,
                openid=f"user-{number}",
                insecure=True,
                transport=backend,
                connect_timeout=60.0,
                request_timeout=60.0,
            )
            for number in range(size)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        waiting = iter(self.clients)

        async def some() -> None:
            for client in waiting:
                await client.connect()

        await asyncio.gather(*(some() for _ in range(CONNECTING)))
        for client in self.clients:
            self._tasks += [asyncio.create_task(each(client)) for each in (self._ask, self._read)]

    async def _ask(self, client: CheckedClient) -> None:
        loop = asyncio.get_running_loop()
        number = 0
        while self.is_running:
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_S))
            number += 1
            name = f"{client.openid}/{number}"
            self.checker.asked(client.openid, name)
            began, is_timed = loop.time(), self.is_timed
            try:
                answer = await client.request("work", name.encode())
            except GatesvrError as error:
                self.failures.append(error)
                code, outcome = getattr(error, "code", 0), int(getattr(error, "outcome", 0))
                self.checker.failed(client.openid, name, code, outcome)
            else:
                self.answers += 1
                self.checker.answered(client.openid, name, answer.data.decode(), answer.code)
                if is_timed:
                    self.waits.append(loop.time() - began)

    async def _read(self, client: CheckedClient) -> None:
        while True:
            try:
                async for notify in client:
                    self.received.add(notify.data.decode())
                return
            except SessionLost as lost:
                if lost.is_final:
                    return
                self.told.append(lost)

    async def settle(self) -> None:
        """Let what is under way finish, and look for what is missing."""
        self.is_running = False
        await asyncio.gather(*self._tasks[::2])
        for client in self.clients:
            self.checker.client_settled(client.openid)
            self.checker.settled(client.session_id)
        await asyncio.gather(*(client.close() for client in self.clients))
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def working(checker: DeliveryChecker) -> AsyncIterator[UpstreamService]:
    """Run the services: each answer brings a notify, one in twenty takes up to 2 s."""
    service = UpstreamService("business")

    @service.action("hello")
    def hello(request: Request) -> Reply:
        checker.logged_in(request.session_id, request.openid, is_automatic=True)
        return Reply(headers={"zone": "001"})

    @service.action("work")
    async def work(request: Request) -> bytes:
        name = request.data.decode()
        checker.executed(request.session_id, request.client_seq_id, name, lane=None)
        checker.carried(request.session_id, request.client_seq_id, [f"b {name}"], [f"a {name}"])
        request.notify_before("news", data=f"b {name}".encode())
        request.notify_after("news", data=f"a {name}".encode())
        if random.random() < 0.05:
            await asyncio.sleep(random.uniform(0, 2))
        return request.data

    await service.serve()
    try:
        yield service
    finally:
        await service.stop()


def flags_of(service: UpstreamService, backend: str) -> list[str]:
    named = [f"--upstream={name}={service.address}" for name in ("hello", "business", "zone")]
    return [
        "serve",
        *named,
        *("--transport", backend, "--log-format", "json"),
        *("--set", "session.max_inited_per_address=100000"),
        *("--set", "drain.timeout=2m"),  # whatever else the machine has to do
    ]


async def push_on(crowd: Crowd, push: str) -> None:
    """Push to random sessions while the gateway takes pushes."""
    async with GatewayClient(push) as pusher:
        number = 0
        with suppress(GatesvrError):
            while True:
                await asyncio.sleep(0.01)
                session = random.choice(crowd.clients).session_id
                number += 1
                name = f"push {number}"
                result = await pusher.push(
                    session, target_type="session", msg_type="news", data=name.encode()
                )
                if result.success:
                    crowd.pushed.add(name)
                    crowd.checker.pushed(session, name)


async def watch_health(push: str, seen: dict[str, float]) -> None:
    """Note when the gateway says first that it is not ready."""
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(push) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with suppress(grpc.aio.AioRpcError):
            while "unready" not in seen:
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    seen["unready"] = loop.time()
                await asyncio.sleep(0.005)


async def knock(address: str, backend: str, seen: dict[str, float]) -> None:
    """Come in as somebody new, again and again, until nobody is let in."""
    loop = asyncio.get_running_loop()
    number = 0
    while "refused" not in seen:
        number += 1
        stranger = Client(
            address, openid=f"stranger-{number}", insecure=True, transport=backend,
            connect_timeout=0.05,
        )  # fmt: skip
        try:
            await stranger.connect()
            if "unready" in seen:
                seen["came in late"] = loop.time()
        except GatesvrError as error:
            if "the gateway stops" in str(error):
                seen["refused"] = loop.time()
        finally:
            await stranger.close()
        await asyncio.sleep(0.05)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_elsewhere", [True, False], ids=["two gateways", "one that restarts"])
async def test_sessions_are_drained_under_load(
    backend: str, tmp_path: Path, is_elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(False)  # a traceback for each future takes longer than all the rest
    size = SIZES[backend] if is_elsewhere else SIZE
    checker = DeliveryChecker(knows_ends=False)
    seen: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(500))
        service = await stack.enter_async_context(working(checker))
        flags = flags_of(service, backend)
        first, *others = [
            await stack.enter_async_context(
                serving(tmp_path, *flags, *FREE_PORTS, until=" call hello ")
            )
            for _ in range(2 if is_elsewhere else 1)
        ]
        address, push = first.address("clients"), first.address("push")
        crowd = Crowd(checker, [address, *(o.address("clients") for o in others)], size, backend)
        with monkeypatch.context() as patch:
            # However late the first one answers on a busy machine, it gets them all.
            patch.setattr(transport, "RACE_DELAY_S", 60.0)
            await crowd.connect()
        watching = [
            asyncio.create_task(watch_health(push, seen)),
            asyncio.create_task(knock(address, backend, seen)),
            asyncio.create_task(push_on(crowd, push)),
        ]
        await until(lambda: crowd.answers >= size // 10)
        answers = -crowd.answers
        await asyncio.sleep(LOAD_S)
        answers += crowd.answers
        assert not crowd.failures
        assert {c._connector._server.port for c in crowd.clients} == {int(address.split(":")[1])}  # type: ignore[union-attr]

        crowd.is_timed = True
        began = loop.time()
        first.process.send_signal(signal.SIGTERM)
        result = await first.stop(0, 300.0)
        took = loop.time() - began
        assert result.code == 0, result.err
        if not is_elsewhere:
            again = await start(tmp_path, *flags, "--bind", address, "--grpc-bind", push)
            other = Server(again)
            stack.push_async_callback(other.stop)
            await other.read_until(" call hello ")
        await until(lambda: all(client.is_connected for client in crowd.clients))
        crowd.is_timed = False
        await asyncio.sleep(LOAD_S)
        await asyncio.gather(*watching)
        await crowd.settle()

        assert checker.findings == []
        assert crowd.failures == []
        assert len(crowd.told) == size  # each once, and nothing else
        assert {lost.reason.name for lost in crowd.told} == {"UNKNOWN_SESSION"}
        assert began <= seen["unready"] <= seen["refused"]
        assert seen["came in late"] < seen["refused"]
        log = [json.loads(line) for line in result.err.splitlines()]
        (ended,) = [line for line in log if line["event"] == "drain_ended"]
        assert (ended["connections_cut"], ended["requests_cut"], ended["dismissed"]) == (0, 0, 0)
        waits = sorted(crowd.waits)
        print(
            f"\n{backend}: {size} sessions, {answers / LOAD_S:.0f} answers a second;"
            f" process gone after {took:.2f} s; not ready after {seen['unready'] - began:.3f} s,"
            f" last stranger in {seen['came in late'] - began:.2f} s,"
            f" first refused {seen['refused'] - began:.2f} s;"
            f" {len(crowd.told)} sessions new, {len(crowd.failures)} requests failed,"
            f" findings {len(checker.findings)},"
            f" {len(crowd.pushed - crowd.received)} of {len(crowd.pushed)} pushes gone;"
            f" answers begun meanwhile: {len(waits)}, median {waits[len(waits) // 2]:.3f} s,"
            f" p99 {waits[len(waits) * 99 // 100]:.2f} s, longest {waits[-1]:.2f} s"
        )
