"""Clients that send and never read, or open streams and never end them: memory stays bounded."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

from gatesvr._pb import message_pb2 as pb

from ..e2e.harness import counter, running_gateway
from ..e2e.plain_client import PlainClient, answer, business, frame, heartbeat, plain_client
from ..e2e.plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Gateway

CREDIT = 16 << 10
"""Bytes that a client takes which then gives no more credit."""
CHUNK = 1_000
MAX_CHUNKS = 200
MAX_MESSAGE = 64 << 10
MAX_UNREAD = 2 * MAX_MESSAGE + (256 << 10)
"""Unsent bytes of one connection: two of the largest messages, and what one batch adds."""

FLOODS = {
    "heartbeats": heartbeat(1),
    "unknown types": pb.ClientRequest(msg_id=1, type=9),
    "no msg_id": pb.ClientRequest(seq_id=1, type=pb.REQUEST_BUSINESS),
    "gaps": pb.ClientRequest(msg_id=1, seq_id=1 << 40, type=pb.REQUEST_BUSINESS),
}


@asynccontextmanager
async def stingy_client(gateway: Gateway) -> AsyncIterator[PlainClient]:
    """Connect; once CREDIT bytes have come, the gateway may send no more."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["gatesvr"],
        verify_mode=ssl.CERT_NONE,
        max_data=CREDIT,
        max_stream_data=CREDIT,
    )
    async with connect(
        *gateway.address, configuration=configuration, create_protocol=PlainClient
    ) as client:
        assert isinstance(client, PlainClient)
        # aioquic doubles a limit once half of it is used: this one never is.
        client._quic._write_connection_limits = lambda **_: None  # type: ignore[method-assign]
        client._quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]
        yield client


def unread(gateway: Gateway) -> int:
    """Return the most bytes that wait in one connection."""
    return max((c.unsent_bytes() for c in gateway.listener.connections), default=0)


@pytest.mark.parametrize("what", FLOODS)
async def test_unread_answers_are_bounded(backend: str, what: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(
            backend, upstream.address, f"session.max_message_bytes={MAX_MESSAGE}"
        ) as gateway,
        plain_client(gateway.address) as healthy,
        stingy_client(gateway) as bad,
    ):
        await healthy.login("healthy")
        await bad.login("bad")
        flood = frame(FLOODS[what].SerializeToString()) * CHUNK
        most = chunks = 0
        while bad.terminated is None and chunks < MAX_CHUNKS:
            bad.send_bytes(flood)
            with suppress(ConnectionError):
                await bad.ping()
            chunks += 1
            most = max(most, unread(gateway))
        assert most <= MAX_UNREAD
        assert chunks < MAX_CHUNKS
        assert await bad.closed() == 4429
        assert counter(gateway, "dispatch.unread_overflows") == 1
        assert counter(gateway, "session.suspended") == 1
        healthy.send(business(2, "echo", b"fine"))
        assert answer(await healthy.receive()).data == b"fine"
