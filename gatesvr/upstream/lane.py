"""Lane: everything between this process and one upstream address (PROTOCOL 7.1-7.3).

This is what the lanes of both kinds have in common: the line of waiting calls and its limits, the
calls that are open, their deadlines, the ways in which they end, and the state of the upstream.
DirectLane speaks HTTP/2 itself; GrpcioLane uses grpcio.

A lane keeps one ProcessStream open; calls that wait together share a message. Until the server's
initial metadata arrives, or where it has no ProcessStream, each call is a ProcessRequest.

A server that says goodbye (GOAWAY: its connection is old enough, or it is stopping) still serves
its open streams. The lane leaves the connection and opens a stream on the next one. Requests
already written to the old stream are answered there (*draining*), then the lane half-closes it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, ClassVar

from .._core.codec import decode_answers, encode_batch
from ..errors import ErrorCode, Outcome
from ..observe.clock import RunningClock
from ..observe.log import keys
from .limit import GradientLimit
from .status import is_fault, limit_and_size, outcome_of
from .target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from .._core.codec import UpstreamAnswer
    from ..config import UpstreamConfig
    from .call import Call, MethodCall, UpstreamCounters
    from .tls import UpstreamCredentials

__all__ = ["Lane", "LaneState", "new_batch_sizes"]

logger = logging.getLogger("gatesvr.upstream")

PROCESS_REQUEST = "/gatesvr.proto.UpstreamService/ProcessRequest"
PROCESS_STREAM = "/gatesvr.proto.UpstreamService/ProcessStream"
REFUSED = 1  # UpstreamStatus.UPSTREAM_REFUSED

MAX_SHARED_BYTES = 1 << 20
"""Largest message on a stream; servers built on our SDK or with gRPC's usual 4 MiB limit accept it.
A larger request goes as a unary call, so that hitting a size limit fails no other request."""
MIN_SHARED_BYTES = 1 << 10
"""Lower bound of the size limit learned from an upstream."""
ENTRY_BYTES = 16
"""Upper bound of a message's overhead for each request."""

UNARY_RETRY_S = 60.0
"""How often an upstream without ProcessStream is asked for it again."""
MAX_LATE = 4_096
"""Expired request ids remembered, to tell a late answer from an unknown one."""
MAX_JUNK = 1_024
"""Answers that nobody waits for, and messages without any, that a stream may bring beyond the
answers that somebody does wait for; one with more is ended."""
MAX_UNARY = 512
"""Concurrent unary calls: above 1,000, Google's gRPC servers refuse some at random (CANCELLED)."""
LONG_WAIT_S = 0.01
"""A call that has waited longer than this is sent with its remaining time."""
TIMER_STEP_S = 0.01
"""Shortest time between two passes over the deadlines."""
SETTLE_S = 0.05
"""How long a stream must survive its initial metadata before the lane writes to it."""
CLOSE_S = 2.0
"""Longest wait for a connection that is closed, and for the end of a half-closed stream."""
MAX_BATCH_BITS = 20
"""``upstream.max_batch`` is at most a million, which is below two to the power of this."""
RETRY_MS = 100
"""Retry delay for the client whose call was refused or found no room."""


class LaneState(Enum):
    """The state of the upstream, as far as the lane knows."""

    CONNECTING = "connecting"  # first attempt; calls wait for its outcome
    UNARY = "unary"
    STREAM = "stream"
    DOWN = "down"
    STOPPED = "stopped"


def new_batch_sizes() -> list[int]:
    """Return counts of 0 for a lane's batch_sizes."""
    return [0] * (MAX_BATCH_BITS + 1)


class Lane(ABC):
    """Sends the calls for one address, for every service and zone there.

    Attributes:
        keeps_credentials: Whether its connections keep the credentials that it was made with, so
            that renewed ones need another lane.

    Args:
        target: Where it is; an address for one without names of its own.
        config: Limits and times.
        max_message_bytes: The gateway's message limit.
        counters: The layer's counters.
        tls: How to speak TLS; None for plain text.
        on_change: Called when is_up or is_connecting may have changed.
        on_stranded: Takes calls not yet written; returns those that no other lane accepts.
        on_refused: Takes a call that the upstream refused.
        clock: Time base of the calls' deadlines; loop time by default.
        batch_sizes: Counts the messages of 1, 2, up to 4, up to 8 requests and so on.
    """

    keeps_credentials: ClassVar[bool] = False

    def __init__(
        self,
        target: Target | str,
        config: UpstreamConfig,
        max_message_bytes: int,
        counters: UpstreamCounters,
        *,
        tls: UpstreamCredentials | None = None,
        on_change: Callable[[], None],
        on_stranded: Callable[[Lane, list[Call]], list[Call]],
        on_refused: Callable[[Lane, Call], None],
        clock: RunningClock | None = None,
        batch_sizes: list[int] | None = None,
    ) -> None:
        self.target = target if isinstance(target, Target) else Target.of(target)
        self.address = self.target.address
        self.users = 0
        """Endpoints that use this lane; the manager counts them."""
        self.is_full = False
        """Whether calls wait because as many as may be are open."""
        self._set(config)
        self._set_limit(config)
        self._tls = tls
        self._max_message_bytes = max_message_bytes
        self._max_shared_bytes = MAX_SHARED_BYTES
        self._max_batch_bytes = MAX_SHARED_BYTES
        self._counters = counters
        self._batch_sizes = new_batch_sizes() if batch_sizes is None else batch_sizes
        self._on_change = on_change
        self._on_stranded = on_stranded
        self._on_refused = on_refused

        self._loop = asyncio.get_running_loop()
        self._clock = clock or RunningClock(lambda: self._loop.time())
        self._state = LaneState.CONNECTING
        self._is_stopping = False
        self._is_serving = True
        self._was_up: bool | None = None  # as last logged
        self._is_unary_told = False

        self._waiting: deque[Call] = deque()
        self._lines: tuple[deque[Call], ...] = (self._waiting,)
        # When a batch last emptied the line: every waiting call was made, or moved here, since.
        self._emptied_at = 0.0
        self._open: dict[int, Call] = {}  # written to the current or a draining stream
        self._draining_ids: set[int] = set()  # those written to a draining stream
        self._unary: dict[int, Call] = {}  # under way as a ProcessRequest
        self._late: dict[int, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = inf

    def _set(self, config: UpstreamConfig) -> None:
        self._config = config
        self._max_batch = config.max_batch
        self._max_waiting = config.max_waiting

    def _set_limit(self, config: UpstreamConfig) -> None:
        self._max_open = config.max_open
        self._limit = (
            GradientLimit(config.min_open, config.max_open) if config.adaptive_limit else None
        )

    # The manager's side.

    def apply(self, config: UpstreamConfig) -> None:
        """Take other limits and pauses; calls that are open or wait go on.

        Where what a connection is made with differs, the manager makes another lane.
        """
        before = self._config
        self._set(config)
        limits = (config.adaptive_limit, config.min_open, config.max_open)
        if limits != (before.adaptive_limit, before.min_open, before.max_open):
            # Otherwise what the limit has learned of the upstream stays.
            self._set_limit(config)
            self._wake()

    @property
    def state(self) -> LaneState:
        """The state of the upstream, as far as the lane knows."""
        return self._state

    @property
    def is_up(self) -> bool:
        """Whether the upstream is reachable and does not report NOT_SERVING."""
        return (
            self._state in (LaneState.STREAM, LaneState.UNARY)
            and self._is_serving
            and not self._is_stopping
        )

    @property
    def is_connecting(self) -> bool:
        """Whether a first attempt is under way, so that calls may wait for its outcome."""
        return self._state is LaneState.CONNECTING and not self._is_stopping

    @property
    def is_new(self) -> bool:
        """Whether it was neither reached nor found unreachable yet."""
        return self._was_up is None

    @property
    def max_open(self) -> int:
        """Most calls that may be open now."""
        return self._max_open

    @property
    def open_calls(self) -> int:
        """Calls written and not yet ended."""
        return len(self._open) + len(self._unary)

    @property
    def waiting_calls(self) -> int:
        """Calls not yet written."""
        return sum(map(len, self._lines))

    @property
    def connections(self) -> int:
        """Connections of its own; 0 where they are grpcio's."""
        return 0

    @abstractmethod
    def start(self) -> None:
        """Begin to connect."""

    def submit(self, call: Call) -> None:
        """Take a call and see that it ends."""
        if call.method and self._state is LaneState.STREAM:
            # It goes beside the stream, so it does not wait behind those that go on it.
            self._send_alone(call)
        elif len(self._waiting) >= self._max_waiting:
            self._overflow(call, f"{self._max_waiting} calls wait")
            return
        else:
            self._waiting.append(call)
        if call.deadline < self._timer_due:
            self._arm_timer(call.deadline)
        self._wake()

    @abstractmethod
    def retry_now(self) -> None:
        """End the pause between two attempts, if one is under way."""

    @abstractmethod
    async def stop(self, grace: float) -> None:
        """Close the stream for writing, wait for the open calls' answers, close the connection.

        Args:
            grace: Longest wait for the answers, seconds.
        """

    # What each kind of lane does in its own way.

    @abstractmethod
    def _wake(self) -> None:
        """See that waiting calls are written, as far as there is room now."""

    @abstractmethod
    def _send_alone(self, call: Call) -> None:
        """Send a request that the shared stream cannot take as a unary call."""

    @abstractmethod
    def _unary_expired(self, call: Call) -> None:
        """Leave a unary call whose deadline has passed."""

    # Messages of the stream.

    def _gather(self, is_fresh: bool) -> bytes:
        """Move the next batch from the line to the open calls; return its message, empty for none.

        Args:
            is_fresh: Whether no call in the line has waited, however long the lane was quiet.
        """
        waiting, open_calls = self._waiting, self._open
        room = min(self._max_batch, self._max_open - len(open_calls))
        now = self._loop.time()
        is_old = not is_fresh and self._is_stale(now)
        age_now = self._clock.now() if is_old else 0.0
        size = 0
        batch: list[bytes] = []
        while waiting and len(batch) < room:
            call = waiting[0]
            if call.on_end is None:
                waiting.popleft()
                continue
            if call.method:
                self._send_alone(waiting.popleft())
                continue
            size += len(call.upstream_req) + ENTRY_BYTES
            if size > self._max_batch_bytes:
                if batch:
                    break
                if size > self._max_shared_bytes:
                    self._send_alone(waiting.popleft())
                    size = 0
                    continue
            waiting.popleft()
            open_calls[call.request_id] = call
            batch.append(call.request_at(age_now) if is_old else call.upstream_req)
        if not waiting or is_fresh:
            self._emptied_at = now
        if not batch:
            return b""
        if self._limit is not None:
            last = next(reversed(open_calls))
            self._max_open = self._limit.sent(last, len(open_calls), now)
        counters = self._counters
        counters.batches += 1
        counters.batched_requests += len(batch)
        self._batch_sizes[(len(batch) - 1).bit_length()] += 1
        return encode_batch(batch)

    def _is_stale(self, now: float) -> bool:
        """Return whether a call in the line may have waited long."""
        return now - self._emptied_at > LONG_WAIT_S

    def _set_full(self, is_full: bool) -> None:
        self.is_full = is_full
        self._counters.limited += is_full
        self._on_change()

    def _take_answers(self, batch: bytes, junk: int = 0) -> int:
        """End the calls that a message of a stream answers.

        Args:
            batch: The message.
            junk: What this returned for the stream's message before.

        Returns:
            The stream's answers that nobody waited for, and its messages without any, less those
            that somebody did wait for; at least 0.

        Raises:
            ValueError: It does not decode, has too many answers, or makes that more than MAX_JUNK.
        """
        take_open = self._open.pop
        answers = decode_answers(batch, len(self._open) + MAX_LATE)
        junk -= len(answers) or -1
        for answer in answers:
            call = take_open(answer.request_id, None)
            if call is None:
                junk += self._drop(answer.request_id)
            else:
                self._finish(call, answer)
        if self._limit is not None:
            self._max_open = self._limit.answered(self._open, self._loop.time())
        if self._waiting:
            self._wake()
        if junk > MAX_JUNK:
            raise ValueError("answers to nothing that was asked")
        return max(junk, 0)

    def _drop(self, request_id: int) -> int:
        """Count an answer to no open call; return 1 if it is late, 2 if it is unknown."""
        if request_id in self._late:
            del self._late[request_id]
            self._counters.late_answers += 1
            return 1
        self._counters.unknown_answers += 1
        return 2

    def _learn_limit(self, details: str) -> bool:
        """Lower the size limit of the stream to what the upstream accepts.

        Returns:
            Whether a request was too large; False if it was an answer.
        """
        known = limit_and_size(details)
        if known is None:
            limit = self._max_shared_bytes // 2
        elif known[1] <= self._max_shared_bytes:
            limit = known[0]
        else:
            return False
        limit = max(limit, MIN_SHARED_BYTES)
        self._max_shared_bytes = limit
        self._max_batch_bytes = min(self._max_batch_bytes, limit)
        told = keys(address=self.address, max_message_bytes=limit, why=details)
        logger.warning("upstream_limit", extra=told)
        return True

    def _tell_unary(self) -> None:
        """Log once that the upstream has no ProcessStream."""
        if not self._is_unary_told:
            self._is_unary_told = True
            logger.info("upstream_without_stream", extra=keys(address=self.address))

    # How calls end.

    def _finish(self, call: Call, answer: UpstreamAnswer) -> None:
        if call.on_end is None:
            self._counters.late_answers += 1
        elif answer.status == REFUSED:
            self._counters.refused_calls += 1
            self._on_refused(self, call)
        elif error := answer.error:
            self._counters.bad_answers += 1
            call.fail(
                error,
                outcome=Outcome.DONE,
                status="bad_answer",
                address=self.address,
                is_fault=True,
            )
        else:
            self._counters.answers += 1
            call.answer(answer)

    def _finish_method(self, call: MethodCall, reply: bytes) -> None:
        if call.on_end is None:
            self._counters.late_answers += 1
        else:
            self._counters.answers += 1
            call.take_reply(reply)

    def _written_ids(self) -> set[int]:
        """Return the open calls that were written to the stream in use."""
        return {request_id for request_id in self._open if request_id not in self._draining_ids}

    def _break(self, reason: str) -> None:
        """End the calls written to a stream that has ended."""
        for request_id in self._written_ids():
            self._fail_broken(self._open.pop(request_id), reason)

    def _fail_broken(self, call: Call, reason: str) -> None:
        """End a call that was written and can no longer be answered."""
        if call.on_end is None:
            return  # its caller has given it up, so its end counts for nothing
        self._counters.broken_calls += 1
        call.fail(
            reason,
            outcome=Outcome.UNKNOWN,
            status="broken",
            address=self.address,
            is_fault=not self._is_stopping,
        )

    def _fail_by_status(
        self,
        call: Call,
        status: grpc.StatusCode,
        details: str,
        request_bytes: int,
        *,
        is_remote: bool = True,
    ) -> None:
        """End a unary call by its gRPC status; the arguments are outcome_of()'s."""
        if call.on_end is None:
            return
        code, outcome = outcome_of(status, details, request_bytes, is_remote=is_remote)
        counters = self._counters
        if code is ErrorCode.TOO_LARGE:
            counters.too_large += 1
        elif outcome is Outcome.DONE:
            counters.failed_calls += 1
        else:
            counters.broken_calls += 1
        call.fail(
            details,
            code,
            outcome=outcome,
            status=status.name,
            address=self.address,
            is_fault=is_fault(status, details, is_remote=is_remote) and not self._is_stopping,
        )

    def _overflow(self, call: Call, reason: str) -> None:
        self._counters.overflows += 1
        call.fail(
            reason,
            ErrorCode.BUSY,
            status="overflow",
            address=self.address,
            retry_after_ms=RETRY_MS,
        )

    def _strand(self, reason: str, *, keep: bool = False) -> None:
        """Hand calls not yet written to other lanes; fail, or keep, the rest."""
        if not any(self._lines):
            return
        stranded = [call for line in self._lines for call in line if call.on_end is not None]
        for line in self._lines:
            line.clear()
        if self.is_full:
            self._set_full(False)
        left = self._on_stranded(self, stranded)
        if keep:
            self._waiting.extend(left)
            return
        self._counters.unsent_calls += len(left)
        for call in left:
            call.fail(reason, status="unreachable", address=self.address)

    # Deadlines.

    def _arm_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(self._clock.loop_time(due), self._expire)

    def _expire(self) -> None:
        """End the calls whose deadline has passed; one timer serves all calls."""
        now = self._clock.now()
        self._timer_due = inf
        self._timer = None
        due = inf
        for table in (self._open, self._unary):
            for call in list(table.values()):
                if call.deadline <= now:
                    del table[call.request_id]
                    if table is self._unary:
                        self._unary_expired(call)
                    else:
                        self._remember_late(call.request_id)
                    self._fail_late(call, Outcome.UNKNOWN)
                elif call.deadline < due:
                    due = call.deadline
        for line in self._lines:
            for call in line:
                if call.deadline <= now:
                    self._fail_late(call, Outcome.NOT_STARTED)
                elif call.deadline < due:
                    due = call.deadline
        if due < inf:
            self._arm_timer(max(due, now + TIMER_STEP_S))
        for line in self._lines:
            if line:
                left = [call for call in line if call.on_end is not None]
                line.clear()
                line.extend(left)
                self._wake()

    def _fail_late(self, call: Call, outcome: Outcome) -> None:
        if call.on_end is not None:
            self._counters.unanswered += 1
            call.fail(
                "no answer in time",
                ErrorCode.DEADLINE,
                outcome=outcome,
                status="deadline",
                address=self.address,
                is_fault=outcome is Outcome.UNKNOWN,
            )

    def _remember_late(self, request_id: int) -> None:
        if len(self._late) >= MAX_LATE:
            del self._late[next(iter(self._late))]
        self._late[request_id] = None

    # The state of the upstream.

    def _set_serving(self, is_serving: bool) -> None:
        if is_serving is self._is_serving:
            return
        self._is_serving = is_serving
        self._changed("" if is_serving else "not serving")
        if is_serving:
            self._wake()
        else:
            self._strand("not serving")

    def _enter(self, state: LaneState, reason: str, *, is_quiet: bool = False) -> None:
        if state is self._state:
            return
        self._state = state
        if is_quiet:
            self._on_change()
        else:
            self._changed(reason)
        if state is LaneState.UNARY:
            self._wake()

    def _changed(self, reason: str) -> None:
        """Tell the manager, and log the change once."""
        is_up = self.is_up
        if not self._is_stopping:
            is_news = is_up if self._was_up is None else is_up is not self._was_up
            if is_news or (self._was_up is None and self._state is LaneState.DOWN):
                self._was_up = is_up
                if is_up:
                    self._counters.ups += 1
                    logger.info("upstream_up", extra=keys(address=self.address))
                else:
                    self._counters.downs += 1
                    logger.warning("upstream_down", extra=keys(address=self.address, why=reason))
        self._on_change()
