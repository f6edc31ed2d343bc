"""The whole configuration: one struct a layer, checked once, then frozen.

Sources, later ones win: the defaults below, a TOML file, environment variables
(``GATESVR_DISPATCH_WORKERS=8``), ``--set dispatch.workers=8``, the flags of ``gatesvr serve``.
Durations are seconds as a number or text such as ``500ms``, ``1s``, ``2m``, ``1h``; sizes are bytes
as a number or text such as ``64KiB``, ``4MiB``.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from .errors import ConfigError

__all__ = [
    "Config",
    "DispatchConfig",
    "Duration",
    "Endpoint",
    "LogConfig",
    "PushConfig",
    "RouteRule",
    "SessionConfig",
    "Size",
    "TransportConfig",
    "UpstreamConfig",
    "fields",
    "join_address",
    "load",
    "parse_address",
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_DURATION_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|KB|MB|GB)?")
_SIZE_UNITS = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


class Duration(float):
    """Seconds, 0 or more; written as a number or as ``500ms``, ``1s``, ``2m``, ``1h``."""

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Return the duration that value stands for.

        Raises:
            ValueError: It stands for none.
        """
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
            seconds = float(match[1]) * _DURATION_UNITS[match[2]]
        else:
            raise ValueError(f"{value!r} is no duration (write 500ms, 1s, 2m or 1h)")
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"{value!r} is no duration: it must be finite and not negative")
        return cls(seconds)


class Size(int):
    """Bytes, 0 or more; written as a number or as ``64KiB``, ``4MiB``."""

    @classmethod
    def parse(cls, value: object) -> Size:
        """Return the size that value stands for.

        Raises:
            ValueError: It stands for none.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            size = float(match[1]) * _SIZE_UNITS[match[2]]
            if size == int(size):
                return cls(int(size))
        raise ValueError(f"{value!r} is no size (write 1024, 64KiB or 4MiB)")


Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: frozen, keyword only, unknown keys refused."""


class TransportConfig(_Section, frozen=True, kw_only=True):
    """QUIC, UDP and TLS."""

    bind: str = "0.0.0.0:8453"
    """UDP address to listen on, HOST:PORT, port 0 for any free one.

    A name with several addresses is listened to on each. On 0.0.0.0 or [::] every answer leaves
    from the address that the client asked (Linux, macOS; elsewhere bind the address itself).
    """
    backend: Literal["auto", "aioquic", "qh3"] = "auto"
    """QUIC library; auto takes qh3 where it is installed."""
    cert: str = ""
    """PEM file with the certificate chain; empty for the development certificate."""
    key: str = ""
    """PEM file with the certificate's private key."""
    max_connections: Count = 10_000
    """QUIC connections; above it a new one is closed 4503, 5 % above it Initials are dropped."""
    max_handshakes: Count = 1_000
    """Connections whose handshake is not done; above it Initials are dropped."""
    handshake_timeout: Duration = Duration(5.0)
    """Longest QUIC handshake."""
    idle_timeout: Duration = Duration(60.0)
    """QUIC idle time-out that the gateway offers."""
    high_water: Size = Size(64 << 10)
    """Bytes not yet transmitted on a connection at which the sender stops feeding it."""
    low_water: Size = Size(32 << 10)
    """Bytes not yet transmitted below which the sender is asked for more."""
    receive_buffer: Size = Size(4 << 20)
    """SO_RCVBUF asked of the system, bytes."""
    send_buffer: Size = Size(4 << 20)
    """SO_SNDBUF asked of the system, bytes."""
    batch_io: bool = True
    """Read and write many datagrams a system call, where the system can (Linux)."""
    close_linger: Duration = Duration(1.0)
    """Longest wait for a last push (KICK, GOAWAY, a refusal) to be acknowledged."""


class SessionConfig(_Section, frozen=True, kw_only=True):
    """Sessions, their queues and their deadlines."""

    start_timeout: Duration = Duration(8.0)
    """From the end of the handshake to START; 4408."""
    login_timeout: Duration = Duration(30.0)
    """From START to a hello answered 200; 4408, session closed."""
    frame_timeout: Duration = Duration(10.0)
    """From the first byte of a frame to its last; 4408."""
    heartbeat_interval: Duration = Duration(15.0)
    """Longest heartbeat interval told to clients; also at most a quarter of the idle time-out."""
    resume_window: Duration = Duration(60.0)
    """How long a session outlives its connection."""
    slow_consumer_timeout: Duration = Duration(10.0)
    """A queue at a cap with no ack moved for this long closes the connection 4413."""
    max_queue_size: Count = 1_024
    """Messages not acked in a session's queue (max_unacked_messages on the wire)."""
    max_queue_bytes: Size = Size(4 << 20)
    """Bytes not acked in a session's queue; at least 2 x max_message_bytes."""
    max_queues_bytes: Size = Size(0)
    """Memory of what is not acked in all queues together; 0 for a quarter of what there is."""
    max_in_flight: Count = 128
    """Requests of a session accepted and not answered."""
    max_message_bytes: Size = Size(1 << 20)
    """Largest frame after login."""
    max_login_bytes: Size = Size(64 << 10)
    """Largest frame before login."""
    max_refused_logins: Count = 5
    """Refused hellos after which the connection closes 4401."""
    max_inited_per_address: Count = 1_000
    """Sessions that have not logged in, a client address: a whole school may be behind one."""
    max_logged_in: Count = 5
    """Logged-in sessions of one openid with on_duplicate = "allow"."""
    on_duplicate: Literal["replace", "reject", "allow"] = "replace"
    """What a login does to other logged-in sessions of its openid."""
    when_full: Literal["drop_oldest", "refuse", "close"] = "drop_oldest"
    """What a notify does that finds a suspended session's queue full."""
    base_resume: bool = False
    """Let protocol-0 clients resume by openid and last_acked alone (no token)."""
    max_tombstones: Count = 10_000
    """Replaced and kicked sessions remembered to tell their clients why."""
    sweep_interval: Duration = Duration(1.0)
    """How often what can expire is looked at."""


class DispatchConfig(_Section, frozen=True, kw_only=True):
    """The task queue and its workers."""

    workers: CountOrNone = 0
    """Workers to start with and to shrink to; 0 for 4 a usable CPU."""
    max_workers: Count = 1_024
    """Workers at most; the pool grows while tasks wait."""
    max_queue_size: Count = 10_000
    """Tasks waiting; full means ERROR 503 at once."""
    task_timeout: Duration = Duration(30.0)
    """From acceptance to the answer, waiting included; 504."""
    idle_worker_timeout: Duration = Duration(5.0)
    """How long a worker above the starting number stays without a task."""
    drain_timeout: Duration = Duration(10.0)
    """How long running tasks may go on when the gateway stops."""


class Endpoint(_Section, frozen=True, kw_only=True):
    """One address of an upstream service."""

    address: str
    """HOST:PORT."""
    zone: str = ""
    """The zone it serves, three digits; empty for all."""
    weight: Count = 1
    """Share of the calls, against the service's other endpoints."""


class RouteRule(_Section, frozen=True, kw_only=True):
    """Which service answers an action; ``*`` at the end matches any rest, the first match wins."""

    action: str
    """An action, or the start of one and ``*``."""
    service: str
    """The service's name."""
    order: Literal["", "completion", "request"] = ""
    """Order of the answers; empty for the service's default."""
    serial: bool = False
    """Run one of a session's requests on this route at a time."""


class UpstreamConfig(_Section, frozen=True, kw_only=True):
    """Upstream services and the lanes to them."""

    services: dict[str, list[Endpoint]] = msgspec.field(
        default_factory=lambda: {
            "hello": [Endpoint(address="localhost:8081")],
            "business": [Endpoint(address="localhost:8082")],
            "zone": [Endpoint(address="localhost:8083")],
        }
    )
    """Service name to its endpoints."""
    balance: Literal["round_robin", "consistent_hash"] = "round_robin"
    """How a service's endpoints share the calls; consistent_hash is by openid."""
    order: Literal["completion", "request"] = "completion"
    """Order of the answers on routes that name none."""
    max_batch: Count = 64
    """Requests a lane message."""
    max_batch_bytes: Size = Size(1 << 20)
    """Bytes a lane message, unless it is one request; at most 1 MiB. Larger requests go alone."""
    max_open: Count = 1_024
    """Requests a lane has written and not seen answered."""
    max_waiting: Count = 10_000
    """Requests waiting for a lane of one endpoint; above it 503."""
    connect_timeout: Duration = Duration(5.0)
    """From the start of a lane to the upstream's initial metadata."""
    reconnect_min: Duration = Duration(0.2)
    """First pause before an endpoint is tried again."""
    reconnect_max: Duration = Duration(5.0)
    """Longest pause before an endpoint is tried again."""
    unary_retry: Duration = Duration(60.0)
    """How often an upstream without ProcessStream is asked for it again."""
    keepalive: Duration = Duration(300.0)
    """gRPC keepalive; below 300s only to upstreams that allow it."""


class PushConfig(_Section, frozen=True, kw_only=True):
    """GatewayService, the gRPC API that upstreams push through."""

    bind: str = "127.0.0.1:8092"
    """TCP address to listen on, HOST:PORT, port 0 for any free one."""
    register: Literal["off", "new", "add"] = "new"
    """RegisterUpstream: never, for services the configuration does not name, or for all."""
    register_cidrs: list[str] = []
    """Networks whose hosts may be registered besides the caller's own address and loopback."""
    insecure: bool = False
    """Serve on an address other than loopback without TLS."""
    max_push_ids: Count = 256
    """push_ids a session remembers."""
    max_bound_notifies: Count = 64
    """Notifies bound to one request."""
    max_bound_bytes: Size = Size(256 << 10)
    """Bytes of bound notifies a session."""
    max_event_subscribers: Count = 16
    """Subscribers of session events, upstreams and those inside together."""
    max_event_queue: Count = 1_024
    """Events that wait for one subscriber; above it the newest are left out, and counted."""


class LogConfig(_Section, frozen=True, kw_only=True):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level written."""
    format: Literal["text", "json"] = "text"
    """One line an event, as text or as a JSON object."""


_DEFAULT_ROUTES = (
    RouteRule(action="hello", service="hello"),
    RouteRule(action="logout", service="hello"),
    RouteRule(action="status", service="hello"),
    RouteRule(action="heartbeat", service="hello"),
    RouteRule(action="data_sync", service="hello"),
    RouteRule(action="zone", service="zone"),
    RouteRule(action="zone_*", service="zone"),
    RouteRule(action="echo", service="zone"),
    RouteRule(action="calculate", service="zone"),
    RouteRule(action="time", service="zone"),
    RouteRule(action="*", service="business"),
)


class Config(_Section, frozen=True, kw_only=True):
    """The gateway's configuration."""

    transport: TransportConfig = TransportConfig()
    """QUIC, UDP and TLS."""
    session: SessionConfig = SessionConfig()
    """Sessions, their queues and their deadlines."""
    dispatch: DispatchConfig = DispatchConfig()
    """The task queue and its workers."""
    upstream: UpstreamConfig = UpstreamConfig()
    """Upstream services and the lanes to them."""
    push: PushConfig = PushConfig()
    """GatewayService."""
    log: LogConfig = LogConfig()
    """Logging."""
    route: list[RouteRule] = msgspec.field(default_factory=lambda: list(_DEFAULT_ROUTES))
    """Routes, first match wins; ``[[route]]`` in a file replaces the defaults."""


def fields(struct: type[msgspec.Struct] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every settable field as (dotted name, type)."""
    hints = typing.get_type_hints(struct, include_extras=True)
    for name in struct.__struct_fields__:
        kind = hints[name]
        if isinstance(kind, type) and issubclass(kind, _Section):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Build the configuration from a file, the environment, ``--set`` texts and flags.

    Args:
        path: TOML file, or None.
        sets: ``section.key=value`` texts; the value is TOML, or plain text where it is no TOML.
        environ: Environment to read ``GATESVR_SECTION_KEY`` from, or None for none.
        overrides: Dotted name to value, from named flags.

    Raises:
        ConfigError: A file cannot be read, a key is unknown or a value wrong; it names all three.
    """
    tree: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if path is not None:
        try:
            tree = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ConfigError(error.strerror or str(error), source=str(path)) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(str(error), source=str(path)) from None
    names = dict(fields())
    for name in names:
        variable = f"GATESVR_{name.replace('.', '_').upper()}"
        if environ is not None and variable in environ:
            _put(tree, name, _parse_text(environ[variable]))
            sources[name] = variable
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not section.key=value", source="--set")
        name = name.strip()
        if name not in names and not name.startswith("upstream.services."):
            raise ConfigError(f"unknown setting{_hint(name, names)}", source="--set", field=name)
        _put(tree, name, _parse_text(value))
        sources[name] = "--set"
    for name, value in (overrides or {}).items():
        _put(tree, name, value)
        sources[name] = "flag"
    _refuse_unknown(Config, tree, "", str(path or "configuration"))
    try:
        config = msgspec.convert(tree, Config, dec_hook=_decode_hook)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        field = _name_service(tree, where.strip("`").lstrip("."))
        source = _source_of(field, sources, str(path or ""))
        raise ConfigError(
            f"{message}, got {_get(tree, field)!r}", source=source, field=field
        ) from None
    _check(config, sources, str(path or ""))
    return config


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: It is neither.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is not HOST:PORT (write an IPv6 address as [::1]:8453)")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return ``HOST:PORT``, an IPv6 host in brackets: what parse_address() takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check(config: Config, sources: Mapping[str, str], path: str) -> None:
    """Refuse values that are each well-formed and do not fit together."""

    def bad(field: str, message: str) -> ConfigError:
        return ConfigError(message, source=_source_of(field, sources, path), field=field)

    for field, address in (
        ("transport.bind", config.transport.bind),
        ("push.bind", config.push.bind),
    ):
        try:
            parse_address(address)
        except ValueError as error:
            raise bad(field, str(error)) from None
    for service, endpoints in config.upstream.services.items():
        for endpoint in endpoints:
            try:
                parse_address(endpoint.address)
            except ValueError as error:
                raise bad(f"upstream.services.{service}", str(error)) from None
    if bool(config.transport.cert) != bool(config.transport.key):
        raise bad("transport.cert", "cert and key go together, one of them is missing")
    if config.transport.low_water > config.transport.high_water:
        raise bad(
            "transport.low_water", f"{config.transport.low_water} is above transport.high_water"
        )
    if config.session.max_queue_bytes < 2 * config.session.max_message_bytes:
        raise bad(
            "session.max_queue_bytes",
            f"{config.session.max_queue_bytes} is below 2 x session.max_message_bytes",
        )
    if config.dispatch.workers > config.dispatch.max_workers:
        raise bad("dispatch.workers", f"{config.dispatch.workers} is above dispatch.max_workers")
    for i, rule in enumerate(config.route):
        if "*" in rule.action[:-1]:
            raise bad(f"route[{i}].action", f"{rule.action!r}: * may only stand at the end")


def _decode_hook(kind: type, value: object) -> object:
    if kind is Duration or kind is Size:
        return kind.parse(value)
    raise NotImplementedError(kind)


def _parse_text(text: str) -> Any:
    """Return the TOML value that text spells, or text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *sections, key = name.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{section} is no section", field=name)
        tree = inner
    tree[key] = value


def _get(tree: Any, name: str) -> Any:
    for key in filter(None, re.split(r"[.\[\]]", name)):
        try:
            tree = tree[int(key)] if isinstance(tree, list) else tree[key]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return tree


def _name_service(tree: Any, field: str) -> str:
    """Return field with the service's name in it, which msgspec writes as ``[...]``."""
    if "[...]" in field:
        for name, endpoints in tree["upstream"]["services"].items():
            try:
                msgspec.convert(endpoints, list[Endpoint])
            except msgspec.ValidationError:
                return field.replace("[...]", f".{name}", 1)
    return field


def _source_of(field: str, sources: Mapping[str, str], path: str) -> str:
    """Return what set field, or set the whole that it is a part of."""
    for name, source in sources.items():
        if field == name or field.startswith((f"{name}.", f"{name}[")):
            return source
    return path


def _refuse_unknown(struct: type[msgspec.Struct], tree: Any, prefix: str, source: str) -> None:
    if not isinstance(tree, dict):
        return
    hints = typing.get_type_hints(struct)
    for key, value in tree.items():
        if key not in hints:
            raise ConfigError(
                f"unknown setting{_hint(key, hints)}", source=source, field=f"{prefix}{key}"
            )
        if isinstance(hints[key], type) and issubclass(hints[key], _Section):
            _refuse_unknown(hints[key], value, f"{prefix}{key}.", source)


def _hint(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""
