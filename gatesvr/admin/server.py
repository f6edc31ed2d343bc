"""AdminServer: the admin application on uvicorn, in the gateway's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from ..config import join_address, parse_address
from ..config.ports import OPEN_ADMIN_PORT
from ..credentials import TokenFile
from ..errors import ConfigError
from ..observe.log import keys
from .counters import AdminCounters
from .source import OneProcess, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import AdminConfig
    from ..config.load import Origins
    from ..gateway import Gateway
    from ..reload import ReloadReport

__all__ = ["AdminServer"]

logger = logging.getLogger("gatesvr.admin")

LATER_S = 60
"""uvicorn's time-out between two requests; HttpConnection's own is shorter."""
MAX_HEAD_BYTES = 32 << 10
"""Of a request."""
STOP_S = 2.0
"""Time that requests under way get when the server stops."""
BACKLOG = 128
NEXT_PORTS = 100
"""Ports tried behind one that is taken."""
NEEDS_EXTRA = "the admin server needs more packages: pip install 'gatesvr[admin]'"


class AdminServer:
    """Serves console, API, metrics and health checks of a gateway.

    Args:
        gateway: The gateway, started; or a Source, which stands for one of several processes.
        config: Where to listen, and what clients prove.
        origins: Returns what set the settings; None where nobody knows.
        reload: Reads the configuration again; None where it cannot be. A Source has its own.
        any_port: Whether to take the next free port where that of ``bind`` is taken.

    Attributes:
        counters: What it counts; the gateway's stats() have them as ``admin``.

    Raises:
        ConfigError: ``gatesvr[admin]`` is not installed, or a file cannot be read.
    """

    def __init__(
        self,
        gateway: Gateway | Source,
        config: AdminConfig,
        *,
        origins: Callable[[], Origins | None] | None = None,
        reload: Callable[[], ReloadReport] | None = None,
        any_port: bool = False,
    ) -> None:
        try:
            import uvicorn

            from .api import Api
            from .app import make_app
            from .http import Connections, HttpConnection
            from .metrics import MetricsPage
        except ImportError as error:
            raise ConfigError(NEEDS_EXTRA, field="admin.enabled") from error
        from .access import Access
        from .figures import Sampler
        from .streams import Streams
        from .tls import TlsPort

        self.counters = counters = AdminCounters()
        self._config = config
        self._any_port = any_port
        tokens = TokenFile(config.token, "admin.token") if config.token else None
        self._access = access = Access(config, tokens, counters)
        if has_workers := isinstance(gateway, Source):
            source: Source = gateway
        else:
            source = OneProcess(gateway, counters, reload)
        self._source = source
        self._sampler = Sampler(source, counters, self._look)
        self._streams = Streams(self._sampler, source, counters)
        api = Api(source, self._sampler, self._streams, access, origins)
        metrics = MetricsPage(
            {**source.layers, "admin": AdminCounters},
            is_fine=source.config.metrics.fine,
            has_workers=has_workers,
        )
        http = uvicorn.Config(
            make_app(source, api, access, counters, metrics),
            http=HttpConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what matters is logged here
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=LATER_S,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        http.load()
        self._connections = Connections(http, counters)
        self._tls = TlsPort(config, self._connections.make, counters) if config.cert else None
        self._servers: list[asyncio.Server] = []
        self._reserved: socket.socket | None = None
        self._address = ""
        self._socket = ""

    @property
    def address(self) -> str:
        """The bound ``HOST:PORT``, empty for none."""
        return self._address

    @property
    def url(self) -> str:
        """Where the console is; empty where it is only on a Unix socket."""
        if not self._address:
            return ""
        host, port = parse_address(self._address)
        if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not listened on
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
        return f"{'https' if self._config.cert else 'http'}://{join_address(host, port)}/"

    @property
    def is_guarded(self) -> bool:
        """Whether clients have to prove who they are."""
        return self._config.is_guarded

    @property
    def where(self) -> str:
        """Where it is reached, for people; says so where the port is not the one asked for."""
        places = [self.url] if self.url else []
        if self._socket:
            places.append(f"unix:{self._socket}")
        if self._address:
            _, wanted = parse_address(self._config.bind)
            if wanted and wanted != parse_address(self._address)[1]:
                places.append(f"(port {wanted} is taken)")
        return " ".join(places)

    async def reserve(self) -> None:
        """Bind the port without listening yet, so that one in use is known before all else starts.

        Raises:
            ConfigError: See start().
        """
        if self._config.bind and not self._any_port:
            loop = asyncio.get_running_loop()
            self._reserved = await loop.run_in_executor(None, self._bind)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: An address cannot be used, or it is not loopback and nothing guards it.
        """
        config, loop = self._config, asyncio.get_running_loop()
        await self._sampler.take()  # so that whoever asks first finds one
        make = self._connections.make
        if config.bind:
            listener, self._reserved = self._reserved, None
            if listener is None:
                listener = await loop.run_in_executor(None, self._bind)
            try:
                listener.listen(BACKLOG)
            except OSError as error:
                listener.close()
                raise _refusal("bind", config.bind, error) from None
            self._address = join_address(*listener.getsockname()[:2])
            if self._tls is not None:
                self._tls.start(listener)
            else:
                self._servers.append(await loop.create_server(make, sock=listener, backlog=BACKLOG))
        if config.socket:
            try:
                self._servers.append(
                    await loop.create_unix_server(make, sock=_bind_path(config.socket))
                )
            except OSError as error:
                raise _refusal("socket", config.socket, error) from None
            self._socket = config.socket
        self._source.more_counters["admin"] = self.counters
        self._sampler.start()
        logger.info("admin_listening", extra=keys(address=self._address, socket=self._socket))

    async def stop(self) -> None:
        """Say goodbye on the streams, let requests under way end, and close. Idempotent."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        if self._tls is not None:
            await self._tls.close()
        self._source.close()
        self._streams.stop()
        await self._sampler.stop()
        await self._connections.close(STOP_S)
        self._access.close()
        if self._socket:
            with contextlib.suppress(OSError):
                os.unlink(self._socket)
            self._socket = ""
        self._source.more_counters.pop("admin", None)

    def _look(self) -> None:
        """Do what is due once a second."""
        self._source.look()
        self._access.sweep()
        if self._tls is not None:
            self._tls.follow_certificate()

    def _bind(self) -> socket.socket:
        """Return a bound TCP socket.

        Raises:
            ConfigError: The address cannot be bound, or is open.
        """
        bind = self._config.bind
        host, port = parse_address(bind)
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as error:
            raise _refusal("bind", bind, error) from None
        if not self._config.is_guarded and not all(
            ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found
        ):
            raise ConfigError(f"{bind}: {OPEN_ADMIN_PORT}", field="admin.bind")
        family, kind, protocol, _, address = found[0]
        last = port + NEXT_PORTS if self._any_port and port else port
        while True:
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
                listener.bind((address[0], port, *address[2:]))
                if self._any_port:
                    listener.listen(BACKLOG)  # or another process that does so takes it
            except OSError as error:
                listener.close()
                if error.errno == errno.EADDRINUSE and port < min(last, 65535):
                    port += 1
                    continue
                raise _refusal("bind", bind, error) from None
            listener.setblocking(False)
            return listener


def _bind_path(path: str) -> socket.socket:
    """Return a bound Unix socket that only this user reaches.

    A socket that a process before has left is replaced.

    Raises:
        OSError: The path cannot be used.
    """
    if _is_left_over(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # before listen(), so that nobody is in already
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _is_left_over(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _refusal(field: str, value: str, error: OSError | UnicodeError) -> ConfigError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"{value}: {why or error}", field=f"admin.{field}")
