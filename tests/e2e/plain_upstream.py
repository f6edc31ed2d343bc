"""An upstream written with grpcio and the generated messages alone: only ProcessRequest.

Actions: ``hello`` logs in (held while hello_gate is not set, refused with params deny=1), ``echo``
answers the data, ``silent`` never answers, ``slow`` answers after params ms, ``gate`` answers when
its gate opens, ``turn``, ``single`` and ``lonely`` when the turn of their data has come, ``fail``
aborts the call with params status, ``notify`` carries one notify before and one behind.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio

from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class PlainUpstream(rpc.UpstreamServiceServicer):
    """Answers every action itself and keeps what it was asked."""

    def __init__(self) -> None:
        self.address = ""
        self.calls: Counter[str] = Counter()
        self.requests: list[pb.UpstreamRequest] = []
        self.hello_gate = asyncio.Event()
        self.hello_gate.set()
        self.gate = asyncio.Event()
        self.turns: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)
        self.asked = asyncio.Condition()

    async def until_asked(self, action: str, times: int = 1) -> None:
        """Wait until an action was asked for that many times."""
        async with asyncio.timeout(20), self.asked:
            await self.asked.wait_for(lambda: self.calls[action] >= times)

    async def ProcessRequest(  # noqa: N802  the rpc's name
        self, request: pb.UpstreamRequest, context: grpc.aio.ServicerContext
    ) -> pb.UpstreamResponse:
        async with self.asked:
            self.calls[request.action] += 1
            self.requests.append(request)
            self.asked.notify_all()
        response = pb.UpstreamResponse(code=200, client_seq_id=request.client_seq_id)
        match request.action.lower():
            case "hello":
                await self.hello_gate.wait()
                if request.params.get("deny"):
                    response.code = 403
                else:
                    response.headers["zone"] = request.params.get("zone", "001")
            case "echo" | "zone_echo":
                response.data = request.data
            case "silent":
                await asyncio.Event().wait()
            case "slow":
                await asyncio.sleep(float(request.params["ms"]) / 1000)
                response.data = request.data
            case "gate":
                await self.gate.wait()
                response.data = request.data
            case "turn" | "single" | "lonely":
                await self.turns[request.data].wait()
                response.data = request.data
            case "fail":
                status = grpc.StatusCode[request.params.get("status", "INTERNAL")]
                await context.abort(status, "broken on purpose")
            case "notify":
                response.data = request.data
                response.notifies.add(
                    sync_hint=pb.NSH_BEFORE_RESPONSE, msg_type="carried", data=b"before"
                )
                response.notifies.add(
                    sync_hint=pb.NSH_AFTER_RESPONSE, msg_type="carried", data=b"after"
                )
            case _:
                response.code = 404
        return response


@asynccontextmanager
async def plain_upstream(path: str = "") -> AsyncIterator[PlainUpstream]:
    """Serve a PlainUpstream on a free port of loopback, or on a Unix socket."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    upstream = PlainUpstream()
    rpc.add_UpstreamServiceServicer_to_server(upstream, server)
    port = server.add_insecure_port(f"unix:{path}" if path else "127.0.0.1:0")
    upstream.address = f"unix:{path}" if path else f"127.0.0.1:{port}"
    await server.start()
    try:
        yield upstream
    finally:
        await server.stop(None)
