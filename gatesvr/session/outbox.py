"""Outbox: everything that waits for a session's client, and the rules for what may join it.

An answer always goes out; where it is too large, an ERROR takes its place (PROTOCOL 5.2). A notify
is in one of three places until it is sent:

- the queue, once the session is logged in (PROTOCOL 5.3);
- ``held``, before the login: it follows the answer of the hello (5.4);
- ``notifies``, while the request that it is bound to is in flight: it leaves with the answer (7.7).

While another process may own the session, ``refusal`` is MOVING and nothing joins (role.py).

An outbox knows its session only by the queue's session_id, so the two form no reference cycle and
a closed session's memory is free at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._core.codec import error_body
from .._core.queue import BULK, KEEP, OrderedQueue
from ..errors import ErrorCode, QueueFull
from ..protocol.messages import MAX_HEAD_BYTES, Outcome
from .memory import MESSAGE_BYTES, NAME_BYTES
from .notify import BUSY, BUSY_SUSPENDED, MOVING, NOT_FOUND, OK, TOO_LARGE, NotifyOrderingManager
from .sender import OrderedSender

if TYPE_CHECKING:
    from .context import SessionContext
    from .notify import PushResult

__all__ = ["MADE_PUSH_ID", "MAX_CONFLATE_KEYS", "Outbox"]

MAX_PUSH_IDS = 256
"""push_ids that a session remembers (PROTOCOL 7.5); more, while they are young."""
YOUNG_PUSH_ID_S = 3.0
"""A push_id is remembered for as long at least: until then, a try of its push may still come."""
MADE_PUSH_ID = "~gatesvr~"
"""How push_ids begin that no pusher repeats: a process of the gateway has made them, for the tries
of one push. They are remembered only while they are young."""
MAX_YOUNG_PUSH_IDS = 16_384
"""Young push_ids; a push with another one gets BUSY."""
MAX_BOUND_NOTIFIES = 64
"""Notifies bound to one request."""
MAX_BOUND_BYTES = 256 << 10
"""Bytes of bound notifies of a session."""
MAX_HELD_NOTIFIES = 64
MAX_HELD_BYTES = 64 << 10
"""Notifies, and bytes of them, held for a session that has not logged in (PROTOCOL 5.4)."""
MAX_CONFLATE_KEYS = 256
"""Conflation keys that a session remembers; beyond it the least recently used is forgotten."""


class Outbox:
    """One session's outgoing messages.

    Args:
        context: Shared by all sessions.
        session_id: The session's.
        can_skip: Whether the client knows SKIP.
        max_message_bytes: The largest frame that the client takes.

    Attributes:
        queue: Messages not acked, and the slots of answers to come.
        sender: Feeds the connection from the queue.
        max_message_bytes: As given.
        is_open: Whether notifies go to the queue: True from login on. Session.move() sets it.
        refusal: The result of every push, None where pushes are taken: NOT_FOUND once the session
            is Closed, MOVING while this process does not own it. Where it is set, is_open is not.
        held: (body, flags, expires_at) of the notifies that wait for the login, None for none.
        notifies: Notifies bound to requests in flight, None for none.
        conflated: Seq and bytes of the newest notify of each conflation key, the least recently
            used first, None for none.
        push_ids: The last push_ids with the loop times of their pushes, oldest first, None for
            none.
        full_since: 0 while the queue has room; below 0 once it was found at a cap; from the next
            sweep on, that sweep's loop time.
        counted_bytes: What MemoryBudget counts for this outbox.
    """

    __slots__ = (
        "_context",
        "_full_acked",
        "conflated",
        "counted_bytes",
        "full_since",
        "held",
        "is_open",
        "max_message_bytes",
        "notifies",
        "push_ids",
        "queue",
        "refusal",
        "sender",
    )

    def __init__(
        self, context: SessionContext, session_id: str, can_skip: bool, max_message_bytes: int
    ) -> None:
        self._context = context
        self.queue = OrderedQueue(session_id, context.max_queue_size, context.max_queue_bytes)
        self.queue.can_skip = can_skip
        self.sender = OrderedSender(self.queue, context.high_water)
        self.max_message_bytes = max_message_bytes
        self.is_open = False
        self.refusal: PushResult | None = None
        self.held: list[tuple[bytes, int, float]] | None = None
        self.notifies: NotifyOrderingManager | None = None
        self.push_ids: dict[str, float] | None = None
        self.conflated: dict[str, tuple[int, int]] | None = None
        self.full_since = 0.0
        self._full_acked = 0  # last_acked_seq when the queue was found at a cap
        self.counted_bytes = 0

    @property
    def has_unacked(self) -> bool:
        """Whether something was sequenced and is not acked."""
        return self.queue.next_expected_seq - 1 > self.queue.last_acked_seq

    def memory_bytes(self) -> int:
        """Return roughly the memory that this outbox takes."""
        queue = self.queue
        size: int = queue.queued_bytes + MESSAGE_BYTES * len(queue)
        if self.push_ids is not None:
            size += NAME_BYTES * len(self.push_ids)
        if self.conflated is not None:
            size += NAME_BYTES * len(self.conflated)
        if self.notifies is not None:
            size += self.notifies.held_bytes
        if self.held is not None:
            size += sum(len(body) + MESSAGE_BYTES for body, _, _ in self.held)
        return size

    def clear(self) -> None:
        """Drop everything and take nothing more: the session is Closed."""
        self.queue.stop()
        self.is_open = False
        self.refusal = NOT_FOUND
        self.held = None
        self.notifies = None
        self.push_ids = None
        self.conflated = None

    def freeze(self) -> None:
        """Take nothing, and let nothing expire: this process does not own the session."""
        self.is_open = False
        self.refusal = MOVING
        self._context.watched.discard(self)

    def thaw(self, is_open: bool) -> None:
        """Take notifies again."""
        self.is_open = is_open
        self.refusal = None
        if self.is_watched:
            self._context.watched.add(self)

    # Notifies.

    def push(
        self,
        body: bytes,
        now: float,
        flags: int = 0,
        ttl: float = 0.0,
        push_id: str = "",
        conflate_key: str = "",
    ) -> PushResult:
        """Send a notify, or hold it for the login; see Session.push()."""
        counters = self._context.counters
        is_open = self.is_open
        if not is_open and self.refusal is not None:
            return self._refuse()
        if push_id and self.push_ids is not None and (seen := self._seen(push_id, now)):
            return seen
        if len(body) + MAX_HEAD_BYTES > self.max_message_bytes:
            counters.pushes_too_large += 1
            return TOO_LARGE
        expires_at = now + ttl if ttl else 0.0
        if not is_open or self.held is not None:
            result = self._hold(body, flags, expires_at)
        elif conflate_key:
            result = self._conflate(conflate_key, body, flags, expires_at, now)
        else:
            result = self._queue_notify(body, flags, expires_at, now)
        if result is OK:
            counters.pushes_taken += 1
            if push_id:
                self._remember(push_id, now)
        elif result.error_code == "BUSY":
            counters.pushes_busy += 1
        return result

    def bind(
        self, body: bytes, client_seq: int, before: bool, now: float, push_id: str = ""
    ) -> PushResult:
        """Keep a notify for the answer to a request in flight; see Session.bind()."""
        context = self._context
        counters = context.counters
        if self.refusal is not None:
            return self._refuse()
        if push_id and self.push_ids is not None and (seen := self._seen(push_id, now)):
            return seen
        if len(body) + MAX_HEAD_BYTES > self.max_message_bytes:
            counters.pushes_too_large += 1
            return TOO_LARGE
        notifies = self.notifies
        if notifies is None:
            notifies = self.notifies = NotifyOrderingManager(MAX_BOUND_NOTIFIES, MAX_BOUND_BYTES)
        if context.budget.is_full or not notifies.add(client_seq, body, before):
            counters.pushes_busy += 1
            return BUSY
        counters.pushes_bound += 1
        if push_id:
            self._remember(push_id, now)
        return OK

    def add_header(self, client_seq: int, header: bytes) -> None:
        """Give the answer to a request in flight, and all its notifies, one more header.

        Args:
            client_seq: The request's number.
            header: Field 5 of a push, serialized.
        """
        if self.notifies is None:
            self.notifies = NotifyOrderingManager(MAX_BOUND_NOTIFIES, MAX_BOUND_BYTES)
        self.notifies.headers[client_seq] = header

    def release_held(self, now: float) -> None:
        """Send the notifies that waited for the login; call it behind the hello's answer."""
        held, self.held = self.held, None
        for body, flags, expires_at in held or ():
            if expires_at and expires_at <= now:
                self._context.counters.notifies_expired += 1
            else:
                self._force_notify(body, flags, expires_at)

    def _queue_notify(self, body: bytes, flags: int, expires_at: float, now: float) -> PushResult:
        context = self._context
        budget = context.budget
        queue = self.queue
        if budget.left < 0:
            has_room = budget.find_room(now)
            if queue.stopped:
                return NOT_FOUND  # this session was closed to make the room
            if not has_room:
                return self._busy()
        if flags & BULK and (
            queue.bulk >= context.max_bulk or queue.bulk_bytes + len(body) > context.max_bulk_bytes
        ):
            return self._busy()
        try:
            queue.append_one(0, body, flags, expires_at)
        except QueueFull:
            result = self._make_place(body, flags, now)
            if result is not OK:
                return result
            queue.append_one(0, body, flags, expires_at)
        link = self.sender.link  # not by the sender: one call less a push
        if link is not None:
            link.request_flush()
        size = len(body) + MESSAGE_BYTES
        budget.left -= size
        self.counted_bytes += size
        if expires_at:
            context.watched.add(self)
        return OK

    def _make_place(self, body: bytes, flags: int, now: float) -> PushResult:
        """Apply ``when_full``: OK where the oldest notifies went for the sake of this one."""
        context = self._context
        if self.sender.link is not None:
            self.found_full()
            return BUSY
        if flags & BULK or context.when_full == "refuse":
            return BUSY_SUSPENDED
        if context.when_full == "close":
            context.close_full(self.queue.session_id, now)
            return NOT_FOUND
        dropped = self.queue.drop_oldest(1, len(body))
        if not dropped:
            return BUSY_SUSPENDED
        context.counters.notifies_dropped += dropped
        return OK

    def _busy(self) -> PushResult:
        return BUSY if self.sender.link is not None else BUSY_SUSPENDED

    def _conflate(
        self, key: str, body: bytes, flags: int, expires_at: float, now: float
    ) -> PushResult:
        """Queue a notify in place of the last one with its key, if that was not sent yet."""
        queue = self.queue
        last = self.conflated
        if last is None:
            last = self.conflated = {}
        old_seq, old_bytes = last.pop(key, (0, 0))
        is_replaced = len(body) <= old_bytes and queue.conflate(old_seq)
        if is_replaced:
            # The old one gave back at least as much room, so no cap applies.
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
        """Hold a notify until the session has logged in (PROTOCOL 5.4)."""
        held = self.held
        if held is None:
            held = self.held = []
        if (
            self._context.budget.is_full
            or len(held) >= MAX_HELD_NOTIFIES
            or sum(len(entry[0]) for entry in held) + len(body) > MAX_HELD_BYTES
        ):
            return BUSY
        held.append((body, flags, expires_at))
        self._context.counters.pushes_held += 1
        return OK

    def _force_notify(self, body: bytes, flags: int, expires_at: float) -> None:
        """Queue a notify that was accepted before: caps do not apply."""
        self.sender.notify(body, flags, expires_at)
        if expires_at:
            self._context.watched.add(self)

    def _refuse(self) -> PushResult:
        """Return why no push is taken, and count it."""
        refusal = self.refusal
        assert refusal is not None
        self._context.counters.pushes_moving += refusal is MOVING
        return refusal

    def is_repeat(self, push_id: str) -> bool:
        """Return whether the push with this push_id was taken before, and count it."""
        is_known = bool(push_id) and self.push_ids is not None and push_id in self.push_ids
        self._context.counters.push_repeats += is_known
        return is_known

    def pass_over(self, push_id: str, now: float) -> None:
        """Take no push with this push_id."""
        self._remember(push_id, now)

    def _seen(self, push_id: str, now: float) -> PushResult | None:
        """Return the result of a push whose push_id was seen, or has no room; else None."""
        push_ids = self.push_ids
        assert push_ids is not None
        counters = self._context.counters
        if self.is_repeat(push_id):
            return OK
        if len(push_ids) < MAX_YOUNG_PUSH_IDS or _is_old(next(iter(push_ids.values())), now):
            return None
        counters.pushes_busy += 1
        return self._busy()

    def _remember(self, push_id: str, now: float) -> None:
        push_ids = self.push_ids
        if push_ids is None:
            push_ids = self.push_ids = {}
        while push_ids:
            oldest = next(iter(push_ids))
            if not _is_old(push_ids[oldest], now):
                break
            if len(push_ids) < MAX_PUSH_IDS and not oldest.startswith(MADE_PUSH_ID):
                break
            del push_ids[oldest]
        push_ids[push_id] = now

    # Answers. Session.answer() hands a plain one, as most are, straight to the sender.

    def bundle(
        self,
        client_seq: int,
        msg_id: int,
        slot: int,
        body: bytes,
        before: Sequence[bytes],
        after: Sequence[bytes],
    ) -> None:
        """Send an answer that has notifies around it, or that may be too large (PROTOCOL 5.2).

        Args:
            client_seq: The request's number.
            msg_id: The request's msg_id.
            slot: The answer's slot, 0 for none.
            body: The answer's.
            before: Bodies of the notifies that the answer carries, to go before it.
            after: Bodies of those to go behind it.
        """
        context = self._context
        counters = context.counters
        max_body_bytes = self.max_message_bytes - MAX_HEAD_BYTES
        if len(body) > max_body_bytes:
            counters.answers_too_large += 1
            context.errors.add(ErrorCode.ANSWER_TOO_LARGE)
            body = error_body(
                ErrorCode.ANSWER_TOO_LARGE, "answer too large", "", 0, Outcome.DONE, client_seq
            )
        notifies = self.notifies
        if notifies is None:
            notifies = NotifyOrderingManager(MAX_BOUND_NOTIFIES, MAX_BOUND_BYTES)
        messages, dropped = notifies.bundle(client_seq, msg_id, body, before, after, max_body_bytes)
        if self.notifies is not None and notifies.is_empty:
            self.notifies = None
        size = sum(len(message[1]) for message in messages)
        if self.queue.queued_bytes + size > self.queue.max_queue_bytes:
            counters.answers_not_kept += 1
            context.errors.add(ErrorCode.ANSWER_NOT_KEPT)
            dropped += len(messages) - 1
            self.found_full()
            body = error_body(
                ErrorCode.ANSWER_NOT_KEPT, "answer not kept", "", 0, Outcome.DONE, client_seq
            )
            messages = [(msg_id, body, KEEP)]
        counters.notifies_dropped += dropped
        counters.bundles += len(messages) > 1
        self.sender.bundle(slot, messages)

    # What a sweep looks at.

    def found_full(self) -> None:
        """Start to watch whether acks still move: the queue is at a cap (PROTOCOL 5.3)."""
        acked = self.queue.last_acked_seq
        if not self.full_since or acked != self._full_acked:
            self.full_since = -1.0
            self._full_acked = acked
            self._context.watched.add(self)

    def expire(self, now: float) -> None:
        """Drop the notifies whose TTL has passed."""
        expired = self.queue.expire(now)
        if expired:
            self._context.counters.notifies_expired += expired
            self.sender.flush()

    def check_stuck(self, now: float, timeout: float) -> bool:
        """Return whether the queue has been at a cap, and no ack has moved, for timeout."""
        if self.full_since and self.queue.last_acked_seq != self._full_acked:
            self.full_since = 0.0
        if not self.full_since or self.sender.link is None:
            return False
        if self.full_since < 0:
            self.full_since = now
            return False
        if now - self.full_since < timeout:
            return False
        if not self.has_unacked:
            self.full_since = 0.0  # reserved places fill it, so no ack is due
            return False
        return True

    @property
    def is_watched(self) -> bool:
        """Whether the next sweep has something to look at: a TTL, or a queue at a cap."""
        return bool(self.full_since) or self.queue.next_expiry() != float("inf")


def _is_old(pushed_at: float, now: float) -> bool:
    """Return whether no try of a push can come any more."""
    return now - pushed_at >= YOUNG_PUSH_ID_S
