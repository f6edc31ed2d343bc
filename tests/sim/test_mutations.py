"""The simulator finds each rule of the protocol that is left out of the real code."""

from __future__ import annotations

import logging

import pytest

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
    Replaced,
    StaleResume,
    Torn,
    Unanswered,
    Unasked,
    Unexplained,
    WrongAnswer,
)

from .mutations import MUTATIONS
from .world import run

MAX_HISTORIES = 400

FOUND_AS: dict[str, tuple[type[Finding], ...]] = {
    "old_token_dies_at_once": (NeedlessLoss,),
    "resume_with_the_previous_token_shifts_it": (NeedlessLoss,),
    "frame_sent_behind_start": (NeedlessLoss,),
    "token_stored_too_late": (NeedlessLoss,),
    "no_attempt_numbers": (StaleResume,),
    "answer_of_an_older_generation_dropped": (Unanswered,),
    "positions_kept_across_session_ids": (Gap, Broken),
    "replacement_at_start": (Replaced,),
    "hello_gate_on_the_connection": (NeedlessRefusal,),
    "no_skip": (Broken, Gap),
    "answers_dropped_by_drop_oldest": (Unanswered,),
    "bundle_torn": (Torn, Lost),
    "answers_matched_by_msg_id": (WrongAnswer, AnsweredTwice),
    "own_counter_kept_after_start_resp": (Unanswered, WrongAnswer),
    "ack_off_by_one": (Unexplained,),
    "end_of_an_older_connection_not_fenced": (Broken,),
    "resume_without_rewind": (Broken, Gap),
    "wrong_token_closes_the_session": (Broken,),
    "reconnect_replaces": (Replaced,),
    "duplicates_accepted": (ExecutedTwice, AnsweredTwice),
    "accepted_requests_sent_as_new": (WrongAnswer, FalseOutcome, Unanswered),
    "order_of_asking_not_kept": (Reordered,),
    "serial_routes_run_at_once": (Broken,),
    "push_ids_forgotten_at_resume": (Reordered, Unasked),
    "requests_held_for_ever": (Broken,),
    "nothing_expires": (Broken,),
    "suspensions_not_told": (Broken,),
    "ends_told_twice": (Broken,),
    "kick_leaves_out_logins_under_way": (Broken,),
}
"""What each mutation breaks: finding something else by accident would not count."""


def test_every_mutation_is_tried() -> None:
    assert MUTATIONS.keys() == FOUND_AS.keys()


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    logging.disable(logging.CRITICAL)
    try:
        for seed in range(1, MAX_HISTORIES):
            findings = run(seed).checker.findings
            if any(isinstance(finding, FOUND_AS[name]) for finding in findings):
                return
    finally:
        logging.disable(logging.NOTSET)
    pytest.fail(f"not found in {MAX_HISTORIES} histories")
