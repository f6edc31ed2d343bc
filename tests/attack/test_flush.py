"""Nothing that was written stays behind, on networks good and bad; time is a number."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, cast

import pytest

from gatesvr.config import TransportConfig
from gatesvr.transport.connection import Connection
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.stream import Stream
from gatesvr.transport.tls import client_tls, load_server_tls
from gatesvr.transport.udp.driver import Driver

from ..sim.loop import VirtualLoop
from ..transport.harness import PAIRS, token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gatesvr.protocol.link import Disconnect, HandlerFactory, Link
    from gatesvr.transport.addresses import Datagram

SERVER = ("127.0.0.1", 8453)
CLIENT = ("127.0.0.1", 40001)
HIGH_WATER = 64 << 10
SEEDS = range(4)
STEPS = 60
STEP_S = 0.001
HEAL_S = 60.0


class End:
    """Both the owner and the handler of one connection: it writes in every way that there is."""

    def __init__(self) -> None:
        self.connection: Connection
        self.link: Stream
        self.peer: End
        self.written = bytearray()
        self.received = bytearray()
        self.outbox: list[bytes] = []
        self.lost: list[Disconnect] = []
        self.is_open = False
        self.answers = False

    # The owner.

    def connection_id_issued(self, connection: Connection, connection_id: bytes) -> None: ...

    def connection_id_retired(self, connection: Connection, connection_id: bytes) -> None: ...

    def connection_opened(self, connection: Connection) -> HandlerFactory | None:
        return cast("HandlerFactory", self._handler)

    def connection_ended(self, connection: Connection, how: Disconnect, last: bytes) -> None: ...

    def task_started(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self.task = task

    def _handler(self, link: Link) -> End:
        return self

    # The handler.

    def connection_made(self, now: float) -> None:
        self.is_open = True

    def data_received(self, data: bytes, now: float) -> None:
        self.received += data
        if self.answers:
            self.queue(b"a" * 40)
            self.write(b"b" * 10)

    async def work(self) -> None: ...

    def write_ready(self, now: float) -> None:
        room = HIGH_WATER - self.link.unsent_bytes()
        while room > 0 and self.outbox:
            data = self.outbox.pop(0)
            self.write(data)
            room -= len(data)

    def get_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None: ...

    def stream_ended(self, now: float) -> None: ...

    def path_limit_near(self, now: float) -> None: ...

    def connection_lost(self, how: Disconnect, now: float) -> None:
        self.lost.append(how)

    # The test.

    def write(self, data: bytes) -> None:
        """Write at once, inside or outside of a flush."""
        self.written += data
        self.link.write(data)

    def queue(self, *data: bytes) -> None:
        """Have data written once there is room."""
        self.outbox += data
        self.link.request_flush()


class Wire:
    """One end's endpoint: what it sends is with the other end a little later, or never."""

    def __init__(self, loop: VirtualLoop, end: End, address: tuple[str, int]) -> None:
        self.loop = loop
        self.end = end
        self.address = address
        self.chance = random.Random(0)
        self.loss = 0.0
        self.delay = 0.0005
        self.sent = 0

    def send(self, datagrams: list[Datagram]) -> None:
        self.sent += len(datagrams)
        kept = [data for data, _ in datagrams if self.chance.random() >= self.loss]
        if kept:
            self.loop.call_later(self.delay, self._arrive, kept)

    def transmit(self) -> None: ...

    def _arrive(self, datagrams: list[bytes]) -> None:
        now = self.loop.time()
        connection = self.end.peer.connection
        for data in datagrams:
            connection.receive(data, self.address, now)
        connection.process(now)


class World:
    """A client and a server connection on one loop."""

    def __init__(self, client: str, server: str) -> None:
        self.loop = VirtualLoop()
        self.loop.settle()
        self.loop.call(self._build, client, server)
        self.ends = (self.client, self.server)
        self.run(lambda: self.client.is_open and self.server.is_open)

    def _build(self, client: str, server: str) -> None:
        self.driver = Driver(self.loop)
        self.driver.clock = self.loop.time
        self.client, self.server = End(), End()
        self.client.peer, self.server.peer = self.server, self.client
        self.wires = (
            Wire(self.loop, self.client, CLIENT),
            Wire(self.loop, self.server, SERVER),
        )
        config = TransportConfig(idle_timeout=600.0)
        now = self.loop.time()
        certificate = load_server_tls()
        quic = pick_backend(client).client(client_tls("localhost"), "localhost", 600.0)
        self._connection(self.client, quic, 0, SERVER, config, is_client=True)
        quic.connect(SERVER, now)
        first = quic.datagrams_to_send(now)
        data = first[0][0]
        factory = pick_backend(server).server(certificate, 600.0, token_of)
        self._connection(
            self.server, factory(data[6 : 6 + data[5]], None), 1, CLIENT, config, is_client=False
        )
        self.wires[0].send(first)
        self.driver.mark_dirty(self.client.connection)

    def _connection(
        self,
        end: End,
        quic: Any,
        number: int,
        address: tuple[str, int],
        config: TransportConfig,
        *,
        is_client: bool,
    ) -> None:
        endpoint: Any = self.wires[number]
        owner: Any = end
        end.connection = Connection(
            quic,
            endpoint,
            self.driver,
            owner,
            config,
            TransportCounters(),
            address,
            is_client=is_client,
            deadline=self.loop.time() + 10,
        )
        end.link = end.connection.stream

    def run(self, found: Any, seconds: float = HEAL_S) -> None:
        """Let time pass until found(), at most seconds."""
        end = self.loop.time() + seconds
        while not found():
            assert self.loop.time() < end, "left behind"
            self.advance(STEP_S)

    def advance(self, seconds: float) -> None:
        self.loop.advance(seconds)

    def close(self) -> None:
        for end in self.ends:
            self.loop.call(end.connection.discard)
        self.loop.advance(0.0)
        self.loop.call(self.driver.close)
        assert not self.loop.failures
        self.loop.close()


@pytest.fixture
def make() -> Iterator[Callable[[str, str], World]]:
    """Make a world, and end it after the test."""
    worlds: list[World] = []

    def make(client: str, server: str) -> World:
        worlds.append(World(client, server))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_what_was_written_arrives_once_the_network_is_well(
    client: str, server: str, seed: int, make: Callable[[str, str], World]
) -> None:
    chance = random.Random(f"{client} {server} {seed}")
    world = make(client, server)
    loop = world.loop
    for wire in world.wires:
        wire.chance = chance
    loop.call(world.client.write, b"hello")  # opens the stream
    world.run(lambda: world.server.received)
    world.server.answers = chance.random() < 0.5

    def act(end: End) -> None:
        kind = chance.random()
        size = chance.choice([1, 100, 1_000, 20_000])
        if kind < 0.35:
            end.write(bytes(size))
        elif kind < 0.7:
            end.queue(*[bytes(size)] * chance.choice([1, 3, 20]))
        elif kind < 0.8:
            end.link.request_flush()
            end.write(bytes(size))
            end.queue(bytes(size))
        elif kind < 0.85:
            end.connection.probe()
        elif kind < 0.9:
            end.link.request_flush()

    for _ in range(STEPS):
        for wire in world.wires:
            if chance.random() < 0.1:
                wire.loss = chance.choice([0.0, 0.0, 0.1, 1.0])
        for end in world.ends:
            if chance.random() < 0.4:
                loop.call(act, end)
        world.advance(chance.choice([0.0, 0.0005, 0.005, 0.02, 0.2]))
    for wire in world.wires:
        wire.loss = 0.0
    for end in world.ends:
        world.run(lambda end=end: not end.outbox and end.peer.received == end.written)
    assert not world.client.lost
    assert not world.server.lost


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_on_a_good_network_everything_leaves_at_once_and_is_acknowledged(
    client: str, server: str, seed: int, make: Callable[[str, str], World]
) -> None:
    chance = random.Random(f"{client} {server} {seed}")
    world = make(client, server)
    loop = world.loop
    loop.call(world.client.write, b"hello")
    world.run(lambda: world.server.received)
    world.advance(1.0)
    for _ in range(STEPS):
        for end in world.ends:
            kind = chance.random()
            data = bytes(chance.choice([1, 100, 1_000]))
            if kind < 0.25:
                loop.call(end.write, data)
            elif kind < 0.5:
                loop.call(end.queue, data)
            elif kind < 0.6:
                loop.call(end.link.request_flush)
                loop.call(end.write, data)
                loop.call(end.queue, data)
        # One way there: nothing waits for an acknowledgement or a timer but what QUIC paces.
        world.advance(0.0)
        paced = [end for end in world.ends if end.link.carrier.unsent_bytes()]
        world.advance(STEP_S)
        for end in world.ends:
            assert not end.outbox
            assert end.peer.received == end.written or end in paced
        world.run(lambda: all(end.peer.received == end.written for end in world.ends), 0.05)
        for _ in range(chance.choice([0, 3, 50, 300])):
            world.advance(STEP_S)
            overdue = loop.time() - 2 * STEP_S
            assert all(when > overdue for when in world.driver._put_off.values())
        if chance.random() < 0.5:
            world.run(lambda: all(end.link.carrier.is_acknowledged() for end in world.ends), 0.1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_the_last_push_and_what_was_written_before_it_arrive(
    client: str, server: str, seed: int, make: Callable[[str, str], World]
) -> None:
    chance = random.Random(f"{client} {server} {seed}")
    world = make(client, server)
    loop, gateway = world.loop, world.server
    loop.call(world.client.write, b"hello")
    world.run(lambda: gateway.received)
    gateway.answers = chance.random() < 0.5

    def close() -> None:
        for _ in range(chance.randrange(3)):
            gateway.write(bytes(chance.choice([1, 500])))
        if chance.random() < 0.5:
            gateway.link.request_flush()
        gateway.written += b"last"
        gateway.link.close(4001, "enough", last=b"last")
        gateway.link.write(b"too late")
        gateway.link.request_flush()

    if chance.random() < 0.3:
        # From within a flush.
        gateway.write_ready = lambda now: close()  # type: ignore[method-assign]
        loop.call(gateway.link.request_flush)
    else:
        loop.call(world.client.write, b"more")
        world.advance(chance.choice([0.0, 0.0005, 0.001]))
        loop.call(close)
    world.run(lambda: gateway.lost and world.client.lost, 1.0)
    assert world.client.received == gateway.written
    assert (world.client.lost[0].kind, world.client.lost[0].code) == ("peer", 4001)
    assert gateway.lost[0].code == 4001


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_no_more_than_the_high_water_is_handed_to_quic(
    client: str, server: str, seed: int, make: Callable[[str, str], World]
) -> None:
    chance = random.Random(f"{client} {server} {seed}")
    world = make(client, server)
    loop, gateway = world.loop, world.server
    loop.call(world.client.write, b"hello")
    world.run(lambda: gateway.received)
    size = chance.choice([100, 1_000, 10_000])
    kind = seed % 3
    if kind:
        # As an answer that is no session's: past the handler's own look at the high water.
        loop.call(gateway.write, bytes(HIGH_WATER))
        world.advance(0.0 if kind == 1 else STEP_S)
    loop.call(lambda: gateway.queue(*[bytes(size)] * (2_000_000 // size)))
    most = 0
    began = loop.time()
    silent_from = chance.choice([2, 20])
    step = 0
    while gateway.outbox or world.client.received != gateway.written:
        # For a while nothing comes back: a peer that acknowledges nothing.
        world.wires[0].loss = 1.0 if silent_from <= step < silent_from + 200 else 0.0
        if step % 3 == 0 and step < 400:
            loop.call(gateway.link.request_flush)
        if step % 7 == 0:
            loop.call(world.client.write, b"ask")
        world.advance(STEP_S)
        most = max(most, gateway.link.carrier.unsent_bytes())
        step += 1
        assert loop.time() < began + HEAL_S, "left behind"
    assert most <= HIGH_WATER + size


@pytest.mark.parametrize("server", ["aioquic", "qh3"])
def test_a_peer_that_gives_no_credit_gets_the_rest_once_it_does(
    server: str, make: Callable[[str, str], World]
) -> None:
    world = make("aioquic", server)
    loop, gateway = world.loop, world.server
    loop.call(world.client.write, b"hello")
    world.run(lambda: gateway.received)
    quic: Any = world.client.link.carrier
    give = quic._quic._write_stream_limits, quic._quic._write_connection_limits
    quic._quic._write_stream_limits = lambda *args, **fields: None
    quic._quic._write_connection_limits = lambda *args, **fields: None
    piece = bytes(10_000)
    loop.call(lambda: gateway.queue(*[piece] * 300))
    # Up to the window; all of that is acknowledged, and nothing is under way any more.
    for _ in range(2_000):
        world.advance(STEP_S)
    taken = len(world.client.received)
    assert 0 < taken < len(gateway.written)
    for _ in range(100):
        loop.call(gateway.queue, b"more")
        loop.call(gateway.write, b"")
        world.advance(0.1)
    assert len(world.client.received) == taken
    assert gateway.link.unsent_bytes() <= HIGH_WATER + len(piece)
    quic._quic._write_stream_limits, quic._quic._write_connection_limits = give
    loop.call(world.client.write, b"ask")
    world.run(lambda: not gateway.outbox and world.client.received == gateway.written)
