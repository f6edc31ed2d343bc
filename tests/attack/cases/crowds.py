"""More clients than there should be: at once, again and again, of one network, of one user."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from gatesvr._pb import message_pb2 as pb

from ...e2e.plain_client import business
from ..attacker import client_hello, crypto_frame, initial
from ..case import Off, amplifies, case, gauge, memory, moved, saw
from .handshakes import hellos

if TYPE_CHECKING:
    from ...e2e.plain_client import PlainClient
    from ..attacker import Attacker

NO_RETRY = Off("no Retry in a rush", sets=('transport.retry="never"',))


@case(
    "2,000 clients at once",
    "2,000 Initials as fast as they go, from 64 ports of 8 addresses",
    moved("transport.retry_switches", least=1),
    gauge("transport.handshakes", most=200),
    amplifies(3.0),
    memory(48),
    off=NO_RETRY,
)
async def at_once(attacker: Attacker) -> None:
    data = hellos(2_000)
    await attacker.flood(data, rate=20_000, sockets=attacker.sockets(64, hosts=8), listen_s=2.0)


@case(
    "2,000 clients at once, all served",
    "the same without Retry: known connections go first, handshakes are begun when there is time",
    memory(160),
    amplifies(3.0),
    off=Off(
        "handshakes begin where they arrive",
        sets=("transport.handshake_timeout=10s",),
        patches={
            "gatesvr.transport.listener:MIN_HANDSHAKES_S": 1e6,
            "gatesvr.transport.listener:MAX_HANDSHAKES_S": 1e6,
        },
        is_slow=True,
    ),
    sets=('transport.retry="never"', "transport.max_handshakes=4000"),
)
async def at_once_served(attacker: Attacker) -> None:
    data = hellos(2_000)
    await attacker.flood(data, rate=20_000, sockets=attacker.sockets(64, hosts=8), listen_s=2.5)


@case(
    "clients again and again",
    "600 Initials a second for 4 s, each from a new connection id",
    gauge("transport.handshakes", most=200),
    moved("transport.retry_switches", least=1),
    memory(48),
    off=NO_RETRY,
)
async def again(attacker: Attacker) -> None:
    await attacker.flood(hellos(2_400), rate=600, sockets=attacker.sockets(64, hosts=8))


@case(
    "forged Retry tokens",
    "1,000 Initials with tokens made up by the client: each is answered by a Retry, no more",
    moved("transport.retries_refused", least=900),
    gauge("transport.handshakes", most=0),
    amplifies(1.0),
    memory(8),
    off=Off("no Retry", sets=('transport.retry="never"',)),
    sets=('transport.retry="always"',),
)
async def forged_retries(attacker: Attacker) -> None:
    hello, source_id = client_hello()
    await attacker.flood(
        (
            initial(crypto_frame(hello), source_id=source_id, token=os.urandom(60))
            for _ in range(1_000)
        ),
        rate=1_000,
    )


@case(
    "half-open handshakes of one network",
    "400 Initials of one address, which may have 50 half open; then clients of other networks",
    moved("transport.prefix_handshakes_limited", least=300),
    gauge("transport.handshakes", most=50),
    saw("others let in", least=3),
    memory(16),
    off=Off("no limit by prefix", sets=("transport.max_handshakes_per_prefix=0",)),
    sets=(
        "transport.unlimited_prefixes=[]",
        "transport.max_handshakes_per_prefix=50",
        'transport.retry="never"',
    ),
)
async def one_network(attacker: Attacker) -> None:
    await attacker.flood(hellos(400), rate=1_000)
    await others(attacker)


async def others(attacker: Attacker) -> None:
    """Count the clients of other networks that get in."""
    for host in ("127.0.1.1", "127.0.2.1", "127.0.3.1"):
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1.0):
                await attacker.connect(host=host)
                attacker.seen["others let in"] += 1


@case(
    "connections of one network",
    "60 clients of one address, which may have 20 connections; then clients of other networks",
    moved("transport.accepted", most=20 + 3),
    moved("transport.prefix_connections_limited", least=40),
    saw("others let in", least=3),
    memory(16),
    off=Off("no limit by prefix", sets=("transport.max_connections_per_prefix=0",)),
    sets=("transport.unlimited_prefixes=[]", "transport.max_connections_per_prefix=20"),
)
async def connections_of_one(attacker: Attacker) -> None:
    await connect_some(attacker, 60)
    await others(attacker)


@case(
    "a network that connects too often",
    "60 clients of one address, which may connect 20 times at once and then once a second",
    moved("transport.accepted", most=20 + 6 + 3),
    moved("transport.prefix_rate_limited", least=30),
    saw("others let in", least=3),
    memory(16),
    off=Off("no rate by prefix", sets=("transport.max_connection_rate_per_prefix=0",)),
    sets=(
        "transport.unlimited_prefixes=[]",
        "transport.max_connection_rate_per_prefix=1",
        "transport.connection_burst_per_prefix=20",
    ),
)
async def too_often(attacker: Attacker) -> None:
    await connect_some(attacker, 60)
    await others(attacker)


async def connect_some(attacker: Attacker, number: int) -> None:
    """Let clients of one address try to connect for 1.5 s."""

    async def one() -> None:
        with suppress(ConnectionError):
            await attacker.connect(host="127.0.9.1")

    tasks = [asyncio.ensure_future(one()) for _ in range(number)]
    await asyncio.wait(tasks, timeout=1.5)
    for task in tasks:
        task.cancel()


@case(
    "sessions of one user",
    "50 STARTs of one openid, which may start 10 sessions at once and then 1 a second",
    moved("session.openid_starts_limited", least=35),
    moved("session.created", most=15),
    memory(12),
    off=Off("no rate of an openid", sets=("session.max_start_rate_per_openid=0",)),
    sets=("session.max_start_rate_per_openid=1",),
)
async def one_user(attacker: Attacker) -> None:
    async def start(client: PlainClient, _: int) -> None:
        await client.start("bad")

    await attacker.note_closes(await attacker.each(50, start), wait_s=1.0)


@case(
    "a rush of sessions",
    "60 STARTs of as many users, where 10 sessions may start a second: 4503, and resumes go on",
    moved("session.starts_limited", least=30),
    saw("closed 4503", least=30),
    saw("resumed", least=3),
    memory(12),
    off=Off("no rate of sessions", sets=("session.max_start_rate=0",)),
    sets=("session.max_start_rate=10",),
)
async def rush(attacker: Attacker) -> None:
    old = await attacker.connect()
    started = await old.login("old")

    async def start(client: PlainClient, number: int) -> None:
        await client.start(f"user{number}")

    clients = await attacker.each(60, start)
    for attempt in range(1, 4):
        client = await attacker.connect()
        attacker.seen["resumed"] += (await client.resume(started, 1, attempt)).resumed
    await attacker.note_closes(clients, wait_s=1.0)


@case(
    "a session that asks too often",
    "one client asks 3,000 times in a moment, where a session may ask 200 times a second",
    moved("dispatch.requests_limited", least=1_500),
    saw("answered", most=1_400),
    memory(12),
    off=Off("no rate of a session", sets=("session.max_requests_per_second=0",)),
    sets=("session.max_requests_per_second=200", "session.max_queue_size=10000"),
)
async def too_many_requests(attacker: Attacker) -> None:
    client = await attacker.connect()
    await client.login("bad")
    for first in range(2, 3_002, 100):
        client.send(*(business(seq, "echo") for seq in range(first, first + 100)))
        await client.ping()
    await client.until(lambda: len(client.pushes) >= 3_000)
    attacker.seen["answered"] = sum(p.type == pb.PUSH_BUSINESS_DATA for p in client.pushes)
