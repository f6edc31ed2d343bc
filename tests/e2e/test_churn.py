"""Connections and sessions that come and go leave nothing behind, whatever way they go."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import upstream_pb2 as up
from gatesvr.dispatch.handler import ClientHandler
from gatesvr.dispatch.task import AsyncTask
from gatesvr.protocol.server import ServerProtocol
from gatesvr.session.resume import ResumeToken
from gatesvr.session.sender import OrderedSender
from gatesvr.session.session import Session
from gatesvr.transport.connection import Connection
from gatesvr.transport.quic.aioquic import AioquicConnection
from gatesvr.transport.quic.qh3 import Qh3Connection
from gatesvr.upstream.call import Call

from ..fakes import until
from .harness import Pusher, counter, pusher, running_gateway
from .plain_client import PlainClient, ack, business, plain_client, stop
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLIENTS = 60
ROUNDS = 5
CLASSES = (
    AsyncTask,
    Call,
    ClientHandler,
    Connection,
    OrderedSender,
    AioquicConnection,
    Qh3Connection,
    ResumeToken,
    ServerProtocol,
    Session,
)


def live_objects() -> list[object]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, CLASSES)]


def is_none_new(before: list[object]) -> bool:
    """Say whether all that live did so before: what other tests hold is none of ours."""
    known = set(map(id, before))
    return known.issuperset(map(id, live_objects()))


@asynccontextmanager
async def brief_client(address: str) -> AsyncIterator[PlainClient]:
    """A client that says goodbye and does not wait for its packets to drain."""
    async with plain_client(address) as client:
        yield client
        client.close()
        client.mute()


async def one_client(address: str, push: Pusher, number: int) -> None:
    """Log in, be served, and go in one of the ways in which a client goes."""
    way = number % 6
    async with brief_client(address) as client:
        if way == 0:
            await client.start(f"player-{number}")  # never logs in
            return
        started = await client.login(f"player-{number}")
        client.send(ack(1), business(2, "echo", b"x"))
        await push.push_all(started.session_id, b"not acked")
        await client.receive()
        if way == 1:
            client.send(stop())
            assert await client.closed() == 0
        elif way == 2:
            client.abandon()
            await push.stub.KickClient(
                up.KickRequest(target_type="session", target_id=started.session_id)
            )
        elif way == 3:
            async with brief_client(address) as again:
                assert (await again.resume(started, 1)).resumed
        elif way == 4:
            client.send(business(3, "gate"))
        elif way == 5:
            client.send_bytes(bytes(4))
            assert await client.closed() == 4400


@pytest.mark.long
async def test_sessions_that_come_and_go_leave_nothing_behind(backend: str) -> None:
    before = live_objects()
    # A traceback for each of many thousand futures takes longer than all the rest.
    asyncio.get_running_loop().set_debug(False)
    sets = (
        "session.resume_window=200ms",
        f"session.max_inited_per_address={CLIENTS}",
    )
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        pusher(gateway) as push,
    ):
        for number in range(1, ROUNDS + 1):
            await asyncio.gather(*(one_client(gateway.address, push, i) for i in range(CLIENTS)))
            await until(lambda: counter(gateway, "transport.connections") == 0)
            await until(lambda: counter(gateway, "session.sessions") == 0)
            upstream.gate.set()  # what is answered now, nobody waits for any more
            await until(lambda: counter(gateway, "dispatch.running") == 0)
            upstream.gate.clear()
            await until(lambda: len(gateway.dispatcher) == 0)
            await until(lambda: is_none_new(before))
            assert counter(gateway, "session.created") == number * CLIENTS
        assert counter(gateway, "session.expired") == ROUNDS * CLIENTS // 3
        assert counter(gateway, "session.kicked") == ROUNDS * CLIENTS // 6
        await until(lambda: counter(gateway, "session.tombstones") == 0)
        assert counter(gateway, "dispatch.closed_499") >= ROUNDS * CLIENTS // 6
        assert counter(gateway, "session.stopped") == ROUNDS * CLIENTS // 6
        assert counter(gateway, "transport.protocol_errors") == ROUNDS * CLIENTS // 6
