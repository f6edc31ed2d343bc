"""ClientProtocol: the client's side of one connection, without I/O.

A ClientSession outlives its connections; each of them is one ClientProtocol::

    session = ClientSession("ann")
    protocol = ClientProtocol(session)
    protocol.connect(now)                   # a connection is up: START is queued
    write(protocol.data_to_send())
    for event in protocol.receive_data(data, now): ...
    protocol.acknowledge(event.seq)         # the application has it
    write(protocol.data_to_send())          # after every call above
    if protocol.error is not None: ...      # close the connection and resume on a new one

When the connection is gone, make another ClientProtocol for the same session: connect() resumes it
from the position that the application has reached, and sends again what the gateway has not
accepted (PROTOCOL 4.6). A client that survives restarts follows one rule::

    if session.is_state_due: store(session.state())       # before each data_to_send()

The states of a connection: before START_RESP requests wait in the session. Then is_live is set and
they are sent. After leave() new requests wait for the next connection; close this one when is_left
is set. After an ``error``, nothing more is decoded. is_silent tells the caller to give up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from .._core.codec import PushDecoder, encode_request
from .._pb import message_pb2 as pb
from ..errors import CloseCode, ProtocolError
from .client_session import ClientSession
from .events import AuthAnswered, ClientEvent, Failed, GoAwayReceived, HeartbeatAnswered, Kicked
from .messages import LOGIN_ACTION, LostReason, Outcome, PushType, RequestType, StopReason
from .pacing import AckPacer, HeartbeatPacer
from .pending import PendingRequest

if TYPE_CHECKING:
    from .._core.codec import ServerPush

__all__ = ["LEAVE_TIMEOUT_S", "ClientProtocol"]

START_TIMEOUT_S = 10.0
"""Longest wait for START_RESP (PROTOCOL 3.8)."""
LEAVE_TIMEOUT_S = 30.0
"""Longest wait for answers before leaving a connection on GOAWAY: a request's deadline (3.7)."""

# Plain ints: an enum member lookup costs as much as a whole call on Python 3.11.
_GOAWAY = int(PushType.GOAWAY)
_ERROR = int(PushType.ERROR)
_HEARTBEAT_RESP = int(PushType.HEARTBEAT_RESP)
_KICK = int(PushType.KICK)
_AUTH_RESP = int(PushType.AUTH_RESP)
_SKIP = int(PushType.SKIP)
_START_RESP = int(PushType.START_RESP)


class ClientProtocol:
    """One connection of a client's session.

    Args:
        session: The session to start or resume. Between connections the last ClientProtocol, or
            one not connected yet, takes requests and keeps them in the session.

    Attributes:
        session: The session.
        is_live: Whether START has been answered with success.
        is_silent: Whether the gateway has been silent for too long; give the connection up.
        is_leaving: Whether leave() was called: new requests wait for the next connection.
        error: The protocol error the gateway made on this connection, or None.
    """

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self.error: ProtocolError | None = None
        self.is_live = False
        self.is_silent = False
        self.is_leaving = False
        self._decoder = PushDecoder(session.max_message_bytes)
        self._output: list[bytes] = []
        self._leave_at: float | None = None
        self._stop_reason = StopReason.UNKNOWN
        self._start_msg_id = 0
        self._now = 0.0
        self._start_deadline: float | None = None
        self._acks = AckPacer(session.position)
        self._heartbeats: HeartbeatPacer | None = None

    # Calls.

    def connect(self, now: float | None = None) -> None:
        """Begin: queue START. Called once, when the connection is up.

        Args:
            now: Loop time; starts the deadline for START_RESP if given.
        """
        session = self.session
        session.is_stopped = False
        self._acks = AckPacer(session.position)
        start = session.start_request()
        if now is not None:
            self._now = now
            self._start_deadline = now + START_TIMEOUT_S
        self._start_msg_id = session.take_msg_id()
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
        """Send a request, or keep it until the session is started; return its client seq.

        Raises:
            ValueError: The request exceeds the gateway's limit, which would end the session.
        """
        if now is not None:
            self._now = now
        session = self.session
        seq = session.add_request(action, data, params, headers)
        if self.is_live and not self.is_leaving:
            self._send(seq, session.pending[seq])
        return seq

    @property
    def is_ready(self) -> bool:
        """Whether a request would be sent at once."""
        return self.is_live and not self.is_leaving

    def acknowledge(self, seq: int, now: float | None = None) -> None:
        """Record that the application has everything up to seq; an older seq does nothing.

        Args:
            seq: The seq of an event.
            now: Loop time; without it, the time of the previous call.
        """
        if now is not None:
            self._now = now
        session = self.session
        if seq <= session.position:
            return
        session.position = seq
        if self.is_live and self._acks.moved(seq, self._now):
            self.send_ack()

    def stop(self, reason: StopReason = StopReason.APP_CLOSE) -> None:
        """End the session: queue STOP. The gateway closes; wait up to 1 s for it (PROTOCOL 3.9).

        If START is unanswered, STOP waits for the answer.
        """
        self.session.is_stopped = True
        self.session.is_state_due = True
        self._stop_reason = reason
        if self.is_live:
            self._send_stop()

    def renew(self, token: str) -> None:
        """Queue AUTH with a new token; AuthAnswered follows (PROTOCOL 3.10)."""
        self.session.auth_token = token
        payload = pb.AuthRequest(auth_token=token).SerializeToString()
        msg_id = self.session.take_msg_id()
        self._output.append(encode_request(msg_id, 0, RequestType.AUTH, payload))

    def leave(self, now: float, within: float = 0.0) -> None:
        """Stop sending requests here, to resume on another connection as GOAWAY asks.

        Once is_left is set, call send_ack(), write, and close the connection.

        Args:
            now: Loop time.
            within: Longest wait for the answers to what was sent, seconds.
        """
        self.is_leaving = True
        self._now = now
        self._leave_at = now + within

    @property
    def is_left(self) -> bool:
        """Whether to close the connection: every sent request is answered, or time is up.

        Never before START_RESP, so that a resume in progress is not abandoned.
        """
        return (
            self._leave_at is not None
            and self.is_live
            and (
                self._now >= self._leave_at
                or not any(request.is_sent for request in self.session.pending.values())
            )
        )

    def send_ack(self) -> None:
        """Queue an ack of the position, unless the gateway knows it."""
        seq = self._take_ack()
        if seq:
            payload = pb.ClientAck(acked_seq_id=seq).SerializeToString()
            self._output.append(encode_request(0, 0, RequestType.ACK, payload))

    def data_to_send(self) -> bytes:
        """Return the stream bytes to write now, b"" for none; store the state before."""
        self.session.is_state_due = False
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def closed(self, code: int) -> list[ClientEvent]:
        """End the connection with its close code; return the events for the session.

        Codes that end the session or deny its resume fail the pending requests (PROTOCOL 6).
        """
        self.is_live = False
        events: list[ClientEvent] = []
        reason = _ENDS.get(code)
        if reason is not None and self.session.session_id:
            self.session.lose(reason, events)
        return events

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
        """Send a due ack or heartbeat, or set is_silent. May be called early."""
        self._now = now
        if self._acks.due_at is not None and now >= self._acks.due_at:
            self.send_ack()
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
            msg_id = self.session.take_msg_id()
            heartbeats.sent(msg_id, now)
            payload = pb.HeartbeatRequest(client_timestamp=int(now * 1000)).SerializeToString()
            ack = self._ack_to_carry()
            self._output.append(
                encode_request(msg_id, 0, RequestType.HEARTBEAT, payload, None, ack)
            )

    def _heartbeat_at(self) -> float:
        """Return the loop time of the next heartbeat."""
        heartbeats = self._heartbeats
        assert heartbeats is not None
        oldest = next(iter(self.session.pending.values()), None)
        if oldest is None or not oldest.is_sent:
            return heartbeats.due_at
        return heartbeats.next_at(oldest.sent_at, self.session.usual_s)

    # Pushes in.

    def receive_data(self, data: bytes, now: float) -> list[ClientEvent]:
        """Take stream bytes in; return their events, in order.

        Look at ``error`` after handling the events: if it is set, close the connection and resume
        on a new one.
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
        """Handle a push with a server seq: a message, a SKIP, or a repeat of either."""
        session = self.session
        if not self.is_live:
            raise ProtocolError("a sequenced push before START_RESP")
        if push.seq_id <= session.seen:
            session.duplicates += 1
        elif push.type == _SKIP:
            events.append(session.skip(push))
        else:
            events.append(session.receive(push, self._now))
            self._acks.received_bytes += push.size

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
            events.append(self.session.fail(push))
        elif kind == _GOAWAY:
            goaway = pb.GoAway.FromString(push.payload)
            events.append(GoAwayReceived(goaway.reason, goaway.reconnect_after_ms, goaway.address))
        elif kind == _AUTH_RESP:
            self._handle_auth_response(pb.AuthResponse.FromString(push.payload), events)
        elif kind == _KICK:
            kick = pb.Kick.FromString(push.payload)
            events.append(Kicked(kick.code, kick.reason))

    def _handle_auth_response(self, answer: pb.AuthResponse, events: list[ClientEvent]) -> None:
        if answer.success:
            self.session.auth_expires_at = answer.expires_at_ms / 1000
            events.append(AuthAnswered(0, ""))
        else:
            error = answer.error
            events.append(AuthAnswered(error.error_code or 401, error.error_message))

    # START_RESP.

    def _handle_start_response(self, response: pb.StartResponse, events: list[ClientEvent]) -> None:
        if self.is_live or not self._start_msg_id:
            raise ProtocolError("a START_RESP without a START")
        self._start_deadline = None
        session = self.session
        if not response.success:
            session.refused(response, events)
            return
        session.started(response, events)
        self.is_live = True
        # The gateway knows the position in START; the application may be further by now.
        acked = self._acks.acked if response.resumed else 0
        self._acks = AckPacer(acked, response.max_unacked_messages, response.max_unacked_bytes)
        self._heartbeats = HeartbeatPacer(session.heartbeat_interval, self._now)
        self._send_again(response.max_client_seq, events)
        if session.is_stopped:
            self._send_stop()
        if session.position > self._acks.acked and self._acks.moved(session.position, self._now):
            self.send_ack()

    def _send_again(self, max_client_seq: int, events: list[ClientEvent]) -> None:
        """Send what the gateway has not accepted, and continue its numbering (PROTOCOL 4.6)."""
        following = max_client_seq + 1
        pending = self.session.pending
        for seq in sorted(pending):
            request = pending[seq]
            if seq <= max_client_seq and request.is_sent:
                continue
            if seq == following:
                following += 1
                self._send(seq, request)
            else:
                # An earlier number is no longer held, so the gateway would accept nothing after it.
                # Or a restored client, whose counter starts too low, reused a number.
                del pending[seq]
                events.append(
                    Failed(seq, 0, 0, "its number was skipped", "", 0, Outcome.NOT_STARTED)
                )
        self.session.next_client_seq = following

    # Frames out.

    def _send(self, seq: int, request: PendingRequest) -> None:
        request.sent_at = self._now
        self._output.append(request.frame(seq, self._ack_to_carry()))

    def _ack_to_carry(self) -> int:
        """Return the position to ack with a request, 0 if the gateway knows it."""
        session = self.session
        return self._take_ack() if session.protocol and session.carries_acks else 0

    def _take_ack(self) -> int:
        seq = self._acks.take(self.session.position)
        if seq:
            self.session.is_state_due = True
        return seq

    def _send_stop(self) -> None:
        # The gateway reports unacknowledged messages to its services as undelivered.
        self.send_ack()
        payload = pb.StopRequest(reason=self._stop_reason.value).SerializeToString()  # type: ignore[arg-type]
        msg_id = self.session.take_msg_id()
        self._output.append(encode_request(msg_id, 0, RequestType.STOP, payload))


# Close codes that end the session, and why; the other codes leave it alone.
_ENDS: dict[int, LostReason] = {
    CloseCode.PROTOCOL_ERROR: LostReason.UNKNOWN_SESSION,
    CloseCode.AUTH_FAILED: LostReason.DENIED,
    CloseCode.RESUME_DENIED: LostReason.DENIED,
    CloseCode.KICKED: LostReason.KICKED,
    CloseCode.OPENID_BUSY: LostReason.DENIED,
}
