"""A case: an attack, the limits that the gateway keeps, and how its defence is switched off.

A case is a coroutine function under ``@case(...)``, in a file of ``tests/attack/cases``. It runs in
the attacker's process; the gateway, its service and the healthy clients have processes of their
own. Adding one takes the attack, its limits, and an Off under which it passes one of them::

    @case(
        "START is never sent",
        "50 connections that complete their handshake and say nothing",
        closes(4408, 50),
        moved("dispatch.start_timeouts", least=50),
        sets=("session.start_timeout=500ms",),
        off=Off("an hour for START", sets=("session.start_timeout=1h",)),
    )
    async def no_start(attacker: Attacker) -> None:
        await attacker.note_closes(await attacker.connect_all(50))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attacker import Attacker

__all__ = [
    "ATTACK_S",
    "BACKENDS",
    "Case",
    "Latency",
    "Limit",
    "Measured",
    "Off",
    "Sample",
    "amplifies",
    "answers",
    "case",
    "cases_of",
    "closes",
    "costs",
    "gauge",
    "healthy_limits",
    "memory",
    "moved",
    "saw",
]

BACKENDS = ("aioquic", "qh3")
ATTACK_S = 6.0
"""Longest attack; a row takes under 10 s with its processes and the idle measurement."""
LATENCY_FACTOR = 3.0
LATENCY_FLOOR_S = 0.05
"""Below it a p99 is the machine's noise: all processes share its cores with the attacker."""
MIB = 1 << 20


@dataclass(frozen=True)
class Off:
    """How a case's defence is switched off, for ``--self-test``.

    Attributes:
        how: In words.
        sets: Settings, as for ``gatesvr serve --set``; they come after the case's own.
        patches: ``module:name.name`` in the gateway's process, and what stands there instead.
        backends: Where it can be switched off; elsewhere the QUIC library itself holds.
        is_slow: The case then fails by its healthy clients' latency or by CPU alone.
    """

    how: str
    sets: tuple[str, ...] = ()
    patches: Mapping[str, Any] = field(default_factory=dict)
    backends: tuple[str, ...] = ("aioquic", "qh3")
    is_slow: bool = False


@dataclass(frozen=True)
class Sample:
    """The gateway's state at a moment: its counters, CPU seconds and resident memory, bytes."""

    stats: Mapping[str, int]
    cpu: float
    rss: int


@dataclass(frozen=True)
class Latency:
    """Of the healthy clients' requests in a window, seconds."""

    p50: float = math.nan
    p99: float = math.nan
    requests: int = 0
    failed: int = 0
    dropped: int = 0
    """Healthy clients that lost their connection."""


@dataclass
class Measured:
    """What one run of a case showed.

    Attributes:
        before: The gateway before the attack.
        after: And after it.
        peak_rss: Its most resident memory meanwhile, bytes.
        idle_cpu: Its CPU seconds a second before the attack.
        seconds: Length of the attack.
        idle: The healthy clients before the attack.
        during: And during it.
        seen: What the attacker counted.
    """

    before: Sample
    after: Sample
    peak_rss: int
    idle_cpu: float
    seconds: float
    idle: Latency
    during: Latency
    seen: Counter[str]

    def moved(self, name: str) -> int:
        """Return by how much a counter rose."""
        return self.after.stats[name] - self.before.stats[name]


@dataclass(frozen=True)
class Limit:
    """A bound of something measured.

    Attributes:
        what: Its name.
        value: Reads it.
        most: Upper bound, if there is one.
        least: Lower bound, if there is one.
        unit: Written behind its numbers.
        is_soft: It depends on the machine's speed: a passed one is measured again.
        words: The bound in words, where a number does not say it.
        note: Something to read beside the measured value.
    """

    what: str
    value: Callable[[Measured], float]
    most: float | Callable[[Measured], float] | None = None
    least: float | None = None
    unit: str = ""
    is_soft: bool = False
    words: str = ""
    note: Callable[[Measured], str] | None = None

    def text(self) -> str:
        """Return the limit as it is stated, before anything is measured."""
        if self.words:
            return f"{self.what} {self.words}"
        if self.most == 0 or (self.least is not None and self.least == self.most):
            assert not callable(self.most)
            return f"{self.what} = {self._number(self.most or 0)}"
        bounds = []
        if self.least is not None:
            bounds.append(f"≥ {self._number(self.least)}")
        if self.most is not None:
            assert not callable(self.most)
            bounds.append(f"≤ {self._number(self.most)}")
        return f"{self.what} {', '.join(bounds)}"

    def measured_text(self, measured: Measured) -> str:
        """Return what was measured."""
        text = self._number(self.value(measured))
        return f"{text} ({self.note(measured)})" if self.note is not None else text

    def is_kept(self, measured: Measured) -> bool:
        """Return whether the measured value is inside; what is no number is not."""
        value = self.value(measured)
        most = self.most(measured) if callable(self.most) else self.most
        if most is not None and not value <= most:
            return False
        return self.least is None or value >= self.least

    def _number(self, value: float) -> str:
        if math.isnan(value):
            return "none"
        if value != round(value) or (self.unit and self.is_soft):
            return f"{value:,.1f}{self.unit}"
        return f"{value:,.0f}{self.unit}"


def healthy_limits() -> tuple[Limit, ...]:
    """Return the limits that every case has."""
    return (
        Limit("healthy clients dropped", lambda m: m.during.dropped, most=0),
        Limit("healthy requests failed", lambda m: m.during.failed, most=0),
        Limit(
            "healthy p99",
            lambda m: 1e3 * m.during.p99,
            most=lambda m: 1e3 * max(LATENCY_FACTOR * m.idle.p99, LATENCY_FLOOR_S),
            unit=" ms",
            is_soft=True,
            words=f"≤ 3 times idle, or {1e3 * LATENCY_FLOOR_S:.0f} ms",
            note=lambda m: f"idle {1e3 * m.idle.p99:.1f} ms",
        ),
    )


# What the cases' limits are made with.


def memory(mib: float) -> Limit:
    """Bound the growth of the gateway's resident memory, peak against before, MiB."""
    return Limit(
        "memory", lambda m: round((m.peak_rss - m.before.rss) / MIB, 1), most=mib, unit=" MiB more"
    )


def moved(name: str, *, most: float | None = None, least: float | None = None) -> Limit:
    """Bound the rise of one of the gateway's counters."""
    return Limit(name, lambda m: m.moved(name), most=most, least=least)


def gauge(name: str, *, most: float | None = None, least: float | None = None) -> Limit:
    """Bound one of the gateway's counters after the attack; the healthy clients count, too."""
    return Limit(f"{name} afterwards", lambda m: m.after.stats[name], most=most, least=least)


def saw(name: str, *, most: float | None = None, least: float | None = None) -> Limit:
    """Bound what the attacker counted."""
    return Limit(name, lambda m: m.seen[name], most=most, least=least)


def closes(code: int, times: int) -> Limit:
    """Expect so many of the attacker's connections closed with a code."""
    return Limit(f"closed {code}", lambda m: m.seen[f"closed {code}"], least=times, most=times)


def answers(most: int = 0) -> Limit:
    """Bound the datagrams that came back."""
    return Limit("datagrams answered", lambda m: m.seen["answers"], most=most)


def amplifies(factor: float = 3.0) -> Limit:
    """Bound the bytes that came back, as a multiple of those sent."""
    return Limit(
        "bytes sent back",
        lambda m: round(m.seen["answer bytes"] / max(1, m.seen["bytes"]), 2),
        most=factor,
        unit=" times those received",
    )


def costs(us: float, what: str = "datagrams") -> Limit:
    """Bound the gateway's CPU for each thing that the attacker counted under a name, µs."""
    return Limit(
        f"CPU each of {what}",
        lambda m: (
            1e6
            * max(0.0, m.after.cpu - m.before.cpu - m.idle_cpu * m.seconds)
            / max(1, m.seen[what])
        ),
        most=us,
        unit=" µs",
        is_soft=True,
    )


@dataclass(frozen=True)
class Case:
    """An attack and its limits; see the top of this file.

    Attributes:
        name: Names it in the table and for ``--case``.
        says: What the attacker does.
        attack: Does it.
        limits: Those of this case; healthy_limits() come first.
        off: How its defence is switched off.
        sets: The gateway's settings.
        patches: Constants of the gateway's process, made smaller so that the attack fits its time.
        files: Files that the settings name by ``{folder}/name``.
        token: Makes the healthy clients' auth_token of their openid.
        backends: The QUIC backends that it is about.
        min_window: Shortest time for which the healthy clients are watched, seconds.
    """

    name: str
    says: str
    attack: Callable[[Attacker], Awaitable[None]]
    limits: tuple[Limit, ...]
    off: Off
    sets: tuple[str, ...] = ()
    patches: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    token: Callable[[str], str] | None = None
    backends: tuple[str, ...] = BACKENDS
    min_window: float = 1.0

    @property
    def all_limits(self) -> tuple[Limit, ...]:
        """Every limit, the healthy clients' first."""
        return (*healthy_limits(), *self.limits)


_cases: dict[str, list[Case]] = {}


def case(
    name: str, says: str, *limits: Limit, off: Off, **fields: Any
) -> Callable[[Callable[[Attacker], Awaitable[None]]], Callable[[Attacker], Awaitable[None]]]:
    """Make a case of an attack; fields are Case's."""

    def register(
        attack: Callable[[Attacker], Awaitable[None]],
    ) -> Callable[[Attacker], Awaitable[None]]:
        made = Case(name, says, attack, limits, off, **fields)
        _cases.setdefault(attack.__module__, []).append(made)
        return attack

    return register


def cases_of(module: str) -> list[Case]:
    """Return a module's cases, in their order there."""
    return _cases.get(module, [])
