"""Many clients at once; afterwards nothing of theirs is left."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gatesvr.session.session import Session
from gatesvr.transport.connection import Connection

from ..fakes import until
from .harness import counter, running_gateway
from .plain_client import ack, answer, business, plain_client, stop
from .plain_upstream import plain_upstream

CLIENTS = 200
REQUESTS = 20


@pytest.mark.long
async def test_two_hundred_clients_leave_nothing_behind(backend: str) -> None:
    # A traceback for each of a hundred thousand futures takes longer than all the rest.
    asyncio.get_running_loop().set_debug(False)
    async with plain_upstream() as upstream:
        # All come from one address, and a slow machine has time for all that they ask.
        sets = (f"session.max_inited_per_address={CLIENTS}", "dispatch.task_timeout=60s")
        async with running_gateway(backend, upstream.address, *sets) as gateway:
            tasks_before = len(asyncio.all_tasks())
            await asyncio.gather(*(one_client(gateway.address, i) for i in range(CLIENTS)))
            await until(lambda: counter(gateway, "transport.connections") == 0)
            assert counter(gateway, "session.sessions") == 0
            await until(lambda: len(asyncio.all_tasks()) <= tasks_before + 4)  # elastic workers
        gc.collect()
        left = [o for o in gc.get_objects() if isinstance(o, Session | Connection)]
        assert left == []
        assert upstream.calls["echo"] == CLIENTS * REQUESTS


async def one_client(address: str, number: int) -> None:
    async with plain_client(address) as client:
        await client.login(f"player-{number}")
        client.send(
            *(business(seq, "echo", b"%d-%d" % (number, seq)) for seq in range(2, REQUESTS + 2))
        )
        seen = set()
        for server_seq in range(2, REQUESTS + 2):
            push = await client.receive()
            assert push.seq_id == server_seq
            assert answer(push).data == b"%d-%d" % (number, push.client_seq_id)
            seen.add(push.client_seq_id)
        assert len(seen) == REQUESTS
        client.send(ack(REQUESTS + 1), stop())
        assert await client.closed() == 0
