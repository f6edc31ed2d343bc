"""Applicant: a client that asks to be let in, and what it shows."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MAX_TOKEN_BYTES", "Applicant"]

MAX_TOKEN_BYTES = 8_192
"""Largest auth_token that is looked at."""


class Applicant(NamedTuple):
    """A client at START or AUTH. All but its address is its own word.

    Attributes:
        token: Its auth_token.
        openid: What it says it is, empty where it leaves that to the token.
        ip: Its address.
        port: Its UDP port.
        client_id: START's client_id, empty at AUTH.
        session_id: The session that it resumes or renews, empty for a new one.
        is_renewal: Whether it sends AUTH.
    """

    token: str
    openid: str = ""
    ip: str = ""
    port: int = 0
    client_id: str = ""
    session_id: str = ""
    is_renewal: bool = False
