"""The refusal of a client that nothing is made for: an Initial packet with CONNECTION_CLOSE.

A client that hears nothing tries for as long as its handshake may take; one that is refused goes
elsewhere at once.
"""

from __future__ import annotations

import os

from aioquic._crypto import AEAD, HeaderProtection

from .initial import INITIAL_TYPE, V1, Initial, server_keys
from .interface import CONNECTION_ID_LENGTH

__all__ = ["CONNECTION_REFUSED", "refusal"]

CONNECTION_REFUSED = 0x02
"""QUIC's error code: the server takes no new connections (RFC 9000 20.1)."""
_CLOSE = 0x1C  # CONNECTION_CLOSE with an error code of QUIC's (RFC 9000 19.19)
_NUMBER = bytes(4)  # of four bytes, so that header protection has its sample
_TAG_BYTES = 16
_MAX_REASON_BYTES = 63 - 4 - _TAG_BYTES - 4  # so that lengths take one byte


def refusal(initial: Initial, reason: str) -> bytes:
    """Return the datagram that ends a client's handshake by CONNECTION_REFUSED.

    Args:
        initial: The client's Initial.
        reason: Text for its log, cut at 39 bytes.
    """
    text = reason.encode()[:_MAX_REASON_BYTES]
    plain = bytes([_CLOSE, CONNECTION_REFUSED, 0, len(text)]) + text
    header = b"".join(
        (
            bytes([INITIAL_TYPE | len(_NUMBER) - 1]),
            V1,
            bytes([len(initial.source_id)]),
            initial.source_id,
            bytes([CONNECTION_ID_LENGTH]),
            os.urandom(CONNECTION_ID_LENGTH),
            b"\0",  # no token
            bytes([len(_NUMBER) + len(plain) + _TAG_BYTES]),
            _NUMBER,
        )
    )
    key, iv, hp = server_keys(initial.destination_id)
    sealed = AEAD(b"aes-128-gcm", key, iv).encrypt(plain, header, 0)
    packet: bytes = HeaderProtection(b"aes-128-ecb", hp).apply(header, sealed)
    return packet
