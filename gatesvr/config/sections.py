"""The sections of the configuration: every setting with its default, its range and its meaning."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
from typing import Annotated, Literal, Self

import msgspec

from .kinds import (
    UNIX,
    Bytes,
    Duration,
    Range,
    Seconds,
    Section,
    Size,
    hint,
    normalize_zone,
    parse_address,
    shown,
)

__all__ = [
    "MAX_CLAIMS",
    "OPEN_ADMIN_PORT",
    "OPEN_PUSH_PORT",
    "ZONED_NAME",
    "AdminConfig",
    "AuthConfig",
    "Config",
    "DispatchConfig",
    "DrainConfig",
    "Endpoint",
    "LogConfig",
    "MetricsConfig",
    "OverloadConfig",
    "PushCaller",
    "PushConfig",
    "RouteRule",
    "SessionConfig",
    "TraceConfig",
    "TransportConfig",
    "UpstreamConfig",
    "UpstreamTls",
]

_MS = 0.001
_MINUTE = 60.0
_HOUR = 3600.0
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
MAX_CLAIMS = 16
OPEN_PUSH_PORT = (
    "not loopback: anyone who can reach it can push to every client; set push.token, push.caller "
    "or push.client_ca, or push.insecure = true if only upstreams can reach it"
)
OPEN_ADMIN_PORT = (
    "not loopback: anyone who can reach it can see and end every session; set admin.token or"
    " admin.client_ca"
)
_MAX_LABEL = 63
_MAX_SOCKET_BYTES = 107  # of a Unix socket's path, on Linux
_MAX_ACTION_BYTES = 64  # of a request's action
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SERVER_NAME = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_AUTHORITY = re.compile(r"[A-Za-z0-9._~%:\[\]-]{1,255}")
ZONED_NAME = re.compile(r"upstream-zone-([A-Za-z0-9_.]{1,32})")
"""A name under which an endpoint registers for every service of one zone."""
_ZONE = re.compile(r"[0-9]{1,3}|(?![0-9]+$)[A-Za-z0-9_.-]{1,32}")

Count = Annotated[int, Range(1, 1_000_000)]
Places = Annotated[int, Range(1, 10_000_000)]
Wait = Annotated[Seconds, Range(10 * _MS, _HOUR)]
"""A deadline: without one a peer could hold a place for ever, so 0 is refused."""


def _covers(pattern: str, action: str) -> bool:
    """Whether a route's action matches another action, or all that another route's matches."""
    if pattern.endswith("*"):
        return action.startswith(pattern[:-1])
    return action == pattern


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_bind(section: Section, field: str, address: str) -> None:
    host, _ = _check_address(section, field, address)
    labels = [] if ":" in host else host.removesuffix(".").split(".")
    if host and not all(0 < len(label) <= _MAX_LABEL for label in labels):
        raise section.refusal(
            field, f"{shown(host)} is no host name: a label has 1 to {_MAX_LABEL} characters"
        )


def _is_open(host: str) -> bool:
    """Return whether a host is an address other than loopback; names are looked up at the start."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0] or "::").is_loopback
    except ValueError:
        return False


def _check_networks(section: Section, field: str, networks: list[str]) -> None:
    for i, network in enumerate(networks):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise section.refusal(f"{field}[{i}]", str(error)) from None


def _check_address(section: Section, field: str, address: str) -> tuple[str, int]:
    try:
        return parse_address(address)
    except ValueError as error:
        raise section.refusal(field, str(error)) from None


class TransportConfig(Section, frozen=True, kw_only=True):
    """QUIC, UDP and TLS."""

    restart = frozenset({"bind", "backend", "secret", "receive_buffer", "send_buffer", "batch_io"})
    hidden = frozenset({"key", "secret"})

    bind: str = "0.0.0.0:8453"
    """UDP address to listen on, HOST:PORT, port 0 for any free one.

    A name with several addresses is listened to on each. On 0.0.0.0 or [::] every answer leaves
    from the address that the client asked (Linux, macOS; elsewhere bind the address itself).
    """
    backend: Literal["auto", "aioquic", "qh3"] = "auto"
    """QUIC library; auto takes qh3 where it is installed."""
    cert: str = ""
    """PEM file with the certificate chain, the server's own first; empty for the development
    certificate."""
    key: str = ""
    """PEM file with the certificate's private key. Both files are read again when they change."""
    max_connections: Places = 10_000
    """QUIC connections; above it a new one is closed 4503, 5 % above it Initials are dropped."""
    max_handshakes: Places = 1_000
    """Connections whose handshake is not done; above it Initials are dropped."""
    max_connections_per_prefix: Annotated[int, Range(1, 10_000_000, "no limit")] = 2_500
    """Connections of one network (IPv4 /32, IPv6 /64); the one around it (/24, /56) may have four
    times as many. Above it Initials are dropped."""
    max_handshakes_per_prefix: Annotated[int, Range(1, 10_000_000, "no limit")] = 500
    """The same for connections whose handshake is not done."""
    max_connection_rate_per_prefix: Annotated[int, Range(1, 1_000_000, "no limit")] = 100
    """New connections a second of one network; four times as many of the one around it."""
    connection_burst_per_prefix: Count = 1_000
    """New connections that a network may begin at once, before the rate counts."""
    unlimited_prefixes: list[str] = msgspec.field(
        default_factory=lambda: ["127.0.0.0/8", "::1/128"]
    )
    """Networks without limits by prefix, because many clients sit behind them (carrier NAT)."""
    dry_run: list[
        Literal[
            "max_connections_per_prefix",
            "max_handshakes_per_prefix",
            "max_connection_rate_per_prefix",
        ]
    ] = msgspec.field(default_factory=list)
    """Limits that only count what they would drop."""
    retry: Literal["auto", "always", "never"] = "auto"
    """When a client has to prove its address by a Retry, one more round trip: auto while there is a
    rush of handshakes. Some clients of qh3 get one even with never, because qh3 needs it."""
    retry_handshakes: Places = 100
    """Connections whose handshake is not done that are a rush; half as many end it."""
    retry_initials: Places = 500
    """Initials a second without a Retry's token that are a rush; half as many end it."""
    secret: str = ""
    """File of 32 bytes or more that the keys of Retry tokens and stateless resets derive from, for
    processes behind one address; empty: tokens of this process, resets by the certificate's key."""
    handshake_timeout: Wait = 5.0
    """Longest QUIC handshake."""
    idle_timeout: Annotated[Seconds, Range(100 * _MS, 24 * _HOUR)] = 60.0
    """QUIC idle time-out that the gateway offers."""
    receive_buffer: Annotated[Bytes, Range(_KIB, _GIB, "the system's default")] = 4 << 20
    """SO_RCVBUF asked of the system, bytes."""
    send_buffer: Annotated[Bytes, Range(_KIB, _GIB, "the system's default")] = 4 << 20
    """SO_SNDBUF asked of the system, bytes."""
    batch_io: bool = True
    """Read and write many datagrams a system call, where the system can (Linux)."""

    def check(self) -> None:
        _check_bind(self, "bind", self.bind)
        if bool(self.cert) != bool(self.key):
            given, missing = ("cert", "key") if self.cert else ("key", "cert")
            raise self.refusal(given, f"cert and key go together, {missing} is missing")
        _check_networks(self, "unlimited_prefixes", self.unlimited_prefixes)


Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip


class AuthConfig(Section, frozen=True, kw_only=True):
    """Who may come in: what a client's auth_token must prove at START."""

    hidden = frozenset({"key"})

    mode: Literal["none", "jwt", "upstream"] = "none"
    """none: whoever reaches the port is who it says it is. jwt: a JSON Web Token says who it is.
    upstream: a service of yours says it (AuthService.Authenticate, protos/auth.proto)."""
    service: str = "auth"
    """upstream: the service that is asked, one of upstream.services. Only its endpoints there are
    asked; none may register itself for it."""
    timeout: Annotated[Seconds, Range(10 * _MS, 10)] = 3.0
    """upstream: longest wait for the service's answer; then the client is told to try later."""
    algorithms: list[Algorithm] = msgspec.field(default_factory=list)
    """Algorithms that a token may be signed with; no other is tried."""
    key: str = ""
    """File with the public key or certificate (PEM), or the HMAC secret (32 bytes or more)."""
    jwks: str = ""
    """File or https URL of a JWKS document, in the place of key."""
    jwks_refresh: Annotated[Seconds, Range(1, 24 * _HOUR)] = 300.0
    """How often a JWKS URL is read again."""
    jwks_max_stale: Annotated[Seconds, Range(1, 720 * _HOUR)] = 24 * _HOUR
    """How long keys serve while a JWKS URL cannot be read."""
    audience: str = ""
    """What a token's ``aud`` names."""
    issuer: str = ""
    """What a token's ``iss`` is."""
    leeway: Annotated[Seconds, Range(_MS, 10 * _MINUTE, "none")] = 30.0
    """Difference of clocks that ``exp``, ``nbf`` and ``iat`` forgive."""
    openid_claim: str = "sub"
    """The claim that is the openid."""
    claims: list[str] = msgspec.field(default_factory=list)
    """Claims that go to upstreams (PeerInfo.auth_claims): at most 16, 4 KiB in all."""
    enforce_expiry: bool = True
    """End a session when its token has expired and was not renewed."""
    min_refusal_time: Annotated[Seconds, Range(_MS, 10, "at once")] = 0.1
    """Every refusal takes at least this long, so that its time does not tell the reason; with mode
    upstream, choose more than the service usually takes."""
    address_failures: Annotated[int, Range(1, 1_000_000, "no limit")] = 20
    """Failures of an IPv4 address or an IPv6 /64 at once; one a second comes back, and more are
    refused without a look. Raise it where many clients share an address."""
    openid_failures: Annotated[int, Range(1, 1_000_000, "no limit")] = 20
    """Wrong signatures, or refusals by the service, for one openid at once; one a second comes
    back. The address that the openid was last let in from is exempt."""

    def check(self) -> None:
        if self.mode != "jwt":
            return
        for name in ("algorithms", "audience", "issuer", "openid_claim"):
            if not getattr(self, name):
                raise self.refusal(name, 'mode = "jwt" needs it, it is empty')
        if bool(self.key) == bool(self.jwks):
            raise self.refusal("key", 'mode = "jwt" needs either key or jwks')
        if self.jwks.startswith("http://") and not _is_loopback(self.jwks):
            raise self.refusal("jwks", "http is for loopback only: use https")
        if len(self.claims) > MAX_CLAIMS:
            raise self.refusal("claims", f"{len(self.claims)} are more than {MAX_CLAIMS}")


class SessionConfig(Section, frozen=True, kw_only=True):
    """Sessions, their queues and their deadlines."""

    restart = frozenset({"max_message_bytes"})

    start_timeout: Wait = 8.0
    """From the end of the handshake to START; 4408."""
    login_timeout: Wait = 30.0
    """From START to a hello answered 200; 4408, session closed."""
    heartbeat_interval: Annotated[Seconds, Range(1, _HOUR)] = 15.0
    """Longest heartbeat interval told to clients; also at most a quarter of the idle time-out."""
    resume_window: Annotated[Seconds, Range(_MS, 168 * _HOUR, "not at all")] = 60.0
    """How long a session outlives its connection."""
    slow_consumer_timeout: Wait = 10.0
    """A queue at a cap with no ack moved for this long closes the connection 4413."""
    max_queue_size: Places = 1_024
    """Messages not acked in a session's queue (max_unacked_messages on the wire)."""
    max_queue_bytes: Annotated[Bytes, Range(512, _GIB)] = 4 << 20
    """Bytes not acked in a session's queue; at least 2 x max_message_bytes."""
    max_queues_bytes: Annotated[
        Bytes, Range(512, 1024 * _GIB, "a quarter of the memory there is")
    ] = 0
    """Memory of what is not acked in all queues together."""
    max_in_flight: Count = 128
    """Requests of a session accepted and not answered."""
    max_message_bytes: Annotated[Bytes, Range(256, 512 * _MIB)] = 1 << 20
    """Largest frame after login."""
    max_login_bytes: Annotated[Bytes, Range(256, 512 * _MIB)] = 64 << 10
    """Largest frame before login."""
    max_inited_per_address: Count = 1_000
    """Sessions per IPv4 address or IPv6 /64 that have not logged in; a whole school may share one
    address."""
    max_start_rate: Annotated[int, Range(1, 1_000_000, "no limit")] = 1_000
    """New sessions a second, as many at once; 4503. Resumes do not count, so they go first."""
    max_start_rate_per_openid: Annotated[int, Range(1, 1_000_000, "no limit")] = 10
    """New sessions of one openid a second, ten times as many at once; 4429."""
    max_requests_per_second: Annotated[int, Range(1, 1_000_000, "no limit")] = 0
    """Requests of one session a second, as many at once; ERROR 429."""
    dry_run: list[
        Literal["max_start_rate", "max_start_rate_per_openid", "max_requests_per_second"]
    ] = msgspec.field(default_factory=list)
    """Limits that only count what they would refuse."""
    max_logged_in: Count = 5
    """Logged-in sessions of one openid with on_duplicate = "allow"."""
    on_duplicate: Literal["replace", "reject", "allow"] = "replace"
    """What a login does to other logged-in sessions of its openid."""
    when_full: Literal["drop_oldest", "refuse", "close"] = "drop_oldest"
    """What a notify does that finds a suspended session's queue full."""
    base_resume: bool = False
    """Let protocol-0 clients resume by openid and last_acked alone (no token)."""

    def check(self) -> None:
        if self.max_queue_bytes < 2 * self.max_message_bytes:
            raise self.refusal(
                "max_queue_bytes",
                f"{Size.spell(self.max_queue_bytes)} is below 2 x max_message_bytes"
                f" ({Size.spell(self.max_message_bytes)})",
            )


class DispatchConfig(Section, frozen=True, kw_only=True):
    """The task queues and their workers."""

    workers: Annotated[int, Range(1, 65_536, "4 per usable CPU")] = 0
    """Workers to start with and to shrink to; at most max_workers."""
    max_workers: Annotated[int, Range(1, 65_536)] = 1_024
    """Requests of one service under way at a time. Each service has as many places of its own, so
    one that hangs takes none of another's. The last eighth is for sessions with little in flight.
    """
    max_queue_size: Places = 10_000
    """Tasks of one service waiting for a place; full means ERROR 503 at once. No session takes more
    of it than a fourth of what it leaves free."""
    task_timeout: Wait = 30.0
    """From acceptance to the answer, waiting included; 504."""
    drain_timeout: Annotated[Seconds, Range(_MS, _HOUR, "do not wait")] = 10.0
    """How long running tasks may go on when a program stops the gateway without a drain."""

    def check(self) -> None:
        if self.workers > self.max_workers:
            raise self.refusal(
                "workers", f"{self.workers} is above max_workers ({self.max_workers})"
            )


class OverloadConfig(Section, frozen=True, kw_only=True):
    """When to shed load; gatesvr/overload.py has the order."""

    max_loop_lag: Annotated[Seconds, Range(10 * _MS, _MINUTE, "not watched")] = 0.5
    """How late the event loop may be while it computes; shed while it stays later."""
    max_memory: Annotated[Bytes, Range(_MIB, 1024 * _GIB, "nine tenths of the memory there is")] = 0
    """Resident memory of the process; shed while it is above (Linux). What the allocator keeps may
    be used again: memory up to a tenth above that no longer grows is no reason to shed."""
    dry_run: bool = False
    """Measure, log and count, but shed nothing."""


class DrainConfig(Section, frozen=True, kw_only=True):
    """How ``gatesvr serve`` ends on SIGTERM or Ctrl-C; gatesvr/drain.py has the order."""

    rate: Count = 200
    """Clients a second that are asked to leave; more where half of the time that is left would not
    do."""
    timeout: Annotated[Seconds, Range(10 * _MS, 24 * _HOUR)] = 25.0
    """Longest drain; then connections and requests are cut off. Keep it a few seconds below the
    time after which the process is killed (Kubernetes: 30s, systemd: 90s)."""
    ready_wait: Annotated[Seconds, Range(_MS, _HOUR, "do not wait")] = 1.0
    """How long the gateway is not ready and still takes new clients, so that load balancers notice;
    at most half of the timeout. Ctrl-C does not wait."""
    reconnect_after: Annotated[Seconds, Range(_MS, 5 * _MINUTE)] = 1.0
    """What clients are told to wait that know no other gateway; they spread themselves over as
    long again."""


class Endpoint(Section, frozen=True, kw_only=True):
    """One address of an upstream service."""

    address: str
    """HOST:PORT, [IPV6]:PORT or unix:PATH. Of a name that has several addresses each is used, with
    a breaker and limits of its own."""
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
        host, port = _check_address(self, "address", self.address)
        if not host or not port:
            missing = "port" if host else "host"
            raise self.refusal("address", f"{shown(self.address)} names no {missing}")


class RouteRule(Section, frozen=True, kw_only=True):
    """Which service answers an action: the first route that matches, in the order written."""

    action: str
    """An action, or the start of one and ``*``, which matches any rest."""
    service: str
    """The service's name, one of upstream.services."""
    order: Literal["", "completion", "request"] = ""
    """Order of the answers; empty for the service's default."""
    serial: bool = False
    """Run one of a session's requests on this route at a time."""

    def check(self) -> None:
        if not self.action:
            raise self.refusal("action", "it is empty")
        if "*" in self.action[:-1]:
            raise self.refusal("action", f"{shown(self.action)}: * may only stand at the end")
        if _CONTROL.search(self.action):
            raise self.refusal("action", f"{shown(self.action)} has a character no action can have")
        if len(self.action.removesuffix("*").encode()) > _MAX_ACTION_BYTES:
            raise self.refusal(
                "action",
                f"{shown(self.action)} is longer than an action: {_MAX_ACTION_BYTES} bytes",
            )


class UpstreamTls(Section, frozen=True, kw_only=True):
    """TLS to upstreams; without it connections are plain HTTP/2."""

    hidden = frozenset({"key"})

    enabled: bool = False
    """Whether all endpoints are reached by TLS (1.2 or later, ALPN h2)."""
    ca: str = ""
    """PEM file with the CAs of their certificates; empty for the CAs that the system trusts."""
    cert: str = ""
    """PEM file with the certificate chain that the gateway shows, its own first; empty for none."""
    key: str = ""
    """PEM file with the certificate's private key. All files are read again when they change, and
    the next connections use them."""
    server_name: str = ""
    """DNS name or IP address that every endpoint's certificate has to name; empty for the host of
    its authority or address."""

    def check(self) -> None:
        if bool(self.cert) != bool(self.key):
            given, missing = ("cert", "key") if self.cert else ("key", "cert")
            raise self.refusal(given, f"cert and key go together, {missing} is missing")
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
    With lane = "grpcio" it is always one."""
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
    """From the start of a lane to the upstream's initial metadata."""
    reconnect_min: Wait = 0.2
    """First pause before an endpoint is tried again; at most reconnect_max."""
    reconnect_max: Wait = 5.0
    """Longest pause before an endpoint is tried again."""
    resolve_interval: Annotated[Seconds, Range(100 * _MS, 24 * _HOUR)] = 30.0
    """How often the addresses of an endpoint's name are looked up; also when one is lost. One that
    is gone gets no more calls and may end those it has."""
    tls: UpstreamTls = UpstreamTls()
    """TLS to upstreams."""
    keepalive: Annotated[Seconds, Range(1, 24 * _HOUR, "no pings")] = 300.0
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
    failure_window: Annotated[Seconds, Range(1, _HOUR)] = 10.0
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


class PushCaller(Section, frozen=True, kw_only=True):
    """Somebody who may call the push port, what proves it, and what it may do there."""

    hidden = frozenset({"token"})

    name: str
    """What the log calls it."""
    role: Literal["push", "admin"] = "push"
    """push: push to sessions. admin: kick, list and watch them, and register services, too."""
    token: str = ""
    """File with its bearer tokens, one a line; it is read again when it changes."""
    certificates: list[str] = msgspec.field(default_factory=list)
    """Names of its certificates, signed by push.client_ca: a DNS name or a URI of the
    subjectAltName, or the common name of one without either."""
    services: list[str] = msgspec.field(default_factory=list)
    """Services whose endpoints it may register with the role push; admin may register any."""

    def check(self) -> None:
        if not self.name or _CONTROL.search(self.name):
            raise self.refusal("name", f"{shown(self.name)} is no name")
        if not self.token and not self.certificates:
            raise self.refusal("token", "neither token nor certificates: it could prove nothing")
        for field in ("certificates", "services"):
            for i, name in enumerate(getattr(self, field)):
                if not name:
                    raise self.refusal(f"{field}[{i}]", "it is empty")


class PushConfig(Section, frozen=True, kw_only=True):
    """GatewayService, the gRPC API that upstreams push through."""

    restart = frozenset({"bind", "insecure"})
    hidden = frozenset({"key", "token"})

    bind: str = "127.0.0.1:8092"
    """TCP address to listen on, HOST:PORT, port 0 for any free one."""
    cert: str = ""
    """PEM file with the certificate chain that callers see: TLS. Empty: plain text."""
    key: str = ""
    """PEM file with the certificate's private key. Both files are read again when they change."""
    client_ca: str = ""
    """PEM file with the CAs of the callers' certificates: nobody connects without one (mTLS)."""
    token: str = ""
    """File with bearer tokens, one a line, for callers that may do everything; it is read again
    when it changes. In place of it, or beside it, `push.caller` gives callers a role each."""
    caller: list[PushCaller] = msgspec.field(default_factory=list)
    """Callers by name. With none, and no token, each certificate of client_ca may do everything."""
    register: Literal["off", "new", "add"] = "new"
    """RegisterUpstream: never, for services the configuration does not name, or for all."""
    register_cidrs: list[str] = msgspec.field(default_factory=list)
    """Networks whose hosts may be registered besides the caller's own address and loopback."""
    insecure: bool = False
    """Listen on an address other than loopback although callers have to prove nothing."""
    max_streams: Count = 128
    """PushStreams open at a time, of all callers together."""
    max_broadcasts: Annotated[int, Range(1, 1_000_000, "no limit")] = 100
    """Broadcasts a second, of all callers together; above it BUSY."""
    max_event_subscribers: Count = 16
    """Subscribers of session events, upstreams and those inside together."""

    def check(self) -> None:
        _check_bind(self, "bind", self.bind)
        if not (self.insecure or self.is_guarded) and _is_open(parse_address(self.bind)[0]):
            raise self.refusal("bind", f"{self.bind}: {OPEN_PUSH_PORT}")
        _check_networks(self, "register_cidrs", self.register_cidrs)
        if bool(self.cert) != bool(self.key):
            given, missing = ("cert", "key") if self.cert else ("key", "cert")
            raise self.refusal(given, f"cert and key go together, {missing} is missing")
        if self.client_ca and not self.cert:
            raise self.refusal("client_ca", "it needs cert and key")
        for i, caller in enumerate(self.caller):
            if caller.certificates and not self.client_ca:
                raise self.refusal(f"caller[{i}].certificates", "they need push.client_ca")
            if caller.name in [other.name for other in self.caller[:i]]:
                raise self.refusal(f"caller[{i}].name", f"{shown(caller.name)} is there twice")

    def needs_restart(self, new: Self) -> frozenset[str]:
        """Return the fields that only a restart can change to another section's values.

        The port is with or without TLS, with or without callers' certificates, and with or without
        a look at each call, from its start on.
        """
        names = set(super().needs_restart(new))
        if bool(self.cert) != bool(new.cert):
            names |= {"cert", "key", "client_ca"}
        elif bool(self.client_ca) != bool(new.client_ca):
            names |= {"client_ca", "token", "caller"}
        if bool(self.token or self.caller) != bool(new.token or new.caller):
            names |= {"token", "caller"}
        return frozenset(name for name in names if getattr(self, name) != getattr(new, name))

    @property
    def is_guarded(self) -> bool:
        """Whether callers have to prove who they are."""
        return bool(self.client_ca or self.token or self.caller)


class LogConfig(Section, frozen=True, kw_only=True):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level written."""
    format: Literal["text", "json"] = "text"
    """One line an event, as text or as a JSON object."""


class MetricsConfig(Section, frozen=True, kw_only=True):
    """Figures of performance: how long things take, and what /metrics makes of them."""

    restart = frozenset({"stages", "fine"})

    stages: bool = True
    """Whether to time the stages of requests: the wait for a worker, the service, the sending."""
    fine: bool = False
    """Whether the histograms of /metrics have 32 buckets for each doubling, 3 % wide, in place of
    4, 25 % wide. A Prometheus that sets ``convert_classic_histograms_to_nhcb`` keeps such a
    histogram as one series."""


class TraceConfig(Section, frozen=True, kw_only=True):
    """Traces by OpenTelemetry; needs `gatesvr[trace]`."""

    restart = frozenset({"enabled"})

    enabled: bool = False
    """Make spans of requests: queue and call inside the whole.

    Exporter, sampler and resource come from OpenTelemetry's own variables, such as
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER and OTEL_SERVICE_NAME. A gateway inside
    another program uses that program's SDK, and without one makes no span."""
    trust_clients: bool = False
    """Go on with the trace that a client's traceparent names, and pass its tracestate and baggage
    to upstreams. Whoever can connect can then have its requests traced."""
    one_in: Annotated[int, Range(1, 1_000_000, "none")] = 1_000
    """Of so many requests without a trace of their own one begins one, by chance. The SDK's sampler
    (OTEL_TRACES_SAMPLER) is asked after that."""


class AdminConfig(Section, frozen=True, kw_only=True):
    """The admin server: console, metrics, health checks and commands over HTTP."""

    restart = frozenset({"enabled", "bind", "socket", "token", "cert", "key", "client_ca", "hosts"})
    hidden = frozenset({"key", "token"})

    enabled: bool = False
    """Whether to listen; ``serve --demo`` does so by itself. It needs ``gatesvr[admin]``."""
    bind: str = "127.0.0.1:8090"
    """TCP address to listen on, HOST:PORT, port 0 for any free one; empty for none."""
    socket: str = ""
    """Path of a Unix socket to listen on as well, for processes of this user; empty for none."""
    token: str = ""
    """File with bearer tokens, one a line, of which requests carry one; it is read again when it
    changes. Empty: whoever reaches the address may do everything."""
    cert: str = ""
    """PEM file with the certificate chain of the TCP address: TLS. Empty: plain text."""
    key: str = ""
    """PEM file with the certificate's private key. Both are read again when they change."""
    client_ca: str = ""
    """PEM file with the CAs of clients' certificates: nobody connects without one (mTLS)."""
    hosts: list[str] = msgspec.field(default_factory=list)
    """Names under which the server is reached, besides its address and localhost: a request without
    a token for any other is refused, because a page of another site may have made it."""

    def check(self) -> None:
        if self.bind:
            _check_bind(self, "bind", self.bind)
            if not self.is_guarded and _is_open(parse_address(self.bind)[0]):
                raise self.refusal("bind", f"{self.bind}: {OPEN_ADMIN_PORT}")
        elif self.enabled and not self.socket:
            raise self.refusal("bind", "neither bind nor socket: there is nothing to listen on")
        if bool(self.cert) != bool(self.key):
            given, missing = ("cert", "key") if self.cert else ("key", "cert")
            raise self.refusal(given, f"cert and key go together, {missing} is missing")
        if self.client_ca and not self.cert:
            raise self.refusal("client_ca", "it needs cert and key")

    @property
    def is_guarded(self) -> bool:
        """Whether clients have to prove who they are."""
        return bool(self.client_ca or self.token)


_DEFAULT_ROUTES = (
    RouteRule(action="hello", service="hello"),
    RouteRule(action="logout", service="hello"),
    RouteRule(action="zone", service="zone"),
    RouteRule(action="zone_*", service="zone"),
    RouteRule(action="*", service="business"),
)
_LOGIN = "hello"


class Config(Section, frozen=True, kw_only=True):
    """The gateway's configuration."""

    transport: TransportConfig = TransportConfig()
    """QUIC, UDP and TLS."""
    auth: AuthConfig = AuthConfig()
    """Who may come in."""
    session: SessionConfig = SessionConfig()
    """Sessions, their queues and their deadlines. A session keeps the limits that it began with."""
    dispatch: DispatchConfig = DispatchConfig()
    """The task queues and their workers."""
    overload: OverloadConfig = OverloadConfig()
    """When to shed load, and then in this order, one step a second: new handshakes, new sessions,
    broadcasts, plain pushes, the slowest sessions. Requests of logged-in sessions go on."""
    drain: DrainConfig = DrainConfig()
    """How the gateway ends."""
    upstream: UpstreamConfig = UpstreamConfig()
    """Upstream services and the lanes to them."""
    push: PushConfig = PushConfig()
    """GatewayService."""
    log: LogConfig = LogConfig()
    """Logging."""
    metrics: MetricsConfig = MetricsConfig()
    """Figures of performance."""
    trace: TraceConfig = TraceConfig()
    """Traces of requests."""
    admin: AdminConfig = AdminConfig()
    """The admin server."""
    route: list[RouteRule] = msgspec.field(default_factory=list)
    """Which service answers an action, first match wins; any of your own replace the defaults, of
    which those whose service is not in upstream.services are left out."""

    def check(self) -> None:
        services = self.upstream.services
        if self.auth.mode == "upstream" and not services.get(self.auth.service):
            raise self.refusal(
                "auth.service",
                f"{shown(self.auth.service)} has no endpoint in upstream.services"
                f"{hint(self.auth.service, services)}",
            )
        has_own = bool(self.route)
        if not has_own:
            routes = [rule for rule in _DEFAULT_ROUTES if rule.service in services]
            msgspec.structs.force_setattr(self, "route", routes)
        for i, rule in enumerate(self.route):
            if rule.service not in services:
                raise self.refusal(
                    f"route[{i}].service",
                    f"{shown(rule.service)} is not in upstream.services"
                    f"{hint(rule.service, services)}; a service that registers itself is named"
                    f" there without endpoints: {rule.service:.64} = []",
                )
            for before, other in enumerate(self.route[:i]):
                if _covers(other.action, rule.action):
                    raise self.refusal(
                        f"route[{i}].action",
                        f"{shown(rule.action)} is never reached, route[{before}] takes"
                        f" {shown(other.action)} before it",
                    )
        for i, caller in enumerate(self.push.caller):
            for j, name in enumerate(caller.services if caller.role == "push" else ()):
                if name not in services and not ZONED_NAME.fullmatch(name):
                    raise self.refusal(
                        f"push.caller[{i}].services[{j}]",
                        f"{shown(name)} is not in upstream.services{hint(name, services)}; its"
                        " endpoints would serve every service of any zone",
                    )
        if not any(_covers(rule.action, _LOGIN) for rule in self.route):
            # The default routes are those of the services, so they are at fault.
            field = "route" if has_own else "upstream.services"
            raise self.refusal(field, f"no route for {_LOGIN!r}, nobody could log in")
