"""Requests that wait behind an unanswered hello: the smallest ones cost the gateway little, too."""

from __future__ import annotations

from gatesvr._pb import message_pb2 as pb

from ..e2e.harness import counter, running_gateway
from ..e2e.plain_client import business, frame, plain_client
from ..e2e.plain_upstream import plain_upstream

CHUNK = 1_000
MAX_HELD = 8_192
"""At some 270 bytes of memory each."""
SMALLEST = pb.ClientRequest(msg_id=1, type=pb.REQUEST_BUSINESS)


async def test_the_smallest_requests_are_held_by_their_number(backend: str) -> None:
    async with plain_upstream() as upstream, running_gateway(backend, upstream.address) as gateway:
        upstream.hello_gate.clear()
        async with plain_client(gateway.address) as bad:
            started = await bad.start("bad")
            assert started.success
            bad.send(business(1, "hello"))
            await upstream.until_asked("hello")
            flood = frame(SMALLEST.SerializeToString()) * CHUNK
            assert len(flood) == 8 * CHUNK
            for _ in range(MAX_HELD // CHUNK):
                bad.send_bytes(flood)
                await bad.ping()
            assert bad.terminated is None
            bad.send_bytes(flood)
            assert await bad.closed() == 4429
        assert counter(gateway, "dispatch.held_overflows") == 1
        # The hello is still out: its session waits for the client, and gets its answer.
        assert counter(gateway, "session.sessions") == 1
        upstream.hello_gate.set()
