"""What a supervisor asks its workers for the admin server: calls, and what goes with them.

Each is a typed call between processes whose request and answer are msgpack of the structs named
here: those of the admin server, as far as it has them. A refusal travels as one. Fields that one
side does not know are left out, so a new field needs a default: workers of two versions stand side
by side while one replaces the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from google.protobuf.wrappers_pb2 import BytesValue

from .._core.histogram import HistogramSnapshot
from ..admin.answers import Done, SessionView, Stacks
from ..admin.pages import Found
from ..admin.questions import KickBody, KickUserBody, LogBody, PushBody, SessionQuery
from ..admin.refusal import Refused
from ..admin.sessions import TraceEvents, TraceMark
from ..admin.source import Sample
from ..cluster.calls import Call
from ..figures import Figures
from .calls import Nothing

__all__ = [
    "KICK",
    "KICK_SESSION",
    "LOG",
    "PAGE",
    "PROFILE",
    "PUSH",
    "SAMPLE",
    "STACKS",
    "TRACE",
    "TRACED",
    "VIEW",
    "Nothing",
    "OfSession",
    "Question",
    "SampleAsked",
    "TracedAsked",
    "figures_from_bytes",
    "figures_to_bytes",
]

Q = TypeVar("Q")
A = TypeVar("A")


class SampleAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for a sample."""

    with_slowest: bool = False


class OfSession(msgspec.Struct, Generic[A], frozen=True, kw_only=True):
    """Asks for something of one session."""

    session: str
    body: A


class TracedAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for what a session's trace has had; see Directory.traced()."""

    mark: TraceMark | None
    within: float


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    code: str
    message: str
    retry_after: int


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or why there is none."""

    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    refusal: _Refusal | None = None


def _from_histogram(value: Any) -> bytes:
    if isinstance(value, HistogramSnapshot):
        return value.to_bytes()
    raise NotImplementedError(f"{type(value).__name__} does not travel")


def _to_histogram(kind: type, value: Any) -> Any:
    if kind is HistogramSnapshot:
        return HistogramSnapshot.from_bytes(value)
    raise NotImplementedError(f"{kind.__name__} does not travel")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_from_histogram)
_FIGURES = msgspec.msgpack.Decoder(Figures, dec_hook=_to_histogram)
_ANSWERS = msgspec.msgpack.Decoder(_Answer)


def figures_to_bytes(figures: Figures) -> bytes:
    """Return figures as they travel outside of a question."""
    return _ENCODER.encode(figures)


def figures_from_bytes(data: bytes) -> Figures:
    """Return figures that have travelled.

    Raises:
        msgspec.MsgspecError: It is nothing of the kind.
    """
    return _FIGURES.decode(data)


@dataclass(frozen=True, slots=True, init=False)
class Question(Generic[Q, A]):
    """One thing to ask.

    Attributes:
        call: The call.
    """

    call: Call[BytesValue, BytesValue]
    _asked: msgspec.msgpack.Decoder[Q]
    _answer: msgspec.msgpack.Decoder[A]

    def __init__(self, name: str, asked: type[Q], answer: type[A]) -> None:
        put = object.__setattr__
        put(self, "call", Call(f"Admin{name}", BytesValue, BytesValue))
        put(self, "_asked", msgspec.msgpack.Decoder(asked))
        put(self, "_answer", msgspec.msgpack.Decoder(answer, dec_hook=_to_histogram))

    def request(self, asked: Q) -> BytesValue:
        """Return the request that asks this."""
        return BytesValue(value=_ENCODER.encode(asked))

    def asked(self, request: BytesValue) -> Q:
        """Return what a request asks.

        Raises:
            msgspec.MsgspecError: It is nothing of the kind.
        """
        return self._asked.decode(request.value)

    @staticmethod
    def answer(found: Any) -> BytesValue:
        """Return the answer that brings what was found, or a refusal."""
        if isinstance(found, Refused):
            refusal = _Refusal(
                status=found.status,
                code=found.code,
                message=str(found),
                retry_after=found.retry_after,
            )
            return BytesValue(value=_ENCODER.encode(_Answer(refusal=refusal)))
        body = msgspec.Raw(_ENCODER.encode(found))
        return BytesValue(value=_ENCODER.encode(_Answer(body=body)))

    def found(self, answer: BytesValue) -> A:
        """Return what an answer brings.

        Raises:
            Refused: It is a refusal.
            msgspec.MsgspecError: It is nothing of the kind.
        """
        read = _ANSWERS.decode(answer.value)
        if (why := read.refusal) is not None:
            raise Refused(why.status, why.code, why.message, why.retry_after)
        return self._answer.decode(read.body)


SAMPLE = Question("Sample", SampleAsked, Sample)
PAGE = Question("Page", SessionQuery, Found)
VIEW = Question("View", OfSession[Nothing], SessionView)
TRACE = Question("Trace", OfSession[bool], Nothing)
TRACED = Question("Traced", OfSession[TracedAsked], TraceEvents)
PUSH = Question("Push", OfSession[PushBody], Done)
KICK_SESSION = Question("KickSession", OfSession[KickBody], Done)
KICK = Question("Kick", KickUserBody, Done)
LOG = Question("Log", LogBody, Nothing)
PROFILE = Question("Profile", float, str)
STACKS = Question("Stacks", Nothing, Stacks)
