"""The cases, a file a theme, in the order of the table."""

from __future__ import annotations

from ..case import Case, cases_of
from . import datagrams, frames, handshakes, requests, sessions, slow, starts, upstreams

__all__ = ["ALL"]

THEMES = (datagrams, handshakes, starts, frames, requests, slow, sessions, upstreams)
ALL: list[Case] = [case for theme in THEMES for case in cases_of(theme.__name__)]
