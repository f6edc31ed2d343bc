"""A GateSvr client written with aioquic and protobuf alone, as somebody else would write one.

It imports nothing of gatesvr but the generated messages, shares no code with the gateway, and so
tells whether the gateway speaks the published protocol and not just its own dialect.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from gatesvr._pb import message_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DEADLINE_S = 60.0


class PlainClient(QuicConnectionProtocol):
    """One connection: frames out, ServerPush messages in."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.pushes: deque[pb.ServerPush] = deque()
        self.events: list[QuicEvent] = []
        self.terminated: ConnectionTerminated | None = None
        self.is_mute = False
        self._buffer = b""
        self._changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self._buffer += event.data
            while len(self._buffer) >= 4:
                (length,) = struct.unpack_from(">I", self._buffer)
                if len(self._buffer) < 4 + length:
                    break
                self.pushes.append(pb.ServerPush.FromString(self._buffer[4 : 4 + length]))
                self._buffer = self._buffer[4 + length :]
        elif isinstance(event, ConnectionTerminated):
            self.terminated = event
        elif isinstance(event, StreamReset | StopSendingReceived):
            self.events.append(event)
        self._changed.set()

    async def until(self, found: Callable[[], Any]) -> Any:
        """Wait until found() is true and return it; TimeoutError after DEADLINE_S."""
        async with asyncio.timeout(DEADLINE_S):
            while not (value := found()):
                self._changed.clear()
                await self._changed.wait()
            return value

    async def receive(self) -> pb.ServerPush:
        """Return the next push."""
        await self.until(lambda: self.pushes or self.terminated)
        assert self.pushes, f"closed: {self.terminated}"
        return self.pushes.popleft()

    async def closed(self) -> int:
        """Wait for the gateway's close and return its code."""
        await self.until(lambda: self.terminated)
        assert self.terminated is not None
        return self.terminated.error_code

    def transmit(self) -> None:
        if not self.is_mute:
            super().transmit()

    async def wait_closed(self) -> None:
        if not self.is_mute:
            await super().wait_closed()

    def mute(self) -> None:
        """Send nothing more, not even acknowledgements of packets; what comes is still read."""
        self.is_mute = True
        if self._timer is not None:
            self._timer.cancel()

    def abandon(self) -> None:
        """Vanish: nothing is sent or read any more, and the gateway is not told."""
        self.mute()
        assert self._transport is not None
        self._transport.close()

    def send_bytes(self, data: bytes, *, fin: bool = False, stream_id: int = 0) -> None:
        self._quic.send_stream_data(stream_id, data, fin)
        self.transmit()

    def send(self, *requests: pb.ClientRequest) -> None:
        self.send_bytes(b"".join(frame(request.SerializeToString()) for request in requests))

    async def start(self, openid: str, **fields: object) -> pb.StartResponse:
        """Send START and return the answer."""
        start = pb.StartRequest(openid=openid, **{"protocol": 1, "capabilities": 1, **fields})
        self.send(
            pb.ClientRequest(msg_id=1, type=pb.REQUEST_START, payload=start.SerializeToString())
        )
        push = await self.receive()
        assert push.type == pb.PUSH_START_RESP
        assert push.seq_id == 0
        return pb.StartResponse.FromString(push.payload)

    async def resume(
        self, before: pb.StartResponse, last_acked: int, attempt: int = 1, **fields: object
    ) -> pb.StartResponse:
        """START with the session and the token of an earlier answer; return the answer."""
        fields = {
            "session_id": before.session_id,
            "resume_token": before.resume_token,
            "last_acked_seq_id": last_acked,
            "attempt": attempt,
            **fields,
        }
        return await self.start(**{"openid": "", **fields})  # type: ignore[arg-type]

    async def login(self, openid: str, **fields: object) -> pb.StartResponse:
        """START, then hello; its answer is server seq 1."""
        response = await self.start(openid, **fields)
        assert response.success, response
        self.send(business(1, "hello"))
        push = await self.receive()
        assert (push.type, push.seq_id, push.client_seq_id) == (pb.PUSH_BUSINESS_DATA, 1, 1), push
        assert answer(push).code == 200
        return response


def host_port(address: str | tuple[str, int]) -> tuple[str, int]:
    """Take ``HOST:PORT`` apart; an IPv6 host stands in brackets."""
    if isinstance(address, tuple):
        return address
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@asynccontextmanager
async def plain_client(address: str | tuple[str, int]) -> AsyncIterator[PlainClient]:
    """Connect to the gateway without checking its certificate."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["gatesvr"], verify_mode=ssl.CERT_NONE
    )
    async with connect(
        *host_port(address), configuration=configuration, create_protocol=PlainClient
    ) as client:
        assert isinstance(client, PlainClient)
        yield client


@asynccontextmanager
async def stingy_client(address: str | tuple[str, int], credit: int) -> AsyncIterator[PlainClient]:
    """Connect; once credit bytes have come, the gateway may send no more."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["gatesvr"],
        verify_mode=ssl.CERT_NONE,
        max_data=credit,
        max_stream_data=credit,
    )
    async with connect(
        *host_port(address), configuration=configuration, create_protocol=PlainClient
    ) as client:
        assert isinstance(client, PlainClient)
        # aioquic doubles a limit once half of it is used: this one never is.
        client._quic._write_connection_limits = lambda **_: None  # type: ignore[method-assign]
        client._quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]
        yield client


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def business(
    seq: int, action: str, data: bytes = b"", *, ack: int = 0, **params: str
) -> pb.ClientRequest:
    """A BUSINESS request whose msg_id is 1000 + seq."""
    return pb.ClientRequest(
        msg_id=1000 + seq,
        seq_id=seq,
        type=pb.REQUEST_BUSINESS,
        payload=pb.BusinessRequest(action=action, data=data, params=params).SerializeToString(),
        ack_seq_id=ack,
    )


def ack(seq: int) -> pb.ClientRequest:
    return pb.ClientRequest(
        type=pb.REQUEST_ACK, payload=pb.ClientAck(acked_seq_id=seq).SerializeToString()
    )


def heartbeat(msg_id: int) -> pb.ClientRequest:
    return pb.ClientRequest(
        msg_id=msg_id,
        type=pb.REQUEST_HEARTBEAT,
        payload=pb.HeartbeatRequest(client_timestamp=msg_id).SerializeToString(),
    )


def stop() -> pb.ClientRequest:
    return pb.ClientRequest(
        type=pb.REQUEST_STOP,
        payload=pb.StopRequest(reason=pb.STOP_USER_LOGOUT).SerializeToString(),
    )


def answer(push: pb.ServerPush) -> pb.BusinessResponse:
    assert push.type == pb.PUSH_BUSINESS_DATA, push
    return pb.BusinessResponse.FromString(push.payload)


def error(push: pb.ServerPush) -> pb.ErrorMessage:
    assert push.type == pb.PUSH_ERROR, push
    return pb.ErrorMessage.FromString(push.payload)
