"""aioquic as a QuicTransport. A test pins the private parts of aioquic that it uses."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from functools import partial
from typing import Literal

from aioquic import tls as aiotls
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStreamSender
from aioquic.tls import Epoch

from ...errors import ConfigError
from ...protocol.link import Disconnect, PathState
from ..addresses import Address, Datagram
from ..tls import ClientTls, ServerTls
from .aioquic_core import (
    CONGESTION_CONTROL,
    MAX_UNACKED,
    AioquicCore,
    CountingReno,
    PacketDropped,
    has_too_many_packets,
)
from .interface import (
    ACK_PATIENCE,
    ALPN,
    CONNECTION_ID_LENGTH,
    MAX_UNACKNOWLEDGED,
    NO_CRYPTO,
    QUIC_V1,
    RECEIVE_WINDOW,
    STREAM_ID,
    STREAM_REFUSED,
    WEB_ALPN,
    WEB_DATAGRAM_BYTES,
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    DatagramDropped,
    HandshakeCompleted,
    MakeId,
    QuicEvent,
    QuicTransport,
    ServerFactory,
    StopSending,
    StreamData,
    StreamReset,
    TokenOf,
    random_id,
)
from .reset import is_reset

__all__ = ["AioquicBackend", "AioquicConnection"]

GAP_PATIENCE = 0.001
"""How long an acknowledgement waits for packets that are missing, seconds.

A peer that hears at once of a gap takes packets for lost that were only overtaken.
"""

_NO_CRYPTO_REASON = "Packet contains no CRYPTO frame"  # as aioquic words it


class AioquicBackend:
    """The library that is always installed."""

    name: Literal["aioquic", "qh3"] = "aioquic"
    makes_ids = False
    needs_retry = False

    def __init__(self) -> None:
        # aioquic warns of each broken rule: a hostile peer could fill the log.
        quic_logger = logging.getLogger("quic")
        if quic_logger.level == logging.NOTSET:
            quic_logger.setLevel(logging.ERROR)

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
            chain = aiotls.load_pem_x509_certificates(tls.cert_pem)
            configuration.private_key = aiotls.load_pem_private_key(tls.key_pem)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"aioquic cannot use it: {error}", source=tls.path, field="transport.cert"
            ) from None
        configuration.certificate, configuration.certificate_chain = chain[0], chain[1:]
        return partial(_accept, configuration, token_of, make_id)

    def client(self, tls: ClientTls, server_name: str, idle_timeout: float) -> QuicTransport:
        """Return a client connection."""
        configuration = _configuration(is_client=True, idle_timeout=idle_timeout)
        configuration.server_name = server_name
        if tls.is_insecure:
            configuration.verify_mode = ssl.CERT_NONE
        if tls.ca_pem:
            configuration.cadata = tls.ca_pem
        else:
            # By default aioquic takes the roots of the certifi package.
            system = ssl.get_default_verify_paths()
            configuration.cafile, configuration.capath = system.cafile, system.capath
        return AioquicConnection(AioquicCore(configuration=configuration))


def _configuration(*, is_client: bool, idle_timeout: float, alpn: str = ALPN) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[alpn],
        max_datagram_frame_size=WEB_DATAGRAM_BYTES if alpn == WEB_ALPN else None,
        congestion_control_algorithm=CONGESTION_CONTROL,
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
    return AioquicConnection(
        AioquicCore(
            token_of,
            make_id,
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
    )


class AioquicConnection:
    """One aioquic connection."""

    __slots__ = (
        "_is_closing",
        "_is_reported",
        "_is_reset",
        "_quic",
        "_space",
        "_stream_id",
        "_unacked",
        "connection_id",
        "events",
    )

    def __init__(self, quic: AioquicCore) -> None:
        self._quic = quic
        self._is_closing = False  # we called close()
        self._is_reported = False  # Closed was handed out
        self._space: QuicPacketSpace | None = None  # of 1-RTT packets, once the handshake is over
        self._unacked = 0  # packets that an acknowledgement is due for
        self._is_reset = False  # by a stateless reset
        self.connection_id: bytes = quic.host_cid
        self.events: deque[QuicEvent] = deque()
        self._stream_id = STREAM_ID

    @property
    def stream_id(self) -> int:
        """The stream that a Carrier's methods are about."""
        return self._stream_id

    @stream_id.setter
    def stream_id(self, stream_id: int) -> None:
        self._stream_id = self._quic.message_stream = stream_id

    def connect(self, address: Address, now: float) -> None:
        """Begin the handshake."""
        self._quic.connect(address, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Take a datagram in; aioquic itself does not detect stateless resets."""
        quic = self._quic
        if is_reset(data, quic._peer_cid.stateless_reset_token):
            self._end_by_reset(now)
        elif data[0] & 0x80 and has_too_many_packets(data):
            self.events.append(DatagramDropped())
        else:
            try:
                quic.receive_datagram(data, address, now)
            except PacketDropped:
                self.events.append(DatagramDropped())
            space = self._space
            # Without an event it was most likely an acknowledgement, which needs none itself.
            if space is not None and space.ack_at is not None and quic._events:
                self._unacked += 1
        self._drain()

    def _end_by_reset(self, now: float) -> None:
        quic = self._quic
        if quic._close_event is None:
            self._is_reset = True
            quic._close_event = events.ConnectionTerminated(0, None, "")
            # RFC 9000 10.3.1: "MUST enter the draining period and not send any further packets".
            quic._close_begin(is_initiator=False, now=now)

    def _drain(self) -> None:
        """Turn aioquic's events into ours."""
        quic, found = self._quic, self.events
        while (event := quic.next_event()) is not None:
            if isinstance(event, events.StreamDataReceived):
                found.append(StreamData(event.stream_id, event.data, event.end_stream))
            elif isinstance(event, events.ConnectionIdIssued):
                found.append(ConnectionIdIssued(event.connection_id))
            elif isinstance(event, events.ConnectionIdRetired):
                found.append(ConnectionIdRetired(event.connection_id))
            elif isinstance(event, events.StreamReset):
                found.append(StreamReset(event.stream_id, event.error_code))
            elif isinstance(event, events.StopSendingReceived):
                found.append(StopSending(event.stream_id, event.error_code))
            elif isinstance(event, events.HandshakeCompleted):
                found.append(HandshakeCompleted())
        if quic._close_event is not None and not self._is_closing and not self._is_reported:
            self._is_reported = True
            found.append(Closed(self._how()))

    def _how(self) -> Disconnect:
        """Return how the connection ended: aioquic has the same event for all ends."""
        quic = self._quic
        event = quic._close_event
        assert event is not None
        state = quic._state
        if self._is_reset:
            return Disconnect("reset")
        if state is QuicConnectionState.DRAINING:
            kind: Literal["peer", "peer_transport"] = (
                "peer" if event.frame_type is None else "peer_transport"
            )
            return Disconnect(kind, event.error_code, event.reason_phrase)
        if state is QuicConnectionState.TERMINATED and event.reason_phrase == "Idle timeout":
            return Disconnect("idle")
        if event.reason_phrase == _NO_CRYPTO_REASON:
            return NO_CRYPTO
        # The peer broke a rule of QUIC, or no path is left.
        return Disconnect("local", event.error_code, event.reason_phrase)

    def datagrams_to_send(self, now: float) -> list[Datagram]:
        """Return the datagrams to send now.

        aioquic adds an acknowledgement only once it is due; here it goes with any data.
        """
        space = self._space
        if space is None:
            if not self._quic._handshake_confirmed:
                datagrams = self._quic.datagrams_to_send(now)
                self._drain()
                return datagrams
            self._quic._ack_delay = ACK_PATIENCE
            self._space = space = self._quic._spaces[Epoch.ONE_RTT]
        if space.ack_at is not None:
            if len(space.ack_queue) > 1 and not self._has_stream_data():
                space.ack_at = min(space.ack_at, now + GAP_PATIENCE)
            elif not self._can_ack_wait(space):
                space.ack_at = now
        datagrams = self._quic.datagrams_to_send(now)
        if len(space.sent_packets) > MAX_UNACKED:
            self._quic.forget_acknowledgements()
        if space.ack_at is None:
            self._unacked = 0
        if self._quic._events or self._quic._close_event is not None:
            self._drain()
        return datagrams

    def can_wait(self, now: float) -> bool:
        """Return whether nothing but the acknowledgement of a lone packet waits."""
        space = self._space
        return space is not None and self._can_ack_wait(space)

    @property
    def owes_nothing(self) -> bool:
        """False: aioquic does not show which lost frames it sends again."""
        return False

    def _can_ack_wait(self, space: QuicPacketSpace) -> bool:
        # Two ranges: packets between them are missing.
        return self._unacked < 2 and len(space.ack_queue) < 2 and not self._has_stream_data()

    def _has_stream_data(self) -> bool:
        stream = self._quic._streams.get(self._stream_id)
        return stream is not None and not stream.sender.buffer_is_empty

    def get_timer(self) -> float | None:
        """Return when handle_timer is due."""
        return self._quic.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do the work that is due."""
        self._quic.handle_timer(now)
        self._drain()

    def send_stream_data(self, data: bytes, *, end: bool = False) -> None:
        """Write to the stream."""
        self._quic.send_stream_data(self._stream_id, data, end)

    def unsent_bytes(self) -> int:
        """Return the stream's bytes never yet transmitted."""
        stream = self._quic._streams.get(self._stream_id)
        if stream is None:
            return 0
        sender = stream.sender
        unacknowledged: int = sender._buffer_stop - sender._buffer_start
        if unacknowledged > MAX_UNACKNOWLEDGED:
            return unacknowledged
        return sender._buffer_stop - sender.highest_offset

    def is_stream_open(self) -> bool:
        """Return whether send_stream_data may be called."""
        stream = self._quic._streams.get(self._stream_id)
        if stream is None:
            return self._quic._is_client and not self._quic._stream_is_discarded(self._stream_id)
        return _is_open(stream.sender)

    def is_acknowledged(self) -> bool:
        """Return whether everything written was acknowledged."""
        stream = self._quic._streams.get(self._stream_id)
        if stream is None or stream.sender.is_finished:
            return True
        sender = stream.sender
        return sender._buffer_fin is None and sender._buffer_start == sender._buffer_stop

    def refuse_stream(self, stream_id: int, code: int = STREAM_REFUSED) -> None:
        """Refuse a stream of the peer's."""
        quic = self._quic
        if stream_id not in quic._streams:
            return  # it has ended already
        quic.stop_stream(stream_id, code)
        if not stream_id & 2:
            quic.reset_stream(stream_id, code)

    def open_stream(self, data: bytes) -> None:
        """Open a unidirectional stream, and write to it."""
        quic = self._quic
        stream_id = quic.get_next_available_stream_id(is_unidirectional=True)
        if stream_id >> 2 >= quic._remote_max_streams_uni:
            raise ValueError("the peer lets us open no stream")
        quic.send_stream_data(stream_id, data)

    def send_on(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Write to a stream of the peer's."""
        stream = self._quic._streams.get(stream_id)
        if stream is not None and _is_open(stream.sender):
            self._quic.send_stream_data(stream_id, data, end)

    def ping(self) -> None:
        """Send a PING, which the peer acknowledges."""
        self._quic.send_ping(0)

    def probe(self) -> None:
        """Send a probe, which ignores the congestion window; ping() does not."""
        self._quic._send_probe()

    def close(self, code: int, reason: str) -> None:
        """Close with an application code."""
        self._is_closing = True
        self._quic.close(code, None, reason)

    def ack_mark(self) -> object:
        """Return a value that changes when the peer acknowledges something new."""
        return self._quic._loss.spaces[-1].largest_acked_packet

    def peer_address(self) -> Address:
        """Return the address that datagrams go to now."""
        return self._quic.get_peer_address()

    def is_address_proved(self) -> bool:
        """Return whether the path is validated: aioquic follows a peer before that."""
        return self._quic._network_paths[0].is_validated

    def is_path_limit_near(self) -> bool:
        """Return False: aioquic follows any number of moves."""
        return False

    def idle_timeout(self) -> float:
        """Return the effective idle time-out."""
        own = self._quic.configuration.idle_timeout
        peer = self._quic._remote_max_idle_timeout
        return min(own, peer) if peer else own

    def probe_timeout(self) -> float:
        """Return the probe time-out."""
        return self._quic._loss.get_probe_timeout()

    def path(self) -> PathState:
        """Return how the path does."""
        loss = self._quic._loss
        window = loss._cc
        rtt = loss._rtt_smoothed if loss._rtt_initialized else 0.0
        lost = window.lost if isinstance(window, CountingReno) else 0
        return PathState(rtt, window.congestion_window, window.bytes_in_flight, lost)


def _is_open(sender: QuicStreamSender) -> bool:
    return sender._buffer_fin is None and sender._reset_error_code is None
