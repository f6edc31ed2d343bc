"""Sums: the figures of several processes as those of one gateway.

What only rises must not fall when a process ends, or rates would be nonsense: what it has counted
goes on to count. What rises and falls counts as long as its process is there. Some values say the
same of each process, or how bad it is: of these the highest is told.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from .._core.histogram import HistogramSnapshot
from ..figures import Figures, PathFigures
from ..upstream.manager import EndpointStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..observe.metrics import Counters

__all__ = ["Own", "Past", "add_up", "endpoints"]

_HIGHEST = {
    "dispatch": frozenset({"peak_workers"}),
    "transport": frozenset({"receive_buffer_bytes", "send_buffer_bytes"}),
    "auth": frozenset({"keys"}),
    "upstream": frozenset({"endpoints", "ejected"}),
    "overload": frozenset({"level", "loop_lag_ms"}),
}
"""Of these counters and gauges the highest is told, not the sum."""
_NONE: frozenset[str] = frozenset()
_STATES = ("stream", "unary", "connecting", "down", "stopped")
_BREAKERS = ("closed", "half_open", "open")
"""The better first."""


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor says of itself; see Figures."""

    start_time: float
    uptime_s: float
    version: str
    pid: int
    not_ready: list[str]
    draining: bool
    memory_bytes: int
    cpu_s: float


class Past:
    """What processes have counted that are gone.

    Args:
        layers: The counters of each layer.
    """

    def __init__(self, layers: Mapping[str, type[Counters]]) -> None:
        self.counters: dict[str, dict[str, int]] = {
            layer: kind().snapshot() for layer, kind in layers.items()
        }
        self.closes: dict[str, dict[str, int]] = {}
        self.errors: dict[str, int] = {}
        self.batches: list[int] = []
        self.histograms: dict[str, HistogramSnapshot] = {}
        self.cpu_s = self.gc_pause_s = 0.0
        self._gauges = {layer: kind.gauges() for layer, kind in layers.items()}

    def add(self, figures: Figures) -> None:
        """Take in the last figures of a process that has ended."""
        rising = {
            layer: {
                name: v for name, v in group.items() if name not in self._gauges.get(layer, _NONE)
            }
            for layer, group in figures.counters.items()
        }
        _add_counters(self.counters, rising)
        _add_groups(self.closes, figures.closes)
        _add(self.errors, figures.errors)
        self.batches = _add_lists(self.batches, figures.batches)
        _add_histograms(self.histograms, figures.histograms)
        self.cpu_s += figures.cpu_s
        self.gc_pause_s += figures.gc_pause_s


def add_up(own: Own, past: Past, live: Sequence[Figures]) -> Figures:
    """Return the figures of a gateway.

    Args:
        own: The supervisor's.
        past: What processes have counted that are gone.
        live: The figures of those there are.
    """
    counters = {layer: dict(group) for layer, group in past.counters.items()}
    closes = {side: dict(codes) for side, codes in past.closes.items()}
    errors, batches = dict(past.errors), past.batches
    histograms = dict(past.histograms)
    for each in live:
        _add_counters(counters, each.counters)
        _add_groups(closes, each.closes)
        _add(errors, each.errors)
        batches = _add_lists(batches, each.batches)
        _add_histograms(histograms, each.histograms)
    sessions: dict[str, int] = dict.fromkeys(("inited", "normal", "suspended"), 0)
    for each in live:
        _add(sessions, each.sessions)
    return Figures(
        time=time.time(),
        start_time=own.start_time,
        uptime_s=own.uptime_s,
        version=own.version,
        backend=live[0].backend if live else "",
        core=live[0].core if live else "",
        pid=own.pid,
        ready=not own.not_ready,
        not_ready=own.not_ready,
        draining=own.draining,
        connections=sum(each.connections for each in live),
        handshakes=sum(each.handshakes for each in live),
        sessions=sessions,
        in_flight=sum(each.in_flight for each in live),
        tasks_queued=sum(each.tasks_queued for each in live),
        workers=sum(each.workers for each in live),
        workers_busy=sum(each.workers_busy for each in live),
        queue_messages=sum(each.queue_messages for each in live),
        queue_bytes=sum(each.queue_bytes for each in live),
        oldest_unacked_s=max((each.oldest_unacked_s for each in live), default=0.0),
        path=_paths([each.path for each in live]),
        lag_s=max((each.lag_s for each in live), default=0.0),
        memory_bytes=own.memory_bytes + sum(each.memory_bytes for each in live),
        cpu_s=own.cpu_s + past.cpu_s + sum(each.cpu_s for each in live),
        gc_pause_s=past.gc_pause_s + sum(each.gc_pause_s for each in live),
        certificate_expires=min(filter(None, (e.certificate_expires for e in live)), default=0.0),
        counters=counters,
        closes=closes,
        errors=errors,
        batches=batches,
        histograms=histograms,
    )


def endpoints(found: Iterable[EndpointStatus]) -> list[EndpointStatus]:
    """Return the endpoints that several processes see, each once and as it is for the worst off."""
    merged: dict[tuple[str, str, str, str], EndpointStatus] = {}
    for one in found:
        key = (one.service, one.zone, one.address, one.name)
        other = merged.get(key)
        merged[key] = one if other is None else _endpoint(other, one)
    return list(merged.values())


def _endpoint(one: EndpointStatus, other: EndpointStatus) -> EndpointStatus:
    return EndpointStatus(
        service=one.service,
        zone=one.zone,
        address=one.address,
        name=one.name,
        state=max(one.state, other.state, key=_STATES.index),
        is_up=one.is_up and other.is_up,
        is_registered=one.is_registered,
        weight=max(one.weight, other.weight),
        open_calls=one.open_calls + other.open_calls,
        waiting_calls=one.waiting_calls + other.waiting_calls,
        max_open=one.max_open + other.max_open,
        breaker=max(one.breaker, other.breaker, key=_BREAKERS.index),
        ejections=max(one.ejections, other.ejections),
        answered=one.answered + other.answered,
        faults=one.faults + other.faults,
    )


def _paths(paths: list[PathFigures]) -> PathFigures:
    count = sum(path.connections for path in paths)
    share = 1 / count if count else 0.0
    return PathFigures(
        connections=count,
        rtt_s=sum(path.rtt_s * path.connections for path in paths) * share,
        congestion_window_bytes=sum(p.congestion_window_bytes * p.connections for p in paths)
        * share,
        in_flight_bytes=sum(path.in_flight_bytes for path in paths),
    )


def _add_counters(total: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for layer, group in more.items():
        into, highest = total.setdefault(layer, {}), _HIGHEST.get(layer, _NONE)
        for name, value in group.items():
            if name in highest:
                into[name] = max(into.get(name, 0), value)
            else:
                into[name] = into.get(name, 0) + value


def _add_groups(total: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    for key, group in more.items():
        _add(total.setdefault(key, {}), group)


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0) + value


def _add_lists(one: list[int], other: list[int]) -> list[int]:
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return [a + b for a, b in zip(longer, shorter, strict=False)] + longer[len(shorter) :]


def _add_histograms(
    total: dict[str, HistogramSnapshot], more: Mapping[str, HistogramSnapshot]
) -> None:
    for stage, times in more.items():
        total[stage] = total[stage] + times if stage in total else times
