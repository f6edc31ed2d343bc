"""Reads TOML, and finds the line that sets a field."""

from __future__ import annotations

import re
import tomllib
from typing import Any

__all__ = ["is_in", "line_of", "parse"]

_LONG_NUMBER = re.compile(r"\d[\d_]{4000,}", re.ASCII)
_KEPT_DIGITS = 400


def parse(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        tomllib.TOMLDecodeError: It is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        # An integer has more digits than Python reads (4,300). Cut to fewer it is still above every
        # range, and the refusal names its field.
        return tomllib.loads(_LONG_NUMBER.sub(_cut_number, text))


def _cut_number(match: re.Match[str]) -> str:
    return match[0][:_KEPT_DIGITS].rstrip("_")


def line_of(text: str, field: str) -> int:
    """Return the number of the line on which the statement that sets a field begins.

    The parser tells no lines, so it is asked about ever longer beginnings of the text: a field that
    is there after a statement and was not before it is set by that statement.

    Args:
        text: TOML that can be parsed.
        field: A dotted name as ConfigError has it, ``route[1].service``; of a field that is not
            there, the nearest whole that is counts.

    Returns:
        The line, from 1; 0 where not even the first part of the name is in the text.

    Complexity:
        O(log lines) parses, and one for each line of a statement that goes over several.
    """
    lines = text.splitlines(keepends=True)
    tree = parse(text)
    while not is_in(tree, field):
        field = field[: max(field.rfind("."), field.rfind("["))] if "." in field else ""
        if not field:
            return 0
    before, after = 0, len(lines)  # the field is not in the first lines[:before], and in [:after]
    while after - before > 1:
        end, part = _parsed((before + after) // 2, lines, after)
        if end == after:
            # No statement ends between the middle and after.
            end, part = _parsed(before + 1, lines, after)
            if end == after:
                break
        if is_in(part, field):
            after = end
        else:
            before = end
    while before < after - 1 and _is_blank(lines[before]):
        before += 1
    return before + 1


def _parsed(end: int, lines: list[str], limit: int) -> tuple[int, dict[str, Any]]:
    """Return the first end from end on at which the text is whole TOML, and what it says."""
    while end < limit:
        try:
            return end, parse("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            end += 1
    return limit, {}


def is_in(tree: Any, field: str) -> bool:
    """Return whether a tree of tables and lists has a field, named as for line_of().

    Keys may hold dots themselves.
    """
    if not field:
        return True
    if isinstance(tree, list):
        index, bracket, rest = field.removeprefix("[").partition("]")
        if not (field.startswith("[") and bracket and index.isdigit() and int(index) < len(tree)):
            return False
        return is_in(tree[int(index)], rest.removeprefix("."))
    if not isinstance(tree, dict):
        return False
    for key, value in tree.items():
        rest = field.removeprefix(key)
        is_part = field.startswith(key) and (not rest or rest[0] in ".[")
        if is_part and is_in(value, rest.removeprefix(".")):
            return True
    return False


def _is_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")
