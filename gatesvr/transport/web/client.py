"""WebClientConnection: a client's WebSocket connection, from the TCP connect to the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

from ...errors import CloseCode, ConnectionFailed
from ..addresses import Place, plain_address, without_scope
from ..connection import CLOSE_LINGER_S
from ..counters import TransportCounters
from ..udp.driver import Driver
from .client_socket import ClientSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...config import TransportConfig
    from ...protocol.link import Disconnect, HandlerFactory
    from ..addresses import Address
    from ..client import Server
    from ..tls import ClientTls

__all__ = ["WebClientConnection"]

_CERTIFICATE_ALERT = 0x100 + 42  # bad_certificate, as QUIC has it (RFC 9001 4.8)


class WebClientConnection:
    """A client's WebSocket connection; to its user it is what ClientConnection is.

    Attributes:
        connection: The WebSocket.
        counters: The connection's counters.
        address: The TCP socket's own address.
        server: The gateway's address.
        asked: The gateway as it was asked for.
    """

    def __init__(
        self,
        asked: Server,
        server: Address,
        handler_factory: HandlerFactory,
        *,
        driver: Driver | None,
        config: TransportConfig,
        is_wanted: Callable[[], bool],
    ) -> None:
        self.counters = TransportCounters()
        self.asked = asked
        self.server = server
        self.address: Address = ("", 0)
        self._is_own_driver = driver is None
        self._driver = driver or Driver()
        self.connection = ClientSocket(
            Place(asked.host, asked.port, asked.path, asked.is_plain),
            plain_address(server),
            handler_factory,
            driver=self._driver,
            config=config,
            counters=self.counters,
            is_wanted=is_wanted,
        )
        if self._is_own_driver:
            self.connection.gone.add_done_callback(lambda gone: self._driver.close())

    @classmethod
    async def open(
        cls,
        asked: Server,
        name: str,
        family: socket.AddressFamily,
        server: Address,
        handler_factory: HandlerFactory,
        *,
        driver: Driver | None,
        config: TransportConfig,
        deadline: float,
        is_wanted: Callable[[], bool],
    ) -> WebClientConnection:
        """Return a connection whose handler has been made.

        Args:
            asked: The gateway.
            name: The name that its certificate must be valid for, as the network knows it.
            family: Of its address.
            server: Its address.
            handler_factory: Makes the handler.
            driver: Timers shared with others; None for its own.
            config: For its stream.
            deadline: Loop time by which the gateway has answered.
            is_wanted: Asked when it has; False to close at once.

        Raises:
            ConnectionFailed: Nobody listens, no answer in time, a certificate that is not accepted,
                or an HTTP answer that is no WebSocket of a gateway.
            OSError: There is no way to the address.
        """
        opened = cls(
            asked, server, handler_factory, driver=driver, config=config, is_wanted=is_wanted
        )
        place = f"{asked.host} port {asked.port}"
        try:
            async with asyncio.timeout_at(deadline):
                await opened._connect(without_scope(name), family)
                await opened.connection.ready
        except BaseException as error:
            opened.give_up()
            if isinstance(error, TimeoutError):
                raise ConnectionFailed(f"no answer from {place}: time-out") from None
            if isinstance(error, ConnectionRefusedError):
                raise ConnectionFailed(
                    f"nobody listens on TCP {server[0]} port {asked.port} (refused)"
                ) from None
            if isinstance(error, ssl.SSLError):
                raise _tls_failure(error, place, asked.tls) from None
            if isinstance(error, ConnectionError):
                why = error.strerror or str(error)
                raise ConnectionFailed(f"{place} closed the connection: {why}") from None
            raise
        return opened

    async def _connect(self, name: str, family: socket.AddressFamily) -> None:
        """Bring TCP and TLS up."""
        options: dict[str, Any] = {}
        if not self.asked.is_plain:
            options["ssl"] = _context(self.asked.tls)
            options["server_hostname"] = name
            options["ssl_shutdown_timeout"] = CLOSE_LINGER_S
        loop = self._driver.loop
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            tcp.setblocking(False)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(tcp, self.server)
            self.address = tcp.getsockname()
        except BaseException:
            tcp.close()
            raise
        await loop.create_connection(lambda: self.connection, sock=tcp, **options)

    async def wait_ended(self) -> Disconnect:
        """Wait until the connection has ended; return how."""
        return await asyncio.shield(self.connection.ended)

    @property
    def is_closing(self) -> bool:
        """Whether the connection was closed, here or by the server."""
        return self.connection.stream.is_closing

    def give_up(self) -> None:
        """Close without waiting: nobody wants the connection."""
        self.connection.close(CloseCode.NORMAL)
        ready = self.connection.ready
        if ready.done() and not ready.cancelled():
            ready.exception()  # that it was given up is no news

    def discard(self, reason: str = "") -> None:
        """End at once; the server is not told."""
        self.connection.discard(reason)

    def pause_reading(self) -> None:
        """Read nothing until resume_reading(), as a client that is too slow."""
        self.connection.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self.connection.resume_reading()

    async def close(self, code: int = 0, reason: str = "") -> None:
        """Close the connection and its socket; the gateway gets a moment to answer."""
        self.connection.close(code, reason)
        await self.wait_ended()
        await asyncio.shield(self.connection.gone)


def _context(tls: ClientTls) -> ssl.SSLContext:
    """Return the context that accepts these certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    if tls.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_pem:
        context.load_verify_locations(cadata=tls.ca_pem.decode())
    else:
        context.load_default_certs()
    return context


def _tls_failure(error: ssl.SSLError, place: str, tls: ClientTls) -> ConnectionFailed:
    """Return the error for TLS that did not come up."""
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = f" (trusting {tls.source})" if tls.source else ""
        why = error.verify_message or str(error)
        return ConnectionFailed(
            f"the certificate of {place} was not accepted{trusted}: {why}", _CERTIFICATE_ALERT
        )
    if isinstance(error, ssl.SSLEOFError):
        return ConnectionFailed(f"{place} closed the connection in the TLS handshake")
    why = (error.reason or str(error)).lower().replace("_", " ")
    hint = " (does it speak TLS?)" if "wrong version" in why else ""
    return ConnectionFailed(f"no TLS with {place}: {why}{hint}", is_final=True)
