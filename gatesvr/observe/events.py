"""SessionEvent: what happens to sessions, as the gateway tells it inside and to upstreams.

The same type is what ``Gateway.events()`` and ``GatewayClient.events()`` yield.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CHOICE", "ENDS", "EventKind", "SessionEvent", "event_kinds"]


class EventKind(StrEnum):
    """What happened to a session.

    ::

        CONNECTED ─▶ LOGGED_IN ─▶ SUSPENDED ─▶ RESUMED ─▶ … ─▶ the end

    The end is exactly one of REPLACED, KICKED, EXPIRED and CLOSED.

    A session whose connection ends before it has logged in is CLOSED; only where its login is
    under way it stays, without an event, and may be RESUMED. Where the login then succeeds while it
    still has no connection, LOGGED_IN is followed by SUSPENDED at once.
    """

    CONNECTED = "connected"
    """START made it. Reason: ``start``, or ``unknown_session`` where a resume found nothing."""
    LOGGED_IN = "logged_in"
    """Its hello was answered 200. Reason: ``hello``."""
    SUSPENDED = "suspended"
    """It lost its connection and waits for its client. Reason: how the connection ended (``peer``,
    ``peer_transport``, ``idle``, ``reset``, ``timeout``, ``overloaded``, ``slow_consumer`` …), or
    ``lost_before_login``."""
    RESUMED = "resumed"
    """Another connection took it over. Reason: ``resume``, ``steal`` where it had a connection
    still, ``base_resume`` for a client of protocol 0 that came back by its openid."""
    REPLACED = "replaced"
    """The end: another login of its openid. Reason: ``logged_in_elsewhere``."""
    KICKED = "kicked"
    """The end: an upstream said so. Reason: the upstream's own words, else ``kicked``."""
    EXPIRED = "expired"
    """The end: its client did not come back. Reason: ``resume_window``, or ``memory`` where all
    queues together were above their bound."""
    CLOSED = "closed"
    """Any other end. Reason: the client's STOP (``user_logout``, ``app_close``, ``switch_account``,
    ``stop``), the close code's name (``protocol_error``, ``auth_failed``, ``timeout`` …),
    ``logged_in_elsewhere``, ``queue_full``; or how its connection ended before login."""
    MISSED = "missed"
    """No session's: ``missed`` events were left out, and none has come since. Every subscriber gets
    it, whatever kinds it chose."""


ENDS = frozenset((EventKind.REPLACED, EventKind.KICKED, EventKind.EXPIRED, EventKind.CLOSED))
"""Each session has exactly one of these, as its last event."""
CHOICE = tuple(kind for kind in EventKind if kind is not EventKind.MISSED)
"""What a subscriber may choose from."""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One thing that happened to one session. Events of a session come in their order.

    Attributes:
        kind: What happened, an EventKind; a newer gateway's may be one unknown here, as text.
        session_id: The session, empty with MISSED.
        openid: Its user; text from outside.
        generation: Of its connections, from 1; rises with every RESUMED.
        reason: Why, a short key; see EventKind. Text from outside with KICKED.
        at_ms: When, ms since the epoch.
        last_sent_seq: The highest server seq handed to a connection.
        last_acked_seq: The highest server seq that the client has acknowledged.
        max_client_seq: The highest client seq accepted.
        undelivered: Messages queued and not acknowledged; with an end they are dropped.
        missed: Events left out directly before this one, because the subscriber was too slow.
        transport: The way that its client last came by: ``quic``, ``webtransport`` or
            ``websocket``; empty with MISSED.
    """

    kind: EventKind | str
    session_id: str = ""
    openid: str = ""
    generation: int = 0
    reason: str = ""
    at_ms: int = 0
    last_sent_seq: int = 0
    last_acked_seq: int = 0
    max_client_seq: int = 0
    undelivered: int = 0
    missed: int = 0
    transport: str = ""

    @property
    def is_end(self) -> bool:
        """Whether the session is over."""
        return self.kind in ENDS


def event_kinds(names: Iterable[str]) -> frozenset[EventKind]:
    """Return the kinds that a subscriber names; all of them where it names none.

    Raises:
        ValueError: One is no kind, or MISSED; the message quotes it.
    """
    kinds = set()
    for name in names:
        try:
            kind = EventKind(name)
        except ValueError:
            kind = EventKind.MISSED
        if kind is EventKind.MISSED:
            raise ValueError(f"{name[:64]!r} is no kind of event: {', '.join(CHOICE)}")
        kinds.add(kind)
    return frozenset(kinds or CHOICE)
