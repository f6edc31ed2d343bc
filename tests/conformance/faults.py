"""Planted faults of the Python client, each with the one case that is to find it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gatesvr._core.codec import PushDecoder
from gatesvr._pb import message_pb2 as pb
from gatesvr.client import connector, login, reconnect, stream
from gatesvr.client.reconnect import Action
from gatesvr.errors import CloseCode, Outcome, RequestFailed
from gatesvr.protocol import client as protocol
from gatesvr.protocol import client_session, pacing, pending
from gatesvr.protocol.client import ClientProtocol
from gatesvr.protocol.client_session import ClientSession
from gatesvr.protocol.messages import PushType

Patch = Callable[[object, str, Any], None]
"""monkeypatch.setattr: an object, a name and another value."""

FAULTS: dict[str, Callable[[Patch], None]] = {}
"""The case that finds a fault, and what plants it."""


def fault(case: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def add(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        FAULTS[case] = plant
        return plant

    return add


# Tokens and attempts.


@fault("resume-token-rotation")
def keeps_the_first_token(patch: Patch) -> None:
    started = ClientSession.started

    def faulty(self: ClientSession, response: pb.StartResponse, events: Any) -> None:
        token = self.resume_token
        started(self, response, events)
        if response.resumed:
            self.resume_token = token

    patch(ClientSession, "started", faulty)


@fault("resume-stale-attempt")
def ignores_the_attempt_that_was_seen(patch: Patch) -> None:
    refused = ClientSession.refused

    def faulty(self: ClientSession, response: pb.StartResponse, events: Any) -> None:
        response.attempt = 0
        refused(self, response, events)

    patch(ClientSession, "refused", faulty)


@fault("resume-attempts")
def counts_attempts_over_tokens(patch: Patch) -> None:
    started = ClientSession.started

    def faulty(self: ClientSession, response: pb.StartResponse, events: Any) -> None:
        attempt = self.attempt
        started(self, response, events)
        self.attempt = attempt

    patch(ClientSession, "started", faulty)


@fault("restart-attempts")
def forgets_to_store_attempts(patch: Patch) -> None:
    start_request = ClientSession.start_request

    def faulty(self: ClientSession) -> pb.StartRequest:
        is_due = self.is_state_due
        start = start_request(self)
        self.is_state_due = is_due
        return start

    patch(ClientSession, "start_request", faulty)


# Order.


@fault("duplicate-seqs")
def drops_repeats_only_behind_a_resume(patch: Patch) -> None:
    handle = ClientProtocol._handle_sequenced
    start_response = ClientProtocol._handle_start_response

    def started(self: ClientProtocol, response: pb.StartResponse, events: Any) -> None:
        start_response(self, response, events)
        session: Any = self.session
        session.base = session.seen

    def faulty(self: ClientProtocol, push: Any, events: Any) -> None:
        session: Any = self.session
        if (
            getattr(session, "base", 0) < push.seq_id <= session.seen
            and push.type == PushType.BUSINESS_DATA
        ):
            seen, session.seen = session.seen, push.seq_id - 1
            handle(self, push, events)
            session.seen = seen
        else:
            handle(self, push, events)

    patch(ClientProtocol, "_handle_start_response", started)
    patch(ClientProtocol, "_handle_sequenced", faulty)


@fault("gap")
def takes_a_message_behind_a_gap(patch: Patch) -> None:
    receive = ClientSession.receive

    def faulty(self: ClientSession, push: Any, now: float) -> Any:
        self.seen = push.seq_id - 1
        return receive(self, push, now)

    patch(ClientSession, "receive", faulty)


@fault("skip-gap")
def takes_a_skip_behind_a_gap(patch: Patch) -> None:
    skip = ClientSession.skip

    def faulty(self: ClientSession, push: Any) -> Any:
        self.seen = max(self.seen, pb.Skip.FromString(push.payload).from_seq - 1)
        return skip(self, push)

    patch(ClientSession, "skip", faulty)


@fault("skip-overlap")
def tells_the_whole_of_a_skip(patch: Patch) -> None:
    skip = ClientSession.skip

    def faulty(self: ClientSession, push: Any) -> Any:
        lost = skip(self, push)
        from_seq = pb.Skip.FromString(push.payload).from_seq
        return type(lost)(from_seq, lost.seq, lost.reason)

    patch(ClientSession, "skip", faulty)


@fault("unknown-push-type")
def fails_on_a_push_of_a_later_version(patch: Patch) -> None:
    event = ClientSession._event

    def faulty(self: ClientSession, push: Any, now: float) -> Any:
        if push.type not in list(PushType):
            raise protocol.ProtocolError("an unknown push type")
        return event(self, push, now)

    patch(ClientSession, "_event", faulty)


@fault("numbers-server-seq")
def acks_in_32_bits(patch: Patch) -> None:
    take = pacing.AckPacer.take
    patch(pacing.AckPacer, "take", lambda self, position: take(self, position) & 0xFFFF_FFFF)


# Acks.


@fault("ack-bytes")
def ignores_the_bound_of_bytes(patch: Patch) -> None:
    patch(pacing, "UNACKED_BYTES_SHARE", 1e-9)


@fault("error-unsequenced")
def counts_an_unsequenced_error(patch: Patch) -> None:
    fail = ClientSession.fail

    def faulty(self: ClientSession, push: Any) -> Any:
        self.seen += push.client_seq_id in self.pending
        return fail(self, push)

    patch(ClientSession, "fail", faulty)


# Requests.


@fault("resume-sent-again")
def sends_again_under_another_msg_id(patch: Patch) -> None:
    send = ClientProtocol._send

    def faulty(self: ClientProtocol, seq: int, request: pending.PendingRequest) -> None:
        if request.is_sent:
            request.msg_id = self.session.take_msg_id()
        send(self, seq, request)

    patch(ClientProtocol, "_send", faulty)


@fault("request-too-large")
def ignores_the_gateways_limit(patch: Patch) -> None:
    started = ClientSession.started

    def faulty(self: ClientSession, response: pb.StartResponse, events: Any) -> None:
        response.max_message_bytes = 0
        started(self, response, events)

    patch(ClientSession, "started", faulty)


@fault("frame-largest")
def takes_small_frames_only(patch: Patch) -> None:
    patch(protocol, "PushDecoder", lambda size: PushDecoder(64 << 10))


@fault("error-outcomes")
def says_unknown_of_every_outcome(patch: Patch) -> None:
    read = client_session.read_error

    def faulty(push: Any, client_seq: int) -> Any:
        failed = read(push, client_seq)
        if not failed.retry_after_ms:
            failed.outcome = Outcome.UNKNOWN
        return failed

    patch(client_session, "read_error", faulty)


@fault("hello-refused")
def takes_any_answer_of_hello_for_a_login(patch: Patch) -> None:
    async def faulty(self: login.ClientLogin) -> None:
        try:
            await self.send(b"", None)
        except RequestFailed as error:
            if error.code != 403:
                raise

    patch(login.ClientLogin, "repeat", faulty)


# Ends.


@fault("close-4577")
def gives_up_at_an_unknown_45xx(patch: Patch) -> None:
    verdict_of = reconnect.verdict_of

    def faulty(how: Any, *, is_started: bool = False) -> reconnect.Verdict:
        if how.kind == "peer" and how.code == 4577:
            return reconnect.Verdict(Action.STOP)
        return verdict_of(how, is_started=is_started)

    patch(connector, "verdict_of", faulty)


@fault("close-4413")
def gives_up_a_session_that_was_too_slow(patch: Patch) -> None:
    actions = {**reconnect._ACTIONS, CloseCode.SLOW_CONSUMER: Action.STOP}
    patch(reconnect, "_ACTIONS", actions)


@fault("close-4409")
def throws_the_other_process_out(patch: Patch) -> None:
    verdict_of = reconnect.verdict_of
    patch(connector, "verdict_of", lambda how, *, is_started=False: verdict_of(how))


@fault("hint-reconnect")
def knows_one_of_the_hints(patch: Patch) -> None:
    patch(reconnect, "_HINT", re.compile(r"re(try)_after_ms=(\d{1,9})"))


@fault("goaway-answers")
def leaves_without_an_ack(patch: Patch) -> None:
    def faulty(self: stream.StreamHandler, now: float) -> None:
        if self._protocol.is_leaving and self._protocol.is_left:
            self._link.close(CloseCode.NORMAL, "goaway")

    patch(stream.StreamHandler, "_leave_if_done", faulty)


# Time.


@fault("heartbeat-bytes")
def hears_nothing_but_answers(patch: Patch) -> None:
    class Deaf(pacing.HeartbeatPacer):
        __slots__ = ()

        @property
        def silent_at(self) -> float | None:
            return self._sent_at + 0.9 if self._is_unanswered else None

    patch(protocol, "HeartbeatPacer", Deaf)


@fault("auth-renewal")
def renews_with_the_old_token(patch: Patch) -> None:
    renew = ClientProtocol.renew
    patch(ClientProtocol, "renew", lambda self, token: renew(self, self.session.auth_token))
