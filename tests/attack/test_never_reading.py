"""Clients that send and never read, or open streams and never end them: memory stays bounded."""

from __future__ import annotations

from contextlib import suppress

import pytest

from gatesvr._pb import message_pb2 as pb

from ..e2e.harness import counter, running_gateway, unread
from ..e2e.plain_client import answer, business, frame, heartbeat, plain_client, stingy_client
from ..e2e.plain_upstream import plain_upstream

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


@pytest.mark.parametrize("what", FLOODS)
async def test_unread_answers_are_bounded(backend: str, what: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(
            backend, upstream.address, f"session.max_message_bytes={MAX_MESSAGE}"
        ) as gateway,
        plain_client(gateway.address) as healthy,
        stingy_client(gateway.address, CREDIT) as bad,
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
