"""Session: one client's identity, state and requests (PROTOCOL 2, 3); its Outbox has the way out.

A session outlives its connections: ``link`` is the present one. It knows no clock and no loop; each
call brings ``now``. A request's life: offer() accepts it, answer() or fail() ends it, ack() tells
that the client has the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core.codec import encode_identity, error_body
from .._core.limits import TokenBucket
from .._pb import upstream_pb2 as pb
from ..config import normalize_zone
from ..protocol.messages import CAPABILITY_SKIP, MAX_CLIENT_SEQ, MAX_HEAD_BYTES, Outcome
from .info import session_info
from .notify import NO_SUCH_REQUEST, OK, TOO_LATE
from .outbox import Outbox
from .results import Result
from .role import Role
from .state import Event, State, Verdict, next_state

if TYPE_CHECKING:
    from .._core.codec import ClientRequest
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from .context import SessionContext
    from .moved import MovedCall
    from .notify import PushResult
    from .resume import ResumeToken

__all__ = ["Session"]

# Looking a member up in its enum costs as much as a whole call on Python 3.11.
_NEXT = Verdict.NEXT
_DUPLICATE = Verdict.DUPLICATE
_GAP = Verdict.GAP
_FULL = Verdict.FULL
_INITED = State.INITED
_NORMAL = State.NORMAL
_SUSPENDED = State.SUSPENDED
_CLOSED = State.CLOSED
_OWN = Role.OWN
# Shared by all sessions with none, as nearly all are; whoever adds one makes a dict.
_NO_CALLS: dict[int, MovedCall] = {}
_KEEPING = frozenset((Role.LEAVING, Role.ARRIVING, Role.GONE))


class Session:
    """One client's session. SessionManager makes, logs in, resumes and closes it.

    Attributes:
        number: Its place in the order in which sessions were made.
        session_id: Unguessable name; connection_id on the wire is the same.
        openid: The user.
        auth: Who its client has proved to be, None if nobody asked.
        auth_deadline: Loop time at which its credentials expire, inf for never.
        client_id: The client's own name, may be empty.
        zone: The user's zone, three digits, empty for none; set at login.
        user_ip: The client's address at its last START; a later move of the connection changes
            link.peer alone.
        user_port: The port beside it.
        transport: The way that its client last came by; see Link.
        link: Its connection now, None while it has none.
        state: See state.py.
        role: What this process is to it; see role.py. own() and freeze() change it.
        epoch: Counts its owners, for the directory; 0 in a gateway of one process.
        is_valid: Whether this process owns it, and it is not Closed.
        is_logged_in: Whether a hello was answered 200 and it is not Closed.
        protocol: 0 for base clients, else 1.
        capabilities: Those that both ends have.
        max_message_bytes: The largest frame that the client takes.
        generation: Rises with every connection.
        max_client_seq: The highest client seq accepted.
        pending: Requests accepted and not answered: client seq to msg_id, and above bit 32 the slot
            of its answer if the route keeps the order of asking.
        hello_seq: The client seq of the unanswered hello, 0 for none; BUSINESS of every connection
            waits for it.
        login_answer: The hello's, 200, while the directory has not said whether it logs in; None
            for none.
        moved_calls: Pending requests that came with it from another process, by client seq: those
            whose calls others have made, and those that are not started.
        refused_logins: Hellos refused.
        is_after_failed_resume: Whether it was made because a resume found no session; it then
            never replaces another one (PROTOCOL 3.3).
        identity: encode_identity() of it.
        peer_info: The serialized PeerInfo that goes to upstreams.
        outbox: Everything that waits for the client.
        queue: The outbox's, here too because every request needs it: one hop less.
        sender: The outbox's, for the same reason.
        token: The resume tokens.
        request_rate: Bounds its requests, None where they have no bound.
        resume_rate: Bounds its resumes, None until the first.
        create_time: Loop time of START.
        last_activity: Loop time of the last request, heartbeat or ack that moved.
        detached_at: Loop time since which it has no connection.
    """

    __slots__ = (
        "_auth_info",
        "_context",
        "_is_stalled",
        "_place_info",
        "auth",
        "auth_deadline",
        "capabilities",
        "client_id",
        "create_time",
        "detached_at",
        "epoch",
        "generation",
        "hello_seq",
        "identity",
        "is_after_failed_resume",
        "is_logged_in",
        "is_valid",
        "last_activity",
        "link",
        "login_answer",
        "max_client_seq",
        "max_message_bytes",
        "moved_calls",
        "number",
        "openid",
        "outbox",
        "peer_info",
        "pending",
        "protocol",
        "queue",
        "refused_logins",
        "request_rate",
        "resume_rate",
        "role",
        "sender",
        "session_id",
        "state",
        "token",
        "transport",
        "user_ip",
        "user_port",
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
    ) -> None:
        self._context = context
        self.number = 0
        self.session_id = session_id
        self.openid = openid
        self.auth: Identity | None = None
        self._auth_info = b""  # the part of peer_info that follows from auth, and the rest of it
        self._place_info = b""
        self.auth_deadline = math.inf
        self.client_id = client_id
        self.zone = ""
        self.user_ip = ""
        self.user_port = 0
        self.transport = ""
        self.link: Link | None = None
        self.state = _INITED
        self.role = _OWN
        self.epoch = 0
        self.is_valid = True
        self.is_logged_in = False
        self.protocol = protocol
        self.capabilities = capabilities
        self.max_message_bytes = max_message_bytes
        self.generation = 1
        self.max_client_seq = 0
        self.pending: dict[int, int] = {}
        self.hello_seq = 0
        self.login_answer: Result | None = None
        self.moved_calls = _NO_CALLS
        self.refused_logins = 0
        self.is_after_failed_resume = False
        self.identity = encode_identity(session_id, openid)
        self.peer_info = b""
        can_skip = bool(capabilities & CAPABILITY_SKIP)
        self.outbox = Outbox(context, session_id, can_skip, max_message_bytes)
        self.queue = self.outbox.queue
        self.sender = self.outbox.sender
        self.token: ResumeToken | None = None
        rate = context.max_requests_per_second
        self.request_rate = TokenBucket(rate, rate) if rate else None
        self.resume_rate: TokenBucket | None = None
        self.create_time = now
        self.last_activity = now
        self.detached_at = 0.0
        self._is_stalled = False  # a request was refused for want of room

    @property
    def context(self) -> SessionContext:
        """The settings that it began with."""
        return self._context

    def __repr__(self) -> str:
        return f"<Session {self.session_id} {State(self.state).name} generation={self.generation}>"

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
    def outlives_connection(self) -> bool:
        """Whether it stays when its connection is lost.

        Source: PROTOCOL 3.9: one that is not logged in, "only while its hello is unanswered or the
        answer not acked".
        """
        return self.state is not _INITED or self.hello_seq > 0 or self.outbox.has_unacked

    def info(self, now: float, wall_ms: int) -> pb.SessionInfo:
        """Return every field of the session and its queue.

        Args:
            now: Loop time.
            wall_ms: The same moment in ms since the epoch.
        """
        return session_info(self, now, wall_ms)

    # Requests in.

    def offer(self, request: ClientRequest, order: str, now: float) -> Verdict:
        """Accept a BUSINESS request if it is the next one and there is room (PROTOCOL 3.4, 3.5).

        From NEXT on, the request gets exactly one answer or ERROR. After FULL, the session wakes
        its connection as soon as an answer has made room. The caller looks at hello_seq first.

        Args:
            request: The request.
            order: ``request`` if its answer keeps the order of asking, else ``completion``.
            now: Loop time.
        """
        pending = self.pending
        queue = self.queue
        in_flight = len(pending)
        context = self._context
        if in_flight >= context.max_in_flight or in_flight + queue.kept >= context.max_queue_size:
            if in_flight < context.max_in_flight:
                self.outbox.found_full()
            self._is_stalled = True
            return _FULL
        seq = request.seq_id
        if seq != self.max_client_seq + 1 or seq > MAX_CLIENT_SEQ:
            verdict = self._judge(seq)
            if verdict is not _NEXT:
                return verdict
        pending[seq] = (
            request.msg_id | queue.reserve() << 32 if order == "request" else request.msg_id
        )
        self.max_client_seq = seq
        queue.reserved = in_flight + 1
        self.last_activity = now
        return _NEXT

    def _judge(self, seq: int) -> Verdict:
        """Return the verdict on a number that does not follow the last one, and count it."""
        counters = self._context.counters
        is_old = 0 < seq <= self.max_client_seq
        counters.duplicates += is_old
        if is_old and self.protocol:
            return _DUPLICATE
        # PROTOCOL 9: a base client's "first BUSINESS … sets the counter; a duplicate gets ERROR".
        if not self.protocol and not self.max_client_seq and 0 < seq <= MAX_CLIENT_SEQ:
            return _NEXT
        counters.gaps += not is_old
        return _GAP

    # Answers out: answer() is the one place that ends a request.

    def answer(
        self,
        client_seq: int,
        body: bytes,
        before: Sequence[bytes] = (),
        after: Sequence[bytes] = (),
        now: float = 0.0,
    ) -> bool:
        """End a request by its answer, with the notifies around it (PROTOCOL 7.7).

        Args:
            client_seq: The request's number.
            body: Fields 3-5 and 10 of the answer's push.
            before: Bodies of the notifies that the answer carries, to go before it.
            after: Bodies of those to go behind it.
            now: Loop time.

        Returns:
            Whether the request was waiting for it; False also when the session is Closed. True also
            where this process does not own the session and keeps the answer for the owner.
        """
        entry = self.pending.pop(client_seq, -1)
        if entry < 0:
            return self.role is not _OWN and self.keep(
                Result(client_seq, body, tuple(before), tuple(after))
            )
        queue = self.queue
        queue.reserved = len(self.pending)
        outbox = self.outbox
        if (
            outbox.notifies is not None
            or before
            or after
            or len(body) + MAX_HEAD_BYTES > self.max_message_bytes
            or queue.queued_bytes + len(body) > queue.max_queue_bytes
        ):
            outbox.bundle(client_seq, entry & 0xFFFF_FFFF, entry >> 32, body, before, after)
        else:
            self.sender.answer(entry & 0xFFFF_FFFF, entry >> 32, body)
        if outbox.held is not None and self.state is not _INITED:
            outbox.release_held(now)
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
        """End a request by an ERROR that consumed its number; returns as answer() does."""
        self._context.errors.add(code)
        body = error_body(code, message, detail, retry_after_ms, outcome, client_seq)
        return self.answer(client_seq, body, (), (), now)

    def keep(self, result: Result) -> bool:
        """Keep what a call of this process brought for the session's owner, which it is not.

        Returns:
            False where the session has ended, or too much is kept.
        """
        counters = self._context.counters
        if self.role not in _KEEPING or (self.role is not Role.GONE and self.state is _CLOSED):
            return False
        is_kept = self._context.results.keep(self.session_id, result)
        counters.results_kept += is_kept
        counters.results_dropped += not is_kept
        return is_kept

    # Acks in.

    def prove_token(self) -> None:
        """Drop the previous resume token: a frame has come that only follows START_RESP.

        Source: PROTOCOL 4.2. A frame read before START_RESP was written proves nothing.
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
            ttl: Seconds that it is worth keeping, 0 for ever.
            push_id: The pusher's name for it, against repeats; may be empty.
            conflate_key: Names the thing whose newest state it tells: it replaces the last notify
                with this key if that was not sent yet, and a SKIP stands in its place. May be
                empty.
        """
        return self.outbox.push(body, now, flags, ttl, push_id, conflate_key)

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
        """Keep a notify for the answer to client_seq (PROTOCOL 7.7).

        Args:
            body: Fields 3-5 of its push.
            client_seq: The request that it belongs to.
            before: Whether it goes before the answer; else behind.
            now: Loop time.
            ttl: Seconds that it is worth keeping if the request was answered already.
            push_id: The pusher's name for it, against repeats; may be empty.
        """
        outbox = self.outbox
        if client_seq in self.pending or outbox.refusal is not None:
            return outbox.bind(body, client_seq, before, now, push_id)
        if outbox.is_repeat(push_id):
            return OK
        if not 0 < client_seq <= self.max_client_seq:
            self._context.counters.pushes_unasked += 1
            return NO_SUCH_REQUEST
        if before:
            self._context.counters.pushes_too_late += 1
            return TOO_LATE
        return outbox.push(body, now, 0, ttl, push_id)

    # For the manager.

    def freeze(self, role: Role) -> None:
        """Stop to act as the session's owner; a frozen copy may take another role."""
        if self.role is _OWN:
            # Finds no request that an answer could end, so that answer() keeps it: the path of the
            # others has no check of its own for this.
            self.pending = _Frozen(self.pending)
        self.role = role
        self.is_valid = False
        self.outbox.freeze()

    def own(self, epoch: int) -> None:
        """Act as the session's owner from now on, under another epoch."""
        self.role = _OWN
        self.epoch = epoch
        self.pending = dict(self.pending)
        self.is_valid = self.state is not _CLOSED
        self.outbox.thaw(self.is_logged_in)

    def move(self, event: Event) -> None:
        """Go to the next state.

        Raises:
            SessionError: The transition is illegal.
        """
        state = self.state = next_state(self.state, event)
        is_own = self.role is _OWN
        self.is_valid = is_own and state is not _CLOSED
        self.is_logged_in = state is _NORMAL or state is _SUSPENDED
        self.outbox.is_open = is_own and self.is_logged_in

    def attach(self, link: Link, now: float) -> None:
        """Make link its connection."""
        self.link = self.sender.link = link
        self.user_ip, self.user_port = link.peer
        self.transport = link.transport
        self.detached_at = 0.0
        self.outbox.full_since = 0.0
        self.last_activity = now
        self._update_peer_info()

    def detach(self, now: float) -> None:
        """Part with its connection."""
        self.link = self.sender.link = None
        self.detached_at = now
        self.outbox.full_since = 0.0

    def set_auth(self, identity: Identity, deadline: float) -> None:
        """Set who its client has proved to be, and until when that holds."""
        self.auth = identity
        self.auth_deadline = deadline
        self._auth_info = pb.PeerInfo(
            auth_subject=identity.subject, auth_claims=identity.claims or None
        ).SerializeToString()
        self.peer_info = self._place_info + self._auth_info

    def set_zone(self, zone: str) -> None:
        """Set the zone that the hello's answer named."""
        self.zone = normalize_zone(zone)
        self._update_peer_info()

    def clear(self) -> None:
        """Drop everything that waits: the session is Closed, or no longer here."""
        self.pending.clear()
        self.login_answer = None
        self.outbox.clear()

    def restore_place(self, zone: str, user_ip: str, user_port: int, transport: str) -> None:
        """Set the zone, and the address that the client was last seen at by another process."""
        self.zone = zone
        self.user_ip, self.user_port = user_ip, user_port
        self.transport = transport
        self._update_peer_info()

    def _update_peer_info(self) -> None:
        self._place_info = pb.PeerInfo(
            ip=self.user_ip,
            port=self.user_port,
            client_id=self.client_id,
            zone=self.zone,
            generation=self.generation,
            transport=self.transport,
        ).SerializeToString()
        # One message after the other is both of them merged.
        self.peer_info = self._place_info + self._auth_info


class _Frozen(dict[int, int]):
    """The pending requests of a session that this process does not own: nothing ends them."""

    def pop(self, key: int, default: int = -1) -> int:  # type: ignore[override]
        """Return the default."""
        return default
