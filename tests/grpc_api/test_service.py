"""The push API over real gRPC, in front of real sessions on a link that goes nowhere."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gatesvr._core.codec import RequestDecoder, encode_business, encode_request, push_body
from gatesvr._pb import message_pb2 as client_pb
from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb.upstream_pb2_grpc import GatewayServiceStub
from gatesvr.config import PushConfig, SessionConfig
from gatesvr.control.commands import Commands
from gatesvr.errors import ConfigError
from gatesvr.grpc_api.service import PushService
from gatesvr.grpc_api.servicer import caller_ip
from gatesvr.session.manager import SessionManager
from gatesvr.session.state import Verdict
from gatesvr.upstream.call import UpstreamCounters
from gatesvr.upstream.registry import UpstreamRegistry

from ..fakes import FakeLink, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gatesvr.session.session import Session


@dataclass
class Rig:
    """A push service that runs, and what is behind it."""

    service: PushService
    manager: SessionManager
    registry: UpstreamRegistry
    commands: Commands
    stub: GatewayServiceStub
    channel: grpc.aio.Channel
    upstream_counters: UpstreamCounters
    links: dict[str, FakeLink] = field(default_factory=dict)

    def session(
        self, openid: str, *, login: bool = True, protocol: int = 1, **start: Any
    ) -> Session:
        """Start a session, and log it in."""
        link = FakeLink()
        now = asyncio.get_running_loop().time()
        request = client_pb.StartRequest(openid=openid, protocol=protocol, **start)
        session = self.manager.start(request, link, now).session
        assert session is not None
        if login:
            assert self.manager.logged_in(session, "001", now).close_code is None
        self.links[session.session_id] = link
        return session

    def request(self, session: Session) -> int:
        """Have the session accept its next request; return its client seq."""
        seq = session.max_client_seq + 1
        frame = encode_request(100 + seq, seq, client_pb.REQUEST_BUSINESS, ECHO)
        (request,) = RequestDecoder(1 << 20).feed(frame)
        now = asyncio.get_running_loop().time()
        assert session.offer(request, "completion", now) is Verdict.NEXT
        return seq

    def answer(self, session: Session, seq: int) -> None:
        payload = client_pb.BusinessResponse(code=200).SerializeToString()
        body = push_body(client_pb.PUSH_BUSINESS_DATA, payload, None, seq)
        assert session.answer(seq, body, now=asyncio.get_running_loop().time())

    @property
    def counters(self) -> dict[str, int | float]:
        return self.commands.counters.snapshot()

    @property
    def session_counters(self) -> dict[str, int | float]:
        return self.manager.counters.snapshot()


ECHO = encode_business("echo", {}, b"")


@asynccontextmanager
async def running(
    push: PushConfig | None = None,
    config: SessionConfig | None = None,
    is_ready: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Rig]:
    push = push or PushConfig(bind="127.0.0.1:0")
    config = config or SessionConfig(on_duplicate="allow")
    manager = SessionManager(config, None, push)
    counted = UpstreamCounters()
    registry = UpstreamRegistry(
        {},
        push,
        ["chat"],
        counted,
        asyncio.get_running_loop().time,
        on_added=lambda endpoint: None,
        on_removed=lambda endpoint: None,
        is_down=lambda endpoint: False,
    )
    max_message_bytes = int(config.max_message_bytes)
    clock = asyncio.get_running_loop().time
    commands = Commands(manager, registry, max_message_bytes, push.max_broadcasts, clock)
    service = PushService(push, commands, max_message_bytes=max_message_bytes, is_ready=is_ready)
    await service.start()
    try:
        async with grpc.aio.insecure_channel(service.address) as channel:
            yield Rig(
                service, manager, registry, commands, GatewayServiceStub(channel), channel, counted
            )
    finally:
        await service.stop()


def pushes(session: Session) -> list[client_pb.ServerPush]:
    """Take what the session would send now."""
    data = session.queue.take(1 << 30)
    out = []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        out.append(client_pb.ServerPush.FromString(data[4:end]))
        data = data[end:]
    return out


def texts(session: Session) -> list[str]:
    """Take what the session would send now: the data of notifies, "answer" for answers."""
    return [
        "answer"
        if push.client_seq_id
        else client_pb.BusinessResponse.FromString(push.payload).data.decode()
        for push in pushes(session)
    ]


# Pushes.


async def test_push_to_a_session() -> None:
    async with running() as rig:
        session = rig.session("alice")
        response = await rig.stub.PushToClient(
            pb.UnicastPushRequest(
                target_type="session",
                target_id=session.session_id,
                msg_type="chat",
                title="Hello",
                content="you",
                metadata={"room": "7"},
            )
        )
        assert (response.success, response.sessions) == (True, 1)
        (push,) = pushes(session)
        assert (push.msg_id, push.seq_id, push.client_seq_id) == (0, 1, 0)
        assert dict(push.headers) == {
            "room": "7",
            "msg_type": "chat",
            "title": "Hello",
            "content": "you",
        }
        body = client_pb.BusinessResponse.FromString(push.payload)
        assert (body.code, body.message, body.data) == (200, "[chat] Hello", b"you")
        assert (rig.counters["pushes"], rig.session_counters["pushes_taken"]) == (1, 1)


async def test_push_to_every_session_of_an_openid() -> None:
    async with running() as rig:
        sessions = [rig.session("bob"), rig.session("bob"), rig.session("carol")]
        rig.session("bob", login=False)
        response = await rig.stub.PushToClient(
            pb.UnicastPushRequest(target_type="openid", target_id="bob", data=b"x")
        )
        assert (response.success, response.sessions) == (True, 2)
        assert [texts(session) for session in sessions] == [["x"], ["x"], []]


@pytest.mark.parametrize(("kind", "name"), [("session", "nobody"), ("openid", "nobody")])
async def test_push_to_nobody_is_not_found(kind: str, name: str) -> None:
    async with running() as rig:
        response = await rig.stub.PushToClient(
            pb.UnicastPushRequest(target_type=kind, target_id=name)
        )
        assert (response.success, response.error_code) == (False, "NOT_FOUND")
        assert rig.counters["not_found"] == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"target_type": ""}, "target_type"),
        ({"target_type": "user"}, "target_type"),
        ({"target_id": ""}, "target_id"),
        ({"target_id": "x" * 129}, "target_id"),
        ({"target_id": "a\nb"}, "target_id"),
        ({"msg_type": "m" * 65}, "msg_type"),
        ({"msg_type": "m\0"}, "msg_type"),
        ({"metadata": {str(i): "" for i in range(33)}}, "metadata"),
        ({"metadata": {"k": "v" * 8192}}, "metadata"),
        ({"push_id": "p" * 129}, "push_id"),
        ({"bind_session_id": "s"}, "bind_session_id"),
        ({"conflate_key": "k" * 129}, "conflate_key"),
        ({"conflate_key": "k", "sync_hint": pb.NSH_AFTER_RESPONSE}, "conflate_key"),
    ],
)
async def test_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    async with running() as rig:
        session = rig.session("alice")
        request = {"target_type": "session", "target_id": session.session_id, **fields}
        response = await rig.stub.PushToClient(pb.UnicastPushRequest(**request))
        assert (response.success, response.error_code) == (False, "INVALID")
        assert response.message.startswith(f"{named}:")
        assert rig.counters["invalid"] == 1
        assert pushes(session) == []


async def test_too_large_for_the_client() -> None:
    async with running() as rig:
        session = rig.session("alice", max_message_bytes=2048)
        request = pb.UnicastPushRequest(
            target_type="session", target_id=session.session_id, data=bytes(4096)
        )
        response = await rig.stub.PushToClient(request)
        assert response.error_code == "TOO_LARGE"
        assert rig.session_counters["pushes_too_large"] == 1


async def test_full_queue_is_busy_with_a_hint() -> None:
    config = SessionConfig(max_queue_size=4, on_duplicate="allow")
    async with running(config=config) as rig:
        session = rig.session("alice")
        request = pb.UnicastPushRequest(target_type="session", target_id=session.session_id)
        answers = [await rig.stub.PushToClient(request) for _ in range(5)]
        assert [answer.success for answer in answers] == [True] * 4 + [False]
        assert answers[4].error_code == "BUSY"
        assert answers[4].retry_after_ms > 0
        assert rig.session_counters["pushes_busy"] == 1


async def test_repeated_push_id_is_queued_once() -> None:
    async with running() as rig:
        session = rig.session("alice")
        request = pb.UnicastPushRequest(
            target_type="session", target_id=session.session_id, push_id="p1", data=b"once"
        )
        assert (await rig.stub.PushToClient(request)).success
        assert (await rig.stub.PushToClient(request)).success
        assert texts(session) == ["once"]


async def test_newest_of_a_conflate_key_replaces_what_was_not_sent() -> None:
    async with running() as rig:
        session = rig.session("alice")
        for text, key in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("plain", "")):
            request = pb.UnicastPushRequest(
                target_type="session",
                target_id=session.session_id,
                conflate_key=key,
                data=text.encode(),
            )
            assert (await rig.stub.PushToClient(request)).success
        assert texts(session) == ["b1", "a2", "plain"]


async def test_push_expires() -> None:
    async with running() as rig:
        session = rig.session("alice")
        request = pb.UnicastPushRequest(
            target_type="session", target_id=session.session_id, ttl_ms=500
        )
        assert (await rig.stub.PushToClient(request)).success
        assert session.queue.next_expiry() - asyncio.get_running_loop().time() <= 0.5
        rig.manager.sweep(asyncio.get_running_loop().time() + 1)
        assert len(session.queue) == 0


# Bound notifies.


def bound(session: Session, seq: int, data: str, hint: int) -> pb.UnicastPushRequest:
    return pb.UnicastPushRequest(
        target_type="session",
        target_id=session.session_id,
        data=data.encode(),
        bind_client_seq_id=seq,
        sync_hint=hint,  # type: ignore[arg-type]
    )


async def test_bound_notifies_go_around_the_answer() -> None:
    async with running() as rig:
        session = rig.session("alice")
        seq = rig.request(session)
        for data, hint in [
            ("b1", pb.NSH_BEFORE_RESPONSE),
            ("a1", pb.NSH_AFTER_RESPONSE),
            ("b2", pb.NSH_BEFORE_RESPONSE),
        ]:
            assert (await rig.stub.PushToClient(bound(session, seq, data, hint))).success
        now = pb.UnicastPushRequest(
            target_type="session",
            target_id=session.session_id,
            data=b"now",
            bind_client_seq_id=seq,
        )
        assert (await rig.stub.PushToClient(now)).success
        assert texts(session) == ["now"]
        rig.answer(session, seq)
        assert texts(session) == ["b1", "b2", "answer", "a1"]


async def test_binding_to_an_answered_request() -> None:
    async with running() as rig:
        session = rig.session("alice")
        seq = rig.request(session)
        rig.answer(session, seq)
        before = await rig.stub.PushToClient(bound(session, seq, "b", pb.NSH_BEFORE_RESPONSE))
        after = await rig.stub.PushToClient(bound(session, seq, "a", pb.NSH_AFTER_RESPONSE))
        assert (before.success, before.error_code) == (False, "TOO_LATE")
        assert after.success
        assert texts(session) == ["answer", "a"]
        assert rig.session_counters["pushes_too_late"] == 1


@pytest.mark.parametrize("seq", [0, 2, 2**53])
async def test_binding_to_no_request(seq: int) -> None:
    async with running() as rig:
        session = rig.session("alice")
        rig.request(session)
        response = await rig.stub.PushToClient(bound(session, seq, "a", pb.NSH_AFTER_RESPONSE))
        assert (response.success, response.error_code) == (False, "NO_SUCH_REQUEST")
        assert rig.session_counters["pushes_unasked"] == 1


async def test_binding_by_openid_needs_one_session() -> None:
    async with running() as rig:
        first, second = rig.session("bob"), rig.session("bob")
        seq = rig.request(second)
        request = pb.UnicastPushRequest(
            target_type="openid",
            target_id="bob",
            data=b"b",
            bind_client_seq_id=seq,
            sync_hint=pb.NSH_BEFORE_RESPONSE,
        )
        assert (await rig.stub.PushToClient(request)).error_code == "AMBIGUOUS"
        request.bind_session_id = second.session_id
        assert (await rig.stub.PushToClient(request)).success
        rig.answer(second, seq)
        assert (texts(first), texts(second)) == ([], ["b", "answer"])
        request.bind_session_id = "elsewhere"
        assert (await rig.stub.PushToClient(request)).error_code == "NOT_FOUND"


async def test_bound_notifies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.session.outbox.MAX_BOUND_NOTIFIES", 2)
    config = SessionConfig(on_duplicate="allow")
    push = PushConfig(bind="127.0.0.1:0")
    async with running(push, config) as rig:
        session = rig.session("alice")
        seq = rig.request(session)
        requests = [bound(session, seq, "x", pb.NSH_AFTER_RESPONSE)] * 3
        answers = [await rig.stub.PushToClient(request) for request in requests]
        assert [answer.error_code for answer in answers] == ["", "", "BUSY"]


# Many at once.


async def test_a_batch_of_too_many_is_refused_whole() -> None:
    """Unbounded, 2.8 MB of empty pushes took 1 GB of memory and lost every answer."""
    async with running() as rig:
        session = rig.session("alice")
        push = pb.UnicastPushRequest(target_type="session", target_id=session.session_id)

        def batches() -> Iterator[pb.UnicastPushBatch]:
            yield pb.UnicastPushBatch(requests=[push])
            yield pb.UnicastPushBatch(requests=[push] * 10_001)

        stream = rig.stub.PushStream(batches())
        assert [response.success for response in (await stream.read()).responses] == [True]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "10001 pushes, 10000 at most a message"
        assert len(texts(session)) == 1
        assert (rig.counters["too_large"], rig.counters["internal_errors"]) == (1, 0)
        await until(lambda: rig.counters["streams"] == 0)


async def test_stream_answers_batch_for_batch_and_keeps_order() -> None:
    async with running() as rig:
        session = rig.session("alice")

        def batches() -> Iterator[pb.UnicastPushBatch]:
            for start in range(0, 600, 300):
                yield pb.UnicastPushBatch(
                    requests=[
                        pb.UnicastPushRequest(
                            target_type="session",
                            target_id=session.session_id if i % 2 else "nobody",
                            data=str(i).encode(),
                        )
                        for i in range(start, start + 300)
                    ]
                )

        answers = [batch async for batch in rig.stub.PushStream(batches())]
        assert [len(batch.responses) for batch in answers] == [300, 300]
        results = [response.success for batch in answers for response in batch.responses]
        assert results == [bool(i % 2) for i in range(600)]
        assert texts(session) == [str(i) for i in range(1, 600, 2)]
        assert (rig.counters["streams"], rig.counters["calls"]) == (0, 1)


async def test_broadcast_reaches_all_that_are_logged_in() -> None:
    async with running() as rig:
        sessions = [rig.session(f"u{i}") for i in range(5)]
        inited = rig.session("new", login=False)
        response = await rig.stub.BroadcastToClients(pb.BroadcastRequest(data=b"all"))
        assert response.sent_count == 5
        assert [texts(session) for session in sessions] == [["all"]] * 5
        assert pushes(inited) == []
        assert (rig.counters["broadcasts"], rig.session_counters["pushes_taken"]) == (1, 5)


async def test_broadcast_takes_a_quarter_of_a_queue() -> None:
    config = SessionConfig(max_queue_size=16, on_duplicate="allow")
    async with running(config=config) as rig:
        session = rig.session("alice")
        counts = [
            (await rig.stub.BroadcastToClients(pb.BroadcastRequest())).sent_count for _ in range(6)
        ]
        assert counts == [1, 1, 1, 1, 0, 0]
        assert len(session.queue) == 4


async def test_suspended_sessions_get_what_is_meant_for_them() -> None:
    async with running() as rig:
        session = rig.session("alice")
        suspend(rig, session)
        broadcast, multicast = rig.stub.BroadcastToClients, rig.stub.MulticastToClients
        target = pb.UnicastTarget(target_type="openid", target_id="alice")
        for suspended in (False, True):
            push = pb.BroadcastRequest(suspended=suspended)
            assert (await broadcast(push)).sent_count == int(suspended)
            many = pb.MulticastRequest(targets=[target], push=push)
            assert (await multicast(many)).sent_count == int(suspended)


def suspend(rig: Rig, session: Session) -> None:
    from gatesvr.protocol.link import Disconnect

    link = rig.links[session.session_id]
    rig.manager.detach(session, link, Disconnect("idle"), asyncio.get_running_loop().time())


async def test_multicast_counts_a_session_once() -> None:
    async with running() as rig:
        alice, bob = rig.session("alice"), rig.session("bob")
        rig.session("carol")
        targets = [
            pb.UnicastTarget(target_type="openid", target_id="alice"),
            pb.UnicastTarget(target_type="session", target_id=alice.session_id),
            pb.UnicastTarget(target_type="session", target_id=bob.session_id),
            pb.UnicastTarget(target_type="openid", target_id="nobody"),
        ]
        response = await rig.stub.MulticastToClients(
            pb.MulticastRequest(targets=targets, push=pb.BroadcastRequest(data=b"m"))
        )
        assert response.sent_count == 2
        assert (texts(alice), texts(bob)) == (["m"], ["m"])


async def test_bad_bulk_pushes_say_why() -> None:
    config = SessionConfig(max_message_bytes=1024, max_login_bytes=1024, on_duplicate="allow")
    async with running(config=config) as rig:
        rig.session("alice")
        large = await rig.stub.BroadcastToClients(pb.BroadcastRequest(data=bytes(2048)))
        assert large.sent_count == 0
        assert large.message
        # What is refused is told, also where the head of the push decides.
        for size in range(960, 1024):
            sent = await rig.stub.BroadcastToClients(pb.BroadcastRequest(data=bytes(size)))
            assert bool(sent.sent_count) != bool(sent.message), size
        too_large = rig.counters["too_large"]
        bad = await rig.stub.MulticastToClients(
            pb.MulticastRequest(targets=[pb.UnicastTarget(target_type="all", target_id="x")])
        )
        assert bad.message.startswith("target_type:")
        assert (rig.counters["too_large"], rig.counters["invalid"]) == (too_large, 1)
        target = pb.UnicastTarget(target_type="openid", target_id="alice")
        many = await rig.stub.MulticastToClients(pb.MulticastRequest(targets=[target] * 10_001))
        assert (many.sent_count, many.message) == (0, "10001 targets, 10000 at most")
        assert rig.counters["too_large"] == too_large + 1


# Sessions.


async def test_kick_tells_the_client_and_closes() -> None:
    async with running() as rig:
        session = rig.session("alice")
        request = pb.KickRequest(target_type="openid", target_id="alice", reason="rude", code=1001)
        response = await rig.stub.KickClient(request)
        assert (response.success, response.sessions) == (True, 1)
        closed = rig.links[session.session_id].closed
        assert closed is not None
        code, _, last = closed
        assert code == 4410
        kick = client_pb.Kick.FromString(client_pb.ServerPush.FromString(last[4:]).payload)
        assert (kick.code, kick.reason) == (1001, "rude")
        assert len(rig.manager) == 0
        assert (await rig.stub.KickClient(request)).error_code == "NOT_FOUND"
        assert (rig.counters["kicks"], rig.session_counters["kicked"]) == (2, 1)


@pytest.mark.parametrize("fields", [{"code": 999}, {"reason": "r" * 65}, {"target_type": "x"}])
async def test_bad_kick_is_refused(fields: dict[str, Any]) -> None:
    async with running() as rig:
        rig.session("alice")
        request = {"target_type": "openid", "target_id": "alice", "code": 1000, **fields}
        assert (await rig.stub.KickClient(pb.KickRequest(**request))).error_code == "INVALID"
        assert len(rig.manager) == 1


async def test_a_kick_reaches_those_that_have_not_logged_in_and_a_push_does_not() -> None:
    async with running() as rig:
        session = rig.session("alice", login=False)
        target = {"target_type": "openid", "target_id": "alice"}
        push = pb.UnicastPushRequest(**target)
        assert (await rig.stub.PushToClient(push)).error_code == "NOT_FOUND"
        bound = pb.UnicastPushRequest(
            **target, sync_hint=pb.NSH_AFTER_RESPONSE, bind_session_id=session.session_id
        )
        assert (await rig.stub.PushToClient(bound)).error_code == "NOT_FOUND"
        assert not (await rig.stub.GetSession(pb.GetSessionRequest(**target))).found
        named = pb.UnicastTarget(target_type="session", target_id=session.session_id)
        bulk = pb.MulticastRequest(targets=[pb.UnicastTarget(**target), named])
        assert (await rig.stub.MulticastToClients(bulk)).sent_count == 0
        assert (await rig.stub.BroadcastToClients(pb.BroadcastRequest())).sent_count == 0
        response = await rig.stub.KickClient(pb.KickRequest(**target))
        assert (response.success, response.sessions) == (True, 1)
        assert len(rig.manager) == 0


async def test_a_kick_of_very_many_lets_others_have_their_turn() -> None:
    config = SessionConfig(max_inited_per_address=1_000, max_start_rate_per_openid=0)
    async with running(config=config) as rig:
        for _ in range(600):
            rig.session("alice", login=False)
        response = await rig.stub.KickClient(
            pb.KickRequest(target_type="openid", target_id="alice")
        )
        assert (response.success, response.sessions) == (True, 600)
        assert len(rig.manager) == 0


async def test_session_is_shown() -> None:
    async with running() as rig:
        session = rig.session("alice", client_id="phone")
        rig.request(session)
        push = pb.UnicastPushRequest(target_type="session", target_id=session.session_id)
        await rig.stub.PushToClient(push)
        get = pb.GetSessionRequest(target_type="openid", target_id="alice")
        info = await rig.stub.GetSession(get)
        assert (info.found, info.session_id) == (True, session.session_id)
        assert (info.openid, info.client_id, info.zone) == ("alice", "phone", "001")
        assert (info.in_flight, info.max_client_seq, info.queued_messages) == (1, 1, 1)
        assert info.state == "Normal"
        pushes(session)
        session.ack(1, 0.0)
        assert (await rig.stub.GetSession(get)).last_acked_seq == 1


async def test_an_ipv6_client_is_shown_in_brackets() -> None:
    async with running() as rig:
        session = rig.session("alice")
        rig.links[session.session_id].peer = ("2001:db8::1", 4000)
        get = pb.GetSessionRequest(target_type="openid", target_id="alice")
        assert (await rig.stub.GetSession(get)).connection == "[2001:db8::1]:4000"


async def test_session_that_is_not_there_or_not_one() -> None:
    async with running() as rig:
        get = rig.stub.GetSession
        nobody = await get(pb.GetSessionRequest(target_type="session", target_id="nobody"))
        assert not nobody.found
        rig.session("bob")
        rig.session("bob")
        with pytest.raises(grpc.aio.AioRpcError, match="AMBIGUOUS"):
            await get(pb.GetSessionRequest(target_type="openid", target_id="bob"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get(pb.GetSessionRequest(target_type="user", target_id="bob"))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


# Upstreams.


async def test_register_keep_alive_deregister() -> None:
    async with running() as rig:
        request = pb.UpstreamRegisterRequest(address=":9", service_name="chat", lease_seconds=9)
        response = await rig.stub.RegisterUpstream(request)
        assert response.success, response.message
        assert [e.address for e in rig.registry.endpoints] == ["127.0.0.1:9"]
        lease = pb.LeaseRequest(lease_id=response.lease_id)
        assert (await rig.stub.KeepUpstreamAlive(lease)).success
        assert (await rig.stub.DeregisterUpstream(lease)).success
        assert rig.registry.endpoints == []
        gone = await rig.stub.KeepUpstreamAlive(lease)
        assert (gone.success, gone.error_code) == (False, "NOT_FOUND")
        refused = await rig.stub.RegisterUpstream(
            pb.UpstreamRegisterRequest(address="192.0.2.9:9", service_name="chat")
        )
        assert (refused.success, refused.error_code) == (False, "INVALID")
        counters = rig.upstream_counters
        assert (counters.registered, counters.register_refused) == (1, 1)
        assert (counters.leases_kept, counters.leases_unknown) == (1, 1)
        assert counters.deregistered == 1


# The server.


async def test_fault_of_ours_is_internal_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running() as rig:

        def broken(*args: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(rig.manager, "find", broken)
        request = pb.UnicastPushRequest(target_type="openid", target_id="alice")
        calls: list[Callable[[], Any]] = [
            lambda: rig.stub.PushToClient(request),
            lambda: rig.stub.PushStream(iter([pb.UnicastPushBatch(requests=[request])])).read(),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call()
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert "secret" not in str(caught.value.details())
        assert rig.counters["internal_errors"] == 2


async def test_large_messages_pass_grpc() -> None:
    async with running() as rig:
        session = rig.session("alice", max_message_bytes=1 << 20)
        data = bytes((1 << 20) - 1024)
        response = await rig.stub.PushToClient(
            pb.UnicastPushRequest(target_type="session", target_id=session.session_id, data=data)
        )
        assert response.success, response.message


async def test_busy_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"push\.bind: {bind}: .*in use"):
            async with running(PushConfig(bind=bind)):
                pass


async def test_port_of_another_push_service_is_busy() -> None:
    async with running() as rig:
        with pytest.raises(ConfigError, match="in use"):
            async with running(PushConfig(bind=rig.service.address)):
                pass


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", ":0"])
async def test_other_addresses_than_loopback_need_a_word(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"push\.insecure"):
        async with running(PushConfig(bind=bind)):
            pass


async def test_other_addresses_with_that_word() -> None:
    async with running(PushConfig(bind="0.0.0.0:0", insecure=True)) as rig:
        assert rig.service.address.startswith("0.0.0.0:")


async def test_unknown_host_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"push\.bind: nowhere\.invalid:0"):
        async with running(PushConfig(bind="nowhere.invalid:0")):
            pass


async def test_start_twice_raises_and_stop_is_idempotent() -> None:
    async with running() as rig:
        with pytest.raises(RuntimeError, match="already"):
            await rig.service.start()
        await rig.service.stop()
        await rig.service.stop()
        assert rig.service.address == ""
        await rig.service.start()


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:[::1]:5000", "::1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::1"),
        ("ipv6:[::ffff:10.0.0.1]:5000", "10.0.0.1"),
        ("unix:/run/gate.sock", ""),
        ("ipv4:nonsense", ""),
        ("", ""),
    ],
)
def test_caller_ip(peer: str, ip: str) -> None:
    assert caller_ip(peer) == ip
