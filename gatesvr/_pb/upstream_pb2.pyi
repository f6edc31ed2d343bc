from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NotifySyncHint(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NSH_IMMEDIATELY: _ClassVar[NotifySyncHint]
    NSH_BEFORE_RESPONSE: _ClassVar[NotifySyncHint]
    NSH_AFTER_RESPONSE: _ClassVar[NotifySyncHint]

class UpstreamStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPSTREAM_OK: _ClassVar[UpstreamStatus]
    UPSTREAM_REFUSED: _ClassVar[UpstreamStatus]
NSH_IMMEDIATELY: NotifySyncHint
NSH_BEFORE_RESPONSE: NotifySyncHint
NSH_AFTER_RESPONSE: NotifySyncHint
UPSTREAM_OK: UpstreamStatus
UPSTREAM_REFUSED: UpstreamStatus

class UpstreamRequest(_message.Message):
    __slots__ = ("session_id", "openid", "action", "params", "data", "headers", "client_seq_id", "request_id", "timeout_ms", "peer")
    class ParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    openid: str
    action: str
    params: _containers.ScalarMap[str, str]
    data: bytes
    headers: _containers.ScalarMap[str, str]
    client_seq_id: int
    request_id: int
    timeout_ms: int
    peer: PeerInfo
    def __init__(self, session_id: _Optional[str] = ..., openid: _Optional[str] = ..., action: _Optional[str] = ..., params: _Optional[_Mapping[str, str]] = ..., data: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, str]] = ..., client_seq_id: _Optional[int] = ..., request_id: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., peer: _Optional[_Union[PeerInfo, _Mapping]] = ...) -> None: ...

class UpstreamResponse(_message.Message):
    __slots__ = ("code", "message", "data", "headers", "client_seq_id", "request_id", "notifies", "status")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NOTIFIES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    data: bytes
    headers: _containers.ScalarMap[str, str]
    client_seq_id: int
    request_id: int
    notifies: _containers.RepeatedCompositeFieldContainer[BoundNotify]
    status: UpstreamStatus
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., data: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, str]] = ..., client_seq_id: _Optional[int] = ..., request_id: _Optional[int] = ..., notifies: _Optional[_Iterable[_Union[BoundNotify, _Mapping]]] = ..., status: _Optional[_Union[UpstreamStatus, str]] = ...) -> None: ...

class PeerInfo(_message.Message):
    __slots__ = ("ip", "port", "client_id", "zone", "generation", "auth_subject", "auth_claims", "transport")
    class AuthClaimsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    AUTH_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    AUTH_CLAIMS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    ip: str
    port: int
    client_id: str
    zone: str
    generation: int
    auth_subject: str
    auth_claims: _containers.ScalarMap[str, str]
    transport: str
    def __init__(self, ip: _Optional[str] = ..., port: _Optional[int] = ..., client_id: _Optional[str] = ..., zone: _Optional[str] = ..., generation: _Optional[int] = ..., auth_subject: _Optional[str] = ..., auth_claims: _Optional[_Mapping[str, str]] = ..., transport: _Optional[str] = ...) -> None: ...

class BoundNotify(_message.Message):
    __slots__ = ("sync_hint", "msg_type", "title", "content", "data", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SYNC_HINT_FIELD_NUMBER: _ClassVar[int]
    MSG_TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    sync_hint: NotifySyncHint
    msg_type: str
    title: str
    content: str
    data: bytes
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, sync_hint: _Optional[_Union[NotifySyncHint, str]] = ..., msg_type: _Optional[str] = ..., title: _Optional[str] = ..., content: _Optional[str] = ..., data: _Optional[bytes] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UpstreamRequestBatch(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[UpstreamRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[UpstreamRequest, _Mapping]]] = ...) -> None: ...

class UpstreamResponseBatch(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[UpstreamResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[UpstreamResponse, _Mapping]]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("service_name",)
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    service_name: str
    def __init__(self, service_name: _Optional[str] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("status", "uptime", "active_connections", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    status: str
    uptime: int
    active_connections: int
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, status: _Optional[str] = ..., uptime: _Optional[int] = ..., active_connections: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UnicastPushRequest(_message.Message):
    __slots__ = ("target_type", "target_id", "msg_type", "title", "content", "data", "metadata", "sync_hint", "bind_client_seq_id", "push_id", "ttl_ms", "bind_session_id", "conflate_key")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    MSG_TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SYNC_HINT_FIELD_NUMBER: _ClassVar[int]
    BIND_CLIENT_SEQ_ID_FIELD_NUMBER: _ClassVar[int]
    PUSH_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    BIND_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CONFLATE_KEY_FIELD_NUMBER: _ClassVar[int]
    target_type: str
    target_id: str
    msg_type: str
    title: str
    content: str
    data: bytes
    metadata: _containers.ScalarMap[str, str]
    sync_hint: NotifySyncHint
    bind_client_seq_id: int
    push_id: str
    ttl_ms: int
    bind_session_id: str
    conflate_key: str
    def __init__(self, target_type: _Optional[str] = ..., target_id: _Optional[str] = ..., msg_type: _Optional[str] = ..., title: _Optional[str] = ..., content: _Optional[str] = ..., data: _Optional[bytes] = ..., metadata: _Optional[_Mapping[str, str]] = ..., sync_hint: _Optional[_Union[NotifySyncHint, str]] = ..., bind_client_seq_id: _Optional[int] = ..., push_id: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., bind_session_id: _Optional[str] = ..., conflate_key: _Optional[str] = ...) -> None: ...

class UnicastPushResponse(_message.Message):
    __slots__ = ("success", "message", "error_code", "retry_after_ms", "sessions")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    error_code: str
    retry_after_ms: int
    sessions: int
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ..., error_code: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., sessions: _Optional[int] = ...) -> None: ...

class BroadcastRequest(_message.Message):
    __slots__ = ("msg_type", "title", "content", "data", "metadata", "suspended", "ttl_ms")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MSG_TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SUSPENDED_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    msg_type: str
    title: str
    content: str
    data: bytes
    metadata: _containers.ScalarMap[str, str]
    suspended: bool
    ttl_ms: int
    def __init__(self, msg_type: _Optional[str] = ..., title: _Optional[str] = ..., content: _Optional[str] = ..., data: _Optional[bytes] = ..., metadata: _Optional[_Mapping[str, str]] = ..., suspended: _Optional[bool] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class BroadcastResponse(_message.Message):
    __slots__ = ("sent_count", "message", "error_code")
    SENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    sent_count: int
    message: str
    error_code: str
    def __init__(self, sent_count: _Optional[int] = ..., message: _Optional[str] = ..., error_code: _Optional[str] = ...) -> None: ...

class UpstreamRegisterRequest(_message.Message):
    __slots__ = ("address", "zone_id", "service_name", "lease_seconds", "weight")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ZONE_ID_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    address: str
    zone_id: str
    service_name: str
    lease_seconds: int
    weight: int
    def __init__(self, address: _Optional[str] = ..., zone_id: _Optional[str] = ..., service_name: _Optional[str] = ..., lease_seconds: _Optional[int] = ..., weight: _Optional[int] = ...) -> None: ...

class UpstreamRegisterResponse(_message.Message):
    __slots__ = ("success", "message", "error_code", "lease_id")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    error_code: str
    lease_id: str
    def __init__(self, success: _Optional[bool] = ..., message: _Optional[str] = ..., error_code: _Optional[str] = ..., lease_id: _Optional[str] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("lease_id",)
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    lease_id: str
    def __init__(self, lease_id: _Optional[str] = ...) -> None: ...

class UnicastTarget(_message.Message):
    __slots__ = ("target_type", "target_id")
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    target_type: str
    target_id: str
    def __init__(self, target_type: _Optional[str] = ..., target_id: _Optional[str] = ...) -> None: ...

class MulticastRequest(_message.Message):
    __slots__ = ("targets", "push")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[UnicastTarget]
    push: BroadcastRequest
    def __init__(self, targets: _Optional[_Iterable[_Union[UnicastTarget, _Mapping]]] = ..., push: _Optional[_Union[BroadcastRequest, _Mapping]] = ...) -> None: ...

class UnicastPushBatch(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[UnicastPushRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[UnicastPushRequest, _Mapping]]] = ...) -> None: ...

class UnicastPushBatchResponse(_message.Message):
    __slots__ = ("responses", "moves")
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[UnicastPushResponse]
    moves: bool
    def __init__(self, responses: _Optional[_Iterable[_Union[UnicastPushResponse, _Mapping]]] = ..., moves: _Optional[bool] = ...) -> None: ...

class KickRequest(_message.Message):
    __slots__ = ("target_type", "target_id", "reason", "code")
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    target_type: str
    target_id: str
    reason: str
    code: int
    def __init__(self, target_type: _Optional[str] = ..., target_id: _Optional[str] = ..., reason: _Optional[str] = ..., code: _Optional[int] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("target_type", "target_id")
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    target_type: str
    target_id: str
    def __init__(self, target_type: _Optional[str] = ..., target_id: _Optional[str] = ...) -> None: ...

class SessionInfo(_message.Message):
    __slots__ = ("found", "session_id", "connection", "stream_id", "state", "client_id", "openid", "zone", "user_ip", "next_server_seq", "max_client_seq", "client_ack_server_seq", "create_time_ms", "last_activity_ms", "generation", "in_flight", "protocol", "connection_id", "transport", "max_queue_size", "max_queue_bytes", "next_expected_seq", "last_sent_seq", "last_acked_seq", "waiting_slots", "queued_messages", "queued_bytes", "stopped", "open_slots", "unsent_messages", "queue_sums", "before_notifies", "after_notifies", "held_notifies")
    class QueueSumsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FOUND_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    USER_IP_FIELD_NUMBER: _ClassVar[int]
    NEXT_SERVER_SEQ_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ACK_SERVER_SEQ_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ACTIVITY_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NEXT_EXPECTED_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_SENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_ACKED_SEQ_FIELD_NUMBER: _ClassVar[int]
    WAITING_SLOTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    OPEN_SLOTS_FIELD_NUMBER: _ClassVar[int]
    UNSENT_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SUMS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_NOTIFIES_FIELD_NUMBER: _ClassVar[int]
    AFTER_NOTIFIES_FIELD_NUMBER: _ClassVar[int]
    HELD_NOTIFIES_FIELD_NUMBER: _ClassVar[int]
    found: bool
    session_id: str
    connection: str
    stream_id: int
    state: str
    client_id: str
    openid: str
    zone: str
    user_ip: str
    next_server_seq: int
    max_client_seq: int
    client_ack_server_seq: int
    create_time_ms: int
    last_activity_ms: int
    generation: int
    in_flight: int
    protocol: int
    connection_id: int
    transport: str
    max_queue_size: int
    max_queue_bytes: int
    next_expected_seq: int
    last_sent_seq: int
    last_acked_seq: int
    waiting_slots: int
    queued_messages: int
    queued_bytes: int
    stopped: bool
    open_slots: int
    unsent_messages: int
    queue_sums: _containers.ScalarMap[str, int]
    before_notifies: int
    after_notifies: int
    held_notifies: int
    def __init__(self, found: _Optional[bool] = ..., session_id: _Optional[str] = ..., connection: _Optional[str] = ..., stream_id: _Optional[int] = ..., state: _Optional[str] = ..., client_id: _Optional[str] = ..., openid: _Optional[str] = ..., zone: _Optional[str] = ..., user_ip: _Optional[str] = ..., next_server_seq: _Optional[int] = ..., max_client_seq: _Optional[int] = ..., client_ack_server_seq: _Optional[int] = ..., create_time_ms: _Optional[int] = ..., last_activity_ms: _Optional[int] = ..., generation: _Optional[int] = ..., in_flight: _Optional[int] = ..., protocol: _Optional[int] = ..., connection_id: _Optional[int] = ..., transport: _Optional[str] = ..., max_queue_size: _Optional[int] = ..., max_queue_bytes: _Optional[int] = ..., next_expected_seq: _Optional[int] = ..., last_sent_seq: _Optional[int] = ..., last_acked_seq: _Optional[int] = ..., waiting_slots: _Optional[int] = ..., queued_messages: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., stopped: _Optional[bool] = ..., open_slots: _Optional[int] = ..., unsent_messages: _Optional[int] = ..., queue_sums: _Optional[_Mapping[str, int]] = ..., before_notifies: _Optional[int] = ..., after_notifies: _Optional[int] = ..., held_notifies: _Optional[int] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "openid", "zone", "state")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    openid: str
    zone: str
    state: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., openid: _Optional[str] = ..., zone: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionInfo]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("kinds",)
    KINDS_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kinds: _Optional[_Iterable[str]] = ...) -> None: ...

class SessionEvent(_message.Message):
    __slots__ = ("kind", "session_id", "openid", "generation", "reason", "at_ms", "last_sent_seq", "last_acked_seq", "max_client_seq", "undelivered", "missed", "transport")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_SENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_ACKED_SEQ_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    session_id: str
    openid: str
    generation: int
    reason: str
    at_ms: int
    last_sent_seq: int
    last_acked_seq: int
    max_client_seq: int
    undelivered: int
    missed: int
    transport: str
    def __init__(self, kind: _Optional[str] = ..., session_id: _Optional[str] = ..., openid: _Optional[str] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ..., at_ms: _Optional[int] = ..., last_sent_seq: _Optional[int] = ..., last_acked_seq: _Optional[int] = ..., max_client_seq: _Optional[int] = ..., undelivered: _Optional[int] = ..., missed: _Optional[int] = ..., transport: _Optional[str] = ...) -> None: ...
