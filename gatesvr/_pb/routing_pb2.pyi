from gatesvr._pb import cluster_pb2 as _cluster_pb2
from gatesvr._pb import upstream_pb2 as _upstream_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BulkRequest(_message.Message):
    __slots__ = ("bulk_id", "push", "is_multicast", "targets")
    BULK_ID_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    IS_MULTICAST_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    bulk_id: str
    push: _upstream_pb2.BroadcastRequest
    is_multicast: bool
    targets: _containers.RepeatedCompositeFieldContainer[_upstream_pb2.UnicastTarget]
    def __init__(self, bulk_id: _Optional[str] = ..., push: _Optional[_Union[_upstream_pb2.BroadcastRequest, _Mapping]] = ..., is_multicast: _Optional[bool] = ..., targets: _Optional[_Iterable[_Union[_upstream_pb2.UnicastTarget, _Mapping]]] = ...) -> None: ...

class BulkAnswer(_message.Message):
    __slots__ = ("sent_count",)
    SENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    sent_count: int
    def __init__(self, sent_count: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class DescribeAnswer(_message.Message):
    __slots__ = ("result", "session")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    result: _cluster_pb2.OwnerResult
    session: _upstream_pb2.SessionInfo
    def __init__(self, result: _Optional[_Union[_cluster_pb2.OwnerResult, str]] = ..., session: _Optional[_Union[_upstream_pb2.SessionInfo, _Mapping]] = ...) -> None: ...

class PageRequest(_message.Message):
    __slots__ = ("filters", "after", "count")
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    filters: _upstream_pb2.ListSessionsRequest
    after: str
    count: int
    def __init__(self, filters: _Optional[_Union[_upstream_pb2.ListSessionsRequest, _Mapping]] = ..., after: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class PageAnswer(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[_upstream_pb2.SessionInfo]
    def __init__(self, sessions: _Optional[_Iterable[_Union[_upstream_pb2.SessionInfo, _Mapping]]] = ...) -> None: ...

class KickUserRequest(_message.Message):
    __slots__ = ("kick",)
    KICK_FIELD_NUMBER: _ClassVar[int]
    kick: _upstream_pb2.KickRequest
    def __init__(self, kick: _Optional[_Union[_upstream_pb2.KickRequest, _Mapping]] = ...) -> None: ...

class KickUserAnswer(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    def __init__(self, sessions: _Optional[int] = ...) -> None: ...

class RegistryRequest(_message.Message):
    __slots__ = ("register", "keep_alive", "deregister", "caller_ip", "owner")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    DEREGISTER_FIELD_NUMBER: _ClassVar[int]
    CALLER_IP_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    register: _upstream_pb2.UpstreamRegisterRequest
    keep_alive: _upstream_pb2.LeaseRequest
    deregister: _upstream_pb2.LeaseRequest
    caller_ip: str
    owner: str
    def __init__(self, register: _Optional[_Union[_upstream_pb2.UpstreamRegisterRequest, _Mapping]] = ..., keep_alive: _Optional[_Union[_upstream_pb2.LeaseRequest, _Mapping]] = ..., deregister: _Optional[_Union[_upstream_pb2.LeaseRequest, _Mapping]] = ..., caller_ip: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class RegistryAnswer(_message.Message):
    __slots__ = ("is_decided", "response")
    IS_DECIDED_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    is_decided: bool
    response: _upstream_pb2.UpstreamRegisterResponse
    def __init__(self, is_decided: _Optional[bool] = ..., response: _Optional[_Union[_upstream_pb2.UpstreamRegisterResponse, _Mapping]] = ...) -> None: ...

class RegisteredEndpoint(_message.Message):
    __slots__ = ("service", "address", "zone", "weight", "lease_id", "lease_seconds", "caller_ip", "owner", "renewals")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CALLER_IP_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    RENEWALS_FIELD_NUMBER: _ClassVar[int]
    service: str
    address: str
    zone: str
    weight: int
    lease_id: str
    lease_seconds: float
    caller_ip: str
    owner: str
    renewals: int
    def __init__(self, service: _Optional[str] = ..., address: _Optional[str] = ..., zone: _Optional[str] = ..., weight: _Optional[int] = ..., lease_id: _Optional[str] = ..., lease_seconds: _Optional[float] = ..., caller_ip: _Optional[str] = ..., owner: _Optional[str] = ..., renewals: _Optional[int] = ...) -> None: ...

class EndpointTable(_message.Message):
    __slots__ = ("node_id", "version", "endpoints")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    version: int
    endpoints: _containers.RepeatedCompositeFieldContainer[RegisteredEndpoint]
    def __init__(self, node_id: _Optional[str] = ..., version: _Optional[int] = ..., endpoints: _Optional[_Iterable[_Union[RegisteredEndpoint, _Mapping]]] = ...) -> None: ...

class TableAnswer(_message.Message):
    __slots__ = ("is_taken", "version")
    IS_TAKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    is_taken: bool
    version: int
    def __init__(self, is_taken: _Optional[bool] = ..., version: _Optional[int] = ...) -> None: ...

class EventSubscription(_message.Message):
    __slots__ = ("node_id", "kinds")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    kinds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("node_id", "number", "events", "missed", "missed_at_ms")
    class MissedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    MISSED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    number: int
    events: _containers.RepeatedCompositeFieldContainer[_upstream_pb2.SessionEvent]
    missed: _containers.ScalarMap[str, int]
    missed_at_ms: int
    def __init__(self, node_id: _Optional[str] = ..., number: _Optional[int] = ..., events: _Optional[_Iterable[_Union[_upstream_pb2.SessionEvent, _Mapping]]] = ..., missed: _Optional[_Mapping[str, int]] = ..., missed_at_ms: _Optional[int] = ...) -> None: ...

class EventAnswer(_message.Message):
    __slots__ = ("is_wanted",)
    IS_WANTED_FIELD_NUMBER: _ClassVar[int]
    is_wanted: bool
    def __init__(self, is_wanted: _Optional[bool] = ...) -> None: ...

class Greeting(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class GreetingAnswer(_message.Message):
    __slots__ = ("subscription", "table")
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    subscription: EventSubscription
    table: EndpointTable
    def __init__(self, subscription: _Optional[_Union[EventSubscription, _Mapping]] = ..., table: _Optional[_Union[EndpointTable, _Mapping]] = ...) -> None: ...
