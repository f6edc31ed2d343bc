"""The client against the real gateway with the demo services."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr import Client, Gateway
from gatesvr.config import load
from gatesvr.demo import start_demo
from gatesvr.errors import RequestFailed, SessionLost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_S = 60.0


@asynccontextmanager
async def demo_gateway(backend: str, *sets: str) -> AsyncIterator[tuple[Gateway, str]]:
    addresses: list[str] = []
    async with start_demo(gateway=lambda: addresses[0]) as services:
        named = [f'upstream.services.{n}=[{{address="{a}"}}]' for n, a in services.items()]
        config = load(
            sets=[
                f"transport.backend={backend}",
                "transport.bind=127.0.0.1:0",
                "push.bind=127.0.0.1:0",
                *named,
                *sets,
            ]
        )
        async with asyncio.timeout(DEADLINE_S), Gateway(config) as gateway:
            addresses.append(gateway.grpc_address)
            yield gateway, gateway.address


async def test_requests_and_bound_notifies(backend: str) -> None:
    async with (
        demo_gateway(backend) as (_, server),
        Client(server, openid="ann", zone="003", transport=backend) as client,
    ):
        assert (await client.request("echo", b"x" * 100_000)).data == b"x" * 100_000
        answer = await client.request("notify_demo", b"a", {"before": "2", "after": "1"})
        notifies = [await anext(client) for _ in range(3)]
        seqs = [*(notify.server_seq for notify in notifies[:2]), answer.server_seq]
        seqs.append(notifies[2].server_seq)
        assert seqs == list(range(seqs[0], seqs[0] + 4))
        assert b'"zone": "003"' in (await client.request("zone_info")).data


async def test_refused_login(backend: str) -> None:
    async with (
        demo_gateway(backend) as (_, server),
        Client(server, openid="ann", transport=backend, login=False) as client,
    ):
        with pytest.raises(RequestFailed) as caught:
            await client.request("echo")
        assert caught.value.code == 401
        with pytest.raises(RequestFailed) as caught:
            await client.login(params={"deny": "1"})
        assert caught.value.code == 403
        await client.login()
        assert (await client.request("echo", b"in")).data == b"in"


async def test_second_login_replaces_the_first(backend: str) -> None:
    async with (
        demo_gateway(backend) as (_, server),
        Client(server, openid="ann", transport=backend) as first,
        Client(server, openid="ann", transport=backend) as second,
    ):
        with pytest.raises(SessionLost) as caught:
            await anext(first)
        assert caught.value.code == 4410
        assert (await second.request("echo", b"mine")).data == b"mine"


async def test_session_survives_lost_connections(backend: str) -> None:
    """Requests and notifies under way while every connection is closed, again and again."""
    async with (
        demo_gateway(backend) as (gateway, server),
        Client(server, openid="ann", transport=backend) as client,
    ):
        session_id = client.session_id
        wanted = 120

        async def ask(number: int) -> bytes:
            answer = await client.request("notify_demo", str(number).encode(), {"before": "0"})
            return answer.data

        asking = asyncio.gather(*(ask(number) for number in range(wanted)))
        for _ in range(3):
            while not client.is_connected:
                await asyncio.sleep(0.001)
            gateway.listener.close_all(4500)
            await asyncio.sleep(0)
        answers = await asking
        assert [int(data) for data in answers] == list(range(wanted))
        seqs = [(await anext(client)).server_seq for _ in range(wanted)]
        assert seqs == sorted(set(seqs))
        assert client.session_id == session_id
        assert client.counters.session_losses == 0
        assert gateway.stats()["session"]["created"] == 1


async def test_nothing_is_left_behind(backend: str) -> None:
    def tasks_of_clients() -> list[str]:
        names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        return [name for name in names if name.startswith(("Connector.", "Connection.", "Client."))]

    async with demo_gateway(backend) as (gateway, server):
        for _ in range(3):
            async with Client(server, openid="ann", transport=backend) as client:
                await client.request("echo")
                assert tasks_of_clients()
        while gateway.stats()["transport"]["tasks"]:
            await asyncio.sleep(0.001)
        assert tasks_of_clients() == []
