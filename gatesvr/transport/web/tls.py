"""TlsTransport: the server's side of TLS, between a TCP transport and a protocol.

asyncio has one, too. Its buffers stay with each connection, a quarter of a megabyte after a burst;
here all connections read into one buffer, and what a connection keeps is bounded by a TLS record.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol, cast

__all__ = ["READ_BYTES", "TlsProtocol", "TlsTransport"]

READ_BYTES = 64 << 10
"""Bytes that one turn of the loop reads from a connection."""
RECORD_BYTES = 16 << 10
"""The most that a TLS record holds (RFC 8446 5.1), and that OpenSSL is given at a time: its buffers
grow to that and never shrink."""


class TlsProtocol(Protocol):
    """What a TlsTransport carries bytes for."""

    def connection_made(self, transport: TlsTransport) -> None:
        """TCP is up; nothing may be written before the first data_received()."""

    def data_received(self, data: bytes) -> None:
        """Take bytes in."""

    def resume_writing(self) -> None:
        """The bytes that TCP has not taken are below low water."""

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone."""


class TlsTransport(asyncio.BufferedProtocol):
    """A TLS connection of a client.

    Args:
        context: The server's certificate.
        protocol: Takes what arrives.
        buffer: READ_BYTES for all connections of a loop: what is read into it is used at once.
    """

    __slots__ = ("_buffer", "_incoming", "_is_closing", "_is_up", "_outgoing", "_protocol", "_tcp",
                 "_tls")  # fmt: skip

    def __init__(self, context: ssl.SSLContext, protocol: TlsProtocol, buffer: memoryview) -> None:
        self._protocol = protocol
        self._buffer = buffer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tcp: asyncio.Transport = cast("asyncio.Transport", None)
        self._is_up = False
        self._is_closing = False

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the handshake."""
        self._tcp = cast("asyncio.Transport", transport)
        self._protocol.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer of all connections."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt what has arrived; behind a close it is dropped."""
        for start in range(0, nbytes, RECORD_BYTES):
            if self._is_closing:
                return
            self._incoming.write(self._buffer[start : min(start + RECORD_BYTES, nbytes)])
            try:
                self._read()
            except ssl.SSLWantReadError:
                pass  # half a record
            except ssl.SSLZeroReturnError:
                self.close()
            except ssl.SSLError:
                self._send()  # the alert
                self.abort()
                return
            if self._outgoing.pending:
                self._send()  # of the handshake, or a new key

    def eof_received(self) -> None:
        """Close: TLS has no half-closed connections."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._is_closing = True
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Do nothing: whoever writes asks for the bytes not taken."""

    def resume_writing(self) -> None:
        """Pass it on."""
        self._protocol.resume_writing()

    def _read(self) -> None:
        tls, incoming = self._tls, self._incoming
        if not self._is_up:
            tls.do_handshake()
            self._is_up = True
            self._send()
        while incoming.pending or tls.pending():
            data = tls.read(RECORD_BYTES)
            if not data or self._is_closing:
                break
            self._protocol.data_received(data)

    # The transport of the protocol.

    def write(self, data: bytes) -> None:
        """Encrypt and send; does nothing once it is closing."""
        if self._is_closing:
            return
        tls = self._tls
        if len(data) <= RECORD_BYTES:
            tls.write(data)
            self._tcp.write(self._outgoing.read())
            return
        view = memoryview(data)
        while view:
            view = view[tls.write(view[:RECORD_BYTES]) :]
            self._tcp.write(self._outgoing.read())

    def get_write_buffer_size(self) -> int:
        """Return the bytes that TCP has not taken."""
        return self._tcp.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Call resume_writing() when the bytes not taken were above high and are below low."""
        self._tcp.set_write_buffer_limits(high=high, low=low)

    def is_closing(self) -> bool:
        """Return whether close() or abort() was called, or the client has left."""
        return self._is_closing

    def close(self) -> None:
        """Send what was written and the end; TCP goes when the client's end comes.

        What the client still sends is dropped: with bytes unread, the system would reset the
        connection, and the client might never read what was written last.
        """
        if self._is_closing:
            return
        self._is_closing = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the client's own end is not here yet, or the handshake was not done
        self._send()
        if self._tcp.can_write_eof() and not self._tcp.is_closing():
            self._tcp.write_eof()

    def abort(self) -> None:
        """Cut the TCP connection."""
        self._is_closing = True
        self._tcp.abort()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._tcp.write(self._outgoing.read())
