"""The plain client over WebSocket, by the websockets library alone."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from gatesvr._pb import message_pb2 as pb

from .plain_client import DEADLINE_S, business, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class WebClient:
    """One WebSocket connection: frames out, ServerPush messages in."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.pushes: deque[pb.ServerPush] = deque()

    async def receive(self) -> pb.ServerPush:
        """Return the next push."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.pushes:
                data = await self.connection.recv()
                assert isinstance(data, bytes)
                while data:  # a message is whole frames
                    (length,) = struct.unpack_from(">I", data)
                    assert 0 < length <= len(data) - 4
                    self.pushes.append(pb.ServerPush.FromString(data[4 : 4 + length]))
                    data = data[4 + length :]
        return self.pushes.popleft()

    async def closed(self) -> int:
        """Wait for the gateway's close and return its code; 1006 where there was no close frame."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed as error:
                return error.rcvd.code if error.rcvd is not None else 1006

    async def send_bytes(self, data: bytes) -> None:
        await self.connection.send(data)

    async def send(self, *requests: pb.ClientRequest) -> None:
        await self.send_bytes(b"".join(frame(r.SerializeToString()) for r in requests))

    async def start(self, openid: str, **fields: Any) -> pb.StartResponse:
        """Send START and return the answer."""
        start = pb.StartRequest(openid=openid, **{"protocol": 1, "capabilities": 1, **fields})
        await self.send(
            pb.ClientRequest(msg_id=1, type=pb.REQUEST_START, payload=start.SerializeToString())
        )
        push = await self.receive()
        assert (push.type, push.seq_id) == (pb.PUSH_START_RESP, 0)
        return pb.StartResponse.FromString(push.payload)

    async def login(self, openid: str, **fields: Any) -> pb.StartResponse:
        """START, then hello; its answer is server seq 1."""
        response = await self.start(openid, **fields)
        assert response.success, response
        await self.send(business(1, "hello"))
        push = await self.receive()
        assert (push.type, push.seq_id, push.client_seq_id) == (pb.PUSH_BUSINESS_DATA, 1, 1), push
        return response

    async def resume(
        self, before: pb.StartResponse, last_acked: int, attempt: int = 1
    ) -> pb.StartResponse:
        """START with the session and the token of an earlier answer; return the answer."""
        return await self.start(
            "",
            session_id=before.session_id,
            resume_token=before.resume_token,
            last_acked_seq_id=last_acked,
            attempt=attempt,
        )


def client_context() -> ssl.SSLContext:
    """Return a context that checks no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def web_client(
    address: str, *, origin: str | None = None, path: str = "/gatesvr", **options: Any
) -> AsyncIterator[WebClient]:
    """Connect to the gateway without checking its certificate."""
    async with connect(
        f"wss://{address}{path}",
        ssl=client_context(),
        subprotocols=[Subprotocol("gatesvr")],
        origin=Origin(origin) if origin is not None else None,
        compression=None,
        proxy=None,
        close_timeout=5,
        max_size=None,
        **options,
    ) as connection:
        yield WebClient(connection)
