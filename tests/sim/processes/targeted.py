"""Histories in which the rarest schedules happen often, for the rules that need these."""

from __future__ import annotations

from typing import Any

from .world import ProcessesWorld

__all__ = ["WORLDS"]


def targeted(**draws: Any) -> type[ProcessesWorld]:
    """Return a world of which some is not drawn; see ProcessesWorld.DRAWS."""
    return type("TargetedWorld", (ProcessesWorld,), {"DRAWS": draws})


_SLOW_ANSWERS = {
    "weight_answer": 0.05,
    "weight_given_up": 0.8,
    "weight_cut": 0.0,
    "weight_outage": 0.0,
    "weight_isolate": 0.0,
    "task_timeout": 30.0,
}
_SERIAL = targeted(**_SLOW_ANSWERS, wire_slow_call="")
_ALONE = targeted(
    size=2, lease=1.5, weight_isolate=0.1, weight_given_up=0.5, wire_slow_call="bury", wire_loss=0.0
)

WORLDS: dict[str, type[ProcessesWorld]] = {
    "entries_removed_without_compare": targeted(
        size=2, lease=1.5, stickiness=0.0, wire_slow_call="renew", weight_given_up=2.0
    ),
    "ended_sessions_entered_again": targeted(
        policy="replace",
        lease=12.0,
        login_weight=1.0,
        wire_slow_call=("create", "Replaced"),
        wire_slow_s=8.0,
        wire_repeats=1.0,
    ),
    "live_owners_buried": _ALONE,
    "lost_sessions_kept": _ALONE,
    "answered_hello_travels_as_unanswered": targeted(
        login_weight=1.0, wire_slow_call="login", weight_given_up_early=0.8, weight_give=0.4
    ),
    "failed_resume_forgotten_on_the_way": targeted(
        policy="replace",
        weight_crash=0.04,
        weight_give=0.4,
        weight_given_up_early=0.4,
        wire_slow_call="login",
    ),
    "unanswered_removals_count_as_done": targeted(wire_loss=0.3, weight_kick=0.05),
    "taken_counts_for_any_move": targeted(
        size=2, wire_slow_call="Taken", weight_given_up=0.8, weight_give=0.8, wire_repeats=0.3
    ),
    "requests_of_the_dead_wait_for_ever": targeted(
        lease=1.5, weight_answer=0.02, task_timeout=30.0, weight_crash=0.05, wire_slow_call=""
    ),
    "serial_chains_end_at_a_move": _SERIAL,
    "waiting_requests_start_where_they_were": _SERIAL,
    "results_sent_once": targeted(**_SLOW_ANSWERS, wire_slow_call="Forward", wire_loss=0.2),
    "leaving_copies_take_results": targeted(**_SLOW_ANSWERS, wire_slow_call="Take", wire_loss=0.0),
    "silent_owners_have_no_life": targeted(
        policy="reject", wire_slow_call="Life", weight_given_up=0.1
    ),
    "refused_pushes_taken_when_they_come_again": targeted(
        wire_slow_call="Push",
        wire_repeats=0.8,
        wire_loss=0.0,
        weight_push=2.0,
        max_queue_size=8,
        when_full="refuse",
    ),
}
"""By the mutation that they find."""
