"""How long a command looks again where a session moves, or where nobody answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..directory import DirectoryUnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["RETRY_S", "TRY_S", "ask_patiently"]

P = ParamSpec("P")
T = TypeVar("T")

TRY_S = 1.0
"""Seconds for which it looks again."""
RETRY_S = 0.02
"""Seconds before it looks again."""


async def ask_patiently(
    question: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Ask the directory again and again until it answers.

    Raises:
        DirectoryUnreachableError: It has not answered for TRY_S.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + TRY_S
    while True:
        try:
            return await question(*args, **kwargs)
        except DirectoryUnreachableError:
            if clock() >= until:
                raise
        await asyncio.sleep(RETRY_S)
