"""Pusher: notifies over the gateway's push API, many in one message of a PushStream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from .._pb import upstream_pb2 as pb
from .._pb import upstream_pb2_grpc as rpc
from ..credentials import Access
from ..errors import ConnectionFailed
from ..grpcio import make_channel

__all__ = ["Pusher"]

MAX_BATCH = 64
MAX_WAITING = 100_000
"""Most pushes waiting to be written; above it, push() returns False."""


@dataclass(slots=True)
class _Push:
    request: pb.UnicastPushRequest
    done: Callable[[pb.UnicastPushResponse], None]


class Pusher:
    """One PushStream, and unary broadcasts, for one load process.

    Args:
        address: The gateway's gRPC address.
        timeout: Longest wait for a broadcast's answer, and for the stream's end, seconds.
        failed: Called when the stream breaks; no push is sent after that.
        access: The credentials to show.
    """

    def __init__(
        self, address: str, timeout: float, failed: Callable[[str], None], access: Access
    ) -> None:
        self._timeout = timeout
        self._failed = failed
        self._access = access
        self._channel = make_channel(address, credentials=access.credentials)
        self._stub: Any = rpc.GatewayServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._waiting: deque[_Push] = deque()
        self._written: deque[_Push] = deque()
        self._wake = asyncio.Event()
        self._is_ending = False
        self._task: asyncio.Task[None] | None = None

    @property
    def unanswered(self) -> int:
        """Pushes not answered yet."""
        return len(self._waiting) + len(self._written)

    async def start(self) -> None:
        """Connect.

        Raises:
            ConnectionFailed: The address does not answer.
        """
        try:
            await asyncio.wait_for(self._channel.channel_ready(), self._timeout)
        except TimeoutError:
            await self._channel.close()
            raise ConnectionFailed("no answer from the gateway's push address") from None
        self._task = asyncio.create_task(self._run())

    def push(
        self, session_id: str, data: bytes, done: Callable[[pb.UnicastPushResponse], None]
    ) -> bool:
        """Push to a session, and pass the answer to done. Return False if too many wait already."""
        if len(self._waiting) >= MAX_WAITING or self._is_ending:
            return False
        request = pb.UnicastPushRequest(
            target_type="session", target_id=session_id, msg_type="bench", data=data
        )
        self._waiting.append(_Push(request, done))
        self._wake.set()
        return True

    async def broadcast(self, data: bytes) -> pb.BroadcastResponse:
        """Push to every session.

        Raises:
            ConnectionFailed: The gateway did not answer.
        """
        request = pb.BroadcastRequest(msg_type="bench", data=data)
        try:
            response: pb.BroadcastResponse = await self._stub.BroadcastToClients(
                request, timeout=self._timeout, metadata=self._access.metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise ConnectionFailed(f"broadcast: {error.code().name}: {error.details()}") from None
        return response

    async def close(self) -> None:
        """End the stream after the pushes written so far, and close the channel."""
        self._is_ending = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._timeout)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _run(self) -> None:
        try:
            metadata = self._access.metadata()
            async for batch in self._stub.PushStream(self._batches(), metadata=metadata):
                for response in batch.responses:
                    self._written.popleft().done(response)
        except grpc.aio.AioRpcError as error:
            self._is_ending = True
            self._failed(f"push stream: {error.code().name}: {error.details()}")

    async def _batches(self) -> AsyncIterator[pb.UnicastPushBatch]:
        """Yield batches of the pushes that arrived during the last write."""
        while True:
            if not self._waiting:
                if self._is_ending:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            count = min(MAX_BATCH, len(self._waiting))
            pushes = [self._waiting.popleft() for _ in range(count)]
            self._written.extend(pushes)
            yield pb.UnicastPushBatch(requests=[push.request for push in pushes])
