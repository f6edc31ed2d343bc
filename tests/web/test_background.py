"""Tabs in the background for a minute, with their timers held back by the browser."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from .cdp import BareTab, throttling_chromium
from .conftest import ARGS, CHROMIUM, WAYS, Certificate, Serve, page_url

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

HIDDEN_S = 60
# Heartbeats each 3 s; who is silent for 9 s is cut off. A frozen page is not, over a WebSocket, for
# the browser answers pings: the short window for resumes shows it. WebTransport Chromium ends when
# it freezes the page, which then resumes.
SETS = {
    "websocket": ("transport.idle_timeout=12s", "session.resume_window=5s"),
    "webtransport": ("transport.idle_timeout=12s", "session.resume_window=120s"),
}
TICK = "void (window.ticks = 0, function tick() { ticks++; setTimeout(tick, 100); }())"
NUMBERS = "told('notifies').map(([, text]) => Number(text))"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: make browser installs it")
async def test_a_minute_in_the_background(
    serve: Serve, site: str, certificate: Certificate, tmp_path: Path
) -> None:
    """Connections hold, of pages whose timers run once a minute and of those that stand still."""
    assert CHROMIUM is not None
    async with AsyncExitStack() as stack:
        chromium = await stack.enter_async_context(throttling_chromium(CHROMIUM, tmp_path, *ARGS))
        gateways = await asyncio.gather(
            *(stack.enter_async_context(serve(way.backend, *SETS[way.transport])) for way in WAYS)
        )
        hidden: list[BareTab] = []
        frozen: list[BareTab] = []
        for way, gateway in zip(WAYS, gateways, strict=True):
            for tabs in (hidden, frozen):
                tab = await chromium.open(
                    page_url(site, certificate, gateway.web, way, openid="ann")
                )
                await tab.until("window.client?.isConnected")
                await tab.get(TICK)
                tabs.append(tab)
        front = await chromium.open("about:blank")
        assert await front.get("document.visibilityState") == "visible"
        for tab in frozen:
            await tab.get("ticks = 0")
            await tab.freeze()
        pushed = 0
        ends_at = asyncio.get_running_loop().time() + HIDDEN_S
        while asyncio.get_running_loop().time() < ends_at:
            numbers = range(pushed, pushed + 1)
            await asyncio.gather(*(gateway.push("ann", numbers) for gateway in gateways))
            pushed += 1
            await asyncio.sleep(1.0)
        for tab in hidden:
            assert await tab.get(NUMBERS) == list(range(pushed))
            assert await tab.get("client.connects.total") == 1
        for tab in frozen:
            assert await tab.get("ticks") < HIDDEN_S / 6, "the page did not stand still"
            # A WebSocket Chromium ends now, and not before.
            await tab.thaw()
        await asyncio.gather(*(_goes_on(tab, pushed) for tab in hidden + frozen))


async def _goes_on(tab: BareTab, pushed: int) -> None:
    """Expect that a page was told everything once, and that in the background it resumes too."""
    await tab.until(f"told('notifies').length >= {pushed}")
    assert await tab.get(NUMBERS) == list(range(pushed))
    assert await tab.get("client.connects.total") <= 2
    assert await tab.get("[ticks < 300, document.visibilityState]") == [True, "hidden"]
    await tab.get("client.drop()")
    assert await tab.get("ask(0, 3)") == ["0", "1", "2"]
    assert await tab.get("client.connects.resumed >= 1")
    assert await tab.get("[client.state, told('lost'), told('sessionLost')]") == [
        "connected",
        [],
        [],
    ]
