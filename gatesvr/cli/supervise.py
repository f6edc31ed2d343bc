"""``gatesvr serve --workers``: the process that starts the workers, and speaks for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from typing import TYPE_CHECKING

import msgspec

from ..workers.supervisor import Supervisor
from ..workers.upgrade import UpgradeError
from .banner import Summary, banner
from .draining import say_stopping, show_drain
from .loop import HURRY_S, stop_event
from .serving import admin_server, print_stats, start_demo_services

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from ..admin.answers import UpgradeStatus
    from ..config import Config
    from ..observe.log import LogHandler
    from ..reload import ReloadReport
    from ..workers.fleet import Fleet
    from .settings import Settings
    from .terminal import ServerOutput

__all__ = ["supervise"]

logger = logging.getLogger("gatesvr.cli")


async def supervise(
    settings: Settings,
    config: Config,
    log: LogHandler,
    out: ServerOutput,
    *,
    stats: float | None,
    loop: str,
    admin_flag: str | None,
) -> int:
    """Serve by workers until a signal; return the exit code.

    Args:
        settings: Where the configuration comes from.
        config: What they say now.
        log: Holds back what is no warning until it serves.
        out: Standard output.
        stats: Interval at which the counters of all are printed, seconds; None for never.
        loop: Name of the workers' event loop.
        admin_flag: ``--admin``.
    """
    log.share()
    supervisor: Supervisor | None = None
    is_hurried = False

    def hurry() -> None:
        nonlocal is_hurried
        is_hurried = True
        if supervisor is not None:
            supervisor.hurry()
            # This process is gone HURRY_S after the signal: no worker may outlive it.
            running.call_later(HURRY_S / 2, supervisor.kill)

    running = asyncio.get_running_loop()
    stop = stop_event(hurry)
    # Until it serves there is nothing to reload.
    running.add_signal_handler(signal.SIGHUP, lambda: logger.warning("hangup_ignored"))
    running.add_signal_handler(signal.SIGUSR2, lambda: logger.warning("upgrade_ignored"))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(out.flush)
        pushes_to: list[str] = []
        if settings.is_demo:
            config = await start_demo_services(stack, settings, config, pushes_to)
        supervisor = Supervisor(
            config,
            loop=loop,
            is_demo=settings.is_demo,
            is_any_web_port=settings.is_any_web_port,
        )
        origins = settings.origins

        async def reload() -> ReloadReport:
            nonlocal origins
            report = await supervisor.reload(settings.read_again)
            if not report.error:
                origins = settings.origins
            if log.style == "text":
                out.echo(report.as_text())
            return report

        async def upgrade() -> UpgradeStatus:
            nonlocal origins
            try:
                status = await supervisor.upgrade(settings.read_again)
            except UpgradeError as error:
                log.say(f"no upgrade: {error}")
                raise
            origins = settings.origins
            log.say(f"upgraded: {status.workers} new workers in {status.elapsed_s:.1f} s")
            return status

        async def say_upgrade() -> None:
            with contextlib.suppress(UpgradeError):
                await upgrade()

        under_way: set[asyncio.Task[object]] = set()

        def begin(work: Callable[[], Coroutine[None, None, object]]) -> None:
            task = asyncio.ensure_future(work())
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        @functools.cache
        def fleet() -> Fleet:
            from ..workers.fleet import Fleet  # knows all layers; most supervisors need none

            return Fleet(
                supervisor,
                supervisor.links,
                supervisor.entries,
                slots=supervisor.slots.count,
                reload=reload,
                upgrade=upgrade,
            )

        admin = admin_server(
            config.admin, fleet, lambda: origins, is_wanted=admin_flag, is_demo=settings.is_demo
        )
        if admin is not None:
            stack.push_async_callback(admin.stop)  # it shows how the workers end
            await admin.reserve()
        stack.push_async_callback(supervisor.stop)
        starting = asyncio.ensure_future(supervisor.start())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return 1
        stopping.cancel()
        ready = starting.result()
        pushes_to.append(ready[0].grpc)
        supervisor.on_drain = stop.set

        if admin is not None:
            await admin.start()

        running.add_signal_handler(signal.SIGHUP, begin, reload)
        running.add_signal_handler(signal.SIGUSR2, begin, say_upgrade)
        # The workers' lines come behind the banner, and so do its own.
        summary = msgspec.convert(ready[0].summary, Summary)
        workers = [(worker.number, worker.pid) for worker in supervisor.serving()]
        out.echo(banner(summary, admin, is_demo=settings.is_demo, workers=workers))
        log.release_held()
        supervisor.go()
        if stats:

            async def read() -> Mapping[str, Mapping[str, int]]:
                return (await fleet().sample()).figures.counters

            await print_stats(read, log, out, stop, stats)
        await stop.wait()
        say_stopping(log, 0)
        # Ctrl-C is somebody's who waits; SIGTERM may come from what moves the load elsewhere.
        ready_wait = 0.0 if stop.is_interrupt else None
        draining = asyncio.ensure_future(supervisor.drain(ready_wait=ready_wait))
        await show_drain(supervisor.drain_status, log, draining)
    return 1 if is_hurried else 0
