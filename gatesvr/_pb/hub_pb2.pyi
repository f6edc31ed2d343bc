from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HubEntry(_message.Message):
    __slots__ = ("session_id", "owner", "epoch", "openid", "is_logged_in")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    IS_LOGGED_IN_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    owner: str
    epoch: int
    openid: str
    is_logged_in: bool
    def __init__(self, session_id: _Optional[str] = ..., owner: _Optional[str] = ..., epoch: _Optional[int] = ..., openid: _Optional[str] = ..., is_logged_in: _Optional[bool] = ...) -> None: ...

class HubRecord(_message.Message):
    __slots__ = ("entry", "tombstone")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONE_FIELD_NUMBER: _ClassVar[int]
    entry: HubEntry
    tombstone: int
    def __init__(self, entry: _Optional[_Union[HubEntry, _Mapping]] = ..., tombstone: _Optional[int] = ...) -> None: ...

class HubOwned(_message.Message):
    __slots__ = ("session_id", "owner", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    owner: str
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., owner: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class HubNothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HubNodeRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class HubJoinRequest(_message.Message):
    __slots__ = ("node_id", "address")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    address: str
    def __init__(self, node_id: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class HubEntries(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HubEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[HubEntry, _Mapping]]] = ...) -> None: ...

class HubNode(_message.Message):
    __slots__ = ("node_id", "address", "is_leased")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_LEASED_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    address: str
    is_leased: bool
    def __init__(self, node_id: _Optional[str] = ..., address: _Optional[str] = ..., is_leased: _Optional[bool] = ...) -> None: ...

class HubNodes(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[HubNode]
    def __init__(self, nodes: _Optional[_Iterable[_Union[HubNode, _Mapping]]] = ...) -> None: ...

class HubYes(_message.Message):
    __slots__ = ("is_so",)
    IS_SO_FIELD_NUMBER: _ClassVar[int]
    is_so: bool
    def __init__(self, is_so: _Optional[bool] = ...) -> None: ...

class HubRenewRequest(_message.Message):
    __slots__ = ("node_id", "number", "base", "session_ids", "epochs", "ended")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    number: int
    base: int
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    epochs: _containers.RepeatedScalarFieldContainer[int]
    ended: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., number: _Optional[int] = ..., base: _Optional[int] = ..., session_ids: _Optional[_Iterable[str]] = ..., epochs: _Optional[_Iterable[int]] = ..., ended: _Optional[_Iterable[str]] = ...) -> None: ...

class HubRenewAnswer(_message.Message):
    __slots__ = ("is_known", "needs_all", "changed", "records", "unnamed")
    IS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    NEEDS_ALL_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    UNNAMED_FIELD_NUMBER: _ClassVar[int]
    is_known: bool
    needs_all: bool
    changed: _containers.RepeatedScalarFieldContainer[str]
    records: _containers.RepeatedCompositeFieldContainer[HubRecord]
    unnamed: _containers.RepeatedCompositeFieldContainer[HubEntry]
    def __init__(self, is_known: _Optional[bool] = ..., needs_all: _Optional[bool] = ..., changed: _Optional[_Iterable[str]] = ..., records: _Optional[_Iterable[_Union[HubRecord, _Mapping]]] = ..., unnamed: _Optional[_Iterable[_Union[HubEntry, _Mapping]]] = ...) -> None: ...

class HubReadRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class HubCreateRequest(_message.Message):
    __slots__ = ("session_id", "owner", "openid")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OPENID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    owner: str
    openid: str
    def __init__(self, session_id: _Optional[str] = ..., owner: _Optional[str] = ..., openid: _Optional[str] = ...) -> None: ...

class HubMoveRequest(_message.Message):
    __slots__ = ("owned", "to")
    OWNED_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    owned: HubOwned
    to: str
    def __init__(self, owned: _Optional[_Union[HubOwned, _Mapping]] = ..., to: _Optional[str] = ...) -> None: ...

class HubRemoveRequest(_message.Message):
    __slots__ = ("owned", "tombstone")
    OWNED_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONE_FIELD_NUMBER: _ClassVar[int]
    owned: HubOwned
    tombstone: int
    def __init__(self, owned: _Optional[_Union[HubOwned, _Mapping]] = ..., tombstone: _Optional[int] = ...) -> None: ...

class HubFindRequest(_message.Message):
    __slots__ = ("openid",)
    OPENID_FIELD_NUMBER: _ClassVar[int]
    openid: str
    def __init__(self, openid: _Optional[str] = ...) -> None: ...

class HubFound(_message.Message):
    __slots__ = ("entries", "version", "leased")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASED_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HubEntry]
    version: int
    leased: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entries: _Optional[_Iterable[_Union[HubEntry, _Mapping]]] = ..., version: _Optional[int] = ..., leased: _Optional[_Iterable[str]] = ...) -> None: ...

class HubFindAllRequest(_message.Message):
    __slots__ = ("openids",)
    OPENIDS_FIELD_NUMBER: _ClassVar[int]
    openids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, openids: _Optional[_Iterable[str]] = ...) -> None: ...

class HubFoundAll(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[HubFound]
    def __init__(self, found: _Optional[_Iterable[_Union[HubFound, _Mapping]]] = ...) -> None: ...

class HubLoginRequest(_message.Message):
    __slots__ = ("owned", "is_after_failed_resume", "version", "victims")
    OWNED_FIELD_NUMBER: _ClassVar[int]
    IS_AFTER_FAILED_RESUME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VICTIMS_FIELD_NUMBER: _ClassVar[int]
    owned: HubOwned
    is_after_failed_resume: bool
    version: int
    victims: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, owned: _Optional[_Union[HubOwned, _Mapping]] = ..., is_after_failed_resume: _Optional[bool] = ..., version: _Optional[int] = ..., victims: _Optional[_Iterable[str]] = ...) -> None: ...

class HubLogin(_message.Message):
    __slots__ = ("result", "replaced")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LOST: _ClassVar[HubLogin.Result]
        BUSY: _ClassVar[HubLogin.Result]
        AGAIN: _ClassVar[HubLogin.Result]
        DONE: _ClassVar[HubLogin.Result]
    LOST: HubLogin.Result
    BUSY: HubLogin.Result
    AGAIN: HubLogin.Result
    DONE: HubLogin.Result
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    result: HubLogin.Result
    replaced: _containers.RepeatedCompositeFieldContainer[HubEntry]
    def __init__(self, result: _Optional[_Union[HubLogin.Result, str]] = ..., replaced: _Optional[_Iterable[_Union[HubEntry, _Mapping]]] = ...) -> None: ...
