"""Floods of first datagrams: what they cost, what they leave, and who still comes in."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from gatesvr.transport import listener as listener_module
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.tls import client_tls

from ..transport.harness import BACKENDS, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..transport.harness import Server

PEER = ("192.0.2.1", 40001)
RUSH = 8


def hello(backend: str) -> list[bytes]:
    """Return the first datagrams of a client of the backend that will never go on."""
    quic = pick_backend(backend).client(client_tls("127.0.0.1", insecure=True), "127.0.0.1", 60.0)
    quic.connect(("127.0.0.1", 1), 0.0)
    return [data for data, _ in quic.datagrams_to_send(0.0)]


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


async def flood(gateway: Server, stranger: socket.socket, backend: str) -> None:
    """Begin thrice as many handshakes as are a rush, and wait until they have been judged."""
    listener = gateway.listener
    seen = listener.counters.datagrams_received
    datagrams = [data for _ in range(3 * RUSH) for data in hello(backend)]
    for data in datagrams:
        stranger.sendto(data, listener.address)
    await gateway.until(
        lambda: (
            listener.counters.datagrams_received >= seen + len(datagrams) and not listener._waiting
        )
    )


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_flood_switches_retry_on_and_leaves_nothing(
    backend: str, stranger: socket.socket
) -> None:
    async with serving(backend, retry_handshakes=RUSH, handshake_timeout=3.0) as gateway:
        counters = gateway.listener.counters
        healthy, connection = await gateway.connect(backend)
        for round_ in (1, 2):
            await flood(gateway, stranger, backend)
            assert counters.retry_switches == round_
            await healthy.exchange(b"still here")
            newcomer, second = await gateway.connect(backend)
            await newcomer.exchange(b"fine")
            await second.close()
            # Those that had begun before it end by their deadline.
            await gateway.until(lambda: len(gateway.listener.connections) == 1)
            await gateway.until(lambda: not counters.drained)
            assert counters.handshakes_failed <= round_ * RUSH
            assert not gateway.listener._admission._waiting
            gateway.listener._admission._switch._since -= 60  # calm for a minute
            gateway.listener._admission._switch._initials = 0
        await connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_forged_first_datagrams_make_nothing_and_get_no_answer(
    backend: str, stranger: socket.socket
) -> None:
    (first, *_) = hello("qh3")  # fills its datagram, so that qh3 asks for no Retry
    forged = bytearray(first)
    forged[700] ^= 1
    async with serving(backend) as gateway:
        counters = gateway.listener.counters
        for number in range(20):
            forged[6] = number
            stranger.sendto(forged, gateway.listener.address)
        await gateway.until(lambda: counters.initials_undecryptable == 20)
        assert (counters.datagrams_sent, len(gateway.listener._routes)) == (0, 0)
        assert (counters.handshakes, counters.drained, counters.timers) == (0, 0, 0)


async def test_each_turn_begins_few_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MAX_HANDSHAKES_S", 0.0)
    async with serving("aioquic") as gateway:
        listener = gateway.listener
        batch = [(data, PEER) for _ in range(4) for data in hello("aioquic")]
        listener._datagrams_received(batch, listener._driver.clock())
        listener._door.endpoint.send = lambda datagrams: None
        found = []
        for _ in range(4):
            listener._begin_waiting()
            found.append((len(listener._waiting), listener.counters.handshakes))
        assert found == [(3, 1), (2, 2), (1, 3), (0, 4)]


async def test_the_time_in_line_counts_as_the_handshakes() -> None:
    async with serving("aioquic") as gateway:
        listener = gateway.listener
        now = listener._driver.clock()
        timeout = listener._config.handshake_timeout
        for waited in (0.4 * timeout, 0.6 * timeout):
            for data in hello("aioquic"):
                listener._datagrams_received([(data, PEER)], now - waited)
        await gateway.until(lambda: not listener._waiting)
        (connection,) = listener.connections
        assert connection._deadline == now - 0.4 * timeout + timeout
        assert listener.counters.handshakes_expired == 1


async def test_a_client_that_waited_too_long_is_dropped() -> None:
    async with serving("aioquic") as gateway:
        listener = gateway.listener
        for data in hello("aioquic"):
            listener._datagrams_received([(data, PEER)], listener._driver.clock())
        listener._waiting[0].deadline = 0.0
        await gateway.until(lambda: listener.counters.handshakes_expired == 1)
        assert len(listener._routes) == len(listener._admission.limits) == 0


async def test_who_waits_in_line_is_dropped_at_a_stop() -> None:
    async with serving("aioquic") as gateway:
        listener = gateway.listener
        for data in hello("aioquic"):
            listener._datagrams_received([(data, PEER)], listener._driver.clock())
        assert len(listener._routes) == 1
        listener.stop_accepting()
        assert len(listener._routes) == len(listener._admission.limits) == 0
        assert not listener._admission._waiting


async def test_errors_that_a_peer_causes_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving("aioquic") as gateway:
        listener = gateway.listener

        def broken(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(listener._admission, "judge", broken)
        now = listener._driver.clock()
        for data in hello("aioquic"):
            listener._datagrams_received([(data, PEER)] * 30, now)
        assert listener.counters.connection_errors == 30
    first, rest = caplog.records  # the rest when it stops
    assert first.message == rest.message == "connection_error"
    assert (first.__dict__["keys"]["suppressed"], rest.__dict__["keys"]["suppressed"]) == (0, 28)
