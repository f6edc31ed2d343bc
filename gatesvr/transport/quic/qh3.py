"""qh3 as a QuicTransport. What it reads of qh3's private parts is pinned by a test.

qh3 2.1 has faults as a server that are dealt with here (DESIGN D3): see datagrams_to_send() and
is_path_limit_near(); the listener does the Retry.

Its probe time-out follows RFC 9002 5.3 to the letter, where a round trip that *falls* raises the
variance. After a handshake of 1 s, as in a rush of log-ins, what is lost on a path of 6 ms is sent
again after 3 s; ten exchanges later, still after 1.4 s. get_timer() bounds it by the latest round
trip.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from aioquic import tls as aiotls
from cryptography import x509
from OpenSSL import crypto
from qh3 import tls as qh3tls
from qh3._hazmat import CryptoError
from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridgeError

from ...errors import ConfigError
from ...protocol.link import Disconnect
from ..tls import ClientTls, ServerTls, check_purpose
from .interface import (
    ACK_PATIENCE,
    ALPN,
    CONNECTION_ID_LENGTH,
    NO_CRYPTO,
    QUIC_V1,
    RECEIVE_WINDOW,
    STREAM_ID,
    STREAM_REFUSED,
    Address,
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    Datagram,
    HandshakeCompleted,
    QuicEvent,
    QuicTransport,
    ServerFactory,
    StopSending,
    StreamData,
    StreamReset,
    TokenOf,
    without_local,
)

__all__ = ["Qh3Backend", "Qh3Connection"]

LAST_SAFE_PATH = 3
"""Index of a client's fourth address; qh3 never accepts a fifth."""
MAX_ADDRESSES = 8
"""Addresses of one peer that are known whole; most have one, forged ones push out others."""
ASSUMED_ACK_DELAY = 0.025
PROBE_PATIENCE = 0.2
"""Shortest time without an acknowledgement after which qh3's probe is sent before its time."""
PROMPT_DATAGRAMS = 8
"""Datagrams whose acknowledgement does not wait, from one on that did not come in its order."""

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
"""Signatures that a client takes from a server: qh3's list without SHA-1 and with Ed25519."""

_NO_CRYPTO_REASON = "packet contains no CRYPTO frame"  # as qh3 words it


class Qh3Backend:
    """The library with the Rust core."""

    name: Literal["aioquic", "qh3"] = "qh3"
    needs_retry = True

    def server(self, tls: ServerTls, idle_timeout: float, token_of: TokenOf) -> ServerFactory:
        """Return what makes server connections."""
        configuration = _configuration(is_client=False, idle_timeout=idle_timeout)
        try:
            configuration.load_cert_chain(tls.cert_pem, tls.key_pem)
        except (ValueError, TypeError, ssl.SSLError, CryptoError) as error:
            raise ConfigError(
                f"qh3 cannot use it: {error}", source=tls.path, field="transport.cert"
            ) from None
        return partial(_accept, configuration, token_of)

    def client(self, tls: ClientTls, server_name: str, idle_timeout: float) -> QuicTransport:
        """Return a client connection."""
        configuration = _configuration(is_client=True, idle_timeout=idle_timeout)
        configuration.server_name = server_name
        if tls.is_insecure:
            configuration.verify_mode = ssl.CERT_NONE
        configuration.cadata = tls.ca_pem or None
        configuration.signature_algorithms = list(SIGNATURES)
        return Qh3Connection(_Core(configuration=configuration))


def _configuration(*, is_client: bool, idle_timeout: float) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=idle_timeout,
        max_data=RECEIVE_WINDOW,
        max_stream_data=RECEIVE_WINDOW,
        supported_versions=[QUIC_V1],
    )


def _accept(
    configuration: QuicConfiguration,
    token_of: TokenOf,
    original_id: bytes,
    retry_id: bytes | None,
) -> QuicTransport:
    return Qh3Connection(
        _Core(
            token_of,
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
    )


class _Core(QuicConnection):
    """qh3's connection, its events turned into ours where they arise.

    Args:
        token_of: Gives the stateless reset token of a server's first connection id. The ids that
            follow get random ones from qh3's core, which lets nobody else choose.
        arguments: Of qh3's connection.

    Attributes:
        found: Our events.
        is_closing: close() was called.
        closed: How it ended, once it has.
    """

    _core: (
        Any  # qh3's own hint says None until the first datagram; here it is asked where it may be
    )
    _tls: Any

    def __init__(self, token_of: TokenOf | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._token_of = token_of
        self.found: deque[QuicEvent] = deque()
        self.is_closing = False
        self.closed: Disconnect | None = None

    def _create_tls(self, remote_source_cid: bytes | None) -> Any:
        """Make the TLS half; qh3's method lets it give a random token away."""
        tls = super()._create_tls(remote_source_cid)
        if self._is_client:
            context: Any = tls.tls
            context._client_handle_certificate_verify = partial(
                _check_certificate, context, context._client_handle_certificate_verify
            )
        if self._token_of is not None:
            tls.stateless_reset_token = self._token_of(self.host_cid)
            tls.tls.handshake_extensions = [
                (
                    qh3tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS,
                    tls.serialize_transport_parameters(),
                )
            ]
        return tls

    def _drain_core(self) -> None:
        """Turn the core's events into ours.

        Overrides qh3's method of the same name, which reports a close only after draining, and
        then all kinds of close alike.
        """
        core = self._core
        found = self.found
        while (native := core.next_event()) is not None:
            kind = native[0]
            if kind == "stream_data":
                found.append(StreamData(native[1], native[2], native[3]))
            elif kind == "crypto_data":
                self._receive_crypto(native)
            elif kind == "stream_reset":
                found.append(StreamReset(native[1], native[2]))
            elif kind == "stop_sending":
                found.append(StopSending(native[1], native[2]))
            elif kind == "connection_id_issued":
                found.append(ConnectionIdIssued(native[1]))
            elif kind == "connection_id_retired":
                found.append(ConnectionIdRetired(native[1]))
            elif kind == "stream_finished":
                self._created_local_stream_ids.discard(native[1])
            elif kind == "handshake_done":
                self._handshake_confirmed = True
                core.handshake_confirmed()
            elif kind == "new_token":
                self._peer_token = native[1]
            elif kind == "peer_closed":
                reason = native[4].decode("utf8", "replace")
                self._end(Disconnect("peer" if native[1] else "peer_transport", native[2], reason))
            elif kind == "protocol_error":
                reason = str(native[3])
                if reason == _NO_CRYPTO_REASON:
                    self._end(NO_CRYPTO)
                else:
                    self._end(Disconnect("local", native[1], reason))
            elif kind == "connection_terminated":
                if native[3] == b"Idle timeout":
                    self._end(Disconnect("idle"))
                else:
                    # Nobody closed before: only a stateless reset ends a connection like this.
                    self._end(Disconnect("reset", native[1]))

    def _receive_crypto(self, native: tuple[Any, ...]) -> None:
        try:
            self._tls.receive_crypto(
                qh3tls.Epoch(native[1]), native[3], native[2], version=self._core.version
            )
            self._drain_tls()
        except QuicTlsBridgeError as error:
            self._core.close(error.error_code, int(error.frame_type), error.reason_phrase.encode())
            self._end(Disconnect("local", error.error_code, error.reason_phrase))

    def _end(self, how: Disconnect) -> None:
        if self.closed is None and not self.is_closing:
            self.closed = how
            self.found.append(Closed(how))

    def drain_facade(self) -> None:
        """Turn the events that qh3's TLS half put into its own queue into ours."""
        while (event := self.next_event()) is not None:
            if type(event) is events.HandshakeCompleted:
                self.found.append(HandshakeCompleted())
            elif type(event) is events.ConnectionTerminated:
                # The client's version negotiation found nothing in common.
                self._end(Disconnect("local", event.error_code, event.reason_phrase))


def _check_certificate(context: Any, qh3_check: Callable[[Any], None], message: Any) -> None:
    """Check the server's signature and certificate, the latter as aioquic does where qh3 says no.

    qh3 refuses a certificate that is its own trust anchor and a CA, which is what ``openssl req
    -x509`` makes, and Ed25519 ones, and does not say why it refuses any.

    Args:
        context: qh3's TLS half, a client's.
        qh3_check: Its own check of the message, behind which it waits for Finished.
        message: CertificateVerify.
    """
    try:
        qh3_check(message)
        return
    except qh3tls.AlertBadCertificate:
        # The signature was good, or the alert would be another: the server has the private key.
        pass
    try:
        leaf, *chain = (
            x509.load_der_x509_certificate(certificate.public_bytes())
            for certificate in (context._peer_certificate, *context._peer_certificate_chain)
        )
        check_purpose(leaf)
        paths = ssl.get_default_verify_paths()
        aiotls.verify_certificate(
            leaf,
            chain,
            context._server_name,
            cadata=context._cadata,
            cafile=None if context._cadata else paths.cafile,
            capath=None if context._cadata else paths.capath,
        )
    except (aiotls.Alert, ValueError, crypto.Error) as error:
        raise qh3tls.AlertBadCertificate(str(error)) from None
    # What qh3's method does at its end.
    context.key_schedule.update_hash(message.data)
    context._set_state(qh3tls.State.CLIENT_EXPECT_FINISHED)


class Qh3Connection:
    """One qh3 connection."""

    __slots__ = (
        "_acks",
        "_address",
        "_addresses",
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
    )

    def __init__(self, quic: _Core) -> None:
        self._quic = quic
        self._is_complete = False
        self._recv_many: Any = None
        self._in_flight = 0  # bytes, when last looked at
        self._acks = 0
        self._losses = 0  # packets, when last something was sent
        self._sent_at = 0.0  # when something was sent last that the peer acknowledges
        self._is_used = False  # something has happened since the handshake
        self._is_written = False  # to the stream, since datagrams_to_send()
        # qh3 takes a peer's address without ours behind it: what it had comes back here.
        self._address: Address = None  # the last one
        self._plain: Address = None  # and as qh3 has it
        self._addresses: dict[Address, Address] = {}  # plain → whole, of all that differ
        self._prompt = 0  # datagrams to come that are acknowledged without waiting
        self.connection_id: bytes = quic.host_cid
        self.events = quic.found

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake."""
        self._quic.connect(address, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in."""
        quic = self._quic
        if address is not self._address:
            self._know(address)
        if self._is_complete:
            # Straight to the core: the facade's bookkeeping is for the handshake.
            found = len(self.events)
            self._recv_many([data], self._plain, now)
            quic._drain_core()
            # The core tells no packet numbers, but a datagram makes less of what is in flight
            # only where it acknowledges something.
            in_flight: int = quic._core.bytes_in_flight
            if in_flight < self._in_flight:
                self._acks += 1
            if len(self.events) > found:
                self._is_used = True
                if self._prompt:
                    self._prompt -= 1
            elif in_flight >= self._in_flight and self._is_used:
                # Most likely bytes behind a gap. A peer that has lost packets has few under way:
                # it waits for every acknowledgement (RFC 9000 13.2.1).
                self._prompt = PROMPT_DATAGRAMS
            self._in_flight = in_flight
            return
        quic.receive_datagram(data, self._plain, now)
        quic.drain_facade()
        if quic._handshake_complete:
            self._is_complete = True
            self._recv_many = quic._core.receive_many_datagrams

    def _know(self, address: Address) -> None:
        """Keep whole the address that a datagram came from."""
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
        """Return the address that qh3 has as plain."""
        return self._address if plain == self._plain else self._addresses.get(plain, plain)

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return the datagrams to send now.

        qh3's own method raises when an amplification budget is used up, and what it had built in
        that call is lost; one at a time, all that was built is kept.
        """
        core = self._quic._core
        if core is None:
            return []
        if self._is_written:
            self._is_written = False
            timer = core.get_timer()
            if timer is not None and timer[0] == "ack_application" and timer[1] > now:
                # qh3 adds an acknowledgement only where it is due; here it goes with the data.
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
            self._in_flight = in_flight
        self._losses = core.loss_total
        return datagrams

    def can_wait(self, now: float) -> bool:
        """Return whether nothing but the acknowledgement of a lone packet waits."""
        core = self._quic._core
        if not self._is_complete or self._prompt or core.loss_total != self._losses:
            return False  # what was lost is sent again
        timer = core.get_timer()
        return timer is None or timer[1] > now

    def get_timer(self) -> float | None:
        """Return when handle_timer is due; an acknowledgement that is due alone can wait."""
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
        """Do what is due."""
        core = self._quic._core
        timer = None if core is None else core.get_timer()
        if timer is not None and timer[0] == "loss_detection" and timer[1] > now:
            when = self.get_timer()
            if when is not None and when <= now:
                now = timer[1]  # not due yet for qh3
        self._quic.handle_timer(now)
        self._in_flight = self._quic._core.bytes_in_flight

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Write to the stream."""
        self._is_written = self._is_complete
        if self._is_complete and not self._quic._is_client:
            self._quic._core.send_stream(STREAM_ID, data, end)
        else:
            self._quic.send_stream_data(STREAM_ID, data, end)

    def unsent_bytes(self) -> int:
        """Return the stream's bytes never yet transmitted."""
        if self._is_complete:
            unsent: int = self._quic._core.get_send_buffer_size(STREAM_ID)
        else:
            unsent = self._quic.get_send_buffer_size(STREAM_ID)
        return unsent

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""
        can: bool = self._quic._stream_can_send(STREAM_ID)
        return can or (self._quic._is_client and not self._quic._created_local_stream_ids)

    def is_acknowledged(self) -> bool:
        """Return whether everything written was acknowledged."""
        return self.unsent_bytes() == 0 and self._quic._core.bytes_in_flight == 0

    def refuse_stream(self, stream_id: int) -> None:
        """Refuse a stream of the peer's."""
        core = self._quic._core
        try:
            core.stop_sending(stream_id, STREAM_REFUSED)
            if not stream_id & 2:
                core.reset_stream(stream_id, STREAM_REFUSED)
        except ValueError:
            return  # already done with, nothing to refuse

    def ping(self) -> None:
        """Have the peer acknowledge something."""
        self._quic._core.send_ping(0)

    def probe(self) -> None:
        """Have a datagram sent; qh3 sends a PING beside the congestion window."""
        self._quic._core.send_ping(0)

    def close(self, code: int, reason: str) -> None:
        """Close with an application code."""
        self._quic.is_closing = True
        self._quic.close(code, None, reason)

    def is_authenticated(self) -> bool:
        """Return whether any packet of the peer's could be decrypted."""
        core = self._quic._core
        return core is not None and bool(core.received_authenticated_packet)

    def ack_mark(self) -> object:
        """Return a value that changes when the peer acknowledges something new."""
        return self._acks

    def peer_address(self) -> Address:
        """Return the address that datagrams go to now."""
        core = self._quic._core
        return self._whole(self._quic._remote_addr if core is None else core.active_path[2])

    def is_path_limit_near(self) -> bool:
        """Return whether the peer is at the last address that qh3 follows it to."""
        return bool(self._quic._core.active_path[0] >= LAST_SAFE_PATH)

    def idle_timeout(self) -> float:
        """Return the effective idle time-out."""
        own: float = self._quic.configuration.idle_timeout
        parameters = self._quic._applied_transport_parameters
        peer = None if parameters is None else parameters.max_idle_timeout
        return min(own, peer / 1000) if peer else own

    def probe_timeout(self) -> float:
        """Return the probe time-out, from the smoothed round trip alone: the core tells no more."""
        rtt = self._quic._core.smoothed_rtt
        return (
            3 * (self._quic.configuration.initial_rtt if rtt is None else rtt) + ASSUMED_ACK_DELAY
        )
