"""The settings of upstreams: services, their endpoints, and the connections to them."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

import msgspec

from .checks import HOUR, MS, Count, Places, Wait, check_address, check_pair
from .kinds import UNIX, Duration, Range, Seconds, Section, hint, normalize_zone, shown

__all__ = ["ZONED_NAME", "Endpoint", "UpstreamConfig", "UpstreamTls"]

ZONED_NAME = re.compile(r"upstream-zone-([A-Za-z0-9_.]{1,32})")
"""A name under which an endpoint registers for every service of one zone."""
_ZONE = re.compile(r"[0-9]{1,3}|(?![0-9]+$)[A-Za-z0-9_.-]{1,32}")
_AUTHORITY = re.compile(r"[A-Za-z0-9._~%:\[\]-]{1,255}")
_SERVER_NAME = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_MAX_SOCKET_BYTES = 107  # of a Unix socket's path, on Linux


class Endpoint(Section, frozen=True, kw_only=True):
    """One address of an upstream service."""

    address: str
    """HOST:PORT, [IPV6]:PORT or unix:PATH. Of a name that has several addresses each is used (64 at
    most), with a breaker and limits of its own."""
    authority: str = ""
    """The ``:authority`` of its calls, which its TLS certificate has to name; empty for the
    address (of a Unix socket: localhost)."""
    zone: str = ""
    """The zone it serves, three digits (7 means 007) or a name; empty for all."""
    weight: Count = 1
    """Share of the calls, against the service's other endpoints."""

    def check(self) -> None:
        if self.address.startswith(UNIX):
            self._check_socket()
        else:
            self._check_name()
        if self.authority and not _AUTHORITY.fullmatch(self.authority):
            raise self.refusal("authority", f"{shown(self.authority)} is no HOST or HOST:PORT")
        if self.zone and not _ZONE.fullmatch(self.zone):
            raise self.refusal("zone", f"{shown(self.zone)} is no zone (three digits or a name)")
        msgspec.structs.force_setattr(self, "zone", normalize_zone(self.zone))

    def _check_socket(self) -> None:
        path = self.address.removeprefix(UNIX)
        if not path.strip("/") or not path.isprintable():
            raise self.refusal("address", f"{shown(self.address)} names no socket")
        if len(os.fsencode(path.removeprefix("//"))) > _MAX_SOCKET_BYTES:
            raise self.refusal(
                "address",
                f"{shown(self.address)}: a socket's path has at most {_MAX_SOCKET_BYTES} bytes",
            )

    def _check_name(self) -> None:
        host, port = check_address(self, "address", self.address)
        if not host or not port:
            missing = "port" if host else "host"
            raise self.refusal("address", f"{shown(self.address)} names no {missing}")


class UpstreamTls(Section, frozen=True, kw_only=True):
    """TLS to upstreams; without it connections are plain HTTP/2."""

    hidden = frozenset({"key"})

    enabled: bool = False
    """Whether all endpoints are reached by TLS (1.2 or later, ALPN h2)."""
    ca: str = ""
    """PEM file with the CAs of their certificates; empty, or ``system``, for those that the system
    trusts."""
    cert: str = ""
    """PEM file with the certificate chain that the gateway shows, its own first; empty for none."""
    key: str = ""
    """PEM file with the certificate's private key. All files are read again when they change, and
    the next connections use them."""
    server_name: str = ""
    """DNS name or IP address that every endpoint's certificate has to name; empty for the host of
    its authority or address."""

    def check(self) -> None:
        check_pair(self)
        if self.server_name and not _SERVER_NAME.fullmatch(self.server_name):
            raise self.refusal("server_name", f"{shown(self.server_name)} is no name of a host")
        if not self.enabled:
            for name in ("ca", "cert", "server_name"):
                if getattr(self, name):
                    raise self.refusal(name, "it is for TLS: set enabled = true")


class UpstreamConfig(Section, frozen=True, kw_only=True):
    """Upstream services and the lanes to them."""

    services: dict[str, list[Endpoint]] = msgspec.field(
        default_factory=lambda: {
            "hello": [Endpoint(address="localhost:8081")],
            "business": [Endpoint(address="localhost:8082")],
            "zone": [Endpoint(address="localhost:8083")],
        }
    )
    """Service name to its endpoints. Naming any replaces the three defaults; a service whose
    endpoints all register themselves is named with none: ``upstream.services.chat = []``."""
    required: list[str] = msgspec.field(default_factory=list)
    """Services without which the gateway is not ready: none of their endpoints can be reached, or
    all are ejected. With any named here, a service that fails takes all gateways out of their load
    balancer, so name only what no client can do without."""
    balance: Literal["round_robin", "consistent_hash"] = "round_robin"
    """How a service's endpoints share the calls; consistent_hash is by openid."""
    order: Literal["completion", "request"] = "completion"
    """Order of the answers on routes that name none."""
    lane: Literal["direct", "grpcio"] = "direct"
    """What speaks gRPC with the services: the gateway itself, or the library grpcio, at several
    times the CPU."""
    max_connections: Annotated[int, Range(1, 100)] = 4
    """Connections to one endpoint. One is enough, unless the service lets only so many requests run
    at once on one (MAX_CONCURRENT_STREAMS); those above the first are closed when they are idle.
    It is always one where the lane is grpcio."""
    max_batch: Count = 64
    """Requests per lane message."""
    max_open: Count = 1_024
    """Requests a lane has written and not seen answered; above it they go to another endpoint of
    the service, or wait (with consistent_hash they always wait)."""
    adaptive_limit: bool = False
    """Lower max_open for an endpoint by itself while its answers come later than usual. For
    services whose requests queue when they have too many; not where one request's time tells
    nothing of the next."""
    min_open: Count = 16
    """Lowest that adaptive_limit goes."""
    max_waiting: Places = 10_000
    """Requests waiting for a lane of one endpoint; above it 503."""
    connect_timeout: Wait = 5.0
    """From the start of a connection until the service speaks HTTP/2 on it; also the longest
    look-up of an endpoint's name."""
    reconnect_min: Wait = 0.2
    """First pause before an endpoint is tried again; at most reconnect_max."""
    reconnect_max: Wait = 5.0
    """Longest pause before an endpoint is tried again."""
    resolve_interval: Annotated[Seconds, Range(100 * MS, 24 * HOUR)] = 30.0
    """How often the addresses of an endpoint's name are looked up; also when one is lost. One that
    is gone gets no more calls and may end those it has."""
    tls: UpstreamTls = UpstreamTls()
    """TLS to upstreams."""
    keepalive: Annotated[Seconds, Range(1, 24 * HOUR, "no pings")] = 300.0
    """Silence after which a connection with an open call is asked for a sign of life (PING); below
    300s only for upstreams that allow it."""
    consecutive_failures: Annotated[int, Range(1, 1_000, "do not count them")] = 5
    """Failed calls without an answer between them that eject an endpoint: connection lost, no
    answer in time, an answer that does not decode, UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS,
    CANCELLED. What a service answers itself, an error too, is no failure."""
    failure_percent: Annotated[int, Range(1, 100, "do not look at shares")] = 50
    """Share of failed calls within failure_window that ejects an endpoint, unless it is the only
    one of its service and zone."""
    failure_calls: Count = 50
    """Calls of an endpoint within failure_window before failure_percent applies."""
    failure_window: Annotated[Seconds, Range(1, HOUR)] = 10.0
    """The time that failure_percent looks at; half of it later an endpoint's next ejection is one
    ejection_time shorter again."""
    ejection_time: Wait = 5.0
    """How long an endpoint gets no calls, times its ejections in a row; at most
    max_ejection_time. For an only endpoint it does not grow: its calls get 503 meanwhile."""
    max_ejection_time: Wait = 60.0
    """Longest time without calls; ejection_time where that is longer."""
    max_ejection_percent: Annotated[int, Range(1, 100)] = 50
    """Share of the endpoints of one service and zone that may be ejected at a time, rounded up;
    never the last one."""
    probes: Annotated[int, Range(1, 1_000)] = 3
    """Calls that an endpoint gets after its ejection time: it is taken back if it answers all of
    them, an only endpoint if it answers any."""

    def check(self) -> None:
        for name, endpoints in self.services.items():
            if not name or name == "*":
                raise self.refusal("services", f"{shown(name)} is no name of a service")
            places = [(endpoint.address, endpoint.zone) for endpoint in endpoints]
            for i, place in enumerate(places):
                if place in places[:i]:
                    raise self.refusal(
                        f"services.{name}[{i}].address", f"{shown(place[0])} is there twice"
                    )
        for i, name in enumerate(self.required):
            if name not in self.services:
                raise self.refusal(
                    f"required[{i}]",
                    f"{shown(name)} is not in upstream.services{hint(name, self.services)}",
                )
        if self.reconnect_min > self.reconnect_max:
            raise self.refusal(
                "reconnect_min",
                f"{Duration.spell(self.reconnect_min)} is above reconnect_max"
                f" ({Duration.spell(self.reconnect_max)})",
            )
