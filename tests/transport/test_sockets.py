"""Connections over both kinds of datagram I/O, on both loops."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from gatesvr._core.udp import HAS_BATCH, BatchSocket
from gatesvr.config import TransportConfig
from gatesvr.transport.udp.driver import Driver
from gatesvr.transport.udp.endpoint import Endpoint
from gatesvr.transport.udp.sockets import PlainSocket, datagram_socket, open_socket

from .harness import BACKENDS, DEADLINE_S, serving

if TYPE_CHECKING:
    from collections.abc import Callable

io_kinds = pytest.mark.parametrize("batch_io", [True, False], ids=["batch", "plain"])
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@io_kinds
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loop", LOOPS)
def test_many_clients_and_long_messages(loop: str, backend: str, batch_io: bool) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=factory, debug=True) as runner:
        runner.run(_exchange(backend, batch_io))


async def _exchange(backend: str, batch_io: bool) -> None:
    config = TransportConfig(batch_io=batch_io)
    async with serving(backend, batch_io=batch_io) as gateway:
        clients = [await gateway.connect(backend, config=config) for _ in range(6)]
        data = [os.urandom(100_000 + number) for number in range(len(clients))]
        for (handler, _), wanted in zip(clients, data, strict=True):
            handler.send(wanted)
        async with asyncio.timeout(DEADLINE_S):
            for (handler, _), wanted in zip(clients, data, strict=True):
                await handler.until(lambda h=handler, w=wanted: len(h.data) >= len(w))
                assert handler.data == wanted
        counters = gateway.listener.counters
        assert counters.bytes_sent > sum(len(wanted) for wanted in data) < counters.bytes_received
        assert counters.send_errors == counters.receive_errors == counters.send_backlog == 0
        if batch_io and HAS_BATCH:
            assert counters.receive_calls < counters.datagrams_received
            assert counters.send_calls < counters.datagrams_sent
            assert counters.segments_sent > 0
        else:
            assert counters.receive_calls > counters.datagrams_received
            assert counters.send_calls >= counters.datagrams_sent
            assert counters.segments_sent == 0
        for _, connection in clients:
            await connection.close()


@io_kinds
async def test_a_dead_server_is_noticed(batch_io: bool) -> None:
    config = TransportConfig(batch_io=batch_io)
    async with serving("aioquic") as gateway:
        handler, connection = await gateway.connect("aioquic", config=config)
        assert gateway.listener._door.endpoint is not None
        gateway.listener._door.endpoint._driver.loop.remove_reader(
            gateway.listener._door.endpoint._sock
        )
        gateway.listener._door.endpoint._sock.close()  # without a word
        gateway.listener._door.endpoint._is_closed = True
        handler.send(b"anybody?")
        # The connection lives on: the server may come back before it is idle for too long.
        async with asyncio.timeout(DEADLINE_S):
            while not connection.counters.receive_errors + connection.counters.send_errors:
                await asyncio.sleep(0.001)
        assert not handler.lost
        await connection.close()


@io_kinds
@pytest.mark.parametrize("told", ["by_a_read", "by_a_send"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_refused_datagram_does_not_deafen(loop: str, told: str, batch_io: bool) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=factory, debug=True) as runner:
        runner.run(_hear_after_a_refusal(told, batch_io))


async def _hear_after_a_refusal(told: str, batch_io: bool) -> None:
    driver = Driver()
    server = open_socket(("127.0.0.1", 0), socket.AF_INET, is_server=True)
    got: list[bytes] = []
    errors: list[OSError] = []
    endpoint = Endpoint(
        driver,
        open_socket(server.getsockname(), socket.AF_INET, is_server=False),
        lambda batch, now: got.extend(data for data, _ in batch),
        errors.append,
        is_batched=batch_io,
    )

    def send() -> None:
        endpoint.send([(b"anybody?", endpoint.address)])
        endpoint.transmit()

    def send_once_more_before_the_read() -> None:
        driver.loop.call_later(0.001, send)
        time.sleep(0.003)  # so the timer is due when the loop, which has seen the error, looks next

    try:
        address = server.getsockname()
        server.close()
        send()
        if told == "by_a_send":
            send_once_more_before_the_read()
        async with asyncio.timeout(DEADLINE_S):
            while not errors:
                await asyncio.sleep(0.001)
        assert isinstance(errors[0], ConnectionRefusedError)
        server = open_socket(address, socket.AF_INET, is_server=True)
        server.sendto(b"here again", endpoint.address)
        async with asyncio.timeout(DEADLINE_S):
            while not got:
                await asyncio.sleep(0.001)
        assert got == [b"here again"]
    finally:
        server.close()
        endpoint.close()
        driver.close()


async def test_which_kind_is_taken() -> None:
    async with serving("aioquic") as gateway:
        endpoint = gateway.listener._door.endpoint
        assert endpoint is not None
        assert isinstance(endpoint._io, BatchSocket) == HAS_BATCH
        plain = datagram_socket(endpoint._sock, is_batched=False)
        assert isinstance(plain, PlainSocket)
