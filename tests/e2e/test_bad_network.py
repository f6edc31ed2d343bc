"""The bad network itself: what it promises to the tests that run through it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from ..fakes import until
from . import bad_network as module
from .bad_network import BadNetwork, Dice, Weather, bad_network
from .plain_client import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import pytest


class Peer:
    """A UDP socket that remembers what it got, and from where."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind(("127.0.0.1", 0))
        self.address = self.sock.getsockname()

    def send(self, to: tuple[str, int], *names: str) -> None:
        for name in names:
            self.sock.sendto(name.encode(), to)

    async def receive(self) -> tuple[str, tuple[str, int]]:
        async with asyncio.timeout(DEADLINE_S):
            data, sender = await asyncio.get_running_loop().sock_recvfrom(self.sock, 2_048)
        return data.decode(), sender

    async def names(self, until: str) -> list[str]:
        """Return the names that come, up to one."""
        found = [""]
        while found[-1] != until:
            found.append((await self.receive())[0])
        return found[1:]


@contextmanager
def peers(count: int = 1) -> Iterator[list[Peer]]:
    found = [Peer() for _ in range(count)]
    try:
        yield found
    finally:
        for peer in found:
            peer.sock.close()


@asynccontextmanager
async def network_between(
    weather: Weather | None = None, seed: int = 1
) -> AsyncIterator[tuple[Peer, BadNetwork, Peer]]:
    with peers(2) as (client, gateway):
        async with bad_network(gateway.address, seed, weather) as network:
            yield client, network, gateway


async def test_carries_both_ways() -> None:
    async with network_between() as (client, network, gateway):
        client.send(network.address, "ping")
        name, source = await gateway.receive()
        assert (name, source != client.address) == ("ping", True)
        gateway.send(source, "pong")
        assert await client.receive() == ("pong", network.address)
        assert network.tally.forwarded == 2


async def test_same_seed_same_fates_whatever_others_send() -> None:
    """The n-th datagram of a path meets the same fate beside a busy neighbour."""
    weather = Weather(loss=0.3, duplication=0.3)

    async def arrived(*, with_neighbour: bool) -> list[str]:
        with peers(3) as (client, neighbour, gateway):
            async with bad_network(gateway.address, 5, weather) as network:
                for number in range(50):
                    client.send(network.address, f"c{number}")
                    if with_neighbour:
                        neighbour.send(network.address, f"n{number}")
                tally = network.tally
                total = 100 if with_neighbour else 50
                await until(lambda: tally.forwarded + tally.lost == total)
                network.weather = Weather()
                client.send(network.address, "end")
                return [name for name in await gateway.names("end") if name[0] == "c"]

    alone = await arrived(with_neighbour=False)
    assert await arrived(with_neighbour=True) == alone
    assert len(set(alone)) < 50, "none lost"
    assert len(alone) > len(set(alone)), "none came twice"


def test_dice_roll_as_often_in_any_weather() -> None:
    """A calm spell shifts nothing of what follows."""
    storm = Weather(loss=0.5, duplication=0.5, reordering=0.5)
    through, around = Dice(7, "1/up"), Dice(7, "1/up")
    expected = [through.fate(storm) for _ in range(40)]
    weathers = [Weather() if 10 <= number < 20 else storm for number in range(40)]
    found = [around.fate(weather) for weather in weathers]
    assert found[:10] + found[20:] == expected[:10] + expected[20:]
    assert [Dice(8, "1/up").fate(storm)] * 40 != expected
    assert [Dice(7, "1/down").fate(storm) for _ in range(40)] != expected


async def test_all_lost() -> None:
    async with network_between(Weather(loss=1.0)) as (client, network, gateway):
        client.send(network.address, "a", "b")
        await until(lambda: network.tally.lost == 2)
        network.weather.loss = 0.0
        client.send(network.address, "end")
        assert await gateway.names("end") == ["end"]


async def test_duplication_sends_twice() -> None:
    async with network_between(Weather(duplication=1.0)) as (client, network, gateway):
        client.send(network.address, "a", "b")
        assert [(await gateway.receive())[0] for _ in range(4)] == ["a", "a", "b", "b"]
        assert network.tally.duplicated == 2
        assert network.tally.forwarded == 2


async def test_a_late_datagram_is_overtaken() -> None:
    weather = Weather(reordering=1.0, reorder_delay_s=1.0)  # long enough to send the other one
    async with network_between(weather) as (client, network, gateway):
        client.send(network.address, "late")
        await until(lambda: network.tally.reordered == 1)
        network.weather = Weather()
        client.send(network.address, "early")
        assert await gateway.names("late") == ["early", "late"]


async def test_delay_keeps_the_order() -> None:
    async with network_between(Weather(delay_s=0.005)) as (client, network, gateway):
        sent = [f"{number}" for number in range(200)]
        client.send(network.address, *sent)
        assert await gateway.names("199") == sent


async def test_rate_loses_what_would_wait_too_long() -> None:
    async with network_between(Weather(bytes_per_s=10_000.0)) as (client, network, gateway):
        big = "x" * 1_000
        client.send(network.address, *[big] * 20)
        tally = network.tally
        await until(lambda: tally.forwarded + tally.throttled == 20)
        assert tally.throttled > 5
        for _ in range(tally.forwarded):
            assert (await gateway.receive())[0] == big


async def test_blackout_ends() -> None:
    async with network_between() as (client, network, gateway):
        network.black_out(3600.0)
        client.send(network.address, "dark")
        await until(lambda: network.tally.blacked_out == 1)
        network.end_blackout()
        client.send(network.address, "light")
        assert await gateway.names("light") == ["light"]
        assert network.tally.blackouts == 1


async def test_new_source_port() -> None:
    async with network_between() as (client, network, gateway):
        client.send(network.address, "a")
        _, before = await gateway.receive()
        network.change_source_ports()
        client.send(network.address, "b")
        _, after = await gateway.receive()
        assert after != before
        gateway.send(before, "to the old port")
        gateway.send(after, "to the new port")
        assert (await client.receive())[0] == "to the new port"
        assert network.tally.rebinds == 1


async def test_a_cut_path_stays_cut_and_new_sockets_get_through() -> None:
    with peers(3) as (client, newer, gateway):
        async with bad_network(gateway.address, 1) as network:
            client.send(network.address, "a")
            _, source = await gateway.receive()
            network.cut()
            client.send(network.address, "b")
            gateway.send(source, "c")
            await until(lambda: network.tally.cut_off == 1)
            network.change_source_ports()
            newer.send(network.address, "d")
            assert await gateway.names("d") == ["d"]
            assert (network.tally.cuts, network.tally.rebinds) == (1, 0)


async def test_a_gateway_that_is_not_there() -> None:
    async with network_between() as (client, network, gateway):
        gateway.sock.close()
        client.send(network.address, "a", "b")
        await until(lambda: network.tally.forwarded == 2)


async def test_what_is_under_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DELAYED", 3)
    async with network_between(Weather(delay_s=3600.0)) as (client, network, _):
        client.send(network.address, *"abcde")
        await until(lambda: network.tally.overflowed == 2)


async def test_paths_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was silent for longest goes, and comes back as a new one."""
    monkeypatch.setattr(module, "MAX_PATHS", 2)
    with peers(4) as (first, second, third, gateway):
        async with bad_network(gateway.address, 1) as network:
            sources = []
            for peer in (first, second, first, third, first, second):
                peer.send(network.address, "x")
                sources.append((await gateway.receive())[1])
            assert sources[0] == sources[2] == sources[4]
            assert sources[5] != sources[1]
            assert network.tally.forgotten == 2
