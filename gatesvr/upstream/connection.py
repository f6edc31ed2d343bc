"""UpstreamConnection: one HTTP/2 connection to an upstream, between its transport and its lane.

Bytes go from the transport to the core and from the core to the transport; events go to the lane.
What needs a clock is here: the keepalive, and the patience with a peer that reads nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from .._core.http2 import Http2Connection
from ..observe.version import package_version
from .dial import DialError, dial, early_end, reason_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from .._core.http2 import Stream
    from ..config import UpstreamConfig
    from .call import Call
    from .process_stream import ProcessStream
    from .target import Target

__all__ = ["ConnectionUser", "UpstreamConnection", "connect"]

KEEPALIVE_TIMEOUT_S = 20.0
"""Longest wait for the answer to a keepalive PING."""
STALL_S = 20.0
"""Longest time for which a peer may read nothing while there is something to write."""
CLOSE_S = 2.0
"""Longest wait for a transport that is closed."""
MAX_UNSENT_BYTES = 8 << 20
"""Messages that wait for the peer's windows; with more, no further call is written."""


class ConnectionUser(Protocol):
    """What a connection calls: the lane."""

    def connection_made(self, connection: UpstreamConnection) -> None:
        """Open the first streams; they leave with the connection's first bytes."""

    def handle_events(
        self, connection: UpstreamConnection, events: Sequence[tuple[int, Stream | None, bytes]]
    ) -> None:
        """Take what one read has brought; write again: there may be more room."""

    def write_ready(self) -> None:
        """Write again: the transport takes more."""

    def connection_lost(self, connection: UpstreamConnection, reason: str) -> None:
        """End the connection's streams: it has ended, or is of no use any more."""

    def connection_closed(self, connection: UpstreamConnection) -> None:
        """Forget the connection: its transport is closed."""

    def call_cancelled(self, call: Call) -> None:
        """Forget a unary call whose stream was reset, and write the reset."""


async def connect(
    user: ConnectionUser,
    target: Target,
    context: ssl.SSLContext | None,
    config: UpstreamConfig,
    max_message_bytes: int,
    *,
    is_extra: bool,
) -> str:
    """Make a connection whose server speaks HTTP/2; return why there is none, or an empty text.

    Args:
        user: What the connection calls.
        target: The upstream.
        context: How to speak TLS; None for plain text.
        config: The times.
        max_message_bytes: The largest message from the server.
        is_extra: As in UpstreamConnection.
    """
    due = asyncio.get_running_loop().time() + config.connect_timeout
    is_tls = context is not None

    def make() -> UpstreamConnection:
        core = Http2Connection(
            target.authority,
            "https" if is_tls else "http",
            max_message_bytes=max_message_bytes,
            user_agent=f"gatesvr/{package_version()}",
        )
        return UpstreamConnection(user, core, config.keepalive, is_tls=is_tls, is_extra=is_extra)

    try:
        _, connection = await dial(target, context, make, config.connect_timeout)
    except DialError as error:
        return str(error)
    try:
        async with asyncio.timeout_at(due):
            return await connection.ready
    except TimeoutError:
        ready = connection.ready
        if ready.done() and not ready.cancelled():  # both came in one turn of a busy loop
            return ready.result()
        reason = f"the server says nothing in HTTP/2 for {config.connect_timeout:g} s"
        connection.abort(reason)
        return reason


class UpstreamConnection(asyncio.Protocol):
    """Carries the streams of one connection.

    Args:
        user: The lane.
        core: The HTTP/2 of it.
        keepalive: Seconds of silence after which a PING is sent while a stream is open; 0: never.
        is_tls: Whether it speaks TLS.
        is_extra: Whether it is there for unary calls only, beside the lane's first one.

    Attributes:
        ready: Done when the peer's first SETTINGS have come, with an empty text, or when there will
            be none, with the reason.
        is_paused: Whether the transport takes nothing more for now.
        is_lost: Whether it has ended, for its lane.
        is_used: Set by the lane when it writes a call; it clears it from time to time.
        has_served: Set by the lane when a call is answered.
        made_at: Loop time at which the transport was made, 0 before.
        ready_at: Loop time of the peer's first SETTINGS, 0 before.
        process: The lane's ProcessStream on it, the last one; None where there was none.
    """

    __slots__ = (
        "_is_heard",
        "_is_pinged",
        "_is_tls",
        "_keepalive",
        "_keepalive_timer",
        "_loop",
        "_reason",
        "_stall_timer",
        "_transport",
        "_user",
        "core",
        "has_served",
        "is_extra",
        "is_lost",
        "is_paused",
        "is_used",
        "made_at",
        "process",
        "ready",
        "ready_at",
    )

    def __init__(
        self,
        user: ConnectionUser,
        core: Http2Connection,
        keepalive: float,
        *,
        is_tls: bool = False,
        is_extra: bool = False,
    ) -> None:
        self.core = core
        self.is_extra = is_extra
        self.is_paused = False
        self.is_lost = False
        self.is_used = False
        self.has_served = False
        self.made_at = 0.0
        self.ready_at = 0.0
        self.process: ProcessStream | None = None
        self._user = user
        self._keepalive = keepalive
        self._is_tls = is_tls
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[str] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._reason = ""  # why we end it
        self._is_heard = False  # since the last look of the keepalive
        self._is_pinged = False  # the keepalive waits for an answer
        self._keepalive_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None  # or that of a close

    @property
    def has_room(self) -> bool:
        """Whether a unary call can be written now."""
        core = self.core
        return not self.is_paused and core.room > 0 and core.unsent_bytes < MAX_UNSENT_BYTES

    # The lane's side.

    def flush(self) -> None:
        """Write what the core has."""
        if not self.is_paused and self._transport is not None and (data := self.core.take()):
            self._transport.write(data)

    def cancel(self, call: Call) -> None:
        """Reset the stream of a unary call; nothing where its end is among the events to handle."""
        stream = cast("Stream", call.stream)
        if stream.is_ended:
            return
        self.core.cancel(stream)
        call.carrier = call.stream = None
        self._user.call_cancelled(call)

    def use_keepalive(self, seconds: float) -> None:
        """Take another keepalive; the silence counts from now."""
        if seconds != self._keepalive:
            self._keepalive = seconds
            self._is_heard = True
            if not self._is_pinged and not self.is_lost:
                self._arm_keepalive(seconds)

    def close(self) -> None:
        """Say goodbye and close the transport."""
        if self._transport is None or self._transport.is_closing():
            return
        self.core.close()
        self.flush()
        self._stop_timers()
        self._transport.close()
        # A peer that reads nothing holds up what is left to write.
        self._stall_timer = self._loop.call_later(CLOSE_S, self._transport.abort)

    def abort(self, reason: str = "") -> None:
        """Drop the transport without a goodbye."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()
        self._end(self._reason)

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write the preface and the lane's first streams."""
        self._transport = cast("asyncio.Transport", transport)
        self.made_at = self._loop.time()
        self._user.connection_made(self)
        self.flush()
        self._arm_keepalive(self._keepalive)

    def data_received(self, data: bytes) -> None:
        """Take what the peer has sent, in one step; write what that causes."""
        self._is_heard = True
        core = self.core
        # Also without events: a window, or another limit of streams, may have made room.
        self._user.handle_events(self, core.receive(data, self._loop.time()))
        if core.error:
            self.close()  # the GOAWAY says why
            if core.frames_received:
                self._end(core.error)
            else:
                self._end(early_end(None, data, is_tls=self._is_tls))
        elif not self.is_paused and (output := core.take()):
            cast("asyncio.Transport", self._transport).write(output)

    def pause_writing(self) -> None:
        """Leave in the core what there is to write, for as long as the peer may take."""
        self.is_paused = True
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(STALL_S, self._stalled)

    def resume_writing(self) -> None:
        """Write again."""
        self.is_paused = False
        if self._transport is not None and self._transport.is_closing():
            return
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        self._user.write_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the lane."""
        self._stop_timers()
        if not self.ready_at:
            reason = early_end(exc, b"", is_tls=self._is_tls)
        else:
            reason = reason_of(exc) if exc else "the server closed the connection"
        self._end(reason)
        self._transport = None
        self._user.connection_closed(self)

    # Ends and timers.

    def _end(self, reason: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self.is_paused = True  # nothing is written any more
        if self._keepalive_timer is not None:
            self._keepalive_timer.cancel()
        reason = self._reason or reason
        self._user.connection_lost(self, reason)
        if not self.ready.done():
            self.ready.set_result(reason)

    def _stop_timers(self) -> None:
        for timer in (self._keepalive_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._stall_timer = None

    def _stalled(self) -> None:
        self.abort(f"the server read nothing for {STALL_S:g} s")

    def _arm_keepalive(self, seconds: float) -> None:
        if self._keepalive_timer is not None:
            self._keepalive_timer.cancel()
        if seconds:
            self._keepalive_timer = self._loop.call_later(seconds, self._keep_alive)

    def _keep_alive(self) -> None:
        """Look whether the peer was heard; ask it if it was not."""
        is_heard, self._is_heard = self._is_heard, False
        if self._is_pinged and not is_heard:
            self.abort(f"no answer to a PING within {KEEPALIVE_TIMEOUT_S:g} s")
            return
        self._is_pinged = not is_heard and self.core.open_streams > 0
        if self._is_pinged:
            self.core.ping()
            self.flush()
        self._arm_keepalive(KEEPALIVE_TIMEOUT_S if self._is_pinged else self._keepalive)
