"""The two backends without sockets: one behaviour, and the private parts that it rests on."""

from __future__ import annotations

import hashlib
import inspect
import random
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from aioquic.quic import connection as aio
from aioquic.quic import crypto as aiocrypto
from aioquic.quic import recovery as aiorecovery
from aioquic.quic import stream as aiostream
from aioquic.tls import Epoch
from qh3 import tls as qh3tls
from qh3._hazmat import QuicConnectionCore
from qh3.quic import connection as qh3connection
from qh3.quic import tls_bridge as qh3bridge

from gatesvr.errors import ConfigError
from gatesvr.protocol.link import Disconnect
from gatesvr.transport.quic.aioquic import GAP_PATIENCE
from gatesvr.transport.quic.choose import backends, pick_backend
from gatesvr.transport.quic.interface import (
    ACK_PATIENCE,
    STREAM_ID,
    Closed,
    HandshakeCompleted,
    QuicEvent,
    StreamData,
)

from .harness import BACKENDS, PAIRS, Pair

if TYPE_CHECKING:
    from gatesvr.transport.addresses import Address
    from gatesvr.transport.quic.interface import QuicTransport


def stream_bytes(events: list[QuicEvent]) -> bytes:
    return b"".join(e.data for e in events if isinstance(e, StreamData))


def ends(events: list[QuicEvent]) -> list[Disconnect]:
    return [e.how for e in events if isinstance(e, Closed)]


def connected(client: str, server: str, *, idle_timeout: float = 10.0) -> Pair:
    pair = Pair(client, server, idle_timeout=idle_timeout)
    # Without a listener there is no Retry: qh3 needs a probe after a time-out or two for aioquic.
    pair.run(1.5 if (client, server) == ("aioquic", "qh3") else 0.1)
    pair.client.send_stream_data(b"hello")
    pair.run(0.1)
    assert HandshakeCompleted() in pair.client_events
    assert HandshakeCompleted() in pair.server_events
    assert stream_bytes(pair.server_events) == b"hello"
    pair.client_events.clear()
    pair.server_events.clear()
    return pair


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_unsent_bytes_and_acknowledgement(client: str, server: str) -> None:
    pair = connected(client, server)
    for near, far in ((pair.client, pair.server), (pair.server, pair.client)):
        assert near.is_stream_open()
        assert near.unsent_bytes() == 0
        assert near.is_acknowledged()
        near.send_stream_data(bytes(60_000))
        near.send_stream_data(bytes(40_000))
        assert near.unsent_bytes() == 100_000
        sent = near.datagrams_to_send(pair.now)
        assert sent
        # The congestion window holds the rest back; what is in flight is not unsent any more.
        assert 100_000 - sum(len(d) for d, _ in sent) <= near.unsent_bytes() < 100_000
        assert not near.is_acknowledged()
        address = pair.client_address if near is pair.client else pair.SERVER
        for data, _ in sent:
            far.receive_datagram(data, address, pair.now)
        pair.run(1.0)
        assert near.unsent_bytes() == 0
        assert near.is_acknowledged()
    assert len(stream_bytes(pair.server_events)) == 100_000
    assert len(stream_bytes(pair.client_events)) == 100_000


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_fin_is_acknowledged(client: str, server: str) -> None:
    pair = connected(client, server)
    pair.server.send_stream_data(b"last", end=True)
    assert not pair.server.is_acknowledged()
    pair.run(0.1)
    assert pair.client_events == [StreamData(0, b"last", True)]
    assert pair.server.is_acknowledged()
    assert pair.server.unsent_bytes() == 0


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_ack_mark_moves_with_acknowledgements_alone(client: str, server: str) -> None:
    pair = connected(client, server)
    pair.run(1.0)
    mark = pair.server.ack_mark()
    for _ in range(3):
        pair.client.ping()
        pair.run(0.5)
    assert pair.server.ack_mark() == mark
    pair.server.send_stream_data(b"x")
    pair.run(0.5)
    assert pair.server.ack_mark() != mark


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_close_is_told_with_the_datagram_that_brings_it(client: str, server: str) -> None:
    pair = connected(client, server)
    pair.client.close(4408, "ümlaut")
    pair.run()
    assert ends(pair.server_events) == [Disconnect("peer", 4408, "ümlaut")]
    assert pair.server.datagrams_to_send(pair.now) == []
    pair.run(5.0)
    assert len(ends(pair.server_events)) == 1
    assert ends(pair.client_events) == []  # who closes needs no telling


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_code_zero_is_a_close_of_the_application(client: str, server: str) -> None:
    pair = connected(client, server)
    pair.server.close(0, "")
    pair.run()
    assert ends(pair.client_events) == [Disconnect("peer", 0, "")]


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_transport_close(client: str, server: str) -> None:
    pair = connected(client, server)
    pair.client._quic.close(7, 6, "broken")  # type: ignore[attr-defined]
    pair.run()
    assert ends(pair.server_events) == [Disconnect("peer_transport", 7, "broken")]


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_idle(client: str, server: str) -> None:
    pair = connected(client, server, idle_timeout=3.0)
    assert pair.server.idle_timeout() == pytest.approx(3.0)
    assert pair.client.idle_timeout() == pytest.approx(3.0)
    pair.run(10.0)
    assert ends(pair.server_events) == [Disconnect("idle")]
    assert ends(pair.client_events) == [Disconnect("idle")]


@pytest.mark.parametrize("server", BACKENDS)
def test_a_broken_rule_closes_with_its_code(server: str) -> None:
    pair = connected("aioquic", server)
    quic = pair.client._quic  # type: ignore[attr-defined]
    quic._retire_connection_ids.append(99)
    pair.run()
    protocol_violation = 10
    (how,) = ends(pair.server_events)
    assert (how.kind, how.code) == ("local", protocol_violation)
    (how,) = ends(pair.client_events)
    assert (how.kind, how.code) == ("peer_transport", protocol_violation)


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_mutated_datagrams_raise_nothing(client: str, server: str) -> None:
    rng = random.Random(8453)
    pair = connected(client, server)
    for _ in range(300):
        pair.client.send_stream_data(rng.randbytes(50))
        for data, _ in pair.client.datagrams_to_send(pair.now):
            mutated = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
            cut = bytes(mutated[: rng.randrange(1, len(mutated) + 1)])
            pair.server.receive_datagram(cut, pair.client_address, pair.now)
            pair.server.receive_datagram(data, pair.client_address, pair.now)
        pair.run(0.05)
    assert ends(pair.server_events) == []
    assert len(stream_bytes(pair.server_events)) == 300 * 50


def test_qh3_keeps_what_it_built_before_the_budget_ended() -> None:
    pair = connected("qh3", "qh3")
    pair.server.send_stream_data(bytes(50_000))
    pair.client.send_stream_data(b"from elsewhere")
    elsewhere = ("127.0.0.1", 40002)
    for data, _ in pair.client.datagrams_to_send(pair.now):
        pair.server.receive_datagram(data, elsewhere, pair.now)
    assert pair.server.datagrams_to_send(pair.now)  # and no exception
    pair.client_address = elsewhere
    pair.run(2.0)
    assert len(stream_bytes(pair.client_events)) == 50_000
    assert pair.server.peer_address() == elsewhere
    assert not pair.server.is_path_limit_near()


def test_backends_by_name() -> None:
    assert backends() == ["qh3", "aioquic"]
    assert pick_backend("auto").name == "qh3"
    assert pick_backend("aioquic").name == "aioquic"
    with pytest.raises(ConfigError, match=r"transport\.backend: 'quiche' is no backend"):
        pick_backend("quiche")


def test_qh3_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert pick_backend("auto").name == "aioquic"
    with pytest.raises(ConfigError, match=r"gatesvr\[fast\]"):
        pick_backend("qh3")


# What the adapters read of the libraries' private parts. A new release that changes one of these
# has to be read before it is allowed.

AIOQUIC_ATTRIBUTES = (
    "_QuicConnection__frame_handlers",
    "_ack_delay",
    "_close_event",
    "_crypto_streams",
    "_events",
    "_handshake_confirmed",
    "_host_cids",
    "_is_client",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_loss",
    "_packet_number",
    "_peer_cid",
    "_remote_max_idle_timeout",
    "_spaces",
    "_state",
    "_streams",
)
AIOQUIC_SENDER = (
    "_buffer_fin",
    "_buffer_start",
    "_buffer_stop",
    "_reset_error_code",
    "buffer_is_empty",
    "highest_offset",
    "is_finished",
)
AIOQUIC_LOSS = ("_cc", "_rtt_initialized", "_rtt_smoothed")
AIOQUIC_SPACE = ("ack_at", "ack_queue", "largest_acked_packet", "sent_packets")
QH3_ATTRIBUTES = (
    "_applied_transport_parameters",
    "_core",
    "_created_local_stream_ids",
    "_handshake_complete",
    "_handshake_confirmed",
    "_is_client",
    "_peer_token",
    "_remote_addr",
    "_retry_source_connection_id",
    "_tls",
)
QH3_CORE = (
    "active_path",
    "bytes_in_flight",
    "close",
    "congestion_window",
    "get_send_buffer_size",
    "get_timer",
    "handle_timer",
    "has_events",
    "handshake_confirmed",
    "install_packet_key",
    "latest_rtt",
    "loss_total",
    "next_event",
    "open_stream",
    "poll_transmit",
    "pto_count",
    "receive_many_datagrams",
    "received_authenticated_packet",
    "reset_stream",
    "send_ping",
    "send_stream",
    "smoothed_rtt",
    "stop_sending",
    "version",
)
SOURCES = {
    aio.QuicConnection._initialize: "6a41681e541c",
    aio.QuicConnection._payload_received: "612b67759a96",
    aio.QuicConnection._handle_ack_frame: "a9cf2707aa0f",
    aio.QuicConnection._handle_crypto_frame: "e77f8695d9ac",
    aio.QuicConnection._handle_stream_frame: "8c79348a854e",
    aio.QuicConnection._handle_reset_stream_frame: "0a1801842064",
    aio.QuicConnection._handle_path_challenge_frame: "8ca414858b5e",
    aio.QuicConnection._get_or_create_stream: "aee09c84cd0d",
    aio.QuicConnection._log_key_updated: "e9a72a10c517",
    aio.QuicConnection._write_connection_limits: "02c42c5455ae",
    aio.QuicConnection._write_stream_limits: "398d4a898f7c",
    aio.QuicConnection.datagrams_to_send: "f4eb22c8add2",
    aio.QuicConnection.receive_datagram: "3c7f29826050",
    aiostream.QuicStreamReceiver.__init__: "d7dd149186a6",
    aiostream.QuicStreamReceiver.handle_frame: "c54bce9f11e6",
    aiostream.QuicStreamReceiver.handle_reset: "3a2b7a53512a",
    aiorecovery.QuicPacketRecovery.on_ack_received: "1a7c69347908",
    aiorecovery.QuicPacketRecovery.on_packet_sent: "a83baa6e0570",
    aiocrypto.CryptoPair.decrypt_packet: "2d2c3a3bf129",
    aio.QuicConnection._handle_connection_close_frame: "66f05d8258d1",
    aio.QuicConnection.handle_timer: "8ebd76a179bf",
    aio.QuicConnection._write_ack_frame: "dc0bde63adda",
    aio.QuicConnection._write_application: "c37bf64378f7",
    aio.QuicConnection._close_begin: "d8cdcfd45139",
    aio.QuicConnection._consume_peer_cid: "13a5b8e0d4da",
    aio.QuicConnection._handle_new_connection_id_frame: "8a802ee5e62d",
    aio.QuicConnection._replenish_connection_ids: "73b127efb89c",
    aio.QuicConnection._send_probe: "4578820ab6bb",
    aio.QuicConnection._serialize_transport_parameters: "be651f3ddfcd",
    aio.QuicConnection._write_new_connection_id_frame: "8e58e506ea36",
    aio.QuicConnection._stream_is_discarded: "d4812b696802",
    aiostream.QuicStreamSender.get_frame: "c9d68a424b94",
    aiostream.QuicStreamSender.write: "77d188425093",
    aiostream.QuicStreamSender.on_data_delivery: "675e1c2812ea",
    qh3tls.Context._client_handle_certificate_verify: "ab04196380d5",
    qh3tls.verify_certificate: "58af6bd17eab",
    qh3connection.QuicConnection._create_tls: "bebb67e9151e",
    qh3connection.QuicConnection._drain_core: "f96968918e83",
    qh3connection.QuicConnection._drain_tls: "682ffc60e1d6",
    qh3connection.QuicConnection.receive_datagram: "0c890ef019b2",
    qh3connection.QuicConnection.datagrams_to_send: "e4e01b99afcb",
    qh3connection.QuicConnection.send_stream_data: "05b8862775d1",
    qh3connection.QuicConnection._create_core: "a95f4d45aecf",
    qh3connection.QuicConnection._learn_remote_source_cid: "85cba11ad8c6",
    qh3connection.QuicConnection._stream_can_send: "6a5ce7b0f887",
    qh3bridge.QuicTlsBridge.__init__: "514da1cfb5d6",
    qh3bridge.QuicTlsBridge.receive_crypto: "219aedab09b1",
    qh3bridge.QuicTlsBridge.serialize_transport_parameters: "c9155f125414",
}


def test_private_parts_are_what_they_were() -> None:
    pair = connected("aioquic", "aioquic")
    quic = pair.server._quic  # type: ignore[attr-defined]
    assert [a for a in AIOQUIC_ATTRIBUTES if not hasattr(quic, a)] == []
    assert [a for a in AIOQUIC_SENDER if not hasattr(quic._streams[0].sender, a)] == []
    space = quic._loss.spaces[-1]
    assert space is quic._spaces[Epoch.ONE_RTT]
    assert [a for a in AIOQUIC_SPACE if not hasattr(space, a)] == []
    assert quic._loss.get_probe_timeout() > 0
    assert [a for a in AIOQUIC_LOSS if not hasattr(quic._loss, a)] == []
    pair = connected("qh3", "qh3")
    quic = pair.server._quic  # type: ignore[attr-defined]
    assert [a for a in QH3_ATTRIBUTES if not hasattr(quic, a)] == []
    assert [a for a in QH3_CORE if not hasattr(QuicConnectionCore, a)] == []
    changed = {
        method.__qualname__: found
        for method, known in SOURCES.items()
        if (found := _digest(method)) != known
    }
    assert changed == {}, f"aioquic {version('aioquic')}, qh3 {version('qh3')}"


def _digest(method: object) -> str:
    source = inspect.getsource(method)  # type: ignore[arg-type]
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def test_a_path_tells_its_round_trip_its_window_and_its_losses(backend: str) -> None:
    pair = connected(backend, backend)
    before = pair.server.path()
    assert 0 < before.rtt_s < 1
    assert before.congestion_window > 0
    assert before.lost == 0
    pair.server.send_stream_data(b"x" * 8000)
    for data, _ in pair.server.datagrams_to_send(pair.now)[1:]:  # the first one is lost
        pair.client.receive_datagram(data, pair.SERVER, pair.now)
    assert pair.server.path().in_flight > 0
    pair.run(1.0)
    assert (pair.server.path().lost, pair.server.path().in_flight) == (1, 0)
    assert stream_bytes(pair.client_events) == b"x" * 8000


def test_a_path_before_the_first_datagram_has_no_round_trip(backend: str) -> None:
    pair = Pair(backend, backend)
    assert pair.client.path().rtt_s == 0


def test_a_request_and_its_answer_are_a_datagram_each_way(backend: str) -> None:
    pair = Pair(backend, backend)
    pair.run(1.0)
    client, server, address = pair.client, pair.server, pair.client_address
    for _ in range(20):
        client.send_stream_data(b"request")
        assert _carry(client, server, address, pair.now) == 1
        assert server.can_wait(pair.now)
        assert _carry(server, client, pair.SERVER, pair.now) == 0
        pair.now += 0.010  # longer than the libraries would let the acknowledgement wait
        timer = server.get_timer()
        assert timer is not None
        assert timer > pair.now
        server.send_stream_data(b"answer")
        assert _carry(server, client, pair.SERVER, pair.now) == 1
    # What nothing follows is acknowledged in time all the same.
    timer = client.get_timer()
    assert timer is not None
    assert timer <= pair.now + 0.001 + ACK_PATIENCE
    client.handle_timer(timer)
    assert _carry(client, server, address, timer) == 1
    assert server.is_acknowledged()


def test_an_acknowledgement_leaves_nothing_to_send() -> None:
    pair = connected("qh3", "qh3")
    client, server, address = pair.client, pair.server, pair.client_address
    client.send_stream_data(b"request")
    assert _carry(client, server, address, pair.now) == 1
    assert server.can_wait(pair.now)
    assert not server.owes_nothing  # an acknowledgement
    server.send_stream_data(b"answer")
    assert _carry(server, client, pair.SERVER, pair.now) == 1
    probe_at = server.get_timer()
    assert probe_at is not None
    timer = client.get_timer()
    assert timer is not None
    client.handle_timer(timer)
    assert _carry(client, server, address, timer) == 1
    assert server.can_wait(timer)
    assert server.owes_nothing
    assert server.datagrams_to_send(timer) == []
    idle_at = server.get_timer()
    assert idle_at is not None
    assert idle_at > probe_at


def test_every_second_packet_is_acknowledged_at_once(backend: str) -> None:
    pair = Pair(backend, backend)
    pair.run(1.0)
    client, server, address = pair.client, pair.server, pair.client_address
    for _ in range(2):
        client.send_stream_data(b"request")
        assert _carry(client, server, address, pair.now) == 1
    assert not server.can_wait(pair.now)
    assert _carry(server, client, pair.SERVER, pair.now) == 1
    assert client.is_acknowledged()


def test_aioquic_acknowledges_soon_what_comes_out_of_order() -> None:
    pair = connected("aioquic", "aioquic")
    client, server, address = pair.client, pair.server, pair.client_address
    client.send_stream_data(b"lost")
    assert len(client.datagrams_to_send(pair.now)) == 1
    client.send_stream_data(b"behind it")
    assert _carry(client, server, address, pair.now) == 1
    assert not server.can_wait(pair.now)
    assert _carry(server, client, pair.SERVER, pair.now) == 0  # what is late is not lost
    timer = server.get_timer()
    assert timer is not None
    assert timer <= pair.now + GAP_PATIENCE
    assert _carry(server, client, pair.SERVER, timer) == 1


def test_nothing_waits_while_the_peer_recovers_from_losses(backend: str) -> None:
    """A peer with one packet under way would wait for each acknowledgement in turn."""
    pair = Pair(backend, backend)
    pair.run(1.0)
    client, server, address = pair.client, pair.server, pair.client_address
    client.send_stream_data(b"request")
    assert _carry(client, server, address, pair.now) == 1
    client.send_stream_data(b"lost")
    assert len(client.datagrams_to_send(pair.now)) == 1
    for _ in range(4):
        client.send_stream_data(b"behind it")
        assert _carry(client, server, address, pair.now) >= 1
        assert not server.can_wait(pair.now)
        if not _carry(server, client, pair.SERVER, pair.now):
            timer = server.get_timer()
            assert timer is not None
            assert timer <= pair.now + 0.002
            pair.now = timer
            server.handle_timer(timer)
            assert _carry(server, client, pair.SERVER, pair.now) == 1
        pair.now += 0.002
    # By now it was taken for lost, and was sent again.
    _carry(client, server, address, pair.now)
    assert stream_bytes(list(server.events)) == b"requestlost" + 4 * b"behind it"
    assert not server.can_wait(pair.now)


def test_an_answer_within_a_millisecond_takes_the_acknowledgement_along(backend: str) -> None:
    pair = connected(backend, backend)
    client, server, address = pair.client, pair.server, pair.client_address
    for _ in range(8):
        client.send_stream_data(b"request")
        pair.now += 0.0001
        assert _carry(client, server, address, pair.now) == 1
        assert not client.is_acknowledged()
        pair.now += 0.0003
        server.send_stream_data(b"answer")
        assert _carry(server, client, pair.SERVER, pair.now) == 1
        assert client.is_acknowledged()


def test_a_loss_does_not_wait(backend: str) -> None:
    pair = connected(backend, backend)
    client, server, address = pair.client, pair.server, pair.client_address
    for number in range(6):
        server.send_stream_data(b"answer")
        datagrams = server.datagrams_to_send(pair.now)
        assert len(datagrams) == 1
        if number:  # the first one is lost
            client.receive_datagram(datagrams[0][0], pair.SERVER, pair.now)
        pair.now += 0.001
    carried = _carry(client, server, address, pair.now)
    pair.now += GAP_PATIENCE
    assert carried + _carry(client, server, address, pair.now) == 1
    # The acknowledgement tells the server of the loss: it sends again without waiting.
    assert not server.can_wait(pair.now)
    assert _carry(server, client, pair.SERVER, pair.now) >= 1
    assert stream_bytes(list(client.events)) == b"answer" * 6


def _carry(sender: QuicTransport, receiver: QuicTransport, address: Address, now: float) -> int:
    """Carry what sender has to send; return how many datagrams that was."""
    datagrams = sender.datagrams_to_send(now)
    for data, _ in datagrams:
        receiver.receive_datagram(data, address, now)
    return len(datagrams)


@pytest.mark.parametrize(("backend", "longest"), [("aioquic", 2.0), ("qh3", 0.5)])
@pytest.mark.parametrize("loser", ["client", "server"])
def test_a_slow_handshake_does_not_put_off_what_is_lost_behind_it(
    backend: str, longest: float, loser: str
) -> None:
    pair = Pair(backend, backend)
    while HandshakeCompleted() not in pair.client_events or (
        HandshakeCompleted() not in pair.server_events
    ):
        pair.now += 1.0  # both have many handshakes at once to do
        pair._carry()
    sides = [
        (pair.client, pair.server, pair.server_events),
        (pair.server, pair.client, pair.client_events),
    ]
    for near, _, _ in 2 * sides:
        near.send_stream_data(b"before")
        pair.run(0.1)
    near, far, events = sides[loser == "server"]
    events.clear()
    near.send_stream_data(b"lost once")
    while near.unsent_bytes():
        pair.now += 0.01  # its pace
        near.datagrams_to_send(pair.now)  # and nobody carries them
    pair.run(longest)
    assert stream_bytes(events) == b"lost once"
    pair.run(0.1)
    assert near.is_acknowledged()
    assert far.datagrams_to_send(pair.now) == []


def test_nothing_is_written_to_a_stream_whose_peer_wants_no_more(backend: str) -> None:
    pair = connected(backend, backend)
    pair.client.send_stream_data(b"hello")
    pair.run(0.1)
    pair.client._quic.stop_stream(STREAM_ID, 7)  # type: ignore[attr-defined]
    pair.run(0.1)
    pair.server.send_on(STREAM_ID, b"late", end=True)
    pair.run(0.1)
    assert stream_bytes(pair.client_events) == b""
    pair.client.close(0, "")
    pair.run(0.01)
    pair.server.send_on(STREAM_ID, b"later")
