"""Every Directory against the one contract."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatesvr.cluster.directory import DirectoryUnreachableError, MemoryDirectory
from gatesvr.cluster.entries import Entries, Renewal
from gatesvr.cluster.hub import HUB, HubDirectory, HubServer
from gatesvr.cluster.peer_link import PeerLinks

from .contract import LEASE, WINDOW, DirectoryContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A short path: those of unix sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="gs-") as path:
        yield Path(path)


class Hub:
    """A supervisor's side and a process's, on a real socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = Entries(
            lease=LEASE,
            resume_window=WINDOW,
            max_tombstones=100,
            now=asyncio.get_running_loop().time(),
        )
        self.server = HubServer(self.entries)
        self.supervisor = PeerLinks(HUB)
        self.process = PeerLinks("p")
        self.directory = HubDirectory(self.process, within=30.0)

    async def start(self) -> None:
        await self.supervisor.serve(self.path, self.server.handlers())
        self.process.add(HUB, self.path)

    async def stop(self) -> None:
        await self.process.close()
        await self.supervisor.close()


@pytest.fixture
async def hub(sockets: Path) -> AsyncIterator[Hub]:
    hub = Hub(sockets / "hub")
    await hub.start()
    yield hub
    await hub.stop()


class TestMemoryDirectory(DirectoryContract):
    @pytest.fixture
    async def directory(self) -> MemoryDirectory:
        return MemoryDirectory(lease=LEASE, resume_window=WINDOW)


class TestHubDirectory(DirectoryContract):
    @pytest.fixture
    async def directory(self, hub: Hub) -> HubDirectory:
        return hub.directory


async def test_renewal_names_what_has_changed(hub: Hub) -> None:
    """Not all of it again, unless the hub does not know the one before."""
    await hub.directory.join("a", "a")
    held = {}
    for i in range(500):
        entry = await hub.directory.create(f"s{i}", "a", "ann")
        assert entry is not None
        held[entry.session_id] = entry.epoch
    assert await hub.directory.renew("a", held) == Renewal({}, ())
    sizes: list[int] = []
    counted = hub.directory._peers

    class Sizes:
        async def call(self, node, call, request, within):  # type: ignore[no-untyped-def]
            sizes.append(request.ByteSize())
            return await counted.call(node, call, request, within)

    hub.directory._peers = Sizes()  # type: ignore[assignment]
    assert await hub.directory.renew("a", held) == Renewal({}, ())
    entry = await hub.directory.create("more", "a", "ann")
    assert entry is not None
    sizes.pop()
    held[entry.session_id] = entry.epoch
    del held["s0"]
    renewal = await hub.directory.renew("a", held)
    assert renewal is not None
    assert [e.session_id for e in renewal.unnamed] == ["s0"]
    assert max(sizes) < 100
    # A renewal of which only the hub knows: the next one has to name all.
    hub.entries.renew_named("a", 1, 0, {}, (), asyncio.get_running_loop().time())
    assert await hub.directory.renew("a", held) == renewal
    assert sizes[-2] < 100 < 500 * 5 < sizes[-1]


async def test_hub_that_is_gone_is_unreachable(hub: Hub) -> None:
    await hub.directory.join("a", "a")
    await hub.supervisor.close()
    with pytest.raises(DirectoryUnreachableError):
        await hub.directory.read("s")
    with pytest.raises(DirectoryUnreachableError):
        await hub.directory.read("s")


async def test_hub_forgets_what_is_past_its_time(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = asyncio.Event()
    monkeypatch.setattr("gatesvr.cluster.hub.SWEEP_S", 0.01)
    monkeypatch.setattr(hub.entries, "sweep", lambda _now: swept.set())
    hub.server.start()
    await asyncio.wait_for(swept.wait(), 30)
    swept.clear()
    await asyncio.wait_for(swept.wait(), 30)
    hub.server.stop()
