"""``gatesvr serve``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from ..observe.log import timestamp
from .draining import show_drain
from .loop import run, spare_collector, stop_event
from .options import ADDRESS, DURATION, PAIR, TEXT
from .terminal import ServerOutput

if TYPE_CHECKING:
    from ..admin.server import AdminServer
    from ..config import Config, PushConfig
    from ..config.load import Origins
    from ..gateway import Gateway
    from ..observe.log import LogHandler
    from ..reload import ReloadReport
    from ..service.gateway_client import GatewayClient

__all__ = ["command"]

logger = logging.getLogger("gatesvr.cli")


@click.command()
@click.option("--demo", is_flag=True, help="Run demo services in this process, on free ports.")
@click.option("--config", "file", type=click.Path(dir_okay=False), help="Configuration file, TOML.")
@click.option(
    "--set",
    "sets",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="A setting, for example dispatch.workers=8 or session.resume_window=2m; repeatable.",
)
@click.option(
    "--bind", type=ADDRESS, help="UDP address for clients; port 0: any free port. [0.0.0.0:8453]"
)
@click.option(
    "--grpc-bind",
    type=ADDRESS,
    help="TCP address for pushes from upstreams; port 0: any free port. [127.0.0.1:8092]",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "aioquic", "qh3"]),
    help="QUIC backend; auto takes qh3 if it is installed. [auto]",
)
@click.option(
    "--upstream",
    "upstreams",
    type=PAIR,
    metavar="SERVICE=HOST:PORT",
    multiple=True,
    help="An endpoint of a service (or unix:PATH), replacing its configured ones;"
    " repeatable. Naming any service removes the default services.",
)
@click.option("--cert", type=click.Path(dir_okay=False), help="Certificate chain, PEM.")
@click.option("--key", type=click.Path(dir_okay=False), help="Its private key, PEM.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="Lowest level to log. [info]",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"], case_sensitive=False),
    help="One line an event, as text or as a JSON object. [text]",
)
@click.option(
    "--admin",
    type=TEXT,
    metavar="HOST:PORT|unix:PATH|off",
    help="Where to serve console, metrics and commands over HTTP."
    " [off; with --demo 127.0.0.1:8090]",
)
@click.option(
    "--web-bind",
    type=TEXT,
    metavar="HOST:PORT",
    help="TCP and UDP address for web clients; port 0: any free port; empty: none."
    " [none; with --demo 127.0.0.1:8443, and a page there]",
)
@click.option("--stats", type=DURATION, help="Print counters at this interval, for example 5s.")
@click.option(
    "--loop",
    type=click.Choice(["uvloop", "asyncio"]),
    default="uvloop",
    show_default=True,
    help="Event loop.",
)
def command(
    demo: bool,
    file: str | None,
    sets: tuple[str, ...],
    stats: float | None,
    loop: str,
    **flags: Any,
) -> int:
    """Run the gateway.

    Settings come from the defaults, the file, the environment (GATESVR_DISPATCH__WORKERS=8), --set
    and the flags; later ones win. SIGTERM and Ctrl-C drain: clients are asked to leave, and running
    requests finish (see [drain]). A second signal ends it at once. SIGHUP reads the settings again,
    and changes all that needs no restart.
    """
    overrides = _overrides(flags)
    upstreams: tuple[tuple[str, str], ...] = flags["upstreams"]
    if demo:
        sets = ("session.base_resume=true", *sets)
    main = _serve(
        file, sets, overrides, upstreams, demo=demo, stats=stats, admin_flag=flags["admin"]
    )
    return run(main, loop=loop)


async def _serve(
    file: str | None,
    sets: tuple[str, ...],
    overrides: dict[str, Any],
    upstreams: tuple[tuple[str, str], ...],
    *,
    demo: bool,
    stats: float | None,
    admin_flag: str | None,
) -> int:
    from ..config.load import load_with_origins
    from ..demo import services
    from ..errors import CloseCode
    from ..gateway import RECONNECT_AFTER_MS, Gateway
    from ..observe.log import configure, keys
    from ..reload import Reloader
    from .banner import banner
    from .page import open_page, page_settings

    is_any_web_port = False

    def configured(**demos: str) -> tuple[Config, Origins]:
        nonlocal is_any_web_port
        named: dict[str, list[dict[str, str]]] = {}
        for name, address in upstreams:
            named.setdefault(name, []).append({"address": address})
        for name, address in demos.items():
            named.setdefault(name, [{"address": address}])
        values = {
            **overrides,
            **{f"upstream.services.{name}": ends for name, ends in named.items()},
        }
        found = load_with_origins(file, sets=sets, environ=os.environ, overrides=values)
        if demo and not found[1].of("transport.web.bind"):
            is_any_web_port = True
            values |= page_settings(found[0].transport)
            found = load_with_origins(file, sets=sets, environ=os.environ, overrides=values)
        return found

    # The demo services take part in the check; their ports come later.
    config, origins = configured(**(dict.fromkeys(services(), "127.0.0.1:1") if demo else {}))
    # Until it serves, an error is a plain line, not a log event.
    log = configure(config.log.level, config.log.format, is_held=True)
    assert log is not None
    out = ServerOutput()
    gateway: Gateway | None = None

    is_hurried = False

    def hurry() -> None:
        nonlocal is_hurried
        is_hurried = True
        if gateway is not None:
            gateway.end_drain()
            gateway.close_all(CloseCode.OVERLOADED, f"retry_after_ms={RECONNECT_AFTER_MS}")

    stop = stop_event(hurry)
    # Until it serves there is nothing to reload.
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, lambda: logger.warning("hangup_ignored")
    )
    addresses: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(out.flush)
        if config.trace.enabled:
            stack.callback(_start_tracing())
        pushes_to: list[str] = []
        if demo:
            # The services start first, so that the gateway knows their ports; they ask for its
            # address at their first push.
            from .upstream import serving

            push = config.push
            addresses = await stack.enter_async_context(
                serving(lambda: _demo_client(lambda: pushes_to[0], push))
            )
            config, origins = configured(**addresses)
        gateway = Gateway(config)
        gateway.web.is_any_port = is_any_web_port
        read_last = origins

        def read() -> Config:
            nonlocal read_last
            if file is not None and os.path.exists(file) and not os.path.isfile(file):
                # A pipe has been read, or has to be waited for.
                raise ConfigError("no file that can be read again", source=file)
            found, read_last = configured(**addresses)
            return found

        reloader = Reloader(gateway, read)

        def reload() -> ReloadReport:
            nonlocal origins
            is_text = log.style == "text"
            report = reloader.reload()
            if not report.error:
                origins = read_last
            if is_text:
                out.echo(report.as_text())
            return report

        admin = _admin(gateway, lambda: origins, reload, is_wanted=admin_flag, is_demo=demo)
        if admin is not None:
            stack.push_async_callback(admin.stop)  # it shows how the gateway stops
        await stack.enter_async_context(gateway)
        if admin is not None:
            await admin.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        spare_collector()
        pushes_to.append(gateway.grpc_address)
        page = await open_page(gateway) if demo else ""
        gateway.on_drain = stop.set
        log.release_held()
        endpoints = {
            name: ", ".join(endpoint.address for endpoint in group)
            for name, group in config.upstream.services.items()
        }
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        out.echo(banner(gateway, loop, endpoints, admin, is_demo=demo, page=page))
        if stats:
            await _print_stats(gateway, log, out, stop, stats)
        await stop.wait()
        if log.style == "json":
            logger.info("stopping", extra=keys(clients=len(gateway.listener.connections)))
        else:
            log.say("stopping (Ctrl-C again: at once)")
        # Ctrl-C is somebody's who waits; SIGTERM may come from what moves the load elsewhere.
        ready_wait = 0.0 if stop.is_interrupt else None
        draining = asyncio.ensure_future(gateway.drain(ready_wait=ready_wait))
        await show_drain(gateway, log, draining)
    return 1 if is_hurried else 0


def _admin(
    gateway: Gateway,
    origins: Callable[[], Origins],
    reload: Callable[[], ReloadReport],
    *,
    is_wanted: str | None,
    is_demo: bool,
) -> AdminServer | None:
    """Return the admin server, None where there is none.

    Raises:
        ConfigError: It is wanted and cannot be.
    """
    config = gateway.config.admin
    if is_wanted == "off" or not (is_demo or config.enabled):
        return None
    from ..admin.server import AdminServer

    is_by_itself = is_wanted is None and not config.enabled
    try:
        return AdminServer(gateway, config, origins=origins, reload=reload, any_port=is_by_itself)
    except ConfigError as error:
        if is_by_itself and isinstance(error.__cause__, ImportError):
            return None
        raise


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


def _start_tracing() -> Callable[[], None]:
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


async def _print_stats(
    gateway: Gateway, log: LogHandler, out: ServerOutput, stop: asyncio.Event, interval: float
) -> None:
    """Print a line of counters at each interval until stop is set."""
    write = _json_stats if log.style == "json" else _text_stats
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval)
            return
        out.echo(write({**gateway.stats(), "log": {"dropped": log.dropped}}, time.time()))


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


def _overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "bind": "transport.bind",
        "grpc_bind": "push.bind",
        "web_bind": "transport.web.bind",
        "transport": "transport.backend",
        "cert": "transport.cert",
        "key": "transport.key",
        "log_level": "log.level",
        "log_format": "log.format",
    }
    values = {name: flags[flag] for flag, name in names.items() if flags[flag] is not None}
    admin: str | None = flags["admin"]
    if admin is not None:
        values["admin.enabled"] = admin != "off"
        if admin.startswith("unix:"):
            values |= {"admin.bind": "", "admin.socket": admin.removeprefix("unix:")}
        elif admin != "off":
            values["admin.bind"] = admin
    return values
