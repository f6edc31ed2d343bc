"""A UDP socket as the endpoint uses it: the compiled batches, or one datagram a system call."""

from __future__ import annotations

import socket
from typing import Protocol

from .._core.udp import HAS_BATCH, BatchSocket
from .quic import Address, Datagram

__all__ = ["MAX_BATCH", "DatagramSocket", "PlainSocket", "datagram_socket"]

MAX_BATCH = 64
"""Datagrams read or sent at a time, so that sending and tasks get their turn."""
MAX_DATAGRAM = 65535
MAX_PEERS = 4096
"""Addresses that a server's socket keeps as objects."""


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
    """One datagram a system call, where the system has nothing better."""

    datagrams_truncated = 0
    segments_sent = 0

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
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
        receive = self._sock.recvfrom
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
            else:
                self._sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return 0
        self.datagrams_sent += 1
        self.bytes_sent += len(data)
        return 1


def datagram_socket(sock: socket.socket, *, is_batched: bool) -> DatagramSocket:
    """Return what reads and writes sock, in batches if they are wanted and the system has them."""
    if is_batched and HAS_BATCH:
        return BatchSocket(sock, max_peers=1 if _is_connected(sock) else MAX_PEERS)
    return PlainSocket(sock)


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
