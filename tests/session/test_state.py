"""The table of states: what it has, and that everything else raises."""

from __future__ import annotations

import itertools

import pytest

from gatesvr.errors import SessionError
from gatesvr.session.state import TRANSITIONS, Event, State, next_state


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_what_is_not_in_the_table_raises(state, event):
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(SessionError, match=event.name):
            next_state(state, event)


def test_closed_is_final_and_every_other_state_can_close():
    for state in State:
        assert ((state, Event.CLOSE) in TRANSITIONS) is (state is not State.CLOSED)
    assert not any(state is State.CLOSED for state, _ in TRANSITIONS)


def test_every_state_is_reached():
    assert set(TRANSITIONS.values()) == set(State)
