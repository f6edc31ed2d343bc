"""What a reader of events knows of sessions: each event must fit to those before it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gatesvr.observe.events import ENDS, EventKind, SessionEvent
from gatesvr.session.state import State

NEXT = {
    (None, "connected"): State.INITED,
    (State.INITED, "logged_in"): State.NORMAL,
    (State.INITED, "resumed"): State.INITED,
    (State.NORMAL, "suspended"): State.SUSPENDED,
    (State.NORMAL, "resumed"): State.NORMAL,
    (State.SUSPENDED, "resumed"): State.NORMAL,
    **{
        (state, str(kind)): State.CLOSED
        for state in (State.INITED, State.NORMAL, State.SUSPENDED)
        for kind in ENDS
    },
}


@dataclass
class EventModel:
    """Replays events.

    Attributes:
        states: Where the events say that each session stands.
        last: The last event of each session.
    """

    states: dict[str, State] = field(default_factory=dict)
    last: dict[str, SessionEvent] = field(default_factory=dict)

    def read(self, event: SessionEvent) -> None:
        """Take the next event in."""
        assert not event.missed
        session_id = event.session_id
        before = self.last.get(session_id)
        state = self.states.get(session_id)
        assert (state, str(event.kind)) in NEXT, (state, event)
        self.states[session_id] = NEXT[state, str(event.kind)]
        self.last[session_id] = event
        assert event.reason
        assert event.last_acked_seq <= event.last_sent_seq
        if before is None:
            assert event.generation == 1
            assert event.last_sent_seq == event.max_client_seq == event.undelivered == 0
            return
        assert event.openid == before.openid
        assert event.generation == before.generation + (event.kind == EventKind.RESUMED)
        assert event.at_ms >= before.at_ms
        assert event.last_sent_seq >= before.last_sent_seq
        assert event.last_acked_seq >= before.last_acked_seq
        assert event.max_client_seq >= before.max_client_seq
