"""A client that fills a service which never answers: the others notice nothing."""

from __future__ import annotations

from gatesvr._pb import message_pb2 as pb

from ..e2e.harness import counter, running_gateway
from ..e2e.plain_client import answer, business, error, plain_client
from ..e2e.plain_upstream import plain_upstream
from ..fakes import until

WORKERS = 16
OPEN = 14
"""Places that one session can take."""
QUEUE = 8


async def test_others_are_answered_while_one_fills_a_service(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(
            backend,
            upstream.address,
            f"dispatch.max_workers={WORKERS}",
            "dispatch.workers=1",
            "dispatch.drain_timeout=0",
            f"dispatch.max_queue_size={QUEUE}",
        ) as gateway,
        plain_client(gateway.address) as greedy,
        plain_client(gateway.address) as healthy,
    ):
        await greedy.login("greedy")
        await healthy.login("healthy")
        asked = WORKERS + QUEUE
        greedy.send(*(business(seq, "silent") for seq in range(2, 2 + asked)))
        refusal = await greedy.receive()
        assert (refusal.type, error(refusal).error_code) == (pb.PUSH_ERROR, 503)
        assert error(refusal).retry_after_ms > 0
        await until(lambda: upstream.calls["silent"] == OPEN)
        for seq in range(2, 12):  # another service, and the same one
            healthy.send(business(seq, "zone_echo" if seq % 2 else "echo", b"%d" % seq))
            assert answer(await healthy.receive()).data == b"%d" % seq
        queued = counter(gateway, "dispatch.queued")
        assert 0 < queued < QUEUE
        assert counter(gateway, "dispatch.refused_full") == asked - OPEN - queued
        assert (upstream.calls["silent"], counter(gateway, "dispatch.running")) == (OPEN, OPEN)
