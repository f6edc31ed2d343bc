"""A gateway of several processes: each datagram and each client comes to the right one."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr.errors import ConnectionFailed
from gatesvr.protocol.link import Disconnect
from gatesvr.transport import handover, steering
from gatesvr.transport.handed import DATAGRAM, INITIAL, Handed
from gatesvr.transport.handover import MAX_HOPS
from gatesvr.transport.routes import Elsewhere
from gatesvr.transport.siblings import Siblings
from gatesvr.transport.udp.endpoint import Endpoint
from gatesvr.transport.udp.sockets import open_socket

from .family import family
from .harness import BACKENDS
from .test_listener import initial

if TYPE_CHECKING:
    from pathlib import Path

    from gatesvr.transport.client import ClientConnection

    from .family import Family, Member

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel steers on Linux only")
backends = pytest.mark.parametrize("backend", BACKENDS)
pairs = pytest.mark.parametrize(("client", "server"), [("aioquic", "qh3"), ("qh3", "aioquic")])
"""Each library in each role, with a Retry and without."""


def rebind(connection: ClientConnection) -> None:
    """Move a client to another port, as a NAT would."""
    old = connection._endpoint
    family = socket.AF_INET6 if ":" in connection.server[0] else socket.AF_INET
    sock = open_socket(connection.server, family, is_server=False)
    endpoint = Endpoint(connection._driver, sock, connection._datagrams_received)
    connection._endpoint = connection.connection._endpoint = endpoint
    old.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for claims however slow the machine is."""
    monkeypatch.setattr(handover, "ASK_S", 20.0)


def change_id(connection: ClientConnection) -> None:
    """Make a client send to another id of its connection."""
    connection.connection._quic._quic.change_connection_id()  # type: ignore[attr-defined]


@LINUX
@pytest.mark.parametrize(
    ("client", "server", "host"),
    [
        ("qh3", "aioquic", "127.0.0.1:0"),
        ("aioquic", "qh3", "localhost:0"),
        ("qh3", "qh3", "[::]:0"),
    ],
)
async def test_the_kernel_leads_a_connection_from_any_port_to_its_process(
    tmp_path: Path, client: str, server: str, host: str
) -> None:
    async with family(server, tmp_path, 3, is_steered=True, bind=host) as gateway:
        assert gateway.is_steered
        for number in range(2):
            handler, connection = await gateway.connect(client)
            for move in range(3):
                await handler.exchange(b"%d %d" % (number, move))
                rebind(connection)
            connection.discard()
        # An Initial's id may be one of another process by chance.
        assert gateway.total("handed_on") == gateway.total("taken_over") <= 40
        assert gateway.total("resets_sent") == gateway.total("hand_overs_dropped") == 0


@pytest.mark.parametrize(
    ("client", "server", "is_shared", "host"),
    [
        ("qh3", "aioquic", False, "127.0.0.1:0"),
        ("aioquic", "qh3", False, "localhost:0"),
        ("qh3", "aioquic", True, "127.0.0.1:0"),
        ("qh3", "qh3", False, "[::]:0"),
        ("aioquic", "aioquic", False, "0.0.0.0:0"),
    ],
)
async def test_without_the_program_processes_hand_on(
    tmp_path: Path,
    client: str,
    server: str,
    is_shared: bool,
    host: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_shared:  # as on macOS
        monkeypatch.setattr(steering, "IS_BALANCED", False)
    async with family(server, tmp_path, 3, bind=host) as gateway:
        handler, connection = await gateway.connect(client)
        for move in range(100):
            await handler.exchange(b"moved %d" % move)
            if gateway.total("handed_on") >= 3:
                break
            if move % 3 < 2:
                rebind(connection)
            else:  # qh3 follows a client to four addresses
                connection.discard()
                handler, connection = await gateway.connect(client)
        connection.discard()
        await gateway.members[0].until(
            lambda: gateway.total("handed_on") == gateway.total("taken_over")
        )
        assert gateway.total("handed_on") >= 3
        assert gateway.total("resets_sent") == gateway.total("hand_overs_dropped") == 0


@pairs
async def test_a_client_that_goes_over_to_another_id(
    tmp_path: Path, client: str, server: str, patient: None
) -> None:
    async with family(server, tmp_path, 3, is_steered=True) as gateway:
        asked = 0
        for _ in range(20 if server == "qh3" else 1):
            handler, connection = await gateway.connect(client)
            await handler.exchange(b"first")
            change_id(connection)
            await handler.exchange(b"second")
            change_id(connection)
            await handler.exchange(b"third")
            await handler.exchange(b"fourth")
            connection.discard()
            asked = gateway.total("ids_asked")
            if asked:
                break
        # qh3 makes these ids itself, and any process may get what is sent to them.
        assert bool(asked) == (server == "qh3")
        assert gateway.total("resets_sent") == 0


@pytest.mark.parametrize(
    ("client", "server"), [("aioquic", "aioquic"), ("aioquic", "qh3"), ("qh3", "qh3")]
)
async def test_new_clients_go_to_the_less_loaded_of_two(
    tmp_path: Path, client: str, server: str
) -> None:
    async with family(server, tmp_path, 2) as gateway:
        gateway.board.loads.update({0: 1_000, 1: 0})
        for _ in range(3):
            handler, _ = await gateway.connect(client)
            await handler.exchange(b"x")
            assert gateway.holder() == 1
        counters = gateway.members[0].counters
        if (client, server) == ("aioquic", "qh3"):
            assert counters.initials_handed_on == 0  # the id of the Retry leads them
        assert counters.accepted == 0
        assert gateway.total("accepted") == 3
        gateway.board.loads.update({0: 0, 1: 8})  # about as much
        before = gateway.total("initials_handed_on")
        await gateway.connect(client)
        assert gateway.total("initials_handed_on") == before


@pairs
async def test_a_process_that_takes_no_clients_hands_them_on(
    tmp_path: Path, client: str, server: str
) -> None:
    async with family(server, tmp_path, 2) as gateway:
        old = gateway.members[0]
        old.listener.stop_accepting()
        gateway.board.loads[0] = None
        for _ in range(3):
            handler, _ = await gateway.connect(client)
            await handler.exchange(b"x")
        assert gateway.holder() == 1
        assert old.counters.initials_refused == old.counters.connections_refused == 0


@backends
async def test_clients_in_line_are_handed_on_by_a_process_that_stops(
    tmp_path: Path, backend: str
) -> None:
    async with family(backend, tmp_path, 2, slots=1) as gateway:
        first, second = gateway.members.values()
        second.listener.set_reading(is_reading=False)
        first.listener._begin_asked = 0.0  # it takes its time
        joining = asyncio.ensure_future(gateway.connect(backend))
        await first.until(lambda: first.listener._waiting)
        gateway.board.loads[0] = None
        first.listener.stop_accepting()
        assert not first.listener._waiting
        handler, _ = await joining
        await handler.exchange(b"x")
        assert gateway.holder() == 1


@pytest.mark.parametrize(
    ("backend", "limit"),
    [("aioquic", "max_connections_per_prefix"), ("qh3", "max_connections")],
)
async def test_a_client_that_finds_no_place_is_handed_round_once(
    tmp_path: Path, backend: str, limit: str
) -> None:
    limits: dict[str, Any] = {limit: 1}
    async with family(backend, tmp_path, 3, unlimited_prefixes=[], **limits) as gateway:
        for count in range(3):
            handler, _ = await gateway.connect(backend)
            await handler.exchange(b"x")
            assert gateway.total("accepted") == count + 1
        assert [m.counters.connections for m in gateway.members.values()] == [1, 1, 1]
        assert gateway.total("connections_refused") == 0
        assert gateway.total("prefix_connections_limited") == 0
        before = gateway.total("initials_handed_on")
        if limit == "max_connections":
            handler, _ = await gateway.connect(backend)
            # The last one tells it to come back.
            assert (await handler.until_lost()).code == 4503
            assert gateway.total("connections_refused") == 1
        else:
            with pytest.raises(ConnectionFailed):
                await gateway.connect(backend, connect_timeout=0.1)
            assert gateway.total("prefix_connections_limited") >= 1
        assert gateway.total("initials_handed_on") - before >= 2


@pairs
async def test_a_process_that_left_its_socket_lives_on_what_is_handed_on(
    tmp_path: Path, client: str, server: str, patient: None
) -> None:
    async with family(server, tmp_path, (0,), is_steered=True, slots=1) as gateway:
        old = gateway.members[0]
        handler, connection = await gateway.connect(client)
        await handler.exchange(b"before")
        new = await gateway.start(1)
        gateway.board.loads[0] = None
        old.listener.stop_accepting()
        old.listener.set_reading(is_reading=False)
        received = old.counters.datagrams_received
        await handler.exchange(b"after")
        rebind(connection)
        await handler.exchange(b"moved")
        change_id(connection)
        await handler.exchange(b"another id")
        assert old.counters.datagrams_received == received
        assert old.counters.taken_over > 0
        assert gateway.total("resets_sent") == 0
        other, _ = await gateway.connect(client)
        await other.exchange(b"x")
        assert len(new.handlers) == len(old.handlers) == 1
        old.listener.set_reading(is_reading=True)
        await handler.exchange(b"both read")
        handler.link.close(0, "bye")
        await old.until(lambda: not old.listener.connections)


@pytest.mark.parametrize(
    ("client", "server", "is_steered"),
    [("qh3", "aioquic", True), ("aioquic", "qh3", True), ("qh3", "qh3", False)],
)
async def test_clients_of_a_process_that_died_are_told_so(
    tmp_path: Path, client: str, server: str, is_steered: bool
) -> None:
    async with family(server, tmp_path, 2, is_steered=is_steered) as gateway:
        handler, _ = await gateway.connect(client)
        await handler.exchange(b"x")
        number = gateway.holder()
        await gateway.kill(number)
        neighbour = gateway.members[1 - number]
        if has_next := server == "aioquic":
            await gateway.start(number + 2)  # in the same slot
        else:
            neighbour.listener.cover([number])
        handler.send(b"y")
        assert await handler.until_lost() == Disconnect("reset")
        assert gateway.total("resets_sent") >= 1
        assert gateway.total("resets_astray") == gateway.total("resets_sent")
        if is_steered:
            assert bool(neighbour.counters.resets_sent) != has_next


@backends
async def test_a_process_reads_the_sockets_of_its_dead_neighbour(
    tmp_path: Path, backend: str
) -> None:
    async with family(backend, tmp_path, 2, is_steered=True) as gateway:
        if not gateway.is_steered:
            pytest.skip("no datagram can be sent to one of the two")
        ids = gateway.members[1].siblings
        await gateway.kill(1)
        member = gateway.members[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:

            async def send(owner: Siblings) -> None:
                received = member.counters.datagrams_received
                stranger.sendto(b"\x40" + owner.make_id() + bytes(30), member.listener.address)
                await member.until(lambda: member.counters.datagrams_received == received + 1)

            member.listener.cover([1])
            await send(ids)
            member.listener.cover([])
            stranger.sendto(b"\x40" + ids.make_id() + bytes(30), member.listener.address)
            await send(member.siblings)
            member.listener.cover([1])  # what waited is read now
            await member.until(lambda: member.counters.datagrams_received == 3)
            await send(ids)
            member.listener.set_reading(is_reading=False)
            assert not any(isinstance(each, Endpoint) for each in member.listener.driver.readers)
        buffers = member.counters.receive_buffer_bytes
        assert buffers == gateway.group[0][0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@backends
async def test_what_waits_for_a_dead_process_is_answered_here(tmp_path: Path, backend: str) -> None:
    async with family(backend, tmp_path, 2, slots=1) as gateway:
        first, second = gateway.members.values()
        second.listener.set_reading(is_reading=False)
        handler, connection = await gateway.connect(backend)
        await handler.exchange(b"x")
        (there,) = (m for m in (first, second) if m.listener.connections)
        if there is first:
            # A client of the other: the id that it would have there.
            ids = [second.siblings.make_id()]
        else:
            ids = list(there.listener.connections.copy().pop().ids)
        connection.discard()
        # It has a socket that nobody reads any more, and then none.
        first.siblings._reach(1, 0.0)
        second.siblings.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(first.listener.address)
            stranger.send(b"\x40" + next(i for i in ids if len(i) == 8) + bytes(30))
            await first.until(lambda: first.counters.resets_sent)


def datagram(member: Member, data: bytes, *, kind: int = DATAGRAM, hops: int = 1) -> Handed:
    return Handed(kind, hops, 9, 0, data, ("127.0.0.1", 9))


@backends
async def test_nothing_goes_round_for_ever(tmp_path: Path, backend: str) -> None:
    async with family(backend, tmp_path, 2) as gateway:
        first, second = gateway.members.values()
        # Each has a route to the other.
        wanted, now = b"wanted by nobody", first.listener.driver.clock()
        first.listener._routes.lead(wanted[:8], 1, now, 60)
        second.listener._routes.lead(wanted[:8], 0, now, 60)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(first.listener.address)
            stranger.send(b"\x40" + wanted + bytes(30))
            await first.until(lambda: gateway.total("hand_overs_dropped") == 1)
        assert gateway.total("handed_on") == gateway.total("taken_over") == MAX_HOPS
        # An id of the other, handed on by mistake.
        data = b"\x40" + second.siblings.make_id() + bytes(30)
        first.listener._hand_over._take_over([datagram(first, data)], now)  # type: ignore[union-attr]
        assert gateway.total("handed_on") == MAX_HOPS
        # A new client that has been everywhere.
        gateway.board.loads[0] = None
        first.listener.stop_accepting()
        handed = datagram(first, initial(), kind=INITIAL, hops=2)
        first.listener._hand_over._take_over([handed], now)  # type: ignore[union-attr]
        assert first.counters.initials_refused == 1


@backends
async def test_routes_to_siblings_are_bounded_and_end(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.transport.routes.MAX_ELSEWHERE", 3)
    async with family(backend, tmp_path, 2) as gateway:
        routes = gateway.members[0].listener._routes
        for number in range(5):
            routes.lead(b"%08d" % number, 1, 0.0, 10.0)
        assert sorted(routes.by_id) == [b"00000002", b"00000003", b"00000004"]
        routes.lead(b"00000005", 1, 10.0, 10.0)
        assert sorted(routes.by_id) == [b"00000005"]
        (route,) = routes.by_id.values()
        assert isinstance(route, Elsewhere)
        routes.by_id.clear()
        routes.leave(route)  # it is another's by now


async def _lost(gateway: Family) -> None:
    """Stop one process from reading what is handed on to it."""
    second = gateway.members[1]
    second.listener.driver.remove_reader(second.siblings)
    second.listener.set_reading(is_reading=False)


@backends
async def test_a_process_that_does_not_read_loses_what_is_too_much(
    tmp_path: Path, backend: str
) -> None:
    async with family(backend, tmp_path, 2, slots=1) as gateway:
        first, second = gateway.members.values()
        await _lost(gateway)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.connect(first.listener.address)
            data = b"\x40" + second.siblings.make_id() + bytes(1400)
            async with asyncio.timeout(20):
                while not first.counters.hand_overs_dropped:
                    for _ in range(60):
                        stranger.send(data)
                    await asyncio.sleep(0)
            sibling = first.siblings._siblings[1]
            assert sibling.is_full
            assert sibling.bytes <= 256 << 10
            # Others are served meanwhile; it gets the rest once it reads.
            second.listener.driver.add_reader(second.siblings)
            await first.until(lambda: not sibling.pending)
            assert not sibling.is_full
            await first.until(lambda: second.counters.taken_over > 0)


@pairs
async def test_a_client_comes_back_from_a_process_that_stopped_meanwhile(
    tmp_path: Path, client: str, server: str
) -> None:
    async with family(server, tmp_path, 2, slots=1) as gateway:
        second = gateway.members[1]
        second.listener.set_reading(is_reading=False)
        second.listener.stop_accepting()
        gateway.board.loads.update({0: 1_000, 1: 0})  # the board does not know it yet
        handler, _ = await gateway.connect(client)
        await handler.exchange(b"x")
        assert gateway.holder() == 0
        assert second.counters.initials_refused == 0


@pytest.mark.long
@pytest.mark.parametrize("is_steered", [True, False])
@pairs
async def test_processes_that_come_and_go(
    tmp_path: Path, client: str, server: str, is_steered: bool
) -> None:
    """Clients that move, change ids and come anew, while processes die and are replaced.

    No client of a process that lives is lost, and those of a dead one are told.
    """
    rng, slots = random.Random(7), 3
    async with family(server, tmp_path, slots, is_steered=is_steered) as gateway:
        clients: dict[Any, int] = {}  # (handler, connection) → its process
        moved: dict[Any, int] = {}
        renamed: set[Any] = set()

        async def come() -> None:
            before = {n: set(m.listener.connections) for n, m in gateway.members.items()}
            pair = await gateway.connect(client)
            await pair[0].exchange(b"new")
            (number,) = (
                n for n, m in gateway.members.items() if m.listener.connections - before[n]
            )
            clients[pair], moved[pair] = number, 0

        def gone(pair: Any) -> None:
            pair[1].discard()
            del clients[pair], moved[pair]
            renamed.discard(pair)

        for _ in range(6):
            await come()
        for step in range(150):
            pair = rng.choice(list(clients))
            what = rng.random()
            if what < 0.4:
                if moved[pair] < 3:  # qh3 follows a client to four addresses
                    moved[pair] += 1
                    rebind(pair[1])
            elif what < 0.5:
                change_id(pair[1])
                renamed.add(pair)
            elif what < 0.6:
                await come()
            elif what < 0.65 and len(clients) > 6:
                gone(pair)
                continue
            elif what < 0.7:
                # An upgrade: the next process of a slot beside the old one, which lives on.
                number = rng.choice(list(gateway.members))
                if (number + slots) not in gateway.members and gateway.board.loads[
                    number
                ] is not None:
                    old = gateway.members[number].listener
                    await gateway.start(number + slots)
                    gateway.board.loads[number] = None
                    old.stop_accepting()
                    old.set_reading(is_reading=False)
            elif what < 0.75:
                number = rng.choice(list(gateway.members))
                is_last = gateway.board.loads[number] is not None
                await gateway.kill(number)
                if is_last:
                    await gateway.start(number + slots)
                for other in [other for other in clients if clients[other] == number]:
                    # Of an id that qh3 made itself a client cannot be told.
                    if server == "aioquic" or other not in renamed:
                        other[0].send(b"?")
                        assert await other[0].until_lost() == Disconnect("reset")
                    gone(other)
                while len(clients) < 6:
                    await come()
                continue
            await pair[0].exchange(b"%d" % step)
        for handler, _ in clients:
            await handler.exchange(b"end")
            assert handler.lost == []
        assert gateway.total("hand_overs_dropped") == 0
