"""Source: all that the admin server needs to know of a gateway, and can make it do.

OneProcess is the source of a gateway of one process. A gateway of several has one in each worker,
and the supervisor's Fleet, which asks those, stands before them as one more.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from ..drain import DrainStatus
from ..errors import ConfigError
from ..figures import COUNTERS, Figures
from ..observe.log import set_level
from ..upstream.manager import EndpointStatus
from .answers import Done, FleetView, SlowSession, Stacks, UpgradeStatus
from .counters import AdminCounters
from .profile import Profiler, stacks
from .refusal import Refused
from .sessions import Directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import Config
    from ..gateway import Gateway
    from ..observe.metrics import Counters
    from ..reload import ReloadReport
    from ..service.results import PushResult
    from .answers import SessionPage, SessionView
    from .questions import DrainBody, KickBody, KickUserBody, LogBody, PushBody, SessionQuery
    from .sessions import TraceEvents, TraceMark

__all__ = ["OneProcess", "Sample", "Source"]

_STATUSES = {
    "NOT_FOUND": 404,
    "INVALID": 400,
    "TOO_LARGE": 413,
    "AMBIGUOUS": 409,
    "TOO_LATE": 409,
    "BUSY": 503,
    "UNKNOWN": 504,
}
"""The status of a command's error_code."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway is and does at one moment.

    Attributes:
        figures: Its figures.
        endpoints: Its upstream endpoints.
        drain: How far a drain is.
        slowest: The sessions with the most messages in their queues; empty where nobody asked.
        fleet: Its processes; None for a gateway of one.
    """

    figures: Figures
    endpoints: list[EndpointStatus]
    drain: DrainStatus
    slowest: list[SlowSession] = []
    fleet: FleetView | None = None


@runtime_checkable
class Source(Protocol):
    """A gateway, as the admin server sees it.

    Each coroutine may raise Refused: for a session that there is none of, for what cannot be done,
    and for a process that has not answered in time.

    Attributes:
        layers: The counters of each layer in its figures, more_counters left out.
        more_counters: Counters of what stands beside the gateway, by layer; its figures have them.
    """

    layers: dict[str, type[Counters]]
    more_counters: dict[str, Counters]

    @property
    def config(self) -> Config:
        """The configuration in force."""

    def not_ready(self) -> list[str]:
        """Return the reasons for which no new clients should be sent here; empty for none."""

    async def sample(self, *, with_slowest: bool = False) -> Sample:
        """Return what the gateway is and does now."""

    async def page(self, query: SessionQuery) -> SessionPage:
        """Return a page of the sessions that match."""

    async def view(self, session_id: str) -> SessionView:
        """Return everything about a session."""

    async def trace(self, session_id: str, *, on: bool) -> None:
        """Trace a session, or not."""

    async def traced(self, session_id: str, mark: TraceMark | None, within: float) -> TraceEvents:
        """Return what a session's trace has had since mark; see Directory.traced()."""

    async def push(self, session_id: str, body: PushBody) -> Done:
        """Push a notify to a session."""

    async def kick_session(self, session_id: str, body: KickBody) -> Done:
        """Close a session."""

    async def kick(self, body: KickUserBody) -> Done:
        """Close all sessions of a user."""

    async def reload(self) -> ReloadReport:
        """Read the configuration again."""

    async def drain_status(self) -> DrainStatus:
        """Return how far a drain is."""

    async def drain(self, body: DrainBody) -> DrainStatus:
        """Begin to drain, or return how far the drain is that has begun."""

    async def upgrade_status(self) -> UpgradeStatus:
        """Return how far an upgrade is."""

    async def upgrade(self) -> UpgradeStatus:
        """Begin to replace the workers by new ones."""

    async def log(self, body: LogBody) -> None:
        """Set what is logged."""

    async def profile(self, seconds: float, worker: int | None) -> str:
        """Return the folded stacks of the next seconds, of a process."""

    async def stacks(self, worker: int | None) -> Stacks:
        """Return where all tasks and threads of a process are."""

    def look(self) -> None:
        """Do what is due once a second."""

    def close(self) -> None:
        """End what was begun for those who look. Idempotent."""


class OneProcess:
    """A gateway of one process, or one process of a gateway.

    Args:
        gateway: The gateway.
        counters: Counts traces.
        reload: Reads the configuration again; None where it cannot be.
    """

    def __init__(
        self,
        gateway: Gateway,
        counters: AdminCounters,
        reload: Callable[[], ReloadReport] | None = None,
    ) -> None:
        self.layers = COUNTERS
        self.more_counters = gateway.more_counters
        self.directory = Directory(gateway, counters, time.time)
        self._gateway = gateway
        self._reload = reload
        self._profiler = Profiler()
        self._draining: asyncio.Task[None] | None = None

    @property
    def config(self) -> Config:
        """See Source."""
        return self._gateway.config

    def not_ready(self) -> list[str]:
        """See Source."""
        return self._gateway.not_ready()

    async def sample(self, *, with_slowest: bool = False) -> Sample:
        """See Source."""
        slowest = await self.directory.slowest() if with_slowest else []
        gateway = self._gateway
        return Sample(
            figures=gateway.figures(),
            endpoints=gateway.upstreams(),
            drain=gateway.drain_status(),
            slowest=slowest,
        )

    async def page(self, query: SessionQuery) -> SessionPage:
        """See Source."""
        return await self.directory.page(query)

    async def view(self, session_id: str) -> SessionView:
        """See Source."""
        return self.directory.view(session_id)

    async def trace(self, session_id: str, *, on: bool) -> None:
        """See Source."""
        if on:
            self.directory.trace(session_id)
        else:
            self.directory.find(session_id)
            self.directory.untrace(session_id)

    async def traced(self, session_id: str, mark: TraceMark | None, within: float) -> TraceEvents:
        """See Source."""
        return await self.directory.traced(session_id, mark, within)

    async def push(self, session_id: str, body: PushBody) -> Done:
        """See Source."""
        return _done(
            await self._gateway.push(
                session_id,
                target_type="session",
                msg_type=body.msg_type,
                title=body.title,
                content=body.content,
                data=body.data,
                ttl=body.ttl,
            )
        )

    async def kick_session(self, session_id: str, body: KickBody) -> Done:
        """See Source."""
        return _done(
            await self._gateway.kick(
                session_id, target_type="session", reason=body.reason, code=body.code
            )
        )

    async def kick(self, body: KickUserBody) -> Done:
        """See Source."""
        return _done(await self._gateway.kick(body.openid, reason=body.reason, code=body.code))

    async def reload(self) -> ReloadReport:
        """See Source."""
        if self._reload is None:
            raise Refused.missing("this gateway's configuration cannot be read again")
        return self._reload()

    async def drain_status(self) -> DrainStatus:
        """See Source."""
        return self._gateway.drain_status()

    async def drain(self, body: DrainBody) -> DrainStatus:
        """See Source."""
        if self._draining is None:
            asked = self._gateway.drain(body.rate, body.timeout, to=body.to, to_web=body.to_web)
            draining = asyncio.create_task(asked, name="gatesvr-admin-drain")
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it has begun, so that the answer shows it
            if draining.done() and isinstance(error := draining.exception(), ConfigError):
                raise Refused.invalid(str(error))
            self._draining = draining
        return self._gateway.drain_status()

    async def upgrade_status(self) -> UpgradeStatus:
        """See Source."""
        return UpgradeStatus()

    async def upgrade(self) -> UpgradeStatus:
        """See Source."""
        raise Refused.missing("this gateway has no workers to replace: gatesvr serve --workers")

    async def log(self, body: LogBody) -> None:
        """See Source."""
        try:
            set_level(body.level, session=body.session)
        except ValueError as error:
            raise Refused.invalid(str(error)) from None

    async def profile(self, seconds: float, worker: int | None) -> str:
        """See Source."""
        _only_one(worker)
        return await self._profiler.run(seconds)

    async def stacks(self, worker: int | None) -> Stacks:
        """See Source."""
        _only_one(worker)
        return await stacks()

    def look(self) -> None:
        """See Source."""
        self.directory.end_traces()

    def close(self) -> None:
        """See Source."""
        self._profiler.close()
        self.directory.close()


def _only_one(worker: int | None) -> None:
    if worker is not None:
        raise Refused(404, "NOT_FOUND", "this gateway is one process: name no worker")


def _done(result: PushResult) -> Done:
    """Return a command's success.

    Raises:
        Refused: It was refused.
    """
    if result.error_code:
        status = _STATUSES.get(result.error_code, 400)
        raise Refused(status, result.error_code, result.message or result.error_code)
    return Done(sessions=result.sessions)
