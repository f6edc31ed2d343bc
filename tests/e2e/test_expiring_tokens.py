"""Clients whose tokens expire one after another, under load: nothing is lost.

A hundred of them in the tests; GATESVR_TEST_CLIENTS=1000 takes two minutes a backend.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest

from gatesvr.bench.client import Fleet, LoadClient
from gatesvr.bench.meter import Recorder
from gatesvr.bench.scenario import Plan
from gatesvr.protocol.events import AuthAnswered, ClientEvent, Notify
from gatesvr.transport.addresses import Place

from ..auth.tokens import SECRET, token
from .bad_network import bad_network
from .harness import counter, running_gateway
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from pathlib import Path

    from gatesvr.gateway import Gateway

    from .bad_network import BadNetwork

CLIENTS, NETWORKS = int(os.environ.get("GATESVR_TEST_CLIENTS", "120")), 10
APART_S, LIFE_S = 0.01, 20
"""The time from one client's new token to the next client's, and the life of each."""
LEEWAY_S = 20
"""How long a session outlives its token: for machines that are slow."""
LONG_S = 600
"""Life of the tokens that clients come in with."""
PATIENCE_S = 200.0
HARMLESS = ("cannot connect", "connection lost", "no answer to START")
"""Failures of connections that were moved or cut while they came up: the client tries again."""
TURN_S = 0.05
ASKING, PUSHED = 4, 2
"""Clients that ask, and that are pushed to, each turn."""
MOVE_S = 2.0
"""How often the clients of one network move to other ports."""


class ExpiringClient(LoadClient):
    """A client that brings its next token when one expires: by AUTH, or by a resume."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        super().__init__(fleet, number)
        self._life = LONG_S
        self._is_coming_back = False
        self._timer: asyncio.TimerHandle | None = None

    async def connect(self) -> bool:
        """Connect with a new token."""
        self._session.auth_token = self._new_token()
        return await super().connect()

    def renew_in(self, seconds: float) -> None:
        """Bring a new token then, and another one whenever the last has expired."""
        self._timer = self.fleet.loop.call_later(seconds, self._renew)

    def stop(self) -> None:
        """Bring no more tokens."""
        if self._timer is not None:
            self._timer.cancel()

    def ask(self, now: float) -> None:
        """Send a request."""
        seq = self.protocol.send_request("echo", b"x", None, now=now)
        self.fleet.checker.asked(self.openid, f"{self.openid}/{seq}")
        self.flush()

    def notified(self, event: Notify, now: float) -> None:
        """Report a push by the name that is its data."""
        self.fleet.checker.delivered(self.session_id, event.seq, push=event.data.decode())
        self.protocol.acknowledge(event.seq, now)

    def handle(self, event: ClientEvent, now: float) -> None:
        """Report a renewal that was refused."""
        if isinstance(event, AuthAnswered) and event.code:
            self.fleet.fail(f"not renewed: {event.code} {event.message}")
        super().handle(event, now)

    def lost_connection(self, why: str) -> None:
        """Come back: the address had changed once too often, or the network was slow."""
        if self.is_connecting:
            super().lost_connection(why)
        else:
            self.come_back()

    def come_back(self) -> None:
        """Connect again, as often as it takes."""
        if not self._is_coming_back:
            self._is_coming_back = True
            self.fleet.spawn(self._come_back())

    async def _come_back(self) -> bool:
        while not await self.connect():
            await asyncio.sleep(0.5)
        self._is_coming_back = False
        return True

    def _renew(self) -> None:
        self._life = LIFE_S
        self.renew_in(LIFE_S)
        if not self.is_up:
            return  # it is about to come back, with a new token
        if self.number % 3:
            self.protocol.renew(self._new_token())
            self.flush()
        else:
            self.cut()
            self.come_back()

    def _new_token(self) -> str:
        return token(SECRET, "HS256", sub=self.openid, exp=time.time() + self._life)


async def load(gateway: Gateway, fleets: list[Fleet]) -> None:
    """Ask and push, all clients in turn."""
    clients = [client for fleet in fleets for client in fleet.clients]
    chance = random.Random(1)
    for turn in count():
        for i in range(turn * ASKING, (turn + 1) * ASKING):
            client = clients[i % len(clients)]
            if client.is_up and isinstance(client, ExpiringClient):
                client.ask(time.monotonic())
        for i in range(PUSHED):
            client, name = chance.choice(clients), f"push {turn} {i}"
            result = await gateway.push(client.openid, data=name.encode())
            assert result.success, result
            client.fleet.checker.pushed(client.session_id, name)
        await asyncio.sleep(TURN_S)


async def move(networks: list[BadNetwork]) -> None:
    """Give the clients of one network after another new addresses."""
    while True:
        for network in networks:
            await asyncio.sleep(MOVE_S)
            network.change_source_ports()


@pytest.mark.long
async def test_nothing_is_lost_while_tokens_expire(backend: str, tmp_path: Path) -> None:
    asyncio.get_running_loop().set_debug(False)
    key = tmp_path / "secret"
    key.write_bytes(SECRET)
    sets = (
        "auth.mode=jwt",
        "auth.algorithms=['HS256']",
        f"auth.key={key}",
        "auth.audience=gatesvr",
        "auth.issuer=https://id.test",
        f"auth.leeway={LEEWAY_S}s",
        f"session.max_inited_per_address={CLIENTS}",
        "dispatch.task_timeout=60s",
    )
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(plain_upstream())
        gateway = await stack.enter_async_context(running_gateway(backend, upstream.address, *sets))
        networks, fleets = [], []
        each = CLIENTS // NETWORKS
        for number in range(NETWORKS):
            network = await stack.enter_async_context(bad_network(gateway.address, number))
            networks.append(network)
            plan = Plan(
                scenario="echo",
                clients=CLIENTS,
                backend=backend,
                server=Place(*network.address),
                insecure=True,
                timeout=30.0,
            )
            numbers = range(number * each, (number + 1) * each)
            fleet = Fleet(plan, ExpiringClient, numbers, Recorder())
            stack.push_async_callback(fleet.close)
            fleets.append(fleet)
        for fleet in fleets:
            await fleet.connect(lambda done: None)
        clients = [client for fleet in fleets for client in fleet.clients]
        assert all(client.is_up for client in clients)

        for client in clients:
            assert isinstance(client, ExpiringClient)
            client.fleet.is_running = True
            client.renew_in(APART_S * client.number)
        tasks = [asyncio.create_task(load(gateway, fleets)), asyncio.create_task(move(networks))]
        # Until no session could live by its first short token alone.
        over_at = time.monotonic() + APART_S * CLIENTS + LIFE_S + LEEWAY_S + 2
        while time.monotonic() < over_at and not any(task.done() for task in tasks):
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []
        for client in clients:
            assert isinstance(client, ExpiringClient)
            client.stop()
        async with asyncio.timeout(PATIENCE_S):
            while not all(client.is_up for client in clients):
                await asyncio.sleep(0.05)
        await asyncio.gather(
            *(fleet.drain(lambda fleet=fleet: not len(fleet.checker)) for fleet in fleets)  # type: ignore[misc]
        )
        assert [finding for fleet in fleets for finding in fleet.checker.findings] == []
        failures = {why for fleet in fleets for why in fleet.failures}
        assert [why for why in failures if not why.startswith(HARMLESS)] == []
        stats = gateway.stats()
        assert stats["session"]["auth_expired"] == 0
        assert [n for n, v in stats["auth"].items() if n.startswith("refused") and v] == []
        assert counter(gateway, "auth.renewed") > CLIENTS
        assert counter(gateway, "session.resumes") > CLIENTS // 2
        assert counter(gateway, "transport.address_changes") > CLIENTS
        print({name: int(stats[layer][name]) for layer, name in FIGURES})


FIGURES = (
    ("auth", "authenticated"),
    ("auth", "renewed"),
    ("session", "resumes"),
    ("transport", "address_changes"),
    ("dispatch", "answers"),
    ("push", "pushes"),
)
