"""Results of the push API: small frozen values, the same over gRPC and inside a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._pb import upstream_pb2 as pb

__all__ = ["PushResult", "RegistryResult", "SessionInfo"]


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of a push, a broadcast, a multicast or a kick.

    Attributes:
        success: Whether it was done; a broadcast that found no session counts as done.
        sessions: How many sessions took it.
        error_code: Why it was not done: NOT_FOUND, AMBIGUOUS, NO_SUCH_REQUEST, TOO_LATE, BUSY,
            TOO_LARGE, INVALID or UNKNOWN (docs/protocol.md); empty on success.
        message: The reason in words.
        retry_after_ms: With BUSY: when to try again.

    UNKNOWN, which only a gateway of several processes says: it may have been done, for some of the
    sessions or all. Repeat a push only under the same push_id, which each session takes once; one
    without a push_id may arrive twice. A kick may always be repeated.
    """

    success: bool
    sessions: int = 0
    error_code: str = ""
    message: str = ""
    retry_after_ms: int = 0

    @property
    def is_unknown(self) -> bool:
        """Whether it may have been done or not."""
        return self.error_code == "UNKNOWN"

    @classmethod
    def of_push(cls, answer: pb.UnicastPushResponse) -> PushResult:
        """Return the gateway's answer to a push or a kick."""
        return cls(
            answer.success,
            answer.sessions,
            answer.error_code,
            answer.message,
            answer.retry_after_ms,
        )

    @classmethod
    def of_bulk(cls, answer: pb.BroadcastResponse) -> PushResult:
        """Return the gateway's answer to a broadcast or a multicast."""
        # Older gateways send no error_code, and a message only on failure.
        is_refused = bool(answer.error_code or answer.message)
        return cls(not is_refused, answer.sent_count, answer.error_code, answer.message)


@dataclass(frozen=True, slots=True)
class RegistryResult:
    """The result of a registration, or of a change to one.

    Attributes:
        success: Whether it was done.
        message: The reason for a failure, or the action taken.
        error_code: INVALID, BUSY or NOT_FOUND; empty on success.
        lease_id: The endpoint's key for keep_alive() and deregister().
    """

    success: bool
    message: str = ""
    error_code: str = ""
    lease_id: str = ""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session and its queue at the time of the request.

    Attributes:
        session_id: The session's id.
        connection: The client's address, empty while it has no connection.
        stream_id: The client's QUIC stream: always 0, the only one that it speaks on.
        state: ``Inited``, ``Normal``, ``Suspended`` or ``Closed``.
        client_id: The client's name for itself; untrusted text.
        openid: The user; before login, the user that the client claims to be.
        zone: The user's zone, empty for none.
        user_ip: The client's last known ip address.
        next_server_seq: The number of its next message.
        max_client_seq: The highest request number accepted.
        client_ack_server_seq: The highest message number that the client has acknowledged.
        create_time_ms: When START made it, ms since the epoch.
        last_activity_ms: Time of the last request, heartbeat or acknowledgement, ms since the
            epoch.
        generation: The number of its current connection, from 1.
        in_flight: Requests accepted and not answered.
        protocol: The protocol's version, 0 for base clients.
        connection_id: The connection's number in the gateway's log, 0 while it has none.
        max_queue_size: The queue's cap, messages.
        max_queue_bytes: The queue's cap, bytes.
        next_expected_seq: The next number that the queue assigns.
        last_sent_seq: The highest number handed to a connection.
        last_acked_seq: The highest number acknowledged.
        waiting_slots: Answers that are ready and wait for an earlier one.
        queued_messages: Messages not acknowledged.
        queued_bytes: Their bytes.
        stopped: Whether the queue accepts no more messages.
        open_slots: Slots of answers that keep the order of asking, not yet released.
        unsent_messages: Messages not yet handed to the connection.
        queue_sums: The queue's sums by name: appended, filled, released, taken, taken_bytes, acked,
            replayed, expired, dropped, conflated, refused, skips.
        before_notifies: Notifies bound to a request in flight that go before its answer.
        after_notifies: Notifies bound to a request in flight that go after its answer.
        held_notifies: Notifies that wait for the login.
        transport: How the client's last connection came: ``quic``, ``webtransport`` or
            ``websocket``.
    """

    session_id: str
    connection: str
    stream_id: int
    state: str
    client_id: str
    openid: str
    zone: str
    user_ip: str
    next_server_seq: int
    max_client_seq: int
    client_ack_server_seq: int
    create_time_ms: int
    last_activity_ms: int
    generation: int
    in_flight: int
    protocol: int
    connection_id: int
    max_queue_size: int
    max_queue_bytes: int
    next_expected_seq: int
    last_sent_seq: int
    last_acked_seq: int
    waiting_slots: int
    queued_messages: int
    queued_bytes: int
    stopped: bool
    open_slots: int
    unsent_messages: int
    queue_sums: Mapping[str, int]
    before_notifies: int
    after_notifies: int
    held_notifies: int
    transport: str

    @classmethod
    def of(cls, message: pb.SessionInfo) -> SessionInfo:
        """Return the gateway's description of a session."""
        values = {name: getattr(message, name) for name in _SESSION_FIELDS}
        values["queue_sums"] = dict(message.queue_sums)
        return cls(**values)


_SESSION_FIELDS = tuple(field.name for field in fields(SessionInfo))
