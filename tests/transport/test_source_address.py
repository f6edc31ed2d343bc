"""A listener on every address of the host answers from the one that was asked."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from gatesvr.config import TransportConfig
from gatesvr.transport.client import open_connection
from gatesvr.transport.quic.reset import MAX_RESET_BYTES
from gatesvr.transport.tls import client_tls

from .harness import DEADLINE_S, Recorder, Server, serving
from .test_listener import initial

# On Linux all of 127/8 is this host; other systems need to be told.
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the host has one IPv4 loopback")

io_kinds = pytest.mark.parametrize("batch_io", [True, False], ids=["batch", "plain"])
places = pytest.mark.parametrize(
    ("bind", "asked"),
    [
        ("0.0.0.0:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.2"),
        ("[::]:0", "127.0.0.2"),
        ("[::]:0", "::1"),
        ("127.0.0.2:0", "127.0.0.2"),
    ],
)


def address_of(gateway: Server, asked: str) -> tuple[str, int]:
    return asked, gateway.listener.address[1]


@places
@io_kinds
@pytest.mark.parametrize("retry", ["never", "always"])
async def test_a_connection(
    backend: str, bind: str, asked: str, retry: str, batch_io: bool
) -> None:
    async with serving(backend, bind=bind, batch_io=batch_io, retry=retry) as gateway:
        made: list[Recorder] = []

        def make(link: object) -> Recorder:
            made.append(Recorder(link))  # type: ignore[arg-type]
            return made[-1]

        connection = await open_connection(
            *address_of(gateway, asked),
            make,
            backend=backend,
            tls=client_tls(asked, insecure=True),
            config=TransportConfig(batch_io=batch_io),
        )
        data = os.urandom(200_000)  # runs of datagrams
        await made[0].exchange(b"short")
        made[0].data.clear()
        await made[0].exchange(data)
        assert gateway.listener.counters.send_errors == 0
        peer = next(iter(gateway.listener.connections)).stream.peer
        assert peer == connection.address[:2]
        # What is left of a closed connection is said again from there, too.
        gateway.handlers[0].link.close(4408, "time-out")
        assert (await made[0].until_lost()).code == 4408


@places
@io_kinds
async def test_datagrams_of_no_connection(bind: str, asked: str, batch_io: bool) -> None:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    async with serving("aioquic", bind=bind, batch_io=batch_io) as gateway:
        with socket.socket(family, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(address_of(gateway, asked))  # takes nothing from other addresses
            good = initial()
            async with asyncio.timeout(DEADLINE_S):
                await loop.sock_sendall(stranger, good[:1] + b"\x1a\x2a\x3a\x4a" + good[5:])
                header = pull_quic_header(Buffer(data=await loop.sock_recv(stranger, 2000)), 8)
                assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
                await loop.sock_sendall(stranger, b"\x41" + os.urandom(60))
                assert len(await loop.sock_recv(stranger, 2000)) == MAX_RESET_BYTES
