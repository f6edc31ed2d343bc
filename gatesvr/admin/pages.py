"""Pages of sessions: how a list is filtered and sorted, and how those of several processes merge.

A page's token names the place behind which the next one begins, so each process finds its own
sessions behind it, wherever the sessions before it are or have gone meanwhile.
"""

from __future__ import annotations

import base64
import json
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from ..config import normalize_zone
from .answers import SessionPage, SessionRow
from .refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..session.session import Session
    from .questions import SessionQuery

__all__ = ["Filter", "Found", "Place", "merged"]

Place: TypeAlias = tuple[int | float | str, str]
"""What a list is sorted by: a number or a text, and the session's id, which is the same in every
process."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A page of one process's sessions.

    Attributes:
        total: Sessions that match, on all pages.
        rows: Those of this page, in order.
        places: The place of each row.
        has_more: Whether there are more behind them.
    """

    total: int
    rows: list[SessionRow]
    places: list[Place]
    has_more: bool


class Filter:
    """Finds the sessions that a query asks for, and their place in its order."""

    def __init__(self, query: SessionQuery) -> None:
        self._q = query.q.casefold()
        self._state = query.state
        self._zone = normalize_zone(query.zone)
        self._ip = query.ip
        self._sort = query.sort
        self.is_descending = query.order == "desc"
        self._after = self._read_token(query.page) if query.page else None

    def matches(self, session: Session) -> bool:
        """Return whether a session is asked for."""
        q = self._q
        return (
            session.is_valid
            and (not self._state or session.state.name.lower() == self._state)
            and (not self._zone or session.zone == self._zone)
            and (not self._ip or session.user_ip.startswith(self._ip))
            and (not q or q in session.openid.casefold() or q in session.session_id.casefold())
        )

    def is_behind(self, place: Place) -> bool:
        """Return whether a place is behind the page before."""
        after = self._after
        if after is None:
            return True
        return place < after if self.is_descending else place > after

    def _read_token(self, token: str) -> Place:
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            sort, is_descending, value, session_id = json.loads(raw)
        except (ValueError, TypeError, RecursionError):
            raise Refused.invalid("page: not one of ours") from None
        kind = str if self._sort == "openid" else int | float
        if (
            (sort, is_descending) != (self._sort, self.is_descending)
            or not isinstance(value, kind)
            or not isinstance(session_id, str)
        ):
            raise Refused.invalid("page: of another list")
        return value, session_id


def _token(query: SessionQuery, place: Place) -> str:
    """Return the token of the page behind a place."""
    text = json.dumps([query.sort, query.order == "desc", *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def merged(query: SessionQuery, found: Mapping[int | None, Found | None]) -> SessionPage:
    """Return the page that begins the pages of several processes, merged.

    Args:
        query: What each was asked.
        found: What they have found, by their numbers; None for one that has not answered.
    """
    pages = [
        [(place, number, row) for place, row in zip(page.places, page.rows, strict=True)]
        for number, page in found.items()
        if page is not None
    ]
    rows: list[SessionRow] = []
    seen: set[str] = set()
    last: Place | None = None
    has_more = any(page is not None and page.has_more for page in found.values())
    for place, number, row in merge(*pages, key=itemgetter(0), reverse=query.order == "desc"):
        if row.session in seen:
            continue  # it has moved while they were asked
        if len(rows) == query.limit:
            has_more = True
            break
        seen.add(row.session)
        rows.append(row if number is None else msgspec.structs.replace(row, worker=number))
        last = place
    return SessionPage(
        total=sum(page.total for page in found.values() if page is not None),
        sessions=rows,
        next=_token(query, last) if has_more and last is not None else None,
        silent=[number for number, page in found.items() if page is None and number is not None],
    )
