"""GrpcPushStream: ordered pushes over one PushStream rpc, many to a message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .._pb import upstream_pb2 as pb
from ..errors import UpstreamError
from ..grpcio import CALL_ENDED, is_let_in
from .push_api import PushStream
from .repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["GrpcPushStream"]

MAX_BATCH = 1_000
"""Pushes in one message; the gateway accepts ten times as many."""
MAX_BATCH_BYTES = 1 << 20
"""Bytes of one message, unless a single push is larger."""


class GrpcPushStream(PushStream):
    """A PushStream rpc; the first push begins it. It goes on by another one where the process of
    the gateway leaves that served it: its last answer has no results, and nothing behind it was
    read.

    Args:
        begin: Begins the call.
        streams: The client's open streams; holds this one from the first push to close().
        timeout: Longest wait for the answer to one message, seconds.
    """

    def __init__(
        self, begin: Callable[[], Any], streams: set[GrpcPushStream], timeout: float
    ) -> None:
        self._begin = begin
        self._streams = streams
        self._timeout = timeout
        self._call: Any = None
        self._is_open = False  # the gateway has let it in
        self._is_unsure = False  # a batch has no answer, so no other call may follow
        self._is_closed = False
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """End the stream. Idempotent."""
        self._is_closed = True
        self._streams.discard(self)
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._call is not None:
            self._call.cancel()

    async def _push(self, requests: list[pb.UnicastPushRequest]) -> list[pb.UnicastPushResponse]:
        if self._is_closed:
            raise RuntimeError("the stream is closed")
        # A separate task: cancelling the caller must not cancel the gRPC call, and the next push
        # must not read the answers to this one.
        task = asyncio.ensure_future(self._push_in_turn(requests))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _push_in_turn(
        self, requests: list[pb.UnicastPushRequest]
    ) -> list[pb.UnicastPushResponse]:
        answers: list[pb.UnicastPushResponse] = []
        async with self._turn:
            for batch in _batches(requests):
                answer = await self._answer(batch)
                answers.extend(answer.responses)
        return answers

    async def _answer(self, batch: pb.UnicastPushBatch) -> pb.UnicastPushBatchResponse:
        """Send a batch, and again while no process of the gateway has read it."""
        repeats = Repeats(is_safe=True)
        while True:
            if self._call is None or (self._call.done() and not self._is_unsure):
                # Nothing is under way: whatever ended it, another one may go on.
                self._call = self._begin()
                self._is_open = False
                self._streams.add(self)
            self._is_unsure = True
            answer = await self._ask(batch)
            if answer is None:
                code, details = await self._call.code(), await self._call.details()
                if self._is_open or not await repeats.pause(code, details):
                    why = details or "the stream has ended"
                    raise UpstreamError(f"gateway: {code.name}: {why}")
            elif answer.moves:
                self._call.cancel()  # all that it has read is answered
                self._call = None
            self._is_unsure = False
            if answer is not None and answer.responses:
                return answer

    async def _ask(self, batch: pb.UnicastPushBatch) -> pb.UnicastPushBatchResponse | None:
        """Send a batch; return its answer, None where the call has ended without one."""
        call = self._call
        try:
            async with asyncio.timeout(self._timeout):
                if not self._is_open:
                    self._is_open = is_let_in(await call.initial_metadata())
                if self._is_open:
                    # The read begins first: it has the last answer also where the write fails.
                    answer, _ = await asyncio.gather(
                        _unless_ended(call, call.read), _unless_ended(call, call.write, batch)
                    )
                    if isinstance(answer, pb.UnicastPushBatchResponse):
                        return answer
                await call.code()  # its status follows
        except TimeoutError:
            call.cancel()
            raise UpstreamError(f"gateway: no answer in {self._timeout:g} s") from None
        return None


async def _unless_ended(call: Any, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Return the result of a read or write, None where the call has ended: it has a status."""
    try:
        return await work(*args)
    except CALL_ENDED:
        return None
    except asyncio.CancelledError:
        if not call.cancelled():
            raise  # this task was cancelled, not the call
        return None


def _batches(requests: list[pb.UnicastPushRequest]) -> Iterator[pb.UnicastPushBatch]:
    """Split pushes into messages that a gateway accepts."""
    start = size = 0
    for end, request in enumerate(requests):
        request_size = request.ByteSize()
        if end > start and (end - start >= MAX_BATCH or size + request_size > MAX_BATCH_BYTES):
            yield pb.UnicastPushBatch(requests=requests[start:end])
            start, size = end, 0
        size += request_size
    if requests:
        yield pb.UnicastPushBatch(requests=requests[start:])
