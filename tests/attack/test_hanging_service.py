"""Clients that fill a service which never answers: those of another service notice nothing."""

from __future__ import annotations

from gatesvr._pb import message_pb2 as pb

from ..e2e.harness import counter, running_gateway
from ..e2e.plain_client import answer, business, error, plain_client
from ..e2e.plain_upstream import plain_upstream
from ..fakes import until

WORKERS = 4
QUEUE = 8


async def test_other_services_answer_while_one_hangs(backend: str) -> None:
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
        await until(lambda: upstream.calls["silent"] == WORKERS)
        for seq in range(2, 7):
            healthy.send(business(seq, "zone_echo", b"%d" % seq))
            assert answer(await healthy.receive()).data == b"%d" % seq
        queued = counter(gateway, "dispatch.queued")
        refused = counter(gateway, "dispatch.refused_full")
        assert queued < QUEUE
        healthy.send(business(7, "silent"))  # the greedy one has left room for others
        await until(lambda: counter(gateway, "dispatch.queued") == queued + 1)
        assert counter(gateway, "dispatch.refused_full") == refused == asked - WORKERS - queued
