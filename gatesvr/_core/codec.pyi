"""Frames and envelopes to bytes and back, and the transcoding between client and upstream messages.

All times, seqs and ids are the caller's; nothing here knows a clock, a socket or a loop.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import final

# RequestType, PushType, Outcome and LostReason as on the wire.

@final
class ClientRequest:
    """One decoded ClientRequest. Every field has protobuf's last-wins value."""

    msg_id: int
    seq_id: int
    type: int
    ack_seq_id: int
    payload: bytes
    @property
    def headers(self) -> dict[str, str]: ...  # decoded on demand
    @property
    def action(self) -> str | None: ...  # of a BUSINESS payload; None where it does not decode
    @property
    def error(self) -> str: ...  # why a BUSINESS payload is refused (ERROR 400), "" where it is good
    @property
    def size(self) -> int: ...  # bytes of the frame, the length's 4 included
    def upstream_request(
        self, identity: bytes, client_seq_id: int, request_id: int, timeout_ms: int, peer: bytes
    ) -> bytes: ...

@final
class RequestDecoder:
    """The gateway's receiving side of one connection's stream."""

    def __init__(self, max_message_bytes: int) -> None: ...
    max_message_bytes: int
    @property
    def buffered_bytes(self) -> int: ...  # of a frame begun and not ended
    @property
    def error(self) -> str: ...  # why the stream is broken, "" while it is not; set once
    def feed(self, data: bytes) -> list[ClientRequest]: ...

@final
class ServerPush:
    """One decoded ServerPush (the client's side)."""

    msg_id: int
    seq_id: int
    type: int
    client_seq_id: int
    payload: bytes
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def size(self) -> int: ...
    def business(self) -> tuple[int, str, bytes]: ...  # code, message, data of BUSINESS_DATA

@final
class PushDecoder:
    """The client's receiving side of its stream."""

    def __init__(self, max_message_bytes: int) -> None: ...
    max_message_bytes: int
    @property
    def buffered_bytes(self) -> int: ...
    @property
    def error(self) -> str: ...
    def feed(self, data: bytes) -> list[ServerPush]: ...

@final
class UpstreamAnswer:
    """One decoded UpstreamResponse, ready to become pushes."""

    code: int
    client_seq_id: int
    request_id: int
    status: int
    @property
    def zone(self) -> str | None: ...  # its header "zone", None where absent
    @property
    def error(self) -> str: ...  # why it cannot be passed on (ERROR 502), "" where it is good
    def body(self, client_seq_id: int) -> bytes: ...  # fields 3-5 and 10 of a BUSINESS_DATA ServerPush
    def notifies(self) -> tuple[list[bytes], list[bytes]]: ...  # bodies (before, after)

def decode_answer(data: bytes) -> UpstreamAnswer: ...
def decode_answers(batch: bytes) -> list[UpstreamAnswer]: ...  # an UpstreamResponseBatch
def encode_batch(messages: Sequence[bytes]) -> bytes: ...  # an Upstream{Request,Response}Batch
def split_batch(batch: bytes) -> list[bytes]: ...  # the inverse: the serialized messages of a batch
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
