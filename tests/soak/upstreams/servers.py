"""The upstream's process: a grpcio server that echoes, hangs or cancels; it notes executions."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc.aio

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc

from ..child import Commands
from .goaway_server import GoawayServer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

__all__ = ["CANCEL", "ECHO", "HANG", "Executions", "serve_upstream"]

ECHO, HANG, CANCEL = "echo", "hang", "cancel"
"""Actions: answered with their data, never answered, ended by the server with CANCELLED."""
STOP_S = 5.0
"""Time for the open calls of a server that stops in order."""


class Executions:
    """A file with the number of each request that was executed, which outlives a killed process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, data: bytes) -> None:
        if data:
            os.write(self._file, data[:8])

    def close(self) -> None:
        os.close(self._file)


class Unary(rpc.UpstreamServiceServicer):
    """Has no ProcessStream."""

    def __init__(self, executions: Executions, delay: float) -> None:
        self._executions = executions
        self._delay = delay

    async def ProcessRequest(self, request: Any, context: Any) -> pb.UpstreamResponse:  # noqa: N802
        self._executions.note(request.data)
        if request.action == HANG:
            await asyncio.Event().wait()
        if self._delay:
            await asyncio.sleep(self._delay)
        if request.action == CANCEL:
            await context.abort(grpc.StatusCode.CANCELLED, "the upstream's mind has changed")
        return answer(request)


class Streaming(Unary):
    """Has ProcessStream, too; a request that hangs there, or is cancelled, gets no answer."""

    async def ProcessStream(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        await context.send_initial_metadata(())
        writing = asyncio.Lock()  # gRPC takes one write at a time
        async with asyncio.TaskGroup() as answers:
            while (batch := await context.read()) is not grpc.aio.EOF:
                for request in batch.requests:
                    self._executions.note(request.data)
                answers.create_task(self._answer(batch, context, writing))

    async def _answer(
        self, batch: pb.UpstreamRequestBatch, context: Any, writing: asyncio.Lock
    ) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        responses = [
            answer(request) for request in batch.requests if request.action not in (HANG, CANCEL)
        ]
        if responses:
            async with writing:
                await context.write(pb.UpstreamResponseBatch(responses=responses))


def answer(request: pb.UpstreamRequest) -> pb.UpstreamResponse:
    return pb.UpstreamResponse(
        code=200,
        data=request.data,
        client_seq_id=request.client_seq_id,
        request_id=request.request_id,
    )


async def serve_upstream(
    pipe: Pipe, kind: str, executed: str, delay: float, age_ms: int, is_go: bool
) -> None:
    """Run an upstream until it is killed, or told ``stop``.

    Says ``ready``; is told a port, 0 for a free one, and says the address that it then serves at;
    made by hand, it says how often it said goodbye at ``counts``.

    Args:
        pipe: To the parent.
        kind: ``unary`` or ``stream``.
        executed: The file for Executions.
        delay: Time that each answer takes, seconds.
        age_ms: Oldest that a connection becomes, 0 for any.
        is_go: Say goodbye in two steps, as Go's servers do, on a server made by hand.
    """
    commands = Commands(pipe)
    executions = Executions(executed)
    servicer = (Streaming if kind == "stream" else Unary)(executions, delay)
    pipe.send("ready")
    port = await commands.next()
    with suppress(EOFError):
        if is_go:
            go_server = GoawayServer(kind == "stream", executions.note, delay, age_ms / 1000)
            pipe.send(await go_server.start())
            while await commands.next() == "counts":
                pipe.send({"connections": go_server.connections, "goodbyes": go_server.goodbyes})
            await go_server.stop()
        else:
            options = [("grpc.so_reuseport", 0)]
            if age_ms:
                options += [
                    ("grpc.max_connection_age_ms", age_ms),
                    ("grpc.max_connection_age_grace_ms", int(STOP_S * 1000)),
                ]
            server = grpc.aio.server(options=options)
            add: Any = rpc.add_UpstreamServiceServicer_to_server
            add(servicer, server)
            port = server.add_insecure_port(f"127.0.0.1:{port}")
            await server.start()
            pipe.send(f"127.0.0.1:{port}")
            await commands.expect("stop")
            await server.stop(STOP_S)
        executions.close()
        pipe.send("stopped")
