"""An upstream's own health reports, where it has the standard health service.

HealthStream follows them on a connection of ours, HealthWatch on a channel of grpcio.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from .._core.http2 import ENDED, MESSAGE
from ..grpcio import raise_if_cancelled
from ..observe.log import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.http2 import Stream
    from .connection import UpstreamConnection

__all__ = ["HealthStream", "HealthWatch"]

logger = logging.getLogger("gatesvr.upstream")

METHOD = "/grpc.health.v1.Health/Watch"
MAX_BURST = 10
INTERVAL_S = 1.0
"""Reports of one watch that are read at once, and the pause after each further one: every change
moves calls and is logged."""
MAX_UNREAD = 1_000
"""Reports that may come during one pause; a watch with more is ended, as if there were none."""
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REQUEST = health_pb2.HealthCheckRequest().SerializeToString()
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]


def _is_serving(report: bytes) -> bool:
    """Return what a report says.

    Raises:
        DecodeError: It says nothing.
    """
    return bool(health_pb2.HealthCheckResponse.FromString(report).status != NOT_SERVING)


class HealthStream:
    """Follows one Watch at a time, on the connection that it was last begun on.

    Reports that come too fast are not all read: the latest one counts.

    Args:
        on_status: Called with a report: whether the upstream serves.
        retry_s: Seconds after which a watch that ended at once is begun again; it may be changed.

    Attributes:
        connection: What it was last begun on; None when it was cancelled since.
    """

    def __init__(self, on_status: Callable[[bool], None], retry_s: float) -> None:
        self._on_status = on_status
        self.retry_s = retry_s
        self._loop = asyncio.get_running_loop()
        self.connection: UpstreamConnection | None = None
        self._stream: Stream | None = None
        self._began = 0.0
        self._reports = 0  # read
        self._unread = 0  # since the last one that was read
        self._latest = b""  # of these
        self._timer: asyncio.TimerHandle | None = None  # to read again, or to begin again

    def begin(self, connection: UpstreamConnection) -> None:
        """Begin a watch on a connection, and leave the one before."""
        self.cancel()
        core = connection.core
        self.connection = connection
        if core.room <= 1:  # the last stream is for calls
            self._begin_later()
            return
        self._reports = self._unread = 0
        self._began = self._loop.time()
        self._stream = core.open(METHOD, self)
        core.send(self._stream, REQUEST)
        core.finish(self._stream)

    def cancel(self) -> None:
        """End the watch, if there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.connection is not None and self._stream is not None:
            self.connection.core.cancel(self._stream)
        self.connection = self._stream = None

    def handle(self, kind: int, stream: Stream, report: bytes) -> None:
        """Take an event of the watch's stream."""
        if stream is not self._stream:
            return
        if kind == ENDED:
            self._ended(stream)
        elif kind == MESSAGE:
            if self._timer is None:
                self._read(report)
                return
            self._unread += 1
            self._latest = report
            if self._unread > MAX_UNREAD:
                self._give_up(f"{MAX_UNREAD} reports within {INTERVAL_S:g} s")

    def _read(self, report: bytes) -> None:
        try:
            is_serving = _is_serving(report)
        except DecodeError as error:
            self._give_up(str(error))
            return
        self._reports += 1
        if self._reports >= MAX_BURST:
            self._timer = self._loop.call_later(INTERVAL_S, self._read_latest)
        self._on_status(is_serving)

    def _read_latest(self) -> None:
        self._timer = None
        if self._unread:
            self._unread = 0
            self._read(self._latest)

    def _give_up(self, why: str) -> None:
        """Go on as where there is no health service."""
        logger.warning("health_unusable", extra=keys(why=why))
        connection = self.connection
        self.cancel()
        if connection is not None:
            connection.flush()
        self._on_status(True)

    def _ended(self, stream: Stream) -> None:
        self._stream = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if stream.status == UNIMPLEMENTED:
            self._on_status(True)
        elif self.connection is not None:
            if self._unread:
                self._read(self._latest)
            self._begin_later()

    def _begin_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        age = self._loop.time() - self._began
        self._timer = self._loop.call_later(max(self.retry_s - age, 0.0), self._begin_again)

    def _begin_again(self) -> None:
        self._timer = None
        if (connection := self.connection) is not None:
            self.begin(connection)
            connection.flush()


class HealthWatch:
    """Follows one Watch at a time, from start() until the connection ends.

    Args:
        channel: The lane's channel.
        on_status: Called with each report: whether the upstream serves.
        on_end: Called when a watch ends, with its length in seconds; not called where the upstream
            has no health service.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        on_status: Callable[[bool], None],
        on_end: Callable[[float], None],
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        """The task that reads the watch."""
        self._watch: Any = channel.unary_stream(METHOD)
        self._call: Any = None
        self._on_status = on_status
        self._on_end = on_end

    def start(self) -> bool:
        """Begin a watch unless one is running; return whether it began."""
        if self.task is not None and not self.task.done():
            return False
        self.task = asyncio.create_task(self._follow(), name="gatesvr-lane-health")
        return True

    def cancel(self) -> None:
        """Cancel the call. Only for the lane's end, because cancelled calls leak in gRPC."""
        if self._call is not None:
            self._call.cancel()

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        reports = 0
        self._call = self._watch(REQUEST)
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                self._on_status(_is_serving(data))
                reports += 1
                if reports >= MAX_BURST:
                    await asyncio.sleep(INTERVAL_S)
        except DecodeError as error:
            # As where there is no health service.
            logger.warning("health_unusable", extra=keys(why=error))
            self._call.cancel()
            self._on_status(True)
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._on_status(True)
                return
        except asyncio.CancelledError:
            raise_if_cancelled()
        finally:
            self._call = None
        self._on_end(loop.time() - began)
