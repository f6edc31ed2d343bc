"""Frames and envelopes to bytes and back, and the transcoding between client and upstream messages.

All times, seqs and ids are the caller's; nothing here knows a clock, a socket or a loop.

What comes in gets upb's verdict: what protobuf accepts is accepted, what it rejects is rejected.
Stricter are only the limits of PROTOCOL 1.6: unknown groups nest at most 4 deep (corrupt above it);
an action has at most 64 bytes and no control character, params at most 64 entries, headers at most
32 entries and 8 KiB of keys and values (error above it). Integers above a C type's range raise
OverflowError, a str that UTF-8 cannot encode raises UnicodeEncodeError, which is a ValueError.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from typing_extensions import disjoint_base

@final
class ClientRequest:
    """One decoded ClientRequest; every field has protobuf's last-wins value."""

    def __init__(self) -> None: ...
    @property
    def msg_id(self) -> int: ...
    @property
    def seq_id(self) -> int: ...
    @property
    def type(self) -> int: ...  # as on the wire, unknown and negative values too
    @property
    def ack_seq_id(self) -> int: ...
    @property
    def payload(self) -> bytes: ...  # copied at each call
    @property
    def headers(self) -> dict[str, str]: ...  # decoded at each call
    @property
    def action(self) -> str | None: ...  # of a BUSINESS payload; None where it is refused
    @property
    def error(self) -> str: ...  # why a BUSINESS request is refused (ERROR 400), "" if it is good
    @property
    def size(self) -> int: ...  # bytes of the frame, the length's 4 included
    def upstream_request(
        self,
        identity: bytes,
        client_seq_id: int,
        request_id: int,
        timeout_ms: int,
        peer: bytes,
        trust_trace: bool = False,
    ) -> bytes: ...  # PROTOCOL 7.1, 7.2; ValueError where refused or not BUSINESS

@disjoint_base
class FrameDecoder:
    """Splits a stream into frames, whatever the chunks; use one of its two classes below."""

    def __init__(self, max_message_bytes: int) -> None: ...
    max_message_bytes: int
    @property
    def buffered_bytes(self) -> int: ...  # of a frame begun and not ended
    @property
    def error(self) -> str: ...  # why the stream is broken, "" while it is not; set once
    # Of what the last feed() of a RequestDecoder returned:
    @property
    def is_business(self) -> bool: ...  # BUSINESS with a msg_id, and nothing else
    @property
    def highest_ack(self) -> int: ...  # ack_seq_id
    @property
    def message_bytes(self) -> int: ...  # their size
    def feed(self, data: bytes) -> list[Any]: ...

@final
class RequestDecoder(FrameDecoder):
    """The gateway's receiving side of one connection's stream."""

    def feed(self, data: bytes) -> list[ClientRequest]: ...  # the good ones before a bad frame

@final
class ServerPush:
    """One decoded ServerPush (the client's side); keeps its chunk alive."""

    def __init__(self) -> None: ...
    @property
    def msg_id(self) -> int: ...
    @property
    def seq_id(self) -> int: ...
    @property
    def type(self) -> int: ...
    @property
    def client_seq_id(self) -> int: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def size(self) -> int: ...
    def business(self) -> tuple[int, str, bytes]: ...  # code, message, data; ProtocolError

@final
class PushDecoder(FrameDecoder):
    """The client's receiving side of its stream."""

    def feed(self, data: bytes) -> list[ServerPush]: ...

@final
class UpstreamAnswer:
    """One decoded UpstreamResponse, ready to become pushes."""

    def __init__(self) -> None: ...
    @property
    def code(self) -> int: ...
    @property
    def client_seq_id(self) -> int: ...
    @property
    def request_id(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def notify_count(self) -> int: ...
    @property
    def message(self) -> str: ...  # decoded at each call, as are data and headers
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def zone(self) -> str | None: ...  # its header "zone", None where absent
    @property
    def error(self) -> str: ...  # why it cannot be passed on (ERROR 502), "" where it is good
    def body(self, client_seq_id: int) -> bytes: ...  # fields 3-5 and 10 of a BUSINESS_DATA push
    def notifies(self) -> tuple[list[bytes], list[bytes]]: ...  # bodies (before, after)

def decode_answer(data: bytes) -> UpstreamAnswer: ...  # raises nothing: see error
def decode_answers(batch: bytes) -> list[UpstreamAnswer]: ...  # ValueError: the batch is corrupt
def encode_batch(messages: Sequence[bytes]) -> bytes: ...  # an Upstream{Request,Response}Batch
def split_batch(batch: bytes) -> list[bytes]: ...  # its messages; ValueError: it is corrupt
def encode_identity(session_id: str, openid: str) -> bytes: ...  # fields 1-2 of UpstreamRequest
def push_body(
    type: int,
    payload: bytes,
    headers: Mapping[str, str] | None = None,
    client_seq_id: int = 0,
) -> bytes: ...
def error_body(
    code: int,
    message: str,
    detail: str = "",
    retry_after_ms: int = 0,
    outcome: int = 0,
    client_seq_id: int = 0,
) -> bytes: ...
def notify_body(
    msg_type: str,
    title: str,
    content: str,
    data: bytes,
    metadata: Iterable[tuple[str, str]],
) -> bytes: ...  # PROTOCOL 7.6
def push_frame(msg_id: int, seq_id: int, body: bytes) -> bytes: ...
def encode_request(
    msg_id: int,
    seq_id: int,
    type: int,
    payload: bytes,
    headers: Mapping[str, str] | None = None,
    ack_seq_id: int = 0,
) -> bytes: ...  # a whole frame
def encode_business(action: str, params: Mapping[str, str] | None, data: bytes) -> bytes: ...
