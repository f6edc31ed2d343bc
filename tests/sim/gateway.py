"""The gateway between its connections and its upstreams: the real engine, tapped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gatesvr._pb import message_pb2 as pb
from gatesvr.bench.checker import DeliveryChecker
from gatesvr.engine import Engine
from gatesvr.errors import CloseCode
from gatesvr.protocol.identity import Identity
from gatesvr.protocol.link import Link
from gatesvr.session.login import LoginVerdict
from gatesvr.session.manager import SessionManager
from gatesvr.session.outcome import StartOutcome
from gatesvr.session.state import State

from ..session.event_model import EventModel
from .network import Connection

if TYPE_CHECKING:
    from gatesvr.session.session import Session

    from .upstream import Upstream
    from .world import World

GOOD_ENDS = frozenset({CloseCode.AUTH_FAILED, CloseCode.KICKED, CloseCode.OPENID_BUSY})
GOOD_REASONS = frozenset(
    {"app_close", "kicked", "expired", "no login", "queue is full", "memory", "drain"}
)


SECOND_DEVICE = "192.0.2.2"


def check_end(checker: DeliveryChecker, session: Session, code: int, reason: str) -> None:
    """Only what PROTOCOL 3.9, 5.3 and 5.5 name closes a session."""
    if reason == "connection lost before login":
        is_good = not session.hello_seq and not session.outbox.has_unacked
    else:
        is_good = code in GOOD_ENDS or reason in GOOD_REASONS
    if not is_good:
        checker.broken(session.session_id, f"closed: {code} {reason}")


class TappedManager(SessionManager):
    """A SessionManager that tells the checker what becomes of sessions."""

    world: World
    automatic: set[str]
    """Sessions that were made because a resume failed."""

    def all_sessions(self) -> Iterator[Session]:
        yield from self.index.by_id.values()

    def start(
        self,
        start: pb.StartRequest,
        link: Link,
        now: float,
        identity: Identity | None = None,
        auth_deadline: float = math.inf,
    ) -> StartOutcome:
        assert isinstance(link, Connection)
        newest = link.device.connection
        if newest is not link:
            self.world.counts["starts_late"] += 1
            if newest is not None and newest.handler.session is not None:
                self.world.counts["starts_behind_their_successor"] += 1
        outcome = super().start(start, link, now, identity, auth_deadline)
        session = outcome.session
        if session is not None and outcome.response.resumed:
            self.world.checker.resumed(session.session_id, link.ordinal)
        elif session is not None and start.session_id:
            self.automatic.add(session.session_id)
        return outcome

    def logged_in(self, session: Session, zone: str, now: float) -> LoginVerdict:
        if session.state is not State.CLOSED and not session.is_logged_in:
            self.world.counts["duplicate_logins"] += bool(self.by_openid(session.openid))
            self.world.counts["second_device_logins"] += session.user_ip == SECOND_DEVICE
            self.world.checker.logged_in(
                session.session_id,
                session.openid,
                is_automatic=session.session_id in self.automatic
                and self.world.config.session.on_duplicate != "allow",
            )
        return super().logged_in(session, zone, now)

    def close(self, session: Session, code: int, reason: str, now: float, **how: Any) -> None:
        if session.state is not State.CLOSED:
            self.world.note(
                "gateway closes session %s: %d %s", session.session_id[:4], code, reason
            )
            self.world.counts[f"closed_{reason.replace(' ', '_')}"] += 1
            check_end(self.world.checker, session, code, reason)
            openid = session.openid if reason == "replaced" else ""
            self.world.checker.ended(session.session_id, replaced_in=openid)
        super().close(session, code, reason, now, **how)


class OrderedSet(dict[Any, None]):
    """A set that is gone through in the order of adding, where a set goes by addresses."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class VirtualEngine:
    """An Engine in the time of a world.

    Args:
        world: The history.
        upstream: Its services.
        manager: A SessionManager that says what becomes of its sessions.
    """

    def __init__(self, world: World, upstream: Upstream, manager: type[SessionManager]) -> None:
        clock = world.loop.time
        services: Any = upstream
        self.engine = Engine(
            world.config,
            services,
            clock=clock,
            wall_clock=clock,
            random_bytes=world.random.randbytes,
            manager=manager,
            high_water=world.high_water,
        )
        self.sessions: Any = self.engine.session_manager
        self.sessions.context.watched = OrderedSet()
        self.processor = self.engine.processor
        self.dispatcher = self.engine.dispatcher

    def leftovers(self) -> dict[str, int]:
        """Return what is held of sessions, connections and tasks, by kind."""
        sessions = self.sessions
        index = sessions.index
        processor = self.processor
        return {
            "sessions": len(sessions),
            "openids": len(index.by_openid),
            "inited": len(index.inited)
            + len(index.inited_by_network)
            + len(index.inited_by_openid),
            "detached": len(index.detached),
            "networks": len(index.networks) + len(index.by_network),
            "watched": len(sessions.context.watched),
            "handlers": len(self.dispatcher),
            "tasks": len(processor) + processor.counters.running,
            "bulkheads": sum(
                len(bulkhead._shares) + len(bulkhead._chains)
                for bulkhead in processor._bulkheads.values()
            ),
            "logins": sum(worker.is_login for worker in processor.workers()),
        }


class Gateway(VirtualEngine):
    """An Engine whose sessions tell the checker what becomes of them."""

    sessions: TappedManager

    def __init__(self, world: World) -> None:
        super().__init__(world, world.upstream, TappedManager)
        self.sessions.world = world
        self.sessions.automatic = set()
        self._world = world
        self._told = EventModel()
        self._subscription = self.sessions.events.subscribe(self._read_events)
        self.pushes = self.engine.commands.pushes
        world.loop.call(self.processor.start)

    def _read_events(self) -> None:
        """Take each event in as it is told: it must fit to those of its session before."""
        while (event := self._subscription.take()) is not None:
            self._world.counts[f"told_{event.kind}"] += 1
            try:
                self._told.read(event)
            except AssertionError as error:
                self._world.checker.broken(event.session_id, f"told of {event.kind}: {error}")

    def check_events(self) -> None:
        """What was told must be how the sessions stand."""
        told = {s: state for s, state in self._told.states.items() if state is not State.CLOSED}
        real = {session.session_id: session.state for session in self.sessions.all_sessions()}
        if told != real:
            self._world.checker.broken("", f"told of {told}, there are {real}")

    def leftovers(self) -> dict[str, int]:
        return {**super().leftovers(), "tombstones": len(self.sessions.tombstones)}
