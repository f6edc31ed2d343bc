"""A page's session over a reload, an outage, a change of the way in, a restart of the gateway.

The numbers that a service pushes all along say that nothing is lost, and nothing told twice.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gatesvr import Client

from .conftest import WAYS, Gateway, Open, Serve, Way
from .relay import relay

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

OUTAGE_S = 5.0


async def test_a_reload_in_mid_stream(gateway: Gateway, open_tab: Open, way: Way) -> None:
    openid = f"reload-{way}"
    async with open_tab(gateway.web, way, openid=openid) as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        pushing = asyncio.create_task(gateway.push(openid, range(400)))
        for n in range(4):
            await tab.until("least => told('notifies').length > least", 80 * n)
            await tab.page.reload()
            await tab.connected()
            assert await tab.get("[client.sessionId, client.connects.resumed]") == [session, 1]
            assert await tab.get("ask(0, 50)") == [f"{n}" for n in range(50)]
        await pushing
        await tab.has_numbers(range(400))


async def test_offline_and_back(gateway: Gateway, open_tab: Open, way: Way) -> None:
    openid = f"offline-{way}"
    async with relay(gateway.web) as network, open_tab(network.address, way, openid=openid) as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        await gateway.push(openid, range(20))
        await tab.has_numbers(range(20))
        # The browser says so to the page, and opens nothing; what is open it leaves to the network.
        network.cut()
        await tab.page.context.set_offline(True)
        await tab.until("client.state === 'reconnecting'")
        asked = asyncio.create_task(tab.get("ask(0, 50)"))
        await gateway.push(openid, range(20, 40))
        await asyncio.sleep(OUTAGE_S)
        assert await tab.get("[client.state, told('notifies').length]") == ["reconnecting", 20]
        network.mend()
        await tab.page.context.set_offline(False)
        assert await asked == [f"{n}" for n in range(50)]
        await gateway.push(openid, range(40, 60))
        await tab.has_numbers(range(60))
        assert await tab.get("client.sessionId") == session
        assert await tab.get("client.connects") == {"total": 2, "resumed": 1}


async def test_an_outage_that_nobody_tells_of(serve: Serve, open_tab: Open, way: Way) -> None:
    # Heartbeats each second: two unanswered ones end the connection.
    async with (
        serve(way.backend, "session.heartbeat_interval=1s") as gateway,
        relay(gateway.web) as network,
        open_tab(network.address, way, openid="ann") as tab,
    ):
        await tab.connected()
        network.cut()
        await gateway.push("ann", range(20))
        await tab.until("client.state === 'reconnecting'")
        network.mend()
        await tab.has_numbers(range(20))
        assert await tab.get("ask(0, 5)") == ["0", "1", "2", "3", "4"]
        assert await tab.get("client.connects.resumed") >= 1


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
async def test_a_network_that_changes_the_address(
    gateway: Gateway, open_tab: Open, way: Way
) -> None:
    openid = f"moved-{way}"
    async with relay(gateway.web) as network, open_tab(network.address, way, openid=openid) as tab:
        await tab.connected()
        session = await tab.get("client.sessionId")
        before = (await gateway.services.info(session)).connection
        for n in range(3):
            assert await tab.get("ask(0, 10)") == [f"{n}" for n in range(10)]
            await gateway.push(openid, range(10 * n, 10 * n + 10))
            await tab.has_numbers(range(10 * n + 10))
            network.rebind()
        assert (await gateway.services.info(session)).connection != before
        assert await tab.get("client.connects.total") == 1


async def test_a_session_goes_from_quic_to_the_page_and_back(
    gateway: Gateway, open_tab: Open, way: Way
) -> None:
    openid = f"moves-{way}"
    async with Client(gateway.quic, openid=openid, insecure=True) as first:
        assert (await first.request("echo", b"one")).data == b"one"
        session = first.session_id
        state = json.loads(await first.suspend())
    await gateway.push(openid, range(10))
    async with open_tab(
        gateway.web, way, openid=openid, storage=False, start=False, resume=_camel(state)
    ) as tab:
        await tab.get("client.connect()")
        assert await tab.get("client.sessionId") == session
        await tab.has_numbers(range(10))
        assert await tab.get("ask(0, 20)") == [f"{n}" for n in range(20)]
        assert (await gateway.services.info(session)).transport == way.transport
        state = _snake(json.loads(await tab.get("client.suspend()")))
        await gateway.push(openid, range(10, 20))
    async with Client(
        gateway.quic, openid=openid, insecure=True, resume=json.dumps(state).encode()
    ) as last:
        assert last.session_id == session
        assert (await last.request("echo", b"two")).data == b"two"
        async with asyncio.timeout(60):
            assert [int((await anext(last)).data) for _ in range(10)] == list(range(10, 20))
        assert (await gateway.services.info(session)).transport == "quic"


async def test_a_gateway_that_is_killed_and_is_back(serve: Serve, open_tab: Open, way: Way) -> None:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(serve(way.backend))
        tab = await stack.enter_async_context(open_tab(gateway.web, way, openid="ann"))
        await tab.connected()
        session = await tab.get("client.sessionId")
        await gateway.push("ann", range(10))
        await tab.has_numbers(range(10))
        gateway.server.process.kill()
        await gateway.server.process.wait()
        again = await stack.enter_async_context(serve(way.backend, bind=gateway.web))
        # A request that is under way, for the page may not know yet, fails with the session.
        await tab.get("client.request('echo', '').catch(() => null)")
        assert await tab.get("ask(0, 10)") == [f"{n}" for n in range(10)]
        assert await tab.get("told('sessionLost')") == [[False, 0]]
        assert await tab.get("client.sessionId") != session
        await again.push("ann", range(10, 20))
        await tab.until("told('notifies').length >= 20")
        assert await tab.numbers() == list(range(20))
        assert await tab.get("[told('sessionLost').length, client.counters.sessionLosses]") == [
            1,
            1,
        ]


def _camel(state: dict[str, Any]) -> str:
    """Return the Python client's state as the JavaScript client writes it."""
    names = {"client_id": "clientId", "session_id": "sessionId", "resume_token": "resumeToken"}
    return json.dumps({names.get(key, key): value for key, value in state.items()})


def _snake(state: dict[str, Any]) -> dict[str, Any]:
    names = {"clientId": "client_id", "sessionId": "session_id", "resumeToken": "resume_token"}
    return {names.get(key, key): value for key, value in state.items()}
