"""Paths: the figures of all connections' paths, a slice of them at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr._core.histogram import Histogram
from gatesvr.protocol.link import PathState
from gatesvr.transport import paths
from gatesvr.transport.paths import Paths

from .harness import serving

if TYPE_CHECKING:
    from gatesvr.transport.quic.interface import QuicTransport


@dataclass(eq=False)
class FakeConnection:
    state: PathState | None

    def path(self) -> PathState | None:
        return self.state


def test_paths_are_summed_up_by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SLICE", 2)
    connections = {
        FakeConnection(PathState(0.010, 10_000, 100, 0)),
        FakeConnection(PathState(0.030, 30_000, 200, 1)),
        FakeConnection(PathState(0.0, 20_000, 0, 0)),  # not yet measured
        FakeConnection(None),  # ended
    }
    rtts = Histogram()
    figures = Paths(connections, rtts)  # type: ignore[arg-type]
    figures.look()
    assert figures.connections == 0
    figures.look()
    assert (figures.connections, figures.in_flight) == (3, 300)
    assert figures.rtt_s == pytest.approx(0.020)
    assert figures.congestion_window == pytest.approx(20_000)
    assert rtts.count == 2
    connections.clear()
    figures.look()
    assert (figures.connections, figures.rtt_s, figures.in_flight) == (0, 0.0, 0)


async def test_a_connection_tells_its_path_until_it_ends(backend: str) -> None:
    async with serving(backend) as server:
        handler, connection = await server.connect(backend)
        await handler.exchange(b"hello")
        peer = await server.handler()
        server.listener.paths.look()
        assert server.listener.paths.connections == 1
        path = peer.link.path()
        assert path is not None
        assert path.rtt_s > 0
        await connection.close()
        await peer.until_lost()
        assert peer.link.path() is None


class Lossy:
    """A QUIC connection that says it has lost packets."""

    def __init__(self, quic: QuicTransport) -> None:
        self._quic = quic
        self.losses = 0

    def path(self) -> PathState:
        return replace(self._quic.path(), lost=self.losses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._quic, name)


async def test_lost_packets_are_counted_once_and_at_the_end(backend: str) -> None:
    async with serving(backend) as server:
        handler, connection = await server.connect(backend)
        await handler.exchange(b"hello")
        (served,) = server.listener.connections
        counters = server.listener.counters
        lossy: Any = Lossy(served._quic)
        served._quic = lossy
        for losses, counted in ((0, 0), (3, 3), (3, 3), (4, 4)):
            lossy.losses = losses
            server.listener.paths.look()
            assert counters.packets_lost == counted
        lossy.losses = 6
        await connection.close()
        await (await server.handler()).until_lost()
        assert counters.packets_lost == 6
