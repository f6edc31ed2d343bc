"""Each thing that the gateway counts has one place and one meaning."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gatesvr
from gatesvr.admin.counters import AdminCounters
from gatesvr.auth.reasons import AuthCounters, Reason
from gatesvr.client.counters import ClientCounters
from gatesvr.cluster.counters import ClusterCounters
from gatesvr.cluster.peer_link import PeerCounters
from gatesvr.control.counters import PushCounters
from gatesvr.dispatch.task import DispatchCounters
from gatesvr.drain import DrainCounters
from gatesvr.overload import OverloadCounters
from gatesvr.service.request import ServiceCounters
from gatesvr.session.counters import SessionCounters
from gatesvr.transport.counters import TransportCounters
from gatesvr.transport.web.counters import WebCounters
from gatesvr.upstream.call import UpstreamCounters
from gatesvr.workers.counters import WorkerCounters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatesvr.observe.metrics import Counters

PACKAGE = Path(gatesvr.__file__).parent

GATEWAY: dict[str, type[Counters]] = {
    "transport": TransportCounters,
    "web": WebCounters,
    "auth": AuthCounters,
    "session": SessionCounters,
    "dispatch": DispatchCounters,
    "upstream": UpstreamCounters,
    "push": PushCounters,
    "overload": OverloadCounters,
    "drain": DrainCounters,
    "cluster": ClusterCounters,
    "admin": AdminCounters,
}
"""What Gateway.stats() tells of; of cluster in one of several processes, of admin where an admin
server runs."""

OWNERS: dict[type[Counters], tuple[str, ...]] = {
    TransportCounters: ("transport",),
    WebCounters: ("transport",),
    AuthCounters: ("auth",),
    SessionCounters: ("session", "engine.py"),
    DispatchCounters: ("dispatch", "protocol"),
    UpstreamCounters: ("upstream",),
    PushCounters: ("control", "grpc_api"),
    OverloadCounters: ("overload.py",),
    DrainCounters: ("drain.py",),
    ClusterCounters: ("cluster",),
    AdminCounters: ("admin",),
    PeerCounters: ("cluster",),
    WorkerCounters: ("workers",),
    ServiceCounters: ("service",),
    ClientCounters: ("client",),
}
"""The folders whose code counts."""

GAUGES = {
    "transport": {
        "connections", "handshakes", "drained", "tasks", "timers", "send_backlog",
        "receive_buffer_bytes", "send_buffer_bytes",
    },
    "web": {"connections", "handshakes", "webtransport_sessions"},
    "auth": {"keys"},
    "session": {
        "sessions", "inited", "suspended", "queued_bytes", "tombstones", "event_subscribers",
    },
    "dispatch": {"workers", "idle_workers", "queued", "running"},
    "upstream": {
        "endpoints", "lanes", "lanes_up", "connections", "ejected", "open", "waiting",
    },
    "push": {"streams", "event_streams", "health_watches", "reflections"},
    "overload": {"level", "loop_lag_ms", "memory_bytes"},
    "drain": set(),
    "cluster": {"leaving", "closing", "cut_off"},
    "admin": {"sse_streams"},
}  # fmt: skip

SHARED_NAMES = {
    # Those of the port for clients, and of the one for pushes.
    "certificates_renewed": {"transport", "push"},
    "certificates_kept": {"transport", "push"},
    # QUIC's; WebSocket's.
    "handshakes": {"transport", "web"},
    "accepted": {"transport", "web"},
    "connections_refused": {"transport", "web"},
    "handshakes_failed": {"transport", "web"},
    "handshakes_timed_out": {"transport", "web"},
    "bytes_received": {"transport", "web"},
    "bytes_sent": {"transport", "web"},
    # With clients by QUIC, by WebSocket; with upstreams.
    "connections": {"transport", "web", "upstream"},
    "protocol_errors": {"transport", "upstream"},
    # In transport the tasks are asyncio's, in dispatch requests.
    "tasks": {"transport", "dispatch"},
    # No room for a session; no room for a request.
    "refused_full": {"session", "dispatch"},
    # STARTs; requests.
    "refused_draining": {"session", "dispatch"},
    # What upstreams said; what clients were told, an ERROR included.
    "answers": {"dispatch", "upstream"},
    # Pushes; requests and answers.
    "too_large": {"push", "upstream"},
    # To upstreams; from them.
    "calls": {"upstream", "push"},
    # Wrong tokens of operators; of services.
    "guesses_limited": {"admin", "push"},
    # Each layer's own.
    "internal_errors": {"session", "dispatch", "push", "cluster", "admin"},
}
"""Names that several layers have, each for something of its own."""


def names(counters: type[Counters]) -> set[str]:
    return {field.name for field in fields(counters)}


@functools.cache
def counted() -> list[tuple[str, str]]:
    """Return (folder, counter) of every place in the package that moves a counter."""
    return list(_counted())


def _counted() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        folder = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            targets: list[ast.expr] = []
            if isinstance(node, ast.AugAssign | ast.AnnAssign):
                targets = [node.target]
            elif isinstance(node, ast.Assign):
                targets = node.targets
            for target in targets:
                if isinstance(target, ast.Attribute) and _is_counters(target.value):
                    yield folder, target.attr


def _is_counters(node: ast.expr) -> bool:
    name = getattr(node, "attr", getattr(node, "id", ""))
    return name in ("counters", "_counters", "_web_counters")


@pytest.mark.parametrize("counters", OWNERS)
def test_every_counter_is_moved_by_its_layer(counters: type[Counters]) -> None:
    moved = {name for folder, name in counted() if folder in OWNERS[counters]}
    if counters is AuthCounters:  # by AuthCounters.refused()
        moved |= {f"refused_{reason}" for reason in Reason}
    assert names(counters) - moved == set()


def test_no_code_counts_what_is_not_declared() -> None:
    known = defaultdict(set)
    for counters, folders in OWNERS.items():
        for folder in folders:
            known[folder] |= names(counters)
    known["engine.py"] = set.union(*map(names, GATEWAY.values()))
    assert [(folder, name) for folder, name in counted() if name not in known[folder]] == []


@pytest.mark.parametrize("counters", OWNERS)
def test_every_counter_says_what_it_counts(counters: type[Counters]) -> None:
    assert [name for name, text in counters.texts().items() if not text] == []


def test_no_two_layers_count_the_same_thing() -> None:
    places = defaultdict(set)
    for layer, counters in GATEWAY.items():
        for name in names(counters):
            places[name].add(layer)
    assert {name: layers for name, layers in places.items() if len(layers) > 1} == SHARED_NAMES


@pytest.mark.parametrize("layer", GATEWAY)
def test_gauges_are_known_apart_from_counters(layer: str) -> None:
    assert GATEWAY[layer].gauges() == GAUGES[layer]
