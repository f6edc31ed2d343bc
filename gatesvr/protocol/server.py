"""The gateway's side of one connection: framing, decoding, START first, unsequenced answers.

A caller feeds what it read to receive_data(), handles the requests that come back, writes
data_to_send(), and then looks at ``error``: where it is set, the frames before the bad one have
been handed out and the connection is to be closed with the error's close code (PROTOCOL 1.4)::

    requests = protocol.receive_data(data, server_ms, now)
    for request in requests: ...
    link.write(protocol.data_to_send())
    if protocol.error is not None:
        raise protocol.error

What a session knows (seqs, duplicates, acks) is not looked at here.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from .._core.codec import ClientRequest, RequestDecoder, encode_request
from .._pb import message_pb2 as pb
from ..errors import ErrorCode, ProtocolError
from ..observe.metrics import Counter, Counters
from .messages import (
    RequestType,
    error_frame,
    goaway_frame,
    heartbeat_response_frame,
    start_response_frame,
)

__all__ = ["ProtocolCounters", "ServerProtocol"]

_START = int(RequestType.START)
_STOP = int(RequestType.STOP)
_AUTH = int(RequestType.AUTH)
_HEARTBEAT = int(RequestType.HEARTBEAT)
_BUSINESS = int(RequestType.BUSINESS)
_ACK = int(RequestType.ACK)


@dataclass(slots=True)
class ProtocolCounters(Counters):
    """What is refused before anybody else sees it, on all connections together."""

    unknown_types: Counter = 0
    """Frames answered by ERROR 501."""
    bad_msg_ids: Counter = 0
    """Frames answered by ERROR 400 because their msg_id is 0."""
    bad_heartbeats: Counter = 0
    """HEARTBEATs answered by ERROR 400 because their payload does not decode."""


class ServerProtocol:
    """One connection's framing and legality, without I/O.

    Args:
        max_login_bytes: Largest frame until logged_in(), bytes.
        max_message_bytes: Largest frame from then on, bytes.
        counters: Where to count.

    Attributes:
        decoder: Sums up what receive_data() has read; of use where that was BUSINESS alone.
        error: What the peer did wrong, None while it did nothing wrong; set once. Nothing behind
            it is decoded.
        is_started: Whether START has come.
        start_msg_id: Its msg_id, 0 before.
        has_heartbeat: Whether a HEARTBEAT has come; the silence rule (PROTOCOL 3.8) starts with it.
        frame_began_at: The caller's ``now`` of the first byte of a frame that has not ended, None
            where none has begun (PROTOCOL 1.3: a frame begun ends within 10 s).
    """

    __slots__ = (
        "_counters",
        "_max_message_bytes",
        "_output",
        "decoder",
        "error",
        "frame_began_at",
        "has_heartbeat",
        "is_started",
        "start_msg_id",
    )

    def __init__(
        self,
        max_login_bytes: int = 64 << 10,
        max_message_bytes: int = 1 << 20,
        counters: ProtocolCounters | None = None,
    ) -> None:
        self._counters = ProtocolCounters() if counters is None else counters
        self.decoder = RequestDecoder(min(max_login_bytes, max_message_bytes))
        self._max_message_bytes = max_message_bytes
        self._output: list[bytes] = []
        self.error: ProtocolError | None = None
        self.is_started = False
        self.start_msg_id = 0
        self.has_heartbeat = False
        self.frame_began_at: float | None = None

    def receive_data(
        self, data: bytes, server_ms: int = 0, now: float = 0.0
    ) -> list[ClientRequest]:
        """Take stream bytes in; return the requests that the caller handles, in order.

        They are START (once, first), STOP, ACK, AUTH, BUSINESS and HEARTBEAT (already answered:
        only its ack_seq_id and the fact that it came are left to the caller). A frame that is
        answered here by an ERROR and carries an ack_seq_id comes back as the ACK that it also is
        (PROTOCOL 2.5).
        Look at ``error`` after handling them.

        Args:
            data: Stream bytes in any chunking.
            server_ms: Wall-clock ms for HEARTBEAT_RESP.
            now: Loop time, for frame_began_at.
        """
        if self.error is not None:
            return []
        decoder = self.decoder
        requests = decoder.feed(data)
        if not decoder.buffered_bytes:
            self.frame_began_at = None
        elif requests or self.frame_began_at is None:
            self.frame_began_at = now
        if requests and not (decoder.is_business and self.is_started):
            requests = self._sort(requests, server_ms)
        if self.error is None and decoder.error:
            self.error = ProtocolError(decoder.error)
        return requests

    def data_to_send(self) -> bytes:
        """Return what receive_data() has answered by itself since the last call."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def logged_in(self) -> None:
        """Lift the frame limit: the session is logged in."""
        self.decoder.max_message_bytes = self._max_message_bytes

    def start_response(self, response: pb.StartResponse) -> bytes:
        """Return the START_RESP frame that answers the connection's START."""
        return start_response_frame(self.start_msg_id, response)

    def goaway(self, reason: str, reconnect_after_ms: int = 0, address: str = "") -> bytes:
        """Return a GOAWAY frame."""
        return goaway_frame(reason, reconnect_after_ms, address)

    def error_push(
        self,
        msg_id: int,
        code: int,
        message: str,
        *,
        retry_after_ms: int = 0,
        client_seq_id: int = 0,
    ) -> bytes:
        """Return the frame of an ERROR that consumed no number (seq 0, NOT_STARTED)."""
        return error_frame(
            msg_id, code, message, retry_after_ms=retry_after_ms, client_seq_id=client_seq_id
        )

    def _sort(self, requests: list[ClientRequest], server_ms: int) -> list[ClientRequest]:
        """Answer what needs no session, check what is legal, return the rest."""
        kept: list[ClientRequest] = []
        for request in requests:
            kind = request.type
            if kind != _START and not self.is_started:
                # PROTOCOL 3.1: "A first frame that is not START, or a second START: 4400."
                self.error = ProtocolError("the first frame is not START")
                break
            if kind == _START and self.is_started:
                self.error = ProtocolError("a second START")
                break
            if kind == _BUSINESS and request.msg_id:
                kept.append(request)
            elif not request.msg_id and kind in (_BUSINESS, _START, _HEARTBEAT):
                # PROTOCOL 2.1: "msg_id 0 on BUSINESS, START or HEARTBEAT: ERROR 400, seq 0."
                self._counters.bad_msg_ids += 1
                self._refuse(request, ErrorCode.BAD_REQUEST, "msg_id is 0", kept)
            elif kind == _HEARTBEAT:
                self._handle_heartbeat(request, server_ms, kept)
            elif kind == _START:
                self.is_started = True
                self.start_msg_id = request.msg_id
                kept.append(request)
            elif kind in (_ACK, _STOP, _AUTH):
                kept.append(request)
            else:
                # PROTOCOL 1.5: "An unknown request type: ERROR 501, seq 0."
                self._counters.unknown_types += 1
                self._refuse(request, ErrorCode.UNKNOWN_TYPE, "unknown request type", kept)
        return kept

    def _handle_heartbeat(
        self, request: ClientRequest, server_ms: int, kept: list[ClientRequest]
    ) -> None:
        try:
            client_ms = pb.HeartbeatRequest.FromString(request.payload).client_timestamp
        except DecodeError:
            self._counters.bad_heartbeats += 1
            self._refuse(request, ErrorCode.BAD_REQUEST, "payload does not decode", kept)
            return
        self.has_heartbeat = True
        self._output.append(heartbeat_response_frame(request.msg_id, client_ms, server_ms))
        kept.append(request)

    def _refuse(
        self, request: ClientRequest, code: ErrorCode, message: str, kept: list[ClientRequest]
    ) -> None:
        """Answer a request by ERROR, and keep the ack that it carries."""
        client_seq = request.seq_id if request.type == _BUSINESS else 0
        self._output.append(error_frame(request.msg_id, code, message, client_seq_id=client_seq))
        if request.ack_seq_id and request.type != _START:
            frame = encode_request(0, 0, _ACK, b"", None, request.ack_seq_id)
            kept.extend(RequestDecoder(64).feed(frame))
