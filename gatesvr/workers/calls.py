"""The calls between a supervisor and its workers; what they say is JSON of the structs below.

Structs, because most of it is what the admin server shows and has as structs already. A field that
one side does not know is left out, one that it misses has its default: so workers of two versions
understand each other while one replaces the other.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from google.protobuf.wrappers_pb2 import BytesValue

from ..cluster.calls import Call
from ..config import Config
from ..drain import DrainStatus

__all__ = [
    "RELOAD",
    "STATUS",
    "Nothing",
    "ReloadOrder",
    "Reloaded",
    "WorkerStatus",
    "pack",
    "unpack",
]

T = TypeVar("T")

RELOAD = Call("WorkerReload", BytesValue, BytesValue)
"""Put a configuration in force (ReloadOrder → Reloaded)."""
STATUS = Call("WorkerStatus", BytesValue, BytesValue)
"""Say how it is (Nothing → WorkerStatus)."""


class Nothing(msgspec.Struct, frozen=True):
    """No question, or no answer."""


class ReloadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration to put in force."""

    config: Config


class Reloaded(msgspec.Struct, frozen=True, kw_only=True):
    """Why the configuration before is still in force; empty where the new one is."""

    error: str = ""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker is.

    Attributes:
        not_ready: Why no new clients should be sent to it; empty for nothing.
        drain: How far its drain is.
    """

    not_ready: list[str] = []
    drain: DrainStatus = DrainStatus()


def pack(value: Any = None) -> BytesValue:
    """Return a struct as a call has it; None for nothing."""
    return BytesValue(value=b"{}" if value is None else msgspec.json.encode(value))


def unpack(message: BytesValue, kind: type[T]) -> T:
    """Return the struct of a call.

    Raises:
        msgspec.MsgspecError: It is no struct of this kind.
    """
    return msgspec.json.decode(message.value, type=kind)
