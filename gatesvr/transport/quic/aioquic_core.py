"""aioquic's connection with a bound on all that a peer can make it hold or do (DESIGN D3).

A peer that passes a bound which no honest one comes near is closed, with the code of RFC 9000. The
pieces of a stream are another matter: a bad network may make many of them. A packet for which there
is no room is dropped (PacketDropped) and not acknowledged, so that an honest peer sends it again.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, cast

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic import events
from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicReceiveContext,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    QuicStreamFrame,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver
from aioquic.tls import Epoch

from ..._core.limits import TokenBucket
from .interface import (
    CONNECTION_ID_LENGTH,
    MAX_CRYPTO_BYTES,
    RECEIVE_WINDOW,
    STREAM_ID,
    MakeId,
    TokenOf,
    random_id,
)

__all__ = [
    "CONGESTION_CONTROL",
    "AioquicCore",
    "CountingReno",
    "PacketDropped",
    "has_too_many_packets",
]

CONGESTION_CONTROL = "reno, counting"
"""The name by which a QuicConfiguration chooses CountingReno."""
MAX_FRAMES = 100
"""Frames of a packet, runs of PADDING counted as one. Senders fill a packet with a few; one that
sends each lost frame again by itself can put 80 of our shortest messages into one."""
MAX_ACK_RANGES = 128
"""Ranges that the ACK frames of a packet name. aioquic names up to 64, other libraries fewer."""
ACK_FRAME_RANGES = 16
"""Ranges that an ACK frame counts for by itself: it costs as much, and a packet needs one."""
MAX_PIECES = 1024
"""Pieces kept of a stream out of order. After a loss, RECEIVE_WINDOW holds 220 full packets."""
MAX_OTHER_STREAMS = 8
"""Streams of each kind that a peer is told it may open, the one that carries messages included. The
others are refused (PROTOCOL 1.2), so a client that opens one knows better the second time."""
MAX_PACKETS = 6
"""Packets of a datagram: one of each kind makes four."""
MAX_KEY_UPDATES = 4
"""Key updates at once. The peer must wait for an acknowledgement between two (RFC 9001 6.1)."""
KEY_UPDATE_S = 1.0
"""Seconds for each further key update."""
MAX_UNACKED = 512
"""Packets remembered that were not acknowledged; above, the oldest bare acknowledgements are
forgotten. A peer need not acknowledge those, and aioquic would keep them all."""
KEPT_UNACKED = 64
"""Bare acknowledgements that are kept, the newest ones."""
SKIP_PACKETS = 512
"""A packet number is left out after so many packets, up to three times as many. A peer that
acknowledges it has not received what it acknowledges (RFC 9000 21.4)."""


_HANDLERS = "_QuicConnection__frame_handlers"


class PacketDropped(Exception):
    """A packet has no room; the rest of its datagram is dropped with it."""


class Reassembly(QuicStreamReceiver):
    """The receiving half of a stream, which keeps piece by piece what is out of order.

    aioquic's own keeps one buffer, gaps included, and looks through all its ranges for each frame.
    """

    def __init__(self, stream_id: int | None, *, readable: bool) -> None:
        super().__init__(stream_id, readable)
        self._starts: list[int] = []  # offsets of the pieces, in order; no two overlap
        self._pieces: dict[int, bytes] = {}  # offset → bytes

    @property
    def held(self) -> int:
        """Bytes of flow control between what was delivered and the highest offset seen."""
        return 0 if self.is_finished else self.highest_offset - self._buffer_start

    def handle_frame(self, frame: QuicStreamFrame) -> events.StreamDataReceived | None:
        """Take a frame in; return what can be delivered."""
        if frame.offset > self._buffer_start:
            self._keep(frame)
            return None
        event = super().handle_frame(frame)
        if event is not None and (self._starts or self._final_size is not None):
            self._deliver_behind(event)
        return event

    def handle_reset(
        self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR
    ) -> events.StreamReset | None:
        """Drop the pieces of a stream that is reset."""
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if self.is_finished:
            self._starts.clear()
            self._pieces.clear()
        return event

    def _keep(self, frame: QuicStreamFrame) -> None:
        """Keep a frame that lies behind a gap."""
        start, data = frame.offset, frame.data
        end = start + len(data)
        final = self._final_size
        if (final is not None and (end > final or (frame.fin and end != final))) or (
            frame.fin and end < self.highest_offset
        ):
            raise FinalSizeError("Data received beyond final size, or another final size")
        if not self.is_finished:
            self._insert(start, data)
        if frame.fin:
            self._final_size = end
        self.highest_offset = max(self.highest_offset, end)

    def _insert(self, start: int, data: bytes) -> None:
        """Add the part of a piece that is not covered yet."""
        starts, pieces = self._starts, self._pieces
        index = bisect_right(starts, start)
        if index:
            before = starts[index - 1]
            covered = before + len(pieces[before]) - start
            if covered > 0:
                start += covered
                data = data[covered:]
        while index < len(starts) and starts[index] < start + len(data):
            behind = starts[index]
            if behind + len(pieces[behind]) > start + len(data):
                data = data[: behind - start]
            else:
                del starts[index], pieces[behind]
        if data:
            if len(starts) >= MAX_PIECES:
                raise PacketDropped("too many pieces out of order")
            starts.insert(index, start)
            pieces[start] = data

    def _deliver_behind(self, event: events.StreamDataReceived) -> None:
        """Add the pieces to an event that it has closed the gap to."""
        starts, at = self._starts, self._buffer_start
        found = [event.data]
        count = 0
        for start in starts:
            if start > at:
                break
            count += 1
            data = self._pieces.pop(start)[at - start :]
            if data:
                found.append(data)
                at += len(data)
        if count:
            del starts[:count]
            self._buffer_start = at
            event.data = b"".join(found)
        event.end_stream = self.is_finished = at == self._final_size


class _Streams(dict[int, QuicStream]):
    """aioquic's streams, which receive with Reassembly."""

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.receiver = Reassembly(stream_id, readable=not stream.receiver.is_finished)
        super().__setitem__(stream_id, stream)


class _FrameHandlers(dict[int, Any]):
    """aioquic's handlers of frames, which count the frames of a packet."""

    __slots__ = ("left",)

    def __init__(self, handlers: dict[int, Any]) -> None:
        super().__init__(handlers)
        self.left = MAX_FRAMES

    def __getitem__(self, frame_type: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _violation(frame_type, "Too many frames in a packet")
        return super().__getitem__(frame_type)


def _violation(frame_type: int, reason: str) -> QuicConnectionError:
    return QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, reason)


class CountingReno(RenoCongestionControl):
    """aioquic's congestion control, which also counts the packets that were lost."""

    lost = 0

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """Count them, and do what aioquic does."""
        packets = list(packets)
        self.lost += len(packets)
        super().on_packets_lost(now=now, packets=packets)


register_congestion_control(CONGESTION_CONTROL, CountingReno)


class AioquicCore(QuicConnection):
    """A connection of either role.

    Args:
        token_of: Gives the stateless reset tokens of a server's connection ids; None for a client.
        make_id: Makes a server's connection ids.
        arguments: aioquic's own.

    Attributes:
        message_stream: The one stream that may carry more than RECEIVE_WINDOW.
    """

    message_stream = STREAM_ID

    def __init__(
        self, token_of: TokenOf | None = None, make_id: MakeId = random_id, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._token_of = token_of
        self._make_id = make_id
        if token_of is not None:
            self._name(self._host_cids[0], token_of)
            self.host_cid = self._local_initial_source_connection_id = self._host_cids[0].cid
        self._streams = _Streams()
        self._frame_handlers = _FrameHandlers(getattr(self, _HANDLERS))
        setattr(self, _HANDLERS, self._frame_handlers)
        self._ack_ranges_left = MAX_ACK_RANGES
        self._key_updates = 0  # by the packet that is being handled
        self._key_update_rate = TokenBucket(1 / KEY_UPDATE_S, MAX_KEY_UPDATES)
        self._skip_at = _next_skip(0)
        self._look_at = MAX_UNACKED  # packets known; see forget_acknowledgements()
        for limit in (self._local_max_streams_bidi, self._local_max_streams_uni):
            limit.value = limit.sent = MAX_OTHER_STREAMS

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        for stream in self._crypto_streams.values():
            stream.receiver = Reassembly(None, readable=True)

    def _replenish_connection_ids(self) -> None:
        """Make the next ids; aioquic's own are random, and so are their tokens."""
        before = len(self._host_cids)
        super()._replenish_connection_ids()
        if self._token_of is not None:
            for issued in self._host_cids[before:]:
                self._name(issued, self._token_of)

    def _name(self, issued: QuicConnectionId, token_of: TokenOf) -> None:
        """Give an id that no peer knows yet a value of ours, and its token."""
        issued.cid = self._make_id()
        issued.stateless_reset_token = token_of(issued.cid)

    # What comes in.

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self._frame_handlers.left = MAX_FRAMES
        self._ack_ranges_left = MAX_ACK_RANGES
        if self._key_updates:
            self._count_key_update(context.time)
        return super()._payload_received(context, plain, crypto_frame_required)

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        largest = buf.pull_uint_var()
        buf.pull_uint_var()
        self._ack_ranges_left -= ACK_FRAME_RANGES + buf.pull_uint_var()
        buf.seek(start)
        if largest >= self._packet_number:
            raise _violation(frame_type, "ACK of a packet that was never sent")
        if self._ack_ranges_left < 0:
            raise _violation(frame_type, "Too many ACK ranges")
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        if not self._is_client:
            start = buf.tell()
            end = buf.pull_uint_var() + buf.pull_uint_var()
            buf.seek(start)
            if end > MAX_CRYPTO_BYTES:
                raise QuicConnectionError(
                    QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "Too long a TLS message"
                )
        super()._handle_crypto_frame(context, frame_type, buf)

    def _handle_path_challenge_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        context.network_path.remote_challenges.clear()  # the newest one alone is answered
        super()._handle_path_challenge_frame(context, frame_type, buf)

    def _log_key_updated(self, key_type: str, trigger: str) -> None:
        """Note a key update of the peer's: aioquic tells of it here alone."""
        if trigger == "remote_update":
            self._key_updates += 1

    def _count_key_update(self, now: float) -> None:
        self._key_updates = 0
        if self._key_update_rate.take(now):
            raise QuicConnectionError(
                QuicErrorCode.KEY_UPDATE_ERROR, QuicFrameType.PADDING, "Too many key updates"
            )

    # What goes out.

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if self._packet_number >= self._skip_at and self._handshake_confirmed:
            self._skip_packet_number(now)
        datagrams: list[tuple[bytes, Any]] = super().datagrams_to_send(now)
        return datagrams

    def _skip_packet_number(self, now: float) -> None:
        """Leave a packet number out, as if its packet were lost before it was sent."""
        number = self._packet_number
        self._packet_number += 1
        self._skip_at = _next_skip(number)
        self._spaces[Epoch.ONE_RTT].sent_packets[number] = QuicSentPacket(
            epoch=Epoch.ONE_RTT,
            in_flight=False,
            is_ack_eliciting=False,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            delivery_handlers=[(self._on_skipped_delivery, ())],
        )

    def _on_skipped_delivery(self, delivery: QuicDeliveryState) -> None:
        if delivery is QuicDeliveryState.ACKED:
            raise _violation(QuicFrameType.ACK, "ACK of a packet number that was left out")

    def forget_acknowledgements(self) -> None:
        """Forget the oldest bare acknowledgements, where more than MAX_UNACKED packets are known.

        If one is acknowledged all the same, the ranges in it are only told again. A full window in
        flight makes no look necessary: the next one comes once KEPT_UNACKED more are known.
        """
        sent = self._spaces[Epoch.ONE_RTT].sent_packets
        if len(sent) < self._look_at:
            return
        bare = [number for number, packet in sent.items() if not packet.in_flight]
        for number in bare[:-KEPT_UNACKED]:
            del sent[number]
        self._look_at = max(MAX_UNACKED, len(sent) + KEPT_UNACKED)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Raise MAX_DATA as bytes are delivered; aioquic's own doubles it. MAX_STREAMS stays."""
        limit = self._local_max_data
        if limit.value - limit.used < RECEIVE_WINDOW // 2:
            receivers = (cast("Reassembly", stream.receiver) for stream in self._streams.values())
            held = sum(receiver.held for receiver in receivers)
            limit.value = max(limit.value, limit.used - held + RECEIVE_WINDOW)
        if limit.value != limit.sent:
            buf = builder.start_frame(
                QuicFrameType.MAX_DATA,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        """Raise MAX_STREAM_DATA as bytes of the one stream are delivered; see above."""
        if stream.stream_id != self.message_stream:
            return
        receiver = stream.receiver
        delivered = receiver._buffer_start
        if (
            stream.max_stream_data_local - delivered < RECEIVE_WINDOW // 2
            and not receiver.is_finished
        ):
            stream.max_stream_data_local = delivered + RECEIVE_WINDOW
        if stream.max_stream_data_local != stream.max_stream_data_local_sent:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local


def _next_skip(number: int) -> int:
    # A peer must not know it beforehand.
    return number + SKIP_PACKETS + random.SystemRandom().randrange(2 * SKIP_PACKETS)


def has_too_many_packets(datagram: bytes) -> bool:
    """Return whether a datagram that begins with a long header has more than MAX_PACKETS."""
    buf = Buffer(data=datagram)
    for _ in range(MAX_PACKETS):
        start = buf.tell()
        try:
            length = pull_quic_header(buf, host_cid_length=CONNECTION_ID_LENGTH).packet_length
        except ValueError:
            return False  # what follows is padding
        if start + length >= len(datagram):
            return False
        buf.seek(start + length)
    return True
