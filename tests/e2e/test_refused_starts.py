"""A START that is refused says why, and touches nobody's session (PROTOCOL 4)."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up

from ..fakes import until
from .harness import Pusher, counter, pusher, running_gateway
from .plain_client import PlainClient, ack, answer, business, heartbeat, plain_client
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatesvr import Gateway

BURST = 5
REFILL_RATE = 0.01


@pytest.fixture
def slow_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """No try is given back while a test makes too many."""
    monkeypatch.setattr("gatesvr.session.resume.RESUME_RATE", REFILL_RATE)


class Scene:
    """A gateway with alice logged in on it, and as many strangers as a test likes."""

    def __init__(
        self,
        stack: AsyncExitStack,
        gateway: Gateway,
        push: Pusher,
        alice: PlainClient,
        started: pb.StartResponse,
    ) -> None:
        self.stack = stack
        self.gateway = gateway
        self.push = push
        self.alice = alice
        self.started = started
        self._asked = 1
        self._seq = 1

    async def connect(self) -> PlainClient:
        return await self.stack.enter_async_context(plain_client(self.gateway.address))

    async def refused(
        self, before: pb.StartResponse, last_acked: int = 1, attempt: int = 1, **fields: object
    ) -> tuple[pb.StartResponse, int]:
        """Resume on a connection of its own; return the answer and the close code."""
        client = await self.connect()
        response = await client.resume(before, last_acked, attempt, **fields)
        assert not response.success
        assert response.error.outcome == pb.OUTCOME_NOT_STARTED
        assert not response.session_id
        assert not response.resume_token
        return response, await client.closed()

    async def alice_is_served(self) -> None:
        """Alice's connection has her session as before: she is answered, and pushed to."""
        assert self.alice.terminated is None
        self._asked += 1
        self.alice.send(business(self._asked, "echo", b"%d" % self._asked))
        push = await self.alice.receive()
        assert answer(push).data == b"%d" % self._asked
        await self.push.push_all(self.started.session_id, b"for alice")
        notify = await self.alice.receive()
        assert answer(notify).data == b"for alice"
        assert (push.seq_id, notify.seq_id) == (self._seq + 1, self._seq + 2)
        self._seq += 2
        self.alice.send(ack(self._seq))
        info = await self.push.info(self.started.session_id)
        assert (info.state, info.generation) == ("Normal", self.started.generation)

    def counted(self, **counts: int) -> None:
        """Check the session layer's counters of refusals: those named, and no other."""
        names = ("denied", "stale", "limited", "tombstoned", "unknown", "ahead")
        found = {name: counter(self.gateway, f"session.resumes_{name}") for name in names}
        assert found == {**dict.fromkeys(names, 0), **counts}


@asynccontextmanager
async def scene(backend: str, *sets: str) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(plain_upstream())
        gateway = await stack.enter_async_context(running_gateway(backend, upstream.address, *sets))
        push = await stack.enter_async_context(pusher(gateway))
        alice = await stack.enter_async_context(plain_client(gateway.address))
        started = await alice.login("alice")
        alice.send(ack(1))
        yield Scene(stack, gateway, push, alice, started)


@pytest.mark.parametrize("what", ["wrong", "none", "another session's"])
async def test_wrong_token_is_denied(backend: str, what: str) -> None:
    async with scene(backend) as s:
        bob = await s.connect()
        theirs = await bob.login("bob")
        token = {"wrong": bytes(16), "none": b"", "another session's": theirs.resume_token}[what]
        response, code = await s.refused(s.started, resume_token=token)
        assert (response.error.error_code, response.lost_reason, code) == (
            403,
            pb.LOST_DENIED,
            4403,
        )
        s.counted(denied=1)
        assert counter(s.gateway, "session.refused_starts") == 1
        await s.alice_is_served()


async def test_another_openid_is_denied_and_an_empty_one_is_none(backend: str) -> None:
    async with scene(backend) as s:
        response, code = await s.refused(s.started, openid="bob")
        assert (response.error.error_code, response.lost_reason, code) == (
            403,
            pb.LOST_DENIED,
            4403,
        )
        s.counted(denied=1)
        await s.alice_is_served()
        client = await s.connect()
        again = await client.resume(s.started, 3, openid="alice")
        assert again.resumed


@pytest.mark.usefixtures("slow_refill")
async def test_wrong_tokens_are_limited_by_address_and_never_by_session(backend: str) -> None:
    async with scene(backend) as s:
        answers = [await s.refused(s.started, resume_token=bytes(16)) for _ in range(BURST + 1)]
        codes = [(response.error.error_code, code) for response, code in answers]
        assert codes[:BURST] == [(403, 4403)] * BURST
        assert codes[BURST] == (429, 4429)
        assert 0 < answers[BURST][0].error.retry_after_ms <= 1000 / REFILL_RATE
        s.counted(denied=BURST, limited=1)
        await s.alice_is_served()
        # From the same address, the one who has the token is let in.
        client = await s.connect()
        assert (await client.resume(s.started, 3)).resumed


@pytest.mark.usefixtures("slow_refill")
async def test_too_many_resumes_are_429_and_leave_the_session_where_it_is(backend: str) -> None:
    async with scene(backend) as s:
        before = s.started
        for attempt in range(1, BURST + 1):
            client = await s.connect()
            response = await client.resume(before, 1, attempt)
            assert response.resumed
        response_429, code = await s.refused(before, 1, BURST + 1)
        assert (response_429.error.error_code, code) == (429, 4429)
        assert response_429.lost_reason == pb.LOST_NONE
        assert 0 < response_429.error.retry_after_ms <= 1000 / REFILL_RATE
        s.counted(limited=1)
        s.alice, s.started = client, response
        await s.alice_is_served()


async def test_stale_attempt_is_409_with_the_highest_seen(backend: str) -> None:
    async with scene(backend) as s:
        client = await s.connect()
        response = await client.resume(s.started, 1, 3)
        assert response.resumed
        assert await s.alice.closed() == 4409
        for attempt in (1, 3):
            stale, code = await s.refused(s.started, 1, attempt)
            assert (stale.error.error_code, stale.attempt, code) == (409, 3, 4409)
            assert stale.lost_reason == pb.LOST_NONE
        s.counted(stale=2)
        s.alice, before, s.started = client, s.started, response
        await s.alice_is_served()
        # Her frames were read on the new connection: the token before is dead.
        dead, code = await s.refused(before, 3, 4)
        assert (dead.error.error_code, code) == (403, 4403)
        assert counter(s.gateway, "session.token_reused") == 1


async def test_without_an_attempt_only_the_current_token_is_good(backend: str) -> None:
    async with scene(backend) as s:
        client = await s.connect()
        response = await client.resume(s.started, 1, 0)
        assert response.resumed
        denied, code = await s.refused(s.started, 1, 0)
        assert (denied.error.error_code, denied.lost_reason, code) == (403, pb.LOST_DENIED, 4403)
        s.alice, s.started = client, response
        await s.alice_is_served()


async def test_the_token_before_hands_out_the_same_new_one_until_that_is_proved(
    backend: str,
) -> None:
    async with scene(backend) as s:
        first, second, third = [await s.connect() for _ in range(3)]
        lost = await first.resume(s.started, 1, 1)  # START_RESP that the client never read
        again = await second.resume(s.started, 1, 2)
        assert again.resume_token == lost.resume_token
        # A START with the new token proves it, as a frame does.
        newest = await third.resume(again, 1, 1)
        assert newest.resume_token not in (again.resume_token, s.started.resume_token)
        dead, code = await s.refused(s.started, 1, 3)
        assert (dead.error.error_code, code) == (403, 4403)
        assert counter(s.gateway, "session.token_reused") == 1
        s.alice, s.started = third, newest
        await s.alice_is_served()


async def test_a_position_never_given_out_ends_the_session(backend: str) -> None:
    async with scene(backend) as s:
        response, code = await s.refused(s.started, 2)
        assert (response.error.error_code, code) == (400, 4400)
        assert await s.alice.closed() == 4400
        assert counter(s.gateway, "session.sessions") == 0
        s.counted(ahead=1)


@pytest.mark.parametrize(
    ("how", "reason"), [("replaced", pb.LOST_REPLACED), ("kicked", pb.LOST_KICKED)]
)
async def test_a_session_ended_by_others_says_so(
    backend: str, how: str, reason: pb.LostReason
) -> None:
    async with scene(backend) as s:
        if how == "replaced":
            other = await s.connect()
            await other.login("alice")
        else:
            kicked = await s.push.stub.KickClient(
                up.KickRequest(target_type="openid", target_id="alice", reason="enough")
            )
            assert kicked.success
        last = await s.alice.receive()
        assert last.type == pb.PUSH_KICK
        assert await s.alice.closed() == 4410
        response, code = await s.refused(s.started, openid="alice")
        assert (response.error.error_code, response.lost_reason, code) == (403, reason, 4410)
        s.counted(tombstoned=1)
        assert counter(s.gateway, f"session.{how}") == 1
        if how == "replaced":
            other.send(business(2, "echo", b"still here"))
            assert answer(await other.receive()).data == b"still here"


async def test_tombstones_last_for_the_resume_window(backend: str) -> None:
    sets = ("session.resume_window=200ms",)
    async with scene(backend, *sets) as s:
        await s.push.stub.KickClient(up.KickRequest(target_type="openid", target_id="alice"))
        assert await s.alice.closed() == 4410
        await until(lambda: counter(s.gateway, "session.tombstones") == 0)
        client = await s.connect()
        response = await client.resume(s.started, 1, openid="alice")
        assert (response.success, response.resumed) == (True, False)
        assert response.lost_reason == pb.LOST_UNKNOWN_SESSION


async def test_an_unknown_session_never_replaces_the_one_that_is_there(backend: str) -> None:
    async with scene(backend) as s:
        gone = pb.StartResponse(session_id="0" * 32, resume_token=bytes(16))
        response, code = await s.refused(gone, openid="alice")
        assert (response.error.error_code, response.lost_reason, code) == (
            403,
            pb.LOST_UNKNOWN_SESSION,
            4410,
        )
        s.counted(unknown=1)
        await s.alice_is_served()


async def test_a_strangers_start_touches_nobody(backend: str) -> None:
    async with scene(backend) as s:
        stranger = await s.connect()
        response = await stranger.start("alice", last_acked_seq_id=1)
        assert (response.success, response.resumed) == (True, False)
        assert response.session_id != s.started.session_id
        stranger.send(business(1, "echo"), heartbeat(5))
        await stranger.receive()
        await s.alice_is_served()
        # A push to the openid goes to her alone, while the stranger has not logged in.
        pushed = await s.push.stub.PushToClient(
            up.UnicastPushRequest(target_type="openid", target_id="alice", data=b"secret")
        )
        assert (pushed.success, pushed.sessions) == (True, 1)
        assert answer(await s.alice.receive()).data == b"secret"
        s.alice.send(ack(4))
        s._seq += 1
        stranger.close()
        await stranger.closed()
        await s.alice_is_served()
        s.counted()
        assert counter(s.gateway, "session.replaced") == 0


@pytest.mark.parametrize("openid", ["", "a" * 129, "a\nb"])
async def test_a_bad_openid_is_400(backend: str, openid: str) -> None:
    async with scene(backend) as s:
        client = await s.connect()
        response = await client.start(openid)
        assert (response.success, response.error.error_code) == (False, 400)
        assert await client.closed() == 4400
        assert counter(s.gateway, "session.refused_starts") == 1
        await s.alice_is_served()
