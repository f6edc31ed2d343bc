"""Clients that take nothing: what waits for them is bounded by their queue alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up

from ...e2e.plain_client import business, frame, heartbeat
from ..case import Off, case, closes, memory, moved, saw
from .requests import NO_HELD, pour

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration

    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker

CREDIT = 16 << 10
"""Bytes that a client takes which then gives no more credit."""
NO_QUEUE_CAPS = (
    "session.max_queue_size=1000000",
    "session.max_queue_bytes=1GiB",
    "session.max_queues_bytes=8GiB",
    "session.slow_consumer_timeout=1h",
    "session.max_in_flight=1000000",
)


async def stingy(attacker: Attacker) -> PlainClient:
    """Return a client that lets the gateway send CREDIT bytes and no more."""

    def limit(configuration: QuicConfiguration) -> None:
        configuration.max_data = configuration.max_stream_data = CREDIT

    client = await attacker.connect(configure=limit)
    # aioquic doubles a limit once half of it is used: this one never is.
    client._quic._write_connection_limits = lambda **_: None  # type: ignore[method-assign]
    client._quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]
    return client


FLOODS = {
    "heartbeats": heartbeat(1),
    "unknown types": pb.ClientRequest(msg_id=1, type=9),
    "gaps": pb.ClientRequest(msg_id=1, seq_id=1 << 40, type=pb.REQUEST_BUSINESS),
}


def _unread(what: str, flood: pb.ClientRequest) -> None:
    @case(
        f"unread answers to {what}",
        f"one client sends up to 600,000 {what} and takes {CREDIT >> 10} KiB of the answers",
        closes(4429, 1),
        moved("dispatch.unread_overflows", least=1, most=1),
        memory(10),
        off=Off("no bound of what is unread", patches=NO_HELD),
        sets=("session.max_message_bytes=64KiB",),
    )
    async def unread(attacker: Attacker) -> None:
        client = await stingy(attacker)
        await client.login("bad")
        await pour(client, frame(flood.SerializeToString()) * 5_000, 120)
        await attacker.note_closes([client])


for _name, _flood in FLOODS.items():
    _unread(_name, _flood)


@case(
    "answers that are not read",
    "one client asks for 40 MiB of echoes and takes 16 KiB: 4 MiB wait for it, no more",
    closes(4413, 1),
    moved("session.slow_consumers", least=1, most=1),
    memory(24),
    off=Off("no caps of a queue", sets=NO_QUEUE_CAPS),
    sets=("session.slow_consumer_timeout=1s",),
)
async def unread_answers(attacker: Attacker) -> None:
    client = await stingy(attacker)
    await client.login("bad")
    for seq in range(2, 42):
        if client.terminated is not None:
            break
        client.send(business(seq, "giant", bytes=str(1_000_000)))
        await asyncio.sleep(0.02)
    await attacker.note_closes([client])


@case(
    "notifies that are not acknowledged",
    "a service pushes 20,000 notifies of 1 KiB to a client that reads all and acknowledges none",
    closes(4413, 1),
    saw("BUSY", least=18_000),
    memory(12),
    off=Off("no caps of a queue", sets=NO_QUEUE_CAPS),
    sets=("session.slow_consumer_timeout=1s",),
)
async def unacked(attacker: Attacker) -> None:
    client = await attacker.connect()
    started = await client.login("bad")
    await push(attacker, started.session_id, 20_000)
    await attacker.note_closes([client])


async def push(attacker: Attacker, session_id: str, number: int) -> None:
    """Push notifies of 1 KiB to a session, and count what became of them."""
    target = up.UnicastPushRequest(target_type="session", target_id=session_id, data=bytes(1024))
    batch = up.UnicastPushBatch(requests=[target] * 500)

    async def batches():  # type: ignore[no-untyped-def]
        for _ in range(number // 500):
            yield batch

    async for answers in attacker.stub().PushStream(batches()):
        for answer in answers.responses:
            attacker.seen[answer.error_code or "taken"] += 1


@case(
    "notifies for the absent",
    "20 clients log in and vanish; a service pushes 2,000 notifies of 1 KiB to each",
    memory(40),
    moved("session.notifies_dropped", least=15_000),
    off=Off("no caps of a queue", sets=NO_QUEUE_CAPS),
    sets=("session.max_queue_size=1000",),
)
async def absent(attacker: Attacker) -> None:
    for number in range(20):
        client = await attacker.connect()
        started = await client.login(f"user{number}")
        client.close()
        await push(attacker, started.session_id, 2_000)
