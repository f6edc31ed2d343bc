"""Clients of the web at a gateway of several processes."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from gatesvr.config import TransportConfig, WebConfig
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.siblings import Siblings, steering_key
from gatesvr.transport.steering import (
    QUIC,
    WEB_QUIC,
    WEB_TCP,
    attach,
    close_group,
    open_groups,
)
from gatesvr.transport.web.listener import WebListener

from ..e2e.wt_client import h3_client
from .family import Board
from .harness import BACKENDS, Echo

if TYPE_CHECKING:
    from pathlib import Path


class Process:
    """Both listeners of a process."""

    def __init__(self, config: TransportConfig, siblings: Siblings) -> None:
        self.siblings = siblings
        self.quic = ConnectionListener(config, Echo, siblings=siblings)
        self.web = WebListener(
            config,
            self.quic,
            Echo,
            max_login_bytes=1 << 16,
            max_message_bytes=1 << 20,
            siblings=siblings,
        )


@pytest.mark.parametrize("backend", BACKENDS)
async def test_web_clients_of_all_processes(tmp_path: Path, backend: str) -> None:
    config = TransportConfig(
        backend=backend,  # type: ignore[arg-type]
        bind="127.0.0.1:0",
        web=WebConfig(bind="127.0.0.1:0"),
    )
    secret, board, slots = os.urandom(32), Board(0, 1), 2
    key = steering_key(secret)
    groups = await open_groups(config, slots)
    async with AsyncExitStack() as stack:
        stack.callback(lambda: [close_group(group) for group in groups.values()])
        for name in (QUIC, WEB_QUIC):
            attach(groups[name][0][0], key, slots)
        processes = []
        for number in range(slots):
            own, other = (
                {name: [s.dup() for s in group[slot]] for name, group in groups.items()}
                for slot in (number, 1 - number)
            )
            stack.callback(close_group, other.values())
            others = {1 - number: other}
            siblings = Siblings(number, key, tmp_path, board, own, secret=secret, others=others)
            process = Process(config, siblings)
            await process.quic.start()
            stack.push_async_callback(process.quic.stop)
            await process.web.start()
            stack.push_async_callback(process.web.stop)
            processes.append(process)
        first, second = processes
        address = "{}:{}".format(*first.web.address)
        assert first.web.address == second.web.address == groups[WEB_TCP][0][0].getsockname()
        # The clients of HTTP/3, at whichever socket they arrive.
        board.loads.update({0: 1000, 1: 0})
        for id_length in (8, 0):
            async with h3_client(address, id_length=id_length) as client:
                assert await client.answer(client.request(address, "/gatesvr")) == 200
                await client.ping()
                assert len(second.quic.connections) == 1
                assert second.web.counters.webtransport_sessions == 1
        assert not first.quic.connections
        total = first.quic.counters.resets_sent + second.quic.counters.resets_sent
        assert total == 0
        # TCP: the kernel spreads the connections.
        writers = []
        async with asyncio.timeout(20):
            while not (first.web._half_open and second.web._half_open):
                _, writer = await asyncio.open_connection(*first.web.address)
                writers.append(writer)
        # What comes to a process that takes no more waits for the next one in its slot, or for
        # a neighbour.
        second.web.stop_accepting()
        assert groups[WEB_TCP][1][0].fileno() >= 0
        assert second.siblings.others[0][WEB_TCP][0].fileno() < 0
        for _ in range(20):
            _, writer = await asyncio.open_connection(*first.web.address)
            writers.append(writer)
        first.web.cover([1])
        async with asyncio.timeout(20):
            while len(first.web._half_open) + len(second.web._half_open) < len(writers):
                await asyncio.sleep(0.005)
        first.web.cover([])
        first.web.cover([1])
        first.web.stop_accepting()
        assert first.siblings.others[1][WEB_TCP][0].fileno() < 0
        for writer in writers:
            writer.close()
