"""Callers of the push port while workers are replaced: each push comes once, and none fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from itertools import count

import pytest

from gatesvr import Client
from gatesvr.service.gateway_client import GatewayClient
from gatesvr.service.push_api import Push

from ..e2e.test_workers import workers

UPGRADES = 3
DEADLINE_S = 90.0


@pytest.mark.long
async def test_no_caller_sees_an_upgrade(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "ERROR")
    numbers = count(1)
    pushed: list[str] = []
    came: list[str] = []
    is_over = False

    async def push(api: GatewayClient) -> None:
        content = str(next(numbers))
        assert (await api.push("ann", content=content)).success
        pushed.append(content)

    async def push_by_one_connection(address: str) -> None:
        async with GatewayClient(address) as api:
            while not is_over:
                await push(api)

    async def push_by_many_connections(address: str) -> None:
        while not is_over:
            async with GatewayClient(address) as api:
                await push(api)

    async def broadcast(address: str) -> None:
        async with GatewayClient(address) as api:
            while not is_over:
                content = str(next(numbers))
                assert (await api.broadcast(content=content, suspended=True)).success
                pushed.append(content)
                await asyncio.sleep(0.05)

    async def push_in_order(address: str) -> None:
        async with GatewayClient(address) as api, api.push_stream() as stream:
            while not is_over:
                contents = [str(next(numbers)) for _ in range(3)]
                results = await stream.push(*(Push("ann", content=each) for each in contents))
                assert all(result.success for result in results)
                pushed.extend(contents)
                await asyncio.sleep(0.005)

    async def read(client: Client) -> None:
        async for notify in client:
            came.append(notify.content)

    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        supervisor, ready = await stack.enter_async_context(workers(f"transport.backend={backend}"))
        client = Client(ready.udp, openid="ann", insecure=True, transport=backend)
        await stack.enter_async_context(client)
        reading = asyncio.create_task(read(client))
        async with asyncio.TaskGroup() as group:
            for work in (
                push_by_one_connection,
                push_by_many_connections,
                broadcast,
                push_in_order,
            ):
                group.create_task(work(ready.grpc))
            for _ in range(UPGRADES):
                await supervisor.upgrade(lambda: supervisor.config)
                while supervisor.upgrade_status().phase != "done":
                    await asyncio.sleep(0.05)
            is_over = True
        while len(came) < len(pushed):
            await asyncio.sleep(0.01)
        reading.cancel()
    assert Counter(came) == Counter(pushed)
