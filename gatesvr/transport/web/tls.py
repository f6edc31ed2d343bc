"""TlsTransport: the server's side of TLS, between a TCP transport and a protocol.

asyncio has one, too. Its buffers stay with each connection, a quarter of a megabyte after a burst;
what a connection keeps here is bounded by a TLS record each way.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from ...errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tls import ServerTls

__all__ = ["TlsTransport", "tls_context"]

RECORD_BYTES = 16 << 10
"""The most that a TLS record holds (RFC 8446 5.1), and that OpenSSL is given at a time: its buffers
grow to that and never shrink."""
MAX_ANSWERS_BYTES = 16 << 10
"""Bytes that TLS itself may answer a client with behind the handshake, in the connection's life: a
new key costs 27, and a client that asks for them and reads nothing would make the queue grow."""


class TlsTransport(asyncio.BufferedProtocol):
    """A TLS connection of a client.

    It is the protocol of the TCP transport, and has of a transport what its own protocol uses.

    Args:
        context: The server's certificate.
        protocol: Takes what arrives. Its connection_made() comes with that of TCP: it may write
            from its first data_received() on.
        buffer: Takes what is read at a time, RECORD_BYTES; connections of one loop share it.

    Attributes:
        get_write_buffer_size: Returns the bytes that TCP has not taken.
    """

    __slots__ = ("_answers_left", "_buffer", "_incoming", "_is_closing", "_is_up", "_outgoing",
                 "_protocol", "_tcp", "_tls", "get_write_buffer_size")  # fmt: skip

    get_write_buffer_size: Callable[[], int]

    def __init__(
        self, context: ssl.SSLContext, protocol: asyncio.Protocol, buffer: memoryview
    ) -> None:
        self._protocol = protocol
        self._buffer = buffer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tcp: asyncio.Transport = cast("asyncio.Transport", None)
        self._is_up = False
        self._is_closing = False
        self._answers_left = MAX_ANSWERS_BYTES

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the handshake."""
        self._tcp = cast("asyncio.Transport", transport)
        self.get_write_buffer_size = self._tcp.get_write_buffer_size
        self._protocol.connection_made(cast("asyncio.BaseTransport", self))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to.

        With a buffer of their own, asyncio's transports take a quarter of a megabyte in one turn of
        the loop, which is ten thousand records of a byte.
        """
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt what has arrived; behind a close it is dropped."""
        if self._is_closing:
            return
        tls, incoming = self._tls, self._incoming
        incoming.write(self._buffer[:nbytes])
        found = 0
        try:
            if not self._is_up:
                tls.do_handshake()
                self._is_up = True
            while incoming.pending and not self._is_closing:
                # One record, and all of it: nothing stays in OpenSSL.
                plain = tls.read(RECORD_BYTES)
                if plain:
                    found += len(plain)
                    self._protocol.data_received(plain)
                else:
                    self.close()  # the client has, and reads nothing more
                    self._tcp.close()
        except ssl.SSLWantReadError:
            pass  # half a record
        except ssl.SSLError:
            self._send()  # the alert
            self.abort()
            return
        if nbytes == RECORD_BYTES and found < nbytes // 2:
            # Small records cost much, and uvloop reads on while there are more: the others first.
            self._tcp.pause_reading()
            asyncio.get_running_loop().call_soon(self._tcp.resume_reading)
        if self._outgoing.pending:  # of the handshake, or a new key
            if self._is_up:
                self._answers_left -= self._outgoing.pending
            self._send()
            if self._answers_left < 0:
                self.abort()

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

    # The protocol calls these, as of an asyncio.Transport.

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
        with suppress(ssl.SSLError):  # the client's own end is missing yet, or the whole handshake
            self._tls.unwrap()
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


def tls_context(tls: ServerTls) -> ssl.SSLContext:
    """Return the TLS context of a certificate.

    Raises:
        ConfigError: OpenSSL cannot use it.
        OSError: There is no temporary file to be had.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL's Python module reads files only.
    descriptor, name = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(tls.cert_pem + tls.key_pem)
        context.load_cert_chain(name)
    except ssl.SSLError as error:
        raise ConfigError(
            f"TLS cannot use the certificate: {error.reason}", field="transport.cert"
        ) from None
    finally:
        os.unlink(name)
    return context
