"""Settings: every field from every source, and refusals that say where, what and why."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gatesvr.config import (
    Config,
    DispatchConfig,
    Duration,
    Endpoint,
    LogConfig,
    PushCaller,
    PushConfig,
    Range,
    RouteRule,
    SessionConfig,
    Size,
    TransportConfig,
    UpstreamConfig,
    check_numbers,
    fields,
    load,
    needs_restart,
    parse_address,
)
from gatesvr.config.describe import as_toml, descriptions, schema
from gatesvr.config.kinds import number_kind
from gatesvr.config.load import load_with_origins
from gatesvr.config.toml import line_of, parse
from gatesvr.errors import ConfigError

FIELDS = dict(fields())
RANGES = {name: number_kind(kind) for name, kind in FIELDS.items() if hasattr(kind, "__metadata__")}
OTHER = {
    "auth.mode": ("jwt", "jwt"),
    "auth.service": ("gate", "gate"),
    "auth.algorithms": ('["es256"]', ["ES256"]),
    "auth.key": ("k.pem", "k.pem"),
    "auth.jwks": ("https://id.test/keys", "https://id.test/keys"),
    "auth.audience": ("game", "game"),
    "auth.issuer": ("https://id.test", "https://id.test"),
    "auth.openid_claim": ("uid", "uid"),
    "auth.claims": ('["role"]', ["role"]),
    "upstream.lane": ("grpcio", "grpcio"),
    "transport.bind": ("127.0.0.1:9", "127.0.0.1:9"),
    "transport.backend": ("qh3", "qh3"),
    "transport.cert": ("a.pem", "a.pem"),
    "transport.key": ("b.pem", "b.pem"),
    "transport.unlimited_prefixes": ('["10.0.0.0/8"]', ["10.0.0.0/8"]),
    "transport.dry_run": ('["max_handshakes_per_prefix"]', ["max_handshakes_per_prefix"]),
    "transport.retry": ("never", "never"),
    "transport.secret": ("s.key", "s.key"),
    "transport.web.bind": ("127.0.0.1:9", "127.0.0.1:9"),
    "transport.web.path": ("/play", "/play"),
    "workers.steer": ("forward", "forward"),
    "transport.web.origins": ('["https://a.test"]', ["https://a.test"]),
    "session.max_message_bytes": ("512KiB", 512 << 10),
    "session.max_queue_bytes": ("8MiB", 8 << 20),
    "session.on_duplicate": ("allow", "allow"),
    "session.dry_run": ('["max_start_rate"]', ["max_start_rate"]),
    "session.when_full": ("refuse", "refuse"),
    "upstream.services": (
        '{hello=[{address="10.0.0.1:1", zone="002", weight=3}]}',
        {"hello": [Endpoint(address="10.0.0.1:1", zone="002", weight=3)]},
    ),
    "upstream.required": ('["hello"]', ["hello"]),
    "upstream.balance": ("consistent_hash", "consistent_hash"),
    "upstream.order": ("request", "request"),
    "upstream.tls.ca": ("c.pem", "c.pem"),
    "upstream.tls.cert": ("a.pem", "a.pem"),
    "upstream.tls.key": ("b.pem", "b.pem"),
    "upstream.tls.server_name": ("chat.example", "chat.example"),
    "push.bind": ("127.0.0.1:9", "127.0.0.1:9"),
    "push.cert": ("a.pem", "a.pem"),
    "push.key": ("b.pem", "b.pem"),
    "push.client_ca": ("c.pem", "c.pem"),
    "push.token": ("t", "t"),
    "push.caller": (
        '[{name="ops", role="admin", token="t", services=["chat"]}]',
        [PushCaller(name="ops", role="admin", token="t", services=["chat"])],
    ),
    "push.register": ("add", "add"),
    "push.register_cidrs": ('["10.0.0.0/8"]', ["10.0.0.0/8"]),
    "admin.bind": ("127.0.0.1:9", "127.0.0.1:9"),
    "admin.socket": ("a.sock", "a.sock"),
    "admin.token": ("t", "t"),
    "admin.cert": ("a.pem", "a.pem"),
    "admin.key": ("b.pem", "b.pem"),
    "admin.client_ca": ("c.pem", "c.pem"),
    "admin.hosts": ('["gate.example"]', ["gate.example"]),
    "log.level": ("debug", "debug"),
    "log.format": ("json", "json"),
    "route": ('[{action="h*", service="zone"}]', [RouteRule(action="h*", service="zone")]),
}
"""A text that each field may have besides its default, and the value that it stands for."""

COMPANIONS = {
    "admin.cert": ["admin.key=k"],
    "admin.key": ["admin.cert=c"],
    "admin.client_ca": ["admin.key=k", "admin.cert=c"],
    "push.cert": ["push.key=k"],
    "push.key": ["push.cert=c"],
    "push.client_ca": ["push.key=k", "push.cert=c"],
    "upstream.tls.ca": ["upstream.tls.enabled=true"],
    "upstream.tls.cert": ["upstream.tls.key=k", "upstream.tls.enabled=true"],
    "upstream.tls.key": ["upstream.tls.cert=c", "upstream.tls.enabled=true"],
    "upstream.tls.server_name": ["upstream.tls.enabled=true"],
    "transport.cert": ["transport.key=k"],
    "transport.key": ["transport.cert=c"],
    "auth.mode": [
        "auth.algorithms=['RS256']",
        "auth.key=k",
        "auth.audience=a",
        "auth.issuer=i",
    ],
}


def other_value(name: str) -> tuple[str, Any]:
    """Return a text for the field that is not its default, and its value."""
    default = value_of(Config(), name)
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, bool):
        return str(not default).lower(), not default
    if name in RANGES and RANGES[name][0] is Duration:
        return "1234ms", 1.234
    if name in RANGES and RANGES[name][0] is Size:
        return "3MiB", 3 << 20
    assert isinstance(default, int), f"{name}: say in OTHER what else it may be"
    return str(default + 1), default + 1


def value_of(config: Config, name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        value = getattr(value, key)
    return value


def variable(name: str) -> str:
    return f"GATESVR_{name.replace('.', '__').upper()}"


def toml(name: str, text: str) -> str:
    quoted = text if text[0] in "[{" or re.fullmatch(r"\d+|true|false", text) else f'"{text}"'
    return f"{name} = {quoted}\n"


@pytest.mark.parametrize("name", FIELDS)
def test_field_from_every_source(name: str, tmp_path: Path) -> None:
    text, value = other_value(name)
    assert value_of(Config(), name) != value
    extra = COMPANIONS.get(name, [])
    file = tmp_path / "gate.toml"
    file.write_text(toml(name, text), "utf-8")
    loaded = {
        "--set": load(sets=[f"{name}={text}", *extra]),
        "environment": load(environ={variable(name): text}, sets=extra),
        "file": load(file, sets=extra),
        "flag": load(overrides={name: msgspec.to_builtins(value)}, sets=extra),
    }
    for source, config in loaded.items():
        assert value_of(config, name) == value, source
        # The default routes are those of the services that there are.
        given = {name, "route"} if name == "upstream.services" else {name}
        others = {
            n for n in FIELDS if n not in given and not any(e.startswith(f"{n}=") for e in extra)
        }
        assert all(value_of(config, n) == value_of(Config(), n) for n in others), source


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_value_is_named(name: str, tmp_path: Path) -> None:
    """One line: the file, the field and the value."""
    file = tmp_path / "gate.toml"
    file.write_text(f"{name} = [[77]]\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    line = str(caught.value)
    assert str(file) in line
    assert name.split(".")[-1] in line
    assert "77" in line
    assert "\n" not in line


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[dispatch]\nmax_workers = 11\nworkers = 1\ntask_timeout = '7s'\n", "utf-8")
    environ = {"GATESVR_DISPATCH__MAX_WORKERS": "12", "GATESVR_DISPATCH__WORKERS": "2"}
    config = load(
        file,
        environ=environ,
        sets=["dispatch.max_workers=13"],
        overrides={"push.bind": "127.0.0.1:0"},
    )
    assert config.dispatch.max_workers == 13
    assert config.dispatch.workers == 2
    assert config.dispatch.task_timeout == 7.0
    assert config.push.bind == "127.0.0.1:0"


def test_environment_is_read_only_when_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATESVR_DISPATCH__WORKERS", "7")
    assert load().dispatch.workers == 0


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        ("dispatch.wrkers=8", ["--set", "dispatch.wrkers", "dispatch.workers"]),
        ("nowhere.at_all=8", ["--set", "nowhere.at_all", "unknown"]),
        ("dispatch.workers", ["--set", "dispatch.workers", "section.key=value"]),
        ("dispatch.workers=-1", ["--set", "dispatch.workers", "-1"]),
        ("dispatch.workers=4.5", ["--set", "dispatch.workers", "4.5"]),
        ("dispatch.workers=2000", ["--set", "dispatch.workers", "2000", "max_workers (1024)"]),
        ("dispatch.task_timeout=soon", ["--set", "dispatch.task_timeout", "soon"]),
        ("dispatch.task_timeout=-1", ["--set", "dispatch.task_timeout", "-1"]),
        ("dispatch.task_timeout=inf", ["--set", "dispatch.task_timeout", "inf"]),
        ("session.max_message_bytes=1.5B", ["--set", "session.max_message_bytes", "1.5B"]),
        (
            "session.max_queue_bytes=1MiB",
            ["--set", "session.max_queue_bytes", "1MiB", "max_message_bytes (1MiB)"],
        ),
        ("session.on_duplicate=maybe", ["--set", "session.on_duplicate", "maybe"]),
        ("transport.bind=8453", ["--set", "transport.bind", "8453"]),
        ("transport.bind=::1:8453", ["--set", "transport.bind", "[::1]:8453"]),
        ("transport.cert=x.pem", ["--set", "transport.cert", "key"]),
        ('route=[{action="a*b", service="x"}]', ["--set", "route[0].action", "a*b"]),
        ('upstream.services.zone=[{address="here"}]', ["--set", "upstream.services.zone", "here"]),
        (
            'upstream.services.zone=[{address="h:1"}, {address="h:2", weight=0}]',
            ["--set", "upstream.services.zone[1].weight", "0 is out of range"],
        ),
    ],
)
def test_refusal_is_one_clear_line(sets: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(sets=[sets])
    line = str(caught.value)
    assert [part for part in parts if part not in line] == []
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[dispatch]\nwrkers = 8", ["dispatch.wrkers", "workers"]),
        ("[dispach]\nworkers = 8", ["dispach", "dispatch"]),
        ("dispatch = 5", ["dispatch", "5"]),
        ("[dispatch]\nworkers = = 8", ["gate.toml:2: "]),
        ("[[route]]\naction = 'x'", ["route[0]", "service"]),
        ("[[route]]\naction = 'x'\nservice = 'y'\nserail = true", ["route[0]", "serail"]),
        (
            "[[upstream.services.zone]]\naddress = 'h:1'\nweight = 0",
            ["services.zone[0].weight", "0"],
        ),
    ],
)
def test_bad_file_is_named(text: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    line = str(caught.value)
    assert [part for part in [str(file), *parts] if part not in line] == []
    assert "\n" not in line


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"gate\.toml"):
        load(file)


def test_file_routes_replace_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[[route]]\naction = '*'\nservice = 'zone'\nserial = true\n", "utf-8")
    assert load(file).route == [RouteRule(action="*", service="zone", serial=True)]


# Values that are no use to anybody --------------------------------------------------------------

ROOM = {
    "session.max_message_bytes": ["session.max_queue_bytes=1GiB"],
    "session.max_queue_bytes": ["session.max_message_bytes=256B"],
    "dispatch.workers": ["dispatch.max_workers=65536"],
    "upstream.reconnect_min": ["upstream.reconnect_max=1h"],
    "upstream.reconnect_max": ["upstream.reconnect_min=10ms"],
    "workers.restart_min": ["workers.restart_max=1h"],
    "workers.restart_max": ["workers.restart_min=10ms"],
}
"""What else has to be set for a field's smallest or largest value to fit."""


def test_little_needs_a_restart() -> None:
    assert {name for name in FIELDS if needs_restart(name)} == {
        "transport.bind",
        "transport.backend",
        "transport.receive_buffer",
        "transport.send_buffer",
        "transport.batch_io",
        "transport.secret",
        "transport.web.bind",
        "transport.web.websocket",
        "transport.web.webtransport",
        "session.max_message_bytes",
        "push.bind",
        "push.insecure",
        "trace.enabled",
        "metrics.stages",
        "metrics.fine",
        "admin.enabled",
        "admin.bind",
        "admin.socket",
        "admin.token",
        "admin.cert",
        "admin.key",
        "admin.client_ca",
        "admin.hosts",
        "workers.count",
        "workers.lease",
        "workers.steer",
    }


def test_every_number_states_its_range() -> None:
    numbers = {name for name in FIELDS if isinstance(value_of(Config(), name), float | int)} - {
        name for name in FIELDS if isinstance(value_of(Config(), name), bool)
    }
    assert numbers == set(RANGES)


@pytest.mark.parametrize("name", RANGES)
def test_range_of_every_number(name: str) -> None:
    kind, bounds = RANGES[name]
    plain = float if kind is Duration else int

    def loaded(value: float) -> Any:
        return value_of(load(sets=[f"{name}={value}", *ROOM.get(name, [])]), name)

    for good in (bounds.low, bounds.high, *([0] if bounds.zero else [])):
        assert loaded(good) == good
        assert type(loaded(good)) is plain
    bad = [bounds.high * 2, -1, *([] if bounds.zero else [0])]
    if bounds.low > 1 and kind is not Duration:
        bad.append(bounds.low // 2)
    if kind is Duration:
        bad.append(bounds.low / 2)
    for value in bad:
        with pytest.raises(ConfigError, match=name):
            loaded(value)


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: SessionConfig(resume_window="soon"), ["resume_window", "'soon'"]),
        (lambda: TransportConfig(idle_timeout=0), ["idle_timeout", "100ms"]),
        (lambda: TransportConfig(max_connections=-4), ["max_connections", "-4"]),
        (lambda: SessionConfig(on_duplicate="bogus"), ["on_duplicate", "replace, reject, allow"]),
        (lambda: TransportConfig(bind="here"), ["bind", "HOST:PORT"]),
        (lambda: TransportConfig(batch_io=1), ["batch_io", "neither true nor false"]),
        (lambda: DispatchConfig(workers=True), ["workers", "whole number"]),
        (lambda: Endpoint(address="h:1", zone="a zone"), ["zone", "'a zone'"]),
        (lambda: Endpoint(address="nowhere"), ["address", "HOST:PORT"]),
        (lambda: RouteRule(action="a*b", service="x"), ["action", "a*b"]),
        (lambda: PushConfig(register_cidrs=["10.0.0.0/33"]), ["register_cidrs[0]", "/33"]),
        (lambda: PushConfig(cert="c"), ["push.cert", "key is missing"]),
        (lambda: PushConfig(client_ca="c"), ["push.client_ca", "needs cert and key"]),
        (lambda: PushCaller(name="ops"), ["token", "neither token nor certificates"]),
        (lambda: PushCaller(name="", token="t"), ["name", "no name"]),
        (lambda: PushCaller(name="ops", token="t", services=[""]), ["services[0]", "empty"]),
        (
            lambda: PushConfig(caller=[PushCaller(name="ops", certificates=["ops"])]),
            ["caller[0].certificates", "push.client_ca"],
        ),
        (
            lambda: PushConfig(caller=[PushCaller(name="ops", token="t")] * 2),
            ["caller[1].name", "'ops' is there twice"],
        ),
        (lambda: TransportConfig(unlimited_prefixes=["::1/64", "me"]), ["unlimited_prefixes[1]"]),
        (lambda: TransportConfig(dry_run=["max_connections"]), ["dry_run", "is not one of"]),
        (lambda: LogConfig(level="trace"), ["level", "'trace' is not one of debug, info"]),
        (lambda: UpstreamConfig(services={"a": [7]}), ["services", "7"]),
        (lambda: Config(transport=5), ["transport", "5"]),
        (
            lambda: Config(dispatch=DispatchConfig(workers=9, max_workers=8)),
            ["dispatch.workers", "9", "max_workers (8)"],
        ),
        (
            lambda: msgspec.structs.replace(SessionConfig(), login_timeout=0),
            ["login_timeout", "0s"],
        ),
    ],
)
def test_configuration_built_in_python_is_checked(build: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    line = str(caught.value)
    assert [part for part in parts if part not in line] == []


def test_configuration_built_in_python_takes_what_a_file_takes() -> None:
    session = SessionConfig(resume_window="2m", max_queue_bytes="8MiB", on_duplicate="Allow")  # type: ignore[arg-type]
    assert (session.resume_window, session.max_queue_bytes) == (120.0, 8 << 20)
    assert session.on_duplicate == "allow"
    assert type(TransportConfig(idle_timeout=3).idle_timeout) is float


def test_zone_is_written_in_any_length() -> None:
    zones = [Endpoint(address="h:1", zone=zone).zone for zone in ("7", "07", "007", "", "eu-west")]
    assert zones == ["007", "007", "007", "", "eu-west"]


# Variables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("GATESVR_DISPATCH__WRKERS", ["unknown", "GATESVR_DISPATCH__WORKERS"]),
        ("GATESVR_DISPATH__WORKERS", ["unknown", "GATESVR_DISPATCH__WORKERS"]),
        ("GATESVR_DISPATCH_WORKERS", ["GATESVR_DISPATCH__WORKERS"]),
        ("GATESVR_TRANSPORT_IDLE_TIMEOUT", ["GATESVR_TRANSPORT__IDLE_TIMEOUT"]),
    ],
)
def test_misspelt_variable_is_refused(name: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={name: "8"})
    line = str(caught.value)
    assert [part for part in [name, *parts] if part not in line] == []


def test_variables_of_others_are_left_alone() -> None:
    kubernetes = {
        "GATESVR_PORT": "udp://10.0.0.1:8453",
        "GATESVR_SERVICE_HOST": "10.0.0.1",
        "GATESVR_SERVICE_PORT": "8453",
        "GATESVR_PORT_8453_UDP_ADDR": "10.0.0.1",
        "GATESVR_PUSH_SERVICE_HOST": "10.0.0.2",
        "GATESVR_CYTHON_DEBUG": "1",
    }
    assert load(environ=kubernetes) == Config()


# Services and routes ----------------------------------------------------------------------------

TWO = 'upstream.services={hello=[{address="h:1"}], chat=[{address="h:2"}]}'


@pytest.mark.parametrize(
    ("routes", "parts"),
    [
        ('{action="hello", service="helo"}', ["route[0].service", "helo", "did you mean hello"]),
        ('{action="chat", service="chat"}', ["route", "hello", "log in"]),
        (
            '{action="hello", service="hello"}, {action="hello", service="chat"}',
            ["route[1].action", "'hello' is never reached"],
        ),
        (
            (
                '{action="hello", service="hello"}, {action="*", service="chat"},'
                ' {action="a*", service="hello"}'
            ),
            ["route[2].action", "'a*' is never reached"],
        ),
        ('{action="", service="chat"}', ["route[0].action", "empty"]),
    ],
)
def test_routes_that_lead_nowhere_are_refused(routes: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(sets=[TWO, f"route=[{routes}]"])
    line = str(caught.value)
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize(
    ("service", "may"), [("chat", True), ("upstream-zone-7", True), ("cat", False)]
)
def test_a_caller_registers_services_that_there_are(service: str, may: bool) -> None:
    # Another name's endpoints would serve every service of a zone of the caller's choice.
    sets = [TWO, f'push.caller=[{{name="game", token="t", services=["{service}"]}}]']
    if may:
        load(sets=sets)
        return
    with pytest.raises(ConfigError, match=r"push\.caller\[0\]\.services\[0\].*'cat'.*chat"):
        load(sets=sets)


def test_default_routes_are_those_of_the_services_there_are() -> None:
    only = load(sets=['upstream.services={hello=[{address="h:1"}], business=[{address="h:2"}]}'])
    assert [(rule.action, rule.service) for rule in only.route] == [
        ("hello", "hello"),
        ("logout", "hello"),
        ("*", "business"),
    ]
    with pytest.raises(ConfigError, match="hello"):
        load(sets=['upstream.services={chat=[{address="h:1"}]}'])


def test_service_without_an_endpoint_registers_itself() -> None:
    services = "upstream.services={hello=[], chat=[]}"
    routes = 'route=[{action="hello", service="hello"}, {action="*", service="chat"}]'
    config = load(sets=[services, routes])
    assert config.upstream.services == {"hello": [], "chat": []}


def test_flags_name_endpoints_of_single_services(tmp_path: Path) -> None:
    flags = {"upstream.services.hello": [{"address": "flag:1"}]}
    # Without services of a file, those that flags name are all there are.
    assert list(load(overrides=flags).upstream.services) == ["hello"]
    file = tmp_path / "gate.toml"
    file.write_text(
        "[[upstream.services.hello]]\naddress = 'h:1'\n"
        "[[upstream.services.business]]\naddress = 'h:2'\n",
        "utf-8",
    )
    services = load(file, overrides=flags).upstream.services
    assert services == {
        "hello": [Endpoint(address="flag:1")],
        "business": [Endpoint(address="h:2")],
    }


# Kinds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1.0), ("1.5", 1.5), ("2m", 120.0), ("1h", 3600.0), (3, 3.0), (0, 0.0)],
)
def test_durations(text: object, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1d", "-1s", "1 s", "1s2", "nan", True, None, [1]])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="no duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("4MiB", 4 << 20), ("1GiB", 1 << 30), ("2KB", 2000), ("7", 7), (9, 9)],
)
def test_sizes(text: object, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "0.3B", "-1", -1, "1kb", "1 KiB", 1.5, True, None])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="no size"):
        Size.parse(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8453", ("0.0.0.0", 8453)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        (":8081", ("", 8081)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "::1:5", "host:٣"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


# Values of any size -------------------------------------------------------------------------------

HUGE = {"400 digits": "9" * 400, "5,000 digits": "9" * 5000, "with underscores": "9_99" * 2000}


@pytest.mark.parametrize("digits", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize(
    "name", ["session.max_in_flight", "session.max_message_bytes", "session.login_timeout"]
)
def test_huge_number_is_refused_in_one_short_line(name: str, digits: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(f"{name} = {digits}\n", "utf-8")
    loads: dict[str, Any] = {
        f"{file}:1": lambda: load(file),
        "--set": lambda: load(sets=[f"{name}={digits}"]),
        variable(name): lambda: load(environ={variable(name): digits}),
    }
    for source, load_it in loads.items():
        with pytest.raises(ConfigError) as caught:
            load_it()
        line = str(caught.value)
        assert line.startswith(f"{source}: {name}: ")
        assert len(line) < len(source) + 250
        assert "\n" not in line


@pytest.mark.parametrize("power", [400, 5000])
def test_huge_number_in_python_is_refused(power: int) -> None:
    for field in ("max_in_flight", "max_message_bytes", "login_timeout"):
        for value in (10**power, -(10**power)):
            with pytest.raises(ConfigError, match=f"session.{field}: "):
                SessionConfig(**{field: value})
    with pytest.raises(ConfigError, match="pause: "):
        check_numbers(pause=(10**power, Range(0, math.inf)))


def test_long_value_is_cut_in_the_message() -> None:
    for setting in (
        "log.level",
        "transport.bind",
        "session.login_timeout",
        "session.max_message_bytes",
        "dispatch.workers",
        "route",
    ):
        with pytest.raises(ConfigError, match="x…") as caught:
            load(sets=[f"{setting}={'x' * 5000}"])
        assert len(str(caught.value)) < 250


# Lines -------------------------------------------------------------------------------------------

FILE = """\
# A gateway.
[transport]
bind = "127.0.0.1:1"

[[upstream.services.hello]]  # the login
address = "10.0.0.1:1"

[[upstream.services.hello]]
address = "10.0.0.2:1"
weight = 2

[[upstream.services."a.b"]]
address = "10.0.0.3:1"

[[route]]
action = "hello"
service = "hello"

# Everything
# else.
[[route]]
action = "*"
service = "a.b"

[push]
register_cidrs = [
  "10.0.0.0/8",  # [log]

  "192.168.0.0/16",
]
token = '''
[log]
level = "debug"
'''
"""


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("transport", "[transport]"),
        ("transport.bind", 'bind = "127.0.0.1:1"'),
        ("upstream.services", "[[upstream.services.hello]]  # the login"),
        ("upstream.services.hello[0].address", 'address = "10.0.0.1:1"'),
        ("upstream.services.hello[1]", "[[upstream.services.hello]]"),
        ("upstream.services.hello[1].weight", "weight = 2"),
        ("upstream.services.hello[1].zone", "[[upstream.services.hello]]"),  # is not there
        ("upstream.services.a.b[0].address", 'address = "10.0.0.3:1"'),
        ("route[1].action", 'action = "*"'),
        ("route[1]", "[[route]]"),
        ("push.register_cidrs", "register_cidrs = ["),
        ("push.register_cidrs[1]", "register_cidrs = ["),
        ("push.token", "token = '''"),
        ("log.level", ""),
        ("nothing", ""),
    ],
)
def test_line_of_a_field(field: str, line: str) -> None:
    number = line_of(FILE, field)
    assert FILE.splitlines()[number - 1 : number] == ([line] if line else [])
    if field == "route[1]":
        assert number == 21


@settings(deadline=None)
@given(st.data())
def test_line_of_a_field_anywhere(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, unique=True))
    lines, at = [], {}
    for name in names:
        lines += data.draw(st.lists(st.sampled_from(["", "# words", "  # = [["]), max_size=2))
        at[name] = len(lines) + 1
        lines.append(data.draw(st.sampled_from([f"{name} = 1", f"{name} = [\n1,\n\n]"])))
        lines = "\n".join(lines).split("\n")
    for name in names:
        assert line_of("\n".join(lines), name) == at[name]


def test_complaint_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    for text, complaint in {
        "[log]\n\nlevell = 'info'": ":3: log.levell: unknown setting (did you mean level?)",
        "[log]\n\nlevel = 'loud'": ":3: log.level: 'loud' is not one of debug, info, warning",
        "[[route]]\naction = '*'": ":1: route[0].service: it is missing",
        "[log]\nlevel = 'info": ":2: Expected",
        "[log]\nlevel = [": ":2: Invalid value",
        "a = " + "[" * 10_000: ": nested too deeply",
    }.items():
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError) as refused:
            load(file)
        assert str(refused.value).startswith(f"{file}{complaint}")


# Descriptions ------------------------------------------------------------------------------------


def changed(name: str) -> Config:
    return load(sets=[f"{name}={other_value(name)[0]}", *COMPANIONS.get(name, [])])


@pytest.mark.parametrize("name", FIELDS)
def test_printed_configuration_is_read_back(name: str, tmp_path: Path) -> None:
    file, config = tmp_path / "gate.toml", changed(name)
    file.write_text(as_toml(config), "utf-8")
    assert load(file) == config
    Draft202012Validator(schema()).validate(parse(as_toml(config)))


def test_services_of_any_name_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    services = {"hello": [], "a.b": [], 'q"\x7f\\': [Endpoint(address="h:1")], "ü": []}
    config = Config(upstream=UpstreamConfig(services=services))
    file.write_text(as_toml(config), "utf-8")
    assert load(file) == config


def test_origins(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(
        "[log]\nlevel = 'debug'\n[session]\nmax_in_flight = 3\n"
        "[[route]]\naction = 'hello'\nservice = 'hello'\n",
        "utf-8",
    )
    config, origins = load_with_origins(
        file,
        sets=["dispatch.workers=3"],
        environ={"GATESVR_SESSION__MAX_IN_FLIGHT": "4"},
        overrides={"upstream.services.hello": [{"address": "h:1"}]},
    )
    lines = as_toml(config, origins=origins).splitlines()
    for line in (
        f'level = "debug"  # {file}:2',
        "max_in_flight = 4  # GATESVR_SESSION__MAX_IN_FLIGHT",
        "workers = 3  # --set",
        "max_workers = 1024  # default",
        "[[upstream.services.hello]]  # flag",
        'address = "h:1"  # flag',
        "weight = 1  # default",
        f'action = "hello"  # {file}:6',
        f'service = "hello"  # {file}:7',
        'order = ""  # default',
        f"[[route]]  # {file}:5",
    ):
        assert line in lines


def test_endpoints_may_be_sockets_and_have_an_authority() -> None:
    sets = ['upstream.services.hello=[{address="unix:/run/a.sock", authority="api.example:443"}]']
    endpoint = load(sets=sets).upstream.services["hello"][0]
    assert (endpoint.address, endpoint.authority) == ("unix:/run/a.sock", "api.example:443")


def test_file_of_the_defaults_sets_nothing_and_explains_every_setting() -> None:
    text = as_toml(Config(), is_commented=True)
    tables: dict[str, Any] = {name: {} for name in Config.__struct_fields__ if name != "route"}
    tables["upstream"] = {"tls": {}}
    tables["transport"] = {"web": {}}
    assert parse(text) == tables
    uncommented = re.sub(r"^# (?=(\w+ = |\[))", "", text, flags=re.MULTILINE)
    values = parse(uncommented)
    (begun,) = values["push"].pop("caller")  # to begin with
    assert set(begun) == set(PushCaller.__struct_fields__)
    assert values == parse(as_toml(Config()))
    words = " ".join(text.replace("\n# ", "\n").split())
    for (_, field), description in descriptions().items():
        assert not field or description in words


def test_schema_refuses_what_the_loader_refuses(tmp_path: Path) -> None:
    validator = Draft202012Validator(schema())
    Draft202012Validator.check_schema(schema())
    for text in (
        "log.levell = 'info'",
        "log.level = 'loud'",
        "dispatch.workers = 65537",
        "dispatch.workers = '3'",
        "session.login_timeout = '5 apples'",
        "session.max_queue_bytes = 5.5",
        "session.base_resume = 1",
        "route = [{action = '*'}]",
        "upstream.services.chat = 'h:1'",
        "auth.claims = [1]",
    ):
        file = tmp_path / "gate.toml"
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError):
            load(file)
        assert not validator.is_valid(parse(text)), text


# Small things -------------------------------------------------------------------------------------


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("dispatch.workers = 3\n", "utf-8-sig")
    assert load(file).dispatch.workers == 3


@pytest.mark.parametrize(
    ("setting", "source"),
    [
        ("upstream.services={}", "--set: upstream.services: "),
        ("upstream.services.chat=[]", "--set: upstream.services: "),
    ],
)
def test_services_without_a_login_are_refused_with_their_source(setting: str, source: str) -> None:
    with pytest.raises(ConfigError, match=f"{source}no route for 'hello'"):
        load(sets=[setting])


def test_variable_in_small_letters_is_told_its_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean GATESVR_DISPATCH__WORKERS\?"):
        load(environ={"GATESVR_dispatch__workers": "8"})


def test_address_written_twice_in_a_service_is_refused() -> None:
    twice = [{"address": "h:1"}, {"address": "h:2"}, {"address": "h:1", "weight": 2}]
    with pytest.raises(ConfigError, match=r"flag: upstream.services.zone\[2\].address: 'h:1'"):
        load(overrides={"upstream.services.hello": [], "upstream.services.zone": twice})
    # One address may serve several zones, and several services.
    zones = [Endpoint(address="h:1", zone=zone) for zone in ("1", "2", "")]
    UpstreamConfig(services={"hello": zones, "zone": zones})
    with pytest.raises(ConfigError, match="twice"):
        UpstreamConfig(services={"zone": [Endpoint(address="h:1", zone=z) for z in ("1", "001")]})


@pytest.mark.parametrize("action", ["x" * 65, "ü" * 33, "x" * 65 + "*", "a\nb", "a\x85", "\ud800"])
def test_route_that_no_action_can_match_is_refused(action: str) -> None:
    with pytest.raises(ConfigError, match=r"RouteRule\.action: "):
        RouteRule(action=action, service="x")


def test_route_of_the_longest_action_is_taken() -> None:
    for action in ("x" * 64, "ü" * 32, "x" * 64 + "*"):
        assert RouteRule(action=action, service="x").action == action


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64, "a." + "x" * 64])
def test_bind_that_is_no_host_name_is_refused(host: str) -> None:
    for section in (TransportConfig, PushConfig):
        with pytest.raises(ConfigError, match=r"bind: .* is no host name"):
            section(bind=f"{host}:1")


def test_configuration_is_frozen() -> None:
    config = Config()
    with pytest.raises(AttributeError):
        config.dispatch.workers = 3  # type: ignore[misc]


SERVICES = {"GATESVR_UPSTREAM__SERVICES": '{hello = [{address = "a:1"}], chat = [{address = "a"}]}'}


@pytest.mark.parametrize(
    ("sets", "source"),
    [
        ([], "GATESVR_UPSTREAM__SERVICES"),
        (['upstream.services.chat=[{address="b"}]'], "--set"),  # the part that it set itself
        (['upstream.services.hello=[{address="b:1"}]'], "GATESVR_UPSTREAM__SERVICES"),
    ],
)
def test_blames_what_set_the_value(sets: list[str], source: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT") as refused:
        load(sets=sets, environ=SERVICES)
    assert refused.value.source == source
    assert refused.value.field == "upstream.services.chat[0].address"
