"""Upstreams for the tests: plain grpcio servers that do one thing each, and calls to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.config import Endpoint, UpstreamConfig
from gatesvr.errors import UpstreamError
from gatesvr.upstream import direct_lane, grpcio_lane, lane
from gatesvr.upstream.call import Call, OnEnd, UpstreamCounters
from gatesvr.upstream.lane import Lane, LaneState
from gatesvr.upstream.lanes import new_lane

from ..fakes import until

if TYPE_CHECKING:
    import pytest

    from gatesvr.upstream.manager import UpstreamManager

DEADLINE_S = 20.0
SERVICE = "gatesvr.proto.UpstreamService"
LANE = "direct"
"""The kind of the lanes that settings() asks for; the fixture lane_kind sets it."""


class Streaming(rpc.UpstreamServiceServicer):
    """Has ProcessStream; ``echo`` answers at once, ``gate`` when the gate is open."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.batches: list[list[int]] = []
        self.actions: list[str] = []
        self.timeouts_ms: dict[int, int] = {}  # by request_id
        self.unary = 0
        self.cancelled = 0  # unary calls that the caller gave up
        self.gate = asyncio.Event()

    @property
    def requests(self) -> int:
        return sum(map(len, self.batches)) + self.unary

    def answer(self, request: pb.UpstreamRequest) -> pb.UpstreamResponse:
        self.timeouts_ms[request.request_id] = request.timeout_ms
        return pb.UpstreamResponse(
            code=200,
            message=self.name,
            data=request.data,
            client_seq_id=request.client_seq_id,
            request_id=request.request_id,
        )

    async def ProcessRequest(self, request: Any, context: Any) -> pb.UpstreamResponse:  # noqa: N802
        self.unary += 1
        self.actions.append(request.action)
        if request.action.startswith("gate"):
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return self.answer(request)

    async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        await context.send_initial_metadata(())
        while (batch := await context.read()) is not grpc.aio.EOF:
            self.batches.append([request.request_id for request in batch.requests])
            self.actions += [request.action for request in batch.requests]
            if any(request.action == "gate" for request in batch.requests):
                await self.gate.wait()
            await self.respond(batch, context)

    async def respond(self, batch: pb.UpstreamRequestBatch, context: Any) -> None:
        responses = [self.answer(request) for request in batch.requests]
        await context.write(pb.UpstreamResponseBatch(responses=responses))


class UnaryOnly(Streaming):
    """Has no ProcessStream."""

    async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")


class Served(str):
    """Where a server listens, HOST:PORT; stop() kills it."""

    server: grpc.aio.Server

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])

    async def stop(self) -> None:
        await self.server.stop(None)


@asynccontextmanager
async def serving(
    servicer: Any, port: int = 0, *also: Any, credentials: Any = None, **options: int
) -> AsyncIterator[Served]:
    """Serve servicer on loopback; also holds the add functions of further services."""
    named = [(f"grpc.{name}", value) for name, value in options.items()]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *named])
    add: Any = rpc.add_UpstreamServiceServicer_to_server
    add(servicer, server)
    for add_more in also:
        add_more(server)
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    served = Served(f"127.0.0.1:{port}")
    served.server = server
    try:
        yield served
    finally:
        await server.stop(None)


def settings(**values: Any) -> UpstreamConfig:
    """Return a configuration with short retry times."""
    short = {"lane": LANE, "reconnect_min": 0.02, "reconnect_max": 0.1}
    return UpstreamConfig(**{**short, **values})


def set_of_lanes(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Set a constant of the lanes, in whichever modules have it."""
    for module in (lane, direct_lane, grpcio_lane):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def outcome() -> tuple[asyncio.Future[Any], OnEnd]:
    """Return a future, and the on_end callback that completes it."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def on_end(answer: Any, error: UpstreamError | None) -> None:
        if future.done():
            assert future.cancelled(), "a call ends once"
        elif error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    return future, on_end


class LaneUnderTest:
    """A lane with a fake manager, and calls through it."""

    def __init__(self, address: str, max_message_bytes: int = 1 << 20, **values: Any) -> None:
        self.counters = UpstreamCounters()
        self.stranded: list[Call] = []
        self.refused: list[Call] = []
        self.lane: Any = new_lane(
            str(address),
            settings(**values),
            max_message_bytes,
            self.counters,
            on_change=lambda: None,
            on_stranded=self._stranded,
            on_refused=lambda _, call: self.refused.append(call),
        )
        self._next_id = 0

    def _stranded(self, lane: Lane, calls: list[Call]) -> list[Call]:
        self.stranded += calls
        return calls

    def call(
        self, action: str = "echo", data: bytes = b"", timeout: float = DEADLINE_S
    ) -> asyncio.Future[Any]:
        self._next_id += 1
        request = pb.UpstreamRequest(
            action=action,
            data=data,
            client_seq_id=self._next_id,
            request_id=self._next_id,
            timeout_ms=int(timeout * 1000),
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        future, on_end = outcome()
        call = Call(on_end, request.SerializeToString(), self._next_id, deadline)
        future.add_done_callback(lambda _: call.give_up())
        self.lane.submit(call)
        return future

    async def until_state(self, state: LaneState) -> None:
        await until(lambda: self.lane.state is state)


@asynccontextmanager
async def lane_to(
    address: str, max_message_bytes: int = 1 << 20, **values: Any
) -> AsyncIterator[LaneUnderTest]:
    """Run a lane; afterwards none of its tasks is left."""
    before = asyncio.all_tasks()
    under_test = LaneUnderTest(address, max_message_bytes, **values)
    under_test.lane.start()
    try:
        yield under_test
    finally:
        await under_test.lane.stop(1.0)
        names = [task.get_name() for task in asyncio.all_tasks() - before]
        assert not [name for name in names if name.startswith("gatesvr-lane")]
        assert under_test.lane.open_calls == under_test.lane.waiting_calls == 0


def endpoints(*addresses: str, zone: str = "") -> list[Endpoint]:
    return [Endpoint(address=str(address), zone=zone) for address in addresses]


def ask(
    manager: UpstreamManager,
    service: str = "zone",
    *,
    openid: str = "alice",
    zone: str = "",
    action: str = "echo",
    data: bytes = b"",
    timeout: float = DEADLINE_S,
) -> asyncio.Future[Any]:
    """Make one call."""
    request_id = manager.next_request_id()
    request = pb.UpstreamRequest(action=action, data=data, openid=openid, request_id=request_id)
    deadline = asyncio.get_running_loop().time() + timeout
    data = request.SerializeToString()
    future, on_end = outcome()
    call = Call(on_end, data, request_id, deadline, service, openid, zone)
    manager.send(call)
    future.add_done_callback(lambda _: call.give_up())
    return future


def parse(answer: Any) -> pb.UpstreamResponse:
    """Return the part of an answer that a client sees, as a response."""
    from gatesvr._pb import message_pb2

    push = message_pb2.ServerPush.FromString(answer.body(1))
    business = message_pb2.BusinessResponse.FromString(push.payload)
    return pb.UpstreamResponse(code=business.code, message=business.message, data=business.data)
