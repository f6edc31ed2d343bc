"""Commands: everything that upstreams and operators may ask of a gateway, without a transport.

grpc_api serves them over gRPC and LocalPushApi in process; other transports stand beside these.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .counters import PushCounters
from .events import EventStream
from .pushes import PushCommands
from .registration import RegistrationCommands
from .sessions import SessionCommands
from .targets import Targets
from .turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..session.manager import SessionManager
    from ..upstream.registry import UpstreamRegistry

__all__ = ["Commands"]


class Commands:
    """The commands of one gateway, by what they act on.

    Args:
        manager: Holds the sessions.
        registry: Holds the upstreams' endpoints.
        max_message_bytes: The largest frame that any client accepts.
        max_broadcasts: Broadcasts a second; 0 for no limit.
        clock: Loop time.
        wall_clock: Seconds since the epoch.
        sheds_push: Whether to refuse a push, see PushCommands.
        sheds_broadcast: Whether to refuse a broadcast, see PushCommands.

    Attributes:
        pushes: Push, broadcast and multicast.
        sessions: Kick, get and list sessions.
        registration: Register, keep and remove endpoints.
        targets: Finds the sessions that they name.
        turns: Shares the loop between those on many sessions.
        counters: Counters of all of them, and of the transports on them.
    """

    def __init__(
        self,
        manager: SessionManager,
        registry: UpstreamRegistry,
        max_message_bytes: int,
        max_broadcasts: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        sheds_push: Callable[[], bool] = lambda: False,
        sheds_broadcast: Callable[[], bool] = lambda: False,
    ) -> None:
        self.counters = counters = PushCounters()
        self.targets = targets = Targets(manager, counters)
        turns = self.turns = Turns()
        self.pushes = PushCommands(
            manager,
            targets,
            turns,
            counters,
            max_message_bytes,
            max_broadcasts,
            clock,
            sheds_push,
            sheds_broadcast,
        )
        self.sessions = SessionCommands(manager, targets, turns, counters, clock, wall_clock)
        self.registration = RegistrationCommands(registry)
        self._hub = manager.events

    def events(self, kinds: Iterable[str] = ()) -> EventStream:
        """Return a stream of session events; enter it to subscribe.

        Args:
            kinds: Kinds to deliver, EventKind or their names; none for all.
        """
        return EventStream(self._hub, kinds)
