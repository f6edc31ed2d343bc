"""The decision on a datagram of an unknown connection, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from gatesvr.config import TransportConfig
from gatesvr.protocol.link import Disconnect
from gatesvr.transport.admission import Admission, Admitted
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.quic.interface import NO_CRYPTO

from .test_listener import initial

if TYPE_CHECKING:
    from gatesvr.transport.connection import Connection

PEER = ("192.0.2.1", 40001)
OTHER_PEER = ("192.0.2.2", 40001)


class Door:
    """An Admission, its counters and connections that are none."""

    def __init__(self, *, needs_retry: bool = False, always: bool = False, **limits: Any) -> None:
        self.counters = TransportCounters()
        self.admission = Admission(
            TransportConfig(**limits),
            self.counters,
            needs_retry=needs_retry,
            is_retry_always=always,
        )
        self.admission.is_accepting = True

    def begin(self) -> Connection:
        connection: Any = object()
        self.admission.begin(connection)
        return connection  # type: ignore[no-any-return]


def destination(data: bytes) -> bytes:
    return data[6 : 6 + data[5]]


def test_an_initial_is_admitted() -> None:
    door = Door()
    data = initial()
    first_id = destination(data)
    assert door.admission.judge(data, PEER, 0.0) == Admitted(first_id, first_id, None)


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
    assert door.admission.judge(again, PEER, 1.0) == Admitted(ours, destination(data), ours)
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


def test_nobody_is_admitted_after_the_listener_stops() -> None:
    door = Door()
    door.admission.is_accepting = False
    data = initial()
    assert door.admission.judge(data, PEER, 0.0) is None
    assert door.admission.judge(data[:1] + b"\x1a\x2a\x3a\x4a" + data[5:], PEER, 0.0) is None
    assert door.counters.connections_dropped == 1
    assert door.counters.versions_negotiated == 0


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
