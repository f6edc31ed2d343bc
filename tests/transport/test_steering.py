"""Numbers in connection ids, and the kernel's program that reads them."""

from __future__ import annotations

import os
import random
import select
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from gatesvr.config import TransportConfig, WebConfig
from gatesvr.errors import ConfigError
from gatesvr.transport import steering
from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.quic.interface import ConnectionIdIssued
from gatesvr.transport.siblings import shared_secret, steering_key
from gatesvr.transport.steering import (
    KEY_BYTES,
    MAX_NUMBER,
    QUIC,
    WEB_QUIC,
    WEB_TCP,
    ConnectionIds,
    attach,
    close_group,
    open_group,
    open_groups,
)

from .harness import Pair

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(KEY_BYTES))
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel steers on Linux only")


def test_an_id_holds_its_number() -> None:
    for number in range(MAX_NUMBER + 1):
        ids = ConnectionIds(number, KEY)
        made = ids.make()
        assert len(made) == 8
        assert ConnectionIds(0, KEY).number(made) == number
        other = random.randrange(MAX_NUMBER + 1)
        assert ids.number(ids.make(other)) == other


@pytest.mark.parametrize(("number", "key"), [(-1, KEY), (256, KEY), (0, KEY[:-1]), (0, b"")])
def test_a_number_or_a_key_that_is_none(number: int, key: bytes) -> None:
    with pytest.raises(ValueError, match=r"a (process|key) has"):
        ConnectionIds(number, key)


@pytest.mark.parametrize("client", ["aioquic", "qh3"])
def test_all_ids_of_a_connection_have_its_number(client: str) -> None:
    ids = ConnectionIds(42, KEY)
    pair = Pair(client, "aioquic", make_id=ids.make)
    pair.run(0.5)
    for _ in range(3):
        pair.client._quic.change_connection_id()  # type: ignore[attr-defined]
        pair.client.send_stream_data(b"x")
        pair.run(0.5)
    issued = [e.connection_id for e in pair.server_events if isinstance(e, ConnectionIdIssued)]
    # For each one that is retired another one is issued.
    assert len(issued) == (7 + 3 if client == "aioquic" else 1 + 3)
    issued.append(pair.server.connection_id)
    assert len(set(issued)) == len(issued)
    assert {ids.number(connection_id) for connection_id in issued} == {42}


@pytest.mark.parametrize("client", ["aioquic", "qh3"])
def test_qh3_asks_for_its_first_id_alone(client: str) -> None:
    ids = ConnectionIds(42, KEY)
    pair = Pair(client, "qh3", make_id=ids.make)
    pair.run(0.5)
    assert ids.number(pair.server.connection_id) == 42
    issued = [e.connection_id for e in pair.server_events if isinstance(e, ConnectionIdIssued)]
    assert pick_backend("qh3").makes_ids == bool(issued)


def test_nobody_can_tell_the_ids_of_one_number_from_random_ones() -> None:
    """Every bit is set in half of them, no two bits go together, and no two ids are one."""
    count = 2_000
    ids = [int.from_bytes(ConnectionIds(7, KEY).make()) for _ in range(count)]
    assert len(set(ids)) == count
    # Six standard deviations: one run in millions fails by chance.
    slack = 6 * (count / 4) ** 0.5
    columns = [sum((value >> bit & 1) << row for row, value in enumerate(ids)) for bit in range(64)]
    for bit, column in enumerate(columns):
        assert abs(column.bit_count() - count / 2) < slack, bit
        for other in range(bit):
            assert abs((column ^ columns[other]).bit_count() - count / 2) < slack, (bit, other)


def test_a_change_of_the_key_or_of_one_bit_changes_the_number() -> None:
    ids, count = ConnectionIds(7, KEY), 2_000
    made = [ids.make() for _ in range(count)]
    for bit in range(8 * KEY_BYTES):
        key = (int.from_bytes(KEY) ^ 1 << bit).to_bytes(KEY_BYTES)
        other = ConnectionIds(7, key)
        assert sum(other.number(value) == 7 for value in made[:200]) < 20, bit
    for bit in range(64):
        changed = [(int.from_bytes(value) ^ 1 << bit).to_bytes(8) for value in made[:200]]
        assert sum(ids.number(value) == 7 for value in changed) < 20, bit


def short(connection_id: bytes, rest: int = 30) -> bytes:
    return bytes([0x40 | random.randrange(64)]) + connection_id + os.urandom(rest)


def long(connection_id: bytes, rest: int = 30) -> bytes:
    first = 0xC0 | random.randrange(64)
    return bytes([first, 0, 0, 0, 1, len(connection_id)]) + connection_id + os.urandom(rest)


class Group:
    """The sockets of one address, and a client whose port changes with every datagram."""

    def __init__(self, group: list[list[socket.socket]]) -> None:
        self.socks = [socks[0] for socks in group]
        self.address = self.socks[0].getsockname()

    def place(self, data: bytes) -> int:
        """Return the slot that the kernel gives a datagram to."""
        with socket.socket(self.socks[0].family, socket.SOCK_DGRAM) as client:
            client.sendto(data, self.address)
        ((sock, *_), _, _) = select.select(self.socks, [], [], 20)
        assert sock.recv(65535) == data
        return self.socks.index(sock)


@LINUX
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"])
@pytest.mark.parametrize("slots", [1, 3, 4])
async def test_the_kernel_steers_by_the_number(host: str, slots: int) -> None:
    opened = await open_group(f"{host}:0", "transport.bind", slots, TransportConfig())
    try:
        assert attach(opened[0][0], KEY, slots)
        group = Group(opened)
        if "." in host:
            group.address = ("127.0.0.1", group.address[1])
        for number in [0, 1, 2, 3, 4, 100, 254, MAX_NUMBER]:
            made = ConnectionIds(number, KEY).make()
            for data in (short(made), short(made, 5), long(made), long(made, 0)):
                assert group.place(data) == number % slots
        # These are for the kernel's hash: any slot.
        for data in (b"", b"\x40", short(b"", 13), long(os.urandom(7)), long(os.urandom(20))):
            group.place(data)
    finally:
        close_group(opened)


@LINUX
async def test_new_clients_are_spread_and_repeat_themselves_at_one_slot() -> None:
    slots = 4
    opened = await open_group("127.0.0.1:0", "transport.bind", slots, TransportConfig())
    try:
        assert attach(opened[0][0], KEY, slots)
        group, places = Group(opened), [0] * slots
        for _ in range(200):
            client = os.urandom(8)
            first, second = group.place(long(client, 1200)), group.place(long(client, 1200))
            assert first == second
            places[first] += 1
        assert min(places) > 20, places
    finally:
        close_group(opened)


@LINUX
async def test_a_later_program_takes_the_place_of_an_earlier_one() -> None:
    opened = await open_group("127.0.0.1:0", "transport.bind", 2, TransportConfig())
    try:
        group = Group(opened)
        for key in (KEY, bytes(KEY_BYTES)):
            assert attach(opened[0][0], key, 2)
            for number in (0, 1, 0, 1):
                assert group.place(short(ConnectionIds(number, key).make())) == number
    finally:
        close_group(opened)


async def test_where_there_is_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        assert not attach(sock, KEY, 2)  # nothing to attach it to
    monkeypatch.setattr(steering, "_IS_LINUX", False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert not attach(sock, KEY, 2)


async def test_a_port_that_others_share_is_taken() -> None:
    config = TransportConfig()
    first = await open_group("127.0.0.1:0", "transport.bind", 2, config)
    try:
        host, port = first[0][0].getsockname()
        with pytest.raises(ConfigError, match=r"cannot listen on UDP .* Address already in use"):
            await open_group(f"{host}:{port}", "transport.bind", 2, config)
    finally:
        close_group(first)


async def test_one_socket_for_all_where_groups_are_not_balanced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steering, "IS_BALANCED", False)
    opened = await open_group("127.0.0.1:0", "transport.bind", 3, TransportConfig())
    try:
        assert opened == [opened[0]] * 3
        assert len(opened[0]) == 1
    finally:
        close_group(opened)


async def test_all_groups_of_a_configuration() -> None:
    web = WebConfig(bind="127.0.0.1:0")
    opened = await open_groups(TransportConfig(bind="127.0.0.1:0", web=web), 2)
    try:
        ports = {name: {s.getsockname()[1] for (s,) in group} for name, group in opened.items()}
        assert set(ports) == {QUIC, WEB_QUIC, WEB_TCP}
        assert ports[WEB_QUIC] == ports[WEB_TCP]
        assert len(ports[WEB_TCP]) == len(ports[QUIC]) == 1
        assert [len(group) for group in opened.values()] == [2, 2, 2]
    finally:
        for group in opened.values():
            close_group(group)


async def test_a_web_address_that_is_taken_closes_all_groups() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        config = TransportConfig(bind="127.0.0.1:0", web=WebConfig(bind=bind))
        with pytest.raises(ConfigError, match="cannot listen on TCP") as caught:
            await open_groups(config, 2)
        assert caught.value.field == "transport.web.bind"


def test_the_secret_of_all_processes(tmp_path: Path) -> None:
    address = ("127.0.0.1", 8453)
    config = TransportConfig()
    own = shared_secret(config, address)
    assert own == shared_secret(config, address) != shared_secret(config, ("127.0.0.1", 1))
    path = tmp_path / "secret"
    path.write_bytes(b"s" * 40)
    given = shared_secret(TransportConfig(secret=str(path)), address)
    assert given == b"s" * 40
    assert len(steering_key(given)) == KEY_BYTES
    assert steering_key(given) != steering_key(own)
