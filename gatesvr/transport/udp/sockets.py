"""UDP sockets: opened, and read and written by compiled batches or one datagram a system call."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from typing import Any, Protocol

from ..._core.udp import HAS_BATCH, BatchSocket
from ..addresses import Address, Datagram, unscoped

__all__ = [
    "MAX_BATCH",
    "DatagramSocket",
    "PlainSocket",
    "datagram_socket",
    "is_wildcard",
    "open_socket",
    "open_sockets",
]

MAX_BATCH = 64
"""Datagrams read or sent at a time, so that sending and tasks get their turn."""
MAX_DATAGRAM = 65535
MAX_PEERS = 4096
"""Address objects that a server's socket keeps for reuse."""
MAX_PORTS = 20
"""Free ports tried until one is free on all addresses."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

# The socket module does not define it everywhere; other systems have other ways.
_IP_PKTINFO: int | None = {"linux": 8, "darwin": 26}.get(sys.platform)
_IN_PKTINFO = struct.Struct("=I4s4s")  # interface, address to send from, address sent to
_IN6_PKTINFO = struct.Struct("=16sI")  # address, interface


class DatagramSocket(Protocol):
    """Reads and writes the datagrams of a socket that its user owns."""

    @property
    def receive_calls(self) -> int:
        """System calls that read."""

    @property
    def datagrams_received(self) -> int:
        """Datagrams read, without truncated ones."""

    @property
    def bytes_received(self) -> int:
        """Bytes of the datagrams read."""

    @property
    def datagrams_truncated(self) -> int:
        """Datagrams dropped because they were too long."""

    @property
    def send_calls(self) -> int:
        """System calls that wrote."""

    @property
    def datagrams_sent(self) -> int:
        """Datagrams that the system took."""

    @property
    def bytes_sent(self) -> int:
        """Bytes of the datagrams that the system took."""

    @property
    def segments_sent(self) -> int:
        """Datagrams that the system took as parts of a run (UDP_SEGMENT)."""

    def receive_into(self, batch: list[Datagram]) -> None:
        """Append the datagrams that have arrived, at most MAX_BATCH.

        Raises:
            OSError: The network reports an error; datagrams read before it are in the batch.
        """

    def send(self, datagrams: list[Datagram], start: int = 0) -> int:
        """Send datagrams from start on; return how many were taken, 0 if it would block.

        Raises:
            OSError: The datagram at start cannot be sent; none was.
        """


class PlainSocket:
    """One datagram a system call, for systems that have nothing better.

    Args:
        sock: The socket; its owner closes it.
        with_local: Whether the local address follows each address, as bytes: the one that a
            datagram was sent to, or is to leave from.
    """

    datagrams_truncated = 0
    segments_sent = 0

    def __init__(self, sock: socket.socket, *, with_local: bool = False) -> None:
        self._sock = sock
        self._with_local = with_local
        if with_local:
            level, option = _local_option(sock)
            sock.setsockopt(level, option, 1)
        self._is_connected = _is_connected(sock)
        self._is_ipv6 = sock.family == socket.AF_INET6
        self.receive_calls = 0
        self.datagrams_received = 0
        self.bytes_received = 0
        self.send_calls = 0
        self.datagrams_sent = 0
        self.bytes_sent = 0

    def receive_into(self, batch: list[Datagram]) -> None:
        """Append the datagrams that have arrived, at most MAX_BATCH."""
        receive = self._receive_with_local if self._with_local else self._sock.recvfrom
        try:
            for _ in range(MAX_BATCH):
                self.receive_calls += 1
                data, address = receive(MAX_DATAGRAM)
                self.datagrams_received += 1
                self.bytes_received += len(data)
                batch.append((data, unscoped(address) if self._is_ipv6 else address))
        except (BlockingIOError, InterruptedError):
            return

    def send(self, datagrams: list[Datagram], start: int = 0) -> int:
        """Send the datagram at start; return 1, or 0 if it would block."""
        data, address = datagrams[start]
        self.send_calls += 1
        try:
            if self._is_connected:
                self._sock.send(data)
            elif self._with_local and type(address[-1]) is bytes:
                control = self._local_control(address[-1])
                self._sock.sendmsg([data], [control], 0, address[:-1])
            else:
                self._sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return 0
        self.datagrams_sent += 1
        self.bytes_sent += len(data)
        return 1

    def _receive_with_local(self, size: int) -> tuple[bytes, Address]:
        data, controls, _, address = self._sock.recvmsg(size, socket.CMSG_SPACE(_IN6_PKTINFO.size))
        for level, kind, info in controls:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                _, local, sent_to = _IN_PKTINFO.unpack(info[: _IN_PKTINFO.size])
                if not any(local):  # macOS
                    local = sent_to
                return data, (*address, local)
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                local, _ = _IN6_PKTINFO.unpack(info[: _IN6_PKTINFO.size])
                if local[0] != 0xFF:  # nothing is sent from a multicast address
                    return data, (*address, local)
        return data, address

    def _local_control(self, local: bytes) -> tuple[int, int, bytes]:
        # No interface: the routing table chooses it.
        if self._is_ipv6:
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local, 0)
        assert _IP_PKTINFO is not None
        return socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, local, bytes(4))


def datagram_socket(
    sock: socket.socket, *, is_batched: bool, with_local: bool = False
) -> DatagramSocket:
    """Return the reader and writer of sock, batched if that is wanted and the system can.

    Args:
        sock: The socket; its owner closes it.
        is_batched: Whether batches are wanted.
        with_local: Whether the local address follows each address, where the system tells it.
    """
    with_local = with_local and _local_option(sock) is not None
    if is_batched and HAS_BATCH:
        max_peers = 1 if _is_connected(sock) else MAX_PEERS
        return BatchSocket(sock, max_peers=max_peers, with_local=with_local)
    return PlainSocket(sock, with_local=with_local)


def is_wildcard(sock: socket.socket) -> bool:
    """Return whether a bound socket receives for all addresses of this host."""
    return sock.getsockname()[0] in ("0.0.0.0", "::")  # noqa: S104  a comparison


def open_sockets(
    found: list[tuple[socket.AddressFamily, Address]],
    *,
    receive_buffer: int,
    send_buffer: int,
    is_shared: bool = False,
) -> list[socket.socket]:
    """Return a bound socket for each address that this host has, all with the same port.

    Args:
        found: Families and addresses with one port; for port 0 a free one is taken.
        receive_buffer: See open_socket().
        send_buffer: See open_socket().
        is_shared: See open_socket().

    Raises:
        OSError: None of the addresses can be used, or one is in use.
    """
    for attempt in range(1, MAX_PORTS + 1):
        socks: list[socket.socket] = []
        error: OSError | None = None
        try:
            for family, address in found:
                if socks and not address[1]:
                    address = (address[0], socks[0].getsockname()[1], *address[2:])
                try:
                    sock = open_socket(
                        address,
                        family,
                        is_server=True,
                        is_shared=is_shared,
                        receive_buffer=receive_buffer,
                        send_buffer=send_buffer,
                    )
                except OSError as problem:
                    # A name may have an address of a family that is switched off.
                    if problem.errno not in _NOT_HERE:
                        raise
                    error = problem
                else:
                    socks.append(sock)
            if not socks:
                raise error or OSError(errno.EADDRNOTAVAIL, "the name has no address")
            return socks
        except BaseException as problem:
            for sock in socks:
                sock.close()
            is_taken = isinstance(problem, OSError) and problem.errno == errno.EADDRINUSE
            if not is_taken or found[0][1][1] or attempt == MAX_PORTS:
                raise
    raise AssertionError


def open_socket(
    address: Address,
    family: socket.AddressFamily,
    *,
    is_server: bool,
    is_shared: bool = False,
    receive_buffer: int = 0,
    send_buffer: int = 0,
) -> socket.socket:
    """Return a non-blocking UDP socket, bound to address (server) or connected to it (client).

    Args:
        address: Socket address of the family.
        family: AF_INET or AF_INET6; a server on the IPv6 wildcard takes IPv4 too.
        is_server: Bind instead of connect.
        is_shared: Let other sockets of this user have the same address (SO_REUSEPORT).
        receive_buffer: SO_RCVBUF to ask for, bytes; the system grants what it allows.
        send_buffer: SO_SNDBUF to ask for, bytes.

    Raises:
        OSError: The address cannot be used.
    """
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if is_server:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
        else:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _local_option(sock: socket.socket) -> Any:
    """Return level and number of the option that reports local addresses, None for none."""
    if sock.family == socket.AF_INET6:
        option = getattr(socket, "IPV6_RECVPKTINFO", None)
        return None if option is None else (socket.IPPROTO_IPV6, option)
    return None if _IP_PKTINFO is None else (socket.IPPROTO_IP, _IP_PKTINFO)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
