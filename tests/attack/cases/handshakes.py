"""Handshakes that are never completed, and more connections than there may be."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from gatesvr.transport.udp.endpoint import Endpoint

from ..attacker import client_hello, crypto_frame, initial
from ..case import Off, amplifies, answers, case, gauge, memory, moved, saw

if TYPE_CHECKING:
    from gatesvr.transport.addresses import Datagram

    from ..attacker import Attacker

HEALTHY = 6


def hellos(number: int) -> list[bytes]:
    """Return Initials of clients that send nothing more."""
    hello, source_id = client_hello()
    return [initial(crypto_frame(hello), source_id=source_id) for _ in range(number)]


@case(
    "half-open handshakes",
    "1,000 clients that send a good Initial and nothing more, where 100 may be half open",
    gauge("transport.handshakes", most=100),
    moved("transport.handshakes_dropped", least=800),
    amplifies(3.0),
    memory(24),
    off=Off("no bound of half-open handshakes", sets=("transport.max_handshakes=1000000",)),
    sets=(
        "transport.max_handshakes=100",
        "transport.handshake_timeout=30s",
        'transport.retry="never"',
    ),
)
async def half_open(attacker: Attacker) -> None:
    await attacker.flood(hellos(1_000), rate=1_000, sockets=attacker.sockets(64))


@case(
    "half-open handshakes end",
    "200 of them; each ends at the handshake deadline, here 1 s, whatever the idle time-out is",
    gauge("transport.handshakes", most=0),
    moved("transport.handshakes_timed_out", least=200),
    memory(32),
    off=Off("an hour for a handshake", sets=("transport.handshake_timeout=1h",)),
    sets=(
        "transport.handshake_timeout=1s",
        "transport.idle_timeout=1h",
        'transport.retry="never"',
    ),
)
async def half_open_ends(attacker: Attacker) -> None:
    await attacker.flood(hellos(200), rate=500, listen_s=2.5)


def _send_twice(self: Endpoint, datagrams: list[Datagram]) -> None:
    _send(self, datagrams * 2)


_send = Endpoint.send


@case(
    "amplification",
    "20 spoofed clients: what the gateway sends an address that has proved nothing, over 4 s",
    amplifies(3.0),
    off=Off(
        "everything is sent twice, whatever the budget says",
        patches={"gatesvr.transport.udp.endpoint:Endpoint.send": _send_twice},
    ),
    sets=("transport.handshake_timeout=4s",),
    min_window=4.0,
)
async def amplification(attacker: Attacker) -> None:
    await attacker.flood(hellos(20), sockets=attacker.sockets(20), listen_s=4.2)


def _is_authentic(data: bytes, initial: object) -> bool:
    return True


@case(
    "undecryptable Initials",
    "2,000 Initials with noise for a payload",
    gauge("transport.handshakes", most=0),
    moved("transport.initials_undecryptable", least=1_800),
    answers(0),
    memory(4),
    off=Off(
        "an Initial need not decrypt",
        patches={"gatesvr.transport.admission:is_authentic": _is_authentic},
    ),
    sets=('transport.retry="never"',),
)
async def undecryptable(attacker: Attacker) -> None:
    first = hellos(1)[0]
    head, tail = first[:6], first[14:60]
    await attacker.flood(
        (head + os.urandom(8) + tail + os.urandom(1200 - 60) for _ in range(2_000)), rate=2_000
    )


KEPT = {
    "gatesvr.transport.quic.aioquic:_NO_CRYPTO_REASON": "",
    "gatesvr.transport.quic.qh3_core:_NO_CRYPTO_REASON": "",
}


@case(
    "Initials without a client hello",
    "1,000 Initials with a PING and no CRYPTO frame",
    gauge("transport.handshakes", most=0),
    moved("transport.initials_without_crypto", least=900),
    answers(0),
    memory(48),
    off=Off("an Initial need not have a client hello", patches=KEPT),
    sets=('transport.retry="never"',),
)
async def no_hello(attacker: Attacker) -> None:
    _, source_id = client_hello()
    await attacker.flood((initial(b"\x01", source_id=source_id) for _ in range(1_000)), rate=1_000)


@case(
    "connections above the limit",
    "100 clients at once where 40 may be connected: the rest is told to come back, or dropped",
    gauge("transport.connections", most=40 + 2),
    saw("connected for good", most=40 - HEALTHY, least=40 - HEALTHY),
    moved("transport.connections_refused", least=1),
    memory(24),
    off=Off("no bound of connections", sets=("transport.max_connections=1000000",)),
    sets=("transport.max_connections=40",),
)
async def too_many(attacker: Attacker) -> None:
    clients = []

    async def one() -> None:
        with suppress(ConnectionError):
            clients.append(await attacker.connect())

    tasks = [asyncio.ensure_future(one()) for _ in range(100)]
    await asyncio.wait(tasks, timeout=3.0)
    for task in tasks:
        task.cancel()
    await attacker.note_closes(clients, wait_s=0.5)
    attacker.seen["connected for good"] = attacker.seen["left open"]
