"""A session under random calls, against a plain model of what its client must see."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gatesvr._pb import message_pb2 as pb
from gatesvr.protocol.link import HIGH_WATER_BYTES, Disconnect
from gatesvr.session.state import State, Verdict

from ..fakes import FakeLink
from .event_model import EventModel
from .rig import BUSINESS_DATA, SKIP, Sessions, answer_body, business, notify, pushes, start_request

MAX_QUEUE = 12
MAX_IN_FLIGHT = 4
OLD = Disconnect("idle")


class SessionMachine(RuleBasedStateMachine):
    """The client reads, acks, is cut off and resumes; upstreams answer and push; time passes.

    The model: every message accepted has a name. A client that has handed seq N to its application
    has seen every name sequenced up to N, once, in order, or a SKIP in its place; answers and
    bundles are never in a SKIP.
    """

    @initialize()
    def login(self) -> None:
        self.sessions = Sessions(
            max_queue_size=MAX_QUEUE, max_in_flight=MAX_IN_FLIGHT, resume_window=60.0
        )
        self.subscription = self.sessions.manager.events.subscribe(lambda: None)
        self.events = EventModel()
        self.session, self.link, response = self.sessions.login()
        self.token = response.resume_token
        self.attempt = 0
        self.names = 0
        self.position = 1  # the hello's answer
        self.acked = 1
        self.asked: dict[int, list[bytes]] = {}  # in flight: notifies bound before, b"", after
        self.expected: list[bytes] = []  # names in the order in which they were sequenced
        self.slots: list[tuple[int, list[bytes] | None]] = []  # request order: seq, answer
        self.kept: set[bytes] = set()
        self.seen: list[bytes] = []

    def name(self, kind: str) -> bytes:
        self.names += 1
        return b"%s%d" % (kind.encode(), self.names)

    @property
    def alive(self) -> bool:
        return self.session.is_valid

    @property
    def is_live(self) -> bool:
        """Whether the client has a connection, and has read its START_RESP."""
        return self.session.link is not None and not self.attempt

    @property
    def has_room(self) -> bool:
        unacked = sum(name in self.kept for name in self.expected[self.acked - 1 :])
        waiting = sum(len(names) for _, names in self.slots if names is not None)
        asked = len(self.asked)
        return asked < MAX_IN_FLIGHT and asked + unacked + waiting < MAX_QUEUE

    # Requests.

    @precondition(lambda self: self.is_live)
    @rule(in_order=st.booleans())
    def ask(self, in_order: bool) -> None:
        if not self.has_room:
            assert self.sessions.offer(self.session) is Verdict.FULL
            return
        seq = self.sessions.ask(self.session, "request" if in_order else "completion")
        self.asked[seq] = [b""]
        if in_order:
            self.slots.append((seq, None))

    @precondition(lambda self: self.is_live)
    @rule(distance=st.integers(-3, 3).filter(bool))
    def ask_out_of_turn(self, distance: int) -> None:
        seq = max(0, self.session.max_client_seq + 1 + distance)
        verdict = self.session.offer(business(seq), "completion", self.sessions.now)
        if not self.has_room:
            assert verdict is Verdict.FULL
        else:
            is_old = distance < 0 and seq > 0
            assert verdict is (Verdict.DUPLICATE if is_old else Verdict.GAP)

    @precondition(lambda self: self.alive and self.asked)
    @rule(data=st.data(), is_before=st.booleans())
    def bind(self, data: st.DataObject, is_before: bool) -> None:
        seq = data.draw(st.sampled_from(sorted(self.asked)))
        name = self.name("bound")
        result = self.session.bind(notify(name), seq, is_before, now=self.sessions.now)
        assert result.is_ok
        names = self.asked[seq]
        names.insert(names.index(b"") if is_before else len(names), name)

    @precondition(lambda self: self.alive and self.asked)
    @rule(data=st.data(), is_good=st.booleans(), carried=st.booleans())
    def answer(self, data: st.DataObject, is_good: bool, carried: bool) -> None:
        seq = data.draw(st.sampled_from(sorted(self.asked)))
        names = self.asked.pop(seq)
        now = self.sessions.now
        answer = self.name("answer") if is_good else b"!504"
        at = names.index(b"")
        if is_good:
            before = [self.name("before")] if carried else []
            body = answer_body(seq, answer)
            assert self.session.answer(seq, body, [notify(n) for n in before], (), now)
            names[at : at + 1] = [*before, answer]
        else:
            assert self.session.fail(seq, 504, "late", now=now)
            names[at] = answer
        assert not self.session.answer(seq, answer_body(seq))
        self.kept.update(names)
        for index, (slot_seq, _) in enumerate(self.slots):
            if slot_seq == seq:
                self.slots[index] = (seq, names)
                break
        else:
            self.expected.extend(names)
        while self.slots and self.slots[0][1] is not None:
            self.expected.extend(self.slots.pop(0)[1] or ())

    # Pushes.

    @precondition(lambda self: self.alive)
    @rule(ttl=st.sampled_from([0.0, 3.0]))
    def push(self, ttl: float) -> None:
        name = self.name("push")
        if self.session.push(notify(name), now=self.sessions.now, ttl=ttl).is_ok:
            self.expected.append(name)

    # The client.

    @precondition(lambda self: self.is_live)
    @rule(room=st.sampled_from([1, 60, HIGH_WATER_BYTES]))
    def read(self, room: int) -> None:
        assert isinstance(self.link, FakeLink)
        self.link.unsent = HIGH_WATER_BYTES - room
        self.session.sender.feed(self.sessions.now)
        for push in pushes(self.link.take()):
            if push.type == SKIP:
                skip = pb.Skip.FromString(push.payload)
                assert skip.from_seq <= self.position + 1
                assert skip.messages == push.seq_id - skip.from_seq + 1
                if push.seq_id <= self.position:
                    continue
                lost = self.expected[self.position - 1 : push.seq_id - 1]
                assert not self.kept.intersection(lost)
                self.position = push.seq_id
                continue
            if push.seq_id <= self.position:
                continue
            assert push.seq_id == self.position + 1
            data = push.business()[2] if push.type == BUSINESS_DATA else b"!504"
            assert data == self.expected[push.seq_id - 2]
            self.seen.append(data)
            self.position = push.seq_id

    @precondition(lambda self: self.is_live)
    @rule(behind=st.integers(0, 3))
    def ack(self, behind: int) -> None:
        seq = max(0, self.position - behind)
        self.session.ack(seq, self.sessions.now)
        self.session.prove_token()
        self.acked = max(self.acked, seq)

    @precondition(lambda self: self.session.link is not None)
    @rule()
    def cut(self) -> None:
        self.sessions.manager.detach(self.session, self.link, OLD, self.sessions.now)
        assert self.session.state is State.SUSPENDED

    @precondition(lambda self: self.alive)
    @rule(is_read=st.booleans(), position_lag=st.integers(0, 2))
    def resume(self, is_read: bool, position_lag: int) -> None:
        self.attempt += 1
        self.sessions.now += 1
        old = self.link
        link = self.sessions.link()
        position = max(self.acked, self.position - position_lag)
        start = start_request(
            session_id=self.session.session_id,
            resume_token=self.token,
            attempt=self.attempt,
            last_acked_seq_id=position,
        )
        outcome = self.sessions.manager.start(start, link, self.sessions.now)
        assert outcome.session is self.session
        assert outcome.response.max_client_seq == self.session.max_client_seq
        self.link = link
        self.acked = max(self.acked, position)
        if is_read:
            self.token = outcome.response.resume_token
            self.attempt = 0
        self.sessions.manager.detach(self.session, old, OLD, self.sessions.now)
        assert self.session.link is link

    # Time.

    @rule(seconds=st.sampled_from([0.5, 2.0, 9.0]))
    def wait(self, seconds: float) -> None:
        self.sessions.now += seconds
        self.sessions.manager.sweep(self.sessions.now)

    @precondition(lambda self: self.session.link is None)
    @rule()
    def expire(self) -> None:
        self.sessions.now += 61
        self.sessions.manager.sweep(self.sessions.now)
        assert not self.alive

    @invariant()
    def events_say_the_same(self) -> None:
        session = self.session
        while (event := self.subscription.take()) is not None:
            self.events.read(event)
        assert self.events.states == {session.session_id: session.state}
        last = self.events.last[session.session_id]
        assert last.generation == session.generation
        assert last.max_client_seq <= session.max_client_seq
        assert last.last_acked_seq <= session.client_ack_server_seq
        if last.is_end:
            assert last.last_sent_seq == session.queue.last_sent_seq

    @invariant()
    def what_always_holds(self) -> None:
        session = self.session
        session.queue._check()
        assert (session.link is None) is (session.state in (State.SUSPENDED, State.CLOSED))
        assert len(self.seen) == len(set(self.seen) - {b"!504"}) + self.seen.count(b"!504")
        if not self.alive:
            assert len(self.sessions.manager) == 0
            assert not session.pending
            return
        assert session.in_flight == len(self.asked) == session.queue.reserved
        assert session.next_server_seq == len(self.expected) + 2
        assert session.client_ack_server_seq == self.acked
        assert len(session.queue) <= MAX_QUEUE + 64 * MAX_IN_FLIGHT

    def teardown(self) -> None:
        """Nothing accepted is missing in the end: a client that comes back sees it all."""
        if not hasattr(self, "session") or not self.alive:
            return
        self.resume(True, 0)
        self.read(HIGH_WATER_BYTES)
        assert self.position == len(self.expected) + 1
        assert self.kept.intersection(self.expected) <= set(self.seen)


SessionMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSession = SessionMachine.TestCase
