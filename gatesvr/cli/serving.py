"""What ``gatesvr serve`` has beside its gateway: admin server, demo services, lines of counters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..observe.log import timestamp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ..admin.server import AdminServer
    from ..admin.source import Source
    from ..config import AdminConfig, Config, PushConfig
    from ..config.load import Origins
    from ..gateway import Gateway
    from ..observe.log import LogHandler
    from ..reload import ReloadReport
    from ..service.gateway_client import GatewayClient
    from .settings import Settings
    from .terminal import ServerOutput

__all__ = ["admin_server", "print_stats", "start_demo_services", "start_tracing"]


def admin_server(
    config: AdminConfig,
    source: Callable[[], Gateway | Source],
    origins: Callable[[], Origins | None],
    reload: Callable[[], ReloadReport] | None = None,
    *,
    is_wanted: str | None,
    is_demo: bool,
) -> AdminServer | None:
    """Return the admin server, None where there is none.

    Args:
        config: Where it listens.
        source: Returns what it shows: the gateway, or several processes of one. Not called where
            there is none.
        origins: Returns what set the settings.
        reload: Reads the configuration again; a Source has its own.
        is_wanted: ``--admin``.
        is_demo: Whether the demo services are running.

    Raises:
        ConfigError: It is wanted and cannot be.
    """
    if is_wanted == "off" or not (is_demo or config.enabled):
        return None
    from ..admin.server import AdminServer

    is_by_itself = is_wanted is None and not config.enabled
    try:
        return AdminServer(source(), config, origins=origins, reload=reload, any_port=is_by_itself)
    except ConfigError as error:
        if is_by_itself and isinstance(error.__cause__, ImportError):
            return None
        raise


async def start_demo_services(
    stack: contextlib.AsyncExitStack, settings: Settings, config: Config, pushes_to: Sequence[str]
) -> Config:
    """Start the demo services until the end of stack; return the configuration that names them.

    They start before the gateway, so that it knows their ports.

    Args:
        stack: Ends them.
        settings: Gets their addresses.
        config: Says what they prove to push.
        pushes_to: Has the gateway's address for pushes by the time of their first one.
    """
    from .upstream import serving

    push = config.push
    settings.demos = await stack.enter_async_context(
        serving(lambda: _demo_client(lambda: pushes_to[0], push))
    )
    return settings.read()


def _demo_client(address: Callable[[], str], push: PushConfig) -> GatewayClient:
    """Return a demo service's client of the gateway.

    Raises:
        ConfigError: There are no credentials for it.
    """
    from ..service.gateway_client import GatewayClient

    if push.client_ca:
        raise ConfigError("the demo services have no certificate", field="push.client_ca")
    tokens = [push.token, *(caller.token for caller in push.caller)]
    return GatewayClient(address, ca=push.cert, token_file=next(filter(None, tokens), ""))


def start_tracing() -> Callable[[], None]:
    """Set up OpenTelemetry; return what ends it.

    Raises:
        ConfigError: It, or an exporter that is asked for, is not installed.
    """
    from ..observe.trace import start_sdk

    try:
        return start_sdk()
    except ImportError:
        why = "needs OpenTelemetry's SDK: pip install gatesvr[trace]"
    except LookupError as error:
        why = str(error)
    raise ConfigError(why, field="trace.enabled")


async def print_stats(
    read: Callable[[], Awaitable[Mapping[str, Mapping[str, int]]]],
    log: LogHandler,
    out: ServerOutput,
    stop: asyncio.Event,
    interval: float,
) -> None:
    """Print a line of counters at each interval until stop is set.

    Args:
        read: Returns the counters, by layer and name.
        log: Says in which style, and what it has dropped.
        out: Standard output.
        stop: Ends it.
        interval: Seconds.
    """
    write = _json_stats if log.style == "json" else _text_stats
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval)
            return
        out.echo(write({**await read(), "log": {"dropped": log.dropped}}, time.time()))


def _text_stats(stats: Mapping[str, Mapping[str, int]], now: float) -> str:
    """Return the counters above 0 as text."""
    counters = [
        f"{layer}.{name}={value}"
        for layer, group in stats.items()
        for name, value in group.items()
        if value
    ]
    return " ".join([timestamp(now), *counters])


def _json_stats(stats: Mapping[str, Mapping[str, int]], now: float) -> str:
    """Return all counters as JSON, one object for each layer."""
    return json.dumps({"at": round(now, 3), "time": timestamp(now), "event": "stats", **stats})
