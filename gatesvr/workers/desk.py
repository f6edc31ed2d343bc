"""AdminDesk: answers in a worker what the supervisor asks for the admin server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ..admin.counters import AdminCounters
from ..admin.refusal import Refused
from ..admin.source import OneProcess
from .questions import (
    KICK,
    KICK_SESSION,
    LOG,
    PAGE,
    PROFILE,
    PUSH,
    SAMPLE,
    STACKS,
    TRACE,
    TRACED,
    VIEW,
    Nothing,
    Question,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.wrappers_pb2 import BytesValue

    from ..admin.questions import LogBody
    from ..admin.source import Sample
    from ..cluster.calls import Call
    from ..gateway import Gateway
    from .questions import OfSession, SampleAsked

__all__ = ["AdminDesk"]

MAX_UNDER_WAY = 256
"""Questions at a time, more than the admin server has streams: traces that are followed count."""


class AdminDesk:
    """Looks at a worker and acts on it, for the admin server of its supervisor.

    Until it is asked for the first time it costs nothing.

    Args:
        gateway: The worker's gateway.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._made: OneProcess | None = None
        self._counters = AdminCounters()
        self._under_way = 0

    def handlers(
        self,
    ) -> dict[Call[BytesValue, BytesValue], Callable[[BytesValue, float], Awaitable[BytesValue]]]:
        """Return what serves each call."""
        serve: dict[Question[Any, Any], Callable[[Any], Awaitable[Any]]] = {
            SAMPLE: self._sample,
            PAGE: lambda query: self._source.directory.search(query),
            VIEW: lambda asked: self._source.view(asked.session),
            TRACE: self._trace,
            TRACED: lambda asked: self._source.traced(
                asked.session, asked.body.mark, asked.body.within
            ),
            PUSH: lambda asked: self._source.push(asked.session, asked.body),
            KICK_SESSION: lambda asked: self._source.kick_session(asked.session, asked.body),
            KICK: lambda asked: self._source.kick(asked),
            LOG: self._log,
            PROFILE: lambda seconds: self._source.profile(seconds, None),
            STACKS: lambda _: self._source.stacks(None),
        }
        return {question.call: self._served(question, work) for question, work in serve.items()}

    def close(self) -> None:
        """End traces and profiles. Idempotent."""
        if self._made is not None:
            self._made.close()
            self._made = None

    @property
    def _source(self) -> OneProcess:
        if self._made is None:
            self._made = OneProcess(self._gateway, self._counters)
        return self._made

    def _served(
        self, question: Question[Any, Any], work: Callable[[Any], Awaitable[Any]]
    ) -> Callable[[BytesValue, float], Awaitable[BytesValue]]:
        async def answer(request: BytesValue, until: float) -> BytesValue:
            if self._under_way >= MAX_UNDER_WAY:
                return question.answer(Refused(503, "BUSY", "too much is asked at a time"))
            self._under_way += 1
            try:
                async with asyncio.timeout_at(until):
                    return question.answer(await work(question.asked(request)))
            except Refused as refusal:
                return question.answer(refusal)
            finally:
                self._under_way -= 1

        return answer

    async def _sample(self, asked: SampleAsked) -> Sample:
        self._source.look()
        return await self._source.sample(with_slowest=asked.with_slowest)

    async def _trace(self, asked: OfSession[bool]) -> Nothing:
        await self._source.trace(asked.session, on=asked.body)
        return Nothing()

    async def _log(self, body: LogBody) -> Nothing:
        await self._source.log(body)
        return Nothing()
