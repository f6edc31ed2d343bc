"""The simulator finds each rule of moving that is left out of the real code."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

import pytest

from .mutations import MUTATIONS
from .targeted import WORLDS
from .world import ProcessesWorld

MAX_HISTORIES = 400

GONE = "its entry was removed|NeedlessLoss|owned by|StaleResume"
STUCK = "never settles"
LOST = "Lost|Torn|Unanswered|waits for an answer"
TWICE = "taken twice"
FAILED = "was answered, and failed|Lost|Unanswered|waits for an answer"


class Found(NamedTuple):
    """How a mutation is found.

    Attributes:
        seed: Where the search begins, and ends unless the code has changed since.
        kind: What its findings say; finding something else by accident would not count.
    """

    seed: int
    kind: str


FOUND = {
    "ownership_moves_without_compare": Found(11, GONE),
    "entries_removed_without_compare": Found(29, GONE),
    "ended_sessions_entered_again": Found(96, "logged in: True"),
    "no_tombstones": Found(11, "and its client told UNKNOWN_SESSION"),
    "live_owners_buried": Found(68, "its owner's lease is good"),
    "entries_of_the_dead_stay": Found(30, f"is left at the end|{STUCK}"),
    "tokens_of_before_the_start_travel": Found(2, GONE),
    "push_ids_stay_behind": Found(30, TWICE),
    "held_notifies_stay_behind": Found(26, LOST),
    "bound_notifies_stay_behind": Found(1, LOST),
    "answered_hello_travels_as_unanswered": Found(4, FAILED),
    "failed_resume_forgotten_on_the_way": Found(134, "after a failed resume"),
    "leaving_copies_take_pushes": Found(4, LOST),
    "arriving_copies_take_pushes": Found(140, LOST),
    "answers_lost_while_leaving": Found(26, FAILED),
    "unanswered_moves_count_as_refused": Found(11, GONE),
    "unanswered_removals_count_as_done": Found(5, "and its client told UNKNOWN_SESSION"),
    "sessions_handed_out_before_they_are_entered": Found(6, GONE),
    "unknown_because_the_directory_is_silent": Found(10, GONE),
    "unknown_although_another_had_buried": Found(33, GONE),
    "taken_counts_for_any_move": Found(122, GONE),
    "nothing_is_taken_back": Found(10, STUCK),
    "taken_back_on_a_read": Found(85, GONE),
    "ended_on_its_way_and_kept": Found(105, STUCK),
    "answers_to_what_is_answered": Found(45, "AnsweredTwice"),
    "requests_of_the_dead_wait_for_ever": Found(38, "which is dead"),
    "serial_chains_end_at_a_move": Found(12, "beside another"),
    "waiting_requests_start_where_they_were": Found(19, "ExecutedTwice"),
    "failed_resumes_replace": Found(8, "after a failed resume"),
    "logins_not_in_one_transaction": Found(4, "is logged in as"),
    "logins_judged_by_an_old_version": Found(54, "is logged in as"),
    "young_push_ids_forgotten": Found(16, TWICE),
    "results_sent_once": Found(27, FAILED),
    "results_sent_to_the_first_owner_only": Found(5, f"{STUCK}|{FAILED}"),
    "leaving_copies_take_results": Found(11, FAILED),
    "owners_not_asked_for_life": Found(1, "while it showed life"),
    "silent_owners_have_no_life": Found(114, "while it showed life"),
    "failed_resumes_take_a_place": Found(10, "after a failed resume"),
    "unsure_pushes_answered_as_refused": Found(2, "its pusher told"),
    "refused_pushes_taken_when_they_come_again": Found(5, "its pusher told"),
    "pushes_taken_that_nobody_waits_for": Found(30, TWICE),
    "lost_sessions_kept": Found(52, STUCK),
    "late_creates_kept": Found(14, STUCK),
    "judged_by_an_older_question": Found(134, GONE),
    "given_in_place_of_a_copy": Found(1, GONE),
    "given_and_still_owned": Found(1, GONE),
}


def test_every_mutation_is_tried() -> None:
    assert MUTATIONS.keys() == FOUND.keys()


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    world = WORLDS.get(name, ProcessesWorld)
    first, kind = FOUND[name]
    logging.disable(logging.CRITICAL)
    try:
        for seed in range(first, first + MAX_HISTORIES):
            if any(re.search(kind, str(found)) for found in world(seed).run().checker.findings):
                return
    finally:
        logging.disable(logging.NOTSET)
    pytest.fail(f"not found in {MAX_HISTORIES} histories")


@pytest.mark.parametrize("name", ["live_owners_buried", "results_sent_once"])
def test_without_a_mutation_nothing_is_found(name: str) -> None:
    for seed in range(1, 4):
        assert not WORLDS[name](seed).run().checker.findings
