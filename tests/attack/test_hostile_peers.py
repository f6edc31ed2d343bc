"""Hostile peers on sockets: they are closed and counted, and a client beside them is served."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from gatesvr.errors import CloseCode
from gatesvr.transport import connection
from gatesvr.transport.quic.interface import RECEIVE_WINDOW

from ..transport.harness import serving
from .hostile import (
    FLOW_CONTROL_ERROR,
    HALF_OPEN,
    HANDSHAKE,
    INITIAL,
    PROTOCOL_VIOLATION,
    ack,
    crypto,
    hostile_peer,
    ping,
    stream,
)

if TYPE_CHECKING:
    import pytest


async def test_a_broken_rule_is_counted(backend: str) -> None:
    async with serving(backend) as server:
        healthy, _ = await server.connect(backend)
        await healthy.exchange(b"before")
        async with hostile_peer(*server.listener.address) as peer:
            peer.send(ack(100_000))
            assert (await peer.until_closed())[0] == PROTOCOL_VIOLATION
        async with hostile_peer(*server.listener.address) as peer:
            peer.send(stream(0, b"x", RECEIVE_WINDOW))
            assert (await peer.until_closed())[0] == FLOW_CONTROL_ERROR
        counters = server.listener.counters
        assert counters.quic_violations == 2
        assert counters.closed_transport == 2
        await healthy.exchange(b"after")


async def test_a_full_reassembly_is_counted() -> None:
    async with serving("aioquic") as server, hostile_peer(*server.listener.address) as peer:
        for i in range(30):
            peer.send(b"".join(stream(0, b"x", 1 + 2 * (60 * i + j)) for j in range(60)))
            await peer.settle()
        assert server.listener.counters.datagrams_over_limit > 0
        assert server.listener.counters.quic_violations == 0


async def test_a_half_open_connection_reads_a_bounded_number_of_bytes(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_HANDSHAKE_BYTES", 20_000)
    async with serving(backend) as server:
        counters = server.listener.counters
        async with hostile_peer(*server.listener.address, until=HALF_OPEN) as peer:
            for i in range(40):
                epoch = INITIAL if i % 2 else HANDSHAKE
                peer.send(crypto(b"x" * 1000, 2000 + 2 * i), epoch=epoch)
                await asyncio.sleep(0)
            await server.until(lambda: counters.datagrams_over_limit > 0)
            assert len(server.listener.connections) == 1
        healthy, _ = await server.connect(backend)
        await healthy.exchange(b"after")


async def test_a_client_that_moves_all_the_time_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """qh3 follows a client only once its new address has answered, and not to a fifth."""
    monkeypatch.setattr(connection, "MAX_MOVES", 2)
    async with serving("aioquic") as server:
        counters = server.listener.counters
        healthy, _ = await server.connect("aioquic")
        async with hostile_peer(*server.listener.address) as peer:
            peer.send(stream(0, b"x"))
            assert await peer.settle()
            handler = await server.handler()
            peer.is_answering = False
            address = server.listener.address
            for moves in range(1, 4):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                    elsewhere.sendto(peer.client.packet(ping(), size=1200), address)
                    await server.until(lambda moves=moves: counters.address_changes == moves)
        assert counters.moves_limited == 1
        bad = next(h for h in server.handlers if h.lost)
        assert bad.lost[0].code == CloseCode.RATE_LIMITED
        assert bad.lost[0].reason.startswith("retry_after_ms=")
        assert not handler.lost or handler is bad
        await healthy.exchange(b"after")
