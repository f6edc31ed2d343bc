"""Calls of a method of a service's own, over the lanes of its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gatesvr._pb import auth_pb2
from gatesvr.config import PushConfig
from gatesvr.errors import ErrorCode, UpstreamError
from gatesvr.upstream.breaker import BURST_S
from gatesvr.upstream.manager import UpstreamManager
from gatesvr.upstream.pool import default_zone

from ..auth.servers import auth_server
from ..fakes import until
from .servers import DEADLINE_S, Streaming, UnaryOnly, ask, endpoints, parse, serving, settings

pytestmark = pytest.mark.usefixtures("lane_kind")

METHOD = "/gatesvr.proto.AuthService/Authenticate"
NO = auth_pb2.AuthenticateResponse(reason="never heard of").SerializeToString()


@asynccontextmanager
async def managing(
    *addresses: str, auth_service: str = "auth", **changes: int
) -> AsyncIterator[UpstreamManager]:
    manager = UpstreamManager(
        settings(services={"auth": endpoints(*addresses)}, **changes),
        1 << 20,
        push=PushConfig(register="add"),
        auth_service=auth_service,
    )
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop(1.0)


async def test_method_is_called_beside_the_stream() -> None:
    # The lane's stream is up, and takes no call of another method.
    async with auth_server(also=Streaming("s")) as auth, managing(auth.address) as manager:
        await until(lambda: [e.state for e in manager.endpoints()] == ["stream"])
        reply, answer = await asyncio.gather(
            manager.ask("auth", METHOD, b"", DEADLINE_S), ask(manager, service="auth")
        )
        assert reply == NO
        assert parse(answer).message == "s"
        assert (manager.counters.unary_calls, manager.counters.batched_requests) == (1, 1)
        assert manager.counters.answers == manager.counters.calls == 2


async def test_method_does_not_wait_behind_a_stream_that_is_full() -> None:
    upstream = Streaming("s")
    async with auth_server(also=upstream) as auth, managing(auth.address, max_open=1) as manager:
        await until(lambda: [e.state for e in manager.endpoints()] == ["stream"])
        calls = [ask(manager, "auth", action="gate") for _ in range(3)]
        await until(lambda: upstream.requests)
        assert await manager.ask("auth", METHOD, b"", DEADLINE_S) == NO
        upstream.gate.set()
        await asyncio.gather(*calls)


async def test_method_is_called_while_the_lane_connects_and_without_a_stream() -> None:
    async with auth_server() as auth, managing(auth.address) as manager:
        assert await manager.ask("auth", METHOD, b"", DEADLINE_S) == NO
        assert [e.state for e in manager.endpoints()] == ["unary"]
        assert await manager.ask("auth", METHOD, b"", DEADLINE_S) == NO


@pytest.mark.parametrize(
    ("service", "method", "token", "code", "counter"),
    [
        ("auth", METHOD, b"\x0a\x05abort", ErrorCode.FORBIDDEN, "failed_calls"),
        ("auth", METHOD, b"\x0a\x04slow", ErrorCode.DEADLINE, "unanswered"),
        ("auth", METHOD + "s", b"", ErrorCode.UNKNOWN_TYPE, "failed_calls"),
        ("others", METHOD, b"", ErrorCode.NO_ROUTE, "no_service"),
    ],
)
async def test_failures(
    service: str, method: str, token: bytes, code: ErrorCode, counter: str
) -> None:
    async with auth_server() as auth, managing(auth.address) as manager:
        await until(lambda: manager.counters.lanes_up == 1)
        with pytest.raises(UpstreamError) as caught:
            await manager.ask(service, method, token, 0.2 if token.endswith(b"slow") else 20.0)
        assert caught.value.code is code
        assert getattr(manager.counters, counter) == 1


async def test_clients_that_claim_many_openids_do_not_eject_the_only_endpoint() -> None:
    async with auth_server() as auth, managing(auth.address) as manager:
        for number in range(8):
            with pytest.raises(UpstreamError) as caught:
                # The service's handler raises.
                await manager.ask("auth", METHOD, b"\x0a\x07until:x", 20.0, f"user{number}")
            assert caught.value.status == "UNKNOWN"
            await asyncio.sleep(2 * BURST_S)
        assert await manager.ask("auth", METHOD, b"", 20.0) == NO
        assert manager.counters.ejections == 0


GIVEN_UP = {"direct": "cancelled_calls", "grpcio": "late_answers"}
"""What counts a call whose answer nobody waits for: grpcio leaks where calls are cancelled."""


async def test_late_answer_is_dropped_and_counted(lane_kind: str) -> None:
    async with auth_server() as auth, managing(auth.address) as manager:
        await until(lambda: manager.counters.lanes_up == 1)
        with pytest.raises(UpstreamError, match="no answer in time"):
            await manager.ask("auth", METHOD, b"\x0a\x04slow", 0.5)
        assert manager.counters.unanswered == 1
        auth.gate.set()
        if lane_kind == "grpcio":
            await until(lambda: manager.counters.late_answers == 1)
        # The server knows the deadline, too: its own end may come before our reset.
        await until(lambda: manager.counters.open == 0)


async def test_one_who_stops_waiting_leaves_nothing(lane_kind: str) -> None:
    async with auth_server() as auth, managing(auth.address) as manager:
        asking = asyncio.create_task(manager.ask("auth", METHOD, b"\x0a\x04slow", DEADLINE_S))
        await until(lambda: auth.requests)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        auth.gate.set()
        await until(lambda: getattr(manager.counters, GIVEN_UP[lane_kind]) == 1)
        assert manager.counters.open == 0


async def test_a_dead_endpoint_is_passed_over() -> None:
    async with auth_server() as auth, managing("127.0.0.1:1", auth.address) as manager:
        await until(lambda: manager.counters.downs == manager.counters.lanes_up == 1)
        for _ in range(4):
            assert await manager.ask("auth", METHOD, b"", DEADLINE_S) == NO


async def test_nobody_registers_for_the_service_that_authenticates() -> None:
    """Whoever reaches the push port could let anybody in; a zone's jack of all trades, too."""
    openid = next(name for name in map(str, range(100)) if default_zone(name) == "001")
    async with serving(UnaryOnly("evil")) as evil, managing("127.0.0.1:1") as manager:
        register = manager.registry.register
        for zone in ("", "001"):
            refused = register(evil, zone, "auth", 0, 1, "127.0.0.1")
            assert not refused.success
            assert "never registered" in refused.message
        assert register(evil, "001", "upstream-zone-001", 0, 1, "127.0.0.1").success
        await until(lambda: manager.counters.lanes_up == manager.counters.downs == 1)
        assert parse(await ask(manager, service="other", openid=openid)).message == "evil"
        with pytest.raises(UpstreamError) as caught:
            await manager.ask("auth", METHOD, b"", DEADLINE_S, openid)
        assert caught.value.status == "unreachable"


async def test_otherwise_it_is_a_service_like_any_other() -> None:
    async with serving(Streaming("second")) as second, managing(auth_service="") as manager:
        assert manager.registry.register(second, "", "auth", 0, 1, "127.0.0.1").success
        assert parse(await ask(manager, service="auth")).message == "second"
