from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REQUEST_UNKNOWN: _ClassVar[RequestType]
    REQUEST_START: _ClassVar[RequestType]
    REQUEST_STOP: _ClassVar[RequestType]
    REQUEST_HEARTBEAT: _ClassVar[RequestType]
    REQUEST_BUSINESS: _ClassVar[RequestType]
    REQUEST_ACK: _ClassVar[RequestType]
    REQUEST_AUTH: _ClassVar[RequestType]

class PushType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUSH_UNKNOWN: _ClassVar[PushType]
    PUSH_START_RESP: _ClassVar[PushType]
    PUSH_HEARTBEAT_RESP: _ClassVar[PushType]
    PUSH_BUSINESS_DATA: _ClassVar[PushType]
    PUSH_ERROR: _ClassVar[PushType]
    PUSH_GOAWAY: _ClassVar[PushType]
    PUSH_KICK: _ClassVar[PushType]
    PUSH_SKIP: _ClassVar[PushType]
    PUSH_AUTH_RESP: _ClassVar[PushType]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_UNKNOWN: _ClassVar[StopReason]
    STOP_USER_LOGOUT: _ClassVar[StopReason]
    STOP_APP_CLOSE: _ClassVar[StopReason]
    STOP_SWITCH_ACCOUNT: _ClassVar[StopReason]

class SessionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATE_UNSPECIFIED: _ClassVar[SessionState]
    SESSION_STATE_INITED: _ClassVar[SessionState]
    SESSION_STATE_NORMAL: _ClassVar[SessionState]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNKNOWN: _ClassVar[Outcome]
    OUTCOME_NOT_STARTED: _ClassVar[Outcome]
    OUTCOME_DONE: _ClassVar[Outcome]

class LostReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOST_NONE: _ClassVar[LostReason]
    LOST_EXPIRED: _ClassVar[LostReason]
    LOST_OVERFLOW: _ClassVar[LostReason]
    LOST_UNKNOWN_SESSION: _ClassVar[LostReason]
    LOST_FAILOVER: _ClassVar[LostReason]
    LOST_DENIED: _ClassVar[LostReason]
    LOST_CONFLATED: _ClassVar[LostReason]
    LOST_REPLACED: _ClassVar[LostReason]
    LOST_KICKED: _ClassVar[LostReason]
REQUEST_UNKNOWN: RequestType
REQUEST_START: RequestType
REQUEST_STOP: RequestType
REQUEST_HEARTBEAT: RequestType
REQUEST_BUSINESS: RequestType
REQUEST_ACK: RequestType
REQUEST_AUTH: RequestType
PUSH_UNKNOWN: PushType
PUSH_START_RESP: PushType
PUSH_HEARTBEAT_RESP: PushType
PUSH_BUSINESS_DATA: PushType
PUSH_ERROR: PushType
PUSH_GOAWAY: PushType
PUSH_KICK: PushType
PUSH_SKIP: PushType
PUSH_AUTH_RESP: PushType
STOP_UNKNOWN: StopReason
STOP_USER_LOGOUT: StopReason
STOP_APP_CLOSE: StopReason
STOP_SWITCH_ACCOUNT: StopReason
SESSION_STATE_UNSPECIFIED: SessionState
SESSION_STATE_INITED: SessionState
SESSION_STATE_NORMAL: SessionState
OUTCOME_UNKNOWN: Outcome
OUTCOME_NOT_STARTED: Outcome
OUTCOME_DONE: Outcome
LOST_NONE: LostReason
LOST_EXPIRED: LostReason
LOST_OVERFLOW: LostReason
LOST_UNKNOWN_SESSION: LostReason
LOST_FAILOVER: LostReason
LOST_DENIED: LostReason
LOST_CONFLATED: LostReason
LOST_REPLACED: LostReason
LOST_KICKED: LostReason

class ClientRequest(_message.Message):
    __slots__ = ("msg_id", "seq_id", "type", "payload", "headers", "openid", "ack_seq_id")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MSG_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    ACK_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    msg_id: int
    seq_id: int
    type: RequestType
    payload: bytes
    headers: _containers.ScalarMap[str, str]
    openid: str
    ack_seq_id: int
    def __init__(self, msg_id: _Optional[int] = ..., seq_id: _Optional[int] = ..., type: _Optional[_Union[RequestType, str]] = ..., payload: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, str]] = ..., openid: _Optional[str] = ..., ack_seq_id: _Optional[int] = ...) -> None: ...

class ServerPush(_message.Message):
    __slots__ = ("msg_id", "seq_id", "type", "payload", "headers", "client_seq_id")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MSG_ID_FIELD_NUMBER: _ClassVar[int]
    SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    msg_id: int
    seq_id: int
    type: PushType
    payload: bytes
    headers: _containers.ScalarMap[str, str]
    client_seq_id: int
    def __init__(self, msg_id: _Optional[int] = ..., seq_id: _Optional[int] = ..., type: _Optional[_Union[PushType, str]] = ..., payload: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, str]] = ..., client_seq_id: _Optional[int] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("openid", "client_id", "auth_token", "last_acked_seq_id", "session_id", "resume_token", "attempt", "protocol", "capabilities", "max_message_bytes")
    OPENID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LAST_ACKED_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    openid: str
    client_id: str
    auth_token: str
    last_acked_seq_id: int
    session_id: str
    resume_token: bytes
    attempt: int
    protocol: int
    capabilities: int
    max_message_bytes: int
    def __init__(self, openid: _Optional[str] = ..., client_id: _Optional[str] = ..., auth_token: _Optional[str] = ..., last_acked_seq_id: _Optional[int] = ..., session_id: _Optional[str] = ..., resume_token: _Optional[bytes] = ..., attempt: _Optional[int] = ..., protocol: _Optional[int] = ..., capabilities: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class StartResponse(_message.Message):
    __slots__ = ("success", "error", "heartbeat_interval", "connection_id", "session_id", "resume_token", "resumed", "replay_from", "replay_to", "lost_from", "lost_to", "lost_reason", "max_client_seq", "generation", "max_message_bytes", "max_in_flight", "attempt", "protocol", "capabilities", "state", "resume_window_ms", "max_unacked_messages", "max_unacked_bytes", "auth_expires_at_ms")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    REPLAY_FROM_FIELD_NUMBER: _ClassVar[int]
    REPLAY_TO_FIELD_NUMBER: _ClassVar[int]
    LOST_FROM_FIELD_NUMBER: _ClassVar[int]
    LOST_TO_FIELD_NUMBER: _ClassVar[int]
    LOST_REASON_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESUME_WINDOW_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_UNACKED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_UNACKED_BYTES_FIELD_NUMBER: _ClassVar[int]
    AUTH_EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error: ErrorMessage
    heartbeat_interval: int
    connection_id: str
    session_id: str
    resume_token: bytes
    resumed: bool
    replay_from: int
    replay_to: int
    lost_from: int
    lost_to: int
    lost_reason: LostReason
    max_client_seq: int
    generation: int
    max_message_bytes: int
    max_in_flight: int
    attempt: int
    protocol: int
    capabilities: int
    state: SessionState
    resume_window_ms: int
    max_unacked_messages: int
    max_unacked_bytes: int
    auth_expires_at_ms: int
    def __init__(self, success: _Optional[bool] = ..., error: _Optional[_Union[ErrorMessage, _Mapping]] = ..., heartbeat_interval: _Optional[int] = ..., connection_id: _Optional[str] = ..., session_id: _Optional[str] = ..., resume_token: _Optional[bytes] = ..., resumed: _Optional[bool] = ..., replay_from: _Optional[int] = ..., replay_to: _Optional[int] = ..., lost_from: _Optional[int] = ..., lost_to: _Optional[int] = ..., lost_reason: _Optional[_Union[LostReason, str]] = ..., max_client_seq: _Optional[int] = ..., generation: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_in_flight: _Optional[int] = ..., attempt: _Optional[int] = ..., protocol: _Optional[int] = ..., capabilities: _Optional[int] = ..., state: _Optional[_Union[SessionState, str]] = ..., resume_window_ms: _Optional[int] = ..., max_unacked_messages: _Optional[int] = ..., max_unacked_bytes: _Optional[int] = ..., auth_expires_at_ms: _Optional[int] = ...) -> None: ...

class AuthRequest(_message.Message):
    __slots__ = ("auth_token",)
    AUTH_TOKEN_FIELD_NUMBER: _ClassVar[int]
    auth_token: str
    def __init__(self, auth_token: _Optional[str] = ...) -> None: ...

class AuthResponse(_message.Message):
    __slots__ = ("success", "error", "expires_at_ms")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    error: ErrorMessage
    expires_at_ms: int
    def __init__(self, success: _Optional[bool] = ..., error: _Optional[_Union[ErrorMessage, _Mapping]] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: StopReason
    def __init__(self, reason: _Optional[_Union[StopReason, str]] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("client_timestamp",)
    CLIENT_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    client_timestamp: int
    def __init__(self, client_timestamp: _Optional[int] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("client_timestamp", "server_timestamp")
    CLIENT_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    client_timestamp: int
    server_timestamp: int
    def __init__(self, client_timestamp: _Optional[int] = ..., server_timestamp: _Optional[int] = ...) -> None: ...

class BusinessRequest(_message.Message):
    __slots__ = ("action", "params", "data")
    class ParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTION_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    action: str
    params: _containers.ScalarMap[str, str]
    data: bytes
    def __init__(self, action: _Optional[str] = ..., params: _Optional[_Mapping[str, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class BusinessResponse(_message.Message):
    __slots__ = ("code", "message", "data")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    data: bytes
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ErrorMessage(_message.Message):
    __slots__ = ("error_code", "error_message", "detail", "retry_after_ms", "outcome")
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    error_code: int
    error_message: str
    detail: str
    retry_after_ms: int
    outcome: Outcome
    def __init__(self, error_code: _Optional[int] = ..., error_message: _Optional[str] = ..., detail: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ...) -> None: ...

class ClientAck(_message.Message):
    __slots__ = ("acked_seq_id",)
    ACKED_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    acked_seq_id: int
    def __init__(self, acked_seq_id: _Optional[int] = ...) -> None: ...

class Skip(_message.Message):
    __slots__ = ("from_seq", "messages", "reason")
    FROM_SEQ_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    from_seq: int
    messages: int
    reason: LostReason
    def __init__(self, from_seq: _Optional[int] = ..., messages: _Optional[int] = ..., reason: _Optional[_Union[LostReason, str]] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("reason", "reconnect_after_ms", "address")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reconnect_after_ms: int
    address: str
    def __init__(self, reason: _Optional[str] = ..., reconnect_after_ms: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class Kick(_message.Message):
    __slots__ = ("code", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
