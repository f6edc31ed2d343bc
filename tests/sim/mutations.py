"""The rules of PROTOCOL 2-5, each left out of the real code by itself.

A simulator that does not find one of them would not find the bug of that kind either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gatesvr._core.codec import encode_request
from gatesvr._pb import message_pb2 as pb
from gatesvr.dispatch.login import Login
from gatesvr.dispatch.processor import AsyncProcessor
from gatesvr.observe.events import EventKind
from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.messages import RequestType
from gatesvr.session.events import EventHub
from gatesvr.session.manager import SessionManager
from gatesvr.session.notify import NotifyOrderingManager
from gatesvr.session.resume import ResumeToken, TokenMatch
from gatesvr.session.sender import OrderedSender
from gatesvr.session.session import Session
from gatesvr.session.starting import SessionStarter
from gatesvr.session.state import Verdict

Mutation = Callable[[pytest.MonkeyPatch], None]

MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Enter a mutation under its name."""
    MUTATIONS[function.__name__] = function
    return function


def wrap(
    patch: pytest.MonkeyPatch, owner: type, name: str, make: Callable[[Any], Callable[..., Any]]
) -> None:
    """Replace a method by what make() makes of it."""
    patch.setattr(owner, name, make(getattr(owner, name)))


@mutation
def old_token_dies_at_once(patch: pytest.MonkeyPatch) -> None:
    def make(accept: Any) -> Any:
        def mutant(self: ResumeToken, *args: Any) -> bytes:
            token: bytes = accept(self, *args)
            self.prove()
            return token

        return mutant

    wrap(patch, ResumeToken, "accept", make)


@mutation
def resume_with_the_previous_token_shifts_it(patch: pytest.MonkeyPatch) -> None:
    def make(accept: Any) -> Any:
        def mutant(self: ResumeToken, match: TokenMatch, *args: Any) -> bytes:
            token: bytes = accept(self, TokenMatch.CURRENT, *args)
            return token

        return mutant

    wrap(patch, ResumeToken, "accept", make)


@mutation
def frame_sent_behind_start(patch: pytest.MonkeyPatch) -> None:
    def make(connect: Any) -> Any:
        def mutant(self: ClientProtocol, *args: Any) -> None:
            connect(self, *args)
            # It acks nothing; what counts is that the gateway reads it behind START_RESP.
            self._output.append(encode_request(0, 0, RequestType.ACK, b""))

        return mutant

    wrap(patch, ClientProtocol, "connect", make)


@mutation
def token_stored_too_late(patch: pytest.MonkeyPatch) -> None:
    def make(handle: Any) -> Any:
        def mutant(self: ClientProtocol, *args: Any) -> None:
            handle(self, *args)
            self.session.is_state_due = False

        return mutant

    wrap(patch, ClientProtocol, "_handle_start_response", make)


@mutation
def no_attempt_numbers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ResumeToken, "is_stale", lambda self, match, attempt: False)


@mutation
def answer_of_an_older_generation_dropped(patch: pytest.MonkeyPatch) -> None:
    generations: dict[tuple[str, int], int] = {}

    def make_offer(offer: Any) -> Any:
        def mutant(self: Session, request: Any, *args: Any) -> Verdict:
            verdict: Verdict = offer(self, request, *args)
            if verdict is Verdict.NEXT:
                generations[self.session_id, request.seq_id] = self.generation
            return verdict

        return mutant

    def make_answer(answer: Any) -> Any:
        def mutant(self: Session, client_seq: int, *args: Any) -> bool:
            accepted_in = generations.get((self.session_id, client_seq))
            if accepted_in == self.generation or client_seq not in self.pending:
                is_taken: bool = answer(self, client_seq, *args)
                return is_taken
            slot = self.pending.pop(client_seq) >> 32
            if slot:
                self.queue.fill(slot, ())
            self.queue.reserved = len(self.pending)
            return False

        return mutant

    wrap(patch, Session, "offer", make_offer)
    wrap(patch, Session, "answer", make_answer)


@mutation
def positions_kept_across_session_ids(patch: pytest.MonkeyPatch) -> None:
    def make(forget_session: Any) -> Any:
        def mutant(self: ClientSession) -> None:
            position, seen = self.position, self.seen
            forget_session(self)
            self.position, self.seen = position, seen

        return mutant

    wrap(patch, ClientSession, "forget_session", make)


@mutation
def replacement_at_start(patch: pytest.MonkeyPatch) -> None:
    def make(start_: Any) -> Any:
        def mutant(
            self: SessionManager, start: pb.StartRequest, link: Any, now: float, *args: Any
        ) -> Any:
            outcome = start_(self, start, link, now, *args)
            if outcome.session is not None and not outcome.response.resumed:
                for other in self.by_openid(start.openid):
                    self.replace(other, now)
            return outcome

        return mutant

    wrap(patch, SessionManager, "start", make)


@mutation
def hello_gate_on_the_connection(patch: pytest.MonkeyPatch) -> None:
    def make(take_over: Any) -> Any:
        def mutant(self: SessionStarter, session: Session, *args: Any) -> Any:
            session.hello_seq = 0
            return take_over(self, session, *args)

        return mutant

    wrap(patch, SessionStarter, "attach", make)


@mutation
def no_skip(patch: pytest.MonkeyPatch) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Session, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self.queue.can_skip = False

        return mutant

    wrap(patch, Session, "__init__", make)


@mutation
def answers_dropped_by_drop_oldest(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: OrderedSender, msg_id: int, slot: int, body: bytes) -> None:
        if slot:
            self.queue.fill(slot, ((msg_id, body, 0),))
        else:
            self.queue.append_one(msg_id, body, 0, 0.0, True)
        self.flush()

    patch.setattr(OrderedSender, "answer", mutant)


@mutation
def bundle_torn(patch: pytest.MonkeyPatch) -> None:
    def make(bundle: Any) -> Any:
        def mutant(self: NotifyOrderingManager, *args: Any) -> Any:
            messages, dropped = bundle(self, *args)
            # Its notifies are plain ones then: what drops and expires takes them.
            return [(m, body, flags if m else 0) for m, body, flags in messages], dropped

        return mutant

    wrap(patch, NotifyOrderingManager, "bundle", make)


@mutation
def answers_matched_by_msg_id(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: ClientSession, push: Any) -> int:
        if not push.msg_id:
            return 0
        matching = (seq for seq, r in self.pending.items() if r.msg_id == push.msg_id)
        return next(matching, push.client_seq_id)

    patch.setattr(ClientSession, "_answered_seq", mutant)


@mutation
def own_counter_kept_after_start_resp(patch: pytest.MonkeyPatch) -> None:
    def make(send_again: Any) -> Any:
        def mutant(self: ClientProtocol, *args: Any) -> None:
            counter = self.session.next_client_seq
            send_again(self, *args)
            self.session.next_client_seq = counter

        return mutant

    wrap(patch, ClientProtocol, "_send_again", make)


@mutation
def ack_off_by_one(patch: pytest.MonkeyPatch) -> None:
    def make(ack: Any) -> Any:
        def mutant(self: Session, seq: int, now: float) -> None:
            ack(self, min(seq + 1, self.queue.next_expected_seq - 1), now)

        return mutant

    wrap(patch, Session, "ack", make)


@mutation
def end_of_an_older_connection_not_fenced(patch: pytest.MonkeyPatch) -> None:
    def make(detach: Any) -> Any:
        def mutant(self: SessionManager, session: Session, link: Any, how: Any, now: float) -> None:
            if session.link is not None:
                detach(self, session, session.link, how, now)

        return mutant

    wrap(patch, SessionManager, "detach", make)


@mutation
def resume_without_rewind(patch: pytest.MonkeyPatch) -> None:
    class Queue:
        """A queue that goes on where it was."""

        def __init__(self, queue: Any) -> None:
            self._queue = queue

        def rewind(self, seq: int) -> int:
            return 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._queue, name)

        def __len__(self) -> int:
            return len(self._queue)

    def make(take_over: Any) -> Any:
        def mutant(self: SessionStarter, session: Session, *args: Any) -> Any:
            queue = session.queue
            session.queue = Queue(queue)  # type: ignore[assignment]
            try:
                return take_over(self, session, *args)
            finally:
                session.queue = queue

        return mutant

    wrap(patch, SessionStarter, "attach", make)


@mutation
def wrong_token_closes_the_session(patch: pytest.MonkeyPatch) -> None:
    def make(start_: Any) -> Any:
        def mutant(
            self: SessionManager, start: pb.StartRequest, link: Any, now: float, *args: Any
        ) -> Any:
            outcome = start_(self, start, link, now, *args)
            session = self.by_id(start.session_id)
            if outcome.close_code == 4403 and session is not None:
                self.close(session, 4403, "wrong token", now)
            return outcome

        return mutant

    wrap(patch, SessionManager, "start", make)


@mutation
def reconnect_replaces(patch: pytest.MonkeyPatch) -> None:
    def make(resume_nothing: Any) -> Any:
        def mutant(self: SessionStarter, *args: Any) -> Any:
            outcome = resume_nothing(self, *args)
            if outcome.session is not None:
                outcome.session.is_after_failed_resume = False
            return outcome

        return mutant

    wrap(patch, SessionStarter, "_resume_nothing", make)


@mutation
def duplicates_accepted(patch: pytest.MonkeyPatch) -> None:
    def make(judge: Any) -> Any:
        def mutant(self: Session, seq: int) -> Verdict:
            verdict = judge(self, seq)
            return Verdict.NEXT if verdict is Verdict.DUPLICATE else Verdict(verdict)

        return mutant

    wrap(patch, Session, "_judge", make)


@mutation
def accepted_requests_sent_as_new(patch: pytest.MonkeyPatch) -> None:
    def make(send_again: Any) -> Any:
        def mutant(self: ClientProtocol, max_client_seq: int, events: Any) -> None:
            pending = self.session.pending
            held = dict(pending)
            pending.clear()
            for seq, request in enumerate(held.values(), max_client_seq + 1):
                pending[seq] = request
            send_again(self, max_client_seq, events)

        return mutant

    wrap(patch, ClientProtocol, "_send_again", make)


@mutation
def order_of_asking_not_kept(patch: pytest.MonkeyPatch) -> None:
    def make(offer: Any) -> Any:
        def mutant(self: Session, request: Any, order: str, now: float) -> Verdict:
            verdict: Verdict = offer(self, request, "completion", now)
            return verdict

        return mutant

    wrap(patch, Session, "offer", make)


@mutation
def serial_routes_run_at_once(patch: pytest.MonkeyPatch) -> None:
    def make(submit: Any) -> Any:
        def mutant(self: AsyncProcessor, task: Any, now: float) -> bool:
            task.route = replace(task.route, serial=False)
            is_taken: bool = submit(self, task, now)
            return is_taken

        return mutant

    wrap(patch, AsyncProcessor, "submit", make)


@mutation
def push_ids_forgotten_at_resume(patch: pytest.MonkeyPatch) -> None:
    def make(attach: Any) -> Any:
        def mutant(self: Session, *args: Any) -> None:
            self.outbox.push_ids = None
            attach(self, *args)

        return mutant

    wrap(patch, Session, "attach", make)


@mutation
def requests_held_for_ever(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: Login, task: Any) -> None:
        task.session.hello_seq = 0

    patch.setattr(Login, "_ended", mutant)


@mutation
def nothing_expires(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SessionManager, "sweep", lambda self, now: None)


@mutation
def suspensions_not_told(patch: pytest.MonkeyPatch) -> None:
    def make(emit: Any) -> Any:
        def mutant(self: EventHub, kind: EventKind, *args: Any) -> None:
            if kind is not EventKind.SUSPENDED:
                emit(self, kind, *args)

        return mutant

    wrap(patch, EventHub, "emit", make)


@mutation
def ends_told_twice(patch: pytest.MonkeyPatch) -> None:
    def make(emit: Any) -> Any:
        def mutant(self: EventHub, kind: EventKind, *args: Any) -> None:
            emit(self, kind, *args)
            if kind is EventKind.EXPIRED:
                emit(self, EventKind.CLOSED, *args)

        return mutant

    wrap(patch, EventHub, "emit", make)


@mutation
def kick_leaves_out_logins_under_way(patch: pytest.MonkeyPatch) -> None:
    def make(find: Any) -> Any:
        def mutant(self: SessionManager, *target: str, **how: bool) -> list[Session]:
            found: list[Session] = find(self, *target)
            return found

        return mutant

    wrap(patch, SessionManager, "find", make)
