"""Broken: a client did not do what a case expects."""

from __future__ import annotations

__all__ = ["Broken", "DriverError"]


class Broken(Exception):
    """The client under test broke a rule.

    Args:
        expected: What the rule asks for, ``a START with the same token``.
        did: What the client did in its place.
        rule: The section of docs/protocol.md, empty for the case's own.
    """

    def __init__(self, expected: str, did: str, rule: str = "") -> None:
        self.expected = expected
        self.did = did
        self.rule = rule
        super().__init__(f"expected {expected}; {did}")


class DriverError(Exception):
    """The command of the client cannot be started, has ended, or prints no JSON."""
