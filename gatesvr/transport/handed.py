"""Datagrams that processes of a gateway hand on to each other, and the messages that they go in.

A datagram is handed on as one of::

    DATAGRAM  to the sibling whose number its connection id has, or that a client was handed on to
    ADMITTED  a new client's Initial, to a less loaded sibling; it was judged, all but its places
    INITIAL   a new client's Initial, to a sibling that has a place for it; it was not judged
    ASK       to all: one of them may know an id that its QUIC library made
    CLAIM     back: the id that was asked for is the sender's
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .addresses import Address

__all__ = ["ADMITTED", "ASK", "CLAIM", "DATAGRAM", "INITIAL", "Handed", "Messages"]

DATAGRAM, ADMITTED, INITIAL, ASK, CLAIM = range(5)

MAX_MESSAGE_BYTES = 60_000
"""Bytes of one message, but for a single datagram that is longer."""
MAX_ADDRESSES = 4_096
"""Addresses kept as objects and as bytes."""
_VERSION = 1
_HEAD = struct.Struct(">BBBBBH")  # kind, hops, sender, door, bytes of the address, of the datagram
_NAME = struct.Struct(">HIIBB")  # port, flow, scope, bytes of the host, of the local address
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}


class Handed(NamedTuple):
    """A datagram that is handed on.

    Attributes:
        kind: See the top of this file.
        hops: How often it was handed on, this time included.
        sender: The number of the process that did it last.
        door: The index of the door that it came in by.
        data: The datagram; for CLAIM the connection id.
        address: The peer's, with the local one where the socket tells it; for CLAIM None.
    """

    kind: int
    hops: int
    sender: int
    door: int
    data: bytes
    address: Address


class Messages:
    """Makes messages of datagrams, and the other way round.

    The addresses of late are kept both ways: each is one object, as a socket's is.
    """

    def __init__(self) -> None:
        self._packed: dict[Address, bytes] = {}
        self._unpacked: dict[bytes, Address] = {}

    def pack(self, pending: Sequence[Handed]) -> tuple[int, bytes]:
        """Return a message of the first datagrams, and how many they are."""
        parts = [bytes([_VERSION])]
        size = count = 0
        for kind, hops, sender, door, data, address in pending:
            name = self._pack_address(address)
            size += _HEAD.size + len(name) + len(data)
            if count and size > MAX_MESSAGE_BYTES:
                break
            count += 1
            parts += (_HEAD.pack(kind, hops, sender, door, len(name), len(data)), name, data)
        return count, b"".join(parts)

    def unpack(self, message: bytes) -> Iterator[Handed]:
        """Yield the datagrams of a message.

        Raises:
            ValueError: From here on it is of another form: another release sends otherwise.
        """
        if message[:1] != bytes([_VERSION]):
            raise ValueError("another version")
        at, size = 1, len(message)
        while at < size:
            try:
                kind, hops, sender, door, name_bytes, data_bytes = _HEAD.unpack_from(message, at)
                at += _HEAD.size
                name = message[at : at + name_bytes]
                at += name_bytes
                data = message[at : at + data_bytes]
                at += data_bytes
                if at > size or not data:
                    raise ValueError("it is cut off")
                address = self._unpack_address(name)
            except (struct.error, OSError) as error:
                raise ValueError(str(error)) from None
            yield Handed(kind, hops, sender, door, data, address)

    def _pack_address(self, address: Address) -> bytes:
        packed = self._packed.get(address)
        if packed is None:
            if len(self._packed) >= MAX_ADDRESSES:
                self._packed.clear()
            packed = self._packed[address] = _pack_address(address)
        return packed

    def _unpack_address(self, packed: bytes) -> Address:
        if packed not in self._unpacked:
            if len(self._unpacked) >= MAX_ADDRESSES:
                self._unpacked.clear()
            self._unpacked[packed] = _unpack_address(packed)
        return self._unpacked[packed]


def _pack_address(address: Address) -> bytes:
    """Return a socket address, and the local one behind it, as bytes."""
    if address is None:
        return b""
    local = address[-1] if type(address[-1]) is bytes else b""
    plain = address[:-1] if local else address
    flow, scope = plain[2:] if len(plain) == 4 else (0, 0)
    host = socket.inet_pton(_FAMILIES[4 if len(plain) == 2 else 16], plain[0])
    return _NAME.pack(plain[1], flow, scope, len(host), len(local)) + host + local


def _unpack_address(packed: bytes) -> Address:
    """Return the address of _pack_address()."""
    if not packed:
        return None
    port, flow, scope, host_bytes, local_bytes = _NAME.unpack_from(packed)
    at = _NAME.size
    host = packed[at : at + host_bytes]
    local = packed[at + host_bytes :]
    if len(local) != local_bytes or host_bytes not in _FAMILIES:
        raise ValueError("no address")
    address: Address = (socket.inet_ntop(_FAMILIES[host_bytes], host), port)
    if host_bytes == 16:
        address = (*address, flow, scope)
    return (*address, local) if local else address
