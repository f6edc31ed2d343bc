"""Upstreams that break HTTP/2 or flood: each costs a bounded amount, and its own calls alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.errors import UpstreamError

from ..fakes import until
from ..upstream.servers import Streaming, ask, endpoints, parse, serving
from ..upstream.test_manager import managing
from .hostile_upstream import MAX_SENT, SCRIPTS, hostile_upstream

if TYPE_CHECKING:
    from gatesvr.upstream.manager import UpstreamManager

MIB = 1 << 20
CALLS = 12
TIMEOUT_S = 0.5


@pytest.mark.parametrize("script", SCRIPTS)
async def test_its_own_calls_alone_are_affected(script: str) -> None:
    async with (
        hostile_upstream(SCRIPTS[script]) as bad,
        serving(Streaming("good")) as good,
        managing({"bad": endpoints(bad.address), "good": endpoints(good)}) as manager,
    ):
        calls = [ask(manager, "bad", timeout=TIMEOUT_S) for _ in range(CALLS)]
        for _ in range(5):
            assert parse(await ask(manager, "good")).message == "good"
        await asyncio.wait(calls, timeout=20)
        print(
            script,
            [str(c.exception())[:80] for c in calls][:2],
            bad.connections,
            bad.sent,
            bad.most_sent,
            bad.goaways,
            manager.counters.snapshot(),
        )
