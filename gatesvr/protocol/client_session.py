"""ClientSession: a session as its client knows it, from one connection to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .._pb import message_pb2 as pb
from ..errors import ErrorCode, ProtocolError
from .events import (
    Answered,
    ClientEvent,
    Failed,
    Ignored,
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
    MAX_CLIENT_SEQ,
    OK,
    LostReason,
    Outcome,
    PushType,
)
from .pacing import USUAL_SHARE
from .pending import PendingRequest
from .saved import SavedState

if TYPE_CHECKING:
    from .._core.codec import ServerPush

__all__ = ["ClientSession"]

MAX_ATTEMPT = 0xFFFF_FFFF
"""Largest attempt the field holds; if the gateway has seen it, only a new session helps."""
MAX_SESSION_ID = 128
"""Longest session id accepted from a gateway, characters."""
MAX_TOKEN_BYTES = 64
"""Longest resume token accepted from a gateway."""
MAX_LOGIN_BYTES = 64 << 10
"""Largest frame before login (PROTOCOL 1.3)."""

# Plain ints: an enum member lookup costs as much as a whole call on Python 3.11.
_BUSINESS_DATA = int(PushType.BUSINESS_DATA)
_ERROR = int(PushType.ERROR)


class ClientSession:
    """Everything that outlives a client's connections: identity, counters, open requests.

    A ClientProtocol is one connection of the session: it sends and receives, and keeps the results
    here. One connection uses the session at a time.

    Args:
        openid: The user.
        client_id: The client's own name.
        auth_token: Sent in every START.
        max_message_bytes: Largest frame accepted.
        protocol: 0 to speak base.
        capabilities: See messages.

    Attributes:
        session_id: Empty before the first START_RESP.
        resume_token: Token of that session; never log it.
        attempt: Tries with that token.
        position: Highest server seq that the application has.
        seen: Highest server seq received.
        next_client_seq: Number of the next request.
        pending: Unanswered requests, by number.
        protocol: Protocol number in use.
        is_logged_in: Whether the session is logged in, as far as the client knows.
        is_stopped: Whether the client has ended the session.
        is_state_due: Whether state() must be stored before the next bytes are sent.
        generation: Number of the connection within the session.
        duplicates: Pushes dropped because they had been received before.
        carries_acks: Whether requests and heartbeats carry the ack too. Switch it off if the state
            is stored before each ack: then several answers need one ack and one store.
        heartbeat_interval: Seconds.
        max_in_flight: Unanswered requests that the gateway allows at a time.
        max_request_bytes: Largest frame that the gateway accepts after login.
        auth_token: Sent in the next START.
        auth_expires_at: Seconds since the epoch when the credentials expire, 0 for never.
        usual_s: Typical time of an answer, seconds; 0 before the first.
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
        self.openid = openid
        self.client_id = client_id
        self.max_message_bytes = max_message_bytes
        self.auth_token = auth_token
        self._protocol = protocol
        self._capabilities = capabilities

        self.session_id = ""
        self.resume_token = b""
        self.attempt = 0
        self.position = 0
        self.seen = 0
        self.next_client_seq = 1
        self.pending: dict[int, PendingRequest] = {}
        self.protocol = protocol
        self.is_logged_in = False
        self.is_stopped = False
        self.is_state_due = False
        self.generation = 0
        self.duplicates = 0
        self.carries_acks = True
        self.usual_s = 0.0
        self.auth_expires_at = 0.0
        self._next_msg_id = 1

        # Announced by the gateway.
        self.heartbeat_interval = 15.0
        self.max_in_flight = 128
        self.max_request_bytes = 1 << 20

    # Stored state.

    def state(self, position: int | None = None) -> bytes:
        """Return the state that from_state() restores after a restart. It holds a secret.

        After stop() it names no session, because there is none to resume.

        Args:
            position: What the application has, if that is less than what was acknowledged.
        """
        has_session = bool(self.session_id) and not self.is_stopped
        if position is None:
            position = self.position
        return SavedState(
            self.openid,
            self.client_id,
            self.session_id if has_session else "",
            self.resume_token if has_session else b"",
            self.attempt if has_session else 0,
            position if has_session else 0,
        ).encode()

    @classmethod
    def from_state(
        cls,
        state: bytes,
        *,
        auth_token: str = "",
        max_message_bytes: int = 1 << 20,
    ) -> ClientSession:
        """Return the session that state() described; the next connection resumes it.

        Raises:
            ValueError: State was not made by state().
        """
        saved = SavedState.decode(state)
        session = cls(
            saved.openid,
            client_id=saved.client_id,
            auth_token=auth_token,
            max_message_bytes=max_message_bytes,
        )
        session.session_id = saved.session_id
        session.resume_token = saved.resume_token
        session.attempt = saved.attempt
        session.position = session.seen = saved.position
        return session

    # START and its answer.

    def start_request(self) -> pb.StartRequest:
        """Return the START of a new session, or of the next try to resume this one."""
        start = pb.StartRequest(
            openid=self.openid,
            client_id=self.client_id,
            auth_token=self.auth_token,
            last_acked_seq_id=self.position,
            protocol=self._protocol,
            capabilities=self._capabilities,
            max_message_bytes=self.max_message_bytes,
        )
        if self.session_id:
            # PROTOCOL 4.3: "attempt counts the client's tries with one token, from 1."
            self.attempt = min(self.attempt + 1, MAX_ATTEMPT)
            self.is_state_due = True
            start.session_id = self.session_id
            start.resume_token = self.resume_token
            start.attempt = self.attempt
        return start

    def started(self, response: pb.StartResponse, events: list[ClientEvent]) -> None:
        """Begin or resume the session as a successful START_RESP says; add the events.

        Raises:
            ProtocolError: A value is out of bounds.
        """
        if (
            response.max_client_seq >= MAX_CLIENT_SEQ
            or len(response.session_id or response.connection_id) > MAX_SESSION_ID
            or len(response.resume_token) > MAX_TOKEN_BYTES
        ):
            # No request could be numbered, or the stored state could not be read back.
            raise ProtocolError("a START_RESP out of bounds")
        if self.session_id and not response.resumed:
            reason = read_lost_reason(response.lost_reason) or LostReason.UNKNOWN_SESSION
            self.lose(reason, events)
        self.session_id = response.session_id or response.connection_id
        self.resume_token = response.resume_token
        self.attempt = 0
        self.protocol = response.protocol
        self.generation = response.generation
        self.auth_expires_at = response.auth_expires_at_ms / 1000
        self.heartbeat_interval = float(max(1, response.heartbeat_interval))
        self.max_in_flight = response.max_in_flight or self.max_in_flight
        self.max_request_bytes = response.max_message_bytes or self.max_request_bytes
        self.is_logged_in = response.state == pb.SESSION_STATE_NORMAL
        self.is_state_due = True
        events.append(Started(self.session_id, response.resumed, self.is_logged_in, response))
        if response.replay_from > self.seen + 1:
            # This client was restored from a state older than its last ack.
            events.append(Lost(self.seen + 1, response.replay_from - 1, LostReason.NONE))
            self.seen = response.replay_from - 1

    def refused(self, response: pb.StartResponse, events: list[ClientEvent]) -> None:
        """Apply a START_RESP that refuses the session; add the events."""
        error = response.error
        lost = read_lost_reason(response.lost_reason)
        if error.error_code == ErrorCode.STALE_ATTEMPT:
            # PROTOCOL 4.3: try again above what the gateway has seen.
            self.attempt = max(self.attempt, response.attempt)
        elif lost and self.session_id:
            self.lose(lost, events)
        events.append(
            StartRefused(error.error_code, error.error_message, error.retry_after_ms, lost)
        )

    # Requests.

    def add_request(
        self,
        action: str,
        data: bytes,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> int:
        """Number a request and keep it until it is answered; return its client seq.

        Raises:
            ValueError: The request exceeds the gateway's limit, which would end the session.
        """
        request = PendingRequest(self.take_msg_id(), action, data, params, headers)
        limit = self.max_request_bytes
        if not self.is_logged_in:
            limit = min(limit, MAX_LOGIN_BYTES)
        size = request.max_size
        if size > limit:
            raise ValueError(f"a request of {size} bytes is above the gateway's limit of {limit}")
        seq = self.next_client_seq
        self.next_client_seq = seq + 1
        self.pending[seq] = request
        return seq

    def take_msg_id(self) -> int:
        """Return the next msg_id; 0 is skipped when the 32 bits wrap."""
        msg_id = self._next_msg_id
        self._next_msg_id = msg_id + 1 if msg_id < 0xFFFF_FFFF else 1
        return msg_id

    # Sequenced pushes.

    def receive(self, push: ServerPush, now: float) -> ClientEvent:
        """Return the event of the next sequenced push, which is not a SKIP.

        Raises:
            ProtocolError: Its seq does not follow the last one.
        """
        seq = push.seq_id
        if seq != self.seen + 1:
            # PROTOCOL 2.3: "anything else is a gap: close and resume".
            raise ProtocolError(f"gap: {self.seen} then {seq}")
        # Decode first: a push that does not decode has not been seen.
        event = self._event(push, now)
        self.seen = seq
        return event

    def skip(self, push: ServerPush) -> Lost:
        """Return the loss that a SKIP announces, from the first message not seen."""
        skip = pb.Skip.FromString(push.payload)
        if skip.from_seq > self.seen + 1:
            raise ProtocolError(f"gap: {self.seen} then a SKIP from {skip.from_seq}")
        lost = Lost(self.seen + 1, push.seq_id, read_lost_reason(skip.reason))
        self.seen = push.seq_id
        return lost

    def _event(self, push: ServerPush, now: float) -> ClientEvent:
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
            took_s = now - request.sent_at
            self.usual_s += (took_s - self.usual_s) / (USUAL_SHARE if self.usual_s else 1)
            return Answered(client_seq, seq, code, message, data, push.headers)
        if kind == _ERROR:
            client_seq = self._answered_seq(push)
            failed = read_error(push, client_seq)
            return failed if self.pending.pop(client_seq, None) else Ignored(seq, kind)
        # PROTOCOL 1.5: "moves the client's position and is acked, its content ignored".
        return Ignored(seq, kind)

    def _answered_seq(self, push: ServerPush) -> int:
        """Return the client seq of the request that a push answers, 0 for none."""
        seq: int = push.client_seq_id
        if seq or self.protocol or not push.msg_id:
            return seq
        # A base gateway names only the msg_id.
        return self._seq_of(push.msg_id)

    def fail(self, push: ServerPush) -> Failed:
        """Return the failure that an unsequenced ERROR reports; it names its request by msg_id."""
        client_seq = push.client_seq_id
        if client_seq not in self.pending:
            client_seq = self._seq_of(push.msg_id)
        self.pending.pop(client_seq, None)
        return read_error(push, client_seq)

    def _seq_of(self, msg_id: int) -> int:
        """Return the client seq of the pending request with a msg_id, 0 for none."""
        for client_seq, request in self.pending.items():
            if request.msg_id == msg_id:
                return client_seq
        return 0

    # The end.

    def lose(self, reason: LostReason, events: list[ClientEvent]) -> None:
        """Fail the pending requests and forget the session (PROTOCOL 4.7)."""
        events.append(SessionReset(self.session_id, reason, self.position))
        for seq, request in self.pending.items():
            outcome = Outcome.UNKNOWN if request.is_sent else Outcome.NOT_STARTED
            events.append(Failed(seq, 0, 0, "session lost", "", 0, outcome))
        self.forget_session()

    def abandon(self) -> list[ClientEvent]:
        """Forget the session, so that the next connection starts a new one; return the events."""
        events: list[ClientEvent] = []
        if self.session_id:
            self.lose(LostReason.NONE, events)
        return events

    def forget_session(self) -> None:
        """Start again without a session; pending requests are dropped without an event."""
        self.pending.clear()
        self.session_id = ""
        self.resume_token = b""
        self.attempt = 0
        self.position = 0
        self.seen = 0
        self.next_client_seq = 1
        self.is_logged_in = False
