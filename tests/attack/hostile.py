"""A hostile QUIC client: after an honest handshake it sends any frame in any packet.

``HostileClient`` has no socket. It completes the handshake with aioquic, and then seals packets of
its own making with the keys of that connection::

    client = HostileClient()
    for data in client.datagrams(now): ...        what aioquic has to send
    client.receive(data, now)                     what the gateway sent
    data = client.packet(ping() * 3, ack(100))    one datagram with these frames; sends nothing

``HostilePair`` drives a server adapter (a QuicTransport) with it, in memory and in virtual time::

    pair = HostilePair("aioquic")                 the handshake is complete
    pair = HostilePair("qh3", until=HALF_OPEN)    the client keeps its Finished back
    pair.attack(stream(0, b"x", offset=9))        one packet to the server; its answers are dropped
    pair.run(0.1)                                 honest traffic both ways for so long
    pair.closed                                   how the server ended the connection, or None
    pair.cpu, pair.attacks                        seconds of CPU that attack() cost the server

``HostilePeer`` is the same client on a UDP socket::

    async with hostile_peer(host, port) as peer:  the handshake is complete
        peer.send(ping())                         one packet; frames as above
        peer.send_raw(data)                       any datagram
        await peer.settle()                       until the server has answered a PING, or closed
        await peer.until_closed()                 (code, reason) of the server's close
        peer.quic                                 aioquic's connection, for what it does itself

Frames are bytes: join them with ``+``. ``packet(…, epoch=INITIAL)`` and ``HANDSHAKE`` make long
headers; ``number`` sets the packet number, else the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from aioquic.buffer import encode_uint_var  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import END_STATES, QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, encode_long_header_first_byte
from aioquic.tls import Epoch

from gatesvr.transport.quic.choose import pick_backend
from gatesvr.transport.quic.interface import ALPN, QUIC_V1, Closed
from gatesvr.transport.tls import load_server_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from gatesvr.protocol.link import Disconnect
    from gatesvr.transport.quic.interface import QuicEvent, QuicTransport

INITIAL, HANDSHAKE, ONE_RTT = Epoch.INITIAL, Epoch.HANDSHAKE, Epoch.ONE_RTT
COMPLETE = "complete"
HALF_OPEN = "half-open"
DEADLINE_S = 10.0
NO_ERROR = 0
FLOW_CONTROL_ERROR = 0x03
STREAM_LIMIT_ERROR = 0x04
FRAME_ENCODING_ERROR = 0x07
CONNECTION_ID_LIMIT_ERROR = 0x09
PROTOCOL_VIOLATION = 0x0A
CRYPTO_BUFFER_EXCEEDED = 0x0D
KEY_UPDATE_ERROR = 0x0E

# Frames (RFC 9000 19).


def frame(kind: int, *numbers: int, data: bytes = b"") -> bytes:
    """Return a frame of variable-length integers, and bytes behind them."""
    return b"".join(map(encode_uint_var, (kind, *numbers))) + data


def padding(size: int) -> bytes:
    return bytes(size)


def ping() -> bytes:
    return b"\x01"


def ack(
    largest: int, first: int = 0, ranges: Iterable[tuple[int, int]] = (), delay: int = 0
) -> bytes:
    """Acknowledge ``largest`` and ``first`` packets below it, then (gap, length) as on the wire."""
    pairs = list(ranges)
    return frame(0x02, largest, delay, len(pairs), first, *itertools.chain(*pairs))


def holes(largest: int, count: int) -> bytes:
    """Acknowledge every other packet number from largest on down, in count ranges."""
    return ack(largest, 0, [(0, 0)] * (count - 1))


def reset_stream(stream_id: int, code: int = 0, size: int = 0) -> bytes:
    return frame(0x04, stream_id, code, size)


def stop_sending(stream_id: int, code: int = 0) -> bytes:
    return frame(0x05, stream_id, code)


def crypto(data: bytes, offset: int = 0) -> bytes:
    return frame(0x06, offset, len(data), data=data)


def new_token(token: bytes) -> bytes:
    return frame(0x07, len(token), data=token)


def stream(stream_id: int, data: bytes = b"", offset: int = 0, *, end: bool = False) -> bytes:
    kind = 0x0A | (4 if offset else 0) | end
    numbers = (stream_id, offset) if offset else (stream_id,)
    return frame(kind, *numbers, len(data), data=data)


def max_data(limit: int) -> bytes:
    return frame(0x10, limit)


def max_stream_data(stream_id: int, limit: int) -> bytes:
    return frame(0x11, stream_id, limit)


def max_streams(limit: int, *, is_uni: bool = False) -> bytes:
    return frame(0x12 + is_uni, limit)


def data_blocked(limit: int) -> bytes:
    return frame(0x14, limit)


def stream_data_blocked(stream_id: int, limit: int) -> bytes:
    return frame(0x15, stream_id, limit)


def streams_blocked(limit: int, *, is_uni: bool = False) -> bytes:
    return frame(0x16 + is_uni, limit)


def new_connection_id(number: int, retire_prior_to: int = 0) -> bytes:
    """Issue an id made of the number."""
    return frame(
        0x18, number, retire_prior_to, data=b"\x08" + number.to_bytes(8, "big") + bytes(16)
    )


def retire_connection_id(number: int) -> bytes:
    return frame(0x19, number)


def path_challenge(data: bytes) -> bytes:
    return frame(0x1A, data=data.ljust(8, b"\0"))


def path_response(data: bytes) -> bytes:
    return frame(0x1B, data=data.ljust(8, b"\0"))


def handshake_done() -> bytes:
    return frame(0x1E)


# Packets.


def seal(
    crypto_pair: CryptoPair,
    kind: QuicPacketType,
    number: int,
    frames: bytes,
    *,
    destination: bytes,
    source: bytes = b"",
    token: bytes = b"",
    size: int = 0,
) -> bytes:
    """Return a packet of QUIC 1; size pads it with PADDING frames to so many bytes."""
    tag, number_bytes = 16, number.to_bytes(8, "big")[-4:]
    frames = frames.ljust(4, b"\0")  # header protection takes its sample behind them
    if kind is QuicPacketType.ONE_RTT:
        head = bytes([0x43 | crypto_pair.key_phase << 2]) + destination
        frames = frames.ljust(size - len(head) - 4 - tag, b"\0")
    else:
        head = bytes([encode_long_header_first_byte(QUIC_V1, kind, 3)])
        head += QUIC_V1.to_bytes(4, "big")
        head += bytes([len(destination)]) + destination + bytes([len(source)]) + source
        if kind is QuicPacketType.INITIAL:
            head += encode_uint_var(len(token)) + token
        frames = frames.ljust(size - len(head) - 2 - 4 - tag, b"\0")
        head += (4 + len(frames) + tag | 0x4000).to_bytes(2, "big")
    return crypto_pair.encrypt_packet(head + number_bytes, frames, number)


def initial(
    destination: bytes,
    frames: bytes,
    *,
    source: bytes = b"\1" * 8,
    token: bytes = b"",
    number: int = 0,
    size: int = 1200,
) -> bytes:
    """Return the first datagram of an invented client: an Initial packet with these frames."""
    pair = CryptoPair()
    pair.setup_initial(cid=destination, is_client=True, version=QUIC_V1)
    return seal(
        pair,
        QuicPacketType.INITIAL,
        number,
        frames,
        destination=destination,
        source=source,
        token=token,
        size=size,
    )


class HostileClient:
    """A client whose connection is aioquic's and whose packets need not be.

    Attributes:
        quic: The connection.
    """

    def __init__(self) -> None:
        logging.getLogger("quic").setLevel(logging.ERROR)
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=[ALPN],
            server_name="localhost",
            verify_mode=ssl.CERT_NONE,
            supported_versions=[QUIC_V1],
            idle_timeout=30.0,
        )
        self.quic = QuicConnection(configuration=configuration)

    @property
    def is_complete(self) -> bool:
        """Whether the handshake is confirmed."""
        return self.quic._handshake_confirmed

    @property
    def has_handshake_keys(self) -> bool:
        return bool(self.quic._cryptos) and self.quic._cryptos[HANDSHAKE].send.is_valid()

    @property
    def close_reason(self) -> tuple[int, str] | None:
        """Code and reason of the server's close; None while the connection lives."""
        event = self.quic._close_event
        return None if event is None else (event.error_code, event.reason_phrase)

    @property
    def largest_received(self) -> int:
        """The highest 1-RTT packet number that the server was seen to use."""
        return self.quic._spaces[ONE_RTT].largest_received_packet

    def datagrams(self, now: float) -> list[bytes]:
        """Return what aioquic sends now."""
        return [data for data, _ in self.quic.datagrams_to_send(now)]

    def receive(self, data: bytes, now: float) -> None:
        """Take a datagram of the server's in."""
        self.quic.receive_datagram(data, self.quic.get_peer_address(), now)

    def packet(
        self, *frames: bytes, epoch: Epoch = ONE_RTT, number: int | None = None, size: int = 0
    ) -> bytes:
        """Return a sealed packet with these frames; see seal()."""
        quic = self.quic
        kinds = {
            INITIAL: QuicPacketType.INITIAL,
            HANDSHAKE: QuicPacketType.HANDSHAKE,
            ONE_RTT: QuicPacketType.ONE_RTT,
        }
        if epoch is ONE_RTT and not quic._stream_is_discarded(0):
            quic._get_or_create_stream_for_send(0)  # or aioquic refuses what comes back on it
        if number is None:
            number = quic._packet_number
        quic._packet_number = max(quic._packet_number, number + 1)
        return seal(
            quic._cryptos[epoch],
            kinds[epoch],
            number,
            b"".join(frames),
            destination=quic._peer_cid.cid,
            source=quic.host_cid,
            token=quic._peer_token,
            size=1200 if epoch is INITIAL and not size else size,
        )

    def update_key(self) -> None:
        """Seal the next packets with the next key."""
        self.quic._cryptos[ONE_RTT]._update_key("local_update")


class HostilePair:
    """A hostile client and a server adapter, in memory and in virtual time.

    Attributes:
        server: The adapter.
        client: The hostile client.
        events: All events of the server.
        now: The time.
        address: Where the client's datagrams come from; set it to move.
        cpu: Seconds of CPU that the server took for attack().
        attacks: Packets sent by attack().
        bytes_received, bytes_sent: The server's.
    """

    SERVER = ("127.0.0.1", 8453)

    def __init__(self, backend: str, *, until: str = COMPLETE, idle_timeout: float = 30.0) -> None:
        self.now = 100.0
        self.address = ("127.0.0.1", 40001)
        self.client = HostileClient()
        self.client.quic.connect(self.SERVER, self.now)
        self.events: list[QuicEvent] = []
        self.cpu = 0.0
        self.attacks = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        first = self.client.datagrams(self.now)
        factory = pick_backend(backend).server(load_server_tls(), idle_timeout, _token_of)
        self.server: QuicTransport = factory(first[0][6 : 6 + first[0][5]], None)
        for data in first:
            self.to_server(data)
        if until == COMPLETE:
            # Without a Retry a qh3 server needs a probe or two to complete aioquic's handshake.
            self.run(2.0, stop=lambda: self.client.is_complete)
            assert self.client.is_complete
            self.run(0.2)
        else:
            for _ in range(8):
                for data in self.from_server():
                    self.client.receive(data, self.now)
                if self.client.has_handshake_keys:
                    return
                self.now += 0.3
                self.server.handle_timer(self.now)
            raise AssertionError("the server has not answered")

    @property
    def closed(self) -> Disconnect | None:
        """How the server ended the connection; None while it lives."""
        return next((event.how for event in self.events if isinstance(event, Closed)), None)

    def to_server(self, data: bytes) -> None:
        """Hand one datagram to the server."""
        self.bytes_received += len(data)
        self.server.receive_datagram(data, self.address, self.now)
        self._drain()

    def from_server(self) -> list[bytes]:
        """Return the server's datagrams."""
        found = [data for data, _ in self.server.datagrams_to_send(self.now)]
        self._drain()
        self.bytes_sent += sum(map(len, found))
        return found

    def attack(
        self, *frames: bytes, epoch: Epoch = ONE_RTT, number: int | None = None, size: int = 0
    ) -> list[bytes]:
        """Send one packet with these frames; return the server's datagrams, which nobody reads."""
        return self.attack_raw(self.client.packet(*frames, epoch=epoch, number=number, size=size))

    def attack_raw(self, data: bytes) -> list[bytes]:
        """Send one datagram; return the server's datagrams, which nobody reads."""
        self.now += 0.0005
        self.attacks += 1
        begun = time.process_time()
        self.to_server(data)
        timer = self.server.get_timer()
        if timer is not None and timer <= self.now:
            self.server.handle_timer(self.now)
        found = self.from_server()
        self.cpu += time.process_time() - begun
        return found

    def answer(self, datagrams: list[bytes]) -> None:
        """Let the client read the server's datagrams after all."""
        for data in datagrams:
            self.client.receive(data, self.now)

    def run(self, seconds: float, stop: object = None) -> None:
        """Carry honest traffic both ways, timers included, for so long or until stop()."""
        end = self.now + seconds
        quic = self.client.quic
        for _ in range(10_000):
            if callable(stop) and stop():
                return
            to_server = self.client.datagrams(self.now)
            for data in to_server:
                self.to_server(data)
            to_client = self.from_server()
            self.answer(to_client)
            if to_server or to_client:
                self.now += 0.0005
                continue
            timers = [t for t in (quic.get_timer(), self.server.get_timer()) if t is not None]
            due = min(timers, default=end + 1)
            if due > end:
                self.now = max(self.now, end)
                return
            self.now = max(self.now + 0.0005, due)
            for side in (quic, self.server):
                timer = side.get_timer()
                if timer is not None and timer <= self.now:
                    side.handle_timer(self.now)
        raise AssertionError("no end")

    def _drain(self) -> None:
        self.events += self.server.events
        self.server.events.clear()


def _token_of(connection_id: bytes) -> bytes:
    return connection_id * 2


class HostilePeer(asyncio.DatagramProtocol):
    """A hostile client on a UDP socket; see hostile_peer().

    Attributes:
        client: The sans-IO half.
        is_answering: Whether aioquic acknowledges what comes, keeps time-outs and so on.
        is_half_open: Whether it stops answering before it would complete the handshake.
        bytes_received: Of the server's datagrams.
    """

    def __init__(self) -> None:
        self.client = HostileClient()
        self.is_answering = True
        self.is_half_open = False
        self.bytes_received = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def quic(self) -> QuicConnection:
        """aioquic's connection."""
        return self.client.quic

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.bytes_received += len(data)
        self.client.receive(data, self._loop.time())
        if self.is_half_open and self.client.has_handshake_keys:
            self.is_answering = False
        self.transmit()
        self._changed.set()

    def transmit(self) -> None:
        """Send what aioquic has to send, unless it is told to be silent."""
        if not self.is_answering or self._transport is None:
            return
        now = self._loop.time()
        for data in self.client.datagrams(now):
            self._transport.sendto(data)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self.quic.get_timer()
        if when is not None:
            self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.quic.handle_timer(max(self._loop.time(), self.quic.get_timer() or 0.0))
        self.transmit()
        self._changed.set()

    def send(
        self, *frames: bytes, epoch: Epoch = ONE_RTT, number: int | None = None, size: int = 0
    ) -> None:
        """Send one packet with these frames."""
        self.send_raw(self.client.packet(*frames, epoch=epoch, number=number, size=size))

    def send_raw(self, data: bytes) -> None:
        """Send a datagram."""
        assert self._transport is not None
        self._transport.sendto(data)

    async def until(self, found: object, seconds: float = DEADLINE_S) -> None:
        """Wait until found() is true; TimeoutError after so many seconds."""
        assert callable(found)
        async with asyncio.timeout(seconds):
            while not found():
                self._changed.clear()
                await self._changed.wait()

    async def until_closed(self, seconds: float = DEADLINE_S) -> tuple[int, str]:
        """Wait for the server's close; return its code and reason."""
        await self.until(lambda: self.client.close_reason is not None, seconds)
        assert self.client.close_reason is not None
        return self.client.close_reason

    async def settle(self, seconds: float = DEADLINE_S) -> bool:
        """Wait until the server has acknowledged a PING; return whether the connection lives."""
        space = self.quic._spaces[ONE_RTT]
        number = self.quic._packet_number
        self.send(ping(), number=number)
        await self.until(
            lambda: self.client.close_reason is not None or space.largest_acked_packet >= number,
            seconds,
        )
        return self.client.close_reason is None

    def close(self) -> None:
        """Close the socket; the server is told, as an honest client does."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            if self.quic._state not in END_STATES:
                self.quic.close()
                for data in self.client.datagrams(self._loop.time()):
                    self._transport.sendto(data)
            self._transport.close()


@asynccontextmanager
async def hostile_peer(
    host: str, port: int, *, until: str = COMPLETE
) -> AsyncIterator[HostilePeer]:
    """Connect a HostilePeer; it closes at the end."""
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_datagram_endpoint(HostilePeer, remote_addr=(host, port))
    try:
        peer.quic.connect((host, port), loop.time())
        peer.is_half_open = until == HALF_OPEN
        peer.transmit()
        if until == COMPLETE:
            await peer.until(lambda: peer.client.is_complete)
        else:
            await peer.until(lambda: peer.client.has_handshake_keys)
        yield peer
    finally:
        peer.close()
