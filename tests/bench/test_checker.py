"""The delivery checker: allows what PROTOCOL 4.9 allows, and finds each forbidden event."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gatesvr.bench import findings
from gatesvr.bench.checker import DeliveryChecker
from gatesvr.bench.findings import (
    AnsweredTwice,
    Broken,
    ExecutedTwice,
    FalseOutcome,
    Finding,
    Gap,
    Lost,
    NeedlessLoss,
    NeedlessRefusal,
    Reordered,
    Repeated,
    Replaced,
    StaleResume,
    Torn,
    Unanswered,
    Unasked,
    Unexplained,
    WrongAnswer,
)
from gatesvr.bench.ledger import SeqSet

S = "s1"


def good_history(checker: DeliveryChecker) -> None:
    """A session with a login, requests, bundles, losses, a resume and another session."""
    checker.started("A", S, is_resumed=False)
    checker.asked("A", "h1", is_login=True)
    checker.asked("A", "r1")
    checker.executed(S, 1, "h1", "hello")
    checker.logged_in(S, "alice")
    checker.delivered(S, 1, client_seq=1)
    checker.answered("A", "h1", "h1")
    checker.executed(S, 2, "r1")
    checker.bound(S, 2, "b1", before=True)
    checker.carried(S, 2, ["c1"], ["c2"])
    for seq, push in ((2, "b1"), (3, "c1")):
        checker.delivered(S, seq, push=push)
    checker.delivered(S, 4, client_seq=2)
    checker.answered("A", "r1", "r1")
    checker.delivered(S, 5, push="c2")
    # A failing request: bound notifies go around its ERROR, carried ones are gone.
    checker.asked("A", "r2")
    checker.bound(S, 3, "b2", before=False)
    checker.carried(S, 3, [], ["c3"])
    checker.executed(S, 3, "r2")
    checker.refused(S, 3, "r2")
    checker.executed(S, 3, "r2")
    checker.refused(S, 3, "r2")
    checker.delivered(S, 6, client_seq=3, code=503)
    checker.failed("A", "r2", 503, 1)
    checker.delivered(S, 7, push="b2")
    # Losses, with and without known seqs, over a resume.
    checker.resumed(S, 2)
    checker.started("A", S, is_resumed=True)
    checker.pushed(S, "p1", seq=8)
    checker.pushed(S, "p2")
    checker.lost(S, 8, 9, "EXPIRED")
    checker.delivered(S, 10, push="p3")
    checker.pushed(S, "p3")
    checker.pushed(S, "p4", is_sure=False)
    checker.settled(S, last_seq=10, dropped=2)
    checker.client_settled("A")
    # Replaced by another session.
    checker.started("B", "s2", is_resumed=False)
    checker.logged_in("s2", "alice")
    checker.ended(S, replaced_in="alice")
    checker.session_lost("A", S, "REPLACED")


def test_what_is_allowed_passes() -> None:
    checker = DeliveryChecker()
    good_history(checker)
    assert checker.findings == []
    assert checker.delivered_answers == 3
    assert checker.delivered_pushes == 5
    assert checker.announced_losses == 2
    assert checker.executions == 4
    assert len(checker) == 0


def lost_without_a_word(c: DeliveryChecker) -> None:
    c.pushed(S, "p1")
    c.settled(S)


def lost_beside_a_loss(c: DeliveryChecker) -> None:
    c.pushed(S, "p1", seq=2)
    c.lost(S, 1, 1, "EXPIRED")
    c.delivered(S, 2, push="other")
    c.settled(S)


def bound_and_lost(c: DeliveryChecker) -> None:
    c.bound(S, 1, "b1", before=False)
    c.settled(S)


def skipped(c: DeliveryChecker) -> None:
    c.pushed(S, "p1")
    c.delivered(S, 2, push="p1")


def skipped_before_a_loss(c: DeliveryChecker) -> None:
    c.lost(S, 2, 3, "EXPIRED")


def ended_early(c: DeliveryChecker) -> None:
    c.settled(S, last_seq=1)


def same_seq_twice(c: DeliveryChecker) -> None:
    c.pushed(S, "p1")
    c.delivered(S, 1, push="p1")
    c.delivered(S, 1, push="p1")


def same_push_twice(c: DeliveryChecker) -> None:
    c.pushed(S, "p1")
    c.delivered(S, 1, push="p1")
    c.delivered(S, 2, push="p1")
    c.settled(S)


def lost_after_delivery(c: DeliveryChecker) -> None:
    c.pushed(S, "p1")
    c.delivered(S, 1, push="p1")
    c.lost(S, 1, 1, "EXPIRED")


def overtaken(c: DeliveryChecker) -> None:
    c.pushed(S, "p1", stream="one")
    c.pushed(S, "p2", stream="one")
    c.delivered(S, 1, push="p2")
    c.delivered(S, 2, push="p1")


def at_another_seq(c: DeliveryChecker) -> None:
    c.pushed(S, "p1", seq=2)
    c.delivered(S, 1, push="p1")


def answers_out_of_order(c: DeliveryChecker) -> None:
    c.delivered(S, 1, client_seq=2, order="request")
    c.delivered(S, 2, client_seq=1, order="request")


def executed_out_of_order(c: DeliveryChecker) -> None:
    c.executed(S, 2, "r2")
    c.executed(S, 1, "r1")


def of_another_session(c: DeliveryChecker) -> None:
    c.pushed("s2", "p1")
    c.delivered(S, 1, push="p1")
    c.settled(S)


def loss_without_reason(c: DeliveryChecker) -> None:
    c.lost(S, 1, 3, "NONE")


def more_lost_than_dropped(c: DeliveryChecker) -> None:
    c.lost(S, 1, 3, "OVERFLOW")
    c.settled(S, dropped=2)


def torn_before(c: DeliveryChecker) -> None:
    c.bound(S, 1, "b1", before=True)
    c.pushed(S, "p1")
    c.delivered(S, 1, push="b1")
    c.delivered(S, 2, push="p1")


def torn_behind(c: DeliveryChecker) -> None:
    c.bound(S, 1, "b1", before=False)
    c.pushed(S, "p1")
    c.delivered(S, 1, client_seq=1)
    c.delivered(S, 2, push="p1")


def torn_by_a_loss(c: DeliveryChecker) -> None:
    c.bound(S, 1, "b1", before=False)
    c.delivered(S, 1, client_seq=1)
    c.lost(S, 2, 2, "EXPIRED")


def bundle_without_its_head(c: DeliveryChecker) -> None:
    c.bound(S, 1, "b1", before=True)
    c.delivered(S, 1, client_seq=1)


def bundle_in_another_order(c: DeliveryChecker) -> None:
    c.carried(S, 1, [], ["c1", "c2"])
    c.delivered(S, 1, client_seq=1)
    c.delivered(S, 2, push="c2")


def never_answered(c: DeliveryChecker) -> None:
    c.asked("A", "r1")
    c.client_settled("A")


def answered_again(c: DeliveryChecker) -> None:
    c.delivered(S, 1, client_seq=1)
    c.delivered(S, 2, client_seq=1, code=504)


def answer_of_another(c: DeliveryChecker) -> None:
    c.asked("A", "r1")
    c.answered("A", "r1", "r2")


def executed_again(c: DeliveryChecker) -> None:
    c.executed(S, 1, "r1")
    c.executed(S, 1, "r1")


def executed_again_after_one_refusal(c: DeliveryChecker) -> None:
    c.executed(S, 1, "r1")
    c.refused(S, 1, "r1")
    c.executed(S, 1, "r1")
    c.executed(S, 1, "r1")


def started_after_all(c: DeliveryChecker) -> None:
    c.asked("A", "r1")
    c.executed(S, 1, "r1")
    c.failed("A", "r1", 503, 1)


def refused_behind_a_login(c: DeliveryChecker) -> None:
    c.started("A", S, is_resumed=False)
    c.asked("A", "h1", is_login=True)
    c.asked("A", "r1")
    c.answered("A", "h1", "h1")
    c.failed("A", "r1", 401, 1)


def refused_before_the_login_is_answered(c: DeliveryChecker) -> None:
    c.started("A", S, is_resumed=False)
    c.asked("A", "h1", is_login=True)
    c.asked("A", "r1")
    c.failed("A", "r1", 401, 1)
    c.answered("A", "h1", "h1")


def refused_as_a_gap(c: DeliveryChecker) -> None:
    c.asked("A", "r1")
    c.failed("A", "r1", 400, 1)


def lost_a_living_session(c: DeliveryChecker) -> None:
    c.started("A", S, is_resumed=False)
    c.session_lost("A", S, "DENIED")


def stolen_by_an_older_connection(c: DeliveryChecker) -> None:
    c.resumed(S, 3)
    c.resumed(S, 2)


def replaced_by_nobody(c: DeliveryChecker) -> None:
    c.logged_in(S, "alice")
    c.ended(S, replaced_in="alice")


def replaced_by_an_earlier_login(c: DeliveryChecker) -> None:
    c.logged_in("s2", "alice")
    c.logged_in(S, "alice")
    c.ended(S, replaced_in="alice")


def replaced_by_a_reconnect(c: DeliveryChecker) -> None:
    c.logged_in(S, "alice")
    c.logged_in("s2", "alice", is_automatic=True)
    c.ended(S, replaced_in="alice")


def broken(c: DeliveryChecker) -> None:
    c.broken(S, "gap")


PLANTED: list[tuple[Callable[[DeliveryChecker], None], type[Finding]]] = [
    (lost_without_a_word, Lost),
    (lost_beside_a_loss, Lost),
    (bound_and_lost, Lost),
    (skipped, Gap),
    (skipped_before_a_loss, Gap),
    (ended_early, Gap),
    (same_seq_twice, Repeated),
    (same_push_twice, Unasked),
    (lost_after_delivery, Repeated),
    (overtaken, Reordered),
    (at_another_seq, Reordered),
    (answers_out_of_order, Reordered),
    (executed_out_of_order, Reordered),
    (of_another_session, Unasked),
    (loss_without_reason, Unexplained),
    (more_lost_than_dropped, Unexplained),
    (torn_before, Torn),
    (torn_behind, Torn),
    (torn_by_a_loss, Torn),
    (bundle_without_its_head, Torn),
    (bundle_in_another_order, Torn),
    (never_answered, Unanswered),
    (answered_again, AnsweredTwice),
    (answer_of_another, WrongAnswer),
    (executed_again, ExecutedTwice),
    (executed_again_after_one_refusal, ExecutedTwice),
    (started_after_all, FalseOutcome),
    (refused_behind_a_login, NeedlessRefusal),
    (refused_before_the_login_is_answered, NeedlessRefusal),
    (refused_as_a_gap, NeedlessRefusal),
    (lost_a_living_session, NeedlessLoss),
    (stolen_by_an_older_connection, StaleResume),
    (replaced_by_nobody, Replaced),
    (replaced_by_an_earlier_login, Replaced),
    (replaced_by_a_reconnect, Replaced),
    (broken, Broken),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=lambda p: getattr(p, "__name__", ""))
def test_planted_violation_is_found(
    plant: Callable[[DeliveryChecker], None], kind: type[Finding]
) -> None:
    checker = DeliveryChecker()
    plant(checker)
    assert kind in [type(finding) for finding in checker.findings]


def test_every_kind_of_finding_is_planted() -> None:
    assert {kind.__name__ for _, kind in PLANTED} | {"Finding"} == set(findings.__all__)


def test_a_session_that_ended_promises_nothing() -> None:
    checker = DeliveryChecker()
    checker.started("A", S, is_resumed=False)
    checker.pushed(S, "p1")
    checker.bound(S, 1, "b1", before=True)
    checker.bound(S, 1, "b2", before=False)
    checker.ended(S)
    # Messages already on their way may still arrive.
    checker.delivered(S, 1, push="b1")
    checker.delivered(S, 2, client_seq=1)
    checker.delivered(S, 3, push="b2")
    checker.session_lost("A", S, "UNKNOWN_SESSION")
    assert checker.findings == []


def test_who_does_not_know_of_ends_takes_a_lost_session_for_ended() -> None:
    checker = DeliveryChecker(knows_ends=False)
    checker.started("A", S, is_resumed=False)
    checker.session_lost("A", S)
    assert checker.findings == []


def test_what_is_told_late_is_taken_as_it_comes() -> None:
    checker = DeliveryChecker()
    checker.delivered(S, 1, push="p2")
    checker.delivered(S, 2, push="b1")
    checker.delivered(S, 3, client_seq=1)
    checker.bound(S, 1, "b1", before=True)
    checker.bound(S, 1, "b2", before=False)
    checker.delivered(S, 4, push="b2")
    checker.pushed(S, "p1")
    checker.pushed(S, "p2")
    checker.delivered(S, 5, push="p1")
    checker.executed(S, 2, "r2", lane=None)
    checker.executed(S, 1, "r1", lane=None)
    checker.settled(S, last_seq=5)
    assert checker.findings == []


def test_a_restarted_client_waits_for_nothing() -> None:
    checker = DeliveryChecker()
    checker.asked("A", "r1")
    checker.forgot("A")
    checker.client_settled("A")
    assert checker.findings == []
    assert len(checker) == 0


def test_an_answer_that_was_not_kept_takes_its_notifies_along() -> None:
    checker = DeliveryChecker()
    checker.bound(S, 1, "b1", before=True)
    checker.carried(S, 1, [], ["c1"])
    checker.delivered(S, 1, client_seq=1, code=507)
    checker.settled(S, last_seq=1)
    assert checker.findings == []


def test_what_is_settled_is_forgotten() -> None:
    checker = DeliveryChecker()
    checker.started("A", S, is_resumed=False)
    for seq in range(1, 2_001):
        push, request = f"p{seq}", f"r{seq}"
        checker.asked("A", request)
        checker.executed(S, seq, request)
        checker.pushed(S, push, seq=2 * seq - 1)
        checker.delivered(S, 2 * seq - 1, push=push)
        checker.delivered(S, 2 * seq, client_seq=seq)
        checker.answered("A", request, request)
    session = checker._sessions[S]
    assert checker.findings == []
    assert len(checker) == 0
    assert not session.by_seq
    assert not session.bundles
    assert not session.early
    assert len(session.answered._starts) == len(session.executed._starts) == 1


def test_seq_set_is_a_set() -> None:
    chance = random.Random(1)
    ours, theirs = SeqSet(), set[int]()
    for _ in range(4_000):
        number = chance.randint(1, 60)
        if chance.random() < 0.6:
            assert ours.add(number) == (number not in theirs)
            theirs.add(number)
        else:
            ours.discard(number)
            theirs.discard(number)
        assert [n for n in range(62) if n in ours] == sorted(theirs)
        # Ranges that touch are one.
        assert all(b - a > 1 for a, b in zip(ours._ends, ours._starts[1:], strict=False))
