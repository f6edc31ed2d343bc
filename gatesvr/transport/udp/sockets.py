"""A UDP socket as the endpoint uses it: the compiled batches, or one datagram a system call."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from functools import partial
from typing import Any, Protocol

from ..._core.udp import HAS_BATCH, BatchSocket
from ..quic.interface import Address, Datagram

__all__ = [
    "MAX_BATCH",
    "DatagramSocket",
    "PlainSocket",
    "datagram_socket",
    "is_wildcard",
    "resolve",
]

MAX_BATCH = 64
"""Datagrams read or sent at a time, so that sending and tasks get their turn."""
MAX_DATAGRAM = 65535
MAX_PEERS = 4096
"""Addresses that a server's socket keeps as objects."""

# The socket module does not name it everywhere; other systems have other ways.
_IP_PKTINFO: int | None = {"linux": 8, "darwin": 26}.get(sys.platform)
_IN_PKTINFO = struct.Struct("=I4s4s")  # interface, address to send from, address sent to
_IN6_PKTINFO = struct.Struct("=16sI")  # address, interface


class DatagramSocket(Protocol):
    """What reads and writes the datagrams of a socket that somebody else owns."""

    @property
    def receive_calls(self) -> int:
        """System calls that read."""

    @property
    def datagrams_received(self) -> int:
        """Datagrams read, those cut off not counted."""

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
        """Datagrams that the system took as parts of a run."""

    def receive_into(self, batch: list[Datagram]) -> None:
        """Append the datagrams that are there, at most MAX_BATCH.

        Raises:
            OSError: The network reports an error; what was read before is in the batch.
        """

    def send(self, datagrams: list[Datagram], start: int = 0) -> int:
        """Send datagrams from start on; return how many were taken, 0 where it would block.

        Raises:
            OSError: The datagram at start cannot be sent, and none was.
        """


class PlainSocket:
    """One datagram a system call, where the system has nothing better.

    Args:
        sock: The socket; its owner closes it.
        with_local: Whether addresses have the local address behind them, as bytes: which one a
            datagram was sent to, and which one to send from.
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
        """Append the datagrams that are there, at most MAX_BATCH."""
        receive = self._receive_with_local if self._with_local else self._sock.recvfrom
        try:
            for _ in range(MAX_BATCH):
                self.receive_calls += 1
                data, address = receive(MAX_DATAGRAM)
                self.datagrams_received += 1
                self.bytes_received += len(data)
                batch.append((data, _unscoped(address) if self._is_ipv6 else address))
        except (BlockingIOError, InterruptedError):
            return

    def send(self, datagrams: list[Datagram], start: int = 0) -> int:
        """Send the datagram at start; return 1, or 0 where it would block."""
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
        # No interface: it stays the routes' choice.
        if self._is_ipv6:
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(local, 0)
        assert _IP_PKTINFO is not None
        return socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, local, bytes(4))


def datagram_socket(
    sock: socket.socket, *, is_batched: bool, with_local: bool = False
) -> DatagramSocket:
    """Return what reads and writes sock, in batches if they are wanted and the system has them.

    Args:
        sock: The socket; its owner closes it.
        is_batched: Whether batches are wanted.
        with_local: Whether addresses have the local address behind them, where the system tells it.
    """
    with_local = with_local and _local_option(sock) is not None
    if is_batched and HAS_BATCH:
        max_peers = 1 if _is_connected(sock) else MAX_PEERS
        return BatchSocket(sock, max_peers=max_peers, with_local=with_local)
    return PlainSocket(sock, with_local=with_local)


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Address]]:
    """Return family and socket address of each address of a host, each once, IPv4 first.

    Not by the loop's own getaddrinfo: uvloop's drops the scope of a link-local address.

    Args:
        host: A name or an address, with a scope or without.
        port: UDP port.

    Raises:
        OSError: There is no such host, or the name cannot be one.
    """
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_DGRAM)
    try:
        try:
            found = look_up(flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await asyncio.get_running_loop().run_in_executor(None, look_up)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(errno.EINVAL, f"not a host name: {error}") from None
    # IPv4 first: the gateway listens on 0.0.0.0 by default.
    families = (socket.AF_INET, socket.AF_INET6)
    addresses = {entry[4]: entry[0] for entry in found if entry[0] in families}
    return sorted(
        ((family, address) for address, family in addresses.items()),
        key=lambda entry: families.index(entry[0]),
    )


def is_wildcard(sock: socket.socket) -> bool:
    """Return whether a bound socket takes what is sent to any address of the host."""
    return sock.getsockname()[0] in ("0.0.0.0", "::")  # noqa: S104  a comparison


def _local_option(sock: socket.socket) -> Any:
    """Return level and number of the option that has local addresses told, None for none."""
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


def _unscoped(address: Address) -> Address:
    """Return address without the scope's name: its number is in the tuple, qh3 takes no name."""
    host = address[0]
    return (host.partition("%")[0], *address[1:]) if "%" in host else address
