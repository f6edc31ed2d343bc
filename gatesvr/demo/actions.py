"""What the demo services answer, for the help."""

from __future__ import annotations

__all__ = ["ACTIONS"]

ACTIONS = {
    "echo": "the data, back",
    "time": "the time",
    "calculate op=add a=1 b=2": "op: add, sub, mul, div",
    "notify_demo before=1 after=1": "notifies in one bundle with the answer",
    "push_demo": "the same by the push API",
    "broadcast": "the data, to everybody who is logged in",
    "zone_broadcast": "the same, under the zone's name",
    "zone, zone_info": "who the caller is to the zone service",
    "slow ms=1000": "the data, after a while",
    "status": "how the hello service is",
    "heartbeat": "the hello service's time",
    "data_sync": "how many bytes came",
    "hello zone=1, logout": "log in again (deny=1: be refused), say goodbye",
}
"""Action, with params where it takes some, to what comes back."""
