"""Case: one conversation, and the rule that it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .play import Play

__all__ = ["Case", "Script", "all_cases", "case"]

Script = Callable[["Play"], Awaitable[None]]

DEADLINE_S = 15.0
"""Longest time for a case unless it says another, seconds."""


@dataclass(frozen=True)
class Case:
    """One conversation with a client.

    Attributes:
        name: Its name, ``resume-lost-start-resp``.
        rule: The section of docs/protocol.md that it is about.
        title: What the rule asks of the client, a sentence without a full stop.
        script: Plays the gateway; raises Broken.
        deadline: Longest time that it may take, seconds.
        needs: A feature that the client must offer, empty for none.
        transport: The one transport that it is for, empty for all.
        lasts: Seconds that it takes with a good client, where that is long.
    """

    name: str
    rule: str
    title: str
    script: Script
    deadline: float = DEADLINE_S
    needs: str = ""
    transport: str = ""
    lasts: float = 0.0


_cases: dict[str, Case] = {}


def case(
    name: str,
    rule: str,
    title: str,
    *,
    needs: str = "",
    transport: str = "",
    lasts: float = 0.0,
) -> Callable[[Script], Script]:
    """Make a case of a script."""

    def add(script: Script) -> Script:
        assert name not in _cases, name
        deadline = DEADLINE_S + 2 * lasts
        _cases[name] = Case(name, rule, title, script, deadline, needs, transport, lasts)
        return script

    return add


def all_cases() -> list[Case]:
    """Return every case, by section and name."""
    from . import cases  # noqa: F401  # its modules add theirs

    return sorted(_cases.values(), key=lambda c: ([int(n) for n in c.rule.split(".")], c.name))
