"""``gatesvr serve``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

import click

from ..observe.log import configure, keys
from .draining import say_stopping, show_drain
from .loop import run, spare_collector, stop_event
from .options import ADDRESS, DURATION, PAIR, TEXT, WORKERS
from .serving import admin_server, print_stats, start_demo_services, start_tracing
from .settings import Settings, overrides
from .terminal import ServerOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Config
    from ..gateway import Gateway
    from ..observe.log import LogHandler
    from ..reload import ReloadReport

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
@click.option(
    "--workers",
    type=WORKERS,
    metavar="N|auto",
    help="Serve by N processes under a supervisor, auto: one per usable CPU. [0: by this one]",
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
    and changes all that needs no restart. With --workers, signals go to the first process, which
    starts the others; SIGUSR2 replaces these, as `gatesvr upgrade` does.
    """
    if demo:
        sets = ("session.base_resume=true", *sets)
    settings = Settings(file, sets, overrides(flags), flags["upstreams"], is_demo=demo)
    main = _serve(settings, stats=stats, loop=loop, admin_flag=flags["admin"])
    return run(main, loop=loop)


async def _serve(
    settings: Settings, *, stats: float | None, loop: str, admin_flag: str | None
) -> int:
    if settings.is_demo:
        from ..demo import services

        # The demo services take part in the check; their ports come later.
        settings.demos = dict.fromkeys(services(), "127.0.0.1:1")
    config = settings.read()
    # Until it serves, an error is a plain line, not a log event.
    log = configure(config.log.level, config.log.format, is_held=True)
    assert log is not None
    out = ServerOutput()
    if config.workers.count:
        from .supervise import supervise

        return await supervise(
            settings, config, log, out, stats=stats, loop=loop, admin_flag=admin_flag
        )
    return await _serve_alone(settings, config, log, out, stats=stats, admin_flag=admin_flag)


async def _serve_alone(
    settings: Settings,
    config: Config,
    log: LogHandler,
    out: ServerOutput,
    *,
    stats: float | None,
    admin_flag: str | None,
) -> int:
    """Serve in this process alone."""
    from ..gateway import Gateway
    from ..reload import Reloader
    from .banner import banner, summarize
    from .page import open_page

    gateway: Gateway | None = None
    is_hurried = False

    def hurry() -> None:
        nonlocal is_hurried
        is_hurried = True
        if gateway is not None:
            gateway.hurry()

    stop = stop_event(hurry)
    running = asyncio.get_running_loop()
    # Until it serves there is nothing to reload, and it has no workers to replace.
    running.add_signal_handler(signal.SIGHUP, lambda: logger.warning("hangup_ignored"))
    running.add_signal_handler(
        signal.SIGUSR2, lambda: logger.warning("upgrade_ignored", extra=keys(why="no workers"))
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(out.flush)
        if config.trace.enabled:
            stack.callback(start_tracing())
        pushes_to: list[str] = []
        if settings.is_demo:
            config = await start_demo_services(stack, settings, config, pushes_to)
        gateway = Gateway(config)
        gateway.web.is_any_port = settings.is_any_web_port
        origins = settings.origins
        reloader = Reloader(gateway, settings.read_again)

        def reload() -> ReloadReport:
            nonlocal origins
            is_text = log.style == "text"
            report = reloader.reload()
            if not report.error:
                origins = settings.origins
            if is_text:
                out.echo(report.as_text())
            return report

        admin = admin_server(
            config.admin,
            lambda: gateway,
            lambda: origins,
            reload,
            is_wanted=admin_flag,
            is_demo=settings.is_demo,
        )
        if admin is not None:
            stack.push_async_callback(admin.stop)  # it shows how the gateway stops
        await stack.enter_async_context(gateway)
        if admin is not None:
            await admin.start()
        running.add_signal_handler(signal.SIGHUP, reload)
        spare_collector()
        pushes_to.append(gateway.grpc_address)
        page = await open_page(gateway) if settings.is_demo else ""
        gateway.on_drain = stop.set
        log.release_held()
        summary = summarize(gateway, is_demo=settings.is_demo, page=page)
        out.echo(banner(summary, admin, is_demo=settings.is_demo))
        if stats:

            async def read() -> Mapping[str, Mapping[str, int]]:
                return gateway.stats()

            await print_stats(read, log, out, stop, stats)
        await stop.wait()
        clients = len(gateway.listener.connections)
        say_stopping(log, clients)
        # Ctrl-C is somebody's who waits; SIGTERM may come from what moves the load elsewhere.
        ready_wait = 0.0 if stop.is_interrupt else None
        draining = asyncio.ensure_future(gateway.drain(ready_wait=ready_wait))
        await show_drain(gateway.drain_status, log, draining)
    return 1 if is_hurried else 0
