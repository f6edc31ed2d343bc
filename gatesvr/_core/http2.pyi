"""The client's side of one HTTP/2 connection, as gRPC uses it (RFC 9113, gRPC over HTTP/2).

Bytes in, events out; calls in, bytes out. Time is an argument; nothing here knows a clock, a socket
or a loop. After every call that may write (all but the attributes), hand take() to the socket.
"""

from collections.abc import Iterable
from typing import TypeAlias, final

# Kinds of events. Those of the connection have no stream: all but HEADERS, MESSAGE and ENDED.
HEADERS: int  # an open() stream has its response head, and goes on
MESSAGE: int  # a message of an open() stream, in the event's bytes
ENDED: int  # the stream has ended; of a call() the only event
GOAWAY: int  # the peer says goodbye; its text in the event's bytes
PONG: int  # the answer to ping()
READY: int  # the peer's first SETTINGS

# Error codes (RFC 9113 7).
NO_ERROR: int
PROTOCOL_ERROR: int
INTERNAL_ERROR: int
FLOW_CONTROL_ERROR: int
SETTINGS_TIMEOUT: int
STREAM_CLOSED: int
FRAME_SIZE_ERROR: int
REFUSED_STREAM: int
CANCEL: int
COMPRESSION_ERROR: int
CONNECT_ERROR: int
ENHANCE_YOUR_CALM: int
INADEQUATE_SECURITY: int
HTTP_1_1_REQUIRED: int

_Event: TypeAlias = tuple[int, Stream | None, bytes]

@final
class Stream:
    """One call or stream of messages; Http2Connection.call() and open() make it."""

    def __init__(self) -> None: ...
    owner: object
    @property
    def id(self) -> int: ...
    @property
    def is_unary(self) -> bool: ...
    @property
    def is_ended(self) -> bool: ...  # also by cancel(), which makes no event
    @property
    def status(self) -> int: ...  # gRPC status, -1 until an ENDED event
    @property
    def details(self) -> str: ...  # the peer's grpc-message, or ours where is_remote is False
    @property
    def is_remote(self) -> bool: ...  # the status was in the peer's trailers
    @property
    def is_unprocessed(self) -> bool: ...  # the peer says that it did not begin, and sent no head
    @property
    def message(self) -> bytes | None: ...  # a unary call's response, where the status is 0
    @property
    def unsent_bytes(self) -> int: ...  # of messages that wait for the peer's windows

@final
class Http2Connection:
    def __init__(
        self, authority: str, scheme: str, *, max_message_bytes: int, user_agent: str = "gatesvr"
    ) -> None: ...  # ValueError: a text that no header may hold, or a limit out of range
    @property
    def error(self) -> str: ...  # why it ended by our judgement, "" while it has not; set once
    @property
    def error_code(self) -> int: ...  # the code of our GOAWAY, -1 before one
    @property
    def is_ready(self) -> bool: ...  # the peer's first SETTINGS have come
    @property
    def is_leaving(self) -> bool: ...  # it opens no more streams
    @property
    def goaway_code(self) -> int: ...  # of the peer's GOAWAY, -1 before one
    @property
    def goaway_text(self) -> str: ...
    @property
    def goodbye(self) -> str: ...  # the peer's GOAWAY, as people read it; "" before one
    @property
    def room(self) -> int: ...  # streams that may be opened now
    @property
    def open_streams(self) -> int: ...
    @property
    def max_streams(self) -> int: ...  # the peer's MAX_CONCURRENT_STREAMS
    @property
    def unsent_bytes(self) -> int: ...  # of messages that wait for the peer's windows
    @property
    def buffered_bytes(self) -> int: ...  # received and not handed over
    @property
    def frames_received(self) -> int: ...
    @property
    def pings_answered(self) -> int: ...
    @property
    def settings_received(self) -> int: ...
    @property
    def resets_received(self) -> int: ...  # RST_STREAM of open streams
    def call(
        self,
        path: str,
        message: bytes,
        owner: object,
        timeout_ms: int = 0,
        metadata: Iterable[tuple[str, str]] | None = None,
    ) -> Stream: ...  # RuntimeError: no room; ValueError: metadata that no header may hold
    def open(
        self,
        path: str,
        owner: object,
        timeout_ms: int = 0,
        metadata: Iterable[tuple[str, str]] | None = None,
    ) -> Stream: ...  # as call()
    def send(self, stream: Stream, message: bytes) -> None: ...  # nothing on an ended stream
    def finish(self, stream: Stream) -> None: ...  # nothing on an ended stream
    def cancel(self, stream: Stream, code: int = 8) -> None: ...  # nothing on an ended stream
    def ping(self) -> None: ...  # nothing while one is under way
    def close(self, text: str = "") -> None: ...  # GOAWAY(NO_ERROR); open streams go on
    def receive(self, data: bytes, now: float) -> list[_Event]: ...  # now: seconds, never back
    def take(self) -> bytes: ...  # everything to write now, b"" for nothing
    def streams(self) -> list[Stream]: ...  # the open ones, oldest first
