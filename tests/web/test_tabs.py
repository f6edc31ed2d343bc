"""Several tabs, tabs that are kicked, hidden, frozen, left and shown again; and the race."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr._pb import upstream_pb2 as up

from .conftest import Gateway, Open, Serve, Way, watched
from .relay import relay

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

LIMIT_MS = 1_500
"""Longest way to a session by WebSocket where UDP is blocked."""
MAX_TRIES = 5
"""Of a page on a machine that does something else."""


async def test_two_tabs_have_two_sessions(gateway: Gateway, open_tab: Open, way: Way) -> None:
    openid = f"tabs-{way}"
    async with (
        open_tab(gateway.web, way, openid=openid) as one,
        open_tab(gateway.web, way, openid=openid, context=one.page.context) as two,
    ):
        await one.connected()
        await two.connected()
        # The browser copies what the first tab has stored into the third.
        async with one.page.context.expect_page() as opening:
            await one.get("void window.open(location.href)")
        three = watched(await opening.value)
        await three.connected()
        assert await three.get("told('states').slice(0, 3)") == [
            "connecting",
            "connected",
            "connecting",
        ]
        sessions = {await tab.get("client.sessionId") for tab in (one, two, three)}
        assert len(sessions) == 3
        await gateway.push(openid, range(50))
        for tab in (one, two, three):
            await tab.has_numbers(range(50))
        for tab in (one, two, three):
            await tab.page.reload()
            await tab.connected()
        assert {await tab.get("client.sessionId") for tab in (one, two, three)} == sessions
        assert three.complaints == []


async def test_a_kicked_tab_stays_kicked(gateway: Gateway, open_tab: Open, way: Way) -> None:
    openid = f"kicked-{way}"
    async with open_tab(gateway.web, way, openid=openid) as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        await gateway.stub.KickClient(
            up.KickRequest(target_type="session", target_id=session, reason="enough")
        )
        await tab.until("client.state === 'closed'")
        assert await tab.get("told('kicked')") == ["enough"]
        assert await tab.get("told('sessionLost')") == [[True, 4410]]
        await tab.page.context.set_offline(True)
        await tab.page.context.set_offline(False)
        await tab.get("void document.dispatchEvent(new Event('visibilitychange'))")
        assert await tab.get("ask(0, 1).catch((error) => error.isFinal)") is True
        assert await tab.get("[client.state, client.connects.total]") == ["closed", 1]
        info = await gateway.stub.GetSession(
            up.GetSessionRequest(target_type="openid", target_id=openid)
        )
        assert not info.found


@pytest.mark.parametrize("has_udp", [False, True], ids=["closed", "swallowed"])
async def test_websocket_where_udp_is_blocked(
    serve: Serve, gateways, open_tab: Open, has_udp: bool
) -> None:
    gateway = await gateways("aioquic")
    times = []
    async with relay(gateway.web, has_udp=has_udp) as network:
        network.cut_udp()
        for n in range(MAX_TRIES):
            async with open_tab(network.address, None, openid=f"blocked-{has_udp}-{n}") as tab:
                times.append(await tab.connected())
                assert await tab.get("client.transport") == "websocket"
                assert await tab.get("ask(0, 10)") == [f"{n}" for n in range(10)]
            if times[-1] <= LIMIT_MS:
                break
    print(f"UDP {'swallowed' if has_udp else 'closed'}: a session after {times} ms")
    assert min(times) <= LIMIT_MS, times


async def test_a_page_that_is_left_and_shown_again(
    gateway: Gateway, open_tab: Open, way: Way
) -> None:
    openid = f"left-{way}"
    async with open_tab(gateway.web, way, openid=openid, storage=False) as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        await gateway.push(openid, range(10))
        await tab.has_numbers(range(10))
        await tab.page.goto("about:blank")
        # Acknowledged to the last, and closed.
        async with asyncio.timeout(60):
            while (info := await gateway.services.info(session)).state != "Suspended":
                await asyncio.sleep(0.02)
        assert info.queued_messages == 0
        await gateway.push(openid, range(10, 20))
        await tab.page.go_back(wait_until="commit")
        await tab.has_numbers(range(20))
        assert await tab.get("client.sessionId") == session
        assert await tab.get("told('shown')") == [False, True]


@pytest.mark.parametrize("backend", ["aioquic", "qh3"])
async def test_webtransport_first_and_websocket_where_it_stops(
    serve: Serve, open_tab: Open, backend: str
) -> None:
    # Heartbeats each second: two unanswered ones end the connection.
    async with (
        serve(backend, "session.heartbeat_interval=1s") as gateway,
        relay(gateway.web) as network,
        open_tab(network.address, None, openid="ann") as tab,
    ):
        await tab.connected()
        session = await tab.get("client.sessionId")
        assert await tab.get("client.transport") == "webtransport"
        await gateway.push("ann", range(10))
        await tab.has_numbers(range(10))
        network.cut_udp()
        await gateway.push("ann", range(10, 20))
        await tab.has_numbers(range(20))
        assert await tab.get("ask(0, 10)") == [f"{n}" for n in range(10)]
        assert await tab.get("[client.transport, client.sessionId]") == ["websocket", session]
        # Another network may have UDP: the page tries again when it is told of one.
        network.mend()
        await tab.page.context.set_offline(True)
        await gateway.push("ann", range(20, 30))
        await tab.page.context.set_offline(False)
        await tab.has_numbers(range(30))
        assert await tab.get("[client.transport, client.sessionId]") == ["webtransport", session]


async def test_pages_of_one_site_hand_the_session_on(
    gateway: Gateway, open_tab: Open, way: Way
) -> None:
    openid = f"site-{way}"
    async with open_tab(gateway.web, way, openid=openid) as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        for n, move in enumerate(("away", "back", "away")):
            await gateway.push(openid, range(10 * n, 10 * n + 5))
            if move == "away":
                await tab.page.goto(f"{tab.page.url}&page={n}")
            else:
                await tab.page.go_back(wait_until="commit")
            await gateway.push(openid, range(10 * n + 5, 10 * n + 10))
            await tab.until("window.client?.isConnected")
            assert await tab.get("client.sessionId") == session
            await tab.has_numbers(range(10 * n + 10))
