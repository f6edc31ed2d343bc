"""The push API in Python: over gRPC and inside the gateway it does and says the same."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr import Gateway, GatewayClient, Push, PushResult, Request, SessionInfo, UpstreamService
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.config import SessionConfig
from gatesvr.control.local import LocalPushApi
from gatesvr.errors import UpstreamError
from gatesvr.service.push_api import PushApi
from gatesvr.service.push_stream import MAX_BATCH, MAX_BATCH_BYTES

from ..fakes import until
from ..grpc_api.test_service import Rig, running, suspend, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DEADLINE_S = 30.0


@dataclasses.dataclass
class Both:
    """A rig, and one way to its push API."""

    rig: Rig
    api: PushApi


@asynccontextmanager
async def reached(way: str, config: SessionConfig | None = None) -> AsyncIterator[Both]:
    async with asyncio.timeout(DEADLINE_S), running(config=config) as rig:
        if way == "inside":
            yield Both(rig, LocalPushApi(rig.commands))
            return
        async with GatewayClient(rig.service.address, timeout=DEADLINE_S) as client:
            yield Both(rig, client)


@pytest.fixture(params=["grpc", "inside"])
def way(request: pytest.FixtureRequest) -> str:
    way: str = request.param
    return way


def test_a_gateway_does_itself_what_its_client_asks() -> None:
    methods = {name for name in vars(PushApi) if not name.startswith("_")}
    assert methods >= {"push", "push_many", "push_stream", "multicast", "broadcast", "kick"}
    for name in methods - {"push_stream"}:
        assert getattr(Gateway, name) is getattr(GatewayClient, name) is getattr(PushApi, name)


# Pushes.


async def test_push(way: str) -> None:
    async with reached(way) as both:
        session = both.rig.session("alice")
        for target in ({"target_id": "alice"}, {"target_id": session.session_id}):
            kind: Any = "openid" if target["target_id"] == "alice" else "session"
            result = await both.api.push(**target, target_type=kind, data=b"x", push_id="once")
            assert result == PushResult(True, sessions=1)
        assert texts(session) == ["x"]
        nobody = await both.api.push("bob")
        assert nobody == PushResult(False, 0, "NOT_FOUND", "no such session")
        wrong = await both.api.push("alice", target_type="user")  # type: ignore[arg-type]
        assert (wrong.success, wrong.error_code) == (False, "INVALID")


async def test_push_that_is_busy_says_when_to_try_again(way: str) -> None:
    async with reached(way, SessionConfig(max_queue_size=1)) as both:
        both.rig.session("alice")
        assert (await both.api.push("alice")).success
        busy = await both.api.push("alice")
        assert (busy.success, busy.error_code, busy.retry_after_ms) == (False, "BUSY", 200)


async def test_push_bound(way: str) -> None:
    async with reached(way) as both:
        session = both.rig.session("alice")
        seq = both.rig.request(session)
        message = pb.UpstreamRequest(session_id=session.session_id, client_seq_id=seq)
        request = Request(message, UpstreamService("test"))
        assert (await both.api.push_bound(request, before=False, data=b"after")).success
        assert (await both.api.push_bound(request, before=True, data=b"before")).success
        both.rig.answer(session, seq)
        assert texts(session) == ["before", "answer", "after"]
        late = await both.api.push_bound(request, before=True)
        assert (late.success, late.error_code) == (False, "TOO_LATE")


async def test_broadcast_and_multicast(way: str) -> None:
    async with reached(way) as both:
        alice, bob, carol = (both.rig.session(name) for name in ("alice", "bob", "carol"))
        suspend(both.rig, carol)
        assert await both.api.broadcast(data=b"all") == PushResult(True, 2)
        assert await both.api.broadcast(data=b"away too", suspended=True) == PushResult(True, 3)
        some = await both.api.multicast(["alice", "carol", "nobody", "alice"], data=b"some")
        assert some == PushResult(True, 1)
        ids = (bob.session_id, carol.session_id)
        named = await both.api.multicast(ids, target_type="session", data=b"ids", suspended=True)
        assert named == PushResult(True, 2)
        assert texts(alice) == ["all", "away too", "some"]
        assert texts(bob) == ["all", "away too", "ids"]
        assert await both.api.multicast([]) == PushResult(True, 0)


async def test_bulk_that_is_refused_says_why(way: str) -> None:
    async with reached(way) as both:
        result = await both.api.broadcast(data=bytes(1 << 20))
        assert (result.success, result.error_code) == (False, "TOO_LARGE")
        result = await both.api.multicast(["a"] * 10_001)
        assert result == PushResult(False, 0, "TOO_LARGE", "10001 targets, 10000 at most")
        result = await both.api.broadcast(msg_type="m" * 65)
        assert (result.success, result.error_code) == (False, "INVALID")


async def test_a_stream_keeps_the_order_and_answers_each(way: str) -> None:
    async with reached(way, SessionConfig(max_queue_size=10_000)) as both:
        alice, bob = both.rig.session("alice"), both.rig.session("bob")
        async with both.api.push_stream() as stream:
            results = await stream.push(
                Push("alice", data=b"0"), Push("nobody"), Push("bob", data=b"0")
            )
            assert [r.error_code for r in results] == ["", "NOT_FOUND", ""]
            assert await stream.push() == []
            rows = [
                stream.push(*(Push("alice", data=b"%d" % n) for n in range(start, start + 10)))
                for start in range(1, 101, 10)
            ]
            assert all(r.success for row in await asyncio.gather(*rows) for r in row)
        assert texts(alice) == [str(n) for n in range(101)]
        assert texts(bob) == ["0"]
        with pytest.raises(RuntimeError, match="closed"):
            await stream.push(Push("alice"))


async def test_many_pushes_are_cut_into_messages(way: str) -> None:
    config = SessionConfig(max_queue_size=10_000)
    async with reached(way, config) as both:
        session = both.rig.session("alice")
        count = 2 * MAX_BATCH + 1
        results = await both.api.push_many(Push("alice", data=b"%d" % n) for n in range(count))
        assert len(results) == count
        assert all(result.success for result in results)
        assert texts(session) == [str(n) for n in range(count)]
        large = [Push("alice", data=bytes(MAX_BATCH_BYTES // 3))] * 10
        session.ack(count, 0.0)
        assert all(result.success for result in await both.api.push_many(large))
        await until(lambda: both.rig.counters["streams"] == 0)


async def test_a_push_whose_caller_is_cancelled_leaves_the_stream_in_order(way: str) -> None:
    async with reached(way) as both:
        session = both.rig.session("alice")
        async with both.api.push_stream() as stream:
            given_up = asyncio.ensure_future(stream.push(Push("alice", data=b"1")))
            await asyncio.sleep(0)
            given_up.cancel()
            results = await stream.push(Push("nobody"), Push("alice", data=b"2"))
            assert [r.error_code for r in results] == ["NOT_FOUND", ""]
        assert texts(session) == ["1", "2"]


async def test_a_stream_whose_gateway_is_lost_says_so() -> None:
    async with reached("grpc") as both:
        both.rig.session("alice")
        async with both.api.push_stream() as stream:
            assert (await stream.push(Push("alice")))[0].success
            await both.rig.service.stop()
            for _ in range(2):
                with pytest.raises(UpstreamError, match="gateway: "):
                    await stream.push(Push("alice"))


async def test_a_stream_whose_gateway_does_not_answer_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(requests: object) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(DEADLINE_S), running() as rig:
        monkeypatch.setattr(rig.commands.pushes, "push_batch", never)
        async with (
            GatewayClient(rig.service.address, timeout=0.05) as client,
            client.push_stream() as stream,
        ):
            with pytest.raises(UpstreamError, match=r"no answer in 0\.05 s"):
                await stream.push(Push("alice"))
            with pytest.raises(UpstreamError, match="CANCELLED"):
                await stream.push(Push("alice"))
        await until(lambda: rig.counters["streams"] == 0)


async def test_a_stream_to_nobody_says_so() -> None:
    async with GatewayClient("127.0.0.1:9", timeout=DEADLINE_S) as client:
        with pytest.raises(UpstreamError, match="UNAVAILABLE"):
            await client.push_many([Push("alice")])


async def test_closing_the_client_ends_its_streams() -> None:
    async with reached("grpc") as both:
        assert isinstance(both.api, GatewayClient)
        both.rig.session("alice")
        stream = both.api.push_stream()
        assert (await stream.push(Push("alice")))[0].success
        await both.api.close()
        with pytest.raises(RuntimeError, match="closed"):
            await stream.push(Push("alice"))
        await until(lambda: both.rig.counters["streams"] == 0)


# Sessions.


async def test_kick(way: str) -> None:
    async with reached(way) as both:
        both.rig.session("alice")
        both.rig.session("alice", login=False)
        assert await both.api.kick("alice", reason="rude") == PushResult(True, 2)
        assert len(both.rig.manager) == 0
        gone = await both.api.kick("alice")
        assert (gone.success, gone.error_code) == (False, "NOT_FOUND")
        assert (await both.api.kick("alice", code=999)).error_code == "INVALID"


async def test_get_session(way: str) -> None:
    async with reached(way) as both:
        session = both.rig.session("alice", client_id="phone")
        info = await both.api.get_session("alice")
        assert isinstance(info, SessionInfo)
        assert (info.session_id, info.state, info.zone) == (session.session_id, "Normal", "001")
        assert info.queue_sums == session.queue.counters()
        by_id = await both.api.get_session(session.session_id, target_type="session")
        assert by_id is not None
        assert by_id.session_id == info.session_id
        assert await both.api.get_session("bob") is None
        both.rig.session("alice")
        with pytest.raises(UpstreamError, match=r"gateway: FAILED_PRECONDITION: AMBIGUOUS: 2 ses"):
            await both.api.get_session("alice")
        with pytest.raises(UpstreamError, match=r"gateway: INVALID_ARGUMENT: target_type:"):
            await both.api.get_session("alice", target_type="user")  # type: ignore[arg-type]


async def test_sessions_are_listed_page_by_page(way: str) -> None:
    async with reached(way) as both:
        made = [both.rig.session(f"user{n % 3}", login=n % 2 == 0) for n in range(10)]
        suspend(both.rig, made[4])
        ids = [session.session_id for session in made]

        async def listed(**filters: Any) -> list[int]:
            return [ids.index(i.session_id) async for i in both.api.sessions(**filters)]

        for page_size in (0, 1, 3, 5, 10, 11):
            assert await listed(page_size=page_size) == list(range(10))
            assert await listed(page_size=page_size, openid="user1") == [1, 4, 7]
            assert await listed(page_size=page_size, state="Inited") == [1, 3, 5, 7, 9]
            assert await listed(page_size=page_size, state="Suspended") == [4]
            assert await listed(page_size=page_size, zone="1") == [0, 2, 4, 6, 8]
        assert await listed(zone="002") == await listed(openid="nobody") == []
        assert await listed(openid="user1", state="Normal") == []
        for filters, named in (
            ({"state": "normal"}, "state:"),
            ({"state": "Closed"}, "state:"),
            ({"page_size": 1001}, "page_size:"),
        ):
            with pytest.raises(UpstreamError, match=f"gateway: INVALID_ARGUMENT: {named}"):
                await listed(**filters)


async def test_sessions_that_come_and_go_during_the_listing(way: str) -> None:
    async with reached(way) as both:
        made = [both.rig.session(f"user{n}") for n in range(6)]
        seen = []
        async for info in both.api.sessions(page_size=2):
            seen.append(info.openid)
            if len(seen) == 2:
                for session in made[1], made[2]:  # the last one seen, and one to come
                    both.rig.manager.kick(session, "", 0.0)
                both.rig.session("late")
        assert seen == ["user0", "user1", "user3", "user4", "user5", "late"]


async def test_page_token_is_the_gateways() -> None:
    async with running() as rig:
        for token in ("x", "-1", "1" * 20, "²"):
            with pytest.raises(Exception, match="page_token:"):
                await rig.stub.ListSessions(pb.ListSessionsRequest(page_token=token))
        assert rig.counters["invalid"] == 4


# Parameters.

BAD: list[tuple[str, Callable[[PushApi], Any]]] = [
    ("content must be str, not int", lambda api: api.push("alice", content=5)),
    ("title must be str, not bytes", lambda api: api.push("alice", title=b"t")),
    ("data must be bytes, not str", lambda api: api.push("alice", data="text")),
    ("target_id must be str, not int", lambda api: api.push(7)),
    ("metadata must be str, not int", lambda api: api.push("alice", metadata={"a": 1})),
    ("metadata must map str to str, not list", lambda api: api.push("a", metadata=["b"])),
    ("ttl must be a number of seconds, not str", lambda api: api.push("alice", ttl="1s")),
    ("content must be str, not NoneType", lambda api: api.broadcast(content=None)),
    ("msg_type must be str, not int", lambda api: api.multicast(["alice"], msg_type=1)),
    ("target_ids must be a collection of str, not str", lambda api: api.multicast("alice")),
    ("target_ids must be str, not int", lambda api: api.multicast([1])),
    ("reason must be str, not int", lambda api: api.kick("alice", reason=1)),
    ("code must be int, not str", lambda api: api.kick("alice", code="1000")),
    ("target_type must be str, not NoneType", lambda api: api.get_session("a", target_type=None)),
    ("content must be str, not int", lambda api: api.push_many([Push("alice", content=5)])),
    ("openid must be str, not int", lambda api: anext(api.sessions(openid=1))),
]
OUT_OF_RANGE: list[tuple[str, Callable[[PushApi], Any]]] = [
    ("ttl must be 0 to 4294967 seconds, not -1", lambda api: api.push("alice", ttl=-1)),
    ("ttl must be 0 to", lambda api: api.push("alice", ttl=float("nan"))),
    ("ttl must be 0 to", lambda api: api.broadcast(ttl=float("inf"))),
    ("code must be 0 to 4294967295, not -1", lambda api: api.kick("alice", code=-1)),
    ("content must be text that UTF-8 can encode", lambda api: api.push("a", content="\ud800")),
    ("page_size must be 0 to", lambda api: anext(api.sessions(page_size=2**32))),
]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [(TypeError, *case) for case in BAD] + [(ValueError, *case) for case in OUT_OF_RANGE],
)
async def test_a_bad_parameter_is_named(
    way: str, error: type[Exception], message: str, call: Callable[[PushApi], Any]
) -> None:
    async with reached(way) as both:
        session = both.rig.session("alice")
        with pytest.raises(error) as caught:
            await call(both.api)
        assert type(caught.value) is error
        assert str(caught.value).startswith(message)
        assert texts(session) == []


async def test_a_ttl_below_a_millisecond_is_not_for_ever(way: str) -> None:
    async with reached(way) as both:
        session = both.rig.session("alice")
        assert (await both.api.push("alice", ttl=0.0001, data=b"x")).success
        assert session.queue.next_expiry() < float("inf")
