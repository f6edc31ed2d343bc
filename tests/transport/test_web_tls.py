"""TlsTransport against OpenSSL's own client, without sockets."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import ssl
from typing import TYPE_CHECKING, cast

import pytest

from gatesvr.transport.tls import load_server_tls
from gatesvr.transport.web.tls import RECORD_BYTES, TlsTransport, tls_context

from ..e2e.web_client import client_context

if TYPE_CHECKING:
    from collections.abc import Callable


class Tcp:
    """The TCP transport under a TlsTransport."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_ended = False
        self.is_reading = True
        self.is_aborted = False
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_ended
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_ended = True

    def is_closing(self) -> bool:
        return self.is_aborted

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class Told(asyncio.Protocol):
    """The protocol over it."""

    def __init__(self) -> None:
        self.data = b""
        self.is_lost = False
        self.answer = b""

    def connection_made(self, transport: TlsTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.answer:
            self.transport.write(self.answer)

    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def server_of(told: Told) -> TlsTransport:
    buffer = memoryview(bytearray(RECORD_BYTES))
    return TlsTransport(tls_context(load_server_tls("", "")), told, buffer)


def receive(server: TlsTransport, data: bytes) -> None:
    """Do as a transport that reads data."""
    buffer = server.get_buffer(-1)
    buffer[: len(data)] = data
    server.buffer_updated(len(data))


class Pair:
    """A client and the TlsTransport, their handshake complete."""

    def __init__(self, step: int = RECORD_BYTES - 1) -> None:
        self._step = step
        self.tcp, self.told = Tcp(), Told()
        self.server = server_of(self.told)
        self.server.connection_made(cast("asyncio.Transport", self.tcp))
        self._incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client_context().wrap_bio(self._incoming, self.outgoing)
        while True:
            try:
                self.client.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.carry()
        self.carry()

    def carry(self, more: bytes = b"") -> None:
        """Carry bytes both ways, those to the server in steps."""
        data = self.outgoing.read() + more
        for start in range(0, len(data), self._step):
            receive(self.server, data[start : start + self._step])
        self._incoming.write(bytes(self.tcp.written))
        self.tcp.written.clear()

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.client.read(size)
        return data


@pytest.mark.parametrize("step", [1, 700, RECORD_BYTES - 1])
def test_bytes_go_both_ways_however_they_are_cut(step: int) -> None:
    pair = Pair(step)
    sent = bytes(range(256)) * (3 * RECORD_BYTES // 256) + b"end"
    view = memoryview(sent)
    while view:
        view = view[pair.client.write(view) :]
    pair.carry()
    assert pair.told.data == sent
    pair.server.write(sent)
    assert pair.server.get_write_buffer_size() > len(sent)
    pair.carry()
    assert pair.read(len(sent)) == sent
    assert not pair.server.is_closing()


def test_a_close_ends_the_stream_behind_what_was_written() -> None:
    pair = Pair()
    pair.server.write(b"last")
    pair.server.close()
    assert pair.tcp.is_ended
    assert not pair.tcp.is_aborted
    assert not pair.tcp.is_closed
    pair.client.write(b"late")
    pair.carry()
    assert pair.read(4) == b"last"
    assert pair.client.read(1) == b""
    assert pair.told.data == b""
    pair.server.write(b"nothing")
    assert not pair.tcp.written


def test_the_clients_close_is_answered_and_what_follows_it_dropped() -> None:
    pair = Pair()
    pair.client.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.carry(b"\x17\x03\x03\x00\x05hello")
    assert pair.told.data == b"last"
    assert pair.server.is_closing()
    assert pair.tcp.is_ended
    assert pair.tcp.is_closed
    pair.client.unwrap()
    pair.server.connection_lost(None)
    assert pair.told.is_lost


def test_forged_bytes_are_fatal() -> None:
    pair = Pair()
    pair.told.answer = b"heard"
    pair.carry(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert pair.tcp.is_aborted
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        pair.client.read(1)
    assert pair.told.data == b""


def test_what_is_no_handshake_is_cut() -> None:
    told, tcp = Told(), Tcp()
    server = server_of(told)
    server.connection_made(cast("asyncio.Transport", tcp))
    receive(server, b"GET / HTTP/1.1\r\n\r\n")
    assert tcp.is_aborted
    assert told.data == b""


def test_who_asks_for_new_keys_without_end_is_cut() -> None:
    pair = Pair()
    ask = key_updates(pair.client)
    asked = 0
    while not pair.tcp.is_aborted and asked < 2_000:
        ask()
        receive(pair.server, pair.outgoing.read())
        asked += 1
    assert 300 < asked < 1_000
    assert len(pair.tcp.written) < 20_000


async def test_who_sends_small_records_lets_others_have_their_turn() -> None:
    pair = Pair()
    while pair.outgoing.pending < RECORD_BYTES:
        pair.client.write(b"x")
    data = pair.outgoing.read()
    receive(pair.server, data[:RECORD_BYTES])
    assert not pair.tcp.is_reading
    await asyncio.sleep(0)
    assert pair.tcp.is_reading
    pair.client.write(bytes(2 * RECORD_BYTES))
    data = data[RECORD_BYTES:] + pair.outgoing.read()
    receive(pair.server, data[: RECORD_BYTES - 1])
    receive(pair.server, data[RECORD_BYTES - 1 :][:RECORD_BYTES])
    assert pair.tcp.is_reading
    assert len(pair.told.data) > RECORD_BYTES


def key_updates(tls: ssl.SSLObject) -> Callable[[], None]:
    """Return a function that asks for a new key, which Python's module has none for."""
    module = getattr(_ssl, "__file__", None)
    if module is None:
        pytest.skip("OpenSSL is out of reach")
    library = ctypes.CDLL(module)
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    # The object's head, its socket, and then OpenSSL's own.
    place = id(tls._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # type: ignore[attr-defined]
    connection = ctypes.c_void_p.from_address(place)

    def ask() -> None:
        assert library.SSL_key_update(connection, 1) == 1
        assert library.SSL_do_handshake(connection) == 1

    return ask
