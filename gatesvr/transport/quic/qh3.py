"""qh3 as a QuicTransport. A test pins the private parts of qh3 that it uses.

This file works around faults that qh3 2.1 has as a server (DESIGN D3): see datagrams_to_send() and
is_path_limit_near(). Admission answers with the Retry that qh3 needs; one need is that of clients
whose connection id has no bytes, as browsers have it: see Qh3Core.

qh3's probe time-out follows RFC 9002 5.3 to the letter, where a round trip that *falls* raises the
variance. After a handshake of 1 s, as in a rush of log-ins, a packet lost on a path of 6 ms is sent
again after 3 s, and ten exchanges later still after 1.4 s. get_timer() bounds it by the latest
round trip.
"""

from __future__ import annotations

import contextlib
import ssl
from functools import partial
from typing import Any, Literal

from qh3 import tls as qh3tls
from qh3._hazmat import CryptoError
from qh3.quic.configuration import QuicConfiguration

from ...errors import ConfigError
from ...protocol.link import PathState
from ..addresses import Address, Datagram, without_local
from ..tls import ClientTls, ServerTls
from .interface import (
    ACK_PATIENCE,
    ALPN,
    CONNECTION_ID_LENGTH,
    MAX_UNACKNOWLEDGED,
    QUIC_V1,
    RECEIVE_WINDOW,
    STREAM_ID,
    STREAM_REFUSED,
    WEB_ALPN,
    WEB_DATAGRAM_BYTES,
    MakeId,
    QuicTransport,
    ServerFactory,
    TokenOf,
    random_id,
)
from .qh3_core import Qh3Core

__all__ = ["Qh3Backend", "Qh3Connection"]

LAST_SAFE_PATH = 3
"""Index of a client's fourth address; qh3 never accepts a fifth one."""
MAX_ADDRESSES = 8
"""Addresses of one peer kept whole. Most peers have one; a forged one may push out another."""
ASSUMED_ACK_DELAY = 0.025
PROBE_PATIENCE = 0.2
"""Shortest time without an acknowledgement before qh3's probe is sent early, seconds."""
MAX_FRUITLESS = RECEIVE_WINDOW + (128 << 10)
"""Bytes that a peer may send and that bring nothing, beyond those that did bring stream bytes.

qh3 keeps each gap, however small the pieces between, and answers each PATH_CHALLENGE in a packet of
its own. It shows no frames, so the bound is on the bytes that carry them. An honest peer may fill
the window behind a gap, and may take for lost what was only late.
"""
FRUITLESS_PER_S = 1024
"""Further such bytes a second, for padded PINGs and probes of the path's MTU."""
EMPTY_BYTES = 64
"""Bytes of each datagram that count for nothing: a bare acknowledgement or PING has fewer."""
ACK_BYTES = 256
"""Further such bytes of a datagram that acknowledges something: after losses it names many ranges.
"""
MIN_WINDOW = 12_000
"""Bytes in flight that any congestion window allows."""
MAX_BEYOND_WINDOW = 256
"""Datagrams sent one after the other while the congestion window is full.

qh3 answers challenges and retired ids even then, and remembers each packet until it is
acknowledged. Otherwise only probes and PINGs ignore the window, a dozen before the connection is
idle.
"""
PROTOCOL_VIOLATION = 0x0A
PROMPT_DATAGRAMS = 8
"""Datagrams acknowledged without waiting, after one that arrived out of order."""

SIGNATURES = [
    qh3tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256,
    qh3tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA256,
    qh3tls.SignatureAlgorithm.RSA_PKCS1_SHA256,
    qh3tls.SignatureAlgorithm.ECDSA_SECP384R1_SHA384,
    qh3tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA384,
    qh3tls.SignatureAlgorithm.RSA_PKCS1_SHA384,
    qh3tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA512,
    qh3tls.SignatureAlgorithm.RSA_PKCS1_SHA512,
    qh3tls.SignatureAlgorithm.ED25519,
]
"""Signatures that a client accepts from a server: qh3's list without SHA-1 and with Ed25519."""


class Qh3Backend:
    """The library with the Rust core."""

    name: Literal["aioquic", "qh3"] = "qh3"
    makes_ids = True
    needs_retry = True

    def server(
        self,
        tls: ServerTls,
        idle_timeout: float,
        token_of: TokenOf,
        alpn: str = ALPN,
        make_id: MakeId = random_id,
    ) -> ServerFactory:
        """Return a factory of server connections."""
        configuration = _configuration(is_client=False, idle_timeout=idle_timeout, alpn=alpn)
        try:
            configuration.load_cert_chain(tls.cert_pem, tls.key_pem)
        except (ValueError, TypeError, ssl.SSLError, CryptoError) as error:
            raise ConfigError(
                f"qh3 cannot use it: {error}", source=tls.path, field="transport.cert"
            ) from None
        return partial(_accept, configuration, token_of, make_id)

    def client(self, tls: ClientTls, server_name: str, idle_timeout: float) -> QuicTransport:
        """Return a client connection."""
        configuration = _configuration(is_client=True, idle_timeout=idle_timeout)
        configuration.server_name = server_name
        if tls.is_insecure:
            configuration.verify_mode = ssl.CERT_NONE
        configuration.cadata = tls.ca_pem or None
        configuration.signature_algorithms = list(SIGNATURES)
        return Qh3Connection(Qh3Core(configuration=configuration))


def _configuration(*, is_client: bool, idle_timeout: float, alpn: str = ALPN) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[alpn],
        max_datagram_frame_size=WEB_DATAGRAM_BYTES if alpn == WEB_ALPN else None,
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=idle_timeout,
        max_data=RECEIVE_WINDOW,
        max_stream_data=RECEIVE_WINDOW,
        supported_versions=[QUIC_V1],
    )


def _accept(
    configuration: QuicConfiguration,
    token_of: TokenOf,
    make_id: MakeId,
    original_id: bytes,
    retry_id: bytes | None,
) -> QuicTransport:
    return Qh3Connection(
        Qh3Core(
            token_of,
            make_id,
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
    )


class Qh3Connection:
    """One qh3 connection."""

    __slots__ = (
        "_acks",
        "_address",
        "_addresses",
        "_beyond",
        "_credit",
        "_credited_at",
        "_in_flight",
        "_is_complete",
        "_is_used",
        "_is_written",
        "_losses",
        "_plain",
        "_prompt",
        "_quic",
        "_recv_many",
        "_sent_at",
        "connection_id",
        "events",
        "owes_nothing",
        "stream_id",
    )

    def __init__(self, quic: Qh3Core) -> None:
        self._quic = quic
        self._is_complete = False
        self._recv_many: Any = None
        self._in_flight = 0  # bytes, as of the last look
        self._acks = 0
        self._losses = 0  # packets, as of the last transmission
        self._sent_at = 0.0  # time of the last transmission that the peer acknowledges
        self._is_used = False  # an event has come since the handshake
        self._is_written = False  # to the stream, since datagrams_to_send()
        # qh3 takes a peer's address without ours after it; these bring ours back.
        self._address: Address = None  # the last one, whole
        self._plain: Address = None  # the same, as qh3 has it
        self._addresses: dict[Address, Address] = {}  # plain → whole, of all that differ
        self._credit: float = MAX_FRUITLESS
        self._credited_at = 0.0
        self._beyond = 0  # see MAX_BEYOND_WINDOW
        self._prompt = 0  # datagrams still to be acknowledged without waiting
        self.connection_id: bytes = quic.host_cid
        self.events = quic.found
        self.owes_nothing = False
        self.stream_id = STREAM_ID

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake."""
        self._quic.connect(address, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in."""
        quic = self._quic
        if address is not self._address:
            self._know(address)
        if self._is_complete:
            # Straight to the core: only the handshake needs the facade's bookkeeping.
            found = len(self.events)
            report = self._recv_many([data], self._plain, now)
            quic._drain_core()
            credit = self._credit
            if report[2]:  # packets that were neither forged nor seen before
                # What was delivered counts twice: it may have been sent again for nothing.
                credit += EMPTY_BYTES - len(data) + 2 * quic.delivered
                quic.delivered = 0
            # The core tells no packet numbers. But the bytes in flight fall only when a datagram
            # acknowledges something.
            in_flight: int = quic._core.bytes_in_flight
            if in_flight < self._in_flight:
                self._acks += 1
                credit += ACK_BYTES
            self._credit = credit if credit < MAX_FRUITLESS else MAX_FRUITLESS
            if credit < 0:
                self._earn_credit(now)
            if len(self.events) > found:
                self._is_used = True
                if self._prompt:
                    self._prompt -= 1
            elif in_flight >= self._in_flight and self._is_used:
                # Most likely bytes after a gap. A peer that has lost packets has few in flight and
                # waits for every acknowledgement (RFC 9000 13.2.1).
                self._prompt = PROMPT_DATAGRAMS
            self._in_flight = in_flight
            return
        quic.receive_datagram(data, self._plain, now)
        quic.drain_facade()
        if quic._handshake_complete:
            self._is_complete = True
            self._recv_many = quic._core.receive_many_datagrams

    def _earn_credit(self, now: float) -> None:
        """Add the credit of the time that has passed; close if that is not enough."""
        earned = (now - self._credited_at) * FRUITLESS_PER_S
        self._credited_at = now
        self._credit += min(earned, MAX_FRUITLESS)
        if self._credit < 0:
            self._quic.refuse(PROTOCOL_VIOLATION, "too many frames that bring nothing")

    def _know(self, address: Address) -> None:
        """Keep the whole address that a datagram came from."""
        self._address = address
        self._plain = plain = without_local(address)
        addresses = self._addresses
        if plain is not address or addresses:
            addresses.pop(plain, None)
            addresses[plain] = address
            if len(addresses) > MAX_ADDRESSES:
                current = self.peer_address()
                del addresses[next(a for a in addresses if addresses[a] != current)]

    def _whole(self, plain: Address) -> Address:
        """Return the whole address for qh3's plain one."""
        return self._address if plain == self._plain else self._addresses.get(plain, plain)

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return the datagrams to send now.

        qh3's own method raises once an amplification budget is used up, and loses the datagrams
        that it has built in that call. Asked for one at a time, it loses none.
        """
        core = self._quic._core
        if core is None:
            return []
        if self._is_written:
            self._is_written = False
            timer = core.get_timer()
            if timer is not None and timer[0] == "ack_application" and timer[1] > now:
                # qh3 adds an acknowledgement only once it is due; here it goes with the data.
                core.handle_timer(timer[1])
        poll = core.poll_transmit
        datagrams: list[Datagram] = []
        try:
            while (transmit := poll(now)) is not None:
                datagrams.append((transmit[0], self._whole(transmit[1])))
        except RuntimeError as error:
            if "capacity exhausted" not in str(error):
                raise
        if core.has_events:
            self._quic._drain_core()
        if datagrams:
            in_flight: int = core.bytes_in_flight
            if in_flight > self._in_flight:
                self._sent_at = now
                if self._in_flight < MIN_WINDOW or self._in_flight < core.congestion_window:
                    self._beyond = 0
                else:
                    self._beyond += len(datagrams)
                    if self._beyond > MAX_BEYOND_WINDOW:
                        self._quic.refuse(PROTOCOL_VIOLATION, "too many frames to answer")
            self._in_flight = in_flight
        self._losses = core.loss_total
        return datagrams

    def can_wait(self, now: float) -> bool:
        """Return whether nothing but the acknowledgement of a lone packet waits."""
        core = self._quic._core
        if not self._is_complete or self._prompt or core.loss_total != self._losses:
            return False  # lost packets are sent again
        timer = core.get_timer()
        if timer is None:
            self.owes_nothing = True
            return True
        # Where another timer comes before that of an acknowledgement, that one will flush it.
        self.owes_nothing = timer[0] != "ack_application"
        is_later: bool = timer[1] > now
        return is_later

    def get_timer(self) -> float | None:
        """Return when handle_timer is due; a lone acknowledgement waits longer than qh3 says."""
        core = self._quic._core
        timer = None if core is None else core.get_timer()
        if timer is None:
            return None
        kind: str = timer[0]
        when: float = timer[1]
        if kind == "ack_application":
            return when if self._prompt else when + ACK_PATIENCE
        if kind == "loss_detection" and self._is_complete:
            sent_at = self._sent_at
            if when - sent_at > PROBE_PATIENCE and (rtt := core.latest_rtt) is not None:
                patience: float = max(PROBE_PATIENCE, 3 * rtt + ASSUMED_ACK_DELAY)
                when = min(when, sent_at + patience * 2.0 ** int(core.pto_count))
        return when

    def handle_timer(self, now: float) -> None:
        """Do the work that is due."""
        core = self._quic._core
        timer = None if core is None else core.get_timer()
        if timer is not None and timer[0] == "loss_detection" and timer[1] > now:
            when = self.get_timer()
            if when is not None and when <= now:
                now = timer[1]  # qh3 takes it for not yet due
        self._quic.handle_timer(now)
        self._in_flight = self._quic._core.bytes_in_flight

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Write to the stream."""
        self._is_written = self._is_complete
        if self._is_complete and not self._quic._is_client:
            self._quic._core.send_stream(self.stream_id, data, end)
        else:
            self._quic.send_stream_data(self.stream_id, data, end)

    def unsent_bytes(self) -> int:
        """Return the stream's bytes never yet transmitted."""
        if self._is_complete:
            if self._in_flight > MAX_UNACKNOWLEDGED:
                return self._in_flight
            unsent: int = self._quic._core.get_send_buffer_size(self.stream_id)
        else:
            unsent = self._quic.get_send_buffer_size(self.stream_id)
        return unsent

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""
        can: bool = self._quic._stream_can_send(self.stream_id)
        return can or (self._quic._is_client and not self._quic._created_local_stream_ids)

    def is_acknowledged(self) -> bool:
        """Return whether everything written was acknowledged."""
        return self.unsent_bytes() == 0 and self._quic._core.bytes_in_flight == 0

    def refuse_stream(self, stream_id: int, code: int = STREAM_REFUSED) -> None:
        """Refuse a stream of the peer's."""
        core = self._quic._core
        try:
            core.stop_sending(stream_id, code)
            if not stream_id & 2:
                core.reset_stream(stream_id, code)
        except (ValueError, RuntimeError):
            return  # it has ended already, or the connection has

    def open_stream(self, data: bytes) -> None:
        """Open a unidirectional stream, and write to it."""
        core = self._quic._core
        with contextlib.suppress(RuntimeError):  # the connection has ended
            core.send_stream(core.open_stream(True), data, False)

    def send_on(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Write to a stream of the peer's."""
        with contextlib.suppress(ValueError, RuntimeError):  # it has ended, or the connection has
            self._quic._core.send_stream(stream_id, data, end)

    def ping(self) -> None:
        """Send a PING, which the peer acknowledges."""
        self._quic._core.send_ping(0)

    def probe(self) -> None:
        """Send a PING; in qh3 it ignores the congestion window."""
        self._quic._core.send_ping(0)

    def close(self, code: int, reason: str) -> None:
        """Close with an application code."""
        self._quic.is_closing = True
        self._quic.close(code, None, reason)

    def ack_mark(self) -> object:
        """Return a value that changes when the peer acknowledges something new."""
        return self._acks

    def peer_address(self) -> Address:
        """Return the address that datagrams go to now."""
        core = self._quic._core
        return self._whole(self._quic._remote_addr if core is None else core.active_path[2])

    def is_address_proved(self) -> bool:
        """Return True: qh3 follows a peer once the path is validated."""
        return True

    def is_path_limit_near(self) -> bool:
        """Return whether the peer has reached the last address that qh3 follows it to."""
        return bool(self._quic._core.active_path[0] >= LAST_SAFE_PATH)

    def idle_timeout(self) -> float:
        """Return the effective idle time-out."""
        own: float = self._quic.configuration.idle_timeout
        parameters = self._quic._applied_transport_parameters
        peer = None if parameters is None else parameters.max_idle_timeout
        return min(own, peer / 1000) if peer else own

    def probe_timeout(self) -> float:
        """Return the probe time-out, from the smoothed round trip: the core tells no more."""
        rtt = self._quic._core.smoothed_rtt
        return (
            3 * (self._quic.configuration.initial_rtt if rtt is None else rtt) + ASSUMED_ACK_DELAY
        )

    def path(self) -> PathState:
        """Return how the path does."""
        core = self._quic._core
        if core is None:
            return PathState(0.0, 0, 0, 0)
        return PathState(
            core.smoothed_rtt or 0.0, core.congestion_window, core.bytes_in_flight, core.loss_total
        )
