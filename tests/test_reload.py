"""Reloads: every setting is in force afterwards, or named as one that needs a restart."""

from __future__ import annotations

import logging
import time
from itertools import count, repeat, takewhile
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from gatesvr import Client, ConnectionFailed
from gatesvr._pb import message_pb2 as pb
from gatesvr.config import (
    Config,
    Endpoint,
    PushCaller,
    PushConfig,
    RouteRule,
    SessionConfig,
    TransportConfig,
    UpstreamConfig,
    load,
    needs_restart,
)
from gatesvr.config.changes import HIDDEN, changes, shown_values, within_reach
from gatesvr.dispatch.task import AsyncTask
from gatesvr.dispatch.traced import TaskTracer
from gatesvr.errors import ConfigError
from gatesvr.gateway import Gateway
from gatesvr.protocol.messages import StopReason
from gatesvr.reload import Reloader
from gatesvr.transport.tls import generate_certificate
from gatesvr.upstream.lanes import LANES
from gatesvr.workers.shares import MOVING, Limits

from .e2e.plain_client import business, plain_client
from .e2e.plain_upstream import PlainUpstream, plain_upstream
from .fakes import FakeLink, until
from .test_config import COMPANIONS, FIELDS, other_value, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gatesvr.session.context import SessionContext
    from gatesvr.session.outcome import StartOutcome
    from gatesvr.session.session import Session
    from gatesvr.transport.prefixes import Prefixes, PrefixLimits

    from .spans import Spans

MOMENTS = count(1e6, 1e3)
"""Times so far apart that every rate has all of its burst again."""
MANY = 1_500
FREE_PORTS = ["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]
SERVICES = 'upstream.services={hello=[{address="127.0.0.1:9"}], zone=[{address="127.0.0.1:9"}]}'

NEEDS_RESTART = {
    *(name for name in FIELDS if needs_restart(name)),
    # From a plain port to one that looks at callers, and the like.
    "push.cert",
    "push.key",
    "push.client_ca",
    "push.token",
    "push.caller",
}


def starter(gateway: Gateway) -> Any:
    return gateway.session_manager._starter


def begun(gateway: Gateway) -> tuple[SessionContext, pb.StartResponse]:
    """Return what a session that begins now lives by, and what its client is told."""
    now = time.monotonic()
    outcome = start(gateway, "u", now)
    assert outcome.session is not None
    gateway.session_manager.stop(outcome.session, StopReason.USER_LOGOUT, now)
    return outcome.session.context, outcome.response


def start(gateway: Gateway, openid: str, now: float) -> StartOutcome:
    """Begin a session."""
    return gateway.session_manager.start(pb.StartRequest(openid=openid), FakeLink(), now)


def starts(gateway: Gateway, openid: str) -> int:
    """Return how many sessions may begin at once, MANY for all; {} is another openid each time."""
    now = next(MOMENTS)
    for number in range(MANY):
        session = start(gateway, openid.format(number), now).session
        if session is None:
            return number
        gateway.session_manager.stop(session, StopReason.USER_LOGOUT, now)
    return MANY


def admitted(
    gateway: Gateway, times: Iterable[float], *, is_complete: bool = True, is_kept: bool = True
) -> int:
    """Return how many connections of a network are admitted.

    Args:
        gateway: The gateway.
        times: When they come.
        is_complete: Whether their handshakes end.
        is_kept: Whether they stay.
    """
    limits = gateway.listener.limits
    networks = limits.prefixes("198.51.100.1")
    assert networks is not None
    admitted = list(
        takewhile(lambda now: _admits(limits, networks, now, is_complete, is_kept), times)
    )
    for _ in admitted:
        if not is_complete:
            limits.complete(networks)
        if is_kept:
            limits.end(networks)
    return len(admitted)


def _admits(
    limits: PrefixLimits, networks: Prefixes, now: float, is_complete: bool, is_kept: bool
) -> bool:
    if not limits.admits(networks, now):
        return False
    limits.begin(networks)
    if is_complete:
        limits.complete(networks)
    if not is_kept:
        limits.end(networks)
    return True


def rate(gateway: Gateway) -> int:
    """Return how many connections of a network are admitted in a second, after a burst."""
    now = next(MOMENTS)
    admitted(gateway, repeat(now), is_kept=False)
    return admitted(gateway, repeat(now + 1), is_kept=False)


def lane(gateway: Gateway) -> Any:
    (found,) = gateway.upstream._lanes.values()
    return found


def registry(gateway: Gateway) -> Any:
    return gateway.upstream.registry


def checks(gateway: Gateway) -> Any:
    gate = gateway.dispatcher.gate
    return None if gate is None else gate.authenticator


def gate(gateway: Gateway) -> Any:
    return gateway.dispatcher.gate


IN_FORCE: dict[str, Callable[[Gateway], Any]] = {
    "transport.cert": lambda g: g.listener.tls.path,
    "transport.key": lambda g: g.listener._config.key,
    "transport.max_connections": lambda g: (
        g.listener._admission._max_connections
        if starter(g)._max_sessions == 2 * g.listener._admission._max_connections
        else None
    ),
    "transport.max_handshakes": lambda g: g.listener._admission._max_handshakes,
    "transport.max_connections_per_prefix": lambda g: admitted(g, MOMENTS),
    "transport.max_handshakes_per_prefix": lambda g: admitted(g, MOMENTS, is_complete=False),
    "transport.max_connection_rate_per_prefix": rate,
    "transport.connection_burst_per_prefix": lambda g: admitted(
        g, repeat(next(MOMENTS)), is_kept=False
    ),
    "transport.unlimited_prefixes": lambda g: [
        text for text in ("10.0.0.0/8",) if g.listener.limits.prefixes("10.1.2.3") is None
    ],
    "transport.dry_run": lambda g: [
        name
        for name in ("max_handshakes_per_prefix",)
        if admitted(g, MOMENTS, is_complete=False) > g.config.transport.max_handshakes_per_prefix
    ],
    "transport.web.path": lambda g: g.web._config.web.path,
    "transport.web.origins": lambda g: list(g.web._origins),
    "transport.web.max_handshakes": lambda g: g.web._config.web.max_handshakes,
    "transport.web.accept_rate": lambda g: g.web._config.web.accept_rate,
    "transport.web.handshake_timeout": lambda g: g.web._config.web.handshake_timeout,
    "transport.retry": lambda g: g.listener._admission._retry,
    "transport.retry_handshakes": lambda g: g.listener._admission._switch._max_handshakes,
    "transport.retry_initials": lambda g: g.listener._admission._switch._max_initials,
    "transport.handshake_timeout": lambda g: g.listener._config.handshake_timeout,
    "transport.idle_timeout": lambda g: (
        g.listener._door.server.args[0].idle_timeout
        if g.listener._door.server.args[0].idle_timeout == g.listener._config.idle_timeout
        else None
    ),
    "auth.mode": lambda g: (
        "jwt" if starter(g)._needs_auth and type(checks(g)).__name__ == "JwtAuthenticator" else ""
    ),
    "auth.service": lambda g: (
        checks(g)._service
        if g.upstream._auth_service == registry(g)._reserved == checks(g)._service
        else None
    ),
    "auth.timeout": lambda g: checks(g)._timeout,
    "auth.algorithms": lambda g: list(checks(g)._algorithms),
    "auth.key": lambda g: checks(g)._config.key,
    "auth.jwks": lambda g: checks(g)._keys._url,
    "auth.jwks_refresh": lambda g: checks(g)._keys._refresh,
    "auth.jwks_max_stale": lambda g: checks(g)._keys._max_stale,
    "auth.audience": lambda g: checks(g)._config.audience,
    "auth.issuer": lambda g: checks(g)._config.issuer,
    "auth.leeway": lambda g: (
        gate(g)._leeway if gate(g)._leeway == checks(g)._config.leeway else None
    ),
    "auth.openid_claim": lambda g: checks(g)._config.openid_claim,
    "auth.claims": lambda g: checks(g)._config.claims,
    "auth.enforce_expiry": lambda g: gate(g)._enforces_expiry,
    "auth.min_refusal_time": lambda g: gate(g)._min_refusal_time,
    "auth.address_failures": lambda g: gate(g)._limit._addresses.burst,
    "auth.openid_failures": lambda g: gate(g)._limit._openids.burst,
    "session.start_timeout": lambda g: g.dispatcher.session_config.start_timeout,
    "session.login_timeout": lambda g: g.session_manager._config.login_timeout,
    "session.heartbeat_interval": lambda g: starter(g)._config.heartbeat_interval,
    "session.resume_window": lambda g: (
        g.session_manager._config.resume_window
        if g.session_manager.tombstones._window == starter(g)._config.resume_window
        else None
    ),
    "session.slow_consumer_timeout": lambda g: g.session_manager._config.slow_consumer_timeout,
    "session.max_queue_size": lambda g: begun(g)[1].max_unacked_messages,
    "session.max_queue_bytes": lambda g: begun(g)[1].max_unacked_bytes,
    "session.max_queues_bytes": lambda g: g.session_manager._budget._limit,
    "session.max_in_flight": lambda g: begun(g)[1].max_in_flight,
    "session.max_login_bytes": lambda g: g.dispatcher.session_config.max_login_bytes,
    "session.max_inited_per_address": lambda g: starter(g)._config.max_inited_per_address,
    "session.max_start_rate": lambda g: starts(g, "u{}"),
    "session.max_start_rate_per_openid": lambda g: starts(g, "u") / 10,
    "session.max_requests_per_second": lambda g: begun(g)[0].max_requests_per_second,
    "session.dry_run": lambda g: [
        name for name in ("max_start_rate",) if starts(g, "u{}") > g.config.session.max_start_rate
    ],
    "session.max_logged_in": lambda g: g.session_manager._policy._max_logged_in,
    "session.on_duplicate": lambda g: g.session_manager._policy._policy,
    "session.when_full": lambda g: begun(g)[0].when_full,
    "session.base_resume": lambda g: starter(g)._config.base_resume,
    "dispatch.workers": lambda g: g.processor.start_workers,
    "dispatch.max_workers": lambda g: g.processor._bulkheads["hello"]._max_running,
    "dispatch.max_queue_size": lambda g: g.processor._bulkheads["hello"]._max_waiting,
    "dispatch.task_timeout": lambda g: (
        g.dispatcher._task_timeout
        if g.dispatcher._task_timeout == g.dispatcher.login._task_timeout
        else None
    ),
    "dispatch.drain_timeout": lambda g: g.config.dispatch.drain_timeout,
    "overload.max_loop_lag": lambda g: g.engine.overload._max_lag,
    "overload.max_memory": lambda g: g.engine.overload._max_memory,
    "overload.dry_run": lambda g: not g.engine.overload._is_enforced,
    "upstream.services": lambda g: {
        e.service: [Endpoint(address=e.address, zone=e.zone, weight=e.weight)]
        for e in registry(g).endpoints
    },
    "upstream.balance": lambda g: (
        "consistent_hash" if g.upstream._pool("hello")._is_hashed else "round_robin"
    ),
    "upstream.order": lambda g: g.engine.router.route("hello").order,
    "upstream.lane": lambda g: next(name for name, kind in LANES.items() if type(lane(g)) is kind),
    "upstream.max_connections": lambda g: lane(g)._config.max_connections,
    "upstream.max_batch": lambda g: lane(g)._max_batch,
    "upstream.max_open": lambda g: g.upstream.endpoints()[0].max_open,
    "upstream.adaptive_limit": lambda g: lane(g)._limit is not None,
    "upstream.min_open": lambda g: lane(g)._config.min_open,
    "upstream.max_waiting": lambda g: lane(g)._max_waiting,
    # These are options of the lane's channel, made anew.
    "upstream.connect_timeout": lambda g: lane(g)._config.connect_timeout,
    "upstream.reconnect_min": lambda g: lane(g)._config.reconnect_min,
    "upstream.keepalive": lambda g: lane(g)._config.keepalive,
    "upstream.reconnect_max": lambda g: lane(g)._config.reconnect_max,
    "upstream.resolve_interval": lambda g: g.config.upstream.resolve_interval,  # by names only
    "upstream.tls.enabled": lambda g: lane(g)._tls is not None,
    "upstream.tls.ca": lambda g: lane(g)._tls.config.ca,
    "upstream.tls.cert": lambda g: lane(g)._tls.config.cert,
    "upstream.tls.key": lambda g: lane(g)._tls.config.key,
    "upstream.tls.server_name": lambda g: lane(g).target.server_name,
    **{
        f"upstream.{name}": lambda g, name=name: getattr(g.upstream._breakers.config, name)
        for name in (
            "consecutive_failures",
            "failure_percent",
            "failure_calls",
            "failure_window",
            "ejection_time",
            "max_ejection_time",
            "max_ejection_percent",
            "probes",
        )
    },
    "upstream.required": lambda g: g.config.upstream.required,  # not_ready() asks it
    "drain.rate": lambda g: g._drain.status().rate,
    "drain.timeout": lambda g: g._drain._config.timeout,
    "drain.ready_wait": lambda g: g._drain._config.ready_wait,
    "drain.reconnect_after": lambda g: g._drain._config.reconnect_after,
    "push.register": lambda g: registry(g)._mode,
    "push.register_cidrs": lambda g: [str(net) for net in registry(g)._networks],
    "push.max_streams": lambda g: g.push_service._servicer._max_streams,
    "push.max_broadcasts": lambda g: g.engine.commands.pushes._max_broadcasts,
    "push.max_event_subscribers": lambda g: g.session_manager.events._max_subscribers,
    "route": lambda g: [
        RouteRule(action="h*", service=route.service)
        for _, prefix, route in g.engine.router._prefixes
        if prefix == "h"
    ],
    # Where nothing is traced, nothing else knows them: see the test of traces.
    "trace.trust_clients": lambda g: g.config.trace.trust_clients,
    "trace.one_in": lambda g: g.config.trace.one_in,
    # A supervisor acts by these (tests/workers).
    "workers.start_timeout": lambda g: g.config.workers.start_timeout,
    "workers.restart_min": lambda g: g.config.workers.restart_min,
    "workers.restart_max": lambda g: g.config.workers.restart_max,
    "workers.upgrade_timeout": lambda g: g.config.workers.upgrade_timeout,
    "log.level": lambda g: logging.getLevelName(logging.getLogger("gatesvr").level).lower(),
    "log.format": lambda g: g.config.log.format,  # tests/observe/test_log.py
}
"""What is in force of each setting that a reload changes, from what acts by it."""

JWT = ["auth.mode=jwt", "auth.algorithms=['HS256']", "auth.audience=a", "auth.issuer=i"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a certificate, its key and a secret."""
    cert, key = generate_certificate()
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    (tmp_path / "secret").write_bytes(b"s" * 32)
    return tmp_path


def sets_of(name: str, files: Path) -> list[str]:
    """Return settings that give one another value, with what it needs."""
    text, _ = other_value(name)
    if name in ("transport.cert", "transport.key"):
        return [f"transport.cert={files}/c.pem", f"transport.key={files}/k.pem"]
    if name.startswith("upstream.tls."):
        files_of = {"ca": [f"ca={files}/c.pem"], "server_name": [f"server_name={text}"]}
        pair = [f"cert={files}/c.pem", f"key={files}/k.pem"]
        own = files_of.get(name.rpartition(".")[2], pair)
        return [f"upstream.tls.{each}" for each in ("enabled=true", *own)]
    if name == "auth.mode":
        return [*JWT, f"auth.key={files}/secret"]
    if name in ("auth.service", "auth.timeout"):
        return ["auth.mode=upstream", "auth.service=zone" if name == "auth.timeout" else
                'upstream.services.gate=[{address="127.0.0.1:9"}]', f"{name}={text}"]  # fmt: skip
    if name == "auth.key":
        return [*JWT, f"auth.key={files}/secret"]
    if name.startswith("auth."):
        keys = "https://127.0.0.1:9/keys" if name.startswith("auth.jwks") else f"{files}/secret"
        source = f"auth.jwks={keys}" if name.startswith("auth.jwks") else f"auth.key={keys}"
        if name == "auth.algorithms":
            text = '["HS384"]'
        return [*JWT, source, f"{name}={text}"]
    return [*COMPANIONS.get(name, []), f"{name}={text}"]


def expected(name: str, config: Config) -> Any:
    value = value_of(config, name)
    return "jwt" if name == "auth.mode" else value


async def test_every_setting_is_in_force_or_needs_a_restart(files: Path) -> None:
    base = load(sets=[*FREE_PORTS, SERVICES])
    problems = []
    async with Gateway(base) as gateway:
        for name in FIELDS:
            sets = [*FREE_PORTS, SERVICES, *sets_of(name, files)]
            config = load(sets=sets)
            assert changes(base, config), name
            gateway.processor._bulkheads["hello"]
            report = Reloader(gateway, lambda config=config: config).reload()  # type: ignore[misc]
            if report.error:
                problems.append(f"{name}: {report.error}")
            elif name in NEEDS_RESTART:
                if name not in report.needs_restart:
                    problems.append(f"{name}: no restart is asked for")
                elif value_of(gateway.config, name) != value_of(base, name):
                    problems.append(f"{name}: it has changed")
            elif name not in IN_FORCE:
                problems.append(f"{name}: say in IN_FORCE what acts by it, or in NEEDS_RESTART")
            elif report.needs_restart:
                problems.append(f"{name}: {report.needs_restart} need a restart")
            elif (found := IN_FORCE[name](gateway)) != (wanted := expected(name, config)):
                problems.append(f"{name}: {found!r} is in force, not {wanted!r}")
            back = Reloader(gateway, lambda: base).reload()
            if back.error or gateway.config != base:
                problems.append(f"{name}: there is no way back: {back.error}")
    assert not problems, "\n".join(problems)
    assert {name for name in FIELDS if name not in NEEDS_RESTART} == set(IN_FORCE)


async def test_traces_follow_their_settings(spans: Spans) -> None:
    traced = [*FREE_PORTS, SERVICES, "trace.enabled=true"]
    one, none, trusting = (
        load(sets=[*traced, *more])
        for more in ((), ("trace.one_in=0",), ("trace.one_in=0", "trace.trust_clients=true"))
    )

    def make_task() -> Any:
        return gateway.dispatcher._make_task

    async with Gateway(one) as gateway:
        assert isinstance(make_task().__self__, TaskTracer)
        assert not Reloader(gateway, lambda: none).reload().error
        assert make_task() is AsyncTask
        assert not Reloader(gateway, lambda: trusting).reload().error
        assert make_task().__self__._tracer.trusts_clients


# What changes, and what is shown of it ------------------------------------------------------------


def test_changes_hide_secrets_and_name_services() -> None:
    old = Config(
        transport=TransportConfig(secret="/run/a"),
        push=PushConfig(caller=[PushCaller(name="ops", token="/run/t")]),
    )
    services = {**UpstreamConfig().services, "chat": [Endpoint(address="h:1")]}
    del services["zone"]
    new = Config(
        transport=TransportConfig(secret="/run/b"),
        session=SessionConfig(resume_window="2m"),  # type: ignore[arg-type]
        upstream=UpstreamConfig(services=services),
        push=PushConfig(token="a-token-in-a-paths-place"),
    )
    found = {change.name: (change.old, change.new) for change in changes(old, new)}
    assert found["transport.secret"] == (HIDDEN, HIDDEN)
    assert found["push.token"] == ("", HIDDEN)
    assert found["session.resume_window"] == ("1m", "2m")
    assert found["upstream.services.chat"][0] == ""
    assert "h:1" in found["upstream.services.chat"][1]
    assert found["upstream.services.zone"][1] == ""
    assert "route" in found  # the default ones are those of the services
    texts = f"{found} {shown_values(old)} {shown_values(new)}"
    assert "/run/" not in texts
    assert "a-token" not in texts
    assert '"name": "ops"' in found["push.caller"][0]
    assert changes(new, new) == []


def test_what_needs_a_restart_stays_and_must_fit() -> None:
    old = Config()
    new = Config(session=SessionConfig(max_message_bytes=256, max_queue_bytes=1024))
    with pytest.raises(ConfigError, match=r"session.max_message_bytes can change by a restart"):
        within_reach(old, new)
    config, left = within_reach(old, Config(session=SessionConfig(max_message_bytes=512)))
    assert left == ["session.max_message_bytes"]
    assert config == old
    old = Config(push=PushConfig(token="t"))
    for other, left_ in (
        (PushConfig(token="u"), []),
        (PushConfig(token="t", caller=[PushCaller(name="a", token="b")]), []),
        (PushConfig(), ["push.token"]),
        (PushConfig(token="t", cert="c", key="k"), ["push.cert", "push.key"]),
    ):
        assert within_reach(old, Config(push=other))[1] == left_


async def test_a_bad_configuration_changes_nothing(files: Path) -> None:
    file = files / "gate.toml"
    good = (
        f"transport = {{bind = '127.0.0.1:0', cert = '{files}/c.pem', key = '{files}/k.pem'}}\n"
        "push = {bind = '127.0.0.1:0'}\n"
        "session = {resume_window = '3m'}\n"
    )
    file.write_text(good)
    keys = f"{{mode='jwt', key='{files}/no', algorithms=['HS256'], audience='a', issuer='i'}}"
    async with Gateway(load(file)) as gateway:
        reloader = Reloader(gateway, lambda: load(file))
        assert reloader.reload().changed == []
        before, counted = gateway.config, gateway.stats()["transport"]["certificates_renewed"]
        other = good.replace("3m", "4m")
        for bad, complaint in (
            ("[session", f"{file}:1: Expected"),
            (other[:-9], f"{file}:3: "),
            (other.replace("resume_window", "resume_windw"), "did you mean resume_window?"),
            (other.replace("c.pem", "k.pem"), "transport.cert: no usable certificate"),
            (other.replace("k.pem", "no.pem"), "no.pem: transport.key: No such file"),
            (f"{other}auth = {keys}\n", "auth.key: "),
        ):
            file.write_text(bad)
            report = reloader.reload()
            assert complaint in report.error
            assert report.error in report.as_text()
            assert gateway.config is before
            assert gateway.session_manager._config.resume_window == 180
        assert gateway.stats()["transport"]["certificates_renewed"] == counted
        file.unlink()
        assert "gate.toml: No such file" in reloader.reload().error
        file.write_text(other.replace("resume", "nothing = 1, resume"))
        assert "unknown setting" in reloader.reload().error
        file.write_text(other)
        report = reloader.reload()
        assert not report.error
        assert "session.resume_window: 3m -> 4m" in report.as_text()


async def test_a_failure_of_our_own_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Config:
        raise KeyError("surprise")

    async with Gateway(load(sets=FREE_PORTS)) as gateway:
        assert "surprise" in Reloader(gateway, fail).reload().error
    assert "reload_failed" in caplog.text


async def test_limits_that_lanes_have_learned_stay() -> None:
    adaptive = "upstream.adaptive_limit=true"
    async with (
        plain_upstream() as upstream,
        Gateway(config_of(upstream, adaptive)) as gateway,
    ):
        learned = lane(gateway)._limit
        more = ["upstream.services.chat=[]", "upstream.max_batch=9"]
        gateway.apply(config_of(upstream, adaptive, *more))
        assert lane(gateway)._limit is learned
        assert lane(gateway)._max_batch == 9
        gateway.apply(config_of(upstream, adaptive, "upstream.max_open=9"))
        assert lane(gateway)._limit is not learned


async def test_shares_hold_in_the_place_of_the_limits_until_the_next_reload() -> None:
    """As one process of several has them."""
    config = load(sets=FREE_PORTS)
    shares = {
        "transport.max_connections": 11,
        "session.max_queues_bytes": 12,
        "overload.max_memory": 13,
        "push.max_streams": 14,
        "push.max_event_subscribers": 15,
    }
    assert tuple(shares) == MOVING
    async with Gateway(config) as gateway:
        before = {name: IN_FORCE[name](gateway) for name in shares}
        gateway.limit(**Limits(*shares.values())._asdict())
        assert {name: IN_FORCE[name](gateway) for name in shares} == shares
        assert gateway.web._max_connections == 11
        gateway.apply(config)
        assert {name: IN_FORCE[name](gateway) for name in shares} == before
        assert gateway.web._max_connections == config.transport.max_connections


async def test_only_a_gateway_that_runs_is_reloaded() -> None:
    config = load(sets=FREE_PORTS)
    gateway = Gateway(config)
    assert "does not run" in Reloader(gateway, lambda: config).reload().error
    async with gateway:
        assert Reloader(gateway, lambda: config).reload().error == ""
    assert "does not run" in Reloader(gateway, lambda: config).reload().error


# What goes on -------------------------------------------------------------------------------------


async def test_a_session_keeps_the_limits_that_it_began_with() -> None:
    async with (
        plain_upstream() as upstream,
        Gateway(config_of(upstream)) as gateway,
        plain_client(gateway.address) as old,
    ):
        started = await old.login("old")
        fewer = ["session.max_in_flight=2", "session.max_queue_size=33"]
        gateway.apply(config_of(upstream, *fewer))
        old.send(*(business(seq, "gate") for seq in range(2, 7)))
        await upstream.until_asked("gate", 5)
        async with plain_client(gateway.address) as new:
            told = await new.login("new")
            assert (told.max_in_flight, told.max_unacked_messages) == (2, 33)
            new.send(*(business(seq, "gate") for seq in range(2, 7)))
            await upstream.until_asked("gate", 7)
            assert len(session_of(gateway, "new").pending) == 2
        assert (started.max_in_flight, started.max_unacked_messages) == (128, 1024)
        assert len(session_of(gateway, "old").pending) == 5
        upstream.gate.set()


async def test_serial_requests_stay_serial() -> None:
    def routes(*more: str) -> str:
        rules = [*more, '{action="turn", service="hello", serial=true}',
                 '{action="*", service="hello"}']  # fmt: skip
        return f"route=[{','.join(rules)}]"

    async with (
        plain_upstream() as upstream,
        Gateway(config_of(upstream, routes())) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("ann")
        client.send(business(2, "turn", b"a"))
        await upstream.until_asked("turn")
        gateway.apply(config_of(upstream, routes('{action="x", service="zone"}')))
        client.send(business(3, "turn", b"b"), business(4, "echo"))
        await upstream.until_asked("echo")
        assert upstream.calls["turn"] == 1
        upstream.turns[b"a"].set()
        await upstream.until_asked("turn", 2)
        upstream.turns[b"b"].set()


async def test_who_has_to_prove_who_it_is(files: Path) -> None:
    proof = [*JWT, f"auth.key={files}/secret", "auth.min_refusal_time=0"]
    async with plain_upstream() as upstream, Gateway(config_of(upstream)) as gateway:
        async with plain_client(gateway.address) as known:
            await known.login("known")
            for _ in range(2):
                gateway.apply(config_of(upstream, *proof))
                with pytest.raises(ConnectionFailed, match="not authenticated"):
                    await Client(gateway.address, openid="ann").connect()
                async with Client(gateway.address, openid="ann", auth_token=made_token()):
                    pass
                gateway.apply(config_of(upstream))
                async with Client(gateway.address, openid="ann"):
                    pass
            known.send(business(2, "echo", b"x"))
            await known.receive()
        assert gateway.stats()["auth"]["keys"] == 1


async def test_waiting_requests_go_when_there_are_more_places() -> None:
    few = ["dispatch.max_workers=2", "dispatch.workers=1"]
    async with (
        plain_upstream() as upstream,
        Gateway(config_of(upstream, *few)) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("ann")
        client.send(*(business(seq, "gate") for seq in range(2, 8)))
        await until(lambda: gateway.stats()["dispatch"]["queued"] == 4)
        gateway.apply(config_of(upstream, "dispatch.max_workers=64"))
        await upstream.until_asked("gate", 6)
        upstream.gate.set()


async def test_endpoints_that_registered_themselves_stay() -> None:
    async with plain_upstream() as upstream, Gateway(config_of(upstream)) as gateway:
        registry = gateway.upstream.registry
        for service in ("chat", "gate"):
            config = config_of(upstream, f"upstream.services.{service}=[]")
            gateway.apply(config)
            assert registry.register(upstream.address, "", service, 0, 1, "127.0.0.1").success
        gateway.apply(config_of(upstream, "upstream.services.chat=[]"))
        assert {e.service for e in registry.endpoints if e.lease_id} == {"chat", "gate"}
        # Not for the service that says who a client is: it could let anybody in.
        gate = f'upstream.services.gate=[{{address="{upstream.address}"}}]'
        gateway.apply(config_of(upstream, gate, "auth.mode=upstream", "auth.service=gate"))
        assert {e.service for e in registry.endpoints if e.lease_id} == {"chat"}


def config_of(upstream: PlainUpstream, *sets: str) -> Config:
    services = [
        f'upstream.services.{name}=[{{address="{upstream.address}"}}]'
        for name in ("hello", "business", "zone")
    ]
    return load(sets=[*FREE_PORTS, *services, *sets])


def session_of(gateway: Gateway, openid: str) -> Session:
    (session,) = gateway.session_manager.index.by_openid[openid]
    return session


def made_token() -> str:
    claims = {"sub": "ann", "aud": "a", "iss": "i", "exp": int(time.time()) + 600}
    return jwt.encode(claims, b"s" * 32, "HS256")
