"""gRPC servers and channels: their options, and the exceptions that end a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import UpstreamConfig

    Options = Sequence[tuple[str, int | str]]

__all__ = [
    "CALL_ENDED",
    "STREAM_MOVES",
    "STREAM_OPEN",
    "is_let_in",
    "make_channel",
    "make_server",
    "max_answer_bytes",
    "max_grpc_bytes",
    "raise_if_cancelled",
    "status_text",
    "upstream_options",
]

MAX_ANSWER_BYTES = 16 << 20
"""Largest message accepted from an upstream; one above it ends its call, and a stream with all of
its calls. What a client takes is for its session to say."""
KEEPALIVE_TIMEOUT_MS = 20_000
"""Longest wait for the answer to a keepalive ping."""
STREAM_OPEN = (("gatesvr-stream", "open"),)
"""Initial metadata of a PushStream or a SubscribeEvents that was let in. Without it the caller
waits for the status, which follows: a write would make grpc.aio report INTERNAL in its place."""
STREAM_MOVES = ("gatesvr-moves", "1")
"""Metadata of a PushStream whose caller knows an answer without results: ``moves`` alone, the last
one of a process that leaves. Nothing that was not answered before it has been read."""
CALL_ENDED = (
    grpc.RpcError,
    asyncio.InvalidStateError,
    grpc.aio.UsageError,
    grpc.aio.InternalError,
)
"""What grpc.aio raises into a task that reads or writes a call which has ended."""

_is_poller_kept = False


def make_server(
    max_bytes: int,
    options: Options = (),
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    *,
    is_shared: bool = False,
) -> grpc.aio.Server:
    """Return a gRPC server.

    Args:
        max_bytes: The largest message either way.
        options: Further gRPC options.
        interceptors: What every call passes through.
        is_shared: Whether other processes serve its port, too (SO_REUSEPORT).
    """
    _keep_poller()
    return grpc.aio.server(
        interceptors=interceptors,
        options=[
            # Without it a second server on a busy port starts, and gets half of the calls.
            ("grpc.so_reuseport", int(is_shared)),
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", max_bytes),
            *_ping_timeout(),
            *options,
        ],
    )


def make_channel(
    address: str, options: Options = (), credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """Return a channel of its own to address, past any HTTP proxy.

    Args:
        address: As gRPC takes it: HOST:PORT, ``unix:PATH``.
        options: Further gRPC options.
        credentials: Those of TLS; None for plain text.
    """
    _keep_poller()
    every = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.http2.max_pings_without_data", 0),
        *_ping_timeout(),
        *options,
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=every)
    return grpc.aio.secure_channel(address, credentials, options=every)


def max_grpc_bytes(max_message_bytes: int) -> int:
    """Return the gRPC message limit that goes with the largest frame of a client (PROTOCOL 7.3)."""
    return min(2 * max_message_bytes + (1 << 20), 2**31 - 1)


def max_answer_bytes(max_message_bytes: int) -> int:
    """Return the largest message accepted from an upstream, bytes."""
    return max(MAX_ANSWER_BYTES, max_grpc_bytes(max_message_bytes))


def status_text(code: grpc.StatusCode, details: str | None, *, is_plain: bool) -> str:
    """Return the status of a failed call as a text.

    Args:
        code: The status.
        details: Its text.
        is_plain: Whether the channel speaks plain text.
    """
    text = f"{code.name}: {details}"
    if is_plain and code is grpc.StatusCode.UNAVAILABLE and "Socket closed" in text:
        text += " (if the server speaks TLS, name the CA to trust it by)"
    return text


def upstream_options(config: UpstreamConfig, max_message_bytes: int) -> Options:
    """Return the options of a channel to an upstream."""
    pause_ms = max(int(config.reconnect_min * 1000), 100)
    return (
        ("grpc.max_send_message_length", max_grpc_bytes(max_message_bytes)),
        ("grpc.max_receive_message_length", max_answer_bytes(max_message_bytes)),
        # A request that was written is never sent again by itself.
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000) or 2**31 - 1),
        # The lane paces its attempts itself; gRPC's own pauses only must not be longer.
        ("grpc.initial_reconnect_backoff_ms", pause_ms),
        ("grpc.max_reconnect_backoff_ms", pause_ms),
        # Also the longest attempt to connect.
        ("grpc.min_reconnect_backoff_ms", max(int(config.connect_timeout * 1000), 100)),
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    )


def is_let_in(metadata: grpc.aio.Metadata) -> bool:
    """Return whether initial metadata is STREAM_OPEN."""
    return all(metadata.get(key) == value for key, value in STREAM_OPEN)


def raise_if_cancelled() -> None:
    """Raise CancelledError where this task is cancelled; not where only its gRPC call was.

    gRPC raises the same into a task whose call ends because the channel is closed.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _ping_timeout() -> Options:
    return (
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # gRPC waits for this one, a minute unless it is set.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    )


def _keep_poller() -> None:
    """Keep grpc.aio's poller thread until the process ends.

    grpc.aio joins it, in the event loop, when its last server or channel is freed. The thread can
    miss its wake-up, and the join then lasts for ever: 1 of 800 ``gatesvr serve`` on a busy port
    never ended (grpcio 1.85.1).
    """
    global _is_poller_kept
    if not _is_poller_kept:
        grpc.aio.init_grpc_aio()
        _is_poller_kept = True
