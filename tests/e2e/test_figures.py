"""Gateway.figures(): what clients have done is in them."""

from __future__ import annotations

import os
import time

import pytest

from gatesvr import Gateway
from gatesvr.config import load

from ..fakes import until
from .harness import running_gateway
from .plain_client import business, plain_client
from .plain_upstream import plain_upstream


@pytest.mark.parametrize("stages", ["true", "false"])
async def test_figures_tell_what_was_done(backend: str, stages: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, f"metrics.stages={stages}") as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(*(business(seq, "echo", b"x") for seq in range(2, 52)))
        for _ in range(50):
            await client.receive()
        figures = gateway.figures()
        assert (figures.backend, figures.core) == (backend, "compiled")
        assert figures.pid == os.getpid()
        assert (figures.ready, figures.not_ready, figures.draining) == (True, [], False)
        assert figures.sessions == {"inited": 0, "normal": 1, "suspended": 0}
        assert (figures.connections, figures.handshakes, figures.in_flight) == (1, 0, 0)
        assert figures.workers > figures.workers_busy == 0
        assert figures.certificate_expires > time.time()
        assert figures.memory_bytes > 1 << 20
        assert figures.cpu_s > 0
        assert figures.uptime_s > 0
        assert figures.counters == gateway.stats()
        counts = {name: snapshot.count for name, snapshot in figures.histograms.items()}
        requests = {"queue_wait": 51, "upstream:hello": 1, "upstream:business": 50}
        requests |= {"send": 51, "request": 51}
        if stages == "false":
            requests = {"queue_wait": 0, "send": 0, "request": 0}
        # Others are of the loop and of each second.
        others = {name: counts.pop(name) for name in ("lag", "rtt", "gc_pause")}
        assert counts == {**requests, "handshake": 1, "login": 1}
        assert others["lag"] >= 1
        await until(lambda: gateway.figures().path.connections)
        assert gateway.figures().path.rtt_s > 0
        assert gateway.figures().histograms["rtt"].count >= 1


async def test_a_gateway_says_that_it_is_not_ready() -> None:
    gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
    before = gateway.figures()
    assert (before.ready, before.not_ready) == (False, ["not started"])
    await gateway.start()
    assert gateway.figures().ready
    await gateway.stop()
    after = gateway.figures()
    assert (after.ready, after.draining, after.not_ready) == (False, True, ["stopping"])
