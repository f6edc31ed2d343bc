"""The configuration and most of its sections: every setting with its default, range and meaning.

upstream.py has the section of the upstreams, ports.py those of the push port and the admin server,
workers.py that of a gateway of several processes.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from typing import Annotated, Literal

import msgspec

from .checks import (
    CONTROL,
    GIB,
    HOUR,
    KIB,
    MIB,
    MINUTE,
    MS,
    Count,
    Places,
    Wait,
    check_bind,
    check_networks,
    check_pair,
)
from .kinds import Bytes, Range, Seconds, Section, Size, hint, shown
from .ports import AdminConfig, PushConfig
from .upstream import ZONED_NAME, UpstreamConfig
from .workers import WorkersConfig

__all__ = [
    "MAX_CLAIMS",
    "AuthConfig",
    "Config",
    "DispatchConfig",
    "DrainConfig",
    "LogConfig",
    "MetricsConfig",
    "OverloadConfig",
    "RouteRule",
    "SessionConfig",
    "TraceConfig",
    "TransportConfig",
    "WebConfig",
]

MAX_CLAIMS = 16
_MAX_ACTION_BYTES = 64  # of a request's action


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


class WebConfig(Section, frozen=True, kw_only=True):
    """The ways in for browsers, and for networks that drop UDP: WebTransport, and WebSocket over
    TLS. Certificate, time-outs and the limits of connections and of networks are those of
    `transport`."""

    restart = frozenset({"bind", "websocket", "webtransport"})

    bind: str = ""
    """Address to listen on, TCP and UDP of the same port, HOST:PORT, port 0 for any free one; empty
    for none. Usual is 0.0.0.0:8443."""
    websocket: bool = True
    """WebSocket over TLS, on TCP."""
    webtransport: bool = True
    """WebTransport over HTTP/3, on UDP."""
    path: str = "/gatesvr"
    """The path of the URL that clients open."""
    origins: list[str] = msgspec.field(default_factory=list)
    """Origins whose pages may connect, such as https://example.com, `*` for any; empty: pages of
    the same host and port. Clients that are no browsers send none, and are let in."""
    max_handshakes: Count = 500
    """TCP connections whose TLS and HTTP handshake is not done; above it new ones are reset."""
    accept_rate: Annotated[int, Range(1, 1_000_000, "no limit")] = 500
    """TCP connections a second, twice as many at once; above it new ones are reset."""
    handshake_timeout: Wait = 5.0
    """Longest TLS and HTTP handshake, both together."""

    def check(self) -> None:
        if self.bind:
            check_bind(self, "bind", self.bind)
            if not (self.websocket or self.webtransport):
                raise self.refusal("bind", "there is no way in: websocket and webtransport are off")
        if not self.path.startswith("/") or "?" in self.path or not self.path.isascii():
            raise self.refusal("path", f"{shown(self.path)} is no path: it begins with /")
        for i, origin in enumerate(self.origins):
            parts = urllib.parse.urlsplit(origin)
            is_origin = parts.scheme in ("http", "https") and bool(parts.netloc)
            if origin != "*" and (not is_origin or parts.path or parts.query):
                raise self.refusal(
                    f"origins[{i}]", f"{shown(origin)} is no origin: write https://HOST or *"
                )


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
    idle_timeout: Annotated[Seconds, Range(100 * MS, 24 * HOUR)] = 60.0
    """QUIC idle time-out that the gateway offers."""
    receive_buffer: Annotated[Bytes, Range(KIB, GIB, "the system's default")] = 4 << 20
    """SO_RCVBUF asked of the system, bytes."""
    send_buffer: Annotated[Bytes, Range(KIB, GIB, "the system's default")] = 4 << 20
    """SO_SNDBUF asked of the system, bytes."""
    batch_io: bool = True
    """Read and write many datagrams a system call, where the system can (Linux)."""
    web: WebConfig = WebConfig()
    """WebSocket for browsers, and where UDP is blocked."""

    def check(self) -> None:
        check_bind(self, "bind", self.bind)
        check_pair(self)
        check_networks(self, "unlimited_prefixes", self.unlimited_prefixes)


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
    timeout: Annotated[Seconds, Range(10 * MS, 10)] = 3.0
    """upstream: longest wait for the service's answer; then the client is told to try later."""
    algorithms: list[Algorithm] = msgspec.field(default_factory=list)
    """Algorithms that a token may be signed with; no other is tried."""
    key: str = ""
    """File with the public key or certificate (PEM), or the HMAC secret (32 bytes or more)."""
    jwks: str = ""
    """File or https URL of a JWKS document, in the place of key."""
    jwks_refresh: Annotated[Seconds, Range(1, 24 * HOUR)] = 300.0
    """How often a JWKS URL is read again."""
    jwks_max_stale: Annotated[Seconds, Range(1, 720 * HOUR)] = 24 * HOUR
    """How long keys serve while a JWKS URL cannot be read."""
    audience: str = ""
    """What a token's ``aud`` names."""
    issuer: str = ""
    """What a token's ``iss`` is."""
    leeway: Annotated[Seconds, Range(MS, 10 * MINUTE, "none")] = 30.0
    """Difference of clocks that ``exp``, ``nbf`` and ``iat`` forgive."""
    openid_claim: str = "sub"
    """The claim that is the openid."""
    claims: list[str] = msgspec.field(default_factory=list)
    """Claims that go to upstreams (PeerInfo.auth_claims): at most 16, 4 KiB in all."""
    enforce_expiry: bool = True
    """End a session when its token has expired and was not renewed."""
    min_refusal_time: Annotated[Seconds, Range(MS, 10, "at once")] = 0.1
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
    heartbeat_interval: Annotated[Seconds, Range(1, HOUR)] = 15.0
    """Longest heartbeat interval told to clients; also at most a quarter of the idle time-out."""
    resume_window: Annotated[Seconds, Range(MS, 168 * HOUR, "not at all")] = 60.0
    """How long a session outlives its connection."""
    slow_consumer_timeout: Wait = 10.0
    """A queue at a cap with no ack moved for this long closes the connection 4413."""
    max_queue_size: Places = 1_024
    """Messages not acked in a session's queue (max_unacked_messages on the wire)."""
    max_queue_bytes: Annotated[Bytes, Range(512, GIB)] = 4 << 20
    """Bytes not acked in a session's queue; at least 2 x max_message_bytes."""
    max_queues_bytes: Annotated[
        Bytes, Range(512, 1024 * GIB, "a quarter of the memory there is")
    ] = 0
    """Memory of what is not acked in all queues together."""
    max_in_flight: Count = 128
    """Requests of a session accepted and not answered."""
    max_message_bytes: Annotated[Bytes, Range(256, 512 * MIB)] = 1 << 20
    """Largest frame after login."""
    max_login_bytes: Annotated[Bytes, Range(256, 512 * MIB)] = 64 << 10
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
    drain_timeout: Annotated[Seconds, Range(MS, HOUR, "do not wait")] = 10.0
    """How long running tasks may go on when a program stops the gateway without a drain."""

    def check(self) -> None:
        if self.workers > self.max_workers:
            raise self.refusal(
                "workers", f"{self.workers} is above max_workers ({self.max_workers})"
            )


class OverloadConfig(Section, frozen=True, kw_only=True):
    """When to shed load; gatesvr/overload.py has the order."""

    max_loop_lag: Annotated[Seconds, Range(10 * MS, MINUTE, "not watched")] = 0.5
    """How late the event loop may be while it computes; shed while it stays later."""
    max_memory: Annotated[Bytes, Range(MIB, 1024 * GIB, "nine tenths of the memory there is")] = 0
    """Resident memory of the process; shed while it is above (Linux). What the allocator keeps may
    be used again: memory up to a tenth above that no longer grows is no reason to shed."""
    dry_run: bool = False
    """Measure, log and count, but shed nothing."""


class DrainConfig(Section, frozen=True, kw_only=True):
    """How ``gatesvr serve`` ends on SIGTERM or Ctrl-C; gatesvr/drain.py has the order."""

    rate: Count = 200
    """Clients a second that are asked to leave; more where half of the time that is left would not
    do."""
    timeout: Annotated[Seconds, Range(10 * MS, 24 * HOUR)] = 25.0
    """Longest drain; then connections and requests are cut off. Keep it a few seconds below the
    time after which the process is killed (Kubernetes: 30s, systemd: 90s)."""
    ready_wait: Annotated[Seconds, Range(MS, HOUR, "do not wait")] = 1.0
    """How long the gateway is not ready and still takes new clients, so that load balancers notice;
    at most half of the timeout. Ctrl-C does not wait."""
    reconnect_after: Annotated[Seconds, Range(MS, 5 * MINUTE)] = 1.0
    """What clients are told to wait that know no other gateway; they spread themselves over as
    long again."""


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
        if CONTROL.search(self.action):
            raise self.refusal("action", f"{shown(self.action)} has a character no action can have")
        if len(self.action.removesuffix("*").encode()) > _MAX_ACTION_BYTES:
            raise self.refusal(
                "action",
                f"{shown(self.action)} is longer than an action: {_MAX_ACTION_BYTES} bytes",
            )


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
    workers: WorkersConfig = WorkersConfig()
    """Several processes as one gateway."""
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
