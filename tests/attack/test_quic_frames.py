"""Frames that no honest client sends, or not so many: each attack ends at a bound."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from gatesvr.protocol.link import LOW_WATER_BYTES
from gatesvr.transport.quic import aioquic_core
from gatesvr.transport.quic.interface import (
    MAX_CRYPTO_BYTES,
    RECEIVE_WINDOW,
    ConnectionIdIssued,
    ConnectionIdRetired,
    DatagramDropped,
    StreamData,
)

from .hostile import (
    COMPLETE,
    CONNECTION_ID_LIMIT_ERROR,
    CRYPTO_BUFFER_EXCEEDED,
    FLOW_CONTROL_ERROR,
    FRAME_ENCODING_ERROR,
    HALF_OPEN,
    HANDSHAKE,
    INITIAL,
    KEY_UPDATE_ERROR,
    ONE_RTT,
    PROTOCOL_VIOLATION,
    STREAM_LIMIT_ERROR,
    HostilePair,
    ack,
    crypto,
    data_blocked,
    handshake_done,
    max_data,
    max_stream_data,
    new_connection_id,
    new_token,
    padding,
    path_challenge,
    ping,
    reset_stream,
    retire_connection_id,
    stop_sending,
    stream,
)

if TYPE_CHECKING:
    from collections.abc import Callable

A, Q = "aioquic", "qh3"
HALF_FILLED = 60
"""Frames of a packet that aioquic's bound lets pass."""


class Attack(NamedTuple):
    """Packets until the connection is closed, at most so many, with one of these codes."""

    make: Callable[[int], bytes]
    limits: dict[str, int]
    codes: set[int]
    epoch: Epoch = ONE_RTT


def many(make: Callable[[int], bytes], count: int) -> bytes:
    return b"".join(map(make, range(count)))


def tls_message(i: int) -> bytes:
    """A message of 16 MiB, in order."""
    head = b"\x14\xff\xff\xff"
    return crypto(head + bytes(996) if i == 0 else bytes(1000), 1000 * i)


CLOSED = {
    "sparse offsets": Attack(
        lambda i: stream(0, b"x", 1 << (10 + i)), {A: 9, Q: 9}, {FLOW_CONTROL_ERROR}
    ),
    "beyond the window": Attack(
        lambda i: stream(0, b"x", RECEIVE_WINDOW), {A: 1, Q: 1}, {FLOW_CONTROL_ERROR}
    ),
    "every other byte": Attack(
        lambda i: many(lambda j: stream(0, b"x", 1 + 2 * (190 * i + j)), 190),
        {A: 1, Q: 400},
        {PROTOCOL_VIOLATION},
    ),
    "every other byte of CRYPTO": Attack(
        lambda i: many(lambda j: crypto(b"x", 1 + 2 * (190 * i + j)), 190),
        {A: 1, Q: 450},
        {PROTOCOL_VIOLATION},
    ),
    "a long TLS message": Attack(tls_message, {A: 17, Q: 17}, {CRYPTO_BUFFER_EXCEEDED}),
    "a long TLS message in the handshake": Attack(
        tls_message, {A: 17, Q: 17}, {CRYPTO_BUFFER_EXCEEDED}, HANDSHAKE
    ),
    "ACK of packets never sent": Attack(lambda i: ack(1000), {A: 1, Q: 1}, {PROTOCOL_VIOLATION}),
    "ACK of Initials never sent": Attack(
        lambda i: ack(1000), {A: 1, Q: 1}, {PROTOCOL_VIOLATION}, INITIAL
    ),
    "ACK of Handshake packets never sent": Attack(
        lambda i: ack(1000), {A: 1, Q: 1}, {PROTOCOL_VIOLATION}, HANDSHAKE
    ),
    "ACK ranges": Attack(
        lambda i: ack(1, 0, [(0, 0)] * 500),
        {A: 1, Q: 1},
        {PROTOCOL_VIOLATION, FRAME_ENCODING_ERROR},
    ),
    "connection ids": Attack(
        lambda i: new_connection_id(8 + i), {A: 1, Q: 1}, {CONNECTION_ID_LIMIT_ERROR}
    ),
    "connection ids, each retired": Attack(
        lambda i: many(lambda j: new_connection_id(40 * i + j + 8, 40 * i + j + 8), 40),
        {A: 1, Q: 1},
        {CONNECTION_ID_LIMIT_ERROR, PROTOCOL_VIOLATION},
    ),
    "ids of ours that were never issued": Attack(
        lambda i: retire_connection_id(100), {A: 1, Q: 1}, {PROTOCOL_VIOLATION}
    ),
    "stream ids": Attack(lambda i: stream(4 * 127, b"x"), {A: 1, Q: 1}, {STREAM_LIMIT_ERROR}),
    "path challenges, answers not acknowledged": Attack(
        lambda i: many(lambda j: path_challenge(bytes([i, j])), 120),
        {A: 1, Q: 8},
        {PROTOCOL_VIOLATION},
    ),
    "NEW_TOKEN": Attack(lambda i: new_token(b"x"), {A: 1, Q: 1}, {PROTOCOL_VIOLATION}),
    "HANDSHAKE_DONE": Attack(lambda i: handshake_done(), {A: 1, Q: 1}, {PROTOCOL_VIOLATION}),
}


@pytest.mark.parametrize("name", CLOSED)
def test_an_attack_is_closed(backend: str, name: str) -> None:
    attack = CLOSED[name]
    pair = HostilePair(backend, until=COMPLETE if attack.epoch is ONE_RTT else HALF_OPEN)
    limit = attack.limits[backend]
    while pair.closed is None and pair.attacks < limit:
        pair.attack(attack.make(pair.attacks), epoch=attack.epoch)
    assert pair.closed is not None
    assert pair.closed.kind == "local"
    assert pair.closed.code in attack.codes


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda i: ping() * 300,
    "PING and PADDING": lambda i: (ping() + padding(1)) * 300,
    "MAX_DATA": lambda i: max_data(1 << 40) * 120,
    "DATA_BLOCKED": lambda i: data_blocked(5) * 300,
    "STOP_SENDING": lambda i: stream(0, b"x") + stop_sending(0) * 300,
    "RESET_STREAM": lambda i: stream(0, b"x") + reset_stream(0, 1, 1) * 200,
    "one byte a frame": lambda i: many(lambda j: stream(0, b"x", 250 * i + j), 250),
    "ACK": lambda i: ack(0) * 200,
}


@pytest.mark.parametrize("name", FLOODS)
def test_aioquic_takes_a_bounded_number_of_frames_from_a_packet(name: str) -> None:
    """In qh3 a frame costs 20 ns to 100 ns, and these leave nothing behind."""
    pair = HostilePair("aioquic")
    pair.attack(FLOODS[name](0))
    assert pair.closed is not None
    assert pair.closed.code == PROTOCOL_VIOLATION


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_is_answered_by_an_acknowledgement(name: str) -> None:
    pair = HostilePair("qh3")
    for i in range(20):
        sent = pair.attack(FLOODS[name](i))
        assert len(sent) <= 2
        assert sum(map(len, sent)) <= 200


def test_gaps_are_bounded_and_drop_what_has_no_room() -> None:
    """Honest bytes fill the gaps all the same: what was dropped was not acknowledged."""
    pair = HostilePair("aioquic")
    for i in range(40):
        pair.attack(
            many(lambda j, i=i: stream(0, b"x", 1 + 2 * (HALF_FILLED * i + j)), HALF_FILLED)
        )
    assert pair.closed is None
    dropped = pair.events.count(DatagramDropped())
    assert 0 < dropped < 40
    assert len(receiver(pair)._starts) <= aioquic_core.MAX_PIECES
    whole = bytes(2 * 40 * HALF_FILLED)
    for at in range(0, len(whole), 1000):
        pair.attack(stream(0, whole[at : at + 1000], at))
    assert sum(len(e.data) for e in pair.events if isinstance(e, StreamData)) == len(whole)
    assert not receiver(pair)._starts
    assert not receiver(pair)._pieces


def receiver(pair: HostilePair) -> Any:
    return pair.server._quic._streams[0].receiver  # type: ignore[attr-defined]


def test_credit_follows_what_was_delivered(backend: str) -> None:
    pair = HostilePair(backend)
    quic = pair.client.quic
    kept = RECEIVE_WINDOW * 3 // 4
    pair.attack(ping())  # makes stream 0
    for at in range(1, kept, 1000):
        pair.answer(pair.attack(stream(0, b"x" * 1000, at)))
    pair.run(0.1)
    assert quic._remote_max_data == RECEIVE_WINDOW
    assert quic._streams[0].max_stream_data_remote == RECEIVE_WINDOW
    pair.answer(pair.attack(stream(0, b"x")))
    pair.run(0.1)
    delivered = sum(len(e.data) for e in pair.events if isinstance(e, StreamData))
    assert delivered > kept
    assert RECEIVE_WINDOW < quic._remote_max_data <= delivered + RECEIVE_WINDOW
    assert RECEIVE_WINDOW < quic._streams[0].max_stream_data_remote <= delivered + RECEIVE_WINDOW


def test_an_honest_upload_passes_the_window_many_times(backend: str) -> None:
    pair = HostilePair(backend)
    pair.client.quic.send_stream_data(0, bytes(5 * RECEIVE_WINDOW))
    pair.run(30.0)
    delivered = sum(len(e.data) for e in pair.events if isinstance(e, StreamData))
    assert delivered == 5 * RECEIVE_WINDOW
    assert pair.closed is None


def test_a_stream_that_is_reset_gives_its_credit_back(backend: str) -> None:
    pair = HostilePair(backend)
    for number in range(1, 8):
        pair.answer(pair.attack(stream(4 * number, b"x", 60_000)))
        pair.answer(pair.attack(reset_stream(4 * number, 0, 60_001)))
    pair.run(0.1)
    assert pair.closed is None
    pair.client.quic._remote_max_data_used = 7 * 60_001
    pair.client.quic.send_stream_data(0, bytes(RECEIVE_WINDOW))
    pair.run(10.0)
    delivered = sum(len(e.data) for e in pair.events if isinstance(e, StreamData))
    assert delivered == RECEIVE_WINDOW


def test_nobody_else_can_close_a_connection(backend: str) -> None:
    """Who sees a client's datagrams can send them again, and others with the same id."""
    pair = HostilePair(backend)
    data = pair.client.packet(stream(0, bytes(1000)), size=1200)
    forged = bytearray(data)
    forged[-1] ^= 1
    other_phase = bytearray(forged)
    other_phase[0] ^= 4
    pair.attack_raw(data)
    for _ in range(600):
        for replayed in (data, bytes(forged), bytes(other_phase)):
            pair.attack_raw(replayed)
    assert pair.closed is None
    pair.attack(stream(0, b"x", 1000))
    assert sum(len(e.data) for e in pair.events if isinstance(e, StreamData)) == 1001


def test_crypto_bytes_are_bounded() -> None:
    for epoch, until in ((INITIAL, HALF_OPEN), (HANDSHAKE, HALF_OPEN), (ONE_RTT, COMPLETE)):
        pair = HostilePair("aioquic", until=until)
        pair.attack(crypto(b"x", MAX_CRYPTO_BYTES), epoch=epoch)
        assert pair.closed is not None
        assert pair.closed.code == CRYPTO_BUFFER_EXCEEDED


def test_acknowledgements_that_are_never_acknowledged_are_forgotten() -> None:
    pair = HostilePair("aioquic")
    for i in range(4 * aioquic_core.MAX_UNACKED):
        pair.attack(stream(0, b"x", i))
    sent = pair.server._quic._spaces[ONE_RTT].sent_packets  # type: ignore[attr-defined]
    assert len(sent) <= aioquic_core.MAX_UNACKED
    # And an honest client is served as before.
    pair.server.send_stream_data(b"answer")
    pair.run(1.0)
    assert pair.server.is_acknowledged()


def test_a_full_window_is_not_looked_through_for_each_datagram() -> None:
    class Packets(dict[int, SimpleNamespace]):
        looks = 0

        def items(self) -> Any:
            self.looks += 1
            return super().items()

    core = HostilePair("aioquic").server._quic  # type: ignore[attr-defined]
    in_flight = SimpleNamespace(in_flight=True)
    sent = Packets(dict.fromkeys(range(aioquic_core.MAX_UNACKED), in_flight))
    core._spaces[ONE_RTT].sent_packets = sent
    for number in range(len(sent), 2 * len(sent)):
        sent[number] = SimpleNamespace(in_flight=number % 2 == 0)
        core.forget_acknowledgements()
    assert sent.looks <= 2 + aioquic_core.MAX_UNACKED // aioquic_core.KEPT_UNACKED
    bare = [packet for packet in sent.values() if not packet.in_flight]
    assert len(bare) <= 2 * aioquic_core.KEPT_UNACKED


def test_gaps_in_packet_numbers(backend: str) -> None:
    pair = HostilePair(backend)
    for i in range(500):
        sent = pair.attack(ping(), number=1000 + 2 * i)
        assert sum(map(len, sent)) <= 400
    assert pair.closed is None
    if backend == "aioquic":
        space = pair.server._quic._spaces[ONE_RTT]  # type: ignore[attr-defined]
        assert len(space.ack_queue) <= 64
        assert len(space.received_packets._received) <= 512


def test_one_challenge_a_datagram_has_one_answer(backend: str) -> None:
    pair = HostilePair(backend)
    for i in range(100):
        sent = pair.attack(path_challenge(bytes([i])))
        assert len(sent) <= 2
        pair.answer(sent)
    assert pair.closed is None


def test_aioquic_answers_the_newest_challenge_alone() -> None:
    pair = HostilePair("aioquic")
    found: list[bytes] = []
    handlers = pair.client.quic._QuicConnection__frame_handlers  # type: ignore[attr-defined]
    handlers[0x1B] = (lambda context, kind, buf: found.append(buf.pull_bytes(8)), handlers[0x1B][1])
    pair.answer(pair.attack(many(lambda j: path_challenge(bytes([j] * 8)), 30)))
    pair.run(0.1)
    assert found == [bytes([29] * 8)]


def test_retired_ids_are_replaced_and_no_more(backend: str) -> None:
    pair = HostilePair(backend)
    for i in range(400):
        sent = pair.attack(many(lambda j, i=i: retire_connection_id(7 * i + j + 1), 7))
        assert len(sent) <= 8
        issued = sum(isinstance(e, ConnectionIdIssued) for e in pair.events)
        retired = sum(isinstance(e, ConnectionIdRetired) for e in pair.events)
        assert issued - retired <= 8
        if pair.closed is not None:
            break
    # Whether the rate is limited by the congestion window or by a close: nothing piles up.
    if backend == "aioquic":
        assert len(pair.server._quic._host_cids) <= 8  # type: ignore[attr-defined]
    else:
        assert pair.closed is not None
        assert pair.closed.code == PROTOCOL_VIOLATION


def test_a_wide_congestion_window_does_not_make_the_gateway_keep_more(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"gatesvr.transport.quic.{backend}.MAX_UNACKNOWLEDGED", 50_000)
    pair = HostilePair(backend)
    pair.client.quic._local_max_data.value = 1 << 40
    pair.attack(stream(0, b"x"), max_data(1 << 40), max_stream_data(0, 1 << 40))
    for _ in range(100):  # acknowledges all, and the window grows
        pair.server.send_stream_data(bytes(5000))
        pair.run(0.05)
    assert pair.server.unsent_bytes() == 0
    given = 0
    while pair.server.unsent_bytes() < LOW_WATER_BYTES and given < 10_000_000:
        pair.server.send_stream_data(bytes(5000))
        given += 5000
        pair.from_server()  # nobody reads it
        pair.now += 0.01
    assert given <= 50_000 + LOW_WATER_BYTES + 10_000


def test_key_updates() -> None:
    """In qh3 a key update costs no more than a PING."""
    pair = HostilePair("aioquic")
    # One every few seconds is fine.
    for _ in range(10):
        pair.client.update_key()
        pair.attack(ping())
        pair.now += 2.0
    assert pair.closed is None
    for _ in range(aioquic_core.MAX_KEY_UPDATES + 2):
        pair.client.update_key()
        pair.attack(ping())
    assert pair.closed is not None
    assert pair.closed.code == KEY_UPDATE_ERROR


def test_many_packets_in_one_datagram() -> None:
    pair = HostilePair("aioquic", until=HALF_OPEN)
    packets = b"".join(pair.client.packet(ping(), epoch=INITIAL, size=60) for _ in range(20))
    pair.attack_raw(packets.ljust(1200, b"\0"))
    assert pair.events == [DatagramDropped()]
    # As many as a handshake needs pass, with padding behind them.
    packets = b"".join(
        pair.client.packet(ping(), epoch=epoch, size=60)
        for epoch in (INITIAL, INITIAL, HANDSHAKE, HANDSHAKE)
    )
    pair.attack_raw(packets.ljust(1200, b"\0"))
    assert pair.events == [DatagramDropped()]


def test_amplification_before_the_address_is_proved(backend: str) -> None:
    pair = HostilePair(backend, until=HALF_OPEN)
    for _ in range(30):
        pair.now += 1.0
        timer = pair.server.get_timer()
        if timer is not None and timer <= pair.now:
            pair.server.handle_timer(pair.now)
        pair.from_server()
        assert pair.bytes_sent <= 3 * pair.bytes_received


def test_amplification_after_a_move(backend: str) -> None:
    pair = HostilePair(backend)
    pair.answer(pair.attack(stream(0, b"x")))
    pair.server.send_stream_data(bytes(50_000))
    pair.address = ("127.0.0.1", 40002)  # a victim's: it answers nothing
    data = pair.client.packet(ping())
    pair.server.receive_datagram(data, pair.address, pair.now)
    sent = 0
    for _ in range(50):
        for datagram, address in pair.server.datagrams_to_send(pair.now):
            sent += len(datagram) if address == pair.address else 0
        assert sent <= 3 * len(data)
        pair.now += 0.1
        timer = pair.server.get_timer()
        if timer is not None and timer <= pair.now:
            pair.server.handle_timer(pair.now)


def test_an_acknowledged_packet_number_that_was_left_out() -> None:
    pair = HostilePair("aioquic")
    core = pair.server._quic  # type: ignore[attr-defined]
    pair.attack(stream(0, b"x"))
    core._skip_at = 0
    left_out = core._packet_number
    pair.server.send_stream_data(b"answer")
    pair.from_server()
    assert core._packet_number == left_out + 2
    pair.attack(ack(left_out + 1, 1))
    assert pair.closed is not None
    assert pair.closed.code == PROTOCOL_VIOLATION


def test_an_honest_client_never_acknowledges_what_was_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aioquic_core, "SKIP_PACKETS", 3)
    pair = HostilePair("aioquic")
    pair.server._quic._skip_at = 0  # type: ignore[attr-defined]
    pair.attack(stream(0, b"x"))
    received = 0
    for _ in range(50):
        pair.server.send_stream_data(bytes(5000))
        pair.run(0.05)
    quic: QuicConnection = pair.client.quic
    received = quic._streams[0].receiver._buffer_start
    assert received == 250_000
    assert pair.closed is None
    assert len(quic._spaces[ONE_RTT].ack_queue) > 1
