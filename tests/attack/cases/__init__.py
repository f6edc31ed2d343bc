"""The cases, a file a theme."""

from __future__ import annotations

from importlib import import_module

from ..case import Case, cases_of

__all__ = ["ALL", "THEMES"]

THEMES = (
    "datagrams",
    "handshakes",
    "crowds",
    "starts",
    "frames",
    "packets",
    "requests",
    "slow",
    "sharing",
    "overload",
    "sessions",
    "upstreams",
    "http2_upstreams",
    "web",
    "webtransport",
    "callers",
    "admin",
)
"""Files of this folder, in the order of the table."""
ALL: list[Case] = [
    case for theme in THEMES for case in cases_of(import_module(f".{theme}", __name__).__name__)
]
