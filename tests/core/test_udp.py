"""Batches of datagrams on loopback sockets, and the same on the socket without batches."""

from __future__ import annotations

import errno
import gc
import os
import re
import select
import socket
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr._core.udp import HAS_BATCH, BatchSocket
from gatesvr.transport.udp.sockets import DatagramSocket, PlainSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gatesvr.transport.addresses import Address, Datagram

    Make = Callable[..., socket.socket]

DEADLINE_S = 20.0
SO_NO_CHECK = 11  # Linux; the socket module does not name it
FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
KINDS = [BatchSocket, PlainSocket] if HAS_BATCH else [PlainSocket]
batches = pytest.mark.skipif(not HAS_BATCH, reason="the system has no recvmmsg and sendmmsg")
any_kind = pytest.mark.parametrize("kind", KINDS)
any_family = pytest.mark.parametrize(("family", "host"), FAMILIES)


@pytest.fixture
def make() -> Iterator[Make]:
    """Make non-blocking sockets, bound to a free port, that are closed after the test."""
    with ExitStack() as stack:

        def make(family: int = socket.AF_INET, host: str = "127.0.0.1") -> socket.socket:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((host, 0))
            return sock

        yield make


def receive(sock: socket.socket, io: DatagramSocket, count: int) -> list[Datagram]:
    """Receive count datagrams, waiting for late ones."""
    batch: list[Datagram] = []
    while len(batch) < count:
        assert select.select([sock], [], [], DEADLINE_S)[0]
        io.receive_into(batch)
    return batch


@contextmanager
def failing(number: int) -> Iterator[None]:
    """Expect an OSError of that number."""
    with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")):
        yield


def send_all(io: DatagramSocket, datagrams: list[Datagram]) -> None:
    done = 0
    while done < len(datagrams):
        sent = io.send(datagrams, done)
        assert sent
        done += sent


def test_the_system_of_these_tests() -> None:
    assert (sys.platform == "linux" and "GATESVR_NO_BATCH" not in os.environ) == HAS_BATCH


@any_family
@any_kind
@pytest.mark.parametrize("count", [1, 64, 200])
def test_batches_arrive_whole_and_in_order(
    make: Make, family: int, host: str, kind: type[DatagramSocket], count: int
) -> None:
    left, right = make(family, host), make(family, host)
    sender, receiver = kind(left), kind(right)
    to = right.getsockname()
    for step in range(0, count, 50):  # what the receive buffer holds for certain
        sent = [(b"%d" % i * (1 + i % 40), to) for i in range(step, min(step + 50, count))]
        send_all(sender, sent)
        got = receive(right, receiver, len(sent))
        assert [data for data, _ in got] == [data for data, _ in sent]
        assert {address for _, address in got} == {left.getsockname()}
    assert sender.datagrams_sent == receiver.datagrams_received == count
    assert sender.bytes_sent == receiver.bytes_received > 0
    nothing: list[Datagram] = []
    receiver.receive_into(nothing)
    assert nothing == []


@any_family
@any_kind
@pytest.mark.parametrize("size", [0, 1, 1200, 9000, 65507])
def test_sizes(make: Make, family: int, host: str, kind: type[DatagramSocket], size: int) -> None:
    left, right = make(family, host), make(family, host)
    sender, receiver = kind(left), kind(right)
    data = bytes(i % 251 for i in range(size))
    sent = [(data, right.getsockname()), (b"", right.getsockname()), (data, right.getsockname())]
    for datagram in sent:
        assert sender.send([datagram]) == 1
    assert [data for data, _ in receive(right, receiver, 3)] == [data for data, _ in sent]


@batches
def test_a_batch_is_one_call(make: Make) -> None:
    left, right = make(), make()
    sender, receiver = BatchSocket(left), BatchSocket(right)
    peers = [make().getsockname() for _ in range(4)]
    datagrams = [(bytes(100), right.getsockname()), *[(bytes(50), peer) for peer in peers]]
    assert sender.send(datagrams) == 5
    assert sender.send_calls == 1
    receive(right, receiver, 1)
    assert receiver.receive_calls == 1
    many = [(b"x%d" % i, peers[i % 4]) for i in range(200)]
    send_all(sender, many)
    assert sender.send_calls == 1 + 4


@batches
@any_family
def test_runs_are_received_as_separate_datagrams(make: Make, family: int, host: str) -> None:
    left, right, third = make(family, host), make(family, host), make(family, host)
    sender, receiver, other = BatchSocket(left), BatchSocket(right), BatchSocket(third)
    to = right.getsockname()
    sizes = [1200, 1200, 1200, 77, 1200, 1250, 1250, 0, 40, 40, 41, 5]
    datagrams = [(bytes([i]) * size, to) for i, size in enumerate(sizes)]
    elsewhere = [(b"other", third.getsockname())] * 2
    # Equal addresses that are not one object are one peer.
    again = [(b"again", (str(to[0]), *to[1:])) for _ in range(3)]
    assert sender.send(datagrams + elsewhere + again) == 17
    assert sender.send_calls == 1
    assert [data for data, _ in receive(right, receiver, 15)] == [
        *(data for data, _ in datagrams),
        *[b"again"] * 3,
    ]
    assert len(receive(third, other, 2)) == 2
    if sender.is_segmenting:
        # 1200 x 3 + 77, 1250 x 2, 40 x 2, 41 + 5, other x 2, again x 3; each other one is alone
        assert sender.segments_sent == 4 + 2 + 2 + 2 + 2 + 3
    assert sender.bytes_sent == sum(sizes) + 10 + 15


@batches
def test_runs_end_at_what_the_system_takes(make: Make) -> None:
    left, right = make(), make()
    sender, receiver = BatchSocket(left), BatchSocket(right)
    datagrams = [(bytes([i]) * 1472, right.getsockname()) for i in range(64)]  # 94 KB
    assert sender.send(datagrams) == 64
    assert sender.send_calls == 1
    assert [data for data, _ in receive(right, receiver, 64)] == [data for data, _ in datagrams]
    large = [(bytes([i]) * 30000, right.getsockname()) for i in range(5)]
    assert sender.send(large) == 5
    assert [data for data, _ in receive(right, receiver, 5)] == [data for data, _ in large]


@batches
def test_a_run_that_the_system_refuses_is_sent_one_by_one(make: Make) -> None:
    left, right = make(), make()
    left.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)  # the system does not cut those
    sender, receiver = BatchSocket(left), BatchSocket(right)
    if not sender.is_segmenting:
        return  # nothing to refuse
    datagrams = [(bytes([i]) * 1000, right.getsockname()) for i in range(8)]
    for refused in range(1, 20):
        assert sender.send(datagrams) == 8
        assert receive(right, receiver, 8) == [(data, left.getsockname()) for data, _ in datagrams]
        # After enough refusals it stops trying.
        assert sender.is_segmenting == (refused < 16)
        assert sender.send_calls == refused + min(refused, 16)
    assert sender.segments_sent == 0


@batches
def test_a_run_refused_now_and_then_does_not_end_all(make: Make) -> None:
    left, right = make(), make()
    sender, receiver = BatchSocket(left), BatchSocket(right)
    datagrams = [(bytes([i]) * 1000, right.getsockname()) for i in range(8)]
    for step in range(40):
        left.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, step % 8 != 0)
        assert sender.send(datagrams) == 8
        receive(right, receiver, 8)
    assert not sender.is_segmenting or sender.segments_sent == 5 * 8


@batches
def test_datagrams_too_long_are_dropped_and_counted(make: Make) -> None:
    left, right = make(), make()
    receiver = BatchSocket(right, max_datagram=1000)
    for size in (1000, 1001, 5000, 999):
        left.sendto(bytes(size), right.getsockname())
    assert [len(data) for data, _ in receive(right, receiver, 2)] == [1000, 999]
    assert receiver.datagrams_truncated == 2
    assert receiver.datagrams_received == 2
    assert receiver.bytes_received == 1999


class Narrow:
    """A Unix socket posing as a UDP socket: UDP on loopback drops, this one blocks."""

    family = socket.AF_INET

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.fileno, self.getpeername, self.send = sock.fileno, sock.getpeername, sock.send


@any_kind
def test_a_socket_that_takes_no_more(kind: type[DatagramSocket]) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        io = kind(Narrow(left))  # type: ignore[call-arg]
        datagrams: list[Datagram] = [(b"%d" % i * 500, None) for i in range(5000)]
        done = 0
        while sent := io.send(datagrams, done):
            done += sent
        assert 0 < done < len(datagrams)
        assert io.send(datagrams, done) == 0
        assert io.datagrams_sent == done
        for data, _ in datagrams[:done]:
            assert right.recv(5000) == data
        assert io.send(datagrams, done) > 0  # it flows again
        assert right.recv(5000) == datagrams[done][0]


@any_kind
def test_a_dead_peer_is_reported(make: Make, kind: type[DatagramSocket]) -> None:
    left, right = make(), make()
    left.connect(right.getsockname())
    right.close()
    io = kind(left)
    assert io.send([(b"anybody?", ("127.0.0.1", 9))]) == 1
    assert select.select([left], [], [], DEADLINE_S)[0]
    batch: list[Datagram] = []
    with pytest.raises(ConnectionRefusedError):
        io.receive_into(batch)
    assert batch == []
    assert io.send([(b"anybody?", ("127.0.0.1", 9))]) == 1


@any_kind
def test_a_connected_socket_takes_no_address(make: Make, kind: type[DatagramSocket]) -> None:
    left, right = make(), make()
    left.connect(right.getsockname())
    assert kind(left).send([(b"x", None)]) == 1
    assert receive(right, kind(right), 1) == [(b"x", left.getsockname())]


@any_kind
def test_an_error_is_that_of_the_datagram_at_start(make: Make, kind: type[DatagramSocket]) -> None:
    left, right = make(), make()
    io, to = kind(left), right.getsockname()
    datagrams = [(b"a", to), (bytes(70_000), to), (b"b", to), (b"c", (to[0], 0)), (b"d", to)]
    done, failed = 0, []
    while done < len(datagrams):
        try:
            done += io.send(datagrams, done)
        except OSError as error:
            failed.append((done, error.errno))
            done += 1
    assert failed == [(1, errno.EMSGSIZE), (3, errno.EINVAL)]
    assert [data for data, _ in receive(right, kind(right), 3)] == [b"a", b"b", b"d"]
    assert io.datagrams_sent == 3


@any_kind
def test_a_closed_socket(make: Make, kind: type[DatagramSocket]) -> None:
    left = make()
    io = kind(left)
    left.close()
    make()  # may get the number of the closed one
    with failing(errno.EBADF):
        io.receive_into([])
    with failing(errno.EBADF):
        io.send([(b"x", ("127.0.0.1", 9))])


@any_kind
def test_ipv4_peers_of_an_ipv6_socket(make: Make, kind: type[DatagramSocket]) -> None:
    left, right = make(), make(socket.AF_INET6, "::")
    left.sendto(b"x", ("127.0.0.1", right.getsockname()[1]))
    io = kind(right)
    ((data, address),) = receive(right, io, 1)
    assert (data, address) == (b"x", ("::ffff:127.0.0.1", left.getsockname()[1], 0, 0))
    assert io.send([(b"y", address), (b"z", address[:2])]) >= 1
    assert left.recv(10) == b"y"


@batches
def test_what_is_no_datagram(make: Make) -> None:
    left, right = make(), make()
    io, to = BatchSocket(left), right.getsockname()
    wrong: list[object] = [
        None,
        (),
        (b"x",),
        (b"x", to, 1),
        [b"x", to],
        (bytearray(b"x"), to),
        ("x", to),
    ]
    for item in wrong:
        with pytest.raises(TypeError):
            io.send([item])  # type: ignore[list-item]
    addresses: list[Address] = [None, 1, (), ("127.0.0.1",), (b"127.0.0.1", 1), ("localhost", 1)]
    addresses += [("::1", 1), ["127.0.0.1", 1], ("127.0.0.1" * 20, 1), ("\udc80", 1)]
    for address in addresses:
        with failing(errno.EINVAL):
            io.send([(b"x", address)])
    for port in (-1, 65536, 1 << 70, "9", None):
        with pytest.raises((OverflowError, TypeError)):
            io.send([(b"x", ("127.0.0.1", port))])
    # The ones before it are sent; it starts the next call.
    assert io.send([(b"1", to), (b"2", to), (b"x", ("localhost", 1))]) == 2
    assert io.send([(b"3", to), None]) == 1  # type: ignore[list-item]
    assert io.send([], 0) == io.send([(b"x", to)], 1) == io.send([(b"x", to)], -1) == 0
    assert len(receive(right, BatchSocket(right), 3)) == 3


@batches
def test_limits(make: Make) -> None:
    sock = make()
    for peers in (0, 3, 1 << 21):
        with pytest.raises(ValueError, match="max_peers"):
            BatchSocket(sock, max_peers=peers)
    for size in (0, 65536):
        with pytest.raises(ValueError, match="max_datagram"):
            BatchSocket(sock, max_datagram=size)
    unix, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with unix, other, pytest.raises(OSError, match="IPv6"):
        BatchSocket(unix)


@batches
@any_family
def test_addresses_are_kept_and_bounded(make: Make, family: int, host: str) -> None:
    right = make(family, host)
    receiver = BatchSocket(right, max_peers=8)
    senders = [make(family, host) for _ in range(100)]
    for _ in range(3):
        for sock in senders:
            sock.sendto(b"%d" % sock.getsockname()[1], right.getsockname())
            ((data, address),) = receive(right, receiver, 1)
            assert address == sock.getsockname()
            assert int(data) == address[1]
    # One peer gives one object.
    for _ in range(2):
        senders[0].sendto(b"x", right.getsockname())
    first, second = (address for _, address in receive(right, receiver, 2))
    assert first is second
    assert sys.getrefcount(first) == 4  # first, second, the call, and the socket's own
    del receiver
    gc.collect()
    assert sys.getrefcount(first) == 3


two_addresses = pytest.mark.skipif(sys.platform != "linux", reason="one IPv4 loopback address")


@two_addresses
@any_kind
@pytest.mark.parametrize(
    ("family", "wildcard", "prefix"),
    [(socket.AF_INET, "0.0.0.0", ""), (socket.AF_INET6, "::", "::ffff:")],
)
def test_answers_leave_from_the_address_that_was_asked(
    make: Make, family: int, wildcard: str, prefix: str, kind: type[DatagramSocket]
) -> None:
    left, right = make(family, "::" if prefix else "127.0.0.1"), make(family, wildcard)
    sender, receiver = kind(left), kind(right, with_local=True)  # type: ignore[call-arg]
    port = right.getsockname()[1]
    hosts = [f"{prefix}127.0.0.{1 + i % 3 // 2}" for i in range(30)]  # 1, 1, 2, 1, 1, 2, …
    send_all(sender, [(b"%d" % i, (host, port)) for i, host in enumerate(hosts)])
    got = receive(right, receiver, len(hosts))
    size = 4 if family == socket.AF_INET else 16
    assert {len(address[-1]) for _, address in got} == {size}
    assert len({address for _, address in got}) == 2
    send_all(receiver, got)
    back = receive(left, sender, len(hosts))
    assert [(data, address[0]) for data, address in back] == [
        (b"%d" % i, host) for i, host in enumerate(hosts)
    ]
    assert receiver.datagrams_sent == receiver.datagrams_received == len(hosts)


@two_addresses
@any_kind
def test_an_address_of_ours_that_has_gone_costs_its_datagram(
    make: Make, kind: type[DatagramSocket]
) -> None:
    left, right = make(), make(host="0.0.0.0")
    io = kind(right, with_local=True)  # type: ignore[call-arg]
    with pytest.raises(OSError, match="Errno"):
        io.send([(b"x", (*left.getsockname(), bytes([192, 0, 2, 77])))])
    assert io.send([(b"x", (*left.getsockname(), bytes([127, 0, 0, 2])))]) == 1
    assert left.recvfrom(10) == (b"x", ("127.0.0.2", right.getsockname()[1]))


@batches
def test_an_address_of_ours_that_is_none(make: Make) -> None:
    left, right = make(), make(host="0.0.0.0")
    io = BatchSocket(right, with_local=True)
    for local in (b"", b"\x7f\0\0", bytes(16)):
        with failing(errno.EINVAL):
            io.send([(b"x", (*left.getsockname(), local))])
