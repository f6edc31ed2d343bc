"""Stateless resets: a gateway that was killed and restarted is known for it at once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from gatesvr.protocol.link import Disconnect
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.quic.interface import Closed, QuicEvent
from gatesvr.transport.quic.reset import (
    MAX_RESET_BURST,
    MAX_RESET_BYTES,
    MAX_RESETS_PER_S,
    MIN_RESET_BYTES,
    StatelessResets,
    reset_key,
)
from gatesvr.transport.tls import generate_certificate

from .harness import PAIRS, Pair, serving, token_of
from .test_listener import Stranger

if TYPE_CHECKING:
    from .harness import Server

RANDOM = random.Random(10_3)


def connected(client: str, server: str) -> Pair:
    pair = Pair(client, server)
    # Without a listener there is no Retry: qh3 needs a probe after a time-out or two for aioquic.
    pair.run(1.5)
    pair.client.send_stream_data(b"hello")
    pair.run(0.5)
    pair.client_events.clear()
    return pair


def reset(connection_id: bytes, size: int = 43) -> bytes:
    return b"\x41" + RANDOM.randbytes(size - 17) + token_of(connection_id)


def ends(events: list[QuicEvent]) -> list[Disconnect]:
    return [e.how for e in events if isinstance(e, Closed)]


def destination(pair: Pair) -> bytes:
    """Return the connection id that the client's datagrams go to."""
    pair.client.ping()
    ((data, _), *_) = pair.client.datagrams_to_send(pair.now)
    return data[1:9]


# The client.


@pytest.mark.parametrize(("client", "server"), PAIRS)
@pytest.mark.parametrize("size", [MIN_RESET_BYTES, 43, 1200])
def test_a_reset_is_told_at_once(client: str, server: str, size: int) -> None:
    pair = connected(client, server)
    pair.client.send_stream_data(bytes(100_000))  # whatever is under way
    pair.client.receive_datagram(reset(pair.server.connection_id, size), pair.SERVER, pair.now)
    assert list(pair.client.events) == [Closed(Disconnect("reset"))]
    pair.client.events.clear()
    assert pair.client.datagrams_to_send(pair.now) == []
    pair.run(5.0)
    assert ends(pair.client_events) == []  # once
    assert ends(pair.server_events) == []


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_what_is_no_reset_of_the_connection_is_ignored(client: str, server: str) -> None:
    pair = connected(client, server)
    good = reset(pair.server.connection_id)
    for wrong in (
        reset(b"another1"),
        good[:-1] + bytes([good[-1] ^ 1]),
        good[:-1],
        good + b"\0",
        good[-MIN_RESET_BYTES + 1 :],  # too short to be one
        b"\x41" + bytes(42),
    ):
        pair.client.receive_datagram(wrong, pair.SERVER, pair.now)
    pair.client.send_stream_data(b"alive")
    pair.run(0.5)
    assert pair.client.is_acknowledged()
    assert ends(pair.client_events) == []


@pytest.mark.parametrize("client", ["aioquic", "qh3"])
def test_a_client_with_another_id_of_the_server(client: str) -> None:
    # On qh3's servers these ids have tokens of its core's own making.
    pair = connected(client, "aioquic")
    first = destination(pair)
    assert first == pair.server.connection_id
    pair.client._quic.change_connection_id()  # type: ignore[attr-defined]
    second = destination(pair)
    assert second != first
    pair.run(0.5)
    pair.client.receive_datagram(reset(first), pair.SERVER, pair.now)
    pair.run(0.5)
    assert ends(pair.client_events) == []  # RFC 9000 10.3.1: not for an id that was retired
    pair.client.receive_datagram(reset(second), pair.SERVER, pair.now)
    pair.run(0.5)
    assert ends(pair.client_events) == [Disconnect("reset")]


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_client_whose_address_changed_keeps_the_id_that_has_a_token(
    client: str, server: str
) -> None:
    pair = connected(client, server)
    for port in (40002, 40003):
        pair.client_address = ("127.0.0.1", port)
        pair.client.send_stream_data(b"moved")
        pair.run(1.0)
        assert pair.server.peer_address() == pair.client_address
    assert destination(pair) == pair.server.connection_id
    pair.client.receive_datagram(reset(pair.server.connection_id), pair.SERVER, pair.now)
    pair.run()
    assert ends(pair.client_events) == [Disconnect("reset")]


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_probe_goes_out_however_much_is_in_flight(client: str, server: str) -> None:
    pair = connected(client, server)
    pair.client.send_stream_data(bytes(500_000))
    while pair.client.datagrams_to_send(pair.now):
        pair.now += 0.01  # none of it arrives
    for _ in range(20):
        pair.now += 0.2
        pair.client.probe()
        assert pair.client.datagrams_to_send(pair.now)


# The gateway's answers.


def short(size: int) -> bytes:
    return b"\x40" + RANDOM.randbytes(size - 1)


def test_a_reset_is_shorter_than_its_cause() -> None:
    resets = StatelessResets(b"key", TransportCounters())
    for size in range(9, 1500):
        now = float(size)  # never too many
        cause = short(size)
        answer = resets.answer(cause, now)
        if size <= MIN_RESET_BYTES:
            assert answer == b""
            continue
        assert MIN_RESET_BYTES <= len(answer) == min(size - 1, MAX_RESET_BYTES)
        assert answer[0] & 0xC0 == 0x40
        assert answer[-16:] == resets.token(cause[1:9])
        assert resets.answer(cause, now)[:-16] != answer[:-16]


def test_no_reset_for_a_handshake_or_what_is_no_quic() -> None:
    counters = TransportCounters()
    resets = StatelessResets(b"key", counters)
    for first in (0x80, 0xC0, 0xFF, 0x00, 0x3F):
        assert resets.answer(bytes([first]) + bytes(1199), 1.0) == b""
    assert counters.resets_sent == counters.resets_limited == 0


def test_two_gateways_come_to_an_end() -> None:
    counters = TransportCounters()
    gateways = [StatelessResets(key, counters) for key in (b"one", b"two")]
    datagram = short(1400)
    for turn in range(100):
        datagram = gateways[turn & 1].answer(datagram, 1.0)
        if not datagram:
            break
    assert counters.resets_sent == MAX_RESET_BYTES - MIN_RESET_BYTES + 1


def test_resets_are_limited() -> None:
    counters = TransportCounters()
    resets = StatelessResets(b"key", counters)
    for _ in range(5_000):
        resets.answer(short(40), 50.0)
    assert (counters.resets_sent, counters.resets_limited) == (
        MAX_RESET_BURST,
        5_000 - MAX_RESET_BURST,
    )
    for step in range(30_000):  # through a second, three times what is allowed
        resets.answer(b"\x40" * 40, 50.0 + step / 30_000)
    assert MAX_RESETS_PER_S - 10 <= counters.resets_sent - MAX_RESET_BURST <= MAX_RESETS_PER_S


def test_the_key_is_of_one_gateway_and_survives_it() -> None:
    _, pem = generate_certificate()
    _, other = generate_certificate()
    key = reset_key(pem, "host", ("0.0.0.0", 8453))
    assert len(key) == 32
    assert key == reset_key(pem, "host", ("0.0.0.0", 8453))
    keys = {
        key,
        reset_key(other, "host", ("0.0.0.0", 8453)),
        reset_key(pem, "host2", ("0.0.0.0", 8453)),
        reset_key(pem, "host", ("0.0.0.0", 8454)),
        reset_key(pem, "host", ("::", 8453, 0, 0)),
    }
    assert len(keys) == 5


# Both, on sockets.


async def die(gateway: Server) -> None:
    """End a listener without a word to its clients."""
    endpoint = gateway.listener._door.endpoint
    assert endpoint is not None
    endpoint.close()
    await gateway.listener.stop()


def restarted(gateway: Server) -> dict[str, str]:
    """Return the settings of a listener in the place of one that died."""
    host, port = gateway.listener.address
    return {"bind": f"{host}:{port}"}


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_a_client_learns_of_a_restart(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        await handler.exchange(b"before")
        await die(gateway)
        handler.send(b"lost")
        # Nobody is there: it goes on asking, and that ends nothing.
        await gateway.until(lambda: connection.counters.pings_sent >= 3)
        assert handler.lost == []
        async with serving(server, **restarted(gateway)) as again:
            assert await handler.until_lost() == Disconnect("reset")
            assert await connection.wait_ended() == Disconnect("reset")
            assert connection.counters.closed_reset == 1
            assert again.listener.counters.resets_sent >= 1
            fresh, connection = await again.connect(client)
            await fresh.exchange(b"after")
            await connection.close()


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_a_client_with_a_full_window_learns_of_a_restart(
    client: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.transport.client.PROBE_INTERVAL_S", 0.02)
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        await handler.exchange(b"before")
        await die(gateway)
        handler.send(bytes(1 << 20))
        # QUIC's own probes, each after twice the time, would take minutes for as many.
        await gateway.until(lambda: connection.counters.pings_sent >= 15)
        async with serving(server, **restarted(gateway)):
            assert await handler.until_lost() == Disconnect("reset")


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_a_client_that_sends_nothing_goes_on_asking(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        await handler.exchange(b"before")
        await gateway.until(lambda: connection.connection.stream.carrier.is_acknowledged())
        await die(gateway)
        connection._network_error(ConnectionRefusedError())
        await gateway.until(lambda: connection.counters.pings_sent >= 3)
        assert handler.lost == []
        async with serving(server, **restarted(gateway)):
            assert await handler.until_lost() == Disconnect("reset")


@pytest.mark.parametrize(("client", "server"), PAIRS)
async def test_a_forged_refusal_costs_a_probe(client: str, server: str) -> None:
    async with serving(server) as gateway:
        handler, connection = await gateway.connect(client)
        for _ in range(100):
            connection._network_error(ConnectionRefusedError())
        assert len(connection._probe_timer.due) == 1  # and it is not put off
        await gateway.until(lambda: connection.counters.pings_sent)
        await handler.exchange(b"alive")
        assert connection.counters.refusals == 100
        assert connection.counters.pings_sent == 1
        assert handler.lost == []
        await connection.close()


async def test_what_a_listener_answers(backend: str) -> None:
    async with serving(backend) as gateway:
        counters = gateway.listener.counters
        handler, connection = await gateway.connect(backend)
        await handler.exchange(b"x")
        (known,) = gateway.listener.connections
        with Stranger(gateway) as stranger:
            for datagram in (
                b"\xc0" + bytes(1199),
                b"\x40" + bytes(20),
                *(b"\x40" + connection_id + bytes(40) for connection_id in known.ids),
                b"\x40" + b"unknown!" + bytes(91),
            ):
                stranger.send(datagram)
            answer = await stranger.receive()
            assert len(answer) == MAX_RESET_BYTES
            assert answer[-16:] == gateway.listener._token_of(b"unknown!")
            assert counters.resets_sent == 1
            # An id that is draining is known too.
            ids = list(known.ids)
            await connection.close()
            await gateway.until(lambda: counters.drained)
            for connection_id in ids:
                stranger.send(b"\x40" + connection_id + bytes(40))
            await gateway.until(lambda: counters.datagrams_after_close >= len(ids))
            assert counters.resets_sent == 1


async def test_two_listeners_that_answer_each_other_come_to_an_end(backend: str) -> None:
    async with serving(backend) as one, serving(backend) as two:
        counters = [gateway.listener.counters for gateway in (one, two)]
        endpoint = two.listener._door.endpoint
        assert endpoint is not None
        endpoint.send([(short(1200), one.listener.address)])
        # The answers are 43, 42 ... 21 bytes long; the last one is not answered.
        answers = MAX_RESET_BYTES - MIN_RESET_BYTES + 1
        await one.until(lambda: sum(c.datagrams_unknown for c in counters) == answers + 1)
        assert sum(c.resets_sent for c in counters) == answers
        assert sum(c.resets_limited for c in counters) == 0


async def test_a_restart_with_another_key_tells_nothing(backend: str) -> None:
    async with serving(backend) as gateway:
        handler, connection = await gateway.connect(backend)
        await handler.exchange(b"before")
        await die(gateway)
        received = connection.counters.datagrams_received
        async with serving(backend, **restarted(gateway)) as again:
            again.listener._resets = StatelessResets(b"other", again.listener.counters)
            handler.send(b"lost")
            await again.until(lambda: connection.counters.datagrams_received >= received + 2)
            assert again.listener.counters.resets_sent >= 2
            assert handler.lost == []
            await connection.close()
