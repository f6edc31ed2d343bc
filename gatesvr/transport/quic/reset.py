"""Stateless resets: a gateway tells clients that it lost their connections, after a restart.

A server sends each connection id with a token, the HMAC of the id. A gateway that receives a
datagram with an unknown id replies with that id's token after random bytes. The client remembers
the token, and so learns at once that the connection is gone (RFC 9000 10.3).
"""

from __future__ import annotations

import hmac
import os

from cryptography.hazmat.primitives import serialization

from ..._core.limits import TokenBucket
from ..addresses import Address
from ..counters import TransportCounters
from .interface import CONNECTION_ID_LENGTH
from .secret import derive_key

__all__ = ["StatelessResets", "is_reset", "reset_key", "shared_reset_key"]

LABEL = b"gatesvr stateless reset"
TOKEN_BYTES = 16
MIN_RESET_BYTES = 21
"""Shortest datagram that can be a reset (RFC 9000 10.3)."""
MAX_RESET_BYTES = 43
"""Longest reset. It is one byte shorter than the datagram that it answers, or shorter still."""
MAX_RESETS_PER_S = 10_000
"""Average of resets sent a second: the clients of a full gateway hear within about a second."""
MAX_RESET_BURST = 1_000
"""Resets sent at once."""


KEY_BYTES = 32


def shared_reset_key(secret: bytes) -> bytes:
    """Return the key of the tokens of all processes that share a secret."""
    return derive_key(secret, LABEL, KEY_BYTES)


def reset_key(key_pem: bytes, host_name: str, address: Address) -> bytes:
    """Return the key of a gateway's tokens; it is the same after a restart.

    It is derived from the certificate's private key, which survives a restart anyway, and from the
    machine's name and the address listened on. Gateways that show the same certificate must not
    share a key: one would tell an observer the tokens of the other's connections (RFC 9000 21.11).

    Args:
        key_pem: The certificate's private key, PEM, not encrypted.
        host_name: The machine's.
        address: The socket's own address.
    """
    private = serialization.load_pem_private_key(key_pem, None).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    scope = f"{host_name}\0{address[0]}\0{address[1]}".encode()
    return derive_key(private, LABEL + b"\0" + scope, KEY_BYTES)


def is_reset(datagram: bytes, token: bytes) -> bool:
    """Return whether a datagram is the reset with this token; False if the token is empty."""
    return (
        len(token) == TOKEN_BYTES
        and len(datagram) >= MIN_RESET_BYTES
        # In constant time, or the time taken would tell of the token (RFC 9000 10.3.1).
        and hmac.compare_digest(datagram[-TOKEN_BYTES:], token)
    )


class StatelessResets:
    """The resets of one listener.

    Args:
        key: See reset_key().
        counters: Where to count.
    """

    def __init__(self, key: bytes, counters: TransportCounters) -> None:
        self._key = key
        self._counters = counters
        self._bucket = TokenBucket(MAX_RESETS_PER_S, MAX_RESET_BURST)

    def token(self, connection_id: bytes) -> bytes:
        """Return the token to send with a connection id."""
        return hmac.digest(self._key, connection_id, "sha256")[:TOKEN_BYTES]

    def answer(self, datagram: bytes, now: float) -> bytes:
        """Return the reset that answers a datagram with an unknown id, b"" for none.

        It is shorter than the datagram, so it amplifies nothing, and two gateways that answer each
        other come to an end (RFC 9000 10.3.3).
        """
        # A long header belongs to a handshake: the peer has no token of its id yet.
        if datagram[0] & 0xC0 != 0x40 or len(datagram) <= MIN_RESET_BYTES:
            return b""
        if self._bucket.take(now):
            self._counters.resets_limited += 1
            return b""
        self._counters.resets_sent += 1
        size = min(len(datagram) - 1, MAX_RESET_BYTES)
        head = bytearray(os.urandom(size - TOKEN_BYTES))
        head[0] = 0x40 | head[0] & 0x3F  # like any short header
        return bytes(head) + self.token(datagram[1 : 1 + CONNECTION_ID_LENGTH])
