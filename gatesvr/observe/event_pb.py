"""SessionEvent as a protobuf message, and back.

It stands beside observe.events so that reading event kinds, as the command line does, loads no
protobuf.
"""

from __future__ import annotations

from dataclasses import fields

from .._pb import upstream_pb2 as pb
from .events import EventKind, SessionEvent

__all__ = ["from_pb", "to_pb"]

# The message's fields have the names of the dataclass's.
_FIELDS = tuple(field.name for field in fields(SessionEvent) if field.name != "kind")
_KINDS = {str(kind): kind for kind in EventKind}


def to_pb(event: SessionEvent) -> pb.SessionEvent:
    """Return the message of an event."""
    return pb.SessionEvent(kind=event.kind, **{name: getattr(event, name) for name in _FIELDS})


def from_pb(message: pb.SessionEvent) -> SessionEvent:
    """Return the event of a message; a kind that a newer gateway added stays text."""
    kind = _KINDS.get(message.kind, message.kind)
    return SessionEvent(kind, **{name: getattr(message, name) for name in _FIELDS})
