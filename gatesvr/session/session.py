"""Session: one client's identity, sequence numbers and outgoing order (PROTOCOL 2, 3, 5).

A session outlives its connections: ``link`` is the one it has now. It knows no clock and no loop;
what arrives, arrives by calls with ``now``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core.codec import encode_identity, error_body
from .._core.queue import BULK, KEEP, OrderedQueue
from .._pb import upstream_pb2 as pb
from ..errors import ErrorCode, QueueFull
from ..protocol.messages import CAPABILITY_SKIP, MAX_CLIENT_SEQ, MAX_HEAD_BYTES, Outcome
from .context import MESSAGE_BYTES, NAME_BYTES
from .info import normalize_zone, session_info
from .notify import (
    BUSY,
    BUSY_SUSPENDED,
    NO_SUCH_REQUEST,
    NOT_FOUND,
    OK,
    TOO_LARGE,
    TOO_LATE,
    NotifyOrderingManager,
    PushResult,
)
from .sender import OrderedSender
from .state import Event, State, Verdict, next_state

if TYPE_CHECKING:
    from .._core.codec import ClientRequest
    from ..protocol.link import Link
    from .context import SessionContext
    from .resume import RateBucket, ResumeToken

__all__ = [
    "PushResult",
    "Session",
    "Verdict",
    "normalize_zone",
]

MAX_HELD_NOTIFIES = 64
MAX_HELD_BYTES = 64 << 10
"""What is kept for a session that has not logged in (PROTOCOL 5.4)."""
MAX_CONFLATE_KEYS = 256
"""Conflation keys that a session remembers; above it the one used longest ago is forgotten."""


# Looking a member up in its enum costs as much as a whole call on Python 3.11.
_NEXT = Verdict.NEXT
_DUPLICATE = Verdict.DUPLICATE
_GAP = Verdict.GAP
_FULL = Verdict.FULL
_INITED = State.INITED
_NORMAL = State.NORMAL
_SUSPENDED = State.SUSPENDED
_CLOSED = State.CLOSED


class Session:
    """One client's session. SessionManager makes, logs in, resumes and closes it.

    Attributes:
        number: Its place in the order in which sessions were made.
        session_id: Unguessable name; connection_id on the wire is the same.
        openid: The user.
        client_id: The client's own name, may be empty.
        zone: The user's zone, three digits, empty for none; set at login.
        user_ip: The client's address.
        link: Its connection now, None while it has none.
        state: See state.py.
        is_valid: Whether it is not Closed.
        is_logged_in: Whether a hello was answered 200 and it is not Closed.
        protocol: 0 for base clients, 1 else.
        capabilities: What both ends have.
        max_message_bytes: The largest frame that the client takes.
        generation: Rises with every connection.
        max_client_seq: The highest client seq accepted.
        pending: Requests accepted and not answered: client seq to msg_id, and above bit 32 the slot
            of its answer where the route keeps the order of asking.
        hello_pending: Whether a hello is unanswered; BUSINESS of every connection waits for it.
        refused_logins: Hellos refused.
        is_after_failed_resume: Whether it was made because a resume found no session; it then
            never replaces another one (PROTOCOL 3.3).
        identity: encode_identity() of it.
        peer_info: The serialized PeerInfo that goes to upstreams.
        queue: What is not acked.
        sender: Feeds the connection from the queue.
        notifies: Bound notifies, None until the first.
        token: The resume tokens.
        resume_rate: Bounds its resumes, None until the first.
        create_time: Loop time of START.
        last_activity: Loop time of the last request or ack.
        detached_at: Loop time since which it has no connection.
        full_since: 0 while the queue has room; below 0 when it was found at a cap; from the sweep
            that saw it on, the loop time of that. An ack that moves clears it.
    """

    __slots__ = (
        "_conflated",
        "_context",
        "_held",
        "_is_stalled",
        "_push_ids",
        "capabilities",
        "client_id",
        "create_time",
        "detached_at",
        "full_since",
        "generation",
        "hello_pending",
        "identity",
        "is_after_failed_resume",
        "is_logged_in",
        "is_valid",
        "last_activity",
        "link",
        "max_client_seq",
        "max_message_bytes",
        "notifies",
        "number",
        "openid",
        "peer_info",
        "pending",
        "protocol",
        "queue",
        "refused_logins",
        "resume_rate",
        "sender",
        "session_id",
        "state",
        "token",
        "user_ip",
        "zone",
    )

    def __init__(
        self,
        context: SessionContext,
        session_id: str,
        openid: str,
        now: float,
        *,
        client_id: str = "",
        protocol: int = 1,
        capabilities: int = 0,
        max_message_bytes: int = 1 << 20,
        user_ip: str = "",
    ) -> None:
        self._context = context
        self.number = 0
        self.session_id = session_id
        self.openid = openid
        self.client_id = client_id
        self.zone = ""
        self.user_ip = user_ip
        self.link: Link | None = None
        self.state = _INITED
        self.is_valid = True
        self.is_logged_in = False
        self.protocol = protocol
        self.capabilities = capabilities
        self.max_message_bytes = max_message_bytes
        self.generation = 1
        self.max_client_seq = 0
        self.pending: dict[int, int] = {}
        self.hello_pending = False
        self.refused_logins = 0
        self.is_after_failed_resume = False
        self.identity = encode_identity(session_id, openid)
        self.queue = OrderedQueue(session_id, context.max_queue_size, context.max_queue_bytes)
        self.queue.can_skip = bool(capabilities & CAPABILITY_SKIP)
        self.sender = OrderedSender(self.queue, context.high_water)
        self.notifies: NotifyOrderingManager | None = None
        self.token: ResumeToken | None = None
        self.resume_rate: RateBucket | None = None
        self.create_time = now
        self.last_activity = now
        self.detached_at = 0.0
        self.full_since = 0.0
        self._held: list[tuple[bytes, int, float]] | None = None
        self._push_ids: dict[str, None] | None = None
        # By conflation key: seq and bytes of the newest notify with it.
        self._conflated: dict[str, tuple[int, int]] | None = None
        self._is_stalled = False
        self.peer_info = b""

    def __repr__(self) -> str:
        return f"<Session {self.session_id} {State(self.state).name} generation={self.generation}>"

    # What it is.

    @property
    def in_flight(self) -> int:
        """Requests accepted and not answered."""
        return len(self.pending)

    @property
    def next_server_seq(self) -> int:
        """The server seq that the next message gets."""
        return self.queue.next_expected_seq

    @property
    def client_ack_server_seq(self) -> int:
        """The highest server seq that the client has acked."""
        return self.queue.last_acked_seq

    @property
    def has_unacked(self) -> bool:
        """Whether something was sequenced and is not acked."""
        return self.queue.next_expected_seq - 1 > self.queue.last_acked_seq

    def memory_bytes(self) -> int:
        """Return roughly the memory of what waits for the client, and of what is known of it."""
        queue = self.queue
        size: int = queue.queued_bytes + MESSAGE_BYTES * len(queue)
        if self._push_ids is not None:
            size += NAME_BYTES * len(self._push_ids)
        if self._conflated is not None:
            size += NAME_BYTES * len(self._conflated)
        if self.notifies is not None:
            size += self.notifies.held_bytes
        return size

    def _encode_peer_info(self) -> bytes:
        return pb.PeerInfo(
            ip=self.user_ip,
            port=self.link.peer[1] if self.link is not None else 0,
            client_id=self.client_id,
            zone=self.zone,
            generation=self.generation,
        ).SerializeToString()

    # Requests in.

    def check(self, seq_id: int) -> Verdict:
        """Say what is to become of the BUSINESS frame with that number (PROTOCOL 3.4, 3.5).

        Where there is no room for a request, the connection is woken as soon as an answer made
        some. The hello gate is the caller's to look at.
        """
        in_flight = len(self.pending)
        context = self._context
        if (
            in_flight >= context.max_in_flight
            or in_flight + self.queue.kept >= context.max_queue_size
        ):
            if in_flight < context.max_in_flight:
                self._found_full()
            self._is_stalled = True
            return _FULL
        if seq_id == self.max_client_seq + 1 and seq_id <= MAX_CLIENT_SEQ:
            return _NEXT
        counters = context.counters
        if self.protocol == 0:
            # PROTOCOL 9: the first one sets the counter; a duplicate is answered like a gap.
            if not self.max_client_seq and 0 < seq_id <= MAX_CLIENT_SEQ:
                return _NEXT
            if 0 < seq_id <= self.max_client_seq:
                counters.duplicates += 1
                return _GAP
        elif 0 < seq_id <= self.max_client_seq:
            counters.duplicates += 1
            return _DUPLICATE
        counters.gaps += 1
        return _GAP

    def accept(self, request: ClientRequest, order: str, now: float) -> None:
        """Accept the next request: from here on it gets exactly one answer or ERROR.

        Args:
            request: One that check() called NEXT.
            order: ``request`` where its answer keeps the order of asking, else ``completion``.
            now: Loop time.
        """
        seq = request.seq_id
        pending = self.pending
        queue = self.queue
        pending[seq] = (
            request.msg_id | queue.reserve() << 32 if order == "request" else request.msg_id
        )
        self.max_client_seq = seq
        queue.reserved = len(pending)
        self.last_activity = now

    # Answers out: answer() is the one place that ends a request.

    def answer(
        self,
        client_seq: int,
        body: bytes,
        before: Sequence[bytes] = (),
        after: Sequence[bytes] = (),
        now: float = 0.0,
    ) -> bool:
        """End a request by its answer, the notifies around it included (PROTOCOL 7.7).

        Args:
            client_seq: The request's number.
            body: Fields 3-5 and 10 of the answer's push.
            before: Bodies of the notifies that the answer carries, to go before it.
            after: Bodies of those to go behind it.
            now: Loop time.

        Returns:
            Whether the request was waiting for it; False too when the session is Closed.
        """
        entry = self.pending.pop(client_seq, -1)
        if entry < 0:
            return False
        queue = self.queue
        queue.reserved = len(self.pending)
        context = self._context
        if (
            self.notifies is not None
            or before
            or after
            or len(body) + MAX_HEAD_BYTES > self.max_message_bytes
            or queue.queued_bytes + len(body) > context.max_queue_bytes
        ):
            self._answer_with_care(client_seq, entry, body, before, after)
        else:
            self.sender.answer(entry & 0xFFFF_FFFF, entry >> 32, body)
        if self._held is not None and self.state is not _INITED:
            self._release_held(now)
        if self._is_stalled:
            self._is_stalled = False
            if self.link is not None:
                self.link.wake()
        return True

    def fail(
        self,
        client_seq: int,
        code: int,
        message: str,
        *,
        outcome: int = Outcome.UNKNOWN,
        retry_after_ms: int = 0,
        detail: str = "",
        now: float = 0.0,
    ) -> bool:
        """End a request by an ERROR that consumed its number; else as answer()."""
        body = error_body(code, message, detail, retry_after_ms, outcome, client_seq)
        return self.answer(client_seq, body, (), (), now)

    def _answer_with_care(
        self,
        client_seq: int,
        entry: int,
        body: bytes,
        before: Sequence[bytes],
        after: Sequence[bytes],
    ) -> None:
        """Answer where notifies go around it, or where it may be too large (PROTOCOL 5.2)."""
        context = self._context
        counters = context.counters
        max_body_bytes = self.max_message_bytes - MAX_HEAD_BYTES
        if len(body) > max_body_bytes:
            counters.answers_too_large += 1
            body = error_body(
                ErrorCode.ANSWER_TOO_LARGE, "answer too large", "", 0, Outcome.DONE, client_seq
            )
        notifies = self.notifies
        if notifies is None:
            notifies = NotifyOrderingManager(context.max_bound_notifies, context.max_bound_bytes)
        messages, dropped = notifies.bundle(
            client_seq, entry & 0xFFFF_FFFF, body, before, after, max_body_bytes
        )
        if self.notifies is not None and not len(notifies):
            self.notifies = None
        size = sum(len(message[1]) for message in messages)
        if self.queue.queued_bytes + size > context.max_queue_bytes:
            counters.answers_not_kept += 1
            dropped += len(messages) - 1
            self._found_full()
            body = error_body(
                ErrorCode.ANSWER_NOT_KEPT, "answer not kept", "", 0, Outcome.DONE, client_seq
            )
            messages = [(entry & 0xFFFF_FFFF, body, KEEP)]
        counters.notifies_dropped += dropped
        self.sender.bundle(entry >> 32, messages)

    # Acks in.

    def prove_token(self) -> None:
        """Take note of a frame read after START_RESP was written: the client has its token.

        Source: PROTOCOL 4.2. What was read before START_RESP proves nothing.
        """
        token = self.token
        if token is not None and token.is_unproved:
            token.prove()

    def ack(self, seq: int, now: float) -> None:
        """Take an acknowledgement of everything up to seq (PROTOCOL 2.5).

        Raises:
            ProtocolError: Seq was never given out.
        """
        if self.queue.ack_up_to(seq):
            self.full_since = 0.0
            self.last_activity = now

    # Notifies out.

    def push(
        self,
        body: bytes,
        *,
        now: float,
        flags: int = 0,
        ttl: float = 0.0,
        push_id: str = "",
        conflate_key: str = "",
    ) -> PushResult:
        """Send a notify (PROTOCOL 5.3, 5.4, 5.6).

        Args:
            body: Fields 3-5 of its push.
            now: Loop time.
            flags: BULK for a broadcast.
            ttl: Seconds it is worth keeping, 0 for ever.
            push_id: The pusher's name for it, against repeats; may be empty.
            conflate_key: What it tells the newest of: it replaces the last notify with this key
                where that was not sent yet; a loss is told in its place. May be empty.
        """
        context = self._context
        counters = context.counters
        if self.state is _CLOSED:
            return NOT_FOUND
        if push_id and self._push_ids is not None and push_id in self._push_ids:
            counters.push_repeats += 1
            return OK
        if len(body) + MAX_HEAD_BYTES > self.max_message_bytes:
            counters.pushes_too_large += 1
            return TOO_LARGE
        expires_at = now + ttl if ttl else 0.0
        if self.state is _INITED or self._held is not None:
            result = self._hold(body, flags, expires_at)
        elif conflate_key:
            result = self._conflate(conflate_key, body, flags, expires_at, now)
        else:
            result = self._queue_notify(body, flags, expires_at, now)
        if result is OK:
            counters.pushes_taken += 1
            if push_id:
                self._remember(push_id)
        elif result.error_code == "BUSY":
            counters.pushes_busy += 1
        return result

    def bind(
        self,
        body: bytes,
        client_seq: int,
        before: bool,
        *,
        now: float,
        ttl: float = 0.0,
        push_id: str = "",
    ) -> PushResult:
        """Hold a notify for the answer to client_seq (PROTOCOL 7.7).

        Args:
            body: Fields 3-5 of its push.
            client_seq: The request it belongs to.
            before: Whether it goes before the answer; else behind.
            now: Loop time.
            ttl: Seconds it is worth keeping where the request was answered already.
            push_id: The pusher's name for it, against repeats; may be empty.
        """
        context = self._context
        counters = context.counters
        if self.state is _CLOSED:
            return NOT_FOUND
        if client_seq not in self.pending:
            if not 0 < client_seq <= self.max_client_seq:
                counters.pushes_unasked += 1
                return NO_SUCH_REQUEST
            if before:
                counters.pushes_too_late += 1
                return TOO_LATE
            return self.push(body, now=now, ttl=ttl, push_id=push_id)
        if push_id and self._push_ids is not None and push_id in self._push_ids:
            counters.push_repeats += 1
            return OK
        if len(body) + MAX_HEAD_BYTES > self.max_message_bytes:
            counters.pushes_too_large += 1
            return TOO_LARGE
        notifies = self.notifies
        if notifies is None:
            notifies = self.notifies = NotifyOrderingManager(
                context.max_bound_notifies, context.max_bound_bytes
            )
        if context.is_memory_full or not notifies.add(client_seq, body, before):
            counters.pushes_busy += 1
            return BUSY
        counters.pushes_bound += 1
        if push_id:
            self._remember(push_id)
        return OK

    def _queue_notify(self, body: bytes, flags: int, expires_at: float, now: float) -> PushResult:
        context = self._context
        queue = self.queue
        if context.memory_left < 0:
            context.recount(now)
            if self.state is _CLOSED:
                return NOT_FOUND  # it was the one to go
        if context.is_memory_full:
            return BUSY if self.link is not None else BUSY_SUSPENDED
        if flags & BULK and (
            queue.bulk >= context.max_bulk or queue.bulk_bytes + len(body) > context.max_bulk_bytes
        ):
            return BUSY if self.link is not None else BUSY_SUSPENDED
        try:
            self.sender.notify(body, flags, expires_at)
        except QueueFull:
            if self.link is not None:
                self._found_full()
                return BUSY
            if flags & BULK or context.when_full == "refuse":
                return BUSY_SUSPENDED
            if context.when_full == "close":
                context.close(self, "queue is full", now)
                return NOT_FOUND
            dropped = queue.drop_oldest(1, len(body))
            if not dropped:
                return BUSY_SUSPENDED
            context.counters.notifies_dropped += dropped
            self.sender.notify(body, flags, expires_at)
        context.memory_left -= len(body) + MESSAGE_BYTES
        if expires_at:
            context.watched.add(self)
        return OK

    def _conflate(
        self, key: str, body: bytes, flags: int, expires_at: float, now: float
    ) -> PushResult:
        """Queue a notify in place of the last one with this key, where that was not sent yet."""
        queue = self.queue
        last = self._conflated
        if last is None:
            last = self._conflated = {}
        old_seq, old_bytes = last.pop(key, (0, 0))
        is_replaced = len(body) <= old_bytes and queue.conflate(old_seq)
        if is_replaced:
            # It takes no more room than the old one gave back: no cap stands in its way.
            self._force_notify(body, flags, expires_at)
        else:
            result = self._queue_notify(body, flags, expires_at, now)
            if result is not OK:
                if old_seq:
                    last[key] = (old_seq, old_bytes)
                return result
            is_replaced = queue.conflate(old_seq)
        self._context.counters.notifies_conflated += is_replaced
        if len(last) >= MAX_CONFLATE_KEYS:
            del last[next(iter(last))]
        last[key] = (queue.next_expected_seq - 1, len(body))
        return OK

    def _hold(self, body: bytes, flags: int, expires_at: float) -> PushResult:
        """Keep a notify outside the queue until the session has logged in (PROTOCOL 5.4)."""
        held = self._held
        if held is None:
            held = self._held = []
        if (
            self._context.is_memory_full
            or len(held) >= MAX_HELD_NOTIFIES
            or sum(len(entry[0]) for entry in held) + len(body) > MAX_HELD_BYTES
        ):
            return BUSY
        held.append((body, flags, expires_at))
        self._context.counters.pushes_held += 1
        return OK

    def _release_held(self, now: float) -> None:
        """Send what was held, right behind the answer of the hello."""
        held, self._held = self._held, None
        for body, flags, expires_at in held or ():
            if expires_at and expires_at <= now:
                self._context.counters.notifies_expired += 1
            else:
                # Caps do not apply: it was accepted, and at most MAX_HELD_NOTIFIES come.
                self._force_notify(body, flags, expires_at)

    def _force_notify(self, body: bytes, flags: int, expires_at: float) -> None:
        """Queue a notify that the caps do not apply to."""
        self.sender.notify(body, flags, expires_at, is_forced=True)
        if expires_at:
            self._context.watched.add(self)

    def _remember(self, push_id: str) -> None:
        push_ids = self._push_ids
        if push_ids is None:
            push_ids = self._push_ids = {}
        elif len(push_ids) >= self._context.max_push_ids:
            del push_ids[next(iter(push_ids))]
        push_ids[push_id] = None

    def _found_full(self) -> None:
        """Have the next sweeps see whether acks still move (PROTOCOL 5.3)."""
        if not self.full_since:
            self.full_since = -1.0
            self._context.watched.add(self)

    # What the manager calls.

    def move(self, event: Event) -> None:
        """Go to the next state.

        Raises:
            SessionError: The transition is illegal.
        """
        state = self.state = next_state(self.state, event)
        self.is_valid = state is not _CLOSED
        self.is_logged_in = state is _NORMAL or state is _SUSPENDED

    def attach(self, link: Link, now: float) -> None:
        """Make link its connection."""
        self.link = self.sender.link = link
        self.user_ip = link.peer[0]
        self.detached_at = 0.0
        self.full_since = 0.0
        self.last_activity = now
        self.peer_info = self._encode_peer_info()

    def detach(self, now: float) -> None:
        """Part with its connection."""
        self.link = self.sender.link = None
        self.detached_at = now
        self.full_since = 0.0

    def set_zone(self, zone: str) -> None:
        """Set the zone that the hello's answer named."""
        self.zone = normalize_zone(zone)
        self.peer_info = self._encode_peer_info()

    def clear(self) -> None:
        """Drop everything that waits: the session is Closed."""
        self.queue.stop()
        self.pending.clear()
        self.notifies = None
        self._held = None
        self._push_ids = None
        self._conflated = None

    def info(self, now: float, wall_ms: int) -> pb.SessionInfo:
        """Return every field of the session and its queue.

        Args:
            now: Loop time.
            wall_ms: The same moment in ms since the epoch.
        """
        return session_info(self, now, wall_ms)
