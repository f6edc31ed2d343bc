"""Admission of new connections: limits, half-open handshakes, Retry, version negotiation.

Sans-IO: judge() decides on a datagram with an unknown id; the listener makes the connection or
sends the answer. The order is that of cost: what costs nothing to refuse comes first, and an
Initial is decrypted only where a handshake would be next.

At max_connections a new client still completes its handshake, because only then can it be told when
to come back: it is closed with 4503. 5 % above that its Initials are dropped. A gateway that stops
answers them with CONNECTION_REFUSED, so that clients go elsewhere at once.

Where the gateway has several processes, a client that finds no place at one of them may find it at
another: the listener hands it on, and only the last one that it comes to refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from aioquic.quic.packet import encode_quic_version_negotiation

from .._core.limits import TokenBucket
from ..config import TransportConfig
from ..protocol.link import Disconnect
from .addresses import Address, plain_address
from .connection import Connection
from .counters import TransportCounters
from .prefixes import Prefixes, PrefixLimits
from .quic.initial import INITIAL_TYPE, V1, Initial, is_authentic, parse_ids, parse_initial
from .quic.interface import MIN_INITIAL_BYTES, NO_CRYPTO, QUIC_V1
from .quic.refusal import refusal
from .quic.retry import Retries

__all__ = ["Admission", "Admitted", "Judgement", "Verdict"]

MIN_ORIGINAL_ID = 8
"""Shortest destination id that a client may choose for its first Initial (RFC 9000 7.2)."""
MAX_NEGOTIATIONS_PER_S = 1_000
"""Version Negotiation packets sent a second, and at once."""
MAX_REFUSALS_PER_S = 10_000
"""Initials refused a second, and at once; more are dropped."""
STOPS = "the gateway stops"
"""The reason that clients are refused for, while it does."""
_NO_VERSION = bytes(4)


class Verdict(Enum):
    """What a client gets that is neither admitted nor answered nor dropped."""

    NO_PLACE = "no place"
    """It may find a place at another process of this gateway."""


class Admitted(NamedTuple):
    """A first datagram that begins a connection.

    Attributes:
        first_id: The destination id that the client sends to until it learns ours.
        original_id: The destination id of its very first Initial, before any Retry.
        retry_id: The id that our Retry gave it; None without Retry.
        prefixes: The networks that it counts in; None for none.
    """

    first_id: bytes
    original_id: bytes
    retry_id: bytes | None
    prefixes: Prefixes | None = None


Judgement: TypeAlias = Admitted | bytes | Literal[Verdict.NO_PLACE] | None


class RetrySwitch:
    """Switches Retry on in a rush of handshakes, and off again at half of it.

    Args:
        max_handshakes: Half-open connections that switch it on.
        max_initials: Initials a second that do.

    Attributes:
        is_on: Whether clients have to prove their address now.
    """

    def __init__(self, max_handshakes: int, max_initials: int) -> None:
        self.apply(max_handshakes, max_initials)
        self._since = 0.0
        self._initials = 0
        self.is_on = False

    def apply(self, max_handshakes: int, max_initials: int) -> None:
        """Take other limits."""
        self._max_handshakes = max_handshakes
        self._max_initials = max_initials

    def add(self, half_open: int, now: float) -> bool:
        """Count an Initial without a token of ours; return whether this switched Retry on."""
        seconds = now - self._since
        if seconds >= 1:
            is_calm = self._initials < seconds * self._max_initials / 2
            if is_calm and half_open < self._max_handshakes / 2:
                self.is_on = False
            self._since, self._initials = now, 0
        self._initials += 1
        is_rush = half_open >= self._max_handshakes or self._initials >= self._max_initials
        if self.is_on or not is_rush:
            return False
        self.is_on = True
        return True


class Admission:
    """Decides which clients come in, and keeps count of them.

    Args:
        config: The limits.
        counters: Where to count.
        retries: Makes and reads Retry packets.
        needs_retry: Whether the backend needs a Retry for some clients; see QuicBackend.
        is_shedding_handshakes: Asked for each new client by its IP address: whether to drop its
            Initial.

    Attributes:
        is_accepting: Whether new clients come in; else they are refused.
        connections: The connections that have not ended.
        half_open: Those of them whose handshake is not complete.
        limits: Those of networks.
        elsewhere: Returns how many connections of other ways in share max_connections.
    """

    def __init__(
        self,
        config: TransportConfig,
        counters: TransportCounters,
        retries: Retries,
        *,
        needs_retry: bool,
        is_shedding_handshakes: Callable[[str], bool] = lambda ip: False,
    ) -> None:
        self.is_accepting = False
        self.connections: set[Connection] = set()
        self.half_open: set[Connection] = set()
        self._prefixes: dict[Connection, Prefixes] = {}
        self._refused: set[Connection] = set()
        self._waiting = 0  # admitted, and not begun
        self._counters = counters
        self._retries = retries
        self._needs_retry = needs_retry
        self._is_shedding_handshakes = is_shedding_handshakes
        self._switch = RetrySwitch(config.retry_handshakes, config.retry_initials)
        self.limits = PrefixLimits(config, counters)
        self.elsewhere: Callable[[], int] = lambda: 0
        self._negotiations = TokenBucket(MAX_NEGOTIATIONS_PER_S, MAX_NEGOTIATIONS_PER_S)
        self._refusals = TokenBucket(MAX_REFUSALS_PER_S, MAX_REFUSALS_PER_S)
        self._set_limits(config)

    def _set_limits(self, config: TransportConfig) -> None:
        self._retry = config.retry
        self._max_handshakes = config.max_handshakes
        self.limit(config.max_connections)

    def limit(self, max_connections: int) -> None:
        """Take another limit of connections, until the next apply()."""
        self._max_connections = max_connections
        self._max_all = max_connections + max(1, max_connections // 20)

    def apply(self, config: TransportConfig) -> None:
        """Take other limits; connections that there are stay."""
        self._switch.apply(config.retry_handshakes, config.retry_initials)
        self.limits.apply(config)
        self._set_limits(config)

    def judge(
        self,
        data: bytes,
        address: Address,
        now: float,
        *,
        may_go_on: bool = False,
        is_admitted: bool = False,
    ) -> Judgement:
        """Return the admitted client, the datagram to answer with, or None to drop this one.

        An admitted client takes a place at once: begin() or abandon() follows.

        Args:
            data: A datagram with a long header and an unknown destination id.
            address: The peer's.
            now: Loop time.
            may_go_on: Return NO_PLACE for a client that another process may have a place for.
            is_admitted: Another process has judged it: it only needs a place.
        """
        counters = self._counters
        if len(data) < MIN_INITIAL_BYTES:
            counters.datagrams_unknown += 1
            return None
        if data[1:5] != V1:
            return self._negotiate(data, now)
        if data[0] & 0xF0 != INITIAL_TYPE:
            counters.datagrams_unknown += 1
            return None
        initial = parse_initial(data)
        if initial is None:
            counters.datagrams_malformed += 1
            return None
        if len(initial.destination_id) < MIN_ORIGINAL_ID:
            counters.datagrams_unknown += 1
            return None
        if not self.is_accepting:
            return Verdict.NO_PLACE if may_go_on else self.refuse(initial, now)
        if self._taken() >= self._max_all and not may_go_on:
            counters.connections_dropped += 1
            return None
        if len(self.half_open) + self._waiting >= self._max_handshakes:
            counters.handshakes_dropped += 1
            return None
        ip = plain_address(address)[0]
        if self._is_shedding_handshakes(ip):
            return None
        prefixes = self.limits.prefixes(ip)
        client = Admitted(initial.destination_id, initial.destination_id, None, prefixes)
        if not is_admitted:
            found = self._judge_address(data, initial, address, prefixes, now)
            if not isinstance(found, Admitted):
                return found
            client = found
        if may_go_on and self._is_full(prefixes):
            return Verdict.NO_PLACE
        if prefixes is not None:
            limits = self.limits
            if not (limits.has_place(prefixes) if is_admitted else limits.admits(prefixes, now)):
                return None
            limits.begin(prefixes)
        self._waiting += 1
        return client

    def _taken(self) -> int:
        return len(self.connections) + self._waiting + self.elsewhere()

    def _is_full(self, prefixes: Prefixes | None) -> bool:
        """Return whether a client would be refused here for the number of others."""
        return self._taken() >= self._max_connections or (
            prefixes is not None and self.limits.is_full(prefixes)
        )

    def refuse(self, initial: Initial, now: float) -> bytes | None:
        """Return the refusal of a new client, None to drop its Initial."""
        if self._refusals.take(now):
            self._counters.refusals_limited += 1
            return None
        self._counters.initials_refused += 1
        return refusal(initial, STOPS)

    def _negotiate(self, data: bytes, now: float) -> bytes | None:
        """Return the answer to a version that is not ours."""
        counters = self._counters
        ids = parse_ids(data)
        # Version 0 marks a Version Negotiation packet: two servers could go on for ever.
        if ids is None or data[1:5] == _NO_VERSION:
            counters.datagrams_malformed += 1
            return None
        if self._negotiations.take(now):
            counters.negotiations_limited += 1
            return None
        counters.versions_negotiated += 1
        return encode_quic_version_negotiation(
            source_cid=ids[0], destination_cid=ids[1], supported_versions=[QUIC_V1]
        )

    def _judge_address(
        self,
        data: bytes,
        initial: Initial,
        address: Address,
        prefixes: Prefixes | None,
        now: float,
    ) -> Admitted | bytes | None:
        """Return the client of an Initial, or a Retry where it has to prove its address first."""
        counters = self._counters
        original_id = retry_id = None
        if initial.token:
            original_id = self._retries.original_id(initial, address)
            if original_id is None:
                # As if there were none: it may come from another server (RFC 9000 8.1.3).
                counters.retries_refused += 1
            else:
                counters.retries_validated += 1
                retry_id = initial.destination_id
        if original_id is None:
            if self._wants_retry(data, initial, now) or (
                prefixes is not None
                and self._retry != "never"
                and self.limits.needs_proof(prefixes, now)
            ):
                counters.retries_sent += 1
                return self._retries.answer(initial, address)
            original_id = initial.destination_id
        if not is_authentic(data, initial):
            counters.initials_undecryptable += 1
            return None
        return Admitted(initial.destination_id, original_id, retry_id, prefixes)

    def _wants_retry(self, data: bytes, initial: Initial, now: float) -> bool:
        if self._retry == "always":
            return True
        if self._retry == "auto":
            if self._switch.add(len(self.half_open) + self._waiting, now):
                self._counters.retry_switches += 1
            if self._switch.is_on:
                return True
        # Before the address is proved, qh3 may send three times the size of the packet, where the
        # RFC says of the datagram. With the padding outside of the packet, that is too little. And
        # a client whose id has no bytes has to come to an id of ours, which a Retry gives it.
        return self._needs_retry and (initial.end < len(data) or not initial.source_id)

    def begin(self, connection: Connection, client: Admitted) -> None:
        """Count the connection of an admitted client."""
        self._waiting -= 1
        if len(self.connections) + self.elsewhere() >= self._max_connections:
            self._refused.add(connection)
        self.connections.add(connection)
        self.half_open.add(connection)
        if client.prefixes is not None:
            self._prefixes[connection] = client.prefixes
        self._gauge()

    def abandon(self, client: Admitted) -> None:
        """Give the place of an admitted client back: there will be no connection."""
        self._waiting -= 1
        if client.prefixes is not None:
            self.limits.complete(client.prefixes)
            self.limits.end(client.prefixes)

    def complete(self, connection: Connection) -> bool:
        """Count a completed handshake; return False if the connection has to be closed 4503."""
        self._leave_handshake(connection)
        if connection in self._refused or not self.is_accepting:
            self._counters.connections_refused += 1
            return False
        self._counters.accepted += 1
        self._gauge()
        return True

    def end(self, connection: Connection, how: Disconnect) -> None:
        """Count the end of a connection."""
        if connection in self.half_open:
            self._leave_handshake(connection)
            if how is NO_CRYPTO:
                self._counters.initials_without_crypto += 1
            else:
                self._counters.handshakes_failed += 1
        self.connections.discard(connection)
        self._refused.discard(connection)
        prefixes = self._prefixes.pop(connection, None)
        if prefixes is not None:
            self.limits.end(prefixes)
        self._gauge()

    def _leave_handshake(self, connection: Connection) -> None:
        self.half_open.discard(connection)
        prefixes = self._prefixes.get(connection)
        if prefixes is not None:
            self.limits.complete(prefixes)

    def _gauge(self) -> None:
        self._counters.handshakes = len(self.half_open)
        self._counters.connections = len(self.connections) - len(self.half_open)
