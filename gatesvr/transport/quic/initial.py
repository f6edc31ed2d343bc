"""A client's first Initial packet, read and checked before anything is made for it.

The keys of Initial packets follow from the destination id alone (RFC 9001 5.2), so a datagram that
is no client's can be told from one that is for a small part of a handshake's cost.
"""

from __future__ import annotations

import hmac
from typing import NamedTuple

from aioquic._crypto import AEAD, CryptoError, HeaderProtection

from .interface import CONNECTION_ID_LENGTH

__all__ = [
    "INITIAL_TYPE",
    "V1",
    "Initial",
    "destination_id",
    "is_authentic",
    "parse_ids",
    "parse_initial",
    "server_keys",
]

V1 = b"\0\0\0\1"
"""QUIC's version 1 as a long header has it."""
INITIAL_TYPE = 0xC0
"""First four bits of an Initial packet: long header, fixed bit, type 0 (RFC 9000 17.2.2)."""
MAX_ID_BYTES = 20
MAX_NUMBER_BYTES = 4
SAMPLE_BYTES = 16
_IDS_AT = 5
_SALT = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")  # RFC 9001 5.2


def _label(name: bytes, size: int) -> bytes:
    """Return what HKDF-Expand-Label gives to its only HMAC (RFC 8446 7.1)."""
    name = b"tls13 " + name
    return size.to_bytes(2) + bytes([len(name)]) + name + b"\0\1"


_CLIENT_IN = _label(b"client in", 32)
_SERVER_IN = _label(b"server in", 32)
_KEY = _label(b"quic key", 16)
_IV = _label(b"quic iv", 12)
_HP = _label(b"quic hp", 16)


class Initial(NamedTuple):
    """An Initial packet at the start of a datagram.

    Attributes:
        destination_id: Chosen by the client, or by our Retry.
        source_id: The client's own.
        token: From a Retry; empty without one.
        number_at: Where the packet number begins.
        end: Where the packet ends.
    """

    destination_id: bytes
    source_id: bytes
    token: bytes
    number_at: int
    end: int


def parse_ids(data: bytes) -> tuple[bytes, bytes] | None:
    """Return destination and source id of a long header of any version; None if they do not fit."""
    middle = _IDS_AT + 1 + data[_IDS_AT]
    if middle >= len(data):
        return None
    end = middle + 1 + data[middle]
    if end > len(data):
        return None
    return data[_IDS_AT + 1 : middle], data[middle + 1 : end]


def destination_id(data: bytes) -> bytes:
    """Return the destination id of a datagram, whole if that is of our length or its own says so.

    Args:
        data: It has 1 + CONNECTION_ID_LENGTH bytes or more.
    """
    if data[0] & 0x80:
        return data[_IDS_AT + 1 : _IDS_AT + 1 + data[_IDS_AT]]
    return data[1 : 1 + CONNECTION_ID_LENGTH]


def parse_initial(data: bytes) -> Initial | None:
    """Return the Initial packet that a datagram begins with; None if it is malformed.

    Args:
        data: It begins with an Initial packet's first byte and V1.
    """
    ids = parse_ids(data)
    if ids is None or len(ids[0]) > MAX_ID_BYTES or len(ids[1]) > MAX_ID_BYTES:
        return None
    at = _IDS_AT + 2 + len(ids[0]) + len(ids[1])
    size = len(data)
    if at >= size:
        return None
    token_bytes, at = _varint(data, at)
    token = data[at : at + token_bytes]
    at += token_bytes
    if at >= size:
        return None
    rest, at = _varint(data, at)
    if rest < MAX_NUMBER_BYTES + SAMPLE_BYTES or at + rest > size:
        return None
    return Initial(ids[0], ids[1], token, at, at + rest)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place and the place behind it (RFC 9000 16)."""
    size = 1 << (data[at] >> 6)
    end = at + size
    return int.from_bytes(data[at:end]) & ((1 << (8 * size - 2)) - 1), end


def _keys(destination_id: bytes, side: bytes) -> tuple[bytes, bytes, bytes]:
    secret = hmac.digest(hmac.digest(_SALT, destination_id, "sha256"), side, "sha256")
    key = hmac.digest(secret, _KEY, "sha256")[:16]
    iv = hmac.digest(secret, _IV, "sha256")[:12]
    return key, iv, hmac.digest(secret, _HP, "sha256")[:16]


def server_keys(destination_id: bytes) -> tuple[bytes, bytes, bytes]:
    """Return key, IV and header protection key of a server's Initial packets (RFC 9001 5.2).

    Args:
        destination_id: That of the client's Initial.
    """
    return _keys(destination_id, _SERVER_IN)


def client_keys(destination_id: bytes) -> tuple[bytes, bytes, bytes]:
    """Return key, IV and header protection key of a client's Initial packets (RFC 9001 5.2).

    Args:
        destination_id: That of the client's Initial.
    """
    return _keys(destination_id, _CLIENT_IN)


def is_authentic(data: bytes, initial: Initial) -> bool:
    """Return whether a client made the Initial packet for its destination id."""
    key, iv, hp = client_keys(initial.destination_id)
    protection = HeaderProtection(b"aes-128-ecb", hp)
    packet = data[: initial.end]
    try:
        header, number = protection.remove(packet, initial.number_at)
        # A first packet's number is what its truncated form says (RFC 9000 A.3, expecting 0).
        AEAD(b"aes-128-gcm", key, iv).decrypt(packet[len(header) :], header, number)
    except CryptoError:
        return False
    return True
