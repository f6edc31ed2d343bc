"""GateSvr: a session gateway with QUIC clients in front and gRPC services behind.

The public names load on first use, so ``import gatesvr`` is cheap: a client never imports gRPC, and
an upstream never imports QUIC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import pb as pb
    from .client import Answer as Answer
    from .client import Client as Client
    from .client import Lost as Lost
    from .client import Notify as Notify
    from .config import Config as Config
    from .errors import CloseCode as CloseCode
    from .errors import ConfigError as ConfigError
    from .errors import ConnectionFailed as ConnectionFailed
    from .errors import ErrorCode as ErrorCode
    from .errors import GatesvrError as GatesvrError
    from .errors import LostReason as LostReason
    from .errors import NotifyOverflow as NotifyOverflow
    from .errors import Outcome as Outcome
    from .errors import ProtocolError as ProtocolError
    from .errors import QueueFull as QueueFull
    from .errors import RequestFailed as RequestFailed
    from .errors import SessionError as SessionError
    from .errors import SessionLost as SessionLost
    from .errors import UpstreamError as UpstreamError
    from .gateway import Gateway as Gateway
    from .observe.events import EventKind as EventKind
    from .observe.events import SessionEvent as SessionEvent
    from .service.authentication import Admission as Admission
    from .service.gateway_client import GatewayClient as GatewayClient
    from .service.push_api import Push as Push
    from .service.push_api import PushStream as PushStream
    from .service.request import Reply as Reply
    from .service.request import Request as Request
    from .service.results import PushResult as PushResult
    from .service.results import RegistryResult as RegistryResult
    from .service.results import SessionInfo as SessionInfo
    from .service.service import UpstreamService as UpstreamService

    __version__: str

_MODULES = {
    "Admission": ".service.authentication",
    "Answer": ".client",
    "Client": ".client",
    "CloseCode": ".errors",
    "Config": ".config",
    "ConfigError": ".errors",
    "ConnectionFailed": ".errors",
    "ErrorCode": ".errors",
    "EventKind": ".observe.events",
    "GatesvrError": ".errors",
    "Gateway": ".gateway",
    "GatewayClient": ".service.gateway_client",
    "Lost": ".client",
    "LostReason": ".errors",
    "Notify": ".client",
    "NotifyOverflow": ".errors",
    "Outcome": ".errors",
    "ProtocolError": ".errors",
    "Push": ".service.push_api",
    "PushResult": ".service.results",
    "PushStream": ".service.push_api",
    "QueueFull": ".errors",
    "RegistryResult": ".service.results",
    "Reply": ".service.request",
    "Request": ".service.request",
    "RequestFailed": ".errors",
    "SessionError": ".errors",
    "SessionEvent": ".observe.events",
    "SessionInfo": ".service.results",
    "SessionLost": ".errors",
    "UpstreamError": ".errors",
    "UpstreamService": ".service.service",
}

__all__ = [*_MODULES, "__version__", "pb"]


def __getattr__(name: str) -> Any:
    if name == "pb":
        return importlib.import_module(".pb", __name__)
    if name == "__version__":
        value: Any = importlib.import_module(".observe.version", __name__).package_version()
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
