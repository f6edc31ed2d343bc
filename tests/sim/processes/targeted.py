"""Histories in which the rarest schedules happen often, for the rules that need these."""

from __future__ import annotations

from typing import Any

from .world import ProcessesWorld

__all__ = ["WORLDS"]


def targeted(**draws: Any) -> type[ProcessesWorld]:
    """Return a world of which some is not drawn; see ProcessesWorld.DRAWS."""
    return type("TargetedWorld", (ProcessesWorld,), {"DRAWS": draws})


_SLOW_ANSWERS = targeted(
    weight_answer=0.05, weight_given_up=0.8, task_timeout=30.0, wire_slow_call="", weight_cut=0.0
)
_CUT_OFF = targeted(
    size=2, lease=1.5, weight_cut=0.3, weight_given_up=0.5, wire_slow_call="bury", wire_loss=0.1
)

WORLDS: dict[str, type[ProcessesWorld]] = {
    "entries_removed_without_compare": targeted(
        size=2, lease=1.5, wire_slow_call="renew", weight_given_up=0.8, weight_give=0.4
    ),
    "ended_sessions_entered_again": targeted(
        policy="replace", wire_slow_call="create", wire_repeats=0.8, wire_loss=0.15
    ),
    "live_owners_buried": _CUT_OFF,
    "lost_sessions_kept": _CUT_OFF,
    "answered_hello_travels_as_unanswered": targeted(
        wire_slow_call="login", weight_given_up=0.8, weight_give=0.4
    ),
    "failed_resume_forgotten_on_the_way": targeted(
        policy="replace", weight_crash=0.04, weight_give=0.4, wire_slow_call="login"
    ),
    "unanswered_removals_count_as_done": targeted(wire_loss=0.3, weight_kick=0.05),
    "taken_counts_for_any_move": targeted(
        size=2, wire_slow_call="Taken", weight_given_up=0.8, weight_give=0.8, wire_repeats=0.3
    ),
    "requests_of_the_dead_wait_for_ever": targeted(
        lease=1.5, weight_answer=0.02, task_timeout=30.0, weight_crash=0.05, wire_slow_call=""
    ),
    "serial_chains_end_at_a_move": _SLOW_ANSWERS,
    "waiting_requests_start_where_they_were": _SLOW_ANSWERS,
    "results_sent_once": _SLOW_ANSWERS,
    "leaving_copies_take_results": _SLOW_ANSWERS,
    "silent_owners_have_no_life": targeted(policy="reject", weight_cut=0.1, wire_loss=0.15),
    "refused_pushes_taken_when_they_come_again": targeted(
        wire_slow_call="Push", wire_repeats=0.7, weight_push=0.8, weight_give=0.8
    ),
}
"""By the mutation that they find."""
