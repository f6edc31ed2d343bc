"""ClientHandler: handles one connection's messages and keeps its deadlines.

Every message is decoded as it arrives. ACK, HEARTBEAT and STOP act at once, and so does BUSINESS
while its session has room. START, and the BUSINESS in *held* (PROTOCOL 3.4) that an answer has made
room for, wait for the connection task. AUTH is checked beside it, and holds nothing up. The session
outlives the handler: once another connection has taken it over, the handler ignores this one.

A handler's states, and the attributes that make them::

    connected    session is None           _start_deadline runs; any other frame is an error
    START read   still None                the connection task authenticates and answers it; other
                                           requests wait in _early
    serving      session is set            BUSINESS waits in _held for room, or for a hello's answer
      proved     _is_proved                a frame came after START_RESP (PROTOCOL 4.2)
      left       session.link is another   the session has moved; frames count as fenced
    ended        _is_ended                 nothing more is handled; connection_lost() follows

The deadlines are those of the connection: START, a frame begun, silence. The login deadline is the
session's, which may change connections before it (PROTOCOL 3.1); SessionManager.sweep keeps it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from .._core.limits import TokenBucket
from ..auth.applicant import Applicant
from ..auth.reasons import AuthFailed, AuthUnavailable, Reason
from ..errors import CloseCode, ErrorCode, ProtocolError
from ..observe.log import keys
from ..protocol.link import Disconnect
from ..protocol.messages import (
    RequestType,
    auth_response_frame,
    parse_ack,
    parse_auth,
    parse_start,
    parse_stop,
)
from ..protocol.server import ServerProtocol
from ..session.outcome import refuse_limited, refuse_unauthenticated, refuse_unavailable
from ..session.state import Verdict

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from .._core.codec import ClientRequest
    from ..protocol.identity import Identity
    from ..protocol.link import Link
    from ..session.outcome import StartOutcome
    from ..session.session import Session
    from .dispatcher import Dispatcher

__all__ = ["ClientHandler"]

logger = logging.getLogger("gatesvr.dispatch")

# On Python 3.11, looking up an enum member costs as much as a call.
_START = int(RequestType.START)
_HEARTBEAT = int(RequestType.HEARTBEAT)
_GAP = Verdict.GAP
_FULL = Verdict.FULL

SILENT_INTERVALS = 3
FRAME_TIMEOUT_S = 10.0
"""From the first byte of a frame to its last (PROTOCOL 1.3)."""
HELD_MESSAGES = 2  # messages of the largest size that held may take
MAX_HELD_REQUESTS = 8_192
"""Most requests held; the smallest have 8 bytes on the wire and take some 270 of memory."""
MAX_EARLY_REQUESTS = 1_024
"""The same before START is answered."""
_AUTH_CODES = {Reason.OPENID: ErrorCode.FORBIDDEN, Reason.LIMITED: ErrorCode.RATE_LIMITED}
"""Codes of AUTH_RESP that say more than that the token is bad."""
MAX_MOVED = 64
"""Held requests accepted in one turn, so that other connections get theirs; a lane's message takes
as many."""
OVERFLOW_RETRY_MS = 1_000
GIVEN_UP = Disconnect("local")
"""The connection has ended before its START was answered."""
AUTH_RATE = 1.0
AUTH_BURST = 5
"""AUTHs of one connection, a second and at once; each costs a signature or a call."""


class ClientHandler:
    """The ConnectionHandler of one client's connection.

    Args:
        link: The connection.
        dispatcher: Shared by all connections.
    """

    def __init__(self, link: Link, dispatcher: Dispatcher) -> None:
        config = dispatcher.session_config
        self._link = link
        self._dispatcher = dispatcher
        self._sessions = dispatcher.sessions
        self._config = config
        self._counters = dispatcher.counters
        self._protocol = ServerProtocol(
            config.max_login_bytes, config.max_message_bytes, self._counters
        )

        self.session: Session | None = None
        """The session that START made or resumed; another connection may have it by now."""
        self._is_proved = False
        self._start: ClientRequest | None = None
        self._is_ended = False
        self._is_leaving = False  # GOAWAY was sent
        self._renewal: asyncio.Task[tuple[Identity, float]] | None = None  # an AUTH being checked
        self._auth_rate: TokenBucket | None = None

        self._held: deque[ClientRequest] = deque()
        self._held_bytes = 0
        self._max_held_bytes = HELD_MESSAGES * config.max_message_bytes
        # Until START is answered, anybody is at the other end.
        self._max_early_bytes = HELD_MESSAGES * config.max_login_bytes
        # A session feeds the stream up to the high water and one message. More is unsequenced
        # answers, which neither a queue's cap nor acks bound.
        self._max_unread_bytes = self._max_held_bytes + dispatcher.high_water
        # Requests read before START was answered; handled in order right after it.
        self._early: list[ClientRequest] = []

        self._start_deadline: float | None = None
        self._silence_s = 0.0

    def __repr__(self) -> str:
        session = self.session.session_id if self.session is not None else None
        return f"<ClientHandler {self._link.connection_id} session={session}>"

    # Called by the connection.

    def connection_made(self, now: float) -> None:
        """Expect START within its deadline."""
        self._start_deadline = now + self._config.start_timeout

    def data_received(self, data: bytes, now: float) -> None:
        """Decode; act on messages that need not wait, hold the rest, and wake the task for START.

        Raises:
            ProtocolError: The peer broke the protocol; the messages before are handled.
        """
        if self._is_ended:
            return
        protocol = self._protocol
        try:
            requests = protocol.receive_data(data, time.time_ns() // 1_000_000, now)
            if self.session is not None and self.session.link is not self._link:
                self._counters.fenced += len(requests)
                return
            if requests and not self._is_proved and self.session is not None:
                self._is_proved = True
                self.session.prove_token()
            if protocol.decoder.is_business and self.session is not None:
                self._hold(requests, now)
                if self._is_ended:
                    return
            else:
                for request in requests:
                    self._handle(request, now)
                    if self._is_ended:
                        return
            out = protocol.data_to_send()
            if out:
                self._write(out)
                if protocol.has_heartbeat and self._link.transport == "quic":
                    # The peer's ack of a PING would count as a sign of life (PROTOCOL 3.8). It does
                    # for a page, which a browser keeps from running in the background.
                    self._link.keep_alive = False
            if protocol.error is not None:
                raise protocol.error
        except ProtocolError:
            self._is_ended = True
            self._drop_held()
            raise
        if self._start is not None:
            self._link.wake()
        elif self._held:
            self._move_held(now)

    async def work(self) -> None:
        """Answer START, and accept held requests that have room now."""
        now = self._dispatcher.clock()
        if self._start is not None:
            start, self._start = self._start, None
            try:
                await self._begin(start)
            except ProtocolError:
                self._is_ended = True
                raise
            now = self._dispatcher.clock()
        self._move_held(now)

    def _move_held(self, now: float) -> None:
        """Accept held requests, in order, while the session has room; MAX_MOVED of them a turn."""
        session = self.session
        held = self._held
        if session is None or not held:
            return
        offer = self._dispatcher.offer
        for _ in range(MAX_MOVED):
            if not held or self._is_ended:
                return
            if session.link is not self._link:
                self._counters.fenced += len(held)
                self._drop_held()
                return
            if session.hello_seq:
                return
            # Taken out first: a request that ends at once may end this connection, too.
            request = held.popleft()
            self._held_bytes -= request.size
            verdict = offer(session, request, now)
            if verdict is _FULL:
                held.appendleft(request)
                self._held_bytes += request.size
                return
            if verdict is _GAP:
                self._write_error(request, ErrorCode.BAD_REQUEST, "gap in seq_id")
        if held:
            self._link.wake()

    def write_ready(self, now: float) -> None:
        """Feed the stream from the session's queue."""
        session = self.session
        if session is not None and session.link is self._link:
            session.sender.feed(now)

    def get_timer(self) -> float | None:
        """Return the nearest deadline: START, a frame begun, silence."""
        if self._is_ended:
            return None
        nearest = math.inf
        if self._start_deadline is not None:
            nearest = self._start_deadline
        protocol = self._protocol
        if protocol.frame_began_at is not None:
            nearest = min(nearest, protocol.frame_began_at + FRAME_TIMEOUT_S)
        if protocol.has_heartbeat and self._silence_s:
            nearest = min(nearest, self._link.last_heard + self._silence_s)
        return None if nearest is math.inf else nearest

    def handle_timer(self, now: float) -> None:
        """Close the connection if it is past a deadline."""
        if self._is_ended:
            return
        counters = self._counters
        began_at = self._protocol.frame_began_at
        if self._start_deadline is not None and now >= self._start_deadline:
            counters.start_timeouts += 1
            self.close(CloseCode.TIMEOUT, "no START")
        elif began_at is not None and now >= began_at + FRAME_TIMEOUT_S:
            counters.frame_timeouts += 1
            self.close(CloseCode.TIMEOUT, "frame begun and not ended")
        elif (
            self._protocol.has_heartbeat
            and self._silence_s
            and now >= self._link.last_heard + self._silence_s
        ):
            counters.heartbeat_timeouts += 1
            self.close(CloseCode.TIMEOUT, "silent")

    def stream_ended(self, now: float) -> None:
        """Close the connection: the client ended its stream. The session is suspended."""
        self.close(CloseCode.NORMAL, "stream ended")

    def path_limit_near(self, now: float) -> None:
        """Send the client to a fresh connection: this one can follow it to no further address.

        The close follows the GOAWAY (PROTOCOL 6). Left open, the connection would go silent at the
        next move, and the client would notice only two heartbeat intervals later.
        """
        last = self._protocol.goaway("address changes") if self.session is not None else b""
        self.close(CloseCode.OVERLOADED, "reconnect_after_ms=0", last=last)

    def connection_lost(self, how: Disconnect, now: float) -> None:
        """Detach the session from its connection."""
        self._is_ended = True
        self._drop_held()
        self._dispatcher.forget(self._link)
        session = self.session
        if session is not None:
            self._sessions.detach(session, self._link, how, now)

    # Called by the dispatcher and by Login.

    def lift_limit(self) -> None:
        """Allow frames of the full size: the session has logged in."""
        self._protocol.logged_in()

    @property
    def is_ended(self) -> bool:
        """Whether nothing more is handled on this connection."""
        return self._is_ended

    @property
    def is_done(self) -> bool:
        """Whether nothing is under way: every request is answered, every message acknowledged."""
        session = self.session
        if session is None or session.link is not self._link:
            return True
        return not (session.pending or self._held or len(session.queue))

    @property
    def transport(self) -> str:
        """The way that the client is connected: quic, websocket or webtransport."""
        return self._link.transport

    @property
    def knows_goaway(self) -> bool:
        """Whether the client follows GOAWAY, or may yet: its session is of protocol 1 or later."""
        return self.session is None or self.session.protocol > 0

    def go_away(self, reason: str, reconnect_after_ms: int, address: str = "") -> bool:
        """Send GOAWAY, once, if the client has a session; return whether it was sent."""
        if self.session is None or self._is_ended or self._is_leaving:
            return False
        self._is_leaving = True
        self._link.write(self._protocol.goaway(reason, reconnect_after_ms, address))
        self._link.request_flush()
        return True

    def close(self, code: CloseCode, reason: str, *, last: bytes = b"") -> None:
        """Close the connection, after a last push if there is one, and ignore the rest it sends."""
        if not self._is_ended:
            self._is_ended = True
            self._drop_held()
            self._link.close(code, reason, last=last)

    # One method a message type.

    def _handle(self, request: ClientRequest, now: float) -> None:
        kind = request.type
        if self.session is None and kind != _START:
            if kind != _HEARTBEAT or request.ack_seq_id:
                self._hold_early(request)
            return
        if request.ack_seq_id and self.session is not None:
            self.session.ack(request.ack_seq_id, now)
        _HANDLERS[kind](self, request, now)

    def _hold(self, requests: list[ClientRequest], now: float) -> None:
        """Hold a batch of BUSINESS requests at once; most reads bring nothing else."""
        decoder = self._protocol.decoder
        if decoder.highest_ack and self.session is not None:
            self.session.ack(decoder.highest_ack, now)
        self._held.extend(requests)
        self._held_bytes += decoder.message_bytes
        if self._held_bytes > self._max_held_bytes or len(self._held) > MAX_HELD_REQUESTS:
            self._overflow()

    def _handle_business(self, request: ClientRequest, now: float) -> None:
        self._held.append(request)
        self._held_bytes += request.size
        if self._held_bytes > self._max_held_bytes or len(self._held) > MAX_HELD_REQUESTS:
            self._overflow()

    def _handle_start(self, request: ClientRequest, now: float) -> None:
        self._start = request

    def _handle_ack(self, request: ClientRequest, now: float) -> None:
        assert self.session is not None
        self._counters.acks += 1
        self.session.ack(parse_ack(request.payload), now)

    def _handle_heartbeat(self, request: ClientRequest, now: float) -> None:
        assert self.session is not None
        self._counters.heartbeats += 1
        self.session.last_activity = now

    def _handle_stop(self, request: ClientRequest, now: float) -> None:
        assert self.session is not None
        self._is_ended = True
        self._drop_held()
        self._sessions.stop(self.session, parse_stop(request.payload), now)

    # START.

    async def _begin(self, request: ClientRequest) -> None:
        """Authenticate, make or resume the session, and answer START."""
        start = parse_start(request.payload)
        self._start_deadline = None
        gate = self._dispatcher.gate
        outcome: StartOutcome | None = None
        identity, deadline = None, math.inf
        if gate is not None and not start.session_id:
            outcome = self._sessions.turn_away(self._link, self._dispatcher.clock())
        # A resume without a token of its own is the session's, as long as its credentials last.
        if gate is not None and outcome is None and (start.auth_token or not start.session_id):
            try:
                identity, deadline = await gate.admit(
                    Applicant(
                        start.auth_token,
                        start.openid,
                        *self._link.peer,
                        client_id=start.client_id,
                        session_id=start.session_id,
                    )
                )
            except AuthFailed as failure:
                is_limited = failure.reason is Reason.LIMITED
                outcome = refuse_limited() if is_limited else refuse_unauthenticated()
            except AuthUnavailable:
                outcome = refuse_unavailable()
            if self._is_ended:
                return
        now = self._dispatcher.clock()
        if outcome is None:
            node = self._dispatcher.node
            if node is None:
                outcome = self._sessions.start(start, self._link, now, identity, deadline)
            else:
                outcome = await node.start_session(start, self._link, identity, deadline)
                now = self._dispatcher.clock()
                if self._is_ended:
                    if outcome.session is not None:
                        self._sessions.detach(outcome.session, self._link, GIVEN_UP, now)
                    return
        response = self._protocol.start_response(outcome.response)
        session = outcome.session
        if session is None:
            self._is_ended = True
            self._drop_held()
            self._link.close(outcome.close_code, outcome.reason, last=response)
            return
        self.session = session
        self._silence_s = SILENT_INTERVALS * outcome.response.heartbeat_interval
        self._link.write(response)
        self._link.request_flush()
        if session.is_logged_in:
            self._protocol.logged_in()
        early, self._early = self._early, []
        self._held_bytes = 0
        for request in early:
            if self._is_ended:
                return
            self._handle(request, now)

    def _handle_auth(self, request: ClientRequest, now: float) -> None:
        """Check new credentials for the session, one AUTH at a time."""
        session, gate = self.session, self._dispatcher.gate
        assert session is not None
        if gate is None:
            self._write(auth_response_frame(request.msg_id))
            return
        if self._auth_rate is None:
            self._auth_rate = TokenBucket(AUTH_RATE, AUTH_BURST)
        if self._renewal is not None or self._auth_rate.take(now):
            self._counters.auths_refused += 1
            self._write(
                auth_response_frame(request.msg_id, code=ErrorCode.RATE_LIMITED, message="busy")
            )
            return
        self._renewal = gate.admit_beside(
            Applicant(
                parse_auth(request.payload),
                session.openid,
                *self._link.peer,
                session_id=session.session_id,
                is_renewal=True,
            )
        )
        self._renewal.add_done_callback(partial(self._renewed, request.msg_id))

    def _renewed(self, msg_id: int, renewal: asyncio.Task[tuple[Identity, float]]) -> None:
        """Answer AUTH: the session has the new credentials, or keeps the old ones."""
        self._renewal = None
        if renewal.cancelled():
            return  # the gateway stops
        try:
            self._answer_auth(msg_id, renewal)
        except Exception as error:
            self._counters.internal_errors += 1
            logger.error("auth_lost", extra=keys(peer=self._link.peer[0]), exc_info=error)
            self.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _answer_auth(self, msg_id: int, renewal: asyncio.Task[tuple[Identity, float]]) -> None:
        error = renewal.exception()
        session = self.session
        assert session is not None
        if self._is_ended or session.link is not self._link or not session.is_valid:
            return
        expires_at, code = 0.0, 0
        if error is None:
            identity, deadline = renewal.result()
            self._sessions.authenticate(session, identity, deadline)
            expires_at = identity.expires_at if deadline != math.inf else 0.0
        elif isinstance(error, AuthFailed):
            code = _AUTH_CODES.get(error.reason, ErrorCode.NOT_LOGGED_IN)
        elif isinstance(error, AuthUnavailable):
            code = ErrorCode.BUSY
        else:
            raise error
        message = "not authenticated" if code else ""
        self._write(auth_response_frame(msg_id, expires_at, code, message))

    def _hold_early(self, request: ClientRequest) -> None:
        self._early.append(request)
        self._held_bytes += request.size
        if self._held_bytes > self._max_early_bytes or len(self._early) > MAX_EARLY_REQUESTS:
            self._overflow()

    def _overflow(self) -> None:
        """Close the connection: the client sent more ahead than held takes."""
        self._counters.held_overflows += 1
        self.close(CloseCode.RATE_LIMITED, f"retry_after_ms={OVERFLOW_RETRY_MS}")

    def _drop_held(self) -> None:
        self._held.clear()
        self._early.clear()
        self._held_bytes = 0

    def _write_error(self, request: ClientRequest, code: ErrorCode, message: str) -> None:
        """Refuse a request that was not accepted; client_seq_id names it (PROTOCOL 2.4)."""
        self._write(
            self._protocol.error_push(request.msg_id, code, message, client_seq_id=request.seq_id)
        )

    def _write(self, data: bytes) -> None:
        """Write unsequenced messages; close the connection if too many bytes stay unsent."""
        self._link.write(data)
        self._link.request_flush()
        if self._link.unsent_bytes() > self._max_unread_bytes:
            self._counters.unread_overflows += 1
            self.close(CloseCode.RATE_LIMITED, f"retry_after_ms={OVERFLOW_RETRY_MS}")


_HANDLERS: Mapping[int, Callable[[ClientHandler, ClientRequest, float], None]] = {
    RequestType.START: ClientHandler._handle_start,
    RequestType.BUSINESS: ClientHandler._handle_business,
    RequestType.ACK: ClientHandler._handle_ack,
    RequestType.HEARTBEAT: ClientHandler._handle_heartbeat,
    RequestType.STOP: ClientHandler._handle_stop,
    RequestType.AUTH: ClientHandler._handle_auth,
}
