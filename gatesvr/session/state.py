"""The states of a session, and every transition between them, in one table.

::

    INITED ──LOGIN──▶ NORMAL ──DETACH──▶ SUSPENDED ──RESUME──▶ NORMAL
       │                │                    │
       └────CLOSE───────┴───────CLOSE────────┴──▶ CLOSED

Rules (PROTOCOL 3):

- A session is INITED from START on, NORMAL from a hello answered 200 on.
- A connection's end closes an INITED session, unless its hello is unanswered or the answer not
  acked; such a session stays INITED without a connection.
- A hello of a session that is logged in refreshes the zone and changes no state.
- A resume of a session that still has a connection takes that away (DETACH), then attaches the new
  one (RESUME).
- CLOSED is final. A transition that is not in the table raises.
"""

from __future__ import annotations

from enum import IntEnum

from ..errors import SessionError

__all__ = ["TRANSITIONS", "Event", "State", "Verdict", "next_state"]


class State(IntEnum):
    """A session's state."""

    INITED = 1
    NORMAL = 2
    SUSPENDED = 3
    CLOSED = 4


class Event(IntEnum):
    """Moves a session to its next state."""

    LOGIN = 1
    """A hello was answered 200."""
    DETACH = 2
    """Its connection is gone, or no longer its own."""
    RESUME = 3
    """Another connection took it over."""
    CLOSE = 4
    """STOP, kick, replacement, expiry, 4400 or 4401."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.INITED, Event.LOGIN): State.NORMAL,
    (State.INITED, Event.DETACH): State.INITED,
    (State.INITED, Event.RESUME): State.INITED,
    (State.INITED, Event.CLOSE): State.CLOSED,
    (State.NORMAL, Event.LOGIN): State.NORMAL,
    (State.NORMAL, Event.DETACH): State.SUSPENDED,
    (State.NORMAL, Event.CLOSE): State.CLOSED,
    (State.SUSPENDED, Event.LOGIN): State.SUSPENDED,
    (State.SUSPENDED, Event.RESUME): State.NORMAL,
    (State.SUSPENDED, Event.CLOSE): State.CLOSED,
}


def next_state(state: State, event: Event) -> State:
    """Return the state that event leads to.

    Raises:
        SessionError: The table has no such transition.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise SessionError(f"{event.name} is illegal in state {state.name}") from None


class Verdict(IntEnum):
    """A session's reply to an offered request (PROTOCOL 3.4, 3.5)."""

    NEXT = 0
    """The session's next one: it is accepted."""
    DUPLICATE = 1
    """Accepted before: drop it."""
    GAP = 2
    """Not the next one: answer ERROR 400, seq 0; nothing is consumed."""
    FULL = 3
    """No room: hold it; the session wakes its connection when there is."""
