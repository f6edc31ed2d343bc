"""The client's side of the session protocol, without I/O.

One ClientProtocol is one session seen by its client, over any number of connections::

    protocol.connect(now)                   # a connection is up: START is queued
    write(protocol.data_to_send())
    for event in protocol.receive_data(data, now): ...
    protocol.acknowledge(event.seq)         # once the application has it
    write(protocol.data_to_send())          # after every call above
    if protocol.error is not None: ...      # close the connection and resume on a new one

After a connection is gone, call connect() for the next one: the session is resumed from the
position that the application has reached, and what the gateway has not accepted is sent again
(PROTOCOL 4.6). A client that survives restarts has one rule to follow::

    if protocol.is_state_due: store(protocol.state())     # before each data_to_send()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from .._core.codec import PushDecoder, encode_request
from .._pb import message_pb2 as pb
from ..errors import CloseCode, ErrorCode, ProtocolError
from .client_session import ClientSession
from .events import (
    Answered,
    ClientEvent,
    Failed,
    GoAwayReceived,
    HeartbeatAnswered,
    Ignored,
    Kicked,
    Lost,
    Notify,
    SessionReset,
    Started,
    StartRefused,
    read_error,
    read_lost_reason,
)
from .messages import (
    CAPABILITIES,
    LATEST_PROTOCOL,
    LOGIN_ACTION,
    MAX_CLIENT_SEQ,
    OK,
    LostReason,
    Outcome,
    PushType,
    RequestType,
    StopReason,
)
from .pacing import USUAL_SHARE, AckPacer, HeartbeatPacer
from .pending import PendingRequest

if TYPE_CHECKING:
    from .._core.codec import ServerPush

__all__ = [
    "Answered",
    "ClientEvent",
    "ClientProtocol",
    "Failed",
    "GoAwayReceived",
    "HeartbeatAnswered",
    "Ignored",
    "Kicked",
    "Lost",
    "Notify",
    "SessionReset",
    "StartRefused",
    "Started",
]

START_TIMEOUT_S = 10.0
"""How long START_RESP is waited for (PROTOCOL 3.8)."""
LEAVE_TIMEOUT_S = 30.0
"""Longest wait for answers before a connection is left for GOAWAY: a request's deadline (3.7)."""
MAX_SESSION_ID = 128
MAX_TOKEN_BYTES = 64
"""Longest session id, in characters, and resume token that are taken from a gateway."""
MAX_LOGIN_BYTES = 64 << 10
"""Largest frame before login (PROTOCOL 1.3)."""

# Plain ints: looking a member up in its enum costs as much as a whole call on Python 3.11.
_BUSINESS_DATA = int(PushType.BUSINESS_DATA)
_ERROR = int(PushType.ERROR)
_GOAWAY = int(PushType.GOAWAY)
_HEARTBEAT_RESP = int(PushType.HEARTBEAT_RESP)
_KICK = int(PushType.KICK)
_SKIP = int(PushType.SKIP)
_START_RESP = int(PushType.START_RESP)


class ClientProtocol(ClientSession):
    """A client's session and the connection that it has now.

    Args:
        openid: The user.
        client_id: The client's own name.
        auth_token: Sent on every START.
        max_message_bytes: The largest frame taken.
        protocol: 0 to speak base.
        capabilities: See messages.

    Attributes:
        carries_acks: Whether requests and heartbeats carry the ack too. Off where the state is
            stored before each ack: then there is one ack, and one store, for several answers.
        is_live: Whether this connection's START was answered well.
        is_silent: Whether the gateway kept still for so long that the connection is to be given up.
        is_leaving: Whether leave() was called: requests wait for the next connection.
        heartbeat_interval: Seconds.
        max_in_flight: Requests without an answer that the gateway takes at a time.
        max_request_bytes: The largest frame that the gateway takes, once logged in.
        error: What the gateway did wrong on this connection, or None.
    """

    def __init__(
        self,
        openid: str,
        *,
        client_id: str = "",
        auth_token: str = "",
        max_message_bytes: int = 1 << 20,
        protocol: int = LATEST_PROTOCOL,
        capabilities: int = CAPABILITIES,
    ) -> None:
        super().__init__(
            openid,
            client_id=client_id,
            auth_token=auth_token,
            max_message_bytes=max_message_bytes,
            protocol=protocol,
            capabilities=capabilities,
        )
        self.carries_acks = True
        self._usual_s = 0.0  # the usual time of an answer, seconds

        # What the gateway said of itself.
        self.heartbeat_interval = 15.0
        self.max_in_flight = 128
        self.max_request_bytes = 1 << 20

        # The connection now.
        self._reset_connection()

    def _reset_connection(self) -> None:
        self._decoder = PushDecoder(self._max_message_bytes)
        self._output: list[bytes] = []
        self.error: ProtocolError | None = None
        self.is_live = False
        self.is_stopped = False
        self.is_silent = False
        self.is_leaving = False
        self._leave_at: float | None = None
        self._stop_reason = StopReason.UNKNOWN
        self._start_msg_id = 0
        self._now = 0.0
        self._start_deadline: float | None = None
        self._acks = AckPacer(self.position)
        self._heartbeats: HeartbeatPacer | None = None

    # Calls.

    def connect(self, now: float | None = None) -> None:
        """Begin on a fresh connection: queue START, and forget what belonged to the last one.

        Args:
            now: Loop time; starts the deadline for START_RESP where given.
        """
        self._reset_connection()
        start = self._start_request()
        if now is not None:
            self._now = now
            self._start_deadline = now + START_TIMEOUT_S
        self._start_msg_id = self._take_msg_id()
        self._output.append(
            encode_request(self._start_msg_id, 0, RequestType.START, start.SerializeToString())
        )

    def login(
        self,
        data: bytes = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        now: float | None = None,
    ) -> int:
        """Send a hello; return its client seq."""
        return self.send_request(LOGIN_ACTION, data, params, headers, now)

    def send_request(
        self,
        action: str,
        data: bytes = b"",
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        now: float | None = None,
    ) -> int:
        """Send a request, or keep it until the connection is started; return its client seq.

        Raises:
            ValueError: It is larger than what the gateway takes, which would end the session.
        """
        if now is not None:
            self._now = now
        request = PendingRequest(self._take_msg_id(), action, data, params, headers)
        limit = self.max_request_bytes
        if not self.is_logged_in:
            limit = min(limit, MAX_LOGIN_BYTES)
        size = request.max_size
        if size > limit:
            raise ValueError(f"a request of {size} bytes is above the gateway's limit of {limit}")
        seq = self.next_client_seq
        self.next_client_seq = seq + 1
        self.pending[seq] = request
        if self.is_ready:
            self._send(seq, request)
        return seq

    @property
    def is_ready(self) -> bool:
        """Whether a request would be sent now instead of waiting for the next connection."""
        return self.is_live and not self.is_leaving

    def acknowledge(self, seq: int, now: float | None = None) -> None:
        """Take note that the application has everything up to seq; an older seq does nothing.

        Args:
            seq: Of an event's.
            now: Loop time; that of the last other call where absent.
        """
        if now is not None:
            self._now = now
        if seq <= self.position:
            return
        self.position = seq
        if self.is_live and self._acks.moved(seq, self._now):
            self._send_ack()

    def stop(self, reason: StopReason = StopReason.APP_CLOSE) -> None:
        """End the session: queue STOP. The gateway closes; wait up to 1 s for it (PROTOCOL 3.9).

        While START is unanswered STOP waits for that.
        """
        self.is_stopped = True
        self.is_state_due = True
        self._stop_reason = reason
        if self.is_live:
            self._send_stop()

    def leave(self, now: float, within: float = 0.0) -> None:
        """Prepare to resume on another connection, as GOAWAY asks: send no more requests on this.

        Close the connection once is_left says so.

        Args:
            now: Loop time.
            within: Longest wait for the answers to what was sent, seconds.
        """
        self.is_leaving = True
        self._now = now
        self._leave_at = now + within

    @property
    def is_left(self) -> bool:
        """Whether the connection is to be closed: nothing sent on it is unanswered, or time is up.

        Until the session is started it is not: a resume that was read is not given up.
        """
        return (
            self._leave_at is not None
            and self.is_live
            and (
                self._now >= self._leave_at
                or not any(request.is_sent for request in self.pending.values())
            )
        )

    def data_to_send(self) -> bytes:
        """Return the stream bytes to write now, b"" for none; state() is stored by then."""
        self.is_state_due = False
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    # Time.

    def get_timer(self) -> float | None:
        """Return the loop time at which handle_timer() is due, or None."""
        timers = [self._acks.due_at, self._start_deadline]
        if self.is_live:
            timers.append(self._leave_at)
        if self._heartbeats is not None:
            timers += (self._heartbeat_at(), self._heartbeats.silent_at)
        return min((at for at in timers if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Ack, send a heartbeat, or see that the gateway is silent. May be called early."""
        self._now = now
        if self._acks.due_at is not None and now >= self._acks.due_at:
            self._send_ack()
        if self._start_deadline is not None and now >= self._start_deadline:
            self._start_deadline = None
            self.is_silent = True
        heartbeats = self._heartbeats
        if heartbeats is None:
            return
        if heartbeats.silent_at is not None and now >= heartbeats.silent_at:
            self._heartbeats = None
            self.is_silent = True
        elif now >= self._heartbeat_at():
            heartbeats.sent(self._take_msg_id(), now)
            payload = pb.HeartbeatRequest(client_timestamp=int(now * 1000)).SerializeToString()
            self._output.append(
                encode_request(
                    heartbeats.msg_id,
                    0,
                    RequestType.HEARTBEAT,
                    payload,
                    None,
                    self._ack_to_carry(),
                )
            )

    def _heartbeat_at(self) -> float:
        """Return the loop time of the next heartbeat."""
        heartbeats = self._heartbeats
        assert heartbeats is not None
        for oldest in self.pending.values():
            if not oldest.is_sent:
                break
            return heartbeats.next_at(oldest.sent_at, self._usual_s)
        return heartbeats.due_at

    # Pushes in.

    def receive_data(self, data: bytes, now: float) -> list[ClientEvent]:
        """Take stream bytes in; return what they say, in order.

        Look at ``error`` when the events are handled: where it is set, close the connection and
        resume on a new one.
        """
        self._now = now
        events: list[ClientEvent] = []
        if self.error is not None:
            return events
        if self._heartbeats is not None:
            self._heartbeats.heard_at = now
        decoder = self._decoder
        try:
            for push in decoder.feed(data):
                if push.seq_id:
                    self._handle_sequenced(push, events)
                else:
                    self._handle_unsequenced(push, events)
            if decoder.error:
                raise ProtocolError(decoder.error)
        except ProtocolError as error:
            self.error = error
        except DecodeError:
            self.error = ProtocolError("a push's payload does not decode")
        return events

    def _handle_sequenced(self, push: ServerPush, events: list[ClientEvent]) -> None:
        """Handle what has a server seq: a message, a SKIP, or a repeat of either."""
        seq = push.seq_id
        kind = push.type
        if not self.is_live:
            raise ProtocolError("a sequenced push before START_RESP")
        if seq <= self.seen:
            self.duplicates += 1
            return
        if kind == _SKIP:
            self._handle_skip(push, events)
            return
        if seq != self.seen + 1:
            # PROTOCOL 2.3: "anything else is a gap: close and resume".
            raise ProtocolError(f"gap: {self.seen} then {seq}")
        # Decoded first: what does not decode has not been seen.
        event = self._event(push)
        self.seen = seq
        self._acks.received_bytes += push.size
        events.append(event)

    def _event(self, push: ServerPush) -> ClientEvent:
        """Return what a sequenced push other than SKIP says."""
        seq = push.seq_id
        kind = push.type
        if kind == _BUSINESS_DATA:
            client_seq = self._answered_seq(push)
            code, message, data = push.business()
            if not client_seq:
                return Notify(seq, code, message, data, push.headers)
            request = self.pending.pop(client_seq, None)
            if request is None:
                return Ignored(seq, kind)
            if request.is_login and code == OK:
                self.is_logged_in = True
            took_s = self._now - request.sent_at
            self._usual_s += (took_s - self._usual_s) / (USUAL_SHARE if self._usual_s else 1)
            return Answered(client_seq, seq, code, message, data, push.headers)
        if kind == _ERROR:
            client_seq = self._answered_seq(push)
            failed = read_error(push, client_seq)
            return failed if self.pending.pop(client_seq, None) else Ignored(seq, kind)
        # PROTOCOL 1.5: "moves the client's position and is acked, its content ignored".
        return Ignored(seq, kind)

    def _handle_skip(self, push: ServerPush, events: list[ClientEvent]) -> None:
        skip = pb.Skip.FromString(push.payload)
        if skip.from_seq > self.seen + 1:
            raise ProtocolError(f"gap: {self.seen} then a SKIP from {skip.from_seq}")
        events.append(Lost(self.seen + 1, push.seq_id, read_lost_reason(skip.reason)))
        self.seen = push.seq_id

    def _handle_unsequenced(self, push: ServerPush, events: list[ClientEvent]) -> None:
        kind = push.type
        if kind == _START_RESP:
            self._handle_start_response(pb.StartResponse.FromString(push.payload), events)
        elif kind == _HEARTBEAT_RESP:
            answer = pb.HeartbeatResponse.FromString(push.payload)
            if self._heartbeats is not None:
                self._heartbeats.answered(push.msg_id)
            round_trip_s = max(0.0, self._now - answer.client_timestamp / 1000)
            events.append(HeartbeatAnswered(round_trip_s, answer.server_timestamp))
        elif kind == _ERROR:
            self._handle_unsequenced_error(push, events)
        elif kind == _GOAWAY:
            goaway = pb.GoAway.FromString(push.payload)
            events.append(GoAwayReceived(goaway.reason, goaway.reconnect_after_ms, goaway.address))
        elif kind == _KICK:
            kick = pb.Kick.FromString(push.payload)
            events.append(Kicked(kick.code, kick.reason))

    def _handle_unsequenced_error(self, push: ServerPush, events: list[ClientEvent]) -> None:
        """An ERROR that consumed no number: it names its request by msg_id."""
        client_seq = push.client_seq_id
        if client_seq not in self.pending:
            client_seq = next(
                (seq for seq, request in self.pending.items() if request.msg_id == push.msg_id), 0
            )
        self.pending.pop(client_seq, None)
        events.append(read_error(push, client_seq))

    # START_RESP.

    def _handle_start_response(self, response: pb.StartResponse, events: list[ClientEvent]) -> None:
        if self.is_live or not self._start_msg_id:
            raise ProtocolError("a START_RESP without a START")
        self._start_deadline = None
        if not response.success:
            self._handle_refused(response, events)
            return
        if (
            response.max_client_seq >= MAX_CLIENT_SEQ
            or len(response.session_id or response.connection_id) > MAX_SESSION_ID
            or len(response.resume_token) > MAX_TOKEN_BYTES
        ):
            # No request could be numbered, or no state read again.
            raise ProtocolError("a START_RESP out of bounds")
        if self.session_id and not response.resumed:
            self._lose_session(
                read_lost_reason(response.lost_reason) or LostReason.UNKNOWN_SESSION, events
            )
        self.is_live = True
        self.session_id = response.session_id or response.connection_id
        self.resume_token = response.resume_token
        self.attempt = 0
        self.protocol = response.protocol
        self.generation = response.generation
        self.heartbeat_interval = float(max(1, response.heartbeat_interval))
        self.max_in_flight = response.max_in_flight or self.max_in_flight
        self.max_request_bytes = response.max_message_bytes or self.max_request_bytes
        # The gateway knows the position that START carried; the application may be further by now.
        acked = self._acks.acked if response.resumed else 0
        self._acks = AckPacer(acked, response.max_unacked_messages, response.max_unacked_bytes)
        self._heartbeats = HeartbeatPacer(self.heartbeat_interval, self._now)
        self.is_logged_in = response.state == pb.SESSION_STATE_NORMAL
        self.is_state_due = True
        events.append(Started(self.session_id, response.resumed, self.is_logged_in, response))
        if response.replay_from > self.seen + 1:
            # The state this client came from is older than what it had acked.
            events.append(Lost(self.seen + 1, response.replay_from - 1, LostReason.NONE))
            self.seen = response.replay_from - 1
        self._send_again(response.max_client_seq, events)
        if self.is_stopped:
            self._send_stop()
        if self.position > self._acks.acked and self._acks.moved(self.position, self._now):
            self._send_ack()

    def _send_again(self, max_client_seq: int, events: list[ClientEvent]) -> None:
        """Send what the gateway has not accepted, and go on counting behind it (PROTOCOL 4.6)."""
        following = max_client_seq + 1
        for seq in sorted(self.pending):
            request = self.pending[seq]
            if seq <= max_client_seq and request.is_sent:
                continue
            if seq == following:
                following += 1
                self._send(seq, request)
            else:
                # What lay between is no longer held: nothing behind it can be accepted. Or it was
                # asked of a restored client, whose counter began below what the session has used.
                del self.pending[seq]
                events.append(
                    Failed(seq, 0, 0, "its number was skipped", "", 0, Outcome.NOT_STARTED)
                )
        self.next_client_seq = following

    def _handle_refused(self, response: pb.StartResponse, events: list[ClientEvent]) -> None:
        error = response.error
        lost = read_lost_reason(response.lost_reason)
        if error.error_code == ErrorCode.STALE_ATTEMPT:
            # PROTOCOL 4.3: try again above what the gateway has seen.
            self.attempt = max(self.attempt, response.attempt)
        elif lost and self.session_id:
            self._lose_session(lost, events)
        events.append(
            StartRefused(error.error_code, error.error_message, error.retry_after_ms, lost)
        )

    def closed(self, code: int) -> list[ClientEvent]:
        """Take note of the connection's close code; return what it means for the session.

        Codes that end the session or deny its resume fail what is pending (PROTOCOL 6).
        """
        self.is_live = False
        events: list[ClientEvent] = []
        reason = _ENDS.get(code)
        if reason is not None and self.session_id:
            self._lose_session(reason, events)
        return events

    # Frames out.

    def _send(self, seq: int, request: PendingRequest) -> None:
        request.sent_at = self._now
        self._output.append(request.frame(seq, self._ack_to_carry()))

    def _ack_to_carry(self) -> int:
        """Return the position to ack along with a request, 0 where the gateway knows it."""
        return self._take_ack() if self.protocol and self.carries_acks else 0

    def _send_ack(self) -> None:
        seq = self._take_ack()
        if seq:
            payload = pb.ClientAck(acked_seq_id=seq).SerializeToString()
            self._output.append(encode_request(0, 0, RequestType.ACK, payload))

    def _take_ack(self) -> int:
        seq = self._acks.take(self.position)
        if seq:
            self.is_state_due = True
        return seq

    def _send_stop(self) -> None:
        # The gateway tells its services what was not acknowledged as undelivered.
        self._send_ack()
        payload = pb.StopRequest(reason=self._stop_reason.value).SerializeToString()  # type: ignore[arg-type]
        self._output.append(encode_request(self._take_msg_id(), 0, RequestType.STOP, payload))


# What a close code says of the session; the codes that are not here leave it alone.
_ENDS: dict[int, LostReason] = {
    CloseCode.PROTOCOL_ERROR: LostReason.UNKNOWN_SESSION,
    CloseCode.AUTH_FAILED: LostReason.DENIED,
    CloseCode.RESUME_DENIED: LostReason.DENIED,
    CloseCode.KICKED: LostReason.KICKED,
    CloseCode.OPENID_BUSY: LostReason.DENIED,
}
