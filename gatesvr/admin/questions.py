"""What the admin API is asked: the parameters of its URLs and the bodies of its requests."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = [
    "DrainBody",
    "HistoryQuery",
    "KickBody",
    "KickUserBody",
    "LogBody",
    "LoginBody",
    "NoBody",
    "NoQuery",
    "ProfileQuery",
    "PushBody",
    "SessionQuery",
    "StacksQuery",
    "TraceBody",
]

MAX_LIMIT = 500
"""Sessions of one page at most."""
MAX_SECONDS = 900
MAX_PROFILE_S = 60


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the questions: a name that is not known is refused."""


class NoQuery(_Question, frozen=True, kw_only=True):
    """No parameters."""


class NoBody(_Question, frozen=True, kw_only=True):
    """An empty object, or nothing at all."""


class SessionQuery(_Question, frozen=True, kw_only=True):
    """Which sessions to list, and how."""

    q: str = ""
    """Text in the openid or the session id; capitals do not matter."""
    state: Literal["", "inited", "normal", "suspended"] = ""
    """Their state; empty for all."""
    zone: str = ""
    """Their zone; empty for all."""
    ip: str = ""
    """Their address, or its beginning; empty for all."""
    sort: Literal["queue", "age", "rate", "openid"] = "queue"
    """By messages in the queue, time since it was made, messages a second, or user."""
    order: Literal["desc", "asc"] = "desc"
    """The most first, or the least."""
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = 50
    """Sessions of a page."""
    page: str = ""
    """``next`` of the page before; empty for the first."""


class HistoryQuery(_Question, frozen=True, kw_only=True):
    """How far to look back."""

    seconds: Annotated[int, Meta(ge=1, le=MAX_SECONDS)] = 300
    """Points, one a second."""


class ProfileQuery(_Question, frozen=True, kw_only=True):
    """How long to look."""

    seconds: Annotated[float, Meta(ge=0.05, le=MAX_PROFILE_S)] = 5.0
    """Seconds."""
    worker: int | None = None
    """The number of the process to look at; without it the one that answers."""


class StacksQuery(_Question, frozen=True, kw_only=True):
    """Where to look."""

    worker: int | None = None
    """The number of the process to look at; without it the one that answers."""


class KickBody(_Question, frozen=True, kw_only=True):
    """How to close a session."""

    code: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    """A number for the client, 1000 or more; 0 for 4410."""
    reason: str = ""
    """Text for the client, 64 bytes at most."""


class KickUserBody(KickBody, frozen=True, kw_only=True):
    """Whose sessions to close."""

    openid: str
    """The user; sessions whose login is not done yet are closed, too."""


class PushBody(_Question, frozen=True, kw_only=True):
    """A notify."""

    content: str = ""
    """Text for people, and the payload where there is no data."""
    msg_type: str = ""
    """The kind of notify, for the client's code."""
    title: str = ""
    """Text for people."""
    data: bytes = b""
    """The payload, base64."""
    ttl: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    """Seconds after which it may be dropped; 0 for never."""


class TraceBody(_Question, frozen=True, kw_only=True):
    """Whether to trace a session."""

    on: bool
    """Whether to."""


class DrainBody(_Question, frozen=True, kw_only=True):
    """How to drain."""

    rate: Annotated[float, Meta(ge=0.001)] | None = None
    """Clients a second that are asked to leave; null as configured."""
    timeout: Annotated[float, Meta(gt=0)] | None = None
    """Longest drain, seconds; null as configured."""
    to: str = ""
    """The gateway to send QUIC clients to, ``HOST:PORT``; empty for none."""
    to_web: str = ""
    """The gateway to send web clients to; empty for none."""


class LogBody(_Question, frozen=True, kw_only=True):
    """What to log."""

    level: Literal["", "debug", "info", "warning", "error"]
    """Lowest level written; empty to undo that of a session."""
    session: str = ""
    """The session that it is for; empty for everything."""


class LoginBody(_Question, frozen=True, kw_only=True):
    """A login of the console."""

    token: str
    """One of ``admin.token``."""
