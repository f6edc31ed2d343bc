"""What a lane needs to know of grpc.aio: channel options, and how a call's end shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

if TYPE_CHECKING:
    from ..config import UpstreamConfig

__all__ = ["CALL_ENDED", "channel_options", "raise_if_cancelled"]

MAX_ANSWER_BYTES = 64 << 20
"""Largest message that is taken; one above it ends its call, and a stream with all of its calls.
What a client takes is for its session to say."""
KEEPALIVE_TIMEOUT_MS = 20_000
"""Longest wait for the answer to a keepalive ping."""
CALL_ENDED = (
    grpc.RpcError,
    asyncio.InvalidStateError,
    grpc.aio.UsageError,
    grpc.aio.InternalError,
)
"""What grpc.aio raises into a task that reads or writes a call which has ended."""


def channel_options(config: UpstreamConfig, max_message_bytes: int) -> list[tuple[str, int]]:
    """Return the options of a channel to an upstream."""
    max_grpc_bytes = min(2 * max_message_bytes + (1 << 20), 2**31 - 1)
    pause_ms = max(int(config.reconnect_min * 1000), 100)
    return [
        ("grpc.max_send_message_length", max_grpc_bytes),
        ("grpc.max_receive_message_length", max(MAX_ANSWER_BYTES, max_grpc_bytes)),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        # A request that was written is never sent again by itself.
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000) or 2**31 - 1),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # Without this gRPC waits a minute for the answer to a ping, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        # The lane paces its attempts itself; gRPC's own pauses only must not be longer.
        ("grpc.initial_reconnect_backoff_ms", pause_ms),
        ("grpc.max_reconnect_backoff_ms", pause_ms),
        # Also the longest attempt to connect.
        ("grpc.min_reconnect_backoff_ms", max(int(config.connect_timeout * 1000), 100)),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ]


def raise_if_cancelled() -> None:
    """Raise CancelledError where this task is cancelled; not where only its gRPC call was.

    gRPC raises the same into a task whose call ends because the channel is closed.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
