"""TlsPort: a TCP port whose connections are in TLS, with a bound on handshakes under way.

asyncio's own server takes any number of connections into handshakes, and HttpConnection hears of
one only when its handshake is complete. So strangers could hold as many descriptors as they like,
each for HANDSHAKE_S. Here a newcomer takes the place of the handshake that began first: an honest
one needs a few milliseconds.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
from typing import TYPE_CHECKING

from ..credentials import FileWatch, read_file
from ..errors import ConfigError
from ..observe.log import keys

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from ..config import AdminConfig
    from .counters import AdminCounters

__all__ = ["TlsPort"]

logger = logging.getLogger("gatesvr.admin")

HANDSHAKE_S = 5.0
"""Longest handshake."""
MAX_HANDSHAKES = 64
"""Handshakes under way; one more takes the place of the oldest."""
ACCEPT_PAUSE_S = 1.0
"""Pause after a connection that could not be taken, for example for want of descriptors."""


class TlsPort:
    """Takes connections through their handshakes.

    Args:
        config: The certificate, its key, and whose clients are let in.
        make: Makes the protocol of a connection.
        counters: Counts handshakes that come to nothing.

    Raises:
        ConfigError: A file cannot be used.
    """

    def __init__(
        self,
        config: AdminConfig,
        make: Callable[[], asyncio.Protocol],
        counters: AdminCounters,
    ) -> None:
        self._config = config
        self._make = make
        self._counters = counters
        self._context = _context(config)
        self._files = FileWatch(config.cert, config.key)
        self._handshakes: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._accepting: asyncio.Task[None] | None = None

    def start(self, listener: socket.socket) -> None:
        """Take the connections of a listening socket, which is closed at the end."""
        self._accepting = asyncio.create_task(self._accept(listener), name="gatesvr-admin-tls")

    async def close(self) -> None:
        """Take no more connections, and end the handshakes. Idempotent."""
        tasks = [*self._handshakes]
        if self._accepting is not None:
            tasks.append(self._accepting)
            self._accepting = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def follow_certificate(self) -> None:
        """Show another certificate to new connections if its files have changed."""
        if not self._files.has_changed():
            return
        try:
            # Into a context of its own first: one that fails may be left half changed.
            _context(self._config)
            self._context.load_cert_chain(self._config.cert, self._config.key)
        except (ConfigError, OSError) as error:
            logger.warning("certificate_kept", extra=keys(why=error))
        else:
            logger.info("certificate_read", extra=keys(field="admin.cert"))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as error:
                    logger.warning("accept_failed", extra=keys(why=error))
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                if len(self._handshakes) >= MAX_HANDSHAKES:
                    self._counters.tls_cut += 1
                    oldest = next(iter(self._handshakes))
                    del self._handshakes[oldest]
                    oldest.cancel()
                task = asyncio.create_task(self._shake_hands(sock), name="gatesvr-admin-handshake")
                self._handshakes[task] = None
                task.add_done_callback(functools.partial(self._ended, sock))
                await asyncio.sleep(0)  # a crowd that waits already must not hold up the loop

    async def _shake_hands(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANDSHAKE_S):
            await loop.connect_accepted_socket(self._make, sock, ssl=self._context)

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():
            sock.close()  # it may not have begun
        elif (error := task.exception()) is not None:
            self._counters.tls_failed += 1
            if not isinstance(error, OSError):  # of TLS, of the network, or the time-out
                logger.error("handshake_failed", exc_info=error)


def _context(config: AdminConfig) -> ssl.SSLContext:
    """Return the context of the certificate.

    Raises:
        ConfigError: A file cannot be used.
    """
    for name in ("cert", "key", "client_ca"):
        if path := getattr(config, name):
            read_file(path, f"admin.{name}")  # OpenSSL would wait for a pipe
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.cert, config.key)
    except OSError as error:  # an SSLError, too
        raise ConfigError(_why(error), field="admin.cert") from None
    if config.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.client_ca)
        except OSError as error:
            raise ConfigError(_why(error), field="admin.client_ca") from None
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM that can be used"
    return error.strerror or str(error)
