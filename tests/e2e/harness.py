"""What the end-to-end tests share: a real gateway in this process, real QUIC, real gRPC."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio

from gatesvr import Gateway
from gatesvr._pb import upstream_pb2 as up
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.config import load

from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def running_gateway(backend: str, upstream: str, *sets: str) -> AsyncIterator[Gateway]:
    """Run a gateway whose services are all one upstream at HOST:PORT; sets are ``--set`` texts."""
    async with Gateway(load(sets=gateway_sets(backend, upstream, *sets))) as gateway:
        yield gateway


def gateway_sets(backend: str, upstream: str, *sets: str) -> tuple[str, ...]:
    """Return the settings of running_gateway(), as ``--set`` texts."""
    return (
        f"transport.backend={backend}",
        "transport.bind=127.0.0.1:0",
        "push.bind=127.0.0.1:0",
        *(f'upstream.services.{name}=[{{address="{upstream}"}}]' for name in SERVICES),
        *sets,
    )


class Pusher:
    """An upstream that pushes through the gateway's gRPC API."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = rpc.GatewayServiceStub(channel)

    async def push(
        self, session_id: str, *data: bytes, **fields: Any
    ) -> list[up.UnicastPushResponse]:
        """Push notifies to a session, in order; return what became of each."""
        requests = [
            up.UnicastPushRequest(target_type="session", target_id=session_id, data=item, **fields)
            for item in data
        ]

        async def batches() -> AsyncIterator[up.UnicastPushBatch]:
            yield up.UnicastPushBatch(requests=requests)

        return [r async for batch in self.stub.PushStream(batches()) for r in batch.responses]

    async def push_all(self, session_id: str, *data: bytes, **fields: Any) -> None:
        """Push notifies that have to be taken."""
        responses = await self.push(session_id, *data, **fields)
        assert [r for r in responses if not r.success] == []
        assert len(responses) == len(data)

    async def info(self, session_id: str) -> up.SessionInfo:
        """Return what the gateway tells of a session."""
        return await self.stub.GetSession(
            up.GetSessionRequest(target_type="session", target_id=session_id)
        )


@asynccontextmanager
async def pusher(gateway: Gateway) -> AsyncIterator[Pusher]:
    """Connect to the gateway's gRPC API."""
    async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
        yield Pusher(channel)


SERVICES = ("hello", "business", "zone")


def counter(gateway: Gateway, name: str) -> int:
    """Return the counter ``layer.name``."""
    layer, _, key = name.partition(".")
    return int(gateway.stats()[layer][key])


def unread(gateway: Gateway) -> int:
    """Return the most bytes that wait in one connection and were never sent."""
    return max((c.stream.unsent_bytes() for c in gateway.listener.connections), default=0)


WEB = "transport.web.bind=127.0.0.1:0"


@asynccontextmanager
async def web_gateway(*sets: str, backend: str = "aioquic") -> AsyncIterator[Gateway]:
    """Run a gateway for web clients, and an upstream."""
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB, *sets) as gateway,
    ):
        yield gateway
