"""What a gateway asks about clients, scripted: a JWKS server, and an AuthService."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from gatesvr._pb import auth_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["AuthServer", "JwksServer", "auth_server", "jwks_server"]


class JwksServer:
    """Answers every request with its document.

    Attributes:
        document: What it serves; None: it closes the connection, as a server that is down.
        is_slow: It answers nothing, and keeps the connection.
        raw: It answers this in the place of all else.
        drips: It goes on after that, a byte at a time.
        is_prompt: It does so before it is asked.
        asked: Requests so far.
    """

    def __init__(self, document: bytes | None) -> None:
        self.document = document
        self.is_slow = False
        self.raw = b""
        self.drips = False
        self.is_prompt = False
        self.url = ""
        self.asked = 0
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.is_prompt:
                await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            if self.is_slow:
                await self.ended.wait()
            elif self.raw:
                writer.write(self.raw)
                while self.drips and not self.ended.is_set():
                    await writer.drain()
                    await asyncio.sleep(0.02)
                    writer.write(b"x")
            elif self.document is not None:
                writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
                writer.write(self.document)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # the gateway has had enough
        finally:
            writer.close()


@asynccontextmanager
async def jwks_server(document: bytes | None) -> AsyncIterator[JwksServer]:
    """Serve a document on loopback."""
    jwks = JwksServer(document)
    server = await asyncio.start_server(jwks.serve, "127.0.0.1", 0)
    jwks.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield jwks
    finally:
        jwks.ended.set()
        server.close()
        await server.wait_closed()


class AuthServer:
    """An AuthService written with grpcio alone. A token is the name of what it does with it.

    Attributes:
        requests: What it was asked, the latest last.
        gate: ``slow`` waits for it.
    """

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[pb.AuthenticateRequest] = []
        self.gate = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def authenticate(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request = pb.AuthenticateRequest.FromString(data)
        self.requests.append(request)
        known = {"ok": True, "openid": "alice"}
        name, _, value = request.auth_token.partition(":")
        match name:
            case "good":
                answer = {**known, "subject": "a-17", "claims": {"role": "admin"}}
            case "for":
                answer = {"ok": True, "openid": value}
            case "until":
                answer = {**known, "expires_at_ms": int(value)}
            case "expired":
                answer = {**known, "expires_at_ms": int(time.time() * 1000) - 3_600_000}
            case "before time":
                answer = {**known, "expires_at_ms": -1}
            case "nobody":
                answer = {"ok": True}
            case "control":
                answer = {**known, "openid": "al\nice"}
            case "claims":
                answer = {**known, "claims": {str(i): "x" for i in range(17)}}
            case "large claims":
                answer = {**known, "claims": {"role": "x" * 4_096}}
            case "giant":
                answer = {**known, "reason": "x" * (8 << 20)}
            case "garbage":
                return b"\xff" * 100
            case "slow":
                await self.gate.wait()
                answer = known
            case "abort":
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "go away")
            case _:
                if request.openid == "alice":
                    await asyncio.sleep(0.002)  # a user that it knows takes it longer
                answer = {"ok": False, "reason": "never heard of"}
        return pb.AuthenticateResponse(**answer).SerializeToString()

    async def start(self, also: rpc.UpstreamServiceServicer | None = None) -> None:
        """Serve, at the same address as before."""
        self._server = server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        # No serializers: a liar's answer is no message at all.
        handler = grpc.unary_unary_rpc_method_handler(self.authenticate)
        method = {"Authenticate": handler}
        name = "gatesvr.proto.AuthService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, method),))
        if also is not None:
            rpc.add_UpstreamServiceServicer_to_server(also, server)
        self.address = f"127.0.0.1:{server.add_insecure_port(self.address or '127.0.0.1:0')}"
        await server.start()

    async def stop(self) -> None:
        """Break off whatever is under way."""
        if self._server is not None:
            await self._server.stop(None)


@asynccontextmanager
async def auth_server(
    also: rpc.UpstreamServiceServicer | None = None,
) -> AsyncIterator[AuthServer]:
    """Serve an AuthServer on a free port of loopback, and an UpstreamService beside it."""
    auth = AuthServer()
    await auth.start(also)
    try:
        yield auth
    finally:
        auth.gate.set()
        await auth.stop()
