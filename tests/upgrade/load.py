"""Clients of our SDK under an upgrade: each asks, is pushed to, and checks what comes of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from gatesvr import Client
from gatesvr.service.gateway_client import GatewayClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Load", "loaded"]


class _Client:
    """One client: what it sent and what it got."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked = self.answered = 0
        self.pushed = 0
        self.notifies: list[int] = []
        self.errors: list[str] = []
        self.silence_s = 0.0
        self.heard_at = asyncio.get_running_loop().time()

    def heard(self) -> None:
        now = asyncio.get_running_loop().time()
        self.silence_s = max(self.silence_s, now - self.heard_at)
        self.heard_at = now

    async def ask(self, pause: float, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.asked += 1
            data = str(self.asked).encode()
            try:
                answer = await self.client.request("echo", data)
                if answer.data != data:
                    self.errors.append(f"asked {data!r}, got {answer.data!r}")
                self.answered += 1
            except Exception as error:
                self.errors.append(f"request: {error!r}")
            self.heard()
            await asyncio.sleep(pause)

    async def read(self) -> None:
        while True:
            try:
                notify = await anext(self.client)
            except StopAsyncIteration:
                return
            except Exception as error:
                self.errors.append(f"notify: {error!r}")
                if getattr(error, "is_final", False):
                    return
                continue
            self.heard()
            self.notifies.append(int(notify.data))


class Load:
    """What all clients did.

    Attributes:
        clients: They.
        unsure: Pushes that may have been taken, and were not repeated.
        push_errors: Pushes that the gateway refused.
    """

    def __init__(self) -> None:
        self.clients: list[_Client] = []
        self.push_errors: list[str] = []
        self.repeats = 0

    async def push(self, address: str, pause: float, stop: asyncio.Event) -> None:
        async with GatewayClient(address) as pusher:
            while not stop.is_set():
                for each in self.clients:
                    number = each.pushed + 1
                    push_id = f"{each.client.openid}-{number}"
                    while True:
                        try:
                            result = await pusher.push(
                                each.client.openid or "",
                                msg_type="n",
                                data=str(number).encode(),
                                push_id=push_id,
                            )
                            if getattr(result, "success", True):
                                break
                            error: object = result
                        except Exception as raised:
                            error = raised
                        self.repeats += 1
                        if len(self.push_errors) < 20:
                            self.push_errors.append(repr(error))
                        if stop.is_set() and self.repeats > 1000:
                            return
                        await asyncio.sleep(0.02)
                    each.pushed = number
                    if stop.is_set():
                        break
                await asyncio.sleep(pause)

    def faults(self) -> list[str]:
        """Return what should not have been: errors, losses, repeats, disorder."""
        found: list[str] = []
        for each in self.clients:
            found += each.errors
            if each.asked != each.answered:
                found.append(f"{each.asked} asked, {each.answered} answered")
            wanted = list(range(1, each.pushed + 1))
            if each.notifies != wanted:
                found.append(
                    f"pushed {each.pushed}, got {each.notifies[-5:]} ({len(each.notifies)})"
                )
        return found


@asynccontextmanager
async def loaded(
    udp: str, grpc: str, *, clients: int, backend: str, pause: float
) -> AsyncIterator[Load]:
    """Keep clients busy within the block; behind it everything has come or will not."""
    load = Load()
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        for number in range(clients):
            client = Client(udp, openid=f"user{number}", insecure=True, transport=backend)
            await stack.enter_async_context(client)
            load.clients.append(_Client(client))
        tasks = [asyncio.create_task(load.push(grpc, pause, stop))]
        tasks += [asyncio.create_task(each.ask(pause, stop)) for each in load.clients]
        readers = [asyncio.create_task(each.read()) for each in load.clients]
        try:
            yield load
        finally:
            stop.set()
            try:
                async with asyncio.timeout(30):
                    await asyncio.gather(*tasks)
                    while any(len(each.notifies) < each.pushed for each in load.clients):
                        await asyncio.sleep(0.01)
            except TimeoutError:
                pass
            finally:
                for task in (*tasks, *readers):
                    task.cancel()
                await asyncio.gather(*tasks, *readers, return_exceptions=True)
