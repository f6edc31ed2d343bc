"""WebTransportConnection: a QUIC connection whose messages travel in a WebTransport session.

It is a Connection with HTTP/3 (http3.py) between QUIC and its stream. Its states are those of a
Connection, with two differences. HANDSHAKE lasts until a CONNECT request has become the session:
a client that never asks for one has the places and the deadline of a half-open connection.
LINGERING has two steps, a last push, if there is one, and then the capsule that closes the session
with its code; each waits to be acknowledged. Between them the client has HAND_OVER_S to end its
half of the stream, which says that it has read the push: a browser drops what its page has not read
when the session closes. Then the connection is closed, with a code of HTTP/3's that says nothing.

The client opens the one stream that carries messages; from there on its bytes take the same way as
those of stream 0 of a QUIC client.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import CloseCode
from ...protocol.link import Disconnect
from ..connection import (
    CLOSE_LINGER_S,
    ENDED,
    HANDSHAKE,
    LINGERING,
    OPEN,
    Connection,
)
from ..quic.interface import (
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    DatagramDropped,
    HandshakeCompleted,
    StopSending,
    StreamData,
    StreamReset,
)
from ..stream import CLOSING, CUT, STOPPED
from .http3 import (
    Code,
    Http3,
    Http3Error,
    Opened,
    Refused,
    Request,
    SessionEnded,
    close_frame,
    response_frame,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .counters import WebCounters
    from .http3 import Http3Event

__all__ = ["WebTransportConnection", "WebTransportOwner"]

PROTOCOLS = ("webtransport", "webtransport-h3")
"""Names of the protocol: that of the drafts, and that of the newest ones."""
_DRAFT_ASKED, _DRAFT_ANSWER = "sec-webtransport-http3-draft02", "sec-webtransport-http3-draft"
_NOT_OPEN = -1
HAND_OVER_S = 0.5
"""For a client to read the last push: a browser acknowledges before its page has read."""


class WebTransportOwner(Protocol):
    """The listener, as a connection knows it."""

    counters: WebCounters

    def judge(
        self, target: str, origins: Sequence[str], hosts: Sequence[str]
    ) -> tuple[int, str] | None:
        """Return the HTTP status and text that refuse a request, None to go on."""


class WebTransportConnection(Connection):
    """A connection with one WebTransport session.

    Args:
        web: Judges the request.
        arguments: A Connection's.
    """

    __slots__ = (
        "_has_said",
        "_http",
        "_is_acknowledged",
        "_is_answered",
        "_is_greeted",
        "_is_read",
        "_messages",
        "_session",
        "_web",
    )

    def __init__(self, web: WebTransportOwner, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream.transport = "webtransport"
        self._web = web
        self._http = Http3()
        self._session = _NOT_OPEN  # stream of the CONNECT request, once it is accepted
        self._messages = _NOT_OPEN  # the stream that carries messages
        self._has_said = False  # the close of the session was written
        self._is_acknowledged = False  # the last push was; the client reads it
        self._is_read = False  # the client has ended its half of the stream
        self._is_greeted = False  # QUIC's handshake is complete, and our SETTINGS were written
        self._is_answered = False  # a request was refused
        self._quic.stream_id = _NOT_OPEN

    # Events.

    def _handle_events(self, now: float) -> bool:
        """Handle QUIC's events; return whether one was of the stream that carries messages."""
        chunks: list[bytes] = []
        is_end = False
        ended: SessionEnded | None = None
        closed: Disconnect | None = None
        stream = self.stream
        events = self._quic.events
        try:
            while events:
                event = events.popleft()
                if isinstance(event, StreamData):
                    if event.stream_id == self._messages:
                        chunks.append(event.data)
                        is_end = is_end or event.is_end
                        self._is_read = self._is_read or event.is_end
                        continue
                    found = self._http.receive(event.stream_id, event.data, event.is_end)
                    if found and isinstance(opened := found[-1], Opened):
                        chunks.append(opened.data)
                        is_end = opened.is_end
                    ended = self._handle(found, now) or ended
                elif isinstance(event, StreamReset | StopSending):
                    if event.stream_id == self._messages:
                        is_end = self._is_read = True
                        if isinstance(event, StopSending) and stream.state < STOPPED:
                            stream.state = STOPPED
                    elif event.stream_id & 1:
                        raise Http3Error(Code.CLOSED_CRITICAL_STREAM, "our control stream")
                    else:
                        ended = self._handle(self._http.reset(event.stream_id), now) or ended
                elif isinstance(event, ConnectionIdIssued):
                    self._owner.connection_id_issued(self, event.connection_id)
                elif isinstance(event, ConnectionIdRetired):
                    self._owner.connection_id_retired(self, event.connection_id)
                elif isinstance(event, HandshakeCompleted):
                    self._is_greeted = True
                    self._greet()
                elif isinstance(event, Closed):
                    closed = event.how
                    if stream.state < CUT:
                        stream.state = CUT
                elif isinstance(event, DatagramDropped):
                    self._counters.datagrams_over_limit += 1
        except Http3Error as error:
            self._handle_violation(error, now)
            return False
        is_heard = bool(chunks) or is_end
        if is_heard:
            stream.receive(b"".join(chunks), is_end, now)
        if ended is not None and self._state in (OPEN, LINGERING):
            self._handle_session_end(ended, now)
        if closed is not None and self._state != ENDED:
            self._handle_closed(closed, now)
        return is_heard

    def _greet(self) -> None:
        """Open our control stream."""
        try:
            self._quic.open_stream(self._http.greeting())
        except ValueError:
            # RFC 9114 6.2: a client must give us three.
            raise Http3Error(Code.GENERAL_PROTOCOL_ERROR, "no stream for our SETTINGS") from None
        self._driver.mark_dirty(self)

    def _handle(self, events: list[Http3Event], now: float) -> SessionEnded | None:
        """Handle events of HTTP/3; return the end of the session, if it is among them."""
        ended = None
        for event in events:
            if isinstance(event, Request):
                ended = self._handle_request(event, now) or ended
            elif isinstance(event, Opened):
                self._messages = self._quic.stream_id = event.stream_id
            elif isinstance(event, Refused):
                self._refuse_stream(event.stream_id, event.code)
            else:
                ended = event
        return ended

    def _handle_request(self, request: Request, now: float) -> SessionEnded | None:
        quic, fields = self._quic, request.fields
        if self._session != _NOT_OPEN or self._state != HANDSHAKE:
            # One session a connection.
            self._refuse_stream(request.stream_id, Code.REQUEST_REJECTED)
            return None
        status = self._judge(request)
        self._driver.mark_dirty(self)
        if status != 200:
            quic.send_on(request.stream_id, response_frame(status), end=True)
            # The client may read the answer, and leave.
            self._is_answered = True
            self._deadline = min(self._deadline, now + CLOSE_LINGER_S)
            return None
        self._session = request.stream_id
        draft = [(_DRAFT_ANSWER, "draft02")] if _DRAFT_ASKED in fields else []
        quic.send_on(request.stream_id, response_frame(status, *draft))
        self._web.counters.webtransport_accepted += 1
        self._web.counters.webtransport_sessions += 1
        self._handle_handshake(now)
        return self._handle(self._http.accept(request.stream_id), now)

    def _judge(self, request: Request) -> int:
        """Return the HTTP status that answers a request."""
        fields = request.fields
        if (
            fields[":method"] != "CONNECT"
            or fields.get(":protocol") not in PROTOCOLS
            or fields.get(":scheme") != "https"
        ):
            self._web.counters.requests_refused += 1
            return 404
        origins = [fields["origin"]] if "origin" in fields else []
        if "origin" in request.twice:
            origins *= 2
        refused = self._web.judge(fields.get(":path", ""), origins, [fields.get(":authority", "")])
        return 200 if refused is None else refused[0]

    def _refuse_stream(self, stream_id: int, code: Code) -> None:
        self._counters.streams_refused += 1
        self._quic.refuse_stream(stream_id, code)
        self._driver.mark_dirty(self)

    def _handle_violation(self, error: Http3Error, now: float) -> None:
        """Close because the client broke a rule of HTTP/3, or passed a bound."""
        self._web.counters.http3_violations += 1
        self._driver.lines.log(
            logging.INFO,
            "protocol_error",
            now,
            connection=self.connection_id,
            peer=self.stream.peer[0],
            reason=str(error),
        )
        how = self._how
        if how is None:
            is_open = self._state != HANDSHAKE
            how = Disconnect("local" if is_open else "handshake", int(error.code), str(error))
        self._leave(how, error.code, now)

    def _handle_session_end(self, ended: SessionEnded, now: float) -> None:
        """The client has closed the session, or has answered our close."""
        if self._state == LINGERING:
            assert self._how is not None
            if not self._has_said and not self._is_acknowledged:
                self._counters.last_pushes += 1
            self._leave(self._how, Code.NO_ERROR, now)
        else:
            how = Disconnect("peer", ended.code, ended.reason)
            self._leave(how, Code.NO_ERROR, now)

    def _handle_closed(self, how: Disconnect, now: float) -> None:
        """QUIC has ended; a code of the client's is one of HTTP/3's here, and none of ours."""
        if how.kind == "peer":
            if self._state == LINGERING:
                assert self._how is not None
                if not self._has_said and not self._is_acknowledged:
                    self._counters.last_pushes += 1
                how = self._how  # the client has heard, and went first
                self._end(how, self.transmit(now))
                return
            how = Disconnect("peer_transport", how.code, how.reason)
        super()._handle_closed(how, now)

    # The end.

    def _say_close(self, now: float) -> None:
        """Write the capsule that closes the session; what was written before goes first."""
        how = self._how
        assert how is not None
        if self._session == _NOT_OPEN:
            return
        self.transmit(now)
        code = how.code if 0 <= how.code < 1 << 32 else int(CloseCode.KICKED)
        self._quic.send_on(self._session, close_frame(code, how.reason), end=True)
        self._quic.stream_id = self._session
        self._has_said = True

    def _close_now(self, now: float) -> None:
        """Close where no last push has to arrive first."""
        self._say_close(now)
        self.stream.state = CLOSING
        self._wait_a_little(now)

    def _linger(self, now: float) -> None:
        """Say the close after the last push, and end after the close."""
        is_due = now >= self._deadline
        if not self._is_acknowledged and not is_due and not self._quic.is_acknowledged():
            return
        if self._has_said or self._session == _NOT_OPEN:
            self._finish(now)
            return
        if not self._is_acknowledged:
            if self._quic.is_acknowledged():
                self._counters.last_pushes += 1
                self._is_acknowledged = True
                self._deadline = now + HAND_OVER_S
                self._driver.mark_dirty(self)
                if not self._is_read:
                    return
            else:
                self._counters.last_pushes_expired += 1
        elif not is_due and not self._is_read:
            return
        self._is_acknowledged = False
        self._say_close(now)
        self._wait_a_little(now)
        self.transmit(now)

    def _finish(self, now: float) -> None:
        """End with the code of self._how."""
        how = self._how
        assert how is not None
        if not self._has_said:
            self._say_close(now)
        is_fault = how.code == CloseCode.INTERNAL_ERROR
        self._leave(how, Code.INTERNAL_ERROR if is_fault else Code.NO_ERROR, now)

    def _time_out(self, now: float) -> None:
        """End a connection that has not asked for a session, or was refused one."""
        if not self._is_answered:
            self._counters.handshakes_timed_out += 1
        how = Disconnect("handshake", 0, "time-out")
        if self._is_greeted:
            is_late = not self._is_answered
            self._leave(how, Code.REQUEST_INCOMPLETE if is_late else Code.NO_ERROR, now)
        else:
            self._end(how)

    def _leave(self, how: Disconnect, code: Code, now: float) -> None:
        """Close QUIC with a code of HTTP/3's."""
        self.transmit(now)
        self._quic.close(code, "")
        self._end(how, self.transmit(now))

    def _end(self, how: Disconnect, farewell: bytes = b"") -> None:
        if self._session != _NOT_OPEN:
            self._session = _NOT_OPEN
            self._web.counters.webtransport_sessions -= 1
        super()._end(how, farewell)
