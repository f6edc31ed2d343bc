"""Figures: what a gateway does and how well, at one moment.

They are the one source of everything that shows numbers, so that all show the same.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata

import msgspec

from ._core.histogram import HistogramSnapshot

__all__ = ["Figures", "PathFigures", "package_version"]


class PathFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The QUIC paths of the connections, added up by looking at some of them each second."""

    connections: int = 0
    """Connections looked at in the last round."""
    rtt_s: float = 0.0
    """Mean smoothed round trip, seconds."""
    congestion_window_bytes: float = 0.0
    """Mean congestion window."""
    in_flight_bytes: int = 0
    """Bytes sent and not acknowledged, of all connections."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a gateway; see Gateway.figures()."""

    time: float
    """When these were taken, seconds since the epoch."""
    uptime_s: float
    """Since the gateway started."""
    version: str
    """GateSvr's."""
    backend: str
    """The QUIC library."""
    pid: int
    """The process."""
    core: str
    """Kind of the core."""

    ready: bool
    """Whether it takes new clients."""
    not_ready: list[str]
    """Why it does not."""
    draining: bool
    """Whether it is about to stop."""

    connections: int
    """Connections whose handshake is complete."""
    handshakes: int
    """Handshakes under way."""
    sessions: dict[str, int]
    """Sessions by state: ``inited`` (not logged in), ``normal``, ``suspended``."""
    in_flight: int
    """Requests accepted and not answered."""
    tasks_queued: int
    """Those of them that wait for a worker."""
    workers: int
    """Workers."""
    workers_busy: int
    """Those that have a task."""
    queue_messages: int
    """Messages to clients, sent or to be sent, that are not acknowledged; counted each second."""
    queue_bytes: int
    """Bytes of their bodies; counted each second."""
    oldest_unacked_s: float
    """How long the oldest of them has not been acknowledged; counted each second."""
    path: PathFigures
    """The QUIC paths."""

    lag_s: float
    """How late the loop came to its last tick."""
    memory_bytes: int
    """Resident memory of the process, 0 where the system does not tell."""
    cpu_s: float
    """CPU time of the process since it began."""
    gc_pause_s: float
    """Sum of the pauses for garbage collection since the gateway started."""
    certificate_expires: float
    """When the certificate ends, seconds since the epoch."""

    counters: dict[str, dict[str, int]]
    """Every counter by layer and name, as Gateway.stats() has them."""
    histograms: dict[str, HistogramSnapshot]
    """Durations by stage: ``queue_wait``, ``upstream:SERVICE``, ``send``, ``request``,
    ``handshake``, ``login``, ``rtt``, ``lag``, ``gc_pause``. Those before the handshake are empty
    without ``metrics.stages``."""


@cache
def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("gatesvr")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0+checkout"
