"""A reader that stops costs its queue's caps and no more, disturbs nobody, and loses nothing."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr.bench.checker import DeliveryChecker

from ..fakes import until
from .device import Device
from .harness import counter, pusher, running_gateway, unread
from .plain_client import PlainClient, ack, answer, business, plain_client, stingy_client
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Gateway

PUSHES = 10_000
SIZE = 4 << 10
BATCH = 250
MAX_MESSAGES = 1_024
MAX_BYTES = 4 << 20
HIGH_WATER = 64 << 10
CREDIT = 16 << 10


async def ask(client: PlainClient, seqs: range) -> None:
    """Have a healthy client ask and be answered, one request after the other."""
    for seq in seqs:
        client.send(business(seq, "echo", b"%d" % seq))
        push = await client.receive()
        assert (push.client_seq_id, answer(push).data) == (seq, b"%d" % seq)
        client.send(ack(push.seq_id))


@asynccontextmanager
async def no_acks(gateway: Gateway) -> AsyncIterator[PlainClient]:
    """A client whose QUIC works and whose application acks nothing."""
    async with plain_client(gateway.address) as client:
        yield client


@asynccontextmanager
async def no_credit(gateway: Gateway) -> AsyncIterator[PlainClient]:
    """A client whose QUIC gives no more flow-control credit."""
    async with stingy_client(gateway.address, CREDIT) as client:
        yield client


SLOW = {"no acks": no_acks, "no credit": no_credit, "no packets": no_acks}


@pytest.mark.parametrize("what", SLOW)
async def test_a_reader_that_stops_is_bounded_cut_and_served_again(backend: str, what: str) -> None:
    asyncio.get_running_loop().set_debug(False)
    checker = DeliveryChecker()
    sets = ("session.slow_consumer_timeout=1s",)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        pusher(gateway) as push,
        plain_client(gateway.address) as healthy,
        SLOW[what](gateway) as slow,
    ):
        await healthy.login("healthy")
        healthy.send(ack(1))
        device = Device(checker, "slow")
        await device.login(slow)
        session = gateway.session_manager.by_id(device.session_id)
        assert session is not None
        await until(lambda: session.queue.last_acked_seq == 1)
        if what == "no packets":
            slow.mute()
        most_bytes = most_messages = most_unsent = busy = taken = 0
        for first in range(0, PUSHES, BATCH):
            data = [b"%d" % number for number in range(first, first + BATCH)]
            padded = [name.ljust(SIZE, b".") for name in data]
            responses = await push.push(device.session_id, *padded)
            for name, response in zip(data, responses, strict=True):
                if response.success:
                    checker.pushed(device.session_id, name.decode(), stream="push")
                    taken += 1
                else:
                    assert response.error_code == "BUSY"
                    assert response.retry_after_ms > 0
                    busy += 1
            most_bytes = max(most_bytes, session.queue.queued_bytes)
            most_messages = max(most_messages, len(session.queue))
            most_unsent = max(most_unsent, unread(gateway))
            # Beside it nothing has changed for the healthy one.
            asked = first // BATCH * 5 + 2
            await ask(healthy, range(asked, asked + 5))
        assert taken + busy == PUSHES
        assert busy > 0
        assert most_bytes <= MAX_BYTES
        assert most_messages <= MAX_MESSAGES
        assert most_unsent <= HIGH_WATER + 2 * SIZE
        assert taken >= MAX_BYTES // (SIZE + 64) - 1
        await until(lambda: counter(gateway, "session.slow_consumers") == 1)
        assert gateway.session_manager.by_id(device.session_id) is session
        assert counter(gateway, "session.suspended") == 1
        if what == "no acks":
            assert await slow.closed() == 4413
        else:
            slow.abandon()
        info = await push.info(device.session_id)
        assert (info.state, info.last_acked_seq) == ("Suspended", 1)
        # What the first connection brought before it was cut is had already.
        while slow.pushes:
            device.take(slow.pushes.popleft())
        async with plain_client(gateway.address) as again:
            assert (await device.resume(again)).resumed
            last = session.next_server_seq - 1
            await device.take_until(again, last)
            dropped = counter(gateway, "session.notifies_dropped")
            checker.settled(device.session_id, last_seq=last, dropped=dropped)
            assert checker.findings == []
            await until(lambda: session.queue.queued_bytes == 0)
            await push.push_all(device.session_id, b"fits again")
            assert answer(await again.receive()).data == b"fits again"
        assert healthy.terminated is None
