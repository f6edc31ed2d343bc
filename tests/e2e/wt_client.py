"""The plain client over WebTransport, by aioquic's HTTP/3 alone."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from gatesvr._pb import message_pb2 as pb

from .plain_client import DEADLINE_S
from .web_client import WebClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioquic.quic.events import QuicEvent

CLOSE_SESSION = 0x2843


class H3Client(QuicConnectionProtocol):
    """An HTTP/3 client that keeps what it was told.

    Attributes:
        http: aioquic's HTTP/3.
        statuses: The status of the answer on each stream.
        headers: The headers of the last answer.
        capsules: Bytes of DATA frames by stream.
        message_stream: The stream that carries messages.
        messages: What came on it.
        resets: Codes of RESET_STREAM and STOP_SENDING by stream.
        ended: Streams that the gateway has ended.
        close_event: How the connection ended: (code, reason), None before.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not self.quic.configuration.connection_id_length:
            # aioquic makes the gateway's first id as long, and would offer more of its own.
            self.quic._replenish_connection_ids = lambda: None
            original = os.urandom(8)
            self.quic._peer_cid.cid = self.quic._original_destination_connection_id = original
        self.http: Any = None
        self.statuses: dict[int, int] = {}
        self.headers: dict[bytes, bytes] = {}
        self.capsules: dict[int, bytes] = {}
        self.messages = bytearray()
        self.resets: dict[int, list[int]] = {}
        self.ended: set[int] = set()
        self.close_event: tuple[int, str] | None = None
        self.message_stream = -1
        self.reads_at_once = True  # and says so
        self._changed = asyncio.Event()

    @property
    def quic(self) -> Any:
        return self._quic

    def begin(self) -> None:
        """Send SETTINGS."""
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.close_event = event.error_code, event.reason_phrase
        elif isinstance(event, StreamReset | StopSendingReceived):
            self.resets.setdefault(event.stream_id, []).append(event.error_code)
        if isinstance(event, StreamDataReceived) and event.stream_id == self.message_stream:
            # aioquic takes what comes back on a stream of its own for frames of HTTP/3.
            self.messages += event.data
            if event.end_stream:
                self.ended.add(event.stream_id)
                if self.reads_at_once:
                    self.write(event.stream_id, b"", end=True)
        elif self.http is not None:
            for found in self.http.handle_event(event):
                if isinstance(found, HeadersReceived):
                    self.headers = dict(found.headers)
                    self.statuses[found.stream_id] = int(self.headers[b":status"])
                elif isinstance(found, DataReceived):
                    before = self.capsules.get(found.stream_id, b"")
                    self.capsules[found.stream_id] = before + found.data
                if getattr(found, "stream_ended", False):
                    self.ended.add(found.stream_id)
        self._changed.set()

    async def until(self, found: Any) -> Any:
        """Wait until found() is true, and return it."""
        async with asyncio.timeout(DEADLINE_S):
            while not (value := found()):
                self._changed.clear()
                await self._changed.wait()
        return value

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Write raw bytes to a stream."""
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()

    def request(
        self, authority: str, path: str, *, is_stopped: bool = False, **headers: str
    ) -> int:
        """Send a CONNECT for a session; return its stream. A header ``_x`` is a pseudo-header.

        With is_stopped the same packet says that no answer is wanted.
        """
        stream_id: int = self._quic.get_next_available_stream_id()
        fields = {
            ":method": "CONNECT",
            ":protocol": "webtransport",
            ":scheme": "https",
            ":authority": authority,
            ":path": path,
            **{name.replace("_", ":", 1): value for name, value in headers.items()},
        }
        pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
        self.http.send_headers(stream_id, pairs)
        if is_stopped:
            self._quic.stop_stream(stream_id, 0)
        self.transmit()
        return stream_id

    async def answer(self, stream_id: int) -> int:
        """Return the status that answers a request."""
        status: int = await self.until(lambda: self.statuses.get(stream_id))
        return status

    async def closed(self) -> tuple[int, str]:
        """Return the code and the reason of the connection's close."""
        how: tuple[int, str] = await self.until(lambda: self.close_event)
        return how


class WtClient(WebClient):
    """One WebTransport session: frames out, ServerPush messages in.

    Attributes:
        h3: The connection.
        session: Stream of the session.
        stream: The stream that carries messages.
    """

    def __init__(self, h3: H3Client, session: int) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.h3 = h3
        self.session = session
        self.stream = h3.message_stream = h3.http.create_webtransport_stream(session)

    async def receive(self) -> pb.ServerPush:
        data = self.h3.messages

        def size() -> int:
            return 4 + struct.unpack_from(">I", data)[0] if len(data) >= 4 else 1 << 62

        await self.h3.until(lambda: len(data) >= size())
        push = pb.ServerPush.FromString(bytes(data[4 : size()]))
        del data[: size()]
        return push

    async def send_bytes(self, data: bytes) -> None:
        self.h3.write(self.stream, data)

    async def closed(self) -> int:
        """Wait until the gateway closes the session and return its code."""
        return (await self.close_info())[0]

    async def close_info(self) -> tuple[int, str]:
        """Wait until the gateway closes the session and return its code and its reason."""
        await self.h3.until(lambda: self.session in self.h3.ended)
        buf = Buffer(data=self.h3.capsules[self.session])
        assert buf.pull_uint_var() == CLOSE_SESSION
        assert buf.pull_uint_var() == buf.capacity - buf.tell()
        code = buf.pull_uint32()
        return code, buf.pull_bytes(buf.capacity - buf.tell()).decode()

    def close_session(self, code: int, reason: str) -> None:
        """Close the session as a browser does."""
        capsule = code.to_bytes(4) + reason.encode()
        head = encode_uint_var(CLOSE_SESSION) + encode_uint_var(len(capsule))
        self.h3.http.send_data(self.session, head + capsule, True)
        self.h3.transmit()


@asynccontextmanager
async def h3_client(
    address: str, *, id_length: int = 8, protocol: type[H3Client] = H3Client
) -> AsyncIterator[H3Client]:
    """Connect to the gateway without checking its certificate, and send SETTINGS.

    Args:
        address: The gateway's, for web clients.
        id_length: Bytes of the client's connection ids; browsers have 0.
        protocol: Makes the client.
    """
    host, _, port = address.rpartition(":")
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=True,
        connection_id_length=id_length,
        max_datagram_frame_size=65536,
        verify_mode=ssl.CERT_NONE,
        server_name="localhost",
    )
    logging.getLogger("quic").setLevel(logging.ERROR)
    async with connect(
        host, int(port), configuration=configuration, create_protocol=protocol
    ) as client:
        assert isinstance(client, H3Client)
        client.begin()
        yield client


@asynccontextmanager
async def wt_client(
    address: str, *, path: str = "/gatesvr", id_length: int = 8, **headers: str
) -> AsyncIterator[WtClient]:
    """Open a session."""
    async with h3_client(address, id_length=id_length) as h3:
        session = h3.request(address, path, **headers)
        assert await h3.answer(session) == 200
        yield WtClient(h3, session)
