"""A gateway whose process stood still: nothing expires that was only waiting to be read."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from gatesvr.dispatch.handler import SILENT_INTERVALS
from gatesvr.observe.clock import MAX_GAP_S
from gatesvr.transport.udp.sockets import MAX_BATCH

from ..fakes import until
from ..upstream.servers import Streaming, serving
from .harness import counter, running_gateway
from .plain_client import answer, business, heartbeat, host_port, plain_client
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
STALL_S = MAX_GAP_S * 1.2
SILENCE_S = SILENT_INTERVALS * 1.0

on_both_loops = pytest.mark.parametrize("loop", LOOPS)


def run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def stand_still(seconds: float = STALL_S) -> None:
    """Do what SIGSTOP does to everything in the loop."""
    time.sleep(seconds)


def send_noise(address: str) -> None:
    """Have more wait in the gateway's socket than it reads at a time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(2 * MAX_BATCH):
            stranger.sendto(b"noise", host_port(address))


@on_both_loops
def test_a_beat_that_waits_in_the_socket_counts(backend: str, loop: str) -> None:
    run(loop, _beat(backend))


async def _beat(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "session.heartbeat_interval=1") as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(heartbeat(7))
        assert (await client.receive()).msg_id == 7
        send_noise(gateway.address)
        client.send(heartbeat(8))
        stand_still(SILENCE_S + 0.2)
        assert (await client.receive()).msg_id == 8
        assert counter(gateway, "transport.stalls") == 1
        assert counter(gateway, "transport.connections") == 1


@on_both_loops
def test_a_session_does_not_expire_meanwhile(backend: str, loop: str) -> None:
    run(loop, _resume(backend))


async def _resume(backend: str) -> None:
    sets = ("session.resume_window=1",)
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
    ):
        async with plain_client(gateway.address) as old:
            started = await old.login("alice")
        await until(lambda: counter(gateway, "session.suspended") == 1)
        stand_still()
        async with plain_client(gateway.address) as new:
            assert (await new.resume(started, 1)).resumed
        assert counter(gateway, "session.expired") == 0


@on_both_loops
def test_an_answer_that_waits_is_not_late(backend: str, loop: str) -> None:
    run(loop, _answer(backend))


async def _answer(backend: str) -> None:
    # On a stream: a unary call's deadline would run on in the server, which stands still here, too.
    upstream = Streaming()
    async with (
        serving(upstream) as address,
        running_gateway(backend, address, "dispatch.task_timeout=1") as gateway,
        plain_client(gateway.address) as client,
    ):
        await until(lambda: {found.state for found in gateway.upstream.endpoints()} == {"stream"})
        await client.login("alice")
        client.send(business(2, "gate", b"x", ack=1))
        await until(lambda: "gate" in upstream.actions)
        upstream.gate.set()
        stand_still()
        assert answer(await client.receive()).code == 200


@on_both_loops
def test_a_client_that_waits_for_a_sign_of_life_gets_it_at_once(backend: str, loop: str) -> None:
    run(loop, _sign_of_life(backend))


async def _sign_of_life(backend: str) -> None:
    idle_s = 1.6 * STALL_S  # a PING is due at half of it
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, f"transport.idle_timeout={idle_s}") as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.start("alice")
        (connection,) = gateway.listener.connections
        before = counter(gateway, "transport.pings_sent")
        stand_still()
        gateway.listener._clock.now()
        await asyncio.sleep(0)  # the stall is found
        assert connection._last_received + idle_s / 2 < gateway.listener._clock.now()
        await until(lambda: counter(gateway, "transport.pings_sent") > before)
