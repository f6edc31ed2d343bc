"""The cases, a file a theme, in the order of the table."""

from __future__ import annotations

from ..case import Case, cases_of
from . import (
    crowds,
    datagrams,
    frames,
    handshakes,
    packets,
    requests,
    sessions,
    slow,
    starts,
    upstreams,
)

__all__ = ["ALL"]

THEMES = (
    datagrams,
    handshakes,
    crowds,
    packets,
    starts,
    frames,
    requests,
    slow,
    sessions,
    upstreams,
)
ALL: list[Case] = [case for theme in THEMES for case in cases_of(theme.__name__)]
