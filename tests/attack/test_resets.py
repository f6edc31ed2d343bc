"""Datagrams for connections that nobody knows: the answers are fewer and shorter."""

from __future__ import annotations

import random
import socket
import time

import pytest

from gatesvr.transport.quic.reset import MAX_RESET_BURST, MAX_RESETS_PER_S, MIN_RESET_BYTES

from ..transport.harness import serving

FLOOD = 20_000
TRICKLE = 2_000
BATCH = 50  # fits into any receive buffer


@pytest.mark.parametrize("size", [MIN_RESET_BYTES, MIN_RESET_BYTES + 1, 43, 44, 1200])
async def test_a_flood_is_not_amplified(backend: str, size: int) -> None:
    rng = random.Random(size)
    async with serving(backend) as gateway:
        healthy, connection = await gateway.connect(backend)
        await healthy.exchange(b"before")
        counters = gateway.listener.counters
        bytes_before = (counters.bytes_received, counters.bytes_sent)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.connect(gateway.listener.address)
            began = time.monotonic()
            for sent in range(BATCH, TRICKLE + 1, BATCH):
                for _ in range(BATCH):
                    attacker.send(b"\x40" + rng.randbytes(size - 1))
                await gateway.until(lambda sent=sent: counters.datagrams_unknown >= sent)
            lasted = time.monotonic() - began
        answered, limited = counters.resets_sent, counters.resets_limited
        assert answered + limited == (TRICKLE if size > MIN_RESET_BYTES else 0)
        assert answered <= MAX_RESET_BURST + MAX_RESETS_PER_S * lasted
        counters = gateway.listener.counters  # these of the sockets are brought up to date here
        received = counters.bytes_received - bytes_before[0]
        assert received >= TRICKLE * size
        assert counters.bytes_sent - bytes_before[1] < received
        await healthy.exchange(b"after")
        await connection.close()


async def test_a_flood_at_once_is_cut(backend: str) -> None:
    rng = random.Random(1)
    async with serving(backend) as gateway, serving(backend) as other:
        listener, counters = gateway.listener, gateway.listener.counters
        victim = other.listener.address  # whom the attacker's datagrams name as their sender
        now = time.monotonic() + 100
        for step in range(10):
            batch = [(b"\x40" + rng.randbytes(1199), victim) for _ in range(FLOOD // 10)]
            listener._datagrams_received(batch, now + step / 10)
        # A second's worth, and what may come at once.
        assert counters.resets_sent <= MAX_RESET_BURST + MAX_RESETS_PER_S
        assert counters.resets_sent + counters.resets_limited == FLOOD
        assert counters.resets_limited >= FLOOD - MAX_RESET_BURST - MAX_RESETS_PER_S
        assert listener._door.endpoint is not None
        answers = sum(len(data) for data, _ in listener._door.endpoint._out)
        assert answers * 25 < FLOOD * 1200
