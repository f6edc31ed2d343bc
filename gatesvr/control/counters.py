"""PushCounters: the counters of the commands and of the gRPC servicer on them."""

from __future__ import annotations

from dataclasses import dataclass

from ..observe.metrics import Counters

__all__ = ["PushCounters"]


@dataclass(slots=True)
class PushCounters(Counters):
    """Counts what callers ask for, over gRPC or in process, and what is refused before a session.

    The session layer counts what sessions took and refused, the upstream layer counts endpoints.
    """

    calls: int = 0
    """rpcs; a stream counts once."""
    streams: int = 0
    """PushStreams open (a gauge)."""
    event_streams: int = 0
    """SubscribeEvents open (a gauge)."""
    events_sent: int = 0
    """Events written to those, gaps included."""
    pushes: int = 0
    """Pushes asked for, those of streams included."""
    broadcasts: int = 0
    """Broadcasts asked for."""
    multicasts: int = 0
    """Multicasts asked for."""
    kicks: int = 0
    """Kicks asked for."""
    not_found: int = 0
    """Commands whose target has no session."""
    ambiguous: int = 0
    """Commands that need one session and whose target has several."""
    too_large: int = 0
    """Broadcasts larger than any client accepts; batches and multicasts with too many entries."""
    invalid: int = 0
    """Commands with an invalid field."""
    internal_errors: int = 0
    """rpcs that raised."""
