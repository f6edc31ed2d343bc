"""Measures: every metric of a gateway, named gatesvr_..., in base units, and where it is read.

Every counter of every layer is a metric of its own, ``gatesvr_LAYER_NAME`` with ``_total`` where it
only rises, and its HELP is the text under the counter's field. MEASURES has the rest: what is
better read with labels, and the histograms. Labels have few values, and none from outside: states,
codes, refusals, and the services that the configuration names.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..figures import CLUSTER_COUNTERS, COUNTERS, Figures, refusals
from ..observe.metrics import Counters
from ..observe.stages import UPSTREAM
from .counters import AdminCounters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..config import Config
    from ..upstream.manager import EndpointStatus
    from .answers import FleetView, WorkerView
    from .source import Sample

__all__ = [
    "FLEET_MEASURES",
    "GROUPS",
    "LAYERS",
    "MEASURES",
    "Measure",
    "Scrape",
    "counter_measures",
    "measures",
]

OTHER = "other"
"""The service of endpoints that serve what the configuration does not name."""

LAYERS: dict[str, type[Counters]] = {**COUNTERS, **CLUSTER_COUNTERS, "admin": AdminCounters}
"""The counters of each layer of a gateway of several processes with an admin server."""

Kind: TypeAlias = Literal["gauge", "counter", "histogram"]
Values: TypeAlias = "Iterable[tuple[tuple[str, ...], float]]"


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one answer to a scraper is made of.

    Attributes:
        figures: The gateway's.
        endpoints: Its upstream endpoints.
        services: Those that the configuration names.
        max_batch: ``upstream.max_batch``.
        fleet: Its processes; None for a gateway of one.
    """

    figures: Figures
    endpoints: tuple[EndpointStatus, ...] = ()
    services: frozenset[str] = frozenset()
    max_batch: int = 1
    fleet: FleetView | None = None

    @classmethod
    def of(cls, sample: Sample, config: Config) -> Scrape:
        """Return what a sample of a gateway of this configuration gives."""
        return cls(
            sample.figures,
            tuple(sample.endpoints),
            frozenset(config.upstream.services),
            config.upstream.max_batch,
            sample.fleet,
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric: its name and text, and where its values come from.

    Attributes:
        group: Its place in the documentation; one of GROUPS.
        name: The whole name, ``_total`` included.
        kind: What it is to Prometheus.
        text: Its HELP.
        read: Returns the values of a gauge or counter by the values of its labels.
        labels: The names of its labels.
        stage: Of a histogram of durations: its name in Figures, ``upstream:`` for one a service.
    """

    group: str
    name: str
    kind: Kind
    text: str
    read: Callable[[Scrape], Values] | None = None
    labels: tuple[str, ...] = ()
    stage: str = ""


GROUPS = {
    "process": "The process",
    "clients": "Clients",
    "requests": "Requests",
    "durations": "Durations",
    "services": "Services",
    "refusals": "Refusals, closes and errors",
    "fleet": "Worker processes",
}
"""The groups of the measures and their titles; each layer's counters form one more."""


def _one(read: Callable[[Figures], float]) -> Callable[[Scrape], Values]:
    """Return the reader of a metric without labels."""
    return lambda scrape: [((), read(scrape.figures))]


def _sessions(scrape: Scrape) -> Values:
    return [((state,), count) for state, count in scrape.figures.sessions.items()]


def _workers(scrape: Scrape) -> Values:
    busy = scrape.figures.workers_busy
    return [(("busy",), busy), (("idle",), scrape.figures.workers - busy)]


def _endpoints(scrape: Scrape) -> Values:
    states = ("up", "down", "ejected")
    counts = {(service, state): 0 for service in sorted(scrape.services) for state in states}
    for endpoint in scrape.endpoints:
        service = endpoint.service if endpoint.service in scrape.services else OTHER
        is_closed = endpoint.breaker == "closed"
        state = "ejected" if not is_closed else "up" if endpoint.is_up else "down"
        counts[service, state] = counts.get((service, state), 0) + 1
    return counts.items()


def _refusals(scrape: Scrape) -> Values:
    return [((reason,), count) for reason, count in refusals(scrape.figures.counters).items()]


def _closes(scrape: Scrape) -> Values:
    for side, codes in scrape.figures.closes.items():
        for code, count in codes.items():
            # A close by the idle time-out or a reset has no code; the rest have many.
            if count or side == "local":
                yield (side, code), count


def _errors(scrape: Scrape) -> Values:
    return [((code,), count) for code, count in scrape.figures.errors.items()]


def _build(scrape: Scrape) -> Values:
    figures = scrape.figures
    return [((figures.version, figures.backend, figures.core, platform.python_version()), 1)]


MEASURES: tuple[Measure, ...] = (
    Measure(
        "process",
        "gatesvr_build_info",
        "gauge",
        "What runs: always 1.",
        _build,
        ("version", "backend", "core", "python"),
    ),
    Measure(
        "process",
        "gatesvr_start_time_seconds",
        "gauge",
        "When the gateway started, seconds since the epoch.",
        _one(lambda f: f.start_time),
    ),
    Measure(
        "process",
        "gatesvr_ready",
        "gauge",
        "Whether new clients should be sent here, 0 or 1.",
        _one(lambda f: f.ready),
    ),
    Measure(
        "process",
        "gatesvr_draining",
        "gauge",
        "Whether the gateway is about to stop, 0 or 1.",
        _one(lambda f: f.draining),
    ),
    Measure(
        "process",
        "gatesvr_cpu_seconds_total",
        "counter",
        "CPU time of the process.",
        _one(lambda f: f.cpu_s),
    ),
    Measure(
        "process",
        "gatesvr_memory_bytes",
        "gauge",
        "Resident memory of the process, 0 where the system does not tell.",
        _one(lambda f: f.memory_bytes),
    ),
    Measure(
        "process",
        "gatesvr_last_loop_lag_seconds",
        "gauge",
        "How late the loop came to its last tick, for whatever reason.",
        _one(lambda f: f.lag_s),
    ),
    Measure(
        "process",
        "gatesvr_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the certificate that clients see ends, seconds since the epoch.",
        _one(lambda f: f.certificate_expires),
    ),
    Measure(
        "clients",
        "gatesvr_connections",
        "gauge",
        "Connections whose handshake is complete.",
        _one(lambda f: f.connections),
    ),
    Measure(
        "clients",
        "gatesvr_handshakes",
        "gauge",
        "Handshakes under way.",
        _one(lambda f: f.handshakes),
    ),
    Measure(
        "clients",
        "gatesvr_sessions",
        "gauge",
        "Sessions by state: inited (not logged in), normal, suspended (without a connection).",
        _sessions,
        ("state",),
    ),
    Measure(
        "clients",
        "gatesvr_queue_messages",
        "gauge",
        "Messages to clients that are not acknowledged, sent or to be sent.",
        _one(lambda f: f.queue_messages),
    ),
    Measure(
        "clients",
        "gatesvr_queue_bytes",
        "gauge",
        "Bytes of the bodies of messages to clients that are not acknowledged.",
        _one(lambda f: f.queue_bytes),
    ),
    Measure(
        "clients",
        "gatesvr_oldest_unacked_seconds",
        "gauge",
        "How long the oldest message to a client has not been acknowledged, suspended sessions"
        " included.",
        _one(lambda f: f.oldest_unacked_s),
    ),
    Measure(
        "clients",
        "gatesvr_quic_congestion_window_bytes",
        "gauge",
        "Mean congestion window of the connections.",
        _one(lambda f: f.path.congestion_window_bytes),
    ),
    Measure(
        "clients",
        "gatesvr_quic_in_flight_bytes",
        "gauge",
        "Bytes sent to clients and not acknowledged by their QUIC.",
        _one(lambda f: f.path.in_flight_bytes),
    ),
    Measure(
        "requests",
        "gatesvr_requests_in_flight",
        "gauge",
        "Requests accepted and not answered.",
        _one(lambda f: f.in_flight),
    ),
    Measure(
        "requests",
        "gatesvr_tasks_queued",
        "gauge",
        "Requests that wait for a worker.",
        _one(lambda f: f.tasks_queued),
    ),
    Measure("requests", "gatesvr_workers", "gauge", "Workers by state.", _workers, ("state",)),
    Measure(
        "durations",
        "gatesvr_request_duration_seconds",
        "histogram",
        "From the reading of a request until its answer, or its ERROR, is handed to the system;"
        " for a client that does not read or is not there, until it is put into its queue.",
        stage="request",
    ),
    Measure(
        "durations",
        "gatesvr_queue_wait_seconds",
        "histogram",
        "From the reading of a request until its service is called.",
        stage="queue_wait",
    ),
    Measure(
        "durations",
        "gatesvr_upstream_duration_seconds",
        "histogram",
        "From the call of a service until its answer or failure.",
        labels=("service",),
        stage=UPSTREAM,
    ),
    Measure(
        "durations",
        "gatesvr_send_duration_seconds",
        "histogram",
        "From an answer's being ready until it is handed to the system, QUIC included; not of"
        " clients that are not there.",
        stage="send",
    ),
    Measure(
        "durations",
        "gatesvr_handshake_duration_seconds",
        "histogram",
        "From a client's first datagram, or its Retry, to the end of the handshake.",
        stage="handshake",
    ),
    Measure(
        "durations",
        "gatesvr_login_duration_seconds",
        "histogram",
        "From the START of a session until it has logged in; the client's own time is in it.",
        stage="login",
    ),
    Measure(
        "durations",
        "gatesvr_quic_rtt_seconds",
        "histogram",
        "Smoothed round trips of connections, each looked at once a second, less often above"
        " 2,000.",
        stage="rtt",
    ),
    Measure(
        "durations",
        "gatesvr_loop_lag_seconds",
        "histogram",
        "How late the loop came to its ticks, four a second.",
        stage="lag",
    ),
    Measure(
        "durations",
        "gatesvr_gc_pause_seconds",
        "histogram",
        "Pauses of the whole process for Python's garbage collector.",
        stage="gc_pause",
    ),
    Measure(
        "services",
        "gatesvr_service_endpoints",
        "gauge",
        "Endpoints by service and state: up, down, ejected (its breaker is open or half open)."
        f" Endpoints of services that the configuration does not name are of {OTHER!r}.",
        _endpoints,
        ("service", "state"),
    ),
    Measure(
        "services",
        "gatesvr_upstream_batch_requests",
        "histogram",
        "Requests in a message to an upstream.",
    ),
    Measure(
        "refusals",
        "gatesvr_refusals_total",
        "counter",
        "What was refused, dropped, cut or failed, by layer and counter: the same numbers as the"
        " counters of these names. One event may count at several.",
        _refusals,
        ("reason",),
    ),
    Measure(
        "refusals",
        "gatesvr_closes_total",
        "counter",
        "Connections that ended, by side and close code: local (the gateway), peer (the client),"
        " peer_transport (the client, by a QUIC error), idle, reset.",
        _closes,
        ("side", "code"),
    ),
    Measure(
        "refusals",
        "gatesvr_errors_total",
        "counter",
        "ERRORs in place of answers, by code.",
        _errors,
        ("code",),
    ),
)


def _each(read: Callable[[WorkerView], float]) -> Callable[[Scrape], Values]:
    """Return the reader of a metric with a value for each worker process."""

    def values(scrape: Scrape) -> Values:
        workers = scrape.fleet.workers if scrape.fleet is not None else []
        return [((str(one.number),), read(one)) for one in workers if one.number is not None]

    return values


def _states(scrape: Scrape) -> Values:
    workers = scrape.fleet.workers if scrape.fleet is not None else []
    counts = {"ready": 0, "starting": 0, "unready": 0, "draining": 0}
    counts |= {"leaving": 0, "silent": 0, "down": 0}
    for worker in workers:
        counts[worker.state] += 1
    return [((state,), count) for state, count in counts.items()]


FLEET_MEASURES: tuple[Measure, ...] = (
    Measure(
        "fleet",
        "gatesvr_worker_processes",
        "gauge",
        "Worker processes by state: ready, starting, unready (takes no new clients), draining,"
        " leaving (another one has its place), silent (has not answered), down (none is there).",
        _states,
        ("state",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_restarts_total",
        "counter",
        "Worker processes that have ended by themselves and were started anew.",
        lambda scrape: [((), scrape.fleet.restarts if scrape.fleet is not None else 0)],
    ),
    Measure(
        "fleet",
        "gatesvr_worker_uptime_seconds",
        "gauge",
        "Seconds since a worker process was started.",
        _each(lambda worker: worker.uptime_s),
        ("worker",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_connections",
        "gauge",
        "Connections of a worker process whose handshake is complete.",
        _each(lambda worker: worker.connections),
        ("worker",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_sessions",
        "gauge",
        "Sessions that a worker process owns.",
        _each(lambda worker: worker.sessions),
        ("worker",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_requests_in_flight",
        "gauge",
        "Requests that a worker process has accepted and not answered.",
        _each(lambda worker: worker.in_flight),
        ("worker",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_cpu_ratio",
        "gauge",
        "Processors that a worker process uses, 1 for a whole one.",
        _each(lambda worker: worker.cpu),
        ("worker",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_memory_bytes",
        "gauge",
        "Resident memory of a worker process.",
        _each(lambda worker: worker.memory_bytes),
        ("worker",),
    ),
    Measure(
        "fleet",
        "gatesvr_worker_last_loop_lag_seconds",
        "gauge",
        "How late the loop of a worker process came to its last tick.",
        _each(lambda worker: worker.lag_s),
        ("worker",),
    ),
)
"""What a gateway of several processes has besides; ``worker`` is a number from 0 to 255."""

_MS = "_ms"
_HIGH_WATER = frozenset({"peak_workers"})
"""Counters that only rise, and do not add up: the most of something at a time."""


def counter_measures(layer: str, counters: type[Counters]) -> list[Measure]:
    """Return the metrics of a layer's counters."""
    gauges, found = counters.gauges(), []
    for field, text in counters.texts().items():
        is_gauge = field in gauges or field in _HIGH_WATER
        name, scale = field, 1.0
        if field.endswith(_MS):
            name, scale = f"{field.removesuffix(_MS)}_seconds", 0.001
        found.append(
            Measure(
                layer,
                f"gatesvr_{layer}_{name}{'' if is_gauge else '_total'}",
                "gauge" if is_gauge else "counter",
                text.replace("``", "`"),
                _counter(layer, field, scale),
            )
        )
    return found


def _counter(layer: str, field: str, scale: float) -> Callable[[Scrape], Values]:
    def read(scrape: Scrape) -> Values:
        value = scrape.figures.counters[layer][field]
        return [((), value if scale == 1 else value * scale)]

    return read


def measures(
    layers: Mapping[str, type[Counters]] = LAYERS, *, has_workers: bool = False
) -> list[Measure]:
    """Return every metric, those of the layers' counters behind the others.

    Args:
        layers: The counters of each layer.
        has_workers: Whether they are of a gateway of several processes.
    """
    return [
        *MEASURES,
        *(FLEET_MEASURES if has_workers else ()),
        *(found for layer, kind in layers.items() for found in counter_measures(layer, kind)),
    ]
