"""The decision on a datagram of an unknown connection, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from gatesvr.config import TransportConfig
from gatesvr.protocol.link import Disconnect
from gatesvr.transport.admission import (
    MAX_NEGOTIATIONS_PER_S,
    MAX_REFUSALS_PER_S,
    Admission,
    Admitted,
)
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.quic.interface import NO_CRYPTO, Closed
from gatesvr.transport.quic.refusal import CONNECTION_REFUSED
from gatesvr.transport.quic.retry import Retries
from gatesvr.transport.tls import client_tls

from .test_listener import initial

if TYPE_CHECKING:
    from gatesvr.transport.connection import Connection

PEER = ("192.0.2.1", 40001)
OTHER_PEER = ("192.0.2.2", 40001)
PREFIXES = (bytes([192, 0, 2, 1]), bytes([192, 0, 2]))


class Door:
    """An Admission, its counters and connections that are none."""

    def __init__(self, *, needs_retry: bool = False, always: bool = False, **limits: Any) -> None:
        self.counters = TransportCounters()
        self.wall = 1_000_000.0
        self.admission = Admission(
            TransportConfig(**{"retry": "always" if always else "auto", **limits}),
            self.counters,
            Retries(bytes(16), lambda: self.wall),
            needs_retry=needs_retry,
        )
        self.admission.is_accepting = True

    def begin(self) -> Connection:
        connection: Any = object()
        client = self.judge()
        assert isinstance(client, Admitted)
        self.admission.begin(connection, client)
        return connection  # type: ignore[no-any-return]

    def judge(self, peer: str = "192.0.2.1", now: float = 0.0) -> Admitted | bytes | None:
        """Judge the first Initial of a new client."""
        return self.admission.judge(initial(), (peer, 40001), now)

    def judge_proved(self, now: float) -> Admitted | bytes | None:
        """Judge the Initial that a new client sends after its Retry."""
        client = QuicConnection(
            configuration=QuicConfiguration(is_client=True, alpn_protocols=["gatesvr"])
        )
        client.connect(PEER, now)
        ((data, _),) = client.datagrams_to_send(now)
        answer = self.admission.judge(data, PEER, now)
        assert isinstance(answer, bytes)
        client.receive_datagram(answer, PEER, now)
        ((again, _),) = client.datagrams_to_send(now)
        return self.admission.judge(again, PEER, now)


def destination(data: bytes) -> bytes:
    return data[6 : 6 + data[5]]


def test_an_initial_is_admitted() -> None:
    door = Door()
    data = initial()
    first_id = destination(data)
    assert door.admission.judge(data, PEER, 0.0) == Admitted(first_id, first_id, None, PREFIXES)


def test_retry_proves_an_address() -> None:
    door = Door(always=True)
    client = QuicConnection(
        configuration=QuicConfiguration(is_client=True, alpn_protocols=["gatesvr"])
    )
    client.connect(PEER, 0.0)
    ((data, _),) = client.datagrams_to_send(0.0)
    answer = door.admission.judge(data, PEER, 0.0)
    assert isinstance(answer, bytes)
    client.receive_datagram(answer, PEER, 0.0)
    ((again, _),) = client.datagrams_to_send(0.0)
    ours = destination(again)
    assert door.admission.judge(again, PEER, 1.0) == Admitted(
        ours, destination(data), ours, PREFIXES
    )
    assert isinstance(door.admission.judge(again, OTHER_PEER, 1.0), bytes)
    counters = door.counters
    assert (counters.retries_sent, counters.retries_validated, counters.retries_refused) == (
        2,
        1,
        1,
    )


def test_a_backend_that_needs_retry_gets_it_for_padding_outside_of_the_packet() -> None:
    data = initial()
    assert isinstance(Door().admission.judge(data + bytes(20), PEER, 0.0), Admitted)
    assert isinstance(Door(needs_retry=True).admission.judge(data + bytes(20), PEER, 0.0), bytes)


@pytest.mark.parametrize("backend", ["aioquic", "qh3"])
def test_a_gateway_that_stops_refuses_clients_at_once(backend: str) -> None:
    door = Door()
    door.admission.is_accepting = False
    client = pick_backend(backend).client(client_tls("h", insecure=True), "h", 60.0)
    client.connect(PEER, 0.0)
    data, _ = client.datagrams_to_send(0.0)[0]
    refusal = door.admission.judge(data, PEER, 0.0)
    assert isinstance(refusal, bytes)
    assert len(refusal) < 100
    client.receive_datagram(refusal, PEER, 0.0)
    (closed,) = [event for event in client.events if isinstance(event, Closed)]
    assert (closed.how.kind, closed.how.code) == ("peer_transport", CONNECTION_REFUSED)
    assert closed.how.reason == "the gateway stops"
    assert door.counters.initials_refused == 1


def test_refusals_are_bounded() -> None:
    door = Door()
    door.admission.is_accepting = False
    data = initial()
    for _ in range(MAX_REFUSALS_PER_S + 1):
        door.admission.judge(data, PEER, 0.0)
    counters = door.counters
    assert (counters.initials_refused, counters.refusals_limited) == (MAX_REFUSALS_PER_S, 1)


def test_a_handshake_that_completes_while_the_gateway_stops_is_refused() -> None:
    door = Door()
    connection = door.begin()
    door.admission.is_accepting = False
    assert not door.admission.complete(connection)
    assert (door.counters.accepted, door.counters.connections_refused) == (0, 1)


@pytest.mark.parametrize("spoil", [6, 15, 200], ids=["id", "header", "payload"])
def test_an_initial_that_no_client_made_costs_no_connection(spoil: int) -> None:
    door = Door()
    data = bytearray(initial())
    data[spoil] ^= 1
    assert door.admission.judge(bytes(data), PEER, 0.0) is None
    counters = door.counters
    assert counters.initials_undecryptable == 1
    assert door.admission.judge(initial(), PEER, 0.0) is not None


def test_every_cut_of_an_initial_is_judged() -> None:
    """A datagram of the right size may end anywhere within what its lengths say."""
    door = Door()
    data = initial()
    for at in range(5, 40):
        for value in (0, 0x3F, 0x7F, 0xFF):
            bad = data[:at] + bytes([value]) + data[at + 1 :]
            assert door.admission.judge(bad, PEER, 0.0) is None or bad == data
            assert door.admission.judge(bad[:at] + bytes(2000), PEER, 0.0) is None


def test_version_negotiation_has_a_limit() -> None:
    door = Door()
    data = initial()
    data = data[:1] + b"\x1a\x2a\x3a\x4a" + data[5:]
    answers = [door.admission.judge(data, PEER, 0.0) for _ in range(MAX_NEGOTIATIONS_PER_S + 5)]
    assert len([answer for answer in answers if answer]) == MAX_NEGOTIATIONS_PER_S
    assert all(len(answer) < len(data) for answer in answers if isinstance(answer, bytes))
    assert door.counters.negotiations_limited == 5
    assert door.admission.judge(data, PEER, 1.0)


@pytest.mark.parametrize(
    ("age", "is_good"), [(1.0, True), (29.0, True), (31.0, False), (-31.0, False)]
)
def test_a_retry_token_has_a_lifetime(age: float, is_good: bool) -> None:
    door = Door(always=True)
    data = initial()
    client = QuicConnection(
        configuration=QuicConfiguration(is_client=True, alpn_protocols=["gatesvr"])
    )
    client.connect(PEER, 0.0)
    ((data, _),) = client.datagrams_to_send(0.0)
    answer = door.admission.judge(data, PEER, 0.0)
    assert isinstance(answer, bytes)
    assert len(answer) < len(data) / 5
    client.receive_datagram(answer, PEER, 0.0)
    ((again, _),) = client.datagrams_to_send(0.0)
    door.wall += age
    assert isinstance(door.admission.judge(again, PEER, 0.0), Admitted) is is_good


def test_a_rush_of_handshakes_switches_retry_on_and_its_end_off() -> None:
    door = Door(retry_handshakes=4)
    halves = [door.begin() for _ in range(4)]
    assert isinstance(door.judge(), bytes)
    for connection in halves[:2]:
        door.admission.complete(connection)
    assert isinstance(door.judge(now=5.0), bytes)  # 2 are half of 4
    door.admission.complete(halves[2])
    assert isinstance(door.judge(now=10.0), Admitted)
    assert (door.counters.retry_switches, door.counters.retries_sent) == (1, 2)


def test_initials_in_line_count_as_half_open() -> None:
    door = Door(retry_handshakes=4, max_handshakes=5)
    clients = [door.judge() for _ in range(4)]
    assert isinstance(door.judge(), bytes)
    for client in clients:
        assert isinstance(client, Admitted)
        door.admission.abandon(client)
    assert isinstance(door.judge(now=5.0), Admitted)


def test_many_initials_a_second_switch_retry_on() -> None:
    door = Door(retry_initials=3)
    found = [door.judge(now=10.0 + i / 10) for i in range(4)]
    assert [isinstance(answer, bytes) for answer in found] == [False, False, True, True]
    assert isinstance(door.judge(now=11.0), bytes)  # 4 in the second before
    assert isinstance(door.judge(now=12.0), Admitted)  # 1, which is less than half of 3


def test_retry_never_is_for_backends_that_can_do_without() -> None:
    door = Door(retry="never", retry_handshakes=1)
    door.begin()
    assert isinstance(door.judge(), Admitted)
    assert door.counters.retry_switches == 0


def test_retry_that_is_always_on_is_not_switched() -> None:
    door = Door(always=True, retry_initials=1)
    assert all(isinstance(door.judge(), bytes) for _ in range(3))
    assert door.counters.retry_switches == 0


LIMITS = {
    "max_connections_per_prefix": "prefix_connections_limited",
    "max_handshakes_per_prefix": "prefix_handshakes_limited",
    "max_connection_rate_per_prefix": "prefix_rate_limited",
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("same", "neighbour", "stranger"),
    [
        ("192.0.2.1", "192.0.2.{}", "198.51.100.1"),
        ("2001:db8::{:x}", "2001:db8:0:{:x}::1", "2001:db8:0:100::1"),
    ],
)
@pytest.mark.parametrize("is_dry", [False, True])
def test_a_network_has_limits(
    limit: str, same: str, neighbour: str, stranger: str, is_dry: bool
) -> None:
    settings: dict[str, Any] = {limit: 2, "connection_burst_per_prefix": 2, "retry": "never"}
    if limit != "max_connection_rate_per_prefix":
        settings["max_connection_rate_per_prefix"] = 0
    door = Door(dry_run=[limit] if is_dry else [], **settings)

    def tries(pattern: str, count: int) -> list[bool]:
        return [door.judge(pattern.format(i)) is not None for i in range(2, 2 + count)]

    assert tries(same, 3) == [True, True, is_dry]
    assert tries(neighbour, 8)[:4] == [True] * 4
    # The narrow network's two and six neighbours are 4 x 2.
    assert tries(neighbour, 10)[9] is is_dry
    assert door.judge(stranger) is not None
    assert getattr(door.counters, LIMITS[limit]) > 0
    assert sum(getattr(door.counters, other) for other in LIMITS.values()) == getattr(
        door.counters, LIMITS[limit]
    )


def test_a_network_does_not_pay_for_what_the_one_around_it_refuses() -> None:
    door = Door(max_connection_rate_per_prefix=1, connection_burst_per_prefix=2, retry="never")
    for host in range(4):
        assert all(door.judge(f"192.0.2.{host}") is not None for _ in range(2))
    assert not any(door.judge("192.0.2.9") is not None for _ in range(10))
    assert all(door.judge("192.0.2.9", now=1.0) is not None for _ in range(2))


def test_an_unlimited_network_has_no_limits_by_prefix() -> None:
    door = Door(max_handshakes_per_prefix=1, unlimited_prefixes=["192.0.2.0/24"], retry="never")
    assert all(door.judge() is not None for _ in range(5))
    assert [door.judge("203.0.113.9") is not None for _ in range(2)] == [True, False]


def test_a_mapped_address_counts_as_what_it_is() -> None:
    door = Door(max_handshakes_per_prefix=1, retry="never")
    assert door.judge("::ffff:192.0.2.1") is not None
    assert door.judge("192.0.2.1") is None


def test_what_a_network_took_is_given_back() -> None:
    door = Door(max_handshakes_per_prefix=2, max_connections_per_prefix=3, retry="never")
    first, second = door.begin(), door.begin()
    assert door.judge() is None
    assert door.admission.complete(first)
    third = door.begin()
    door.admission.complete(second)
    assert door.judge() is None  # three connections
    for connection in (first, second, third):
        door.admission.end(connection, Disconnect("local", 0))
    client = door.judge()
    assert isinstance(client, Admitted)
    door.admission.abandon(client)
    assert len(door.admission.limits) == 0
    assert not door.admission.limits._handshakes


def test_forged_initials_leave_a_network_half_of_its_rate() -> None:
    door = Door(max_connection_rate_per_prefix=2, connection_burst_per_prefix=8)
    found = [door.judge(now=1.0 + i / 100) for i in range(100)]
    assert sum(isinstance(answer, Admitted) for answer in found) <= 6
    assert not found.count(None)  # its own clients prove their address
    while isinstance(door.judge(now=2.0), Admitted):
        pass
    assert all(isinstance(door.judge_proved(2.0), Admitted) for _ in range(3))


def test_forged_initials_leave_a_network_half_of_its_handshakes() -> None:
    door = Door(max_handshakes_per_prefix=4)
    door.begin()
    door.begin()
    assert [isinstance(door.judge(), bytes) for _ in range(3)] == [True] * 3
    assert [isinstance(door.judge_proved(0.0), Admitted) for _ in range(3)] == [True, True, False]
    assert isinstance(door.judge("192.0.2.2"), Admitted)


def test_half_open_connections_have_a_limit_of_their_own() -> None:
    door = Door(max_handshakes=2)
    first, _ = door.begin(), door.begin()
    assert door.admission.judge(initial(), PEER, 0.0) is None
    assert (door.counters.handshakes, door.counters.handshakes_dropped) == (2, 1)
    assert door.admission.complete(first)
    assert (door.counters.handshakes, door.counters.connections) == (1, 1)
    assert door.admission.judge(initial(), PEER, 0.0) is not None


def test_above_max_connections_clients_are_refused_and_further_on_dropped() -> None:
    door = Door(max_connections=40)
    for _ in range(40):
        assert door.admission.complete(door.begin())
    refused = [door.begin() for _ in range(2)]
    assert not door.admission.complete(refused[0])
    assert door.admission.judge(initial(), PEER, 0.0) is None
    assert door.counters.connections_dropped == 1
    for connection in refused:
        door.admission.end(connection, Disconnect("local", 4503))
    assert door.admission.judge(initial(), PEER, 0.0) is not None
    assert (door.counters.accepted, door.counters.connections_refused) == (40, 1)


@pytest.mark.parametrize(
    ("how", "failed", "without_crypto"),
    [(Disconnect("handshake", 0, "time-out"), 1, 0), (NO_CRYPTO, 0, 1)],
)
def test_the_end_of_a_half_open_connection(
    how: Disconnect, failed: int, without_crypto: int
) -> None:
    door = Door()
    door.admission.end(door.begin(), how)
    assert not door.admission.connections
    assert not door.admission.half_open
    counters = door.counters
    assert (counters.handshakes_failed, counters.initials_without_crypto) == (
        failed,
        without_crypto,
    )
