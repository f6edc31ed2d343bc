"""Frames and envelopes to bytes and back, and the transcoding between client and upstream.

Times, seqs and ids come from the caller; nothing here knows a clock, a socket or a loop.

Incoming messages get upb's verdict: the codec accepts and rejects what protobuf does. Only the
limits of PROTOCOL 1.6 are stricter: unknown groups nest at most 4 deep (else the message is
corrupt); an action has at most 64 bytes and no control character, params at most 64 entries,
headers at most 32 entries and 8 KiB of keys and values (else error is set). An integer above its C
type's range raises OverflowError. A str that UTF-8 cannot encode raises UnicodeEncodeError, which
is a ValueError.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from typing_extensions import disjoint_base

@final
class ClientRequest:
    """One decoded ClientRequest; every field has the value that protobuf would give it."""

    def __init__(self) -> None: ...
    @property
    def msg_id(self) -> int: ...
    @property
    def seq_id(self) -> int: ...
    @property
    def type(self) -> int: ...  # as on the wire, also unknown and negative values
    @property
    def ack_seq_id(self) -> int: ...
    @property
    def payload(self) -> bytes: ...  # copied on each call
    @property
    def headers(self) -> dict[str, str]: ...  # decoded on each call
    @property
    def action(self) -> str | None: ...  # of a BUSINESS payload; None if refused
    @property
    def error(self) -> str: ...  # why a BUSINESS request is refused (ERROR 400), "" if it is good
    @property
    def size(self) -> int: ...  # bytes of the frame, with the 4 of the length
    def upstream_request(
        self,
        identity: bytes,
        client_seq_id: int,
        request_id: int,
        timeout_ms: int,
        peer: bytes,
    ) -> bytes: ...  # PROTOCOL 7.1, 7.2; ValueError if refused or not BUSINESS

@disjoint_base
class FrameDecoder:
    """Splits a stream into frames, however it is cut; use one of the two subclasses below."""

    def __init__(self, max_message_bytes: int) -> None: ...
    max_message_bytes: int
    @property
    def buffered_bytes(self) -> int: ...  # of an incomplete frame
    @property
    def error(self) -> str: ...  # why the stream is broken, "" while it is not; set once
    # About the last feed() of a RequestDecoder:
    @property
    def is_business(self) -> bool: ...  # BUSINESS requests with a msg_id and no others
    @property
    def highest_ack(self) -> int: ...  # ack_seq_id
    @property
    def message_bytes(self) -> int: ...  # their total size
    def feed(self, data: bytes) -> list[Any]: ...

@final
class RequestDecoder(FrameDecoder):
    """The gateway's receiving side of one connection's stream."""

    def feed(self, data: bytes) -> list[ClientRequest]: ...  # the good ones before a bad frame

@final
class ServerPush:
    """One decoded ServerPush, for the client; keeps its chunk alive."""

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
    def message(self) -> str: ...  # decoded on each call, as are data and headers
    @property
    def data(self) -> bytes: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def zone(self) -> str | None: ...  # the value of its "zone" header, None if absent
    @property
    def error(self) -> str: ...  # why it cannot be passed on (ERROR 502), "" if it can
    def body(self, client_seq_id: int) -> bytes: ...  # fields 3-5 and 10 of a BUSINESS_DATA push
    def notifies(self) -> tuple[list[bytes], list[bytes]]: ...  # bodies (before, after)

_RequestDecoder = RequestDecoder
_PushDecoder = PushDecoder

class MessageCodec:
    """Every way into the codec, under one name; the functions below are these same objects."""

    RequestDecoder = _RequestDecoder
    PushDecoder = _PushDecoder
    @staticmethod
    def decode_answer(data: bytes) -> UpstreamAnswer: ...  # raises nothing: see error
    @staticmethod
    def decode_answers(batch: bytes, max_answers: int = ...) -> list[UpstreamAnswer]: ...
    # ValueError: it is corrupt, or has more
    @staticmethod
    def encode_batch(messages: Sequence[bytes]) -> bytes: ...  # an Upstream{Request,Response}Batch
    @staticmethod
    def has_more_entries(message: bytes, limit: int) -> bool: ...  # in its field 1
    @staticmethod
    def split_batch(batch: bytes) -> list[bytes]: ...  # its messages; ValueError: it is corrupt
    @staticmethod
    def encode_identity(session_id: str, openid: str) -> bytes: ...  # fields 1-2 of UpstreamRequest
    @staticmethod
    def push_body(
        type: int,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        client_seq_id: int = 0,
    ) -> bytes: ...
    @staticmethod
    def error_body(
        code: int,
        message: str,
        detail: str = "",
        retry_after_ms: int = 0,
        outcome: int = 0,
        client_seq_id: int = 0,
    ) -> bytes: ...
    @staticmethod
    def notify_body(
        msg_type: str,
        title: str,
        content: str,
        data: bytes,
        metadata: Iterable[tuple[str, str]],
    ) -> bytes: ...  # PROTOCOL 7.6
    @staticmethod
    def push_frame(msg_id: int, seq_id: int, body: bytes) -> bytes: ...
    @staticmethod
    def encode_request(
        msg_id: int,
        seq_id: int,
        type: int,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        ack_seq_id: int = 0,
    ) -> bytes: ...  # a whole frame
    @staticmethod
    def encode_business(action: str, params: Mapping[str, str] | None, data: bytes) -> bytes: ...

decode_answer = MessageCodec.decode_answer
decode_answers = MessageCodec.decode_answers
encode_batch = MessageCodec.encode_batch
split_batch = MessageCodec.split_batch
has_more_entries = MessageCodec.has_more_entries
encode_identity = MessageCodec.encode_identity
push_body = MessageCodec.push_body
error_body = MessageCodec.error_body
notify_body = MessageCodec.notify_body
push_frame = MessageCodec.push_frame
encode_request = MessageCodec.encode_request
encode_business = MessageCodec.encode_business
