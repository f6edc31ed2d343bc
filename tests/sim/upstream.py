"""The scripted upstream in place of UpstreamManager, and the pushers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gatesvr._core.codec import decode_answer, notify_body
from gatesvr._pb import upstream_pb2 as up
from gatesvr.errors import ErrorCode, Outcome
from gatesvr.session.state import State
from gatesvr.upstream import call as upstream

from .device import _name

if TYPE_CHECKING:
    from gatesvr.session.session import Session

    from .gateway import Gateway
    from .world import World


@dataclass(slots=True)
class Call:
    """A call that waits for its answer."""

    session_id: str
    client_seq: int
    action: str
    name: str
    deadline: float
    real: upstream.Call
    of: Upstream


class Upstream:
    """Keeps calls until the schedule answers them, in any order and in any way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.number = 0
        self.calls: list[Call] = []
        self.registry: Any = None  # nothing registers here

    # What the gateway calls.

    def next_request_id(self) -> int:
        self.number += 1
        return self.number

    def send(self, real: upstream.Call) -> None:
        message = up.UpstreamRequest.FromString(real.upstream_req)
        name = _name(message.data)
        seq = message.client_seq_id
        world = self.world
        lane = message.action if message.action in ("hello", "single") else ""
        world.note("upstream gets %s of %s", name, message.session_id[:4])
        if not world.is_calm and world.random.random() < 0.05:
            world.counts["refused_elsewhere"] += 1
            world.checker.executed(message.session_id, seq, name, lane)
            world.checker.refused(message.session_id, seq, name)
        world.checker.executed(message.session_id, seq, name, lane)
        if lane == "single" and any(
            call.action == "single"
            and call.session_id == message.session_id
            and self.is_running(call)
            for call in self.calls
        ):
            world.checker.broken(message.session_id, f"{name} on a serial route beside another")
        session_id = message.session_id
        self.calls.append(Call(session_id, seq, message.action, name, real.deadline, real, self))

    def is_running(self, call: Call) -> bool:
        """Say whether a call's end has not reached the session."""
        return call.real.on_end is not None

    # What the schedule does.

    def answer(self, call: Call) -> None:
        self.calls.remove(call)
        if call.real.on_end is None:
            return
        world = self.world
        response = up.UpstreamResponse(code=200, data=call.name.encode())
        chance = world.random.random
        if not world.is_calm and chance() < 0.1:
            self.fail(call)
            return
        if call.action == "hello":
            if not world.is_calm and chance() < world.login_refusals:
                response.code = 403
                world.counts["logins_refused"] += 1
            response.headers["zone"] = world.random.choice(("1", "001", "2"))
        else:
            response.data += b"." * world.random.choice((0, 0, 10, 100, 400))
            if chance() < 0.3:
                self._carry(call, response)
        world.note("upstream answers %s with %d", call.name, response.code)
        self._end(call, response)

    def fail(self, call: Call) -> None:
        """Fail a call in one of the ways in which a lane does."""
        world = self.world
        kind = world.random.choice(("broken", "refused", "bad", "silent"))
        world.counts["upstream_failures"] += 1
        world.note("upstream fails %s: %s", call.name, kind)
        if kind == "broken":
            self._fail(call, "lane broke", ErrorCode.UPSTREAM_UNREACHABLE, outcome=Outcome.UNKNOWN)
        elif kind == "refused":
            world.checker.refused(call.session_id, call.client_seq, call.name)
            self._fail(call, "refused", ErrorCode.BUSY, retry_after_ms=50)
        elif kind == "bad":
            response = up.UpstreamResponse(code=200, client_seq_id=call.client_seq + 7)
            self._end(call, response)
        else:
            self.calls.append(call)  # until its deadline

    def _end(self, call: Call, response: up.UpstreamResponse) -> None:
        answer = decode_answer(response.SerializeToString())
        self.world.loop.call(call.real.answer, answer)

    def _fail(self, call: Call, message: str, code: ErrorCode, **fields: Any) -> None:
        self.world.loop.call(partial(call.real.fail, message, code, **fields))

    def _carry(self, call: Call, response: up.UpstreamResponse) -> None:
        before, after = [], []
        for _ in range(self.world.random.randrange(1, 4)):
            name = self.world.new_name("c")
            notify = response.notifies.add(msg_type="t", data=name.encode())
            if self.world.random.random() < 0.5:
                notify.sync_hint = up.NSH_BEFORE_RESPONSE
                before.append(name)
            else:
                notify.sync_hint = up.NSH_AFTER_RESPONSE
                after.append(name)
        self.world.checker.carried(call.session_id, call.client_seq, before, after)

    def expire(self) -> None:
        """Fail what is past its deadline, as a lane's timer does."""
        for call in [call for call in self.calls if call.deadline <= self.world.now]:
            self.calls.remove(call)
            if call.real.on_end is not None:
                self.world.counts["upstream_timeouts"] += 1
                self._fail(call, "deadline", ErrorCode.DEADLINE, outcome=Outcome.UNKNOWN)

    def forget(self) -> None:
        """The gateway's process is gone: nobody waits any more."""
        self.calls.clear()


class Pushers:
    """Upstream services that push, through the real commands."""

    def __init__(self, world: World, gateway: Gateway) -> None:
        self.world = world
        self.gateway = gateway
        self.push_ids: list[tuple[str, str]] = []

    def push(self) -> None:
        """Push to some session, with or without a TTL and a push_id."""
        sessions = list(self.gateway.sessions.all_sessions())
        if sessions:
            self.push_to(self.world.random.choice(sessions))

    def push_to(self, session: Session) -> None:
        """Push to that session, or to its openid."""
        world = self.world
        random = world.random
        request = up.UnicastPushRequest(msg_type="t", target_type="session")
        request.target_id = session.session_id
        if random.random() < 0.15:
            request.target_type, request.target_id = "openid", session.openid
        name = world.new_name("p")
        if random.random() < 0.2:
            if self.push_ids and random.random() < 0.4:
                request.push_id, name = random.choice(self.push_ids)
                world.counts["push_repeats"] += 1
            else:
                request.push_id = f"id-{name}"
                self.push_ids = [*self.push_ids[-5:], (request.push_id, name)]
        request.data = name.encode() + b"." * random.choice((0, 0, 20, 100, 300))
        if random.random() < 0.3:
            request.ttl_ms = random.choice((5, 100, 2_000))
        if random.random() < 0.2:
            request.conflate_key = f"key-{random.randrange(3)}"
        self._send(request, name)

    def bind(self) -> None:
        """Push around the answer to a request that is under way, or was."""
        world = self.world
        random = world.random
        if not world.upstream.calls:
            return
        call = random.choice(world.upstream.calls)
        session = self.gateway.sessions.by_id(call.session_id)
        if session is None:
            return
        name = world.new_name("b")
        before = random.random() < 0.5
        seq = max(1, call.client_seq + random.choice((0, 0, 0, 0, 0, 0, 0, 0, -1, 30)))
        request = up.UnicastPushRequest(
            target_type="session",
            target_id=call.session_id,
            msg_type="t",
            data=name.encode(),
            sync_hint=up.NSH_BEFORE_RESPONSE if before else up.NSH_AFTER_RESPONSE,
            bind_client_seq_id=seq,
        )
        if random.random() < 0.2:
            request.push_id = f"id-{random.randrange(4)}"
        is_bound = seq in session.pending
        is_repeat = bool(request.push_id) and request.push_id in (session.outbox.push_ids or ())
        if not is_bound:
            self._send(request, name)
            return
        response = self.gateway.pushes.push(request)
        world.note("binds %s to %d: %s", name, seq, response.error_code or "ok")
        if response.success and not is_repeat:
            world.counts["bound"] += 1
            world.checker.bound(call.session_id, seq, name, before=before)

    def broadcast(self) -> None:
        world = self.world
        name = world.new_name("w")
        body = notify_body("t", "", "", name.encode(), ())
        sessions = list(self.gateway.sessions.all_sessions())
        seqs = [session.queue.next_expected_seq for session in sessions]
        suspended = world.random.random() < 0.5
        logged_in = self.gateway.sessions.logged_in_sessions()
        count = self.gateway.sessions.multicast(logged_in, body, world.now, suspended)
        world.note("broadcasts %s: %d", name, count)
        world.counts["broadcasts"] += 1
        self._record(name, sessions, seqs)

    def kick(self) -> None:
        sessions = list(self.gateway.sessions.all_sessions())
        if sessions:
            world = self.world
            openid = world.random.choice(sessions).openid
            found = self.gateway.sessions.find("openid", openid, with_inited=True)
            world.note("kicks %s", found)
            world.counts["kicks"] += 1
            world.counts["kicks_during_login"] += any(session.hello_seq for session in found)
            code = world.random.choice((4410, 4410, 4601, 2000))
            for session in found:
                self.gateway.sessions.kick(session, "kicked", world.now, code)
            for session in self.gateway.sessions.all_sessions():
                if session.openid == openid:
                    world.checker.broken(session.session_id, f"{openid} was kicked and is still in")

    def _send(self, request: up.UnicastPushRequest, name: str) -> None:
        world = self.world
        sessions = self.gateway.sessions.find(request.target_type, request.target_id)
        seqs = [session.queue.next_expected_seq for session in sessions]
        held = [world.held(session) for session in sessions]
        response = self.gateway.pushes.push(request)
        world.note("pushes %s to %s: %s", name, sessions, response.error_code or "ok")
        if response.error_code:
            world.counts[f"push_{response.error_code.lower()}"] += 1
        is_sure = not request.ttl_ms
        for session, was_held in zip(sessions, held, strict=True):
            if world.held(session) > was_held:
                world.counts["held_pushes"] += 1
                world.checker.pushed(session.session_id, name, stream="held", is_sure=is_sure)
        self._record(name, sessions, seqs)

    def _record(self, name: str, sessions: list[Session], seqs: list[int]) -> None:
        """Tell the checker which of the sessions took it: those whose seq moved."""
        for session, seq in zip(sessions, seqs, strict=True):
            if session.state is not State.CLOSED and session.queue.next_expected_seq > seq:
                self.world.checker.pushed(session.session_id, name, seq=seq)
                self.world.counts["pushes"] += 1
