"""A session that moves between processes beside its twin that stays: nobody tells them apart."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatesvr._core.codec import encode_business, encode_request
from gatesvr._core.queue import BULK
from gatesvr._pb.upstream_pb2 import PeerInfo
from gatesvr.errors import ProtocolError
from gatesvr.protocol.identity import Identity
from gatesvr.protocol.messages import RequestType
from gatesvr.session.counters import SessionCounters
from gatesvr.session.moved import MovedCall, max_export_bytes
from gatesvr.session.outcome import StartOutcome
from gatesvr.session.role import Role
from gatesvr.session.session import Session
from gatesvr.session.state import Verdict

from ..fakes import FakeLink
from .rig import CUT, Sessions, answer_body, business, index_sizes, notify, start_request

SETTINGS = {
    "max_queue_size": 12,
    "max_in_flight": 4,
    "max_queue_bytes": 4_000,
    "max_message_bytes": 2_000,
    "max_login_bytes": 1_000,
    "max_requests_per_second": 2,
    "resume_window": 60.0,
    "login_timeout": 30.0,
}
OF_MOVES = frozenset(
    (
        "exports",
        "exports_refused",
        "moved_in",
        "moved_out",
        "taken_back",
        "results_kept",
        "results_dropped",
        "pushes_moving",
    )
)
"""What a move alone counts."""

COUNTERS = frozenset(SessionCounters().snapshot()) - SessionCounters.gauges() - OF_MOVES

quarters = st.integers(0, 100).map(lambda number: number / 4)  # seconds, and whole ms
bodies = st.sampled_from((b"", b"body", bytes(300), bytes(1_300), bytes(2_500)))


class Side:
    """One of the two: its process, its session, and what its client's connection got.

    Each method returns all that anybody outside can see of it.
    """

    def __init__(self) -> None:
        self.sessions = Sessions(**SETTINGS)
        self.moves = self.resumes = 0
        self.counted: Counter[str] = Counter()  # by the processes that it was in before
        self.session: Session
        self.link: FakeLink
        self.requests: dict[int, bytes] = {}

    def start(self, protocol: int) -> Any:
        self.session, self.link, response = self.sessions.start(
            protocol=protocol, max_message_bytes=2_000, client_id="phone"
        )
        return response

    @property
    def now(self) -> float:
        return self.sessions.now

    def offer(self, seq: int, order: str) -> Any:
        verdict = self.session.offer(business(seq), order, self.now)
        if verdict is Verdict.NEXT:
            rate = self.session.request_rate
            assert rate is not None
            return verdict, rate.take(self.now)
        return verdict

    def hello(self, seq: int) -> Any:
        self.sessions.offer_hello(self.session, seq)

    def answer_hello(self, is_good: bool) -> Any:
        session = self.session
        seq = session.hello_seq
        verdict = None
        if is_good:
            verdict = self.sessions.manager.logged_in(session, "7", self.now)
        else:
            self.sessions.manager.refuse_login(session)
        code = 200 if is_good else 403
        taken = session.answer(seq, answer_body(seq, b"welcome", code), now=self.now)
        session.hello_seq = 0
        return verdict, taken

    def answer(self, seq: int, body: bytes, before: list[bytes], after: list[bytes]) -> Any:
        return self.session.answer(seq, body, before, after, self.now)

    def feed(self, unsent: int) -> Any:
        self.link.unsent = unsent
        self.session.sender.feed(self.now)
        self.link.unsent = 0
        return self.link.take()

    def ack(self, seq: int) -> Any:
        try:
            self.session.ack(seq, self.now)
        except ProtocolError:
            return "ahead"
        return None

    def cut(self) -> Any:
        self.sessions.manager.detach(self.session, self.link, CUT, self.now)

    def tick(self, seconds: float) -> Any:
        self.sessions.now += seconds
        self.sessions.manager.sweep(self.now)

    def resume(self, is_moving: bool, **fields: object) -> Any:
        """Resume; return the START_RESP, and how the connections have closed."""
        before = self.link
        # From ever new addresses: wrong tokens of one are counted by each process for itself.
        self.resumes += 1
        link = self.sessions.link(f"198.51.{self.resumes // 250}.{self.resumes % 250}")
        start = start_request("", session_id=self.session.session_id, **fields)
        outcome: StartOutcome | Session
        if is_moving:
            outcome = self.sessions.manager.moves.turn(start, link.peer[0], self.now)
            if isinstance(outcome, Session):
                assert outcome is self.session
                self.move(is_awaited=True)
                outcome = self.sessions.manager.moves.attach(self.session, link, self.now)
        else:
            outcome = self.sessions.manager.start(start, link, self.now)
        if outcome.session is not None:
            self.link = link
        return outcome.response, outcome.close_code, outcome.reason, before.closed

    # Of the one that moves.

    def calls(self, node_id: str) -> list[MovedCall]:
        """Return the requests of this process; every other one is not started."""
        session = self.session
        return [
            MovedCall(
                seq,
                "echo",
                "svc",
                self.now + 30,
                node_id if seq % 2 else "",
                b"" if seq % 2 else self.frame(seq),
            )
            for seq in session.pending
            if seq not in session.moved_calls
        ]

    def frame(self, seq: int) -> bytes:
        return encode_request(seq, seq, RequestType.BUSINESS, encode_business("echo", None, b""))[
            4:
        ]

    def leave(self) -> bytes:
        manager = self.sessions.manager
        data = manager.moves.export(self.session, self.calls(f"node {self.moves}"), self.now)
        limits = self.session.context.limits
        assert len(data) <= max_export_bytes(limits, 2_000)
        return data

    def move(self, data: bytes | None = None, is_awaited: bool = False) -> None:
        """Let another process have the session."""
        before, old = self.sessions, self.session
        if data is None:
            data = self.leave()
        calls = {seq: call for seq, call in old.moved_calls.items() if seq in old.pending}
        after = Sessions(**SETTINGS)
        # Its own clock, and the same random bytes.
        self.moves += 1
        after.now = self.now + 1_000 * self.moves
        after._random = before._random
        session = after.manager.moves.install(data, after.now)
        assert session.role is Role.ARRIVING
        assert session.epoch == old.epoch
        assert not session.is_valid
        assert session.push(notify(b""), now=after.now).error_code == "MOVING"
        left = {seq: call.deadline - self.now for seq, call in calls.items()}
        for seq, call in session.moved_calls.items():
            # What is overdue stays so, and says no more for how long.
            assert max(0, call.deadline - after.now) == max(0, left.get(seq, 30))
            assert call._replace(deadline=0.0) == calls.get(seq, call)._replace(deadline=0.0)
            assert call[1:3] == ("echo", "svc")
        assert list(session.moved_calls) == list(old.pending)
        self.sessions, self.session = after, session
        after.manager.moves.own(session, old.epoch + 1, after.now, is_awaited=is_awaited)
        kept = before.manager.context.results
        before.manager.moves.forget(old, before.now)
        assert not any(index_sizes(before.manager).values())
        for result in kept.of(old.session_id):
            seq, body, around = result.client_seq, result.body, result[2:4]
            assert session.answer(seq, body, *around, after.now)
            kept.settle(old.session_id, seq)
        assert not len(kept)
        self.counted.update(before.counters)

    def take_back(self) -> None:
        manager = self.sessions.manager
        session = self.session
        manager.moves.own(session, session.epoch + 1, self.now)
        results = manager.context.results
        for result in results.of(session.session_id):
            assert session.answer(result.client_seq, result.body, *result[2:4], self.now)
            results.settle(session.session_id, result.client_seq)

    # All that is seen.

    def looks(self) -> Any:
        session = self.session
        token = session.token
        assert token is not None
        outbox = session.outbox
        notifies = outbox.notifies
        return (
            # Its own clock, and the twin's behind it by whole seconds.
            session.info(self.now, 1 << 40),
            session.state,
            session.is_valid,
            session.is_logged_in,
            dict(session.pending),
            session.hello_seq,
            session.refused_logins,
            PeerInfo.FromString(session.peer_info),  # whose map has no order
            session.queue.slots(),
            session.queue.reserved,
            session.queue.can_skip,
            session.queue.oldest_age(self.now),
            [(body, flags) for body, flags, _ in outbox.held or ()],
            [notifies.of(seq) for seq in session.pending] if notifies is not None else [],
            {name: self.now - at for name, at in (outbox.push_ids or {}).items()},
            list((outbox.conflated or {}).items()),
            [getattr(token, name) for name in token.__slots__],
            session.auth,
            session.auth_deadline - self.now,
            outbox.memory_bytes(),
            self.link.closed,
        )

    def sizes(self) -> dict[str, int]:
        """Return the size of everything that its process keeps of sessions."""
        manager, outbox = self.sessions.manager, self.session.outbox
        sizes = index_sizes(manager)
        # A sweep finds out that nothing is left to be watched, and so does a move.
        del sizes["watched"]
        assert outbox in manager.context.watched or not (
            self.session.is_valid and outbox.is_watched
        )
        return sizes

    def counts(self) -> dict[str, int]:
        """Return what all processes have counted together, but for moves."""
        found = self.counted + Counter(self.sessions.counters)
        return {name: found[name] for name in COUNTERS}


class MovedMachine(RuleBasedStateMachine):
    """Random calls to both; one of them moves at random."""

    @initialize(protocol=st.sampled_from((1, 1, 1, 0)), with_login=st.booleans())
    def start(self, protocol: int, with_login: bool) -> None:
        self.begin(protocol)
        if with_login:
            self.both("hello", 1)
            self.both("answer_hello", True)

    def begin(self, protocol: int) -> None:
        self.still, self.moving = Side(), Side()
        self.tokens = [bytes(16), self.both("start", protocol).resume_token]
        self.attempt = 0
        self.names = 0
        self.acked = 0

    def both(self, name: str, *args: Any) -> Any:
        still, moving = getattr(self.still, name)(*args), getattr(self.moving, name)(*args)
        assert still == moving, (name, args)
        return still

    def each(self, name: str, *args: Any, **fields: Any) -> Any:
        """Call a method of both sessions that takes ``now``."""
        found = [
            getattr(side.session, name)(*args, now=side.now, **fields)
            for side in (self.still, self.moving)
        ]
        assert found[0] == found[1], (name, args)
        return found[0]

    @property
    def session(self) -> Session:
        return self.still.session

    @property
    def alive(self) -> bool:
        return self.session.is_valid

    @property
    def is_live(self) -> bool:
        return self.alive and self.session.link is not None

    @property
    def is_away(self) -> bool:
        return self.alive and self.session.link is None

    def draw_seq(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from([0, 99, 1, *self.session.pending]))

    @precondition(lambda self: not self.alive)
    @rule()
    def start_again(self) -> None:
        self.start(1, True)

    # Requests.

    @precondition(lambda self: self.is_live and self.session.hello_seq == 0)
    @rule(distance=st.sampled_from((0, 0, 0, 0, -1, 1)), in_order=st.booleans())
    def ask(self, distance: int, in_order: bool) -> None:
        seq = max(0, self.session.max_client_seq + 1 + distance)
        self.both("offer", seq, "request" if in_order else "completion")

    @precondition(
        lambda self: self.is_live and not self.session.hello_seq and self.session.in_flight < 4
    )
    @rule()
    def hello(self) -> None:
        if self.session.in_flight + self.session.queue.kept < 12:
            self.both("hello", self.session.max_client_seq + 1)

    @precondition(lambda self: self.alive and self.session.hello_seq)
    @rule(is_good=st.sampled_from((True, True, False)))
    def answer_hello(self, is_good: bool) -> None:
        self.both("answer_hello", is_good)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), body=bodies, around=st.integers(0, 3))
    def answer(self, data: st.DataObject, body: bytes, around: int) -> None:
        seq = self.draw_seq(data)
        if seq == self.session.hello_seq:
            return
        before = [notify(b"before")] * (around & 1)
        after = [notify(b"after")] * (around >> 1)
        self.both("answer", seq, answer_body(seq, body), before, after)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        seq = self.draw_seq(data)
        if seq != self.session.hello_seq:
            self.each("fail", seq, 504, "late")

    # Pushes.

    @precondition(lambda self: self.alive)
    @rule(
        body=bodies,
        ttl=st.one_of(st.just(0.0), quarters),
        flags=st.sampled_from((0, 0, BULK)),
        push_id=st.sampled_from(("", "", "a", "b")),
        key=st.sampled_from(("", "", "k", "l")),
    )
    def push(self, body: bytes, ttl: float, flags: int, push_id: str, key: str) -> None:
        self.each("push", notify(body), flags=flags, ttl=ttl, push_id=push_id, conflate_key=key)

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        body=bodies,
        before=st.booleans(),
        push_id=st.sampled_from(("", "a", "c")),
    )
    def bind(self, data: st.DataObject, body: bytes, before: bool, push_id: str) -> None:
        self.each("bind", notify(body), self.draw_seq(data), before, push_id=push_id)

    # The client.

    @precondition(lambda self: self.is_live)
    @rule(unsent=st.sampled_from((0, 0, 65_000, 1 << 20)))
    def read(self, unsent: int) -> None:
        self.both("feed", unsent)

    @precondition(lambda self: self.is_live)
    @rule(ahead=st.integers(0, 6))
    def ack(self, ahead: int) -> None:
        self.acked = min(self.session.next_server_seq - 1, self.acked + ahead)
        for side in (self.still, self.moving):
            side.session.prove_token()
        self.both("ack", self.acked)

    @precondition(lambda self: self.is_live)
    @rule()
    def cut(self) -> None:
        self.both("cut")

    @precondition(lambda self: self.alive)
    @rule(
        token=st.sampled_from((-1, -1, -1, -1, -2, -3, 0)),
        attempt=st.sampled_from((0, 1, 1, 2)),
        behind=st.sampled_from((0, 0, 1, 5, -1)),
        is_moving=st.booleans(),
    )
    def resume(self, token: int, attempt: int, behind: int, is_moving: bool) -> None:
        fields = {
            "resume_token": self.tokens[max(token, -len(self.tokens))],
            "attempt": self.attempt + attempt,
            "last_acked_seq_id": max(0, self.session.next_server_seq - 1 - behind),
        }
        still = self.still.resume(False, **fields)
        assert self.moving.resume(is_moving, **fields) == still
        response = still[0]
        if response.success:
            self.attempt += attempt
            self.acked = max(self.acked, fields["last_acked_seq_id"])
            if response.resume_token not in self.tokens:
                self.tokens.append(response.resume_token)
                self.attempt = 0

    @precondition(lambda self: self.alive)
    @rule(left=st.sampled_from((None, 5.0, 100.0)))
    def authenticate(self, left: float | None) -> None:
        identity = Identity("alice", "sub", {"role": "player", "level": "7"}, 2e9)
        for side in (self.still, self.moving):
            deadline = float("inf") if left is None else side.now + left
            side.sessions.manager.authenticate(side.session, identity, deadline)

    # Time.

    @precondition(lambda self: self.alive)
    @rule(seconds=quarters)
    def tick(self, seconds: float) -> None:
        self.both("tick", seconds)

    # Moves.

    @precondition(lambda self: self.is_away)
    @rule(data=st.data(), is_back=st.booleans())
    def move(self, data: st.DataObject, is_back: bool) -> None:
        """Let it go to another process, or come back; an answer may come while it is away."""
        moving = self.moving
        export = moving.leave()
        session = moving.session
        assert not session.is_valid
        assert session.push(notify(b"x"), now=moving.now).error_code == "MOVING"
        assert session.bind(notify(b"x"), 1, False, now=moving.now).error_code == "MOVING"
        moving.sessions.manager.sweep(moving.now + 1_000_000)
        ended = {}
        for seq in sorted(session.pending):
            if seq != session.hello_seq and data.draw(st.booleans()):
                ended[seq] = answer_body(seq, b"kept")
                assert session.answer(seq, ended[seq], [notify(b"b")], (), moving.now)
                assert session.answer(seq, answer_body(seq, b"again"), now=moving.now)
        assert session.in_flight == self.session.in_flight
        if is_back:
            moving.take_back()
        else:
            moving.move(export)
        for seq, body in ended.items():
            assert self.still.answer(seq, body, [notify(b"b")], [])

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "moving"):
            return
        assert self.moving.looks() == self.still.looks()
        assert self.moving.counts() == self.still.counts()
        assert self.moving.sizes() == self.still.sizes()
        self.moving.session.queue._check()

    def teardown(self) -> None:
        if hasattr(self, "moving") and self.is_live:
            self.both("feed", 0)


class LongMovedMachine(MovedMachine):
    """The same for many more lives."""


def machine(lives: int) -> settings:
    return settings(
        max_examples=lives,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


TestMovedMachine = MovedMachine.TestCase
TestMovedMachine.settings = machine(30)
TestMovedMachineLong = pytest.mark.long(LongMovedMachine.TestCase)
TestMovedMachineLong.settings = machine(400)
