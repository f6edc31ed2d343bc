from gatesvr._pb import upstream_pb2 as _upstream_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TakeResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAKE_MOVING: _ClassVar[TakeResult]
    TAKE_NOT_OWNER: _ClassVar[TakeResult]
    TAKE_REFUSED: _ClassVar[TakeResult]
    TAKE_GIVEN: _ClassVar[TakeResult]

class OwnerResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OWNER_MOVING: _ClassVar[OwnerResult]
    OWNER_NOT_OWNER: _ClassVar[OwnerResult]
    OWNER_DONE: _ClassVar[OwnerResult]
TAKE_MOVING: TakeResult
TAKE_NOT_OWNER: TakeResult
TAKE_REFUSED: TakeResult
TAKE_GIVEN: TakeResult
OWNER_MOVING: OwnerResult
OWNER_NOT_OWNER: OwnerResult
OWNER_DONE: OwnerResult

class SessionExport(_message.Message):
    __slots__ = ("major", "minor", "crc32", "session")
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    major: int
    minor: int
    crc32: int
    session: bytes
    def __init__(self, major: _Optional[int] = ..., minor: _Optional[int] = ..., crc32: _Optional[int] = ..., session: _Optional[bytes] = ...) -> None: ...

class MovedSession(_message.Message):
    __slots__ = ("session_id", "openid", "epoch", "client_id", "zone", "user_ip", "user_port", "transport", "is_logged_in", "is_after_failed_resume", "protocol", "capabilities", "max_message_bytes", "generation", "create_age_ms", "activity_age_ms", "detached_age_ms", "token", "previous_token", "dead_token", "token_text", "attempt", "limits", "request_rate_left_ms", "resume_rate_left_ms", "identity", "max_client_seq", "requests", "hello_seq", "login_answer", "refused_logins", "queue", "held", "push_ids", "push_id_age_ms", "conflate_keys", "conflate_seqs", "conflate_bytes")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    USER_IP_FIELD_NUMBER: _ClassVar[int]
    USER_PORT_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    IS_LOGGED_IN_FIELD_NUMBER: _ClassVar[int]
    IS_AFTER_FAILED_RESUME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CREATE_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    DETACHED_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEAD_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_RATE_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    RESUME_RATE_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    HELLO_SEQ_FIELD_NUMBER: _ClassVar[int]
    LOGIN_ANSWER_FIELD_NUMBER: _ClassVar[int]
    REFUSED_LOGINS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    PUSH_IDS_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    CONFLATE_KEYS_FIELD_NUMBER: _ClassVar[int]
    CONFLATE_SEQS_FIELD_NUMBER: _ClassVar[int]
    CONFLATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    openid: str
    epoch: int
    client_id: str
    zone: str
    user_ip: str
    user_port: int
    transport: str
    is_logged_in: bool
    is_after_failed_resume: bool
    protocol: int
    capabilities: int
    max_message_bytes: int
    generation: int
    create_age_ms: int
    activity_age_ms: int
    detached_age_ms: int
    token: bytes
    previous_token: bytes
    dead_token: bytes
    token_text: bytes
    attempt: int
    limits: MovedLimits
    request_rate_left_ms: int
    resume_rate_left_ms: int
    identity: MovedIdentity
    max_client_seq: int
    requests: _containers.RepeatedCompositeFieldContainer[MovedRequest]
    hello_seq: int
    login_answer: MovedAnswer
    refused_logins: int
    queue: MovedQueue
    held: MovedMessages
    push_ids: _containers.RepeatedScalarFieldContainer[str]
    push_id_age_ms: _containers.RepeatedScalarFieldContainer[int]
    conflate_keys: _containers.RepeatedScalarFieldContainer[str]
    conflate_seqs: _containers.RepeatedScalarFieldContainer[int]
    conflate_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_id: _Optional[str] = ..., openid: _Optional[str] = ..., epoch: _Optional[int] = ..., client_id: _Optional[str] = ..., zone: _Optional[str] = ..., user_ip: _Optional[str] = ..., user_port: _Optional[int] = ..., transport: _Optional[str] = ..., is_logged_in: _Optional[bool] = ..., is_after_failed_resume: _Optional[bool] = ..., protocol: _Optional[int] = ..., capabilities: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., generation: _Optional[int] = ..., create_age_ms: _Optional[int] = ..., activity_age_ms: _Optional[int] = ..., detached_age_ms: _Optional[int] = ..., token: _Optional[bytes] = ..., previous_token: _Optional[bytes] = ..., dead_token: _Optional[bytes] = ..., token_text: _Optional[bytes] = ..., attempt: _Optional[int] = ..., limits: _Optional[_Union[MovedLimits, _Mapping]] = ..., request_rate_left_ms: _Optional[int] = ..., resume_rate_left_ms: _Optional[int] = ..., identity: _Optional[_Union[MovedIdentity, _Mapping]] = ..., max_client_seq: _Optional[int] = ..., requests: _Optional[_Iterable[_Union[MovedRequest, _Mapping]]] = ..., hello_seq: _Optional[int] = ..., login_answer: _Optional[_Union[MovedAnswer, _Mapping]] = ..., refused_logins: _Optional[int] = ..., queue: _Optional[_Union[MovedQueue, _Mapping]] = ..., held: _Optional[_Union[MovedMessages, _Mapping]] = ..., push_ids: _Optional[_Iterable[str]] = ..., push_id_age_ms: _Optional[_Iterable[int]] = ..., conflate_keys: _Optional[_Iterable[str]] = ..., conflate_seqs: _Optional[_Iterable[int]] = ..., conflate_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

class MovedLimits(_message.Message):
    __slots__ = ("max_in_flight", "max_queue_size", "max_queue_bytes", "max_requests_per_second")
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUESTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    max_in_flight: int
    max_queue_size: int
    max_queue_bytes: int
    max_requests_per_second: int
    def __init__(self, max_in_flight: _Optional[int] = ..., max_queue_size: _Optional[int] = ..., max_queue_bytes: _Optional[int] = ..., max_requests_per_second: _Optional[int] = ...) -> None: ...

class MovedIdentity(_message.Message):
    __slots__ = ("openid", "subject", "claims", "expires_at", "deadline_left_ms")
    class ClaimsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OPENID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    openid: str
    subject: str
    claims: _containers.ScalarMap[str, str]
    expires_at: float
    deadline_left_ms: int
    def __init__(self, openid: _Optional[str] = ..., subject: _Optional[str] = ..., claims: _Optional[_Mapping[str, str]] = ..., expires_at: _Optional[float] = ..., deadline_left_ms: _Optional[int] = ...) -> None: ...

class MovedRequest(_message.Message):
    __slots__ = ("client_seq", "msg_id", "slot", "action", "service", "deadline_left_ms", "at", "request", "before", "after")
    CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    MSG_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    client_seq: int
    msg_id: int
    slot: int
    action: str
    service: str
    deadline_left_ms: int
    at: str
    request: bytes
    before: _containers.RepeatedScalarFieldContainer[bytes]
    after: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, client_seq: _Optional[int] = ..., msg_id: _Optional[int] = ..., slot: _Optional[int] = ..., action: _Optional[str] = ..., service: _Optional[str] = ..., deadline_left_ms: _Optional[int] = ..., at: _Optional[str] = ..., request: _Optional[bytes] = ..., before: _Optional[_Iterable[bytes]] = ..., after: _Optional[_Iterable[bytes]] = ...) -> None: ...

class MovedAnswer(_message.Message):
    __slots__ = ("body", "before", "after", "zone")
    BODY_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    before: _containers.RepeatedScalarFieldContainer[bytes]
    after: _containers.RepeatedScalarFieldContainer[bytes]
    zone: str
    def __init__(self, body: _Optional[bytes] = ..., before: _Optional[_Iterable[bytes]] = ..., after: _Optional[_Iterable[bytes]] = ..., zone: _Optional[str] = ...) -> None: ...

class MovedQueue(_message.Message):
    __slots__ = ("next_seq", "acked_seq", "sent_seq", "send_seq", "messages", "mark_from", "mark_to", "mark_reason", "first_slot", "next_slot", "waiting", "sums", "oldest_age_ms")
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQ_FIELD_NUMBER: _ClassVar[int]
    SENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    SEND_SEQ_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MARK_FROM_FIELD_NUMBER: _ClassVar[int]
    MARK_TO_FIELD_NUMBER: _ClassVar[int]
    MARK_REASON_FIELD_NUMBER: _ClassVar[int]
    FIRST_SLOT_FIELD_NUMBER: _ClassVar[int]
    NEXT_SLOT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    next_seq: int
    acked_seq: int
    sent_seq: int
    send_seq: int
    messages: MovedMessages
    mark_from: _containers.RepeatedScalarFieldContainer[int]
    mark_to: _containers.RepeatedScalarFieldContainer[int]
    mark_reason: _containers.RepeatedScalarFieldContainer[int]
    first_slot: int
    next_slot: int
    waiting: _containers.RepeatedCompositeFieldContainer[MovedSlot]
    sums: _containers.RepeatedScalarFieldContainer[int]
    oldest_age_ms: int
    def __init__(self, next_seq: _Optional[int] = ..., acked_seq: _Optional[int] = ..., sent_seq: _Optional[int] = ..., send_seq: _Optional[int] = ..., messages: _Optional[_Union[MovedMessages, _Mapping]] = ..., mark_from: _Optional[_Iterable[int]] = ..., mark_to: _Optional[_Iterable[int]] = ..., mark_reason: _Optional[_Iterable[int]] = ..., first_slot: _Optional[int] = ..., next_slot: _Optional[int] = ..., waiting: _Optional[_Iterable[_Union[MovedSlot, _Mapping]]] = ..., sums: _Optional[_Iterable[int]] = ..., oldest_age_ms: _Optional[int] = ...) -> None: ...

class MovedSlot(_message.Message):
    __slots__ = ("slot", "messages")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    slot: int
    messages: MovedMessages
    def __init__(self, slot: _Optional[int] = ..., messages: _Optional[_Union[MovedMessages, _Mapping]] = ...) -> None: ...

class MovedMessages(_message.Message):
    __slots__ = ("msg_ids", "flags", "left_ms", "bodies")
    MSG_IDS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    BODIES_FIELD_NUMBER: _ClassVar[int]
    msg_ids: _containers.RepeatedScalarFieldContainer[int]
    flags: _containers.RepeatedScalarFieldContainer[int]
    left_ms: _containers.RepeatedScalarFieldContainer[int]
    bodies: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, msg_ids: _Optional[_Iterable[int]] = ..., flags: _Optional[_Iterable[int]] = ..., left_ms: _Optional[_Iterable[int]] = ..., bodies: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PeerBatch(_message.Message):
    __slots__ = ("frames", "sent_ms")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SENT_MS_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[PeerFrame]
    sent_ms: int
    def __init__(self, frames: _Optional[_Iterable[_Union[PeerFrame, _Mapping]]] = ..., sent_ms: _Optional[int] = ...) -> None: ...

class PeerFrame(_message.Message):
    __slots__ = ("call", "method", "body", "is_more", "error", "timeout_ms")
    CALL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    IS_MORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    call: int
    method: str
    body: bytes
    is_more: bool
    error: str
    timeout_ms: int
    def __init__(self, call: _Optional[int] = ..., method: _Optional[str] = ..., body: _Optional[bytes] = ..., is_more: _Optional[bool] = ..., error: _Optional[str] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class TakeRequest(_message.Message):
    __slots__ = ("move_id", "session_id", "epoch", "start", "ip", "identity")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    session_id: str
    epoch: int
    start: bytes
    ip: str
    identity: MovedIdentity
    def __init__(self, move_id: _Optional[str] = ..., session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., start: _Optional[bytes] = ..., ip: _Optional[str] = ..., identity: _Optional[_Union[MovedIdentity, _Mapping]] = ...) -> None: ...

class TakeAnswer(_message.Message):
    __slots__ = ("result", "state", "start_response", "close_code", "close_reason")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_CODE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_REASON_FIELD_NUMBER: _ClassVar[int]
    result: TakeResult
    state: bytes
    start_response: bytes
    close_code: int
    close_reason: str
    def __init__(self, result: _Optional[_Union[TakeResult, str]] = ..., state: _Optional[bytes] = ..., start_response: _Optional[bytes] = ..., close_code: _Optional[int] = ..., close_reason: _Optional[str] = ...) -> None: ...

class TakenRequest(_message.Message):
    __slots__ = ("session_id", "move_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    move_id: str
    def __init__(self, session_id: _Optional[str] = ..., move_id: _Optional[str] = ...) -> None: ...

class GiveRequest(_message.Message):
    __slots__ = ("move_id", "session_id", "epoch", "state", "owner")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    session_id: str
    epoch: int
    state: bytes
    owner: str
    def __init__(self, move_id: _Optional[str] = ..., session_id: _Optional[str] = ..., epoch: _Optional[int] = ..., state: _Optional[bytes] = ..., owner: _Optional[str] = ...) -> None: ...

class GiveAnswer(_message.Message):
    __slots__ = ("is_taken",)
    IS_TAKEN_FIELD_NUMBER: _ClassVar[int]
    is_taken: bool
    def __init__(self, is_taken: _Optional[bool] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("session_id", "client_seq", "answer", "hello_code")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    HELLO_CODE_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    client_seq: int
    answer: MovedAnswer
    hello_code: int
    def __init__(self, session_id: _Optional[str] = ..., client_seq: _Optional[int] = ..., answer: _Optional[_Union[MovedAnswer, _Mapping]] = ..., hello_code: _Optional[int] = ...) -> None: ...

class ForwardAnswer(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: OwnerResult
    def __init__(self, result: _Optional[_Union[OwnerResult, str]] = ...) -> None: ...

class OwnedPushRequest(_message.Message):
    __slots__ = ("session_id", "needs_login", "push", "try_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NEEDS_LOGIN_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    TRY_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    needs_login: bool
    push: _upstream_pb2.UnicastPushRequest
    try_id: str
    def __init__(self, session_id: _Optional[str] = ..., needs_login: _Optional[bool] = ..., push: _Optional[_Union[_upstream_pb2.UnicastPushRequest, _Mapping]] = ..., try_id: _Optional[str] = ...) -> None: ...

class OwnedPushAnswer(_message.Message):
    __slots__ = ("result", "response")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    result: OwnerResult
    response: _upstream_pb2.UnicastPushResponse
    def __init__(self, result: _Optional[_Union[OwnerResult, str]] = ..., response: _Optional[_Union[_upstream_pb2.UnicastPushResponse, _Mapping]] = ...) -> None: ...

class OwnedKickRequest(_message.Message):
    __slots__ = ("session_id", "kick")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    KICK_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    kick: _upstream_pb2.KickRequest
    def __init__(self, session_id: _Optional[str] = ..., kick: _Optional[_Union[_upstream_pb2.KickRequest, _Mapping]] = ...) -> None: ...

class OwnedKickAnswer(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: OwnerResult
    def __init__(self, result: _Optional[_Union[OwnerResult, str]] = ...) -> None: ...

class ReplacedRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class LifeRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class LifeAnswer(_message.Message):
    __slots__ = ("has_copy", "shows_life")
    HAS_COPY_FIELD_NUMBER: _ClassVar[int]
    SHOWS_LIFE_FIELD_NUMBER: _ClassVar[int]
    has_copy: bool
    shows_life: bool
    def __init__(self, has_copy: _Optional[bool] = ..., shows_life: _Optional[bool] = ...) -> None: ...

class Nothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
