"""What the push API answers: small frozen values, the same over gRPC and inside a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._pb import upstream_pb2 as pb

__all__ = ["PushResult", "RegistryResult", "SessionInfo"]


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a push, a broadcast, a multicast or a kick.

    Attributes:
        success: Whether it was done; a broadcast that nobody was there for was.
        sessions: How many sessions took it.
        error_code: Why it was not done: NOT_FOUND, AMBIGUOUS, NO_SUCH_REQUEST, TOO_LATE, BUSY,
            TOO_LARGE or INVALID (docs/protocol.md); empty on success.
        message: The same in words.
        retry_after_ms: When trying again may help, with BUSY.
    """

    success: bool
    sessions: int = 0
    error_code: str = ""
    message: str = ""
    retry_after_ms: int = 0

    @classmethod
    def of_push(cls, answer: pb.UnicastPushResponse) -> PushResult:
        """Return what the gateway answered to a push or a kick."""
        return cls(
            answer.success,
            answer.sessions,
            answer.error_code,
            answer.message,
            answer.retry_after_ms,
        )

    @classmethod
    def of_bulk(cls, answer: pb.BroadcastResponse) -> PushResult:
        """Return what the gateway answered to a broadcast or a multicast."""
        # Older gateways say no error_code, and a message in case of failure only.
        is_refused = bool(answer.error_code or answer.message)
        return cls(not is_refused, answer.sent_count, answer.error_code, answer.message)


@dataclass(frozen=True, slots=True)
class RegistryResult:
    """What a registration came to.

    Attributes:
        success: Whether it was done.
        message: What was done or why not.
        error_code: INVALID, BUSY or NOT_FOUND; empty on success.
        lease_id: Names the endpoint in keep_alive() and deregister().
    """

    success: bool
    message: str = ""
    error_code: str = ""
    lease_id: str = ""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session and its queue, as they were when the gateway was asked.

    Attributes:
        session_id: Its name.
        connection: The client's address, empty while it has no connection.
        stream_id: The client's QUIC stream: always 0, the only one that it speaks on.
        state: ``Inited``, ``Normal``, ``Suspended`` or ``Closed``.
        client_id: The client's own name, text from outside.
        openid: The user; before login what the client claims.
        zone: The user's zone, empty for none.
        user_ip: Where the client was seen last.
        next_server_seq: The number that its next message gets.
        max_client_seq: The highest request number accepted.
        client_ack_server_seq: The highest message number that the client has acknowledged.
        create_time_ms: When START made it, ms since the epoch.
        last_activity_ms: When a request, a heartbeat or an acknowledgement came last.
        generation: Of its connections, from 1.
        in_flight: Requests accepted and not answered.
        protocol: The protocol's version, 0 for base clients.
        connection_id: The connection's number in the gateway's log, 0 while it has none.
        max_queue_size: The queue's cap, messages.
        max_queue_bytes: The queue's cap, bytes.
        next_expected_seq: The number that the queue gives out next.
        last_sent_seq: The highest number handed to a connection.
        last_acked_seq: The highest number acknowledged.
        waiting_slots: Answers that wait for one before them.
        queued_messages: Messages not acknowledged.
        queued_bytes: Bytes of them.
        stopped: Whether the queue takes no more.
        open_slots: Slots of answers that keep the order of asking, not yet released.
        unsent_messages: Messages not yet handed to the connection.
        queue_sums: The queue's sums by name: appended, filled, released, taken, taken_bytes, acked,
            replayed, expired, dropped, conflated, refused, skips.
        before_notifies: Notifies bound to a request in flight, to go before its answer.
        after_notifies: The same, to go behind it.
        held_notifies: Notifies that wait for the login.
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

    @classmethod
    def of(cls, message: pb.SessionInfo) -> SessionInfo:
        """Return the gateway's message about an existing session as a value of its own."""
        values = {name: getattr(message, name) for name in _SESSION_FIELDS}
        values["queue_sums"] = dict(message.queue_sums)
        return cls(**values)


_SESSION_FIELDS = tuple(field.name for field in fields(SessionInfo))
