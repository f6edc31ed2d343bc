"""The listener on a backend: peers that send any datagrams, before a handshake and after it.

The first byte picks the backend, or a pair of batched sockets. The listener, its admission, its
resets and the QUIC adapters are the real ones; the socket is a list, and time is a number. Beside
exceptions it finds answers larger than their cause allows, and what is left behind when all
connections have ended.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, encode_long_header_first_byte
from aioquic.tls import Epoch

from gatesvr._core.udp import HAS_BATCH, BatchSocket
from gatesvr.config import TransportConfig
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.quic.choose import backends
from gatesvr.transport.quic.reset import StatelessResets
from gatesvr.transport.udp.driver import Driver
from tests.sim.loop import VirtualLoop
from tests.transport.harness import Echo

from .reader import Reader, chunk

MAX_STEPS = 24
MAX_DATAGRAM = 1500
SERVER = ("192.0.2.100", 8453)
CLIENT = ("192.0.2.9", 40009)
STRANGERS = (("192.0.2.1", 40001), ("192.0.2.2", 40002), ("2001:db8::1", 40003, 0, 0))
MOVES = (("192.0.2.10", 40009), ("192.0.2.9", 40010), CLIENT)
IDS = (bytes(8), b"\x01" * 8, b"\x02" * 20, b"\x03" * 4)
MAX_AMPLIFICATION = 3


def check(data: bytes) -> None:
    """Send the datagrams."""
    reader = Reader(data)
    where = reader.pick(("qh3", "aioquic", "sockets"))
    if where == "sockets":
        _check_sockets(reader)
    elif where in backends():
        World.on(where).run(reader)


def _check_sockets(reader: Reader) -> None:
    """Datagrams sent in a batch arrive as they were, however they form runs."""
    if not HAS_BATCH:
        return
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
    try:
        for sock in socks:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        sender, *receivers = (BatchSocket(sock, max_datagram=MAX_DATAGRAM) for sock in socks)
        batch: list[tuple[bytes, Any]] = []
        expected: list[list[bytes]] = [[], []]
        for number in range(reader.number() % 80):
            size, which = reader.number(2), reader.number()
            data = number.to_bytes() * (size % (MAX_DATAGRAM + 1))
            if which > 250:
                batch.append((data, (reader.text(), reader.number(4))))
                continue
            batch.append((data, socks[1 + which % 2].getsockname()))
            expected[which % 2].append(data)
        found: list[list[tuple[bytes, Any]]] = [[], []]
        at = 0
        while at < len(batch):
            try:
                sent = sender.send(batch, at)
            except (OSError, OverflowError):
                assert batch[at][1] not in [sock.getsockname() for sock in socks]
                sent = 1
            assert 0 < sent <= len(batch) - at
            at += sent
            for receiver, arrived in zip(receivers, found, strict=True):
                receiver.receive_into(arrived)
        for receiver, arrived in zip(receivers, found, strict=True):
            receiver.receive_into(arrived)
        for arrived, datagrams in zip(found, expected, strict=True):
            assert [data for data, _ in arrived] == datagrams
    finally:
        for sock in socks:
            sock.close()


class Failures(logging.Handler):
    """Keeps the exceptions that ended a connection."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.seen.append(record.exc_info[1])


class World:
    """A listener with its clients; one for each backend, used for one input after another."""

    _made: dict[str, World] = {}  # noqa: RUF012

    @classmethod
    def on(cls, backend: str) -> World:
        if backend not in cls._made:
            cls._made[backend] = cls(backend)
        return cls._made[backend]

    def __init__(self, backend: str) -> None:
        self.loop = VirtualLoop()
        self._driver = Driver(self.loop)
        self._driver.clock = self.loop.time
        config = TransportConfig(backend=backend, bind="127.0.0.1:0")  # type: ignore[arg-type]
        self.listener = ConnectionListener(config, Echo)
        listener: Any = self.listener
        listener._driver = self._driver
        listener._door.endpoint = self
        listener._resets = StatelessResets(bytes(32), listener._counters)
        listener._admission.is_accepting = True
        self._sent: list[tuple[bytes, Any]] = []
        self._failures = Failures()

    # The Endpoint.

    def send(self, datagrams: list[tuple[bytes, Any]]) -> None:
        self._sent += datagrams

    def transmit(self) -> None:
        """Do nothing: what was sent is in the list."""

    # One input.

    def run(self, reader: Reader) -> None:
        self.loop._now += 1000.0
        self._sent = []
        self.client: QuicConnection | None = None
        self.address = CLIENT
        self.retry_token = b""
        self._last: tuple[bytes, Any] = (b"", STRANGERS[0])
        self._received: dict[Any, int] = {}
        self._answered: dict[Any, int] = {}
        self._failures.seen.clear()
        logger = logging.getLogger("gatesvr.transport")
        logger.addHandler(self._failures)
        try:
            for _ in range(MAX_STEPS):
                if reader.is_empty:
                    break
                reader.pick(_STEPS)(self, reader)
                self._check()
            self._end()
        finally:
            logger.removeHandler(self._failures)

    def receive(self, data: bytes, address: Any) -> None:
        """Let the listener read a datagram, and everything that follows happen."""
        self._last = (data, address)
        self._received[address] = self._received.get(address, 0) + len(data)
        self.loop.call(self.listener._datagrams_received, [(data, address)], self.loop.time())
        self.settle()

    def settle(self) -> None:
        self.loop.settle()
        sent, self._sent = self._sent, []
        for data, address in sent:
            self._answered[address] = self._answered.get(address, 0) + len(data)
            if data[0] & 0xF0 == 0xF0:
                self._read_retry(data)
            client = self.client
            if client is not None and address == self.address:
                try:
                    client.receive_datagram(data, SERVER, self.loop.time())
                except (AssertionError, ValueError, KeyError, IndexError):
                    self.client = None  # aioquic's client is confused by packets that it never sent

    def _read_retry(self, data: bytes) -> None:
        at = 6 + data[5]
        self.retry_token = data[at + 1 + data[at] : -16]

    def _check(self) -> None:
        if self._failures.seen:
            raise self._failures.seen[0]
        for address in STRANGERS:
            answered, received = self._answered.get(address, 0), self._received.get(address, 0)
            assert answered <= MAX_AMPLIFICATION * received, "amplification"
        assert not self.loop.failures, self.loop.failures

    def _end(self) -> None:
        listener: Any = self.listener
        for connection in list(listener.connections):
            connection.discard("the end")
        listener._routes.end_draining()
        self.settle()
        self._check()
        assert not listener.connections
        assert not listener._admission.half_open
        assert not len(listener._routes)
        assert not listener._tasks
        assert not self._driver._dirty
        assert not self._driver._put_off

    def open(self) -> QuicConnection:
        """Return the good client's connection; the first call makes it."""
        if self.client is not None:
            return self.client
        self.client = client = _client(b"")
        client.connect(SERVER, self.loop.time())
        for _ in range(6):
            self.carry()
        return client

    def carry(self) -> None:
        """Send what the good client has to send."""
        if self.client is not None:
            for data, _ in self.client.datagrams_to_send(self.loop.time()):
                self.receive(data, self.address)

    def advance(self, seconds: float) -> None:
        self.loop._now += seconds
        self.settle()


def _client(token: bytes) -> QuicConnection:
    return QuicConnection(
        configuration=QuicConfiguration(
            is_client=True,
            alpn_protocols=["gatesvr"],
            verify_mode=ssl.CERT_NONE,
            server_name="localhost",
            token=token,
        )
    )


def _send_raw(world: World, reader: Reader) -> None:
    world.receive(reader.chunk(), reader.pick(STRANGERS))


def _send_unknown(world: World, reader: Reader) -> None:
    """Send a short header, as to a connection that is not known here."""
    world.receive(bytes((0x40 | reader.number() & 0x3F,)) + reader.chunk(), reader.pick(STRANGERS))


def _send_initial(world: World, reader: Reader) -> None:
    """Send an Initial that decrypts, with any frames and any token."""
    address = reader.pick(STRANGERS)
    destination = reader.pick(IDS)
    kind = reader.number()
    token = world.retry_token if kind & 1 else reader.chunk() if kind & 2 else b""
    version = 1 if kind & 12 else reader.number(4)
    packet = _seal_initial(destination, IDS[kind >> 4 & 3], token, version, reader.chunk())
    if kind & 64:
        packet += bytes(max(0, 1200 - len(packet)))  # padding outside of the packet
    world.receive(packet, address)


def _seal_initial(
    destination: bytes, source: bytes, token: bytes, version: int, frames: bytes
) -> bytes:
    buffer = Buffer(capacity=3000 + len(token))
    buffer.push_uint8(encode_long_header_first_byte(1, QuicPacketType.INITIAL, 1))
    buffer.push_uint32(version)
    buffer.push_uint8(len(destination))
    buffer.push_bytes(destination)
    buffer.push_uint8(len(source))
    buffer.push_bytes(source)
    buffer.push_uint_var(len(token))
    buffer.push_bytes(token)
    payload = frames[:1400]
    payload += bytes(max(0, 1200 - buffer.tell() - 4 - len(payload) - 16))
    buffer.push_uint16(0x4000 | (len(payload) + 18))
    buffer.push_uint16(0)  # packet number
    crypto = CryptoPair()
    crypto.setup_initial(destination, is_client=True, version=1)
    return crypto.encrypt_packet(buffer.data, payload, 0)


def _send_first_flight(world: World, reader: Reader) -> None:
    """Send a real client's first datagram, some of its bytes changed."""
    client = _client(world.retry_token if reader.number() & 1 else b"")
    client.connect(SERVER, world.loop.time())
    data = bytearray(client.datagrams_to_send(world.loop.time())[0][0])
    for _ in range(reader.number() % 4):
        data[reader.number(2) % len(data)] ^= reader.number()
    extra = reader.number()
    if extra:
        data = data[: -extra & 0x7FF] if extra & 1 else data + bytes(extra)
    world.receive(bytes(data), reader.pick(STRANGERS))


def _open(world: World, reader: Reader) -> None:
    world.open()


def _send_frames(world: World, reader: Reader) -> None:
    """Send any frames in a packet of the good client's connection."""
    client = world.open()
    crypto = client._cryptos[Epoch.ONE_RTT]
    if not crypto.send.is_valid():
        return
    number = client._packet_number = client._packet_number + 1 + reader.number() % 4
    header = b"\x41" + client._peer_cid.cid + (number & 0xFFFF).to_bytes(2)
    frames = reader.chunk()[:1200]
    packet = crypto.encrypt_packet(header, frames + bytes(max(0, 4 - len(frames))), number)
    world.receive(packet, world.address)


def _send_stream(world: World, reader: Reader) -> None:
    """Let the good client write to a stream, as a sound client does."""
    client = world.open()
    if client._close_event is None:
        stream = reader.pick((0, 0, 4, 2))
        try:
            client.send_stream_data(stream, reader.chunk(), bool(reader.number() & 1))
        except (AssertionError, ValueError, KeyError, RuntimeError):
            return  # aioquic's client does not allow it in this state
        world.carry()


def _repeat(world: World, reader: Reader) -> None:
    """Send the last datagram again, from another address and a little changed."""
    data, address = world._last
    if address not in STRANGERS:
        address = reader.pick(MOVES)
    edited = bytearray(data)
    if edited and reader.number() & 1:
        edited[reader.number(2) % len(edited)] ^= reader.number()
    world.receive(bytes(edited), address)


def _move(world: World, reader: Reader) -> None:
    world.address = reader.pick(MOVES)
    world.carry()


def _wait(world: World, reader: Reader) -> None:
    world.advance(reader.number() ** 2 / 1000)
    world.carry()


_Step = Callable[[World, Reader], None]
_STEPS: tuple[_Step, ...] = (
    _send_raw,
    _send_unknown,
    _send_initial,
    _send_first_flight,
    _open,
    _send_frames,
    _send_stream,
    _repeat,
    _move,
    _wait,
)
_NUMBERS = {step: number for number, step in enumerate(_STEPS)}


def _step(step: _Step, *arguments: bytes | int) -> bytes:
    parts = (a if isinstance(a, bytes) else bytes((a,)) for a in arguments)
    return bytes((_NUMBERS[step],)) + b"".join(parts)


_FRAMES = {
    "ping": b"\x01",
    "ack": b"\x02\x02\x00\x00\x02",
    "ack of what was never sent": b"\x02\x7f\xff\x00\x00\x05",
    "ack with ranges": b"\x02\x20\x00\x03\x01\x02\x01\x02\x01\x01\x01",
    "reset stream": b"\x04\x00\x01\x00",
    "stop sending": b"\x05\x00\x01",
    "crypto": b"\x06\x00\x04abcd",
    "crypto with a gap": b"\x06\x44\x00\x04abcd",
    "new token": b"\x07\x02ab",
    "stream": b"\x0f\x00\x00\x03abc",
    "stream far ahead": b"\x0e\x00\xbf\xff\xff\xff\x01x",
    "a stream of the gateway's": b"\x0a\x01\x01x",
    "many streams": b"".join(bytes((0x0A, 4 * n, 1, 120)) for n in range(2, 9)),
    "max data": b"\x10\x80\x10\x00\x00",
    "max stream data": b"\x11\x00\x80\x10\x00\x00",
    "max streams": b"\x12\x40\x80",
    "data blocked": b"\x14\x40\x80",
    "streams blocked": b"\x16\x40\x80",
    "new id": b"\x18\x01\x00\x08" + bytes(8) + bytes(16),
    "new id, retiring": b"\x18\x07\x07\x08" + b"\x09" * 8 + b"\x08" * 16,
    "retire id": b"\x19\x00" + b"\x19\x01",
    "retire an unknown id": b"\x19\x40\x99",
    "path challenge": b"\x1a12345678",
    "path response": b"\x1b12345678",
    "close": b"\x1c\x0a\x00\x00",
    "close of the application": b"\x1d\x50\x00\x02ok",
    "handshake done": b"\x1e",
    "unknown": b"\x40\x99",
    "datagram": b"\x30abc",
}


def seeds() -> Iterator[bytes]:
    """Yield datagrams of each kind for each backend, and each kind of frame after a handshake."""
    hello = _client_hello()
    for backend in range(2):
        begin = bytes((backend,))
        wait = _step(_wait, 60)
        yield begin + _step(_send_raw, chunk(bytes(20)), 0) + _step(_send_raw, chunk(b""), 1)
        yield begin + _step(_send_unknown, 5, chunk(bytes(range(60))), 0)
        yield begin + _step(_send_raw, chunk(b"\xc0\x00\x00\x00\x00\x08" + bytes(1200)), 0)
        yield begin + _step(_send_raw, chunk(b"\xc0\x1a\x2a\x3a\x4a\x08" + bytes(1200)), 2)
        yield begin + _step(_send_initial, 0, 0, 4, chunk(b"\x06\x00" + hello)) + wait
        yield begin + _step(_send_initial, 0, 1, 4, chunk(b"\x01")) + wait
        yield begin + _step(_send_initial, 0, 1, 6, chunk(b"token"), chunk(b"\x06\x00" + hello))
        yield begin + _step(_send_initial, 0, 1, 4 | 64, chunk(b"\x06\x00" + hello[:40]))
        yield begin + _step(_send_first_flight, 0, 0, 0, 0) + wait
        yield begin + _step(_send_first_flight, 0, 0, 20, 0) + _step(_send_first_flight, 1, 0, 0, 0)
        yield begin + _step(_open) + _step(_send_stream, 0, chunk(b"hello"), 0) + wait
        yield begin + _step(_send_stream, 0, chunk(b"bye"), 1) + _step(_move, 0) + wait
        yield begin + _step(_send_stream, 2, chunk(b"x"), 0) + _step(_repeat, 1, 0, 20, 255)
    for number, frames in enumerate(_FRAMES.values()):
        yield bytes((number % 2,)) + _step(_send_frames, 0, chunk(frames)) + _step(_wait, 60)
    for sizes in ([9] * 70, [1200, 1200, 1200, 40, 1200], [0, 1, 0, 1500], [7, 7, 8, 8, 8, 3]):
        sends = (size.to_bytes(2) + bytes((i % 3,)) for i, size in enumerate(sizes))
        yield bytes((2, len(sizes))) + b"".join(sends)
    yield b"\x02\x03\x00\x08\x00\x00\x08\xff" + chunk(b"::1") + bytes(4) + b"\x00\x08\x00"
    all_frames = list(_FRAMES.values())
    for backend in range(2):
        for some in (all_frames[:12], all_frames[11:24]):
            steps = (_step(_send_frames, 0, chunk(frames)) for frames in some)
            yield bytes((backend,)) + b"".join(steps)


def _client_hello() -> bytes:
    """Return the length and the bytes of a client hello, as a CRYPTO frame has them."""
    client = _client(b"")
    client.connect(SERVER, 0.0)
    data: bytes = client._crypto_streams[Epoch.INITIAL].sender._buffer
    return (0x4000 | len(data)).to_bytes(2) + bytes(data)
