"""Role: what this process is to a session of a gateway of several processes.

::

    CREATING ─▶ OWN ◀──────── ARRIVING      a copy comes into being, or is installed
                 │ ▲
                 ▼ │ taken back
               LEAVING ─▶ GONE              another process has it now

One process owns a session: it alone sequences, accepts, starts and ends requests, and takes pushes.
Every other copy is *frozen*: a push gets MOVING, nothing expires, and what services answer to calls
that this process made is kept for the owner, whoever it is by then (Results). A session that has
ended is Closed at once (state.py), whatever this process was to it; who ends it tells the
directory. A gateway of one process owns all its sessions.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Role"]


class Role(IntEnum):
    """What this process is to a session."""

    OWN = 0
    """It owns it."""
    CREATING = 1
    """It has made it, and no other process knows yet."""
    ARRIVING = 2
    """It has installed it, and does not own it yet."""
    LEAVING = 3
    """It has exported it, and another process may own it already."""
    GONE = 4
    """It has no copy any more; calls that it made may still be under way."""
