"""ClientSession: what a client's session is between two connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from .._pb import message_pb2 as pb
from .events import ClientEvent, Failed, SessionReset
from .messages import CAPABILITIES, LATEST_PROTOCOL, LostReason, Outcome
from .pending import PendingRequest
from .saved import SavedState

if TYPE_CHECKING:
    from .._core.codec import ServerPush

__all__ = ["ClientSession"]

MAX_ATTEMPT = 0xFFFF_FFFF
"""What the field holds; a gateway that has seen it can only be left for a new session."""


class ClientSession:
    """What outlives a client's connections; ClientProtocol adds the one that there is now.

    Args:
        openid: The user.
        client_id: The client's own name.
        auth_token: Sent on every START.
        max_message_bytes: The largest frame taken.
        protocol: 0 to speak base.
        capabilities: See messages.

    Attributes:
        session_id: Empty before the first START_RESP.
        resume_token: Of that session; never log it.
        attempt: Tries with that token.
        position: The highest server seq that the application has.
        seen: The highest server seq received.
        next_client_seq: The number of the next request.
        pending: Requests without an answer, by number.
        protocol: The protocol number that is spoken.
        is_logged_in: Whether the session is logged in, as far as is known here.
        is_stopped: Whether it was told to end.
        is_state_due: Whether something is about to be sent that state() is to be stored before.
        generation: The connection's number in the session.
        duplicates: Pushes dropped because they had been received before.
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
        self._auth_token = auth_token
        self._max_message_bytes = max_message_bytes
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
        self._next_msg_id = 1

    # What is kept on disk.

    def state(self, position: int | None = None) -> bytes:
        """Return what a restarted client goes on from, for from_state(). It holds a secret.

        After stop() it names no session: there is none to go on with.

        Args:
            position: What the application has where that is less than what was acknowledged.
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
    ) -> Self:
        """Return the protocol that state() described; connect() resumes its session.

        Raises:
            ValueError: State is none of ours.
        """
        saved = SavedState.decode(state)
        protocol = cls(
            saved.openid,
            client_id=saved.client_id,
            auth_token=auth_token,
            max_message_bytes=max_message_bytes,
        )
        protocol.session_id = saved.session_id
        protocol.resume_token = saved.resume_token
        protocol.attempt = saved.attempt
        protocol.position = protocol.seen = saved.position
        return protocol

    def _start_request(self) -> pb.StartRequest:
        """Return the START of a new session, or the next try to resume this one."""
        start = pb.StartRequest(
            openid=self.openid,
            client_id=self.client_id,
            auth_token=self._auth_token,
            last_acked_seq_id=self.position,
            protocol=self._protocol,
            capabilities=self._capabilities,
            max_message_bytes=self._max_message_bytes,
        )
        if self.session_id:
            # PROTOCOL 4.3: "attempt counts the client's tries with one token, from 1."
            self.attempt = min(self.attempt + 1, MAX_ATTEMPT)
            self.is_state_due = True
            start.session_id = self.session_id
            start.resume_token = self.resume_token
            start.attempt = self.attempt
        return start

    # Requests.

    def _answered_seq(self, push: ServerPush) -> int:
        """Return the client seq of the request that a push answers, 0 for none."""
        seq: int = push.client_seq_id
        if seq or self.protocol or not push.msg_id:
            return seq
        # A base gateway names only the msg_id.
        for client_seq, request in self.pending.items():
            if request.msg_id == push.msg_id:
                return client_seq
        return 0

    def _take_msg_id(self) -> int:
        msg_id = self._next_msg_id
        self._next_msg_id = msg_id + 1 if msg_id < 0xFFFF_FFFF else 1
        return msg_id

    # The end.

    def _lose_session(self, reason: LostReason, events: list[ClientEvent]) -> None:
        """Fail what was asked, and forget the session (PROTOCOL 4.7)."""
        events.append(SessionReset(self.session_id, reason, self.position))
        for seq, request in self.pending.items():
            outcome = Outcome.UNKNOWN if request.is_sent else Outcome.NOT_STARTED
            events.append(Failed(seq, 0, 0, "session lost", "", 0, outcome))
        self.forget_session()

    def abandon(self) -> list[ClientEvent]:
        """Have the next connect() start a new session; return what that means for this one."""
        events: list[ClientEvent] = []
        if self.session_id:
            self._lose_session(LostReason.NONE, events)
        return events

    def forget_session(self) -> None:
        """Have the next connect() start a new session; what is pending is dropped unanswered."""
        self.pending.clear()
        self.session_id = ""
        self.resume_token = b""
        self.attempt = 0
        self.position = 0
        self.seen = 0
        self.next_client_seq = 1
        self.is_logged_in = False
