"""Admission of new connections: limits, half-open handshakes, Retry, version negotiation.

Sans-IO: judge() decides on a datagram with an unknown id; the listener makes the connection or
sends the answer.

At max_connections a new client still completes its handshake, because only then can it be told when
to come back: it is closed with 4503. 5 % above that its Initials are dropped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from ..config import TransportConfig
from ..protocol.link import Disconnect
from .addresses import Address
from .connection import Connection
from .counters import TransportCounters
from .quic.interface import CONNECTION_ID_LENGTH, MIN_INITIAL_BYTES, NO_CRYPTO, QUIC_V1

__all__ = ["Admission", "Admitted"]

MIN_ORIGINAL_ID = 8
"""Shortest destination id that a client may choose for its first Initial (RFC 9000 7.2)."""


class Admitted(NamedTuple):
    """A first datagram that begins a connection.

    Attributes:
        first_id: The destination id that the client sends to until it learns ours.
        original_id: The destination id of its very first Initial, before any Retry.
        retry_id: The id that our Retry gave it; None without Retry.
    """

    first_id: bytes
    original_id: bytes
    retry_id: bytes | None


class Admission:
    """Decides which clients come in, and keeps count of them.

    Args:
        config: The limits.
        counters: Where to count.
        needs_retry: Whether the backend needs a Retry for some clients; see QuicBackend.
        is_retry_always: Whether every client has to prove its address first.
        is_shedding_handshakes: Asked for each new client: whether to drop its Initial.

    Attributes:
        is_accepting: Whether new clients are answered at all.
        connections: The connections that have not ended.
        half_open: Those of them whose handshake is not complete.
    """

    def __init__(
        self,
        config: TransportConfig,
        counters: TransportCounters,
        *,
        needs_retry: bool,
        is_retry_always: bool,
        is_shedding_handshakes: Callable[[], bool] = lambda: False,
    ) -> None:
        self.is_accepting = False
        self.connections: set[Connection] = set()
        self.half_open: set[Connection] = set()
        self._refused: set[Connection] = set()
        self._counters = counters
        self._needs_retry = needs_retry
        self._is_retry_always = is_retry_always
        self._is_shedding_handshakes = is_shedding_handshakes
        self._max_connections = config.max_connections
        self._max_all = config.max_connections + max(1, config.max_connections // 20)
        self._max_handshakes = config.max_handshakes
        self._retry_tokens = QuicRetryTokenHandler()

    def judge(self, data: bytes, address: Address, now: float) -> Admitted | bytes | None:
        """Return the admitted client, the datagram to answer with, or None to drop this one.

        Args:
            data: A datagram with a long header and an unknown destination id.
            address: The peer's.
            now: Loop time.
        """
        counters = self._counters
        if len(data) < MIN_INITIAL_BYTES:
            counters.datagrams_unknown += 1
            return None
        try:
            header = pull_quic_header(Buffer(data=data), CONNECTION_ID_LENGTH)
        except ValueError:
            counters.datagrams_malformed += 1
            return None
        if header.version != QUIC_V1:
            # Version 0 marks a Version Negotiation packet: two servers could go on for ever.
            if not header.version or not self.is_accepting:
                return None
            counters.versions_negotiated += 1
            return encode_quic_version_negotiation(
                source_cid=header.destination_cid,
                destination_cid=header.source_cid,
                supported_versions=[QUIC_V1],
            )
        if (
            header.packet_type is not QuicPacketType.INITIAL
            or len(header.destination_cid) < MIN_ORIGINAL_ID
        ):
            counters.datagrams_unknown += 1
            return None
        if not self.is_accepting or len(self.connections) >= self._max_all:
            counters.connections_dropped += 1
            return None
        if len(self.half_open) >= self._max_handshakes:
            counters.handshakes_dropped += 1
            return None
        if self._is_shedding_handshakes():
            return None
        return self._judge_address(data, header, address, now)

    def _judge_address(
        self, data: bytes, header: QuicHeader, address: Address, now: float
    ) -> Admitted | bytes:
        """Return the client of an Initial, or a Retry where it has to prove its address first."""
        counters = self._counters
        first_id = header.destination_cid
        if header.token:
            try:
                original_id = self._retry_tokens.validate_token(
                    address=address, destination_cid=first_id, token=header.token, now=now
                )
                counters.retries_validated += 1
                return Admitted(first_id, original_id, first_id)
            except ValueError:
                # As if there were none: it may come from another server (RFC 9000 8.1.3).
                counters.retries_refused += 1
        # Before the address is proved, qh3 may send three times the size of the packet, where the
        # RFC says of the datagram. With the padding outside of the packet, that is too little.
        if self._is_retry_always or (self._needs_retry and header.packet_length < len(data)):
            return self._retry(header, address, now)
        return Admitted(first_id, first_id, None)

    def _retry(self, header: QuicHeader, address: Address, now: float) -> bytes:
        self._counters.retries_sent += 1
        source_id = os.urandom(CONNECTION_ID_LENGTH)
        token = self._retry_tokens.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_id,
            now=now,
        )
        return encode_quic_retry(
            version=QUIC_V1,
            source_cid=source_id,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def begin(self, connection: Connection) -> None:
        """Count the connection of an admitted client."""
        if len(self.connections) >= self._max_connections:
            self._refused.add(connection)
        self.connections.add(connection)
        self.half_open.add(connection)
        self._gauge()

    def complete(self, connection: Connection) -> bool:
        """Count a completed handshake; return False if the connection has to be closed 4503."""
        self.half_open.discard(connection)
        if connection in self._refused:
            self._counters.connections_refused += 1
            return False
        self._counters.accepted += 1
        self._gauge()
        return True

    def end(self, connection: Connection, how: Disconnect) -> None:
        """Count the end of a connection."""
        if connection in self.half_open:
            self.half_open.discard(connection)
            if how is NO_CRYPTO:
                self._counters.initials_without_crypto += 1
            else:
                self._counters.handshakes_failed += 1
        self.connections.discard(connection)
        self._refused.discard(connection)
        self._gauge()

    def _gauge(self) -> None:
        self._counters.handshakes = len(self.half_open)
        self._counters.connections = len(self.connections) - len(self.half_open)
