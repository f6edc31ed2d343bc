"""When a client acks, when it sends a heartbeat, and when it gives a connection up."""

from __future__ import annotations

__all__ = ["USUAL_SHARE", "AckPacer", "HeartbeatPacer"]

ACK_MESSAGES = 16
ACK_DELAY_S = 0.200
"""The client acks after so many messages or so long (PROTOCOL 2.5).

An ack by itself costs both sides two datagrams. Most find a request, or other messages, to go with
in this time; a resume does not need them, for START names the client's own position.
"""
UNACKED_SHARE = 4
"""... and never later than at one part in this many of the messages that the gateway keeps."""
UNACKED_BYTES_SHARE = 16
"""... or of the bytes: our gateway lets broadcasts take a quarter of these, and who is about to ack
at that very quarter misses the one that goes over it."""
UNACKED_BYTES = 4 << 20
"""What a gateway that does not say keeps."""
SILENT_INTERVALS = 2
"""Heartbeat intervals without a byte after which a connection is given up (PROTOCOL 3.8)."""
PROBE_S = 2.0
"""Shortest time between the heartbeats of a client that waits for an answer."""
USUAL_SHARE = 8
"""An answer's time is one part in this many of the usual one."""


class AckPacer:
    """Decides when one connection acks the position.

    Attributes:
        acked: The position that the gateway knows.
        received_bytes: Bytes received since the last ack.
        due_at: Loop time of the next ack, None while everything is acked.
    """

    __slots__ = ("_max_bytes", "_max_messages", "acked", "due_at", "received_bytes")

    def __init__(
        self, acked: int = 0, max_unacked_messages: int = 0, max_unacked_bytes: int = 0
    ) -> None:
        self.acked = acked
        self.received_bytes = 0
        self.due_at: float | None = None
        messages = max_unacked_messages // UNACKED_SHARE if max_unacked_messages else ACK_MESSAGES
        self._max_messages = max(1, min(ACK_MESSAGES, messages))
        self._max_bytes = max(1, (max_unacked_bytes or UNACKED_BYTES) // UNACKED_BYTES_SHARE)

    def moved(self, position: int, now: float) -> bool:
        """Record a new position; return whether to send an ack at once."""
        if position - self.acked >= self._max_messages or self.received_bytes >= self._max_bytes:
            return True
        if self.due_at is None:
            self.due_at = now + ACK_DELAY_S
        return False

    def take(self, position: int) -> int:
        """Return the seq to ack now, 0 for none; it then counts as acked."""
        self.due_at = None
        if position <= self.acked:
            return 0
        self.acked = position
        self.received_bytes = 0
        return position


class HeartbeatPacer:
    """Decides when one connection sends a heartbeat, and when the gateway counts as silent.

    Args:
        interval: Seconds between heartbeats.
        now: Loop time.

    A gateway that was killed and is back tells its former clients so only in answer to something.
    So a client with a request open sends its heartbeats sooner: when it has heard nothing for twice
    the usual time of an answer, every PROBE_S at most.

    Attributes:
        due_at: Loop time of the next heartbeat where no request is open.
        heard_at: Loop time of the last byte from the gateway.
        msg_id: Of the last heartbeat.
    """

    __slots__ = ("_interval", "_is_unanswered", "_sent_at", "due_at", "heard_at", "msg_id")

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._is_unanswered = False
        self._sent_at = now
        self.due_at = now + interval
        self.heard_at = now
        self.msg_id = 0

    @property
    def silent_at(self) -> float | None:
        """Loop time at which the gateway counts as silent, None while every beat is answered."""
        # PROTOCOL 3.8: "a heartbeat unanswered and no byte for 2 intervals".
        return self.heard_at + SILENT_INTERVALS * self._interval if self._is_unanswered else None

    def next_at(self, asked_at: float, usual_s: float) -> float:
        """Return the loop time of the next heartbeat while a request is open.

        Args:
            asked_at: When the request was sent.
            usual_s: The usual time of an answer, seconds.
        """
        missed_at = max(asked_at, self.heard_at, self._sent_at) + max(2 * usual_s, PROBE_S)
        return min(self.due_at, missed_at)

    def sent(self, msg_id: int, now: float) -> None:
        """Record a heartbeat sent now."""
        self._sent_at = now
        self.due_at = now + self._interval
        self._is_unanswered = True
        self.msg_id = msg_id

    def answered(self, msg_id: int) -> None:
        """Record a HEARTBEAT_RESP."""
        if msg_id == self.msg_id:
            self._is_unanswered = False
