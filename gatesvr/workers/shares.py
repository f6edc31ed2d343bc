"""Shares: what a limit of the configuration means for one worker of several.

The settings say what the gateway does, all of its workers together. Each has its part, in one of
three ways, which SETTINGS names for every setting that is a number:

- *part*: an equal part, the same all the time, but at least 1. For rates, and for counts by address
  or user, of which nobody knows which worker has how many.
- *moving*: a share that follows the need: what each worker has, and an equal part of what is free.
- *whole*: the setting holds for one session, one message or one call, or is no limit at all.

Moving shares never come to more than the limit. The supervisor alone gives them (Balancer), and a
worker says with each beat what it holds: its share, or what it has where that is more, because the
share was lowered (Member). A share is lowered first; others are raised by what the workers say that
they hold no more. memory is no count that a worker could stop at, so its shares are told at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from ..config.memory import DEFAULT_MEMORY, MEMORY_SHARE, memory_limit
from .board import Grant, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config import Config
    from .board import Board

__all__ = ["MOVING", "SETTINGS", "Balancer", "Limit", "Limits", "Member", "divided", "limits_of"]

How = Literal["part", "moving", "whole"]

SETTINGS: dict[str, How] = {
    "transport.max_connections": "moving",
    "transport.max_handshakes": "part",
    "transport.max_connections_per_prefix": "part",
    "transport.max_handshakes_per_prefix": "part",
    "transport.max_connection_rate_per_prefix": "part",
    "transport.connection_burst_per_prefix": "part",
    "transport.retry_handshakes": "part",
    "transport.retry_initials": "part",
    "transport.receive_buffer": "whole",
    "transport.send_buffer": "whole",
    "transport.web.max_handshakes": "part",
    "transport.web.accept_rate": "part",
    "auth.address_failures": "part",
    "auth.openid_failures": "part",
    "session.max_queue_size": "whole",
    "session.max_queue_bytes": "whole",
    "session.max_queues_bytes": "moving",
    "session.max_in_flight": "whole",
    "session.max_message_bytes": "whole",
    "session.max_login_bytes": "whole",
    "session.max_inited_per_address": "part",
    "session.max_start_rate": "part",
    "session.max_start_rate_per_openid": "part",
    "session.max_requests_per_second": "whole",
    "session.max_logged_in": "whole",
    "dispatch.workers": "part",
    "dispatch.max_workers": "part",
    "dispatch.max_queue_size": "part",
    "overload.max_memory": "moving",
    "drain.rate": "part",
    "upstream.max_connections": "part",
    "upstream.max_batch": "whole",
    "upstream.max_open": "part",
    "upstream.min_open": "part",
    "upstream.max_waiting": "part",
    "upstream.consecutive_failures": "whole",
    "upstream.failure_percent": "whole",
    "upstream.failure_calls": "whole",
    "upstream.max_ejection_percent": "whole",
    "upstream.probes": "whole",
    "push.max_streams": "moving",
    "push.max_broadcasts": "part",
    "push.max_event_subscribers": "moving",
    "trace.one_in": "whole",
}
"""Every setting that is a whole number."""

MOVING = tuple(name for name, how in SETTINGS.items() if how == "moving")
"""The order of a grant's shares."""
ROOM = 0.5
"""Shares move when a worker's room is below this part of what it would get."""


class Limits(NamedTuple):
    """A worker's moving shares, in the order of MOVING: what Gateway.limit() takes."""

    connections: int
    queues_bytes: int
    memory_bytes: int
    push_streams: int
    event_subscribers: int


_EXACT = Limits(True, True, False, True, True)
"""Whether a worker can keep to a limit."""
_OF_NEW_CLIENTS = Limits(True, False, False, False, False)
"""Whether only new clients take more of a limit; the sessions of a worker that leaves grow, too."""


def limits_of(config: Config) -> Limits:
    """Return the moving limits of all workers together."""
    memory = memory_limit()
    return Limits(
        config.transport.max_connections,
        config.session.max_queues_bytes or memory // MEMORY_SHARE,
        config.overload.max_memory or int(memory * DEFAULT_MEMORY),
        config.push.max_streams,
        config.push.max_event_subscribers,
    )


def part(value: int, index: int, of: int) -> int:
    """Return the part of a limit that one worker has; 0, which is none, stays 0.

    The parts come to the limit, or to one each where it is below the number of workers.
    """
    return max(value // of + (index < value % of), min(value, 1))


def divided(config: Config, index: int, of: int) -> Config:
    """Return the configuration of one worker: its parts, and all else as it is.

    Args:
        config: The gateway's.
        index: The worker's slot.
        of: How many there are.
    """
    replaced: dict[str, dict[str, int]] = {}
    for name, how in SETTINGS.items():
        if how == "part":
            path, _, setting = name.rpartition(".")
            value = getattr(_section(config, path), setting)
            replaced.setdefault(path, {})[setting] = part(value, index, of)
    web = msgspec.structs.replace(config.transport.web, **replaced.pop("transport.web"))
    sections = {
        path: msgspec.structs.replace(getattr(config, path), **values)
        for path, values in replaced.items()
    }
    sections["transport"] = msgspec.structs.replace(sections["transport"], web=web)
    return msgspec.structs.replace(config, **sections)


def _section(config: Config, path: str) -> object:
    found: object = config
    for name in path.split("."):
        found = getattr(found, name)
    return found


# What the supervisor does.


@dataclass(slots=True)
class _Share:
    """A worker's share of a limit.

    Attributes:
        given: As it was told last.
        out: The most that it has or may take, as far as anybody can know.
    """

    given: int = 0
    out: int = 0


@dataclass(slots=True)
class Limit:
    """Shares one limit out among workers; see the top of this file. No clock, no board.

    Args:
        whole: The limit.
        is_exact: Whether shares are raised by what was given back alone.
    """

    whole: int
    is_exact: bool = True
    shares: dict[int, _Share] = field(default_factory=dict)

    def add(self, number: int) -> None:
        """Enter a worker. It has nothing yet."""
        self.shares[number] = _Share()

    def remove(self, number: int) -> None:
        """Forget a worker that has ended, and so has nothing any more."""
        self.shares.pop(number, None)

    def report(self, number: int, held: int) -> None:
        """Take what a worker says that it holds, which has heard the last share it was given."""
        share = self.shares[number]
        share.out = max(share.given, held)

    def targets(self, used: Mapping[int, int], taking: set[int]) -> dict[int, int]:
        """Return the share that each worker should have.

        Args:
            used: What each has.
            taking: Those that will take more.
        """
        total = sum(used.get(number, 0) for number in self.shares)
        free = self.whole - total
        if free < 0:  # each has too much
            return {n: used.get(n, 0) * self.whole // total for n in self.shares}
        takers = sorted(number for number in self.shares if number in taking)
        even, rest = divmod(free, len(takers) or 1)
        extra = {number: even + (i < rest) for i, number in enumerate(takers)}
        return {n: used.get(n, 0) + extra.get(n, 0) for n in self.shares}

    def step(self, used: Mapping[int, int], taking: set[int], settled: set[int]) -> set[int]:
        """Move shares a step towards the targets; return whose have changed.

        Args:
            used: What each worker has.
            taking: Those that will take more.
            settled: Those that have heard what they were given last, or do not run yet. The
                others may be about to put it in force: they stay as they are until they say so.
        """
        targets = self.targets(used, taking)
        if not self._is_due(used, taking, targets):
            return set()
        told = set()
        for number in settled:
            share = self.shares[number]
            if targets[number] < share.given:
                share.given = targets[number]
                told.add(number)
                if not self.is_exact:
                    share.out = share.given
        free = self.whole - sum(share.out for share in self.shares.values())
        for number in settled:
            share, target = self.shares[number], targets[number]
            if target <= share.given:
                continue
            raised = target if not self.is_exact else min(target, share.out + max(free, 0))
            if raised > share.given:
                free -= max(raised - share.out, 0)
                share.out = max(share.out, raised)
                share.given = raised
                told.add(number)
        return told

    def _is_due(self, used: Mapping[int, int], taking: set[int], targets: dict[int, int]) -> bool:
        """Return whether a worker wants for room, or the limit was lowered."""
        return sum(share.given for share in self.shares.values()) > self.whole or any(
            share.given - used.get(n, 0) < (targets[n] - used.get(n, 0)) * ROOM
            for n, share in self.shares.items()
            if n in taking
        )


class Balancer:
    """Gives the workers of a gateway their shares; the supervisor has one, and ticks it.

    Args:
        board: Where it reads what they have, and tells them.
        config: The gateway's configuration.
    """

    def __init__(self, board: Board, config: Config) -> None:
        self._board = board
        wholes = limits_of(config)
        self._limits = [Limit(w, bool(e)) for w, e in zip(wholes, _EXACT, strict=True)]
        self._grants: dict[int, Grant] = {}

    def apply(self, config: Config) -> None:
        """Share out other limits."""
        for limit, whole in zip(self._limits, limits_of(config), strict=True):
            limit.whole = whole

    def add(self, number: int) -> None:
        """Enter a worker that is about to start; tick() when all are entered that start now."""
        self._board.add(number)
        self._grants[number] = Grant(0)
        for limit in self._limits:
            limit.add(number)

    def remove(self, number: int) -> None:
        """Take a worker off that has ended; the others get what it had."""
        self._board.remove(number)
        self._grants.pop(number, None)
        for limit in self._limits:
            limit.remove(number)

    def tick(self) -> None:
        """Look at what all have, and move shares; call it every board.BEAT_S."""
        rows = {number: self._board.row(number) for number in self._grants}
        settled = set()
        for number, row in rows.items():
            if row is None:
                settled.add(number)
            elif row.grant == self._grants[number].number:
                settled.add(number)
                for limit, held in zip(self._limits, row.held, strict=False):
                    limit.report(number, held)
        accepting = {number for number, row in rows.items() if row is None or row.is_accepting}
        told = {number for number, grant in self._grants.items() if not grant.number}
        for index, limit in enumerate(self._limits):
            used = {n: row.used[index] for n, row in rows.items() if row is not None}
            taking = accepting if _OF_NEW_CLIENTS[index] else set(rows)
            told |= limit.step(used, taking, settled)
        for number in told:
            shares = tuple(limit.shares[number].given for limit in self._limits)
            self._grants[number] = grant = Grant(self._grants[number].number + 1, shares)
            self._board.grant(number, grant)


# What a worker does.


class Member:
    """A worker's side: writes its row, and holds to its shares.

    Args:
        board: The board.
        number: The worker's.
        look: Returns the worker's row, with what it has of each limit in ``used``.
        hold: Puts shares in force, at once.
    """

    def __init__(
        self,
        board: Board,
        number: int,
        look: Callable[[], Row],
        hold: Callable[[Limits], None],
    ) -> None:
        self._board = board
        self._number = number
        self._look = look
        self._hold = hold
        self._grant = Grant(0)

    def take(self) -> None:
        """Hold to what was granted; call it before the worker takes its first client."""
        grant = self._board.granted(self._number)
        if grant.number > self._grant.number:
            self._grant = grant
            self.hold()

    def tick(self) -> None:
        """Hold to what was granted, and say so; call it every board.BEAT_S once it serves."""
        self.take()
        row = self._look()
        held = tuple(map(max, self._grant.shares[: len(MOVING)], row.used)) or row.used
        self._board.write(self._number, row._replace(grant=self._grant.number, held=held))

    def hold(self) -> None:
        """Put the shares in force again, after a reload has put the limits themselves there."""
        if self._grant.number:
            self._hold(Limits(*self._grant.shares[: len(MOVING)]))
