"""Retry packets and their tokens: a client proves its address, and costs no memory until then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from aioquic.quic.packet import RETRY_AEAD_KEY_VERSION_1, RETRY_AEAD_NONCE_VERSION_1
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..addresses import Address
from .initial import V1, Initial
from .interface import CONNECTION_ID_LENGTH, MakeId, random_id

__all__ = ["KEY_BYTES", "Retries"]

KEY_BYTES = 16
LIFETIME_S = 30.0
"""How long a token is good, which clients return at once; clocks may differ by as much."""
_NONCE_BYTES = 12
_TIME_BYTES = 8
_RETRY_TYPE = 0xF0
_INTEGRITY = AESGCM(RETRY_AEAD_KEY_VERSION_1)


class Retries:
    """Makes Retry packets, and reads their tokens.

    A token holds the first destination id and the time, encrypted, and is bound to the client's
    address and to the connection id that the Retry gives.

    Args:
        key: KEY_BYTES; processes with the same one take each other's tokens.
        wall_clock: Seconds since the epoch, which other processes know too.
        make_id: Makes the ids that Retry packets give.
    """

    def __init__(
        self,
        key: bytes,
        wall_clock: Callable[[], float] = time.time,
        make_id: MakeId = random_id,
    ) -> None:
        self._aead = AESGCM(key)
        self._wall_clock = wall_clock
        self._make_id = make_id

    def answer(self, initial: Initial, address: Address) -> bytes:
        """Return the Retry packet that answers an Initial."""
        retry_id = self._make_id()
        nonce = os.urandom(_NONCE_BYTES)
        issued = int(self._wall_clock() * 1000).to_bytes(_TIME_BYTES)
        original_id = initial.destination_id
        packet = b"".join(
            (
                bytes([_RETRY_TYPE]),
                V1,
                bytes([len(initial.source_id)]),
                initial.source_id,
                bytes([CONNECTION_ID_LENGTH]),
                retry_id,
                nonce,
                self._aead.encrypt(nonce, issued + original_id, _scope(address, retry_id)),
            )
        )
        # RFC 9001 5.8: the tag is over a pseudo-packet that begins with the first id.
        pseudo = bytes([len(original_id)]) + original_id + packet
        return packet + _INTEGRITY.encrypt(RETRY_AEAD_NONCE_VERSION_1, b"", pseudo)

    def original_id(self, initial: Initial, address: Address) -> bytes | None:
        """Return the first destination id of a client that comes back; None for a bad token."""
        token = initial.token
        if len(token) < _NONCE_BYTES:
            return None
        scope = _scope(address, initial.destination_id)
        try:
            plain = self._aead.decrypt(token[:_NONCE_BYTES], token[_NONCE_BYTES:], scope)
        except InvalidTag:
            return None
        age = self._wall_clock() - int.from_bytes(plain[:_TIME_BYTES]) / 1000
        return plain[_TIME_BYTES:] if -LIFETIME_S <= age <= LIFETIME_S else None


def _scope(address: Address, retry_id: bytes) -> bytes:
    return f"{address[0]} {address[1]} ".encode() + retry_id
